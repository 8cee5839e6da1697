#!/usr/bin/env bash
# The newest memcached and flashare side by side: equal lines in, equal answers out.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --bin flashare
memcached=$(benches/peers/memcached.sh)
scratch=$(mktemp -d)
pids=()
clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null; done || true
    rm -rf "$scratch"
}
trap clean_up EXIT
port=$((20000 + RANDOM % 10000))
"$memcached" -u root -l 127.0.0.1 -p $port > /dev/null 2>&1 &
pids+=($!)
target/release/flashare -p -1 --no-flash > "$scratch/log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    grep -q "serves on" "$scratch/log" && (exec 3<> /dev/tcp/127.0.0.1/$port) 2> /dev/null && break
    sleep 0.1
done
ours=$(grep -oE '127\.0\.0\.1:[0-9]+' "$scratch/log" | head -n 1 | cut -d: -f2)
python3 tests/differential.py $port "$ours"
