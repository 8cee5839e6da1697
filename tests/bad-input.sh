#!/usr/bin/env bash
# Bad flags, files and traces: one clear sentence and a non-zero exit, or DRAM only where serving goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=target/release
cargo build --release --locked --quiet --bin flashare --bin flashare-trace || exit 1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0
# expect PATTERN COMMAND...: the command fails at once, and says something that matches
expect() {
    local pattern=$1 out status
    shift
    out=$(timeout 20 "$@" 2>&1 < /dev/null)
    status=$?
    if [ $status -ne 0 ] && [ $status -ne 124 ] && grep -qE "$pattern" <<< "$out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n  status %s, said: %s\n  expected: %s\n' "$*" "$status" "$out" "$pattern"
    fi
}
server=("$bin/flashare" -p -1)
printf '[[tenant]]\nname = "a"\nprefix = "a:"\nreservd = "1MiB"\n' > "$scratch/unknown.toml"
printf '[[tenant]]\nname = "a"\nprefix = "a:"\nreserved = "100MiB"\n' > "$scratch/large.toml"
printf 'this is somebody else'"'"'s file\n%.0s' $(seq 300) > "$scratch/foreign"
printf '0.1,k,1,2,t,get,0\n0.2,k,one,2,t,get,0\n' > "$scratch/bad.csv"
printf '0.1,k,1,2,t,get,0\n0.2,k,1,2,t,get,0\n' > "$scratch/good.csv"
mkfifo "$scratch/pipe"
: > "$scratch/empty.csv"
printf '{"weather": "fine"}' > "$scratch/other.json"
printf '[[server]]\nnam = "a"\n' > "$scratch/comparison.toml"
expect "unexpected argument '--bogus'" "${server[@]}" --bogus
expect "line 4" "${server[@]}" --config "$scratch/unknown.toml"
expect "reservations add up to .* more than the memory" "${server[@]}" --no-flash -m 64 --config "$scratch/large.toml"
expect "No such file" "${server[@]}" --config "$scratch/missing.toml"
expect "is a directory" "${server[@]}" --flash "$scratch:64MiB"
expect "holds data that is not flashare's" "${server[@]}" --flash "$scratch/foreign:64MiB"
expect "is named twice" "${server[@]}" --flash "$scratch/y:64MiB" --flash "$scratch/y:64MiB"
expect "take clean, crash or never" "${server[@]}" --restart perhaps
expect "take os, always" "${server[@]}" --journal-sync often
expect "take 128KiB or more" "${server[@]}" --restart crash --flash "$scratch/y:64MiB" --flash-journal 1KiB
expect "write PATH:SIZE" "${server[@]}" --flash "$scratch/x"
expect "is no unit" "${server[@]}" --flash "$scratch/x:5parsecs"
expect "at most half of -m" "${server[@]}" -m 4 -I 128m
expect "cannot listen" "${server[@]}" --no-flash -l 203.0.113.1
expect "bad.csv, line 2.*key_size.*expected a number of bytes" "$bin/flashare-trace" stat "$scratch/bad.csv"
expect "bad.csv, line 2" "$bin/flashare-trace" simulate "$scratch/bad.csv" --dram 8MiB
expect "pipe can be read only once: name the tenants with --config" "$bin/flashare-trace" simulate "$scratch/pipe" --dram 8MiB
expect "trace .*empty.csv: it is empty" "$bin/flashare-trace" stat "$scratch/empty.csv"
expect "write bytes for a time .*drive writes a day" "${server[@]}" --flash "$scratch/y:64MiB" --flash-write-budget 200GB
expect "flash-write-budget.*no budget" "$bin/flashare-trace" simulate "$scratch/good.csv" --flash 64MiB --flash-write-budget 1GB/fortnight
expect "is nothing to sweep: take one of dram" "$bin/flashare-trace" simulate "$scratch/good.csv" --sweep weather=1,2
expect "leave out --sweep" "$bin/flashare-trace" simulate "$scratch/good.csv" --sweep dram=8MiB,16MiB --samples "$scratch/samples.csv"
expect "nothing that stat, simulate, replay or compare writes" "$bin/flashare-trace" report "$scratch/other.json" --out "$scratch/r.html"
expect "good.csv: trailing characters at line 1" "$bin/flashare-trace" report "$scratch/good.csv" --out "$scratch/r.html"
expect "unknown field .nam" "$bin/flashare-trace" compare "$scratch/comparison.toml" --trace "$scratch/good.csv"
expect "connecting to 127.0.0.1:1" "$bin/flashare-trace" replay "$scratch/bad.csv" --server 127.0.0.1:1
cmp -s "$scratch/foreign" <(printf 'this is somebody else'"'"'s file\n%.0s' $(seq 300)) || { failed=$((failed + 1)); echo "FAILED: the foreign file was changed"; }
# a state folder that cannot be written: DRAM only, and a line that says how to enable flash
touch "$scratch/not-a-folder"
"${server[@]}" --state-dir "$scratch/not-a-folder" > "$scratch/log" 2>&1 &
pid=$!
for _ in $(seq 50); do grep -q "serves on" "$scratch/log" && break; sleep 0.1; done
kill $pid && wait $pid
if grep -q "serving from DRAM only.*--flash PATH:SIZE" "$scratch/log"; then passed=$((passed + 1)); else failed=$((failed + 1)); cat "$scratch/log"; fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
