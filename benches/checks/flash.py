"""The flash tier's bounds: packing and index on every size mix beside extstore's DRAM an object, crashes, faults, and restarts."""

import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import time

from .kit import BIN, ROOT, Row, Server, at_least, at_most, build, exactly, free_port, scratch, stats
from .load import fill, peer

WORKLOADS = pathlib.Path(os.environ.get("FLASHARE_WORKLOADS", ROOT.parent / "shared/workloads"))
MIXES = ["kvcache_reg", "graph_cache_leader_fbobj", "graph_cache_follower_assocs"]
FIXED = [100, 1000, 5000, 100_000, (1 << 20) - 200]


def measure(quick):
    build()
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "benches", "--bin", "packing", "--bin", "load"], cwd=ROOT, check=True)
    return packing(quick) + extstore(quick) + crashes(quick) + faults(quick) + device_writes(quick) + restarts(quick)


def packing(quick):
    rows = []
    mixes = []
    for name in MIXES:
        sizes = WORKLOADS / f"{name}.sizes.json"
        if sizes.exists():
            mixes.append((name, ["--sizes", sizes]))
    if not mixes:
        mixes = [(f"log-normal, mean {mean} B", ["--log-normal", mean]) for mean in (257, 404, 600)]
    for size in FIXED:
        # a segment is a whole number of these only if it is large
        large = ["--segment-mib", 64, "--flash-mib", 512 if quick else 4096] if size > 1 << 19 else []
        mixes.append((f"{size:,} B each", ["--fixed", size, *large]))
    for name, arguments in mixes:
        if quick and "--flash-mib" not in arguments:
            arguments = [*arguments, "--flash-mib", 192]
        found = json.loads(subprocess.check_output(list(map(str, [BIN / "packing", *arguments])), text=True))
        segment = next((value for flag, value in zip(arguments, arguments[1:]) if flag == "--segment-mib"), 16)
        rows.append(at_least(f"packing, {name}: share of a segment (of {segment} MiB) that holds records", found["filled"], 0.95))
        if size_of(found) < 200_000:
            rows.append(at_most(f"packing, {name}: DRAM bytes an object, at index load {found['index_load']:.2f}", found["dram_bytes_an_object"], 4.6))
        else:
            rows.append(Row(f"packing, {name}: DRAM bytes an object (of few objects; the segment table counts)", f"{found['dram_bytes_an_object']:.3g}", "stated", True))
        rows.append(at_most(f"packing, {name}: reads a hit ({found['pages_a_hit']:.2f} pages)", found["reads_a_hit"], 1.004, "{:.4f}"))
        rows.append(at_most(f"packing, {name}: share of objects that found no slot", found["entries_lost"], 0.01, "{:.5f}"))
        rows.append(Row(f"packing, {name}: bytes of those that three segments refused", f"{found['given_up']:.1%}", "stated", True))
        rows.append(at_most(f"packing, {name}: reads a miss", found["reads_a_miss"], 0.01, "{:.4f}"))
        rows.append(exactly(f"packing, {name}: answers for another key", found["wrong"], 0))
    return rows


def size_of(found):
    return found["mean_record_bytes"]


def extstore(quick):
    """DRAM that memcached's extstore takes for an object of 600 bytes: what is resident, beyond an empty server's, over what it holds."""
    keys = 300_000 if quick else 1_500_000
    dram = 24 if quick else 100
    with scratch() as folder:
        command = [peer(), "-u", "root", "-l", "127.0.0.1", "-p", "{port}", "-t", 1, "-m", dram]
        command += ["-o", f"ext_path={folder}/ext:2g,ext_item_age=0,ext_item_size=300,slab_automove_freeratio=0.02"]
        with Server(command, cpu=0) as server:
            before = server.status_kib("VmRSS")
            fill(server, "--keys", keys, "--value-bytes", 600, "--rate", 30_000 if quick else 50_000)
            time.sleep(2)
            held = int(stats(server.port)["curr_items"])
            ours = (server.status_kib("VmRSS") - before) * 1024 / held
    return [Row(f"extstore: DRAM bytes an object, of {held:,} objects of 600 B that it held", f"{ours:.0f}", "stated", True)]


def crashes(quick):
    rounds = 60 if quick else 2500
    environment = {**os.environ, "FLASHARE_CRASH_ROUNDS": str(rounds)}
    command = ["cargo", "test", "--locked", "--quiet", "--workspace", "--test", "crash", "at_any_moment", "--", "--nocapture"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    shares = re.findall(r"of what lay on flash (\d+) %", run.stdout)
    rows = [exactly(f"crashes, {2 * rounds:,} of them, half with power losses: tests of staleness that fail", run.returncode, 0)]
    rows.append(Row("crashes: share of what lay on flash that came back, killed and without power", " %, ".join(shares) + " %", "stated", True))
    kills = 6 if quick else 60
    run = subprocess.run([ROOT / "tests/crash.py", "--rounds", str(kills)], capture_output=True, text=True)
    rows.append(exactly(f"crashes of a loaded server, {kills} kills: {run.stdout.strip() or run.stderr.strip()[-200:]}", run.returncode, 0))
    return rows


def faults(quick):
    runs = 1 if quick else 40
    environment = {**os.environ, "FLASHARE_FAULT_RUNS": str(runs)}
    command = ["cargo", "test", "--locked", "--quiet", "--workspace", "--test", "crash", "faults", "--", "--nocapture"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return [exactly(f"faults, six kinds, {runs} seed(s) each: tests that fail", run.returncode, 0)]


def device_writes(quick):
    """What a page-mapped FTL would write to its cells for our writes, and for as many bytes in random pages."""
    with scratch() as folder:
        trace, out = pathlib.Path(folder) / "trace.csv.zst", pathlib.Path(folder) / "out.json"
        requests = 1_000_000 if quick else 6_000_000
        subprocess.run([BIN / "flashare-trace", "synth", "--cluster", "52", "--requests", str(requests), "--seed", "3", trace], check=True, stdout=subprocess.DEVNULL)
        command = [BIN / "flashare-trace", "simulate", trace, "--dram", "8MiB", "--flash", "64MiB", "--admission", "all", "--ftl", "--json", out]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ftl = json.loads(out.read_text())["ftl"]
    return [
        at_most(f"FTL with 7 % spare: bytes written to cells for each of ours ({ftl['host_bytes'] >> 20} MiB)", ftl["amplification"], 1.05, "{:.3f}"),
        Row("FTL with 7 % spare: the same, of a writer of random 4 KiB pages", f"{ftl['random_amplification']:.2f}", "stated", True),
    ]


def first_answer(command):
    """Starts a server; returns it, and the seconds until it answered a get."""
    began = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = int(command[command.index("-p") + 1])
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"get nothing\r\n")
                if connection.recv(100):
                    return process, time.monotonic() - began
        except OSError:
            if process.poll() is not None or time.monotonic() - began > 60:
                raise RuntimeError("does not serve: " + " ".join(map(str, command))) from None
            time.sleep(0.002)


def restarts(quick):
    size = 512 if quick else 4096
    rows = []
    with scratch() as folder:
        flash = pathlib.Path(folder) / "flash"
        port = free_port()
        base = [BIN / "flashare", "-p", port, "-l", "127.0.0.1", "-t", 1, "-m", size // 8, "--admission", "all", "--restart", "crash"]
        command, larger = ([*base, "--flash", f"{flash}:{mib}MiB", "--flash-object-size", 1000] for mib in (size, size * 3 // 2))
        process, _ = first_answer(command)
        server = type("Running", (), {"port": port, "process": process})
        fill(server, "--keys", size * 1000, "--value-bytes", 1000)
        held = int(stats(port, "flash")["objects"])
        process.send_signal(signal.SIGKILL)
        process.wait()

        def read_whole():
            began = time.monotonic()
            subprocess.run(["dd", f"if={flash}", "of=/dev/null", "bs=16M", "iflag=direct"], check=True, stderr=subprocess.DEVNULL)
            return time.monotonic() - began

        def search(command):
            began = time.monotonic()
            process, first = first_answer(command)
            while stats(port, "flash")["recovering_segments"] != "0":
                time.sleep(0.01)
            return process, first, time.monotonic() - began, int(stats(port, "flash")["recovered_objects"])

        reading = statistics.median(read_whole() for _ in range(3))
        process, first, whole, came = search(command)
        rows.append(at_most(f"restart after kill -9, {size / 1024:g} GiB of flash: seconds to the first answer", first, 1.0))
        rows.append(Row(f"restart after kill -9: seconds to the whole index, {came:,} of {held:,} objects; a plain read of the file takes {reading:.2f}", f"{whole:.2f}", "stated", True))
        process.terminate()
        began = time.monotonic()
        process.wait()
        stop = time.monotonic() - began
        process, first = first_answer(command)
        held = int(stats(port, "flash")["objects"])
        rows.append(at_most(f"restart after a clean stop (which took {stop:.2f} s): seconds to the first answer, with the whole index ({held:,} objects)", first, 1.0))
        process.terminate()
        process.wait()
        process, first, whole, came = search(larger)
        rows.append(at_most("the same with half as much flash again: seconds to the first answer", first, 1.0))
        rows.append(Row(f"the same: seconds to the whole index, {came:,} of {held:,} objects", f"{whole:.2f}", "stated", True))
        process.terminate()
        process.wait()
    return rows
