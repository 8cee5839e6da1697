"""flashare-trace itself: speeds, and whether what it says of a trace, of the engine and of a server is true."""

import collections
import json
import math
import os
import pathlib
import statistics
import subprocess
import time

from .kit import BIN, TRACES, Row, Server, at_least, at_most, beginning, build, equal_tenants, null_server, scratch, shared_trace, trace_tool

TOOL = BIN / "flashare-trace"
SHARES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
HOT = "a,objects=100000,one-hit=0,sets=0,size=100,key=20"
# what just fits -I 1m, with the longest key
VALUE_BYTES_MAX = 1_048_200
# the same in both: which keys are sampled, and so what the model learns, depends on it
SEEDS = [7, 8, 9]
# where fewer segments than this go to flash, chance moves a run by more than a bound: the mean of all seeds is compared
FEW_SEGMENTS = 2000
# traces of fewer requests than this are replayed over so many seconds: as fast as it goes it would be over before cleaner, trainer and flash have
# got going, and what it came to would be chance
FEW_REQUESTS, SECONDS = 100_000, 15
COMPARED = ["hit_ratio", "flash_bytes_written"]


def measure(quick):
    build()
    rows = []
    with scratch() as folder:
        folder = pathlib.Path(folder)
        rows += synth(folder, quick)
        rows += simulate(folder, quick)
        rows += replay(folder, quick)
        names = ["lirs-sprite"] if quick else sorted(path.name[: -len(".csv.zst")] for path in TRACES.glob("*.csv.zst"))
        for name in names or ["synthesised"]:
            trace = shared_trace(name, folder, 300_000)
            described = trace_tool("stat", trace)
            rows.append(curve(name, trace, described))
            rows += agreement(name, trace, described, folder)
    return rows


def timed(command):
    """Runs a command; returns its seconds of CPU, with those of all its threads."""
    before = os.times()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def synth(folder, quick):
    requests = 1_000_000 if quick else 8_000_000
    began = time.monotonic()
    timed([TOOL, "synth", folder / "cluster52.csv", "--requests", requests, "--cluster", 52])
    return [at_least("synth --cluster 52: requests/s written", requests / (time.monotonic() - began), 2_000_000, "{:,.0f}")]


def simulate(folder, quick):
    rows = []
    for name, dram, flash in [("orm-busy", 16, 128), ("mt-a", 16, 128)]:
        trace = beginning(name, folder, 500_000 if quick else None)
        sizes = ["--dram", f"{dram}MiB", "--flash", f"{flash}MiB"]
        figures = folder / "simulated.json"
        # of the whole command, which goes through the trace twice: first for the names of its tenants
        cpu = timed([TOOL, "simulate", trace, *sizes, "--json", figures])
        requests = json.loads(figures.read_text())["requests"]
        rows.append(at_least(f"simulate {name}, {dram} and {flash} MiB: requests/s a core", requests / cpu, 1_500_000, "{:,.0f}"))
    return rows


def replay(folder, quick):
    hot = folder / "hot.csv"
    timed([TOOL, "synth", hot, "--requests", 1_500_000 if quick else 6_000_000, "--tenant", HOT])
    with Server([BIN / "flashare", "-p", "{port}", "-t", 1, "-m", 200, "--no-flash"]) as server:
        ran = trace_tool("replay", hot, "--server", f"127.0.0.1:{server.port}", "--pipeline", 64)
    rows = [
        at_least("replay, pipeline 64, server and tool on 2 cores: requests/s", ran["ops_per_second"], 1_000_000, "{:,.0f}"),
        at_most("replay, pipeline 64: wrong and stale values", ran["wrong_values"] + ran["stale_values"], 0, "{}"),
    ]
    with Server([null_server(), "-p", "{port}", "-t", 1, "-m", 64, "--no-flash"]) as server:
        flags = ["--pipeline", 64, "--mode", "write-through", "--no-stats"]
        ceiling = trace_tool("replay", hot, "--server", f"127.0.0.1:{server.port}", *flags)["ops_per_second"]
    rows.append(Row("the tool's own ceiling: requests/s against the null server", f"{ceiling:,.0f}", "stated", True))
    return rows


def curve(name, trace, described):
    """The curve against an LRU as one would write it down, at several sizes."""
    capacities = [described["working_set_bytes"] * share for share in SHARES]
    lrus = [[collections.OrderedDict(), 0] for _ in SHARES]
    hits, gets = [0] * len(SHARES), 0
    reader = subprocess.Popen([str(TOOL), "convert", str(trace), "-"], stdout=subprocess.PIPE, text=True)
    for line in reader.stdout:
        _, key, key_size, value_size, tenant, op, _ = line.split(",")
        key, size = (tenant, key), int(key_size) + int(value_size)
        gets += op == "get"
        for number, lru in enumerate(lrus):
            order = lru[0]
            old = order.pop(key, None)
            if old is not None:
                lru[1] -= old
                hits[number] += op == "get"
            if op != "delete":
                order[key] = size
                lru[1] += size
                while lru[1] > capacities[number]:
                    lru[1] -= order.popitem(last=False)[1]
    reader.wait()
    told = [1 - ratio for _, ratio in described["lru_miss_ratios"]]
    apart = max(abs(hit / max(gets, 1) - own) for hit, own in zip(hits, told)) * 100
    return at_most(f"{name}: miss-ratio curve, largest distance from an exact LRU", apart, 1, "{:.2f}", " points")


def agreement(name, trace, described, folder):
    """The simulator and the server with the same settings: DRAM to flash as 1 to 7, a quarter of the working set."""
    total = described["working_set_bytes"] / 4 / 2**20
    dram = max(4, round(total / 8))
    flash = max(24, round(total * 7 / 8))
    config = folder / f"{name}.toml"
    equal_tenants(trace, dram, config)
    rate = described["requests"] // SECONDS if described["requests"] < FEW_REQUESTS else 0
    pairs = [pair(trace, (dram, flash), config, rate, SEEDS[0])]
    segment = math.gcd(*(run["flash_bytes_written"] for run in pairs[0]))
    what = f"{name}, {dram} and {flash} MiB" + (f", {rate:,} requests/s" if rate else "")
    if 0 < pairs[0][0]["flash_bytes_written"] < FEW_SEGMENTS * segment:
        pairs += [pair(trace, (dram, flash), config, rate, seed) for seed in SEEDS[1:]]
        what += f", mean of {len(pairs)}"
    ran, simulated = ({key: statistics.mean(run[key] for run in runs) for key in COMPARED} for runs in zip(*pairs))
    points = abs(ran["hit_ratio"] - simulated["hit_ratio"]) * 100
    wrote, would = ran["flash_bytes_written"], simulated["flash_bytes_written"]
    # flash is written in whole segments: where few are, one more or less says nothing
    percent = max(abs(wrote - would) - segment, 0) / max(wrote, would, 1) * 100
    wrong = sum(run["wrong_values"] + run["stale_values"] for runs in pairs for run in runs)
    return [
        at_most(f"{what}: hit ratio {ran['hit_ratio']:.2%}, apart from the simulated", points, 1, "{:.2f}", " points"),
        at_most(f"{what}: {wrote / 1e6:.1f} MB to flash, apart from the simulated", percent, 5, "{:.1f}", " %"),
        at_most(f"{what}: wrong and stale values", wrong, 0, "{}"),
    ]


def pair(trace, mebibytes, config, rate, seed):
    """What a replay against the server came to, at so many requests a second (0: as fast as it goes), and a simulation of the same at the same pace."""
    dram, flash = mebibytes
    device = config.with_suffix(".flash")
    settings = ["-t", 2, "--seed", seed, "-m", dram, "--config", config, "--flash", f"{device}:{flash}MiB"]
    with Server([BIN / "flashare", "-p", "{port}", *settings]) as server:
        ran = trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", "--value-max", VALUE_BYTES_MAX, *(["--rate", rate] if rate else []))
    for file in device.parent.glob(f"{device.name}*"):
        file.unlink()
    # as fast as the replay was, on which what is saved of a budget depends, and with as many requests under way; at a rate, none wait
    pace = ["--in-flight", round(ran.get("in_flight", 0)), "--speed", f"x{max(ran['trace_seconds'] / ran['seconds'], 1e-6)}"]
    settings = ["--seed", seed, "--dram", f"{dram}MiB", "--config", config, "--flash", f"{flash}MiB"]
    return ran, trace_tool("simulate", trace, *settings, *pace)
