#!/usr/bin/env bash
# The Debian package holds what the unit starts, and both binaries run from where it puts them.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in dpkg-deb objdump; do
    command -v "$tool" > /dev/null || { apt-get -qq update && apt-get -qq install -y binutils dpkg > /dev/null; }
done
built=$(packaging/deb.sh)
package=$(sed -n "s/.* in '\(.*\)'.*/\1/p" <<< "$built")
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
dpkg-deb --raw-extract "$package" "$unpacked"
started=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$unpacked/lib/systemd/system/flashare.service")
"$unpacked$started" --version
"$unpacked/usr/bin/flashare-trace" --version
for script in postinst prerm postrm; do sh -n "$unpacked/DEBIAN/$script"; done
. "$unpacked/etc/default/flashare" && echo "$package starts $started $OPTIONS"
