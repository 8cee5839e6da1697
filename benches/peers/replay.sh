#!/usr/bin/env bash
# Replays a trace against flashare and against memcached of the same DRAM, of DRAM and flash together, and with extstore, one
# after the other, and prints one table. usage: replay.sh TRACE DRAM_MIB FLASH_MIB [FOLDER for the JSON files]
# Without a TRACE that exists, one is synthesised.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
trace=${1:-} dram=${2:-16} flash=${3:-128} out=${4:-$here/results}
cd "$here"
cargo build --release --locked --quiet --bin flashare --bin flashare-trace
memcached=$(benches/peers/memcached.sh)
bin=target/release
mkdir -p "$out"
scratch=$(mktemp -d)
server=
clean_up() {
    [ -z "$server" ] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
    rm -rf "$scratch"
}
trap clean_up EXIT
if [ ! -e "$trace" ]; then
    trace=$scratch/synth.csv.zst
    $bin/flashare-trace synth "$trace" --requests 2000000
fi
name=$(basename "$trace" | cut -d. -f1)
$bin/flashare-trace stat "$trace" --json "$scratch/stat.json" > /dev/null
python3 - "$scratch/stat.json" "$dram" > "$scratch/flashare.toml" <<'P'
import json, sys
tenants = json.load(open(sys.argv[1]))["tenants"]
each = int(float(sys.argv[2]) * 1024 / 2 / len(tenants))
for name in tenants:
    print(f'[[tenant]]\nname = "{name}"\nprefix = "{name}:"\nreserved = "{each}KiB"\n')
P
port=23211
run() { # label, then the server's command line
    local label=$1
    shift
    "$@" > "$scratch/$label.log" 2>&1 &
    server=$!
    for _ in $(seq 100); do
        (exec 3<> /dev/tcp/127.0.0.1/$port) 2> /dev/null && break
        sleep 0.1
    done
    $bin/flashare-trace replay "$trace" --server 127.0.0.1:$port --json "$out/$name-$label.json" > "$scratch/$label.out" || {
        tail -n 3 "$scratch/$label.out" "$scratch/$label.log" >&2
        kill "$server" && wait "$server" || true
        server=
        return 1
    }
    read -r user system < <(awk '{print $14, $15}' "/proc/$server/stat")
    rss=$(awk '/VmHWM/ {print $2}' "/proc/$server/status")
    python3 - "$out/$name-$label.json" "$user" "$system" "$rss" "$(getconf CLK_TCK)" <<'P'
import json, sys
path, user, system, rss, tick = sys.argv[1], *map(int, sys.argv[2:])
run = json.load(open(path))
run["cpu_seconds_a_million"] = (user + system) / tick / (run["seconds"] * run["ops_per_second"]) * 1e6
run["rss_peak_mib"] = rss / 1024
json.dump(run, open(path, "w"), indent=2)
P
    kill "$server"
    wait "$server" 2> /dev/null || true
    server=
}
run flashare $bin/flashare -p $port -t 4 -m "$dram" --config "$scratch/flashare.toml" --flash "$scratch/flashare.flash:${flash}MiB"
run memcached "$memcached" -u root -l 127.0.0.1 -p $port -t 4 -m "$dram"
run memcached-all-dram "$memcached" -u root -l 127.0.0.1 -p $port -t 4 -m $((dram + flash))
# extstore's page buffers count against its DRAM; its smallest pages keep them small. Where it cannot serve the trace in so
# little DRAM, it gets twice as much, and the table says so
for extstore_dram in "$dram" $((2 * dram)) $((4 * dram)); do
    rm -f "$scratch/extstore"
    run extstore "$memcached" -u root -l 127.0.0.1 -p $port -t 4 -m "$extstore_dram" -o "ext_path=$scratch/extstore:${flash}m,ext_page_size=8,ext_wbuf_size=2,ext_threads=1,ext_item_size=512" && break
done
simulate="--dram ${dram}MiB --flash ${flash}MiB"
$bin/flashare-trace simulate "$trace" $simulate --config "$scratch/flashare.toml" --json "$out/$name-simulated.json" > /dev/null
python3 - "$out" "$name" "$dram" "$flash" "$extstore_dram" <<'P'
import json, os, sys
out, name, dram, flash, extstore_dram = sys.argv[1:]
labels = [("flashare", f"flashare -m {dram}, {flash} MiB flash"), ("simulated", "the same, simulated"), ("memcached", f"memcached -m {dram}"),
          ("memcached-all-dram", f"memcached -m {int(dram) + int(flash)}"), ("extstore", f"memcached -m {extstore_dram}, extstore {flash} MiB")]
print(f"| {name} | hit ratio | DRAM hits | flash hits | stored MB | flash MB | write ampl. | wrong, stale | requests/s | p99 us | CPU s a million | peak RSS MiB |")
print("|---|---|---|---|---|---|---|---|---|---|---|---|")
for label, title in labels:
    path = f"{out}/{name}-{label}.json"
    if not os.path.exists(path):
        continue
    r = json.load(open(path))
    cell = lambda key, form: format(r[key], form) if key in r else "-"
    p99 = format(r["latency_us"]["p99"], ".0f") if r.get("latency_us") else "-"
    print(f"| {title} | {r['hit_ratio']:.2%} | {r['dram_hits']:,} | {r['flash_hits']:,} | {r['app_bytes_written'] / 1e6:.1f} | {r['flash_bytes_written'] / 1e6:.1f} | {r['write_amplification']:.3f} | {r['wrong_values']}, {r['stale_values']} | {r['ops_per_second']:,.0f} | {p99} | {cell('cpu_seconds_a_million', '.1f')} | {cell('rss_peak_mib', '.0f')} |")
P
