"""The predictor against plain filters and against an oracle, in the engine itself: hit ratio by bytes written to flash."""

import pathlib

from .kit import BIN, Row, at_least, at_most, build, scratch, shared_trace, trace_tool

TRACES = ["orm-busy", "blocks-w106a", "mt-a", "arc-oltp", "arc-p6", "mt-real-a"]
FILTERS = ["all", "second-hit", "small-fifo", "random:0.1", "random:0.3", "random:0.6"]
THRESHOLDS = [-2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2]
WORST_POINTS = -100.0


def measure(quick):
    build()
    rows, gains, near_all, shares = [], [], [], []
    with scratch() as folder:
        for name in ["arc-oltp"] if quick else TRACES:
            trace = shared_trace(name, folder, 1_000_000)
            gain, below, share, own = one(name, trace, ["--limit", 500_000] if quick else [])
            gains.append(gain)
            near_all.append(below)
            shares.append(share)
            rows += own
    half = (len(gains) + 1) // 2
    rows.append(at_least("traces on which the predictor beats the best filter by a point", sum(gain >= 1 for gain in gains), half, "{}"))
    rows.append(at_least("traces on which it has more hits than admitting everything", sum(below <= 0 for below in near_all), half, "{}"))
    rows.append(at_least("share of the way from the best filter to the oracle, on the mean", sum(shares) / len(shares), 0.6, "{:.2f}"))
    return rows


def sweep(trace, sizes, axis, limit):
    return trace_tool("simulate", trace, *sizes, "--sweep", axis, *limit)["runs"]


def one(name, trace, limit):
    """A trace with DRAM to flash as 1 to 7, a quarter of the working set."""
    total = trace_tool("stat", trace)["working_set_bytes"] / 4 / 2**20
    dram, flash = max(4, round(total / 8)), max(24, round(total * 7 / 8))
    sizes = ["--dram", f"{dram}MiB", "--flash", f"{flash}MiB"]
    filters = sweep(trace, sizes, "admission=" + ",".join(FILTERS), limit)
    curve = sweep(trace, sizes, "threshold=" + ",".join(map(str, THRESHOLDS)), limit)
    oracle = sweep(trace, sizes, "admission=oracle", limit)[0]
    curve = sorted((run["flash_bytes_written"], run["hit_ratio"], run["write_amplification"]) for run in curve)
    what = f"{name}, {dram} and {flash} MiB"
    rows, worst = [], 100.0
    for run in filters:
        label = run["settings"]["admission"]
        hits = at_bytes(curve, run["flash_bytes_written"])
        apart = (hits - run["hit_ratio"]) * 100 if hits is not None else None
        told = "it never writes as little or as much" if apart is None else f"{apart:+.2f} points"
        figures = f"{run['hit_ratio']:.2%} at {run['write_amplification']:.3f} written for each byte stored"
        worst = min(worst, WORST_POINTS if apart is None and label != "all" else apart if apart is not None else worst)
        rows.append(Row(f"{what}: {label}: {figures}; svm at equal writes", told, "stated", True))
    rows.append(at_least(f"{what}: svm at equal writes, beside the best filter", worst, 0, "{:+.2f}", " points"))
    everything = next(run for run in filters if run["settings"]["admission"] == "all")
    sparing = [hits for _, hits, amplification in curve if amplification <= 0.5]
    below = (everything["hit_ratio"] - max(sparing)) * 100 if sparing else 100.0
    rows.append(at_most(f"{what}: svm at 0.5 or less written, below admitting everything", below, 0.3, "{:.2f}", " points"))
    best = max((run for run in filters if run["flash_bytes_written"] <= oracle["flash_bytes_written"] * 1.05), key=lambda run: run["hit_ratio"])
    own = at_bytes(curve, oracle["flash_bytes_written"])
    way = oracle["hit_ratio"] - best["hit_ratio"]
    share = ((own if own is not None else best["hit_ratio"]) - best["hit_ratio"]) / way if way > 0 else 1.0
    figures = f"oracle {oracle['hit_ratio']:.2%} at {oracle['write_amplification']:.3f}"
    rows.append(Row(f"{what}: {figures}; the way to it from the best filter that writes no more", f"{share:.2f}", "stated", True))
    return worst, below, share, rows


def at_bytes(curve, wanted):
    """The hit ratio of the curve at so many bytes written, between its points; None outside of them."""
    for (low, low_hits, _), (high, high_hits, _) in zip(curve, curve[1:]):
        if low * 0.95 <= wanted <= high * 1.05:
            part = min(max((wanted - low) / max(high - low, 1), 0), 1)
            return low_hits + part * (high_hits - low_hits)
    return None
