"""The data plane: server CPU a request beside memcached's and the null server's, tails, memory, two workers, flash hits.

Server and load are pinned to different cores; servers take turns within a round, so that a slow moment of the machine hits all;
figures are medians over rounds, ratios are medians of ratios within a round.
"""

import json
import pathlib
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from . import flash_hits
from .kit import BIN, Row, Server, at_least, at_most, build, null_server, scratch
from .load import fill, interleaved, load, middle, peer, ratio

# name, arguments of the load generator, bound on CPU of memcached's, bound on CPU of the null server's
LOADS = [
    ("GET, 50 connections", ["--mode", "get", "--connections", 50], 0.85, 1.08),
    ("GET, 500 connections", ["--mode", "get", "--connections", 500], 0.85, 1.08),
    ("GET, pipeline 16", ["--mode", "get", "--pipeline", 16], 0.5, 1.35),
    ("GET, pipeline 64", ["--mode", "get", "--pipeline", 64], 0.5, 1.35),
    ("multiget of 50", ["--mode", "multiget"], 0.45, 1.5),
    ("90 % GET 10 % SET, pipeline 16", ["--mode", "mixed", "--pipeline", 16], 0.55, None),
    ("mg v, pipeline 16", ["--mode", "mg", "--pipeline", 16], 0.5, None),
]
KEYS = 1_000_000


def memcached(*flags):
    return Server([peer(), "-u", "root", "-l", "127.0.0.1", "-p", "{port}", "-t", 1, "-c", 2000, *flags], cpu=0)


def flashare(*flags, binary=None):
    return Server([binary or BIN / "flashare", "-p", "{port}", "-t", 1, "-c", 2000, "--no-flash", *flags], cpu=0)


def measure(quick):
    build()
    build("benches")
    null = null_server()
    rounds, seconds = (1, 0.3) if quick else (5, 1.5)
    rows = []
    with memcached("-m", 1024) as theirs, flashare("-m", 1024) as ours, flashare("-m", 64, binary=null) as nothing:
        fill(theirs)
        fill(ours)
        servers = {"memcached": theirs, "flashare": ours, "null": nothing}
        for name, arguments, of_memcached, of_null in LOADS:
            who = {who: server for who, server in servers.items() if who != "null" or of_null}
            runs = interleaved(who, arguments, rounds, seconds, unchecked=("null",))
            rows += cpu_rows(name, runs, of_memcached, of_null)
        rows += equal_load(servers, rounds, seconds)
    rows += larger_values(min(rounds, 3), seconds, (40 if quick else 256) << 20)
    rows += told_by_prefix(min(rounds, 3), seconds, 100_000 if quick else KEYS)
    rows += unix_socket(rounds, seconds, 100_000 if quick else KEYS)
    full = (300_000, 64) if quick else (KEYS, 220)
    rows += stores(rounds, seconds, *full)
    rows += cleaning_tail(rounds, seconds, *full)
    rows += memory()
    rows += two_workers(quick)
    rows += flash_hits.measure(quick)
    return rows


def cpu_rows(name, runs, of_memcached, of_null):
    cost = f"{middle(runs, 'flashare'):.3f} us"
    rows = [at_most(f"{name}: CPU {cost}, of memcached's {middle(runs, 'memcached'):.3f}", ratio(runs, "flashare", "memcached"), of_memcached)]
    if of_null:
        rows.append(at_most(f"{name}: of the null server's {middle(runs, 'null'):.3f}", ratio(runs, "flashare", "null"), of_null))
    faster = ratio(runs, "flashare", "memcached", "requests_per_second")
    if "connections" not in name:  # without a pipeline the generator's core is the limit
        rows.append(at_least(f"{name}: requests/s {middle(runs, 'flashare', 'requests_per_second'):,.0f}, of memcached's", faster, 0.9 / of_memcached))
    rows.append(Row(f"{name}: p50, p99, p99.9 us", "{:.0f}, {:.0f}, {:.0f}".format(*(middle(runs, 'flashare', key) for key in ("p50_us", "p99_us", "p999_us"))), "stated", True))
    return rows


def equal_load(servers, rounds, seconds):
    both = {name: servers[name] for name in ("memcached", "flashare")}
    most = statistics.median(load(servers["memcached"], seconds=seconds)["requests_per_second"] for _ in range(min(rounds, 3)))
    runs = interleaved(both, ["--mode", "get", "--connections", 50, "--rate", int(most * 0.6)], rounds, seconds)
    name = f"p99 at {most * 0.6:,.0f} GET/s, {middle(runs, 'flashare', 'p99_us'):.0f} us, of memcached's {middle(runs, 'memcached', 'p99_us'):.0f}"
    return [at_most(name, ratio(runs, "flashare", "memcached", "p99_us"), 1.0)]


def larger_values(rounds, seconds, data):
    """GETs of values that are copied (the smaller ones) or sent from where they lie, and SETs of them where memory is full; `data` bytes of each size."""
    rows = []
    for value_bytes in (1_000, 4_000, 12_000, 64 << 10):
        size = ["--keys", data // value_bytes, "--value-bytes", value_bytes]
        mib = data * 2 >> 20
        with memcached("-m", mib) as theirs, flashare("-m", mib) as ours:
            servers = {"memcached": theirs, "flashare": ours}
            for server in servers.values():
                fill(server, *size)
            for pipeline in (1, 16):
                runs = interleaved(servers, ["--mode", "get", "--pipeline", pipeline, *size], rounds, seconds)
                rows.append(beside_memcached(f"GET of {value_bytes:,} bytes, pipeline {pipeline}", runs))
        with memcached("-m", mib // 4) as theirs, flashare("-m", mib // 4) as ours:
            servers = {"memcached": theirs, "flashare": ours}
            for server in servers.values():
                fill(server, *size)
            for pipeline in (1, 16):
                runs = interleaved(servers, ["--mode", "set", "--pipeline", pipeline, *size], rounds, seconds)
                name = f"SET of {value_bytes:,} bytes, pipeline {pipeline}, continuous cleaning"
                rows.append(beside_memcached(name, runs))
                rows.append(beside_memcached(name, runs, "p99", "p99_us"))
    return rows


def beside_memcached(name, runs, what="CPU", key="cpu_us_a_request"):
    ours, theirs = (f"{us:,.0f}" if us >= 100 else f"{us:.3g}" for us in (middle(runs, who, key) for who in ("flashare", "memcached")))
    return Row(f"{name}: {what} {ours} us, of memcached's {theirs}", f"{ratio(runs, 'flashare', 'memcached', key):.3g}", "stated", True)


def told_by_prefix(rounds, seconds, keys):
    """Tenants that are told by prefixes of several lengths, and one beside that may not ask for all that it likes."""
    prefixes = ["key:", "session:", "img:v2:", "user:", "kept:for:"]
    rows = []
    with scratch() as folder:
        for what, limit in (("five tenants told by prefix", ""), ("the same, another one limited", "max_requests = 1000")):
            config = pathlib.Path(folder) / "tenants.toml"
            config.write_text("\n".join(f'[[tenant]]\nname = "t{n}"\nprefix = "{prefix}"\n{limit if n else ""}' for n, prefix in enumerate(prefixes)))
            with memcached("-m", 1024) as theirs, flashare("-m", 1024, "--config", config) as ours:
                servers = {"memcached": theirs, "flashare": ours}
                for server in servers.values():
                    fill(server, "--keys", keys)
                for mode, pipeline in (("get", 64), ("set", 16)):
                    runs = interleaved(servers, ["--mode", mode, "--keys", keys, "--pipeline", pipeline], rounds, seconds)
                    rows.append(beside_memcached(f"{mode.upper()}, pipeline {pipeline}, {what}", runs))
    return rows


def unix_socket(rounds, seconds, keys):
    rows = []
    with scratch() as folder:
        paths = {name: f"{folder}/{name}" for name in ("memcached", "flashare")}
        commands = {
            "memcached": [peer(), "-u", "root", "-s", paths["memcached"], "-t", 1, "-m", 1024, "-c", 2000],
            "flashare": [BIN / "flashare", "-s", paths["flashare"], "-t", 1, "-m", 1024, "-c", 2000, "--no-flash"],
        }
        servers = {name: Server(command, cpu=0, path=paths[name]) for name, command in commands.items()}
        try:
            for name, server in servers.items():
                fill(server, "--keys", keys, at=paths[name])
            for label, arguments, bound in (("50 connections", [], 0.85), ("pipeline 16", ["--pipeline", 16], 0.5)):
                runs = {name: [] for name in servers}
                for number in range(rounds):
                    for name, server in servers.items():
                        runs[name].append(load(server, "--seed", number + 1, "--keys", keys, *arguments, seconds=seconds, at=paths[name]))
                label = f"Unix socket, GET, {label}: CPU {middle(runs, 'flashare'):.3f} us, of memcached's {middle(runs, 'memcached'):.3f}"
                rows.append(at_most(label, ratio(runs, "flashare", "memcached"), bound))
        finally:
            for server in servers.values():
                server.__exit__()
    return rows


def stores(rounds, seconds, keys, mib):
    """SETs over memory that is full: every new segment has to be cleaned first."""
    setting = ["--keys", keys, "--mode", "set", "--pipeline", 16]
    with memcached("-m", mib) as theirs, flashare("-m", mib) as ours:
        fill(theirs, "--keys", keys)
        fill(ours, "--keys", keys)
        servers = {"memcached": theirs, "flashare": ours}
        for server in servers.values():
            load(server, *setting, seconds=seconds)  # until memory is full
        runs = interleaved(servers, setting, rounds, seconds)
    return cpu_rows("SET, pipeline 16, continuous cleaning", runs, 0.8, None)


def cleaning_tail(rounds, seconds, keys, mib):
    """p99.9 of gets while another client stores as much as fits into half of the server's core, beside its idle value."""
    with flashare("-m", mib) as ours:
        fill(ours, "--keys", keys)
        reading = ["--keys", keys, "--mode", "get", "--connections", 50, "--rate", 20_000]
        quiet, busy = [], []
        for number in range(rounds):
            quiet.append(load(ours, *reading, "--seed", number + 1, seconds=seconds)["p999_us"])
            command = ["taskset", "-c", "1", BIN / "load", "--server", f"127.0.0.1:{ours.port}", "--keys", keys, "--mode", "set", "--connections", 4]
            command += ["--rate", 60_000, "--seconds", seconds + 1]
            storing = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
            time.sleep(0.5)
            busy.append(load(ours, *reading, "--seed", number + 1, seconds=seconds)["p999_us"])
            storing.wait()
    worse = statistics.median(loaded / idle for loaded, idle in zip(busy, quiet))
    name = f"p99.9 of GETs beside 60,000 SET/s with cleaning, {statistics.median(busy):.0f} us, of the idle {statistics.median(quiet):.0f}"
    return [at_most(name, worse, 2.0)]


def settled_rss(server):
    """RSS in bytes once it stays the same: an index that grows has both tables until it has moved."""
    before = 0
    while before != (now := server.status_kib("VmRSS")):
        before = now
        time.sleep(0.3)
    return now * 1024


def memory(objects=2_000_000):
    """RSS that objects of 120 bytes (key and value) take beyond those."""
    with memcached("-m", 1024) as theirs, flashare("-m", 1024) as ours, ThreadPoolExecutor() as both:

        def measured(server):
            before = server.status_kib("VmRSS") * 1024
            fill(server, "--keys", objects, "--value-bytes", 100)
            return (settled_rss(server) - before) / objects - 120

        beyond = dict(zip(("memcached", "flashare"), both.map(measured, (theirs, ours))))
    rows = [at_most(f"bytes an object beyond its 120, {objects:,} objects, from RSS", beyond["flashare"], 40)]
    return rows + [at_most(f"of memcached's {beyond['memcached']:.1f}", beyond["flashare"] / beyond["memcached"], 0.65)]


def two_workers(quick):
    command = [BIN / "in_process", "--rounds", 1 if quick else 5, "--seconds", 0.5 if quick else 1.5]
    ran = json.loads(subprocess.check_output(list(map(str, command)), text=True))
    rows = []
    for key, label in (("random_keys", "random keys"), ("one_key", "one key")):
        rows.append(at_least(f"two workers of one's {ran[key]['one']:,.0f} GET/s, {label}", ran[key]["ratio"], 1.8))
    return rows
