#!/usr/bin/env bash
# Other people's clients and a proxy against flashare: their own integration suites where they ship one, else tests of ours
# that use their whole API. Fetches them from PyPI, npm and Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
cargo build --release --locked --quiet --bin flashare --bin flashare-trace
memcached=$(benches/peers/memcached.sh)
scratch=$(mktemp -d)
servers=()
clean_up() {
    for server in "${servers[@]}"; do kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; done || true
    rm -rf "$scratch"
}
trap clean_up EXIT
missing=()
command -v memccp > /dev/null || missing+=(libmemcached-tools)
command -v nutcracker > /dev/null || [ -x /usr/sbin/nutcracker ] || missing+=(nutcracker)
command -v npm > /dev/null || missing+=(npm)
perl -MURI::Escape -e 1 2> /dev/null || missing+=(liburi-perl) # memcached-tool needs it
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
python3 -m venv "$scratch/venv"
pip=$scratch/venv/bin/pip python=$scratch/venv/bin/python
"$pip" install --quiet --disable-pip-version-check pymemcache python-binary-memcached pylibmc meta-memcache pytest trustme

# Starts a server with the flags that are given; its port is in $port.
start() {
    : > "$scratch/log"
    target/release/flashare -p -1 "$@" > "$scratch/log" 2>&1 &
    servers+=($!)
    for _ in $(seq 100); do grep -q "serves on" "$scratch/log" && break; sleep 0.1; done
    port=$(grep -oE '127\.0\.0\.1:[0-9]+' "$scratch/log" | head -n 1 | cut -d: -f2)
}
suite() { PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider -W ignore "$@" 2>&1 | tail -n 15; }
# The source package of a Python project: tests are seldom in what is installed.
sources() {
    "$pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: -d "$scratch/sources" "$1" 2> /dev/null
    tar -xzf "$scratch"/sources/"$2"-*.tar.gz -C "$scratch"
}
start -m 64 --flash "$scratch/clients.flash:64MiB"

echo "pymemcache, its own integration suite:"
suite "$("$python" -c 'import pymemcache, os; print(os.path.dirname(pymemcache.__file__))')/test/test_integration.py" --server 127.0.0.1 --port "$port"
echo "pymemcache, the whole API:"
"$python" tests/clients/pymemcache_test.py "$port"
echo "meta-memcache, the whole API:"
"$python" -W ignore tests/clients/meta_memcache_test.py "$port"

# these two suites know memcached's default port only
other=$port
start -p 11211 -m 64 --no-flash
[ "$port" = 11211 ] || { cat "$scratch/log"; exit 1; }
port=$other
echo "pylibmc, its own suite:"
sources pylibmc pylibmc
suite "$scratch"/pylibmc-*/tests

# starts servers by the name memcached
echo "python-binary-memcached, its own suite (SASL, TLS, IPv6 and Unix sockets among it):"
sources python-binary-memcached python_binary_memcached
tests=$(echo "$scratch"/python_binary_memcached-*/test)
cp tests/clients/bmemcached_conftest.py "$tests/conftest.py"
free() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
sed -i "s/time.sleep(0.1)/time.sleep(1)/" "$tests/test_tls.py"
mkdir "$scratch/bin"
printf '#!/bin/sh\nexec %s/target/release/flashare --no-flash "$@"\n' "$here" > "$scratch/bin/memcached"
chmod +x "$scratch/bin/memcached"
PATH=$scratch/bin:$PATH MEMCACHED_HOST=127.0.0.1 FLASHARE_IPV6_PORT=$(free) FLASHARE_SASL_PORT=$(free) suite "$tests"

echo "memjs, the whole API:"
(cd "$scratch" && npm install --silent --no-fund --no-audit memjs > /dev/null 2>&1)
NODE_PATH=$scratch/node_modules node tests/clients/memjs_test.js "$port"

echo "libmemcached-tools:"
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
memccapable -b -h 127.0.0.1 -p "$port" >> capable 2>&1 || true
# memcached 1.6.45 ignores further words of a delete, and so do we: the two delete tests of memccapable know older servers
failed=$(grep -E 'FAIL' capable | grep -vE '^ascii delete( noreply)? ' || true)
[ -z "$failed" ] || { cat capable; exit 1; }
check test "$(grep -c 'pass' capable)" -ge 50
echo "$passed passed, 0 failed; memccapable: $(grep -c 'pass' capable) passed"
cd "$here"

python3 tests/clients/twemproxy_test.py target/release/flashare "$(command -v nutcracker || echo /usr/sbin/nutcracker)"
python3 tests/monitoring.py "$memcached" target/release/flashare
echo "watched and read back as a trace:"
python3 tests/watch.py "$memcached" target/release/flashare target/release/flashare-trace
