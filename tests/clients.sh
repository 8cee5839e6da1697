#!/usr/bin/env bash
# Other people's clients against a flashare of this script's own: pymemcache (PyPI) and libmemcached's tools (Debian).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --bin flashare
scratch=$(mktemp -d)
server=
clean_up() {
    [ -z "$server" ] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
    rm -rf "$scratch"
}
trap clean_up EXIT
command -v memcp > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libmemcached-tools > /dev/null; }
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pymemcache
target/release/flashare -p 0 -m 16 --flash "$scratch/clients.flash:64MiB" > "$scratch/log" 2>&1 &
server=$!
for _ in $(seq 100); do grep -q "serves on" "$scratch/log" && break; sleep 0.1; done
port=$(grep -oE '127\.0\.0\.1:[0-9]+' "$scratch/log" | head -n 1 | cut -d: -f2)
"$scratch/venv/bin/python" tests/pymemcache_test.py "$port"

at=--servers=127.0.0.1:$port
echo "a file's content" > "$scratch/file"
memcp "$at" "$scratch/file"
[ "$(memcat "$at" file)" = "a file's content" ]
memexist "$at" file
memtouch "$at" --expire=1000 file
memstat "$at" | grep -q curr_items
memping "$at"
memrm "$at" file
if memexist "$at" file 2> /dev/null; then echo "memrm left the key"; exit 1; fi
memcp "$at" "$scratch/file"
memflush "$at"
[ -z "$(memcat "$at" file 2> /dev/null)" ]
memslap "$at" --concurrency=4 --execute-number=500 --initial-load=500 > /dev/null
echo "libmemcached-tools: 8 passed, 0 failed"
