"""Servers in turns under the load generator: medians over rounds, ratios within a round."""

import json
import statistics
import subprocess

from .kit import BIN, ROOT


def peer():
    return subprocess.check_output([ROOT / "benches/peers/memcached.sh"], text=True).strip()


def load(server, *arguments, seconds=2.0, at=None):
    """One run of the load generator on the second core."""
    where = at or f"127.0.0.1:{server.port}"
    command = ["taskset", "-c", "1", BIN / "load", "--server", where, "--pid", server.process.pid, "--seconds", seconds]
    command += ["--warm-up", min(0.5, seconds / 3), *arguments]
    return json.loads(subprocess.check_output(list(map(str, command)), text=True))


def fill(server, *arguments, at=None):
    command = ["taskset", "-c", "1", BIN / "load", "--fill", "--server", at or f"127.0.0.1:{server.port}", *arguments]
    subprocess.run(list(map(str, command)), check=True)


def ratio(runs, ours, theirs, key="cpu_us_a_request"):
    return statistics.median(mine[key] / other[key] for mine, other in zip(runs[ours], runs[theirs]))


def middle(runs, who, key="cpu_us_a_request"):
    return statistics.median(run[key] for run in runs[who])


def interleaved(servers, arguments, rounds, seconds, unchecked=()):
    runs = {name: [] for name in servers}
    for round_number in range(rounds):
        for name, server in servers.items():
            extra = ["--unchecked"] if name in unchecked else []
            runs[name].append(load(server, "--seed", round_number + 1, *arguments, *extra, seconds=seconds))
    return runs
