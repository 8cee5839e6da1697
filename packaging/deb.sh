#!/usr/bin/env bash
# Makes a Debian package of the release build: target/flashare_VERSION_ARCHITECTURE.deb. Needs dpkg and binutils.
# The unit is installed but not started: it would stop a memcached on this machine (Conflicts=).
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in dpkg-deb objdump strip; do
    command -v "$tool" > /dev/null || { echo "packaging/deb.sh: $tool is missing: install dpkg and binutils" >&2; exit 1; }
done

cargo build --release --locked --quiet --bin flashare --bin flashare-trace
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

install -D -m 755 -t "$root/usr/bin" target/release/flashare target/release/flashare-trace
strip --strip-debug "$root"/usr/bin/*
install -d "$root/lib/systemd/system" "$root/DEBIAN"
sed 's|/usr/local/bin/flashare|/usr/bin/flashare|' packaging/flashare.service > "$root/lib/systemd/system/flashare.service"
install -D -m 644 /dev/stdin "$root/etc/default/flashare" << 'EOF'
# Flags of the service, on one line; `flashare --help` lists them. The flash file lies in /var/lib/flashare unless --flash says otherwise.
OPTIONS="-m 64"
EOF
install -D -m 644 -t "$root/usr/share/doc/flashare" README.md ARCHITECTURE.md CHANGELOG.md packaging/prometheus-alerts.yml
install -D -m 644 -t "$root/usr/share/doc/flashare/docs" docs/*.md
cat LICENSE-MIT LICENSE-APACHE > "$root/usr/share/doc/flashare/copyright"
chmod 644 "$root/usr/share/doc/flashare/copyright" "$root/lib/systemd/system/flashare.service"

# the newest version of the C library that either binary asks for
libc=$(objdump -T "$root"/usr/bin/* | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
cat > "$root/DEBIAN/control" << EOF
Package: flashare
Version: $version
Architecture: $architecture
Section: web
Priority: optional
Maintainer: the developers of flashare <flashare@localhost>
Depends: libc6 (>= ${libc#GLIBC_}), libgcc-s1
Installed-Size: $(du -sk "$root" | cut -f1)
Description: memcached replacement in DRAM and on flash
 Keeps hot data in DRAM and warm data on an SSD, and shares both between tenants. Speaks memcached's protocols.
 With flashare-trace, which replays traces and measures hit ratios and write amplification.
EOF
echo /etc/default/flashare > "$root/DEBIAN/conffiles"
cat > "$root/DEBIAN/postinst" << 'EOF'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # an update goes on with what the last one kept; a first install waits to be told
    systemctl try-restart flashare.service
fi
if [ "$1" = configure ] && [ -z "$2" ]; then
    echo "flashare: set OPTIONS in /etc/default/flashare, then: systemctl enable --now flashare (that stops memcached, if it runs here)"
fi
EOF
cat > "$root/DEBIAN/prerm" << 'EOF'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now flashare.service
fi
EOF
cat > "$root/DEBIAN/postrm" << 'EOF'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
if [ "$1" = purge ]; then
    rm -rf /var/lib/flashare /var/lib/private/flashare
fi
EOF
chmod 755 "$root"/DEBIAN/p*
package=target/flashare_${version}_$architecture.deb
dpkg-deb --build --root-owner-group "$root" "$package"
