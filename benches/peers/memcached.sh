#!/usr/bin/env bash
# Builds the newest memcached that Debian ships as a source package, with extstore, and prints the path of its binary.
# The package list and the sources live in a private state folder: the machine's own apt set-up is left alone.
# usage: memcached.sh [FOLDER]   (default: target/peers; a finished build there is used again; its sources stay beside it)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$here/target/peers}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ ! -x "$out/memcached" ] || ! ls -d "$out"/memcached-1.*/t > /dev/null 2>&1; then
    {
        state=$out/apt
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
        mirror=$(grep -rhoE '(https?)://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 | tr -d ' ' || true)
        [ -n "$mirror" ] || mirror="$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -v security | sort -u | head -n 1)"
        echo "deb-src [trusted=yes] $mirror unstable main" > "$state/sources.list"
        opts=(-o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
              -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)
        apt-get "${opts[@]}" update
        if ! ls /usr/include/event.h > /dev/null 2>&1; then
            apt-get update
            apt-get install -y --no-install-recommends libevent-dev dpkg-dev
        fi
        command -v dpkg-source > /dev/null || apt-get install -y --no-install-recommends dpkg-dev
        cd "$out"
        # the upstream archive is all that is built; a mirror that lacks the signed description does not matter
        apt-get "${opts[@]}" source --download-only --only-source memcached || true
        tar xf memcached_*.orig.tar.* && cd memcached-1.*/ && ./configure --enable-extstore --quiet && make -s -j"$(nproc)" memcached &&
            cp memcached "$out/memcached"
    } > "$out/build.log" 2>&1 || { tail -n 20 "$out/build.log" >&2; echo "memcached.sh: the build failed, see $out/build.log" >&2; exit 1; }
fi
echo "$out/memcached"
