#!/usr/bin/env bash
# Replays a trace against flashare, and against memcached with the same DRAM, with extstore, and with DRAM for everything, by
# `flashare-trace compare`; then through the engine in process. Prints the tables and writes figures, plots and a report.
# usage: replay.sh TRACE DRAM_MIB FLASH_MIB [FOLDER for what is written] [ROUNDS]
# Without a TRACE that exists, one is synthesised. Some traces bring memcached with extstore to a halt when its connections are
# pipelined (it stops answering): PIPELINE=1 is for them.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
trace=${1:-} dram=${2:-16} flash=${3:-128} out=${4:-$here/results} rounds=${5:-1}
cd "$here"
cargo build --release --locked --quiet --bin flashare --bin flashare-trace
memcached=$(benches/peers/memcached.sh)
tool=target/release/flashare-trace
mkdir -p "$out"
if [ ! -e "$trace" ]; then
    trace=$out/synth.csv.zst
    $tool synth "$trace" --requests 2000000
fi
name=$(basename "$trace" | cut -d. -f1)
# extstore does not serve the faster traces in less than 16 MiB: its page buffers count against its DRAM. The limit of memory is
# the same for all
extstore_dram=${EXTSTORE_DRAM:-$((dram > 16 ? dram : 16))}
limit=$((dram * 2 + 64))
# as many workers as cores, of each server alike
threads=$(nproc)
cat > "$out/$name.toml" <<T
memory = "${limit}MiB"
rounds = $rounds
pipeline = ${PIPELINE:-16}

[[server]]
name = "flashare"
dram = "${dram}MiB"
command = "target/release/flashare -p {port} -t $threads -m $dram --config {tenants} --flash {folder}/flash:${flash}MiB"

[[server]]
name = "memcached"
command = "$memcached -u root -l 127.0.0.1 -p {port} -t $threads -m $dram"

[[server]]
name = "memcached-extstore-$extstore_dram"
command = "$memcached -u root -l 127.0.0.1 -p {port} -t $threads -m $extstore_dram -o ext_path={folder}/ext:${flash}m,ext_page_size=${EXTSTORE_PAGE:-8},ext_wbuf_size=2,ext_threads=1,ext_item_size=512"

[[server]]
name = "memcached-all-dram"
memory = "0"
command = "$memcached -u root -l 127.0.0.1 -p {port} -t $threads -m $((dram + flash))"
T
$tool compare "$out/$name.toml" --trace "$trace" --json "$out/$name.json" --report "$out/$name-servers.html"
$tool simulate "$trace" --dram "${dram}MiB" --flash "${flash}MiB" --json "$out/$name-simulated.json"
$tool stat "$trace" --json "$out/$name-trace.json" > "$out/$name-trace.txt"
$tool report "$out/$name-trace.json" "$out/$name.json" "$out/$name-simulated.json" --out "$out/$name.html" --plots "$out/$name-plots" --title "$name, $dram MiB of DRAM, $flash MiB of flash"
echo "$out/$name.html"
