#!/usr/bin/env python3
"""Kills a loaded server with SIGKILL again and again, starts it anew, and compares every key with what was answered.

usage: tests/crash.py [--rounds N] [--seed N] [--server PATH] [--sync os|always|MILLISECONDS]

With --restart crash a key may hold what was stored last, or nothing; never an older value, never another key's. Where a change was not
answered when the kill came, both outcomes are right. cache/tests/crash.rs plays thousands of such rounds, power losses too, without
sockets; this one has the real process, its threads and its files. Prints what share of the keys on flash came back.
"""

import argparse
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENTS = 4
KEYS = 4000  # a client
BATCH = 16


FAILURES, STARTED = [], []
DRIVERS = ["auto", "tokio"]


def fail(text):
    """Ends the thread that saw it, and in the end the run."""
    FAILURES.append(text)
    raise OSError(text)


class Client:
    """One connection's worth of keys, and what each may hold: a set of store numbers, 0 for nothing."""

    def __init__(self, number, seed):
        self.number, self.random = number, random.Random(seed * 100 + number)
        self.allowed = {}
        self.stores = 0

    def key(self, n):
        return f"c{self.number}k{n}"

    def value(self, n, store):
        return f"{self.key(n)} {store} ".ljust(60 + (n * 7919 + store * 104729) % 1500, ".")

    def load(self, port):
        """Changes and reads until the connection breaks."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                stream = connection.makefile("rb")
                while True:
                    self.batch(connection, stream)
        except OSError:
            pass

    def batch(self, connection, stream):
        plan, request = [], []
        for n in self.random.sample(range(KEYS), BATCH):
            dice = self.random.random()
            if dice < 0.1:
                plan.append((n, 0))
                request.append(f"delete {self.key(n)}\r\n")
            elif dice < 0.7:
                self.stores += 1
                value = self.value(n, self.stores)
                plan.append((n, self.stores))
                request.append(f"set {self.key(n)} 0 0 {len(value)}\r\n{value}\r\n")
            else:
                plan.append((n, None))
                request.append(f"get {self.key(n)}\r\n")
        done = 0
        try:
            connection.sendall("".join(request).encode())
            for n, store in plan:
                if store is None:
                    self.read_one(stream, n)
                else:
                    line = stream.readline()
                    if not line.endswith(b"\r\n"):
                        raise OSError("it broke off")
                    if line not in (b"STORED\r\n", b"DELETED\r\n", b"NOT_FOUND\r\n"):
                        fail(f"{self.key(n)}: {line!r}")
                    self.allowed[n] = {store} if store == 0 else {store, 0}
                done += 1
        finally:
            for n, store in plan[done:]:
                if store is not None:
                    self.allowed.setdefault(n, {0}).add(store)

    def read_one(self, stream, n):
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("it broke off")
        if line == b"END\r\n":
            return False
        value = stream.read(int(line.split()[3]) + 2)
        end = stream.readline()
        if end != b"END\r\n":
            raise OSError("it broke off")
        words = value[:-2].decode().split(" ")
        store = int(words[1])
        if value[:-2].decode() != self.value(n, store):
            fail(f"{self.key(n)}: a value that was never stored: {value[:60]!r}")
        if store not in self.allowed.get(n, {0}):
            fail(f"{self.key(n)}: STALE: store {store} came back; right were {sorted(self.allowed.get(n, {0}))}")
        self.allowed[n] = {store, 0}
        return True

    def check(self, port):
        found = 0
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            stream = connection.makefile("rb")
            for n in range(KEYS):
                connection.sendall(f"get {self.key(n)}\r\n".encode())
                found += self.read_one(stream, n)
        return found


def stats(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"stats flash\r\n")
        stream = connection.makefile("r")
        return dict(line.split()[1:3] for line in iter(stream.readline, "END\n"))


def start(server, folder, port, sync):
    command = [server, "-p", str(port), "-l", "127.0.0.1", "-t", "2", "-m", "8", "-u", "root", "--admission", "all", "--restart", "crash"]
    command += ["--journal-sync", sync, "--flash", f"{folder}/flash:48MiB", "--flash-segment", "256KiB"]
    command += ["--io", DRIVERS[len(STARTED) % 2]]
    STARTED.append(port)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            time.sleep(0.02)
            if process.poll() is not None:
                break
    process.kill()
    sys.exit(f"the server did not start: {process.stderr.read()}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", default=str(ROOT / "target/release/flashare"))
    parser.add_argument("--sync", default="os")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clients = [Client(number, arguments.seed) for number in range(CLIENTS)]
    before, came, kills, on_flash = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            process = start(arguments.server, folder, port, arguments.sync)
            lively = dice.random() < 0.5
            if not lively:
                while stats(port)["recovering_segments"] != "0":
                    time.sleep(0.01)
                if number:
                    before, came = before + on_flash, came + int(stats(port)["recovered_objects"])
                for client in clients:
                    client.check(port)
            threads = [threading.Thread(target=client.load, args=(port,)) for client in clients]
            for thread in threads:
                thread.start()
            time.sleep(dice.uniform(0.05, 1.0))
            on_flash = int(stats(port)["objects"])
            process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
            process.wait()
            kills += 1
            if FAILURES:
                sys.exit(f"round {number}: {FAILURES[0]}")
            if "starts empty" in process.stderr.read():
                sys.exit("the journal was not believed")
        process = start(arguments.server, folder, port, arguments.sync)
        for client in clients:
            client.check(port)
        process.terminate()
        process.wait(timeout=30)
    share = 100 * came / max(before, 1)
    print(f"{kills} kills, {sum(client.stores for client in clients)} stores: nothing stale; {share:.0f} % of the objects on flash came back")
    if came * 2 < before:
        sys.exit("too little came back")


if __name__ == "__main__":
    main()
