"""The first slice: two traces over the network, every answer checked, both tiers at work, the simulator agreeing."""

import pathlib

from .kit import Row, Server, BIN, at_least, at_most, build, equal_tenants, exactly, scratch, shared_trace, trace_tool

RUNS = [("mt-a", 16, 128), ("orm-busy", 4, 24)]


def measure(quick):
    build()
    rows = []
    with scratch() as folder:
        for name, dram, flash in RUNS:
            trace = shared_trace(name, folder, 2_000_000)
            rows += replay(trace, name, dram, flash, pathlib.Path(folder), quick)
    return rows


def replay(trace, name, dram, flash, folder, quick):
    config = folder / f"{name}.toml"
    tenants = equal_tenants(trace, dram, config)
    limit = ["--limit", 1_200_000] if quick else []
    flags = ["-m", dram, "--config", config, "--flash", f"{folder}/{name}.flash:{flash}MiB"]
    with Server([BIN / "flashare", "-p", "{port}", "-t", 4, *flags]) as server:
        ran = trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", *limit)
        peak = server.status_kib("VmHWM") / 1024
    sizes = ["--dram", f"{dram}MiB", "--flash", f"{flash}MiB", "--config", config]
    simulated = trace_tool("simulate", trace, *sizes, *limit)
    apart = abs(ran["hit_ratio"] - simulated["hit_ratio"]) * 100
    return [
        exactly(f"{name}: wrong values", ran["wrong_values"], 0),
        exactly(f"{name}: stale values", ran["stale_values"], 0),
        at_least(f"{name}: hits from DRAM", ran["dram_hits"], 1, "{:,}"),
        at_least(f"{name}: hits from flash", ran["flash_hits"], 1, "{:,}"),
        # a quick run may be too short for the smallest tenants to gather samples
        at_least(f"{name}: tenants with a trained model", ran["models_trained"], 1 if quick else tenants, "{}"),
        at_most(f"{name}: hit ratio {ran['hit_ratio']:.2%}, apart from the simulated", apart, 1.0, "{:.2f}", " points"),
        at_most(f"{name}: peak RSS", peak, dram * 1.05 + 32, "{:.1f}", " MiB"),
        Row(f"{name}: write amplification", f"{ran['write_amplification']:.3f}", "stated", True),
    ]
