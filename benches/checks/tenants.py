"""Tenants: who gets memory and what it earns, isolation, and what many tenants cost."""

import csv
import pathlib
import random
import statistics
import subprocess
import time

from .kit import BIN, ROOT, Row, Server, at_least, at_most, build, equal_tenants, scratch, shared_trace, trace_tool


def measure(quick):
    build()
    rows = []
    with scratch() as folder:
        folder = pathlib.Path(folder)
        limit = ["--limit", 300_000] if quick else []
        rows += five(folder, limit, quick)
        rows += real(folder, limit)
        rows += [] if quick else alone(folder)
        rows += shift(folder, quick)
        rows += cleaner(folder, limit)
        rows += many(folder, quick)
        rows += isolation(folder, quick)
    return rows


def simulate(trace, dram, *more):
    return trace_tool("simulate", trace, "--dram", f"{dram}MiB", *more)


def five(folder, limit, quick):
    """mt-a: five tenants, half of 64 MiB reserved in equal parts."""
    trace = shared_trace("mt-a", folder, 2_000_000)
    ours = simulate(trace, 64, *limit)["hit_ratio"] * 100
    whole = simulate(trace, 64, "--arbiter", "global", *limit)["hit_ratio"] * 100
    static = simulate(trace, 64, "--arbiter", "fixed", "--reserved-share", 1, *limit)["hit_ratio"] * 100
    lists = simulate(trace, 64, "--arbiter", "fixed", "--reserved-share", 1, "--rank", "lru", *limit)["hit_ratio"] * 100
    rows = [
        Row(f"mt-a, 64 MiB: above static equal partitions, each an LRU, {lists:.2f} %", f"{ours - lists:.2f} points", "stated", True),
        at_least(f"mt-a, 64 MiB: hit ratio {ours:.2f} %, above one global order of the same rank's {whole:.2f} %", ours - whole, 0, "{:.2f}", " points"),
        at_least(f"mt-a, 64 MiB: above static equal partitions' {static:.2f} %", ours - static, 3, "{:.2f}", " points"),
    ]
    memcached = subprocess.check_output([ROOT / "benches/peers/memcached.sh"], text=True).strip()
    config = folder / "mt-a.toml"
    equal_tenants(trace, 64, config)
    ratios = {}
    for name, command in [
        ("memcached", [memcached, "-p", "{port}", "-m", 64, "-t", 2, "-u", "root"]),
        ("flashare", [BIN / "flashare", "-p", "{port}", "-m", 64, "-t", 2, "--no-flash", "--config", config]),
    ]:
        with Server(command) as server:
            more = ["--limit", 300_000] if quick else []
            ratios[name] = trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", "--value-max", 1_000_000, *more)["hit_ratio"]
    fewer = 100 - 100 * (1 - ratios["flashare"]) / (1 - ratios["memcached"])
    what = f"mt-a, -m 64, over the network: misses fewer than memcached's ({ratios['flashare']:.2%} of {ratios['memcached']:.2%} hits)"
    return [*rows, at_least(what, fewer, 15, "{:.1f}", " %")]


def real(folder, limit):
    """mt-real-a: 27 tenants that come and go."""
    trace = shared_trace("mt-real-a", folder, 1_000_000)
    working_set = trace_tool("stat", trace)["working_set_bytes"] / 2**20
    rows = []
    for share in [0.05, 0.2]:
        dram = max(4, round(working_set * share))
        ours = simulate(trace, dram, *limit)["hit_ratio"] * 100
        whole = simulate(trace, dram, "--arbiter", "global", "--rank", "lru", *limit)["hit_ratio"] * 100
        same = simulate(trace, dram, "--arbiter", "global", *limit)["hit_ratio"] * 100
        static = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1, *limit)["hit_ratio"] * 100
        lists = simulate(trace, dram, "--arbiter", "fixed", "--reserved-share", 1, "--rank", "lru", *limit)["hit_ratio"] * 100
        what = f"mt-real-a, {share:.0%} of the working set, {dram} MiB"
        rows += [
            at_least(f"{what}: hit ratio {ours:.2f} %, above one global LRU's {whole:.2f} %", ours - whole, 2, "{:.2f}", " points"),
            Row(f"{what}: above one global order of our rank's {same:.2f} %", f"{ours - same:.2f} points", "stated", True),
            Row(f"{what}: above static partitions, each an LRU, {lists:.2f} %", f"{ours - lists:.2f} points", "stated", True),
            at_least(f"{what}: above static partitions' {static:.2f} %", ours - static, 5, "{:.2f}", " points"),
        ]
    return rows


def alone(folder):
    """Nobody is below what its reservation alone would give it: its own trace on that memory."""
    trace = shared_trace("mt-a", folder, 2_000_000)
    together = simulate(trace, 64)["tenants"]
    together = together if isinstance(together, dict) else {row["name"]: row for row in together}
    worst, whose = 100.0, ""
    for name in together:
        own = folder / f"{name}.csv"
        subprocess.run([BIN / "flashare-trace", "convert", trace, own, "--tenant", name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        by_itself = simulate(own, 64 / 2 / len(together), "--arbiter", "fixed", "--reserved-share", 1)["hit_ratio"]
        gain = (together[name]["hit_ratio"] - by_itself) * 100
        if gain < worst:
            worst, whose = gain, name
    return [at_least(f"mt-a, 64 MiB: who gains least against its reservation alone ({whose})", worst, -0.5, "{:.2f}", " points")]


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


def cleaner(folder, limit):
    trace = shared_trace("mt-a", folder, 2_000_000)
    config = folder / "cleaner.toml"
    equal_tenants(trace, 64, config)
    with Server([BIN / "flashare", "-p", "{port}", "-m", 64, "-t", 2, "--no-flash", "--config", config]) as server:
        trace_tool("replay", trace, "--server", f"127.0.0.1:{server.port}", "--value-max", 1_000_000, *limit)
        cost = float(stats(server.port, "cleaner")["relocated_for_each_freed"])
    rows = [at_most("mt-a, 64 MiB: bytes relocated for each byte freed", cost, 4, "{:.2f}")]
    ours, exact = (simulate(trace, 64, *more, *limit)["hit_ratio"] * 100 for more in ([], ["--exact-order"]))
    what = f"mt-a, 64 MiB: hit ratio {ours:.2f} % below that of passes over everything, {exact:.2f} %"
    return [*rows, at_most(what, exact - ours, 0.3, "{:.2f}", " points")]


def stats(port, what):
    import socket

    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"stats {what}\r\n".encode())
        text = b""
        while not text.endswith(b"END\r\n"):
            text += connection.recv(65536)
    pairs = (line.split(" ", 2)[1:] for line in text.decode().splitlines() if line.startswith("STAT "))
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


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


def isolation(folder, quick):
    """One tenant floods; the other's hit ratio and p99."""
    config = folder / "isolation.toml"
    config.write_text('[[tenant]]\nname = "calm"\nprefix = "calm:"\nreserved = "24MiB"\n\n[[tenant]]\nname = "flood"\nprefix = "flood:"\nmax_requests = 20000\nmax_bandwidth = "20MB"\n')
    seconds = 4 if quick else 10
    calm = folder / "calm.csv"
    flood = folder / "flood.csv"
    rate = 5_000
    tool = [BIN / "flashare-trace", "synth"]
    run = lambda *words: subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run(*tool, calm, "--requests", rate * seconds * 2, "--tenant", "calm,objects=20000,one-hit=0,sets=0,size=300,key=20")
    run(*tool, flood, "--requests", 40_000_000 // (4 if quick else 1) // 20, "--tenant", "flood,objects=2000000,one-hit=0.9,sets=0.7,size=4000,key=20")
    figures = {}
    with Server([BIN / "flashare", "-p", "{port}", "-m", 48, "-t", 1, "--no-flash", "--config", config], cpu=0) as server:
        at = f"127.0.0.1:{server.port}"
        trace_tool("replay", calm, "--server", at)  # what it asks for is there
        for name in ["quiet", "beside a flood"]:
            noise = None
            if name != "quiet":
                noise = subprocess.Popen(["nice", "-n", "19", "taskset", "-c", "1", str(BIN / "flashare-trace"), "replay", str(flood), "--server", at, "--pipeline", "32", "--mode", "write-through", "--no-stats"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(0.5)
            figures[name] = trace_tool("replay", calm, "--server", at, "--rate", rate, "--limit", rate * seconds, cpu=1)
            if noise:
                noise.terminate()
                noise.wait()
    quiet, beside = figures["quiet"], figures["beside a flood"]
    lost = (quiet["hit_ratio"] - beside["hit_ratio"]) * 100
    p99 = lambda ran: ran["latency_us"]["p99"]
    return [
        at_most(f"beside a flood of sets: hit ratio lost, of {quiet['hit_ratio']:.2%}", lost, 1, "{:.2f}", " points"),
        at_most(f"beside a flood of sets: p99 {p99(beside):,.0f} us, of the quiet {p99(quiet):,.0f}", p99(beside) / p99(quiet), 2, "{:.2f}"),
    ]
