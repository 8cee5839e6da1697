#!/usr/bin/env python3
"""Runs memcached's own test suite (t/*.t of the newest source package) against flashare; prints passed and failed by file.

usage: tests/memcached-suite.py [-v] [FILE.t ...]       all but the files that are left out, or those named
FLASHARE_IO=tokio runs it with that driver. Exits 1 if anything fails. Installs perl and its TLS module where they are missing; fetches memcached's sources by benches/peers/memcached.sh.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORK = ROOT / "target/memcached-suite"
SECONDS_MAX = 60

# File or pattern, and why it says nothing about a server without slabs, segmented LRU, extstore's pages or the proxy.
LEFT_OUT = [
    (r"proxy.*", "memcached's proxy"),
    (r"slabs.*|slabhang|chunked-items", "slab classes and their page mover"),
    (r"lru.*|refhang", "segmented LRU, its crawler's and maintainer's internals"),
    (r".*extstore.*", "extstore's pages, compaction and counters"),
    (r"64bit|issue_14|issue_22|issue_42|issue_163", "slab classes: counts pages and chunks, or expects item headers of 48 bytes"),
    (r"misbehave", "privilege drop"),
    (r"line-lengths", "checks memcached's sources"),
    (r"whitespace", "checks memcached's sources"),
]

# File, what is written otherwise in it (a pattern and what takes its place, as often as it stands there), and why.
ADAPTED = {
    "binary-sasl.t": (
        r"'CRAM-MD5 (PLAIN')|(\$s->)(sock;)",
        lambda found: "'" + found[1] if found[1] else found[2] + "new_" + found[3],
        "PLAIN is the mechanism that is offered, and each client of the test gets a connection of its own",
    ),
    "dyn-maxbytes.t": (
        'my $stats  = mem_stats($sock);\nmy $evicted',
        'for my $more (1 .. 8) { print $sock "set more$more 0 0 66560\\r\\n$value\\r\\n"; <$sock>; }\nselect(undef, undef, undef, 0.5);\nmy $stats  = mem_stats($sock);\nmy $evicted',
        "its 40 objects of 65 KiB fit 3 MiB here, so eight more are stored; evictions are made beside the stores, not in them, so it waits half a second before it counts",
    ),
    "restart.t": (
        r'is\(\$stats->\{hash_power_level\}, (\d+)',
        r"cmp_ok($stats->{hash_power_level}, '>=', \1",
        "our index has two sizes more to begin with, so its level is compared with at least",
    ),
    "watcher.t": (
        r'print $client "set bfoo 0 0 11000 noreply\r\n$value\r\n";',
        r'for (1 .. 800) { print $client "set bfoo$_ 0 0 11000 noreply\r\n$value\r\n"; select(undef, undef, undef, 0.01) unless $_ % 20; }',
        "a log evicts a segment at a time, not an object a store, so it stores more",
    ),
}
# Tests that want ports of their own, or count on an idle machine: run alone.
ALONE = {"issue_67.t", "watcher.t", "idle-timeout.t", "maxconns.t", "udp.t", "dyn-maxbytes.t", "evictions.t"}
AT_ONCE = 8


def left_out(name):
    return next((why for pattern, why in LEFT_OUT if re.fullmatch(pattern, name.removesuffix(".t"))), None)


def prepare():
    memcached = pathlib.Path(subprocess.check_output([ROOT / "benches/peers/memcached.sh"], text=True).strip())
    source = next(iter(sorted(memcached.parent.glob("memcached-1.*/t"))))
    # as tests are built, with what they check on the way: all that it uses is there already where tests ran
    build = ["cargo", "build", "--locked", "--quiet", "--profile", "test", "--workspace", "--bin", "flashare", "--features", "server/debugtime"]
    subprocess.run(build, cwd=ROOT, check=True)
    if subprocess.run(["perl", "-MIO::Socket::SSL", "-e1"], capture_output=True).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "perl", "libio-socket-ssl-perl"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    shutil.copytree(source, WORK / "t")
    for name, (old, new, _) in ADAPTED.items():
        test = WORK / "t" / name
        text = test.read_text()
        changed = re.sub(old, new, text) if name in ("restart.t", "binary-sasl.t") else text.replace(old, new)
        if changed == text:
            sys.exit(f"{name} has changed: look at ADAPTED")
        test.write_text(changed)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    shutil.copy(target / "debug/flashare", WORK / "flashare")
    wrapper = WORK / "memcached-debug"
    driver = os.environ.get("FLASHARE_IO", "auto")
    # users come from a file here, not from SASL's database: what the test's tool would write into that
    (WORK / "users").write_text("testuser@memcached.realm:testpass\n")
    users = f'case " $* " in *" -S "*) set -- -Y "{WORK}/users" "$@";; esac'
    wrapper.write_text(f'#!/bin/sh\n{users}\nexec "{WORK}/flashare" --io {driver} --no-flash "$@"\n')
    wrapper.chmod(0o755)
    shutil.copy(wrapper, WORK / "memcached")
    # memcached's own helper stops a command after so many seconds and hands signals on to it
    helper = WORK / "timedrun"
    helper.write_text(
        '#!/bin/sh\nseconds=$1\nshift\n"$@" &\ncommand=$!\n'
        'for signal in USR1 INT TERM HUP; do trap "kill -$signal $command" $signal; done\n'
        '(sleep "$seconds" && kill -INT $command) &\nclock=$!\n'
        'while wait $command; status=$?; kill -0 $command 2>/dev/null; do :; done\nkill $clock 2>/dev/null\nexit $status\n'
    )
    helper.chmod(0o755)
    tool = WORK / "saslpasswd2"
    tool.write_text("#!/bin/sh\nexit 0\n")
    tool.chmod(0o755)


def run(name, verbose):
    """Returns passed, failed, and what to show of it."""
    environment = dict(os.environ, PERL_HASH_SEED="0", **({"SSL_TEST": "1"} if name.startswith("ssl_") else {}))
    environment |= {"RUN_SASL_TESTS": "1", "PATH": f"{WORK}:{os.environ['PATH']}"} if name == "binary-sasl.t" else {}
    out_path, err_path = WORK / f"{name}.out", WORK / f"{name}.err"
    with open(out_path, "wb") as out_file, open(err_path, "wb") as err_file:
        command = ["perl", "-It/lib", f"t/{name}"]
        test = subprocess.Popen(command, cwd=WORK, env=environment, stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file, start_new_session=True)
        try:
            test.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            err_file.write(f"did not end within {SECONDS_MAX} s\n".encode())
        # the test and the servers that it has left running are a process group of their own
        try:
            os.killpg(test.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        test.wait()
    out, err = out_path.read_text(errors="replace"), err_path.read_text(errors="replace")
    passed = len(re.findall(r"^ok \d+", out, re.M))
    failed = len(re.findall(r"^not ok \d+", out, re.M))
    skipped = re.search(r"^1\.\.0 # skip (.*)", out, re.M | re.I)
    plan = re.search(r"^1\.\.(\d+)", out, re.M)
    # a test that dies in the middle has said how many there would be, or never says
    if plan and int(plan[1]) > passed + failed:
        failed += int(plan[1]) - passed - failed
    if not plan:
        failed += 1
    note = f"skipped: {skipped[1]}" if skipped else ""
    shown = ""
    if verbose or failed:
        lines = [line for line in out.splitlines() if verbose or line.startswith("not ok")]
        said = [line for line in err.splitlines() if "has no effect" not in line]
        shown = "\n".join("    " + line for line in (lines + said)[: 400 if verbose else 12])
    return passed, failed, note, shown


def main():
    arguments = [word for word in sys.argv[1:] if word != "-v"]
    verbose = "-v" in sys.argv
    prepare()
    names = arguments or sorted(path.name for path in (WORK / "t").glob("*.t"))
    total_passed = total_failed = 0
    omitted = {}
    for name in [] if arguments else names:
        if why := left_out(name):
            omitted.setdefault(why, []).append(name)
    names = [name for name in names if arguments or not left_out(name)]
    # the one that takes longest, of sleeps, begins
    together = sorted((name for name in names if name not in ALONE), key=lambda name: name != "restart.t")
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(together, pool.map(lambda name: run(name, verbose), together)))
    for name in names:
        passed, failed, note, shown = results.get(name) or run(name, verbose)
        if failed:
            # tests that ask right after a store what the cleaner has done since may be too early on a busy machine
            print(f"{name}: {failed} failed; once more, alone", flush=True)
            passed, failed, note, shown = run(name, verbose)
        if name in ADAPTED:
            note = f"adapted: {ADAPTED[name][2]}"
        total_passed, total_failed = total_passed + passed, total_failed + failed
        print(f"{name:28} {passed:5} passed, {failed} failed{'  ' + note if note else ''}", flush=True)
        if shown:
            print(shown, flush=True)
    for why, files in omitted.items():
        print(f"left out, {why}: {' '.join(files)}")
    print(f"{total_passed} passed, {total_failed} failed")
    sys.exit(1 if total_failed else 0)


if __name__ == "__main__":
    main()
