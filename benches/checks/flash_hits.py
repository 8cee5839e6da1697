"""Hits on flash: rate, CPU and tail beside extstore and beside what fio reads from the same disk.

Both servers run within a memory cgroup, so that the page cache that extstore reads through stays an eighth of the data.
"""

import json
import os
import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from .kit import BIN, Row, Server, at_least, at_most, scratch
from .load import fill, interleaved, load, middle, peer, ratio

CGROUPS = pathlib.Path("/sys/fs/cgroup/memory")
VALUE = 2000
# what is asked at a time, and fio's depth beside it. A pipeline is kept full: a batch that is answered whole before the next one leaves a disk
# idle at its end, whoever serves it.
LOADS = [
    ("50 connections", ["--connections", 50], 32),
    ("200 connections", ["--connections", 200], 128),
    ("4 connections, pipeline 32", ["--connections", 4, "--pipeline", 32, "--window"], 128),
]


def measure(quick):
    if not os.access(CGROUPS, os.W_OK) or not (CGROUPS / "memory.limit_in_bytes").exists():
        return [Row("flash hits", "not measured: no memory cgroup may be made here", "stated", False)]
    if shutil.which("fio") is None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "fio"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys, limit_mib, dram = (100_000, 90, 30) if quick else (1_000_000, 320, 100)
    seconds, rounds = (0.6, 1) if quick else (1.5, 7)
    rows = []
    with scratch() as folder:
        flash = f"{folder}/ours.flash:{keys * VALUE * 3 // 2 >> 20}MiB"
        ours = [BIN / "flashare", "-p", "{port}", "-t", 1, "-m", dram, "--admission", "all", "--flash", flash, "--flash-object-size", VALUE]
        theirs = [peer(), "-u", "root", "-l", "127.0.0.1", "-p", "{port}", "-t", 1, "-m", dram]
        theirs += ["-o", f"ext_path={folder}/theirs:{keys * VALUE * 3 // 2 >> 20}m,ext_item_age=0,ext_threads=8,slab_automove_freeratio=0.02"]
        servers = {}
        try:
            for name, command in (("flashare", ours), ("extstore", theirs)):
                group = CGROUPS / f"bounds-{os.getpid()}-{name}"
                group.mkdir()
                (group / "memory.limit_in_bytes").write_text(str(limit_mib << 20))
                servers[name] = Server(command, cpu=0, group=group)
            # slowly: extstore drops what comes faster than it writes
            with ThreadPoolExecutor(2 if quick else 1) as both:
                filling = ["--keys", keys, "--value-bytes", VALUE, "--rate", 25_000]
                list(both.map(lambda server: fill(server, *filling), servers.values()))
            reading = ["--mode", "get", "--keys", keys, "--value-bytes", VALUE, "--skew", 0]
            for label, arguments, depth in LOADS:
                runs = {name: [] for name in (*servers, "fio")}
                for number in range(rounds):
                    for name, server in servers.items():
                        runs[name].append(hits(load(server, *reading, *arguments, "--seed", number + 1, seconds=seconds)))
                    runs["fio"].append({"hits": fio(folder, keys * VALUE, depth, seconds)})
                rows += rows_of(f"flash, {label}", runs)
            rate = int(0.6 * middle(runs, "extstore", "hits"))
            runs = interleaved(servers, [*reading, "--connections", 50, "--rate", rate], rounds, seconds)
            name = f"flash: p99 at {rate:,}/s {middle(runs, 'flashare', 'p99_us'):.0f} us, of extstore's {middle(runs, 'extstore', 'p99_us'):.0f}"
            rows.append(at_most(name, ratio(runs, "flashare", "extstore", "p99_us"), 1.0))
        finally:
            for name, server in servers.items():
                server.__exit__()
            for group in CGROUPS.glob(f"bounds-{os.getpid()}-*"):
                group.rmdir()
    return rows


def hits(run):
    """A run of the load generator, with its hits a second."""
    return {**run, "hits": (run["requests"] - run["misses"]) / run["seconds"]}


def rows_of(label, runs):
    missed = " ".join(f"{runs[name][-1]['misses'] / runs[name][-1]['requests']:.1%}" for name in ("flashare", "extstore"))
    rows = [Row(f"{label}: misses of requests, ours and extstore's", missed, "stated", True)]
    if all(read["hits"] for read in runs["fio"]):
        name = f"{label}: {middle(runs, 'flashare', 'hits'):,.0f} hits/s, of fio's {middle(runs, 'fio', 'hits'):,.0f}"
        rows.append(at_least(name, ratio(runs, "flashare", "fio", "hits"), 0.9))
    rows.append(at_least(f"{label}: of extstore's {middle(runs, 'extstore', 'hits'):,.0f}", ratio(runs, "flashare", "extstore", "hits"), 1.8))
    name = f"{label}: CPU {middle(runs, 'flashare'):.1f} us, of extstore's {middle(runs, 'extstore'):.1f}"
    return [*rows, at_most(name, ratio(runs, "flashare", "extstore"), 0.5)]


def fio(folder, filled, depth, seconds):
    """Random reads of 4 KiB a second at this depth, direct, in what was written of the flash file (a read of what was not asks no disk); 0
    without fio."""
    if shutil.which("fio") is None:
        return 0
    command = ["taskset", "-c", "0", "fio", "--name=reads", f"--filename={folder}/ours.flash", "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=io_uring", f"--size={filled * 9 // 10}"]
    command += [f"--iodepth={depth}", f"--runtime={seconds}", "--time_based", "--readonly", "--output-format=json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    return json.loads(ran.stdout[ran.stdout.index("{"):])["jobs"][0]["read"]["iops"] if ran.returncode == 0 else 0
