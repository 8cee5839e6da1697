#!/usr/bin/env python3
"""A trace from a running server: what `watch` tells while a trace is replayed, read back as a trace, is that trace again.

usage: tests/watch.py MEMCACHED FLASHARE FLASHARE-TRACE     the three binaries; both servers are watched in turn
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from loopback import connect, free_port

REQUESTS = 150_000
MEMORY = 8


def record(watcher, path):
    """Writes what the watcher tells until the server closes the connection."""
    with open(path, "wb") as out:
        while piece := watcher.recv(1 << 16):
            out.write(piece)


def main():
    memcached, flashare, tool = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def trace_tool(*arguments):
            done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
            return done.stderr

        def simulated(trace):
            trace_tool("simulate", trace, "--dram", f"{MEMORY}MiB", "--seed", 1, "--json", scratch / "simulated.json")
            return json.loads((scratch / "simulated.json").read_text())

        source = scratch / "source.csv"
        trace_tool("synth", source, "--requests", REQUESTS, "--seed", 3, "--tenant", "shop,objects=20000,sets=0.1,size=300", "--tenant", "feed,objects=30000,one-hit=0.3,size=500")
        wanted = simulated(source)
        for name, command in {
            "memcached": [memcached, "-u", "root", "-l", "127.0.0.1", "-m", str(MEMORY)],
            "flashare": [flashare, "--no-flash", "-m", str(MEMORY)],
        }.items():
            port = free_port()
            log, back = scratch / f"{name}.log", scratch / f"{name}.csv"
            server = subprocess.Popen([*command, "-p", str(port), "-o", "watcher_logbuf_size=65536"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                watcher = connect(port)
                watcher.sendall(b"watch fetchers mutations deletions\r\n")
                recorder = threading.Thread(target=record, args=(watcher, log))
                recorder.start()
                trace_tool("replay", source, "--server", f"127.0.0.1:{port}", "--rate", 20_000)
                time.sleep(1)
            finally:
                server.terminate()
                server.wait()
            recorder.join()
            said = trace_tool("convert", log, back, "--prefix-delimiter", ":", "--from-zero", "--strict")
            # a machine that is busy enough loses lines, and then it is told
            skipped = int((re.search(r"left out (\d+) lines", said) or ["", "0"])[1])
            got = simulated(back)
            requests = (got["requests"], wanted["requests"])
            points = abs(got["hit_ratio"] - wanted["hit_ratio"]) * 100
            tenants = sorted(got["tenants"])
            print(f"{name}: {requests[0]} of {requests[1]} requests, {skipped} lines lost, hit ratio {points:.2f} points from the trace's own, tenants {' '.join(tenants)}")
            if skipped == 0 and (abs(requests[0] - requests[1]) > requests[1] / 100 or points > 1 or tenants != ["feed", "shop"]):
                sys.exit("what was watched is not what was replayed")


main()
