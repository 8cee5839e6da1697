"""Tenants: who gets memory and what it earns, isolation, and what many tenants cost."""

import csv
import pathlib
import random
import statistics
import subprocess
import sys
import time

from .kit import BIN, ROOT, Row, Server, at_least, at_most, beginning, build, equal_tenants, free_port, scratch, stats, trace_tool


def measure(quick):
    build()
    rows = []
    with scratch() as folder:
        folder = pathlib.Path(folder)
        # a quick look is at the beginning of each trace, in as much less memory
        limit = 300_000 if quick else None
        trace, dram = beginning("mt-a", folder, limit), 16 if quick else 64
        rows += five(folder, trace, dram)
        rows += real(beginning("mt-real-a", folder, limit))
        rows += [] if quick else alone(folder, trace, dram)
        rows += shift(folder, quick)
        rows += cleaner(folder, trace, dram)
        rows += many(folder, quick)
        rows += isolation(folder, quick)
    return rows


def simulate(trace, dram, *more):
    return trace_tool("simulate", trace, "--dram", f"{dram}MiB", *more)


def five(folder, trace, dram):
    """mt-a: five tenants, half of the memory reserved in equal parts."""
    ours = simulate(trace, dram)["hit_ratio"] * 100
    whole = simulate(trace, dram, "--arbiter", "global")["hit_ratio"] * 100
    static = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1)["hit_ratio"] * 100
    lists = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1, "--rank", "lru")["hit_ratio"] * 100
    rows = [
        Row(f"mt-a, {dram} MiB: above static equal partitions, each an LRU, {lists:.2f} %", f"{ours - lists:.2f} points", "stated", True),
        at_least(f"mt-a, {dram} MiB: hit ratio {ours:.2f} %, above one global order of the same rank's {whole:.2f} %", ours - whole, 0, "{:.2f}", " points"),
        at_least(f"mt-a, {dram} MiB: above static equal partitions' {static:.2f} %", ours - static, 3, "{:.2f}", " points"),
    ]
    memcached = subprocess.check_output([ROOT / "benches/peers/memcached.sh"], text=True).strip()
    config = folder / "mt-a.toml"
    equal_tenants(trace, dram, config)
    ratios = {}
    for name, command in [
        ("memcached", [memcached, "-p", "{port}", "-m", dram, "-t", 2, "-u", "root"]),
        ("flashare", [BIN / "flashare", "-p", "{port}", "-m", dram, "-t", 2, "--no-flash", "--config", config]),
    ]:
        with Server(command) as server:
            ratios[name] = trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", "--value-max", 1_000_000)["hit_ratio"]
    fewer = 100 - 100 * (1 - ratios["flashare"]) / (1 - ratios["memcached"])
    what = f"mt-a, -m {dram}, over the network: misses fewer than memcached's ({ratios['flashare']:.2%} of {ratios['memcached']:.2%} hits)"
    return [*rows, at_least(what, fewer, 15, "{:.1f}", " %")]


def real(trace):
    """mt-real-a: 27 tenants that come and go."""
    working_set = trace_tool("stat", trace)["working_set_bytes"] / 2**20
    rows = []
    for share in [0.05, 0.2]:
        dram = max(4, round(working_set * share))
        ours = simulate(trace, dram)["hit_ratio"] * 100
        whole = simulate(trace, dram, "--arbiter", "global", "--rank", "lru")["hit_ratio"] * 100
        same = simulate(trace, dram, "--arbiter", "global")["hit_ratio"] * 100
        static = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1)["hit_ratio"] * 100
        lists = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1, "--rank", "lru")["hit_ratio"] * 100
        what = f"mt-real-a, {share:.0%} of the working set, {dram} MiB"
        rows += [
            at_least(f"{what}: hit ratio {ours:.2f} %, above one global LRU's {whole:.2f} %", ours - whole, 2, "{:.2f}", " points"),
            Row(f"{what}: above one global order of our rank's {same:.2f} %", f"{ours - same:.2f} points", "stated", True),
            Row(f"{what}: above static partitions, each an LRU, {lists:.2f} %", f"{ours - lists:.2f} points", "stated", True),
            at_least(f"{what}: above static partitions' {static:.2f} %", ours - static, 5, "{:.2f}", " points"),
        ]
    return rows


def alone(folder, trace, dram):
    """Nobody is below what its reservation alone would give it: its own trace on that memory."""
    together = simulate(trace, dram)["tenants"]
    together = together if isinstance(together, dict) else {row["name"]: row for row in together}
    worst, whose = 100.0, ""
    for name in together:
        own = folder / f"{name}.csv"
        subprocess.run([BIN / "flashare-trace", "convert", trace, own, "--tenant", name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        by_itself = simulate(own, dram / 2 / len(together), "--arbiter", "fixed", "--reserved-share", 1)["hit_ratio"]
        gain = (together[name]["hit_ratio"] - by_itself) * 100
        if gain < worst:
            worst, whose = gain, name
    return [at_least(f"mt-a, {dram} MiB: who gains least against its reservation alone ({whose})", worst, -0.5, "{:.2f}", " points")]


def shift(folder, quick):
    """One tenant's working set triples and another goes idle: how long until memory has followed."""
    trace = folder / "shift.csv"
    dice = random.Random(1)
    shifted, rate, end = (200, 2_000, 500) if quick else (600, 2_000, 1_500)
    with open(trace, "w") as out:
        out.write("time,key,key_size,value_size,tenant,op,ttl\n")
        for second in range(end):
            for n in range(rate):
                if second < shifted:
                    tenant, key = ("a", dice.randrange(8_000)) if n % 2 else ("b", dice.randrange(8_000))
                else:
                    tenant, key = "a", dice.randrange(24_000)
                out.write(f"{second + n / rate:.4f},{key},10,500,{tenant},get,0\n")
    windows = folder / "shift.windows.csv"
    simulate(trace, 16, "--reserved-share", 0.25, "--windows", windows)
    with open(windows) as rows:
        ratio = [(float(row["seconds"]), float(row["hit_ratio"])) for row in csv.DictReader(rows) if row["tenant"] == "a"]
    settled = statistics.mean(value for at, value in ratio if at > end - 200)
    without = [value for at, value in ratio if shifted < at < shifted + 30]
    before = min(without) if without else 0.0
    reached = next((at for at, value in ratio if at > shifted + 15 and value >= before + 0.9 * (settled - before)), 1e9)
    return [at_most(f"after a shift: seconds until 90 % of the gain (from {before:.1%} to {settled:.1%} hits)", reached - shifted, 300, "{:.0f}", " s")]


def cleaner(folder, trace, dram):
    config = folder / "cleaner.toml"
    equal_tenants(trace, dram, config)
    with Server([BIN / "flashare", "-p", "{port}", "-m", dram, "-t", 2, "--no-flash", "--config", config]) as server:
        trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", "--value-max", 1_000_000)
        cost = float(stats(server.port, "cleaner")["relocated_for_each_freed"])
    rows = [at_most(f"mt-a, {dram} MiB: bytes relocated for each byte freed", cost, 4, "{:.2f}")]
    ours, exact = (simulate(trace, dram, *more)["hit_ratio"] * 100 for more in ([], ["--exact-order"]))
    what = f"mt-a, {dram} MiB: hit ratio {ours:.2f} % below that of passes over everything, {exact:.2f} %"
    return [*rows, at_most(what, exact - ours, 0.3, "{:.2f}", " points")]


def many(folder, quick):
    """What a tenant costs, and what many cost a store with cleaning."""
    counts = [1, 100, 2_000] if quick else [1, 100, 10_000]
    hot = folder / "many.csv"
    subprocess.run([BIN / "flashare-trace", "synth", hot, "--requests", str(300_000 if quick else 2_000_000), "--tenant", "t0,objects=400000,one-hit=0.3,sets=0.5,size=200,key=20"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cpu, rss = {}, {}
    for count in counts:
        config = folder / f"many-{count}.toml"
        config.write_text("".join(f'[[tenant]]\nname = "t{n}"\nprefix = "t{n}:"\n' for n in range(count)))
        with Server([BIN / "flashare", "-p", "{port}", "-m", 64 if quick else 1024, "-t", 1, "--no-flash", "--config", config]) as server:
            rss[count] = server.status_kib("VmRSS") * 1024
            before = server.cpu_seconds()
            # without asking for statistics: what 10,000 tenants say of themselves is 20 MB
            ran = trace_tool("replay", hot, "--server", f"127.0.0.1:{server.port}", "--pipeline", 64, "--no-stats")
            cpu[count] = (server.cpu_seconds() - before) / ran["requests"] * 1e6
    few, most = counts[1], counts[-1]
    return [
        Row("server CPU a request, stores with cleaning, of " + ", ".join(f"{count:,}" for count in counts) + " tenants", ", ".join(f"{cpu[count]:.2f}" for count in counts) + " us", "stated", True),
        at_most(f"of {most:,} tenants against {few}: CPU a request", cpu[most] / cpu[few], 1.5, "{:.2f}"),
        at_most("bytes a tenant, from RSS at the start", (rss[most] - rss[few]) / (most - few), 16_384, "{:,.0f}"),
    ]


FLOODS = {
    "sets": "objects=2000000,one-hit=0.9,sets=0.7,size=4000,key=20",
    "misses": "objects=2000000,one-hit=1,sets=0,size=300,key=20",
    "huge values": "objects=20000,one-hit=0.9,sets=1,size=700000,sigma=0.1,key=20",
}
# opens and closes connections as fast as the other side lets it
CROWD = """
import socket, sys
while True:
    held = []
    for _ in range(200):
        client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
        client.sendall(b"mn\\r\\n")
        held.append(client)
    for client in held:
        try:
            client.recv(100)
        except OSError:
            pass
        client.close()
"""


def isolation(folder, quick):
    """One tenant floods; another's hit ratio and p99, medians of rounds. The flood's generator shares the core of the tool that measures: it runs
    when nobody else wants that core, so that what is measured is the server."""
    config = folder / "isolation.toml"
    crowded = free_port()
    limits = 'max_requests = 20000\nmax_bandwidth = "20MB"\nmax_connections = 64\n'
    config.write_text(f'[[tenant]]\nname = "calm"\nprefix = "calm:"\nreserved = "24MiB"\n\n[[tenant]]\nname = "flood"\nprefix = "flood:"\n{limits}\n[[tenant]]\nname = "crowd"\nport = {crowded}\n{limits}')
    seconds, rounds, rate = (2, 1, 5_000) if quick else (5, 3, 5_000)
    run = lambda *words: subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tool = [BIN / "flashare-trace", "synth"]
    calm = folder / "calm.csv"
    run(*tool, calm, "--requests", rate * seconds * 2, "--tenant", "calm,objects=20000,one-hit=0,sets=0,size=300,key=20")
    for name, what in FLOODS.items():
        run(*tool, folder / f"{name}.csv", "--requests", 500_000 if quick else 2_000_000, "--tenant", f"flood,{what}")
    idle = ["chrt", "--idle", "0", "taskset", "-c", "1"]
    figures = {name: [] for name in ["quiet", *FLOODS, "connections"]}
    with Server([BIN / "flashare", "-p", "{port}", "-m", 48, "-t", 1, "--no-flash", "--config", config], cpu=0) as server:
        at = f"127.0.0.1:{server.port}"
        trace_tool("replay", calm, "--server", at)  # what it asks for is there
        for _ in range(rounds):
            for name, ran in figures.items():
                noise = None
                if name == "connections":
                    noise = [*idle, sys.executable, "-c", CROWD, str(crowded)]
                elif name != "quiet":
                    noise = [*idle, BIN / "flashare-trace", "replay", folder / f"{name}.csv", "--server", at, "--pipeline", "32", "--mode", "write-through", "--no-stats"]
                noise = noise and subprocess.Popen(list(map(str, noise)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(1)
                before = server.cpu_seconds()
                seen = trace_tool("replay", calm, "--server", at, "--rate", rate, "--limit", rate * seconds, cpu=1)
                ran.append((seen["hit_ratio"], seen["latency_us"]["p99"], (server.cpu_seconds() - before) / seconds))
                if noise:
                    if noise.poll() is not None:
                        raise RuntimeError(f"the flood of {name} ended before it was measured")
                    noise.terminate()
                    noise.wait()
    middle = {name: [statistics.median(figure) for figure in zip(*ran)] for name, ran in figures.items()}
    hits, p99, cpu = middle.pop("quiet")
    rows = [Row("a calm tenant alone, 5,000 GET/s: p99, part of a core", f"{p99:,.0f} us, {cpu:.2f}", "stated", True)]
    for name, (own_hits, own_p99, own_cpu) in middle.items():
        what = f"beside a flood of {name}"
        rows += [
            at_most(f"{what}: hit ratio lost, of {hits:.2%}", (hits - own_hits) * 100, 1, "{:.2f}", " points"),
            at_most(f"{what}: p99 {own_p99:,.0f} us, of the quiet {p99:,.0f} (the server takes {own_cpu:.2f} of a core)", own_p99 / p99, 2, "{:.2f}"),
        ]
    return rows
