"""The predictor against plain filters and against an oracle, in the engine itself: hit ratio by bytes written to flash."""

import json
import os
import pathlib
import random
import subprocess
import time

from .kit import BIN, ROOT, Row, Server, at_least, at_most, build, scratch, shared_trace, trace_tool

TRACES = ["orm-busy", "blocks-w106a", "mt-a", "arc-oltp", "arc-p6", "mt-real-a"]
FILTERS = ["all", "second-hit", "small-fifo", "random:0.1", "random:0.3", "random:0.6"]
THRESHOLDS = [-2, -1, -0.5, 0, 0.5, 1]
BUDGETS = ["0.02x", "0.05x", "0.08x", "0.12x", "0.16x", "0.2x", "0.25x", "0.3x", "0.4x", "0.5x", "0.6x", "0.8x", "1.1x", "2x", "3x"]
# large enough that a hundredth of a tenth of the working set is 8 MiB: name, requests, tenants
WORKLOADS = pathlib.Path(os.environ.get("FLASHARE_WORKLOADS", ROOT.parent / "shared/workloads"))
SYNTHESISED = [
    ("meta-l2", 1_500_000, [f"l2,cachebench={WORKLOADS}/kvcache_l2_wc.config.json,objects=150000"]),
    ("twitter-37", 2_000_000, ["c37,cluster=37,objects=500000"]),
    ("twitter-13", 4_000_000, ["c13,cluster=13,objects=2000000"]),
    ("twitter-mix", 4_000_000, ["c37,cluster=37,objects=250000", "c49,cluster=49,objects=500000", "c50,cluster=50,objects=300000", "c53,cluster=53,objects=500000"]),
]
SYNTHESISED_RATE = 10_000
SYNTHESISED_FILTERS = ["all", "second-hit", "small-fifo", "random:0.3"]
SYNTHESISED_BUDGETS = ["0.05x", "0.15x", "0.3x", "0.5x", "1.1x"]
# parts that the whole is of the working set, and of DRAM
SHAPES = [(4, 8), (10, 32), (10, 100)]
DRAM_MIN_MIB = 8
WORST_POINTS = -100.0
SAME_BYTES = 1.05
KEPT = pathlib.Path(__file__).parents[2] / "results" / "predictor"
TRAINER_WARMUP = 1_500_000
TRAINER_RATE = 10_000
TRAINER_SECS = 60
# a share of the way to an oracle that is no way off says nothing
WAY_MIN = 0.005
NEVER_READ = ["stored", "overwritten", "read at once"]
NEVER_READ_STORES = 2_000_000


def measure(quick):
    build()
    rows, gains, near_all, shares = [], [], [], []
    with scratch() as folder:
        for name in ["arc-oltp"] if quick else TRACES:
            trace = shared_trace(name, folder, 1_000_000)
            gain, below, share, own = one(name, trace, ["--limit", 500_000] if quick else [])
            gains.append(gain)
            near_all.append(below)
            shares += [] if share is None else [share]
            rows += own
        for name, requests, tenants in [] if quick else SYNTHESISED:
            for gain, below, share, own in synthesised(pathlib.Path(folder), name, requests, tenants):
                gains.append(gain)
                near_all.append(below)
                shares += [] if share is None else [share]
                rows += own
        rows += [] if quick else [trainer(folder)]
        rows += [never_read(pathlib.Path(folder), kind) for kind in NEVER_READ]
    half = (len(gains) + 1) // 2
    rows.append(at_least("traces on which the predictor beats the best filter by a point", sum(gain >= 1 for gain in gains), half, "{}"))
    rows.append(at_least("traces on which it has more hits than admitting everything", sum(below <= 0 for below in near_all), half, "{}"))
    rows.append(at_least("share of the way from the best filter to the oracle, on the mean", sum(shares) / len(shares), 0.6, "{:.2f}"))
    return rows


def never_read(folder, kind):
    """What nobody reads once it has left DRAM: what of it is written to flash, when that is known."""
    trace, dice = folder / "never-read.csv", random.Random(1)
    with open(trace, "w") as out:
        for n in range(NEVER_READ_STORES):
            line = lambda key, op: f"{n // 4000},{key},14,1000,app,{op},0\n"
            if kind == "stored":
                out.write(line(f"once{n}", "set"))
            elif kind == "overwritten":
                out.write(line(f"again{dice.randrange(400_000)}", "set"))
            else:
                out.write(line(f"once{n}", "set") + line(f"once{max(n - dice.randrange(100), 0)}", "get"))
    warmup = NEVER_READ_STORES * (2 if kind == "read at once" else 1) * 3 // 4
    written = trace_tool("simulate", trace, "--dram", "64MiB", "--flash", "512MiB", "--warmup", warmup)["write_amplification"]
    return at_most(f"{kind}, never read again: bytes written for each byte stored", written, 0.01, "{:.3f}")


def synthesised(folder, name, requests, tenants):
    """What a synthesised trace comes to in each shape that leaves enough DRAM; nothing, if it is of figures that are not here."""
    if not WORKLOADS.exists() and any("cachebench=" in tenant for tenant in tenants):
        return
    trace = folder / f"{name}.csv.zst"
    command = [BIN / "flashare-trace", "synth", trace, "--requests", requests, "--rate", SYNTHESISED_RATE]
    command += [word for tenant in tenants for word in ("--tenant", tenant)]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    working_set = trace_tool("stat", trace)["working_set_bytes"] / 2**20
    for part, parts in SHAPES:
        dram = round(working_set / part / parts)
        if dram >= DRAM_MIN_MIB:
            flash = round(working_set / part) - dram
            yield compared(name, trace, dram, flash, [], SYNTHESISED_BUDGETS, [], SYNTHESISED_FILTERS)
    trace.unlink()


def trainer(folder):
    """What training takes of a core, once what a start saves up for it is spent: at a rate a few times that of the trace."""
    trace = shared_trace("mt-a", folder, 2_000_000)
    path = f"{folder}/trainer.flash:106MiB"
    with Server([BIN / "flashare", "-p", "{port}", "-m", 15, "--flash", path]) as server:
        address = ["--server", f"127.0.0.1:{server.port}"]
        trace_tool("replay", trace, *address, "--limit", TRAINER_WARMUP)
        before = server.thread_seconds("trainer")
        began = time.monotonic()
        trace_tool("replay", trace, *address, "--rate", TRAINER_RATE, "--limit", TRAINER_RATE * TRAINER_SECS)
        share = (server.thread_seconds("trainer") - before) / (time.monotonic() - began) * 100
    what = f"mt-a at {TRAINER_RATE:,} requests/s for {TRAINER_SECS} s: training's share of a core (it began with {before:.1f} s)"
    return at_most(what, share, 3, "{:.2f}", " %")


def sweep(trace, sizes, axis, limit):
    return trace_tool("simulate", trace, *sizes, "--sweep", axis, *limit)["runs"]


def one(name, trace, limit):
    """A trace with DRAM to flash as 1 to 7, a quarter of the working set."""
    total = trace_tool("stat", trace)["working_set_bytes"] / 4 / 2**20
    return compared(name, trace, max(4, round(total / 8)), max(24, round(total * 7 / 8)), limit, BUDGETS, THRESHOLDS)


def compared(name, trace, dram, flash, limit, budgets, thresholds, filters=FILTERS):
    """Filters, the predictor and the oracle on a trace: the best of them for each amount written."""
    sizes = ["--dram", f"{dram}MiB", "--flash", f"{flash}MiB"]
    filters = sweep(trace, sizes, "admission=" + ",".join(filters), limit)
    own = sweep(trace, sizes, "flash-write-budget=" + ",".join(budgets), limit)
    own += sweep(trace, sizes, "threshold=" + ",".join(map(str, thresholds)), limit) if thresholds else []
    oracle = sweep(trace, sizes, "admission=oracle", limit)[0]
    KEPT.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{dram}-{flash}"
    (KEPT / f"{stem}.json").write_text(json.dumps({"trace": name, "runs": filters + own + [oracle]}))
    report = [BIN / "flashare-trace", "report", KEPT / f"{stem}.json", "--out", KEPT / f"{stem}.html"]
    subprocess.run([*report, "--plots", KEPT / stem, "--title", f"{name}: {dram} and {flash} MiB"], check=True)
    return judged(f"{name}, {dram} and {flash} MiB", filters, own, oracle)


def judged(what, filters, own, oracle):
    """Rows for a trace; the points by which the predictor beats the best filter, and is below admitting everything; its share of the way to the oracle."""
    rows, worst = [], 100.0
    for run in filters:
        hits = at_bytes(own, run["flash_bytes_written"])
        apart = (hits - run["hit_ratio"]) * 100 if hits is not None else WORST_POINTS
        told = "it never writes as little" if hits is None else f"{apart:+.2f} points"
        figures = f"{run['hit_ratio']:.2%} at {run['write_amplification']:.3f} written for each byte stored"
        worst = min(worst, apart)
        rows.append(Row(f"{what}: {run['settings']['admission']}: {figures}; svm at equal writes", told, "stated", True))
    rows.append(at_least(f"{what}: svm at equal writes, beside the best filter", worst, 0, "{:+.2f}", " points"))
    everything = next(run for run in filters if run["settings"]["admission"] == "all")
    sparing = [run["hit_ratio"] for run in own if run["write_amplification"] <= 0.5]
    below = (everything["hit_ratio"] - max(sparing)) * 100 if sparing else 100.0
    rows.append(at_most(f"{what}: svm at 0.5 or less written, below admitting everything", below, 0.3, "{:.2f}", " points"))
    affordable = [run for run in filters if run["flash_bytes_written"] <= oracle["flash_bytes_written"] * SAME_BYTES]
    best = max((run["hit_ratio"] for run in affordable), default=0.0)
    way = oracle["hit_ratio"] - best
    hits = at_bytes(own, oracle["flash_bytes_written"])
    share = ((hits if hits is not None else best) - best) / way if way > WAY_MIN else None
    figures = f"oracle {oracle['hit_ratio']:.2%} at {oracle['write_amplification']:.3f}, best filter that writes no more {best:.2%}"
    told = "no way" if share is None else f"{share:.2f}"
    rows.append(Row(f"{what}: {figures}; svm's share of the way", told, "stated", True))
    return worst, below, share, rows


def at_bytes(runs, wanted):
    """The best hit ratio of those that write no more than so many bytes, or a twentieth more, or of a budget between two of theirs; None if
    all write more."""
    hits = [run["hit_ratio"] for run in runs if run["flash_bytes_written"] <= wanted * SAME_BYTES]
    line = sorted((run["flash_bytes_written"], run["hit_ratio"]) for run in runs if "flash-write-budget" in run["settings"])
    for (low, below), (high, above) in zip(line, line[1:]):
        if low < wanted < high:
            hits.append(below + (wanted - low) / (high - low) * (above - below))
    return max(hits, default=None)
