"""Starting servers, replaying traces, and rows of figures beside their bounds."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# binaries that somebody else has built, or our own
BIN = pathlib.Path(os.environ.get("FLASHARE_BIN", ROOT / "target/release"))
TRACES = pathlib.Path(os.environ.get("FLASHARE_TRACES", ROOT.parent / "shared/traces"))


class Row:
    """A figure beside its bound."""

    def __init__(self, name, figure, bound, holds):
        self.name, self.figure, self.bound, self.holds = name, figure, bound, bool(holds)

    def cells(self):
        return [self.name, self.figure, self.bound, "holds" if self.holds else "SHORT"]


def at_most(name, figure, bound, form="{:.3g}", unit=""):
    return Row(name, form.format(figure) + unit, "at most " + form.format(bound) + unit, figure <= bound)


def at_least(name, figure, bound, form="{:.3g}", unit=""):
    return Row(name, form.format(figure) + unit, "at least " + form.format(bound) + unit, figure >= bound)


def exactly(name, figure, bound):
    return Row(name, str(figure), str(bound), figure == bound)


def cargo_build(*which):
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *which], cwd=ROOT, check=True)


def build(*packages):
    if "FLASHARE_BIN" not in os.environ:
        cargo_build(*([word for package in packages for word in ("-p", package)] or ["--bin", "flashare", "--bin", "flashare-trace"]))


def null_server():
    """A server that answers a fixed value without a lookup: another make of ours, which is put back where that was built."""
    null = ROOT / "target/null-server"
    cargo_build("--bin", "flashare", "--features", "server/null")
    shutil.copy(ROOT / "target/release/flashare", null)
    cargo_build("--bin", "flashare")
    return null


def scratch():
    """A folder on a disk (direct I/O needs one) that is removed with the returned object."""
    (ROOT / "target").mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bounds-", dir=ROOT / "target")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process; `command` names its port as {port}, or its Unix socket is `path`; `group` is a memory cgroup for it."""

    def __init__(self, command, cpu=None, path=None, group=None):
        self.port = free_port()
        command = [str(word).replace("{port}", str(self.port)) for word in command]
        if cpu is not None:
            command = ["taskset", "-c", str(cpu), *command]
        if group is not None:
            command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                if path is None:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                else:
                    with socket.socket(socket.AF_UNIX) as probe:
                        probe.connect(path)
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("does not serve: " + " ".join(command)) from None
                time.sleep(0.05)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def thread_seconds(self, name):
        """CPU seconds of the threads of this name."""
        seconds = 0.0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def status_kib(self, key):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise KeyError(key)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def stats(port, what=""):
    """What `stats WHAT` says, by name."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"stats {what}".rstrip().encode() + b"\r\n")
        lines = iter(connection.makefile("r").readline, "END\n")
        pairs = (line.strip().split(" ", 2)[1:] for line in lines)
        return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


def trace_tool(*arguments, cpu=None):
    """Runs flashare-trace, on one core if that is said; returns what it wrote with --json."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
        command = [*pin, BIN / "flashare-trace", *map(str, arguments), "--json", out.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name))


def shared_trace(name, folder, requests):
    """A shared trace, or a synthesised one where there is none."""
    path = TRACES / f"{name}.csv.zst"
    if path.exists():
        return path
    path = pathlib.Path(folder) / f"{name}.csv.zst"
    if not path.exists():
        command = [BIN / "flashare-trace", "synth", path, "--requests", str(requests), "--seed", str(len(name))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


def beginning(name, folder, limit):
    """The first requests of a shared trace, or all of it."""
    whole = shared_trace(name, folder, 2_000_000)
    if limit is None:
        return whole
    part = pathlib.Path(folder) / f"{name}.beginning.csv"
    command = [BIN / "flashare-trace", "convert", whole, part, "--limit", str(limit)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return part


def equal_tenants(trace, dram_mib, path):
    """Writes a configuration that reserves half the DRAM in equal parts for the trace's tenants; returns how many."""
    tenants = list(trace_tool("stat", trace)["tenants"])
    each = int(dram_mib * 1024 / 2 / len(tenants))
    rows = [f'[[tenant]]\nname = "{name}"\nprefix = "{name}:"\nreserved = "{each}KiB"\n' for name in tenants]
    pathlib.Path(path).write_text("\n".join(rows))
    return len(tenants)


def have(program):
    return shutil.which(program) is not None
