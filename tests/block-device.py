#!/usr/bin/env python3
"""The flash tier on a block device: a loop device over a file, where one may be made (root); says so and passes where not.

Sees that it is not written beyond its end, that recycled segments are discarded, that image and journal lie in the state folder, and that the
content outlives kill -9 and a clean stop.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SERVER = ROOT / "target/release/flashare"
BYTES = 200 << 20
KEYS = 400_000


def value(n):
    return (b"%d " % n).ljust(600, b".")


class Running:
    """A server on the device."""

    def __init__(self, device, state, size="190MiB"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [SERVER, "-u", "root", "-p", self.port, "-l", "127.0.0.1", "-t", 1, "-m", 16, "--admission", "all"]
        command += ["--restart", "crash", "--state-dir", state, "--flash", f"{device}:{size}"]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(200):
            try:
                self.connection = socket.create_connection(("127.0.0.1", self.port), 5)
                break
            except OSError:
                time.sleep(0.02)
                if self.process.poll() is not None:
                    break
        else:
            self.process.kill()
        if self.process.poll() is None:
            self.stream = self.connection.makefile("rb")

    def store(self):
        for base in range(0, KEYS, 1000):
            self.connection.sendall(b"".join(b"set k%d 0 0 600\r\n%s\r\n" % (n, value(n)) for n in range(base, base + 1000)))
            for _ in range(1000):
                if self.stream.readline() != b"STORED\r\n":
                    sys.exit("a store failed")

    def count(self):
        found = 0
        for n in range(0, KEYS, 37):
            self.connection.sendall(b"get k%d\r\n" % n)
            if self.stream.readline() != b"END\r\n":
                found += 1
                if self.stream.read(602)[:-2] != value(n) or self.stream.readline() != b"END\r\n":
                    sys.exit(f"k{n} has another value")
        return found

    def stats(self):
        self.connection.sendall(b"stats flash\r\n")
        rows = iter(self.stream.readline, b"END\r\n")
        return dict(row.decode().split()[1:3] for row in rows)

    def found_again(self):
        while self.stats()["recovering_segments"] != "0":
            time.sleep(0.05)
        return self.count()


def main():
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        print("skipped: no loop device may be made here")
        return
    with tempfile.TemporaryDirectory() as folder:
        backing = pathlib.Path(folder) / "backing"
        with open(backing, "wb") as file:
            file.truncate(BYTES)
        made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True)
        if made.returncode != 0:
            print(f"skipped: no loop device may be made here: {made.stderr.strip()}")
            return
        device = made.stdout.strip()
        try:
            check(device, folder)
        finally:
            subprocess.run(["losetup", "-d", device], check=True)


def check(device, folder):
    refused = Running(device, folder, "300MiB")
    if refused.process.wait() == 0 or "state at most that" not in refused.process.stderr.read():
        sys.exit("a size beyond the device's is not refused")
    server = Running(device, folder)
    server.store()
    figures = server.stats()
    if int(figures["discarded_bytes"]) == 0 or figures["journal"] != "1":
        sys.exit(f"nothing is discarded, or no journal kept: {figures}")
    before = server.count()
    server.process.kill()
    server.process.wait()
    journal = f"{pathlib.Path(device).name}.journal"
    if journal not in os.listdir(folder):
        sys.exit(f"no {journal} in the state folder")
    server = Running(device, folder)
    killed = server.found_again()
    server.process.terminate()
    server.process.wait(30)
    server = Running(device, folder)
    stopped = server.count()
    server.process.terminate()
    server.process.wait(30)
    print(f"{device}: of {before} sampled keys {killed} came back after kill -9, {stopped} after a clean stop")
    if killed * 10 < before * 8 or stopped * 100 < killed * 98:
        sys.exit("too little came back")


if __name__ == "__main__":
    main()
