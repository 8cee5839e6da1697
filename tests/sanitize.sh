#!/usr/bin/env bash
# The tests under AddressSanitizer, and tests/soak.py against servers built with AddressSanitizer and ThreadSanitizer.
#
# usage: tests/sanitize.sh [SECONDS OF EACH SOAK]
#
# Takes a nightly toolchain (the sanitizers come with it, std comes as it is) and some fifteen minutes. Not part of CI, whose machine has no nightly.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
target=x86_64-unknown-linux-gnu
if ! rustc +nightly --version > /dev/null 2>&1; then
    echo "there is no nightly toolchain here: rustup toolchain install nightly" >&2
    exit 2
fi
build() { # SANITIZER, cargo's verb, and the rest
    local sanitizer=$1 verb=$2
    shift 2
    RUSTFLAGS="${flags[$sanitizer]} -Copt-level=1" CARGO_TARGET_DIR="target/$sanitizer" \
        cargo +nightly "$verb" --locked --target $target "$@"
}
declare -A flags=(
    [address]="-Zsanitizer=address -Cdebug-assertions=on"
    [thread]="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
)
# what is lent to a device that hangs is never given back, by design; how much is resident says nothing under a sanitizer
export ASAN_OPTIONS=detect_leaks=0
build address test --package log-memory --package flash-store --package cache --package predictor --package tenants --package server -- \
    --skip memory_stays_bounded_whatever_clients_do
build address build --package server --bin flashare
build thread build --package server --bin flashare
# locks and the counts of Arc are in std, which is not instrumented: what only std and crossbeam-channel touch is theirs
suppressions=$(mktemp)
trap 'rm -f "$suppressions"' EXIT
printf 'race:crossbeam_channel::\nrace:alloc::sync::Arc\nrace:library/alloc/src/sync.rs\n' > "$suppressions"
export TSAN_OPTIONS="suppressions=$suppressions halt_on_error=1"
for sanitizer in address thread; do
    for seed in 3 5 6 7; do
        tests/soak.py --seconds "$seconds" --seed $seed --resident 8000 --server "target/$sanitizer/$target/debug/flashare"
    done
done
