#!/usr/bin/env python3
"""A server under all that clients and operators do at once, every answer compared with what it may be.

usage: tests/soak.py [--seconds N] [--seed N] [--restart clean|crash] [--server PATH] [--resident MIB] [-- FLAGS OF THE SERVER]

Each client has a tenant of its own, told by its port, and asks one thing after the other: it knows what each of its keys may hold. It stores,
changes and removes by the classic and the meta dialect, flushes (at once and later), and has its tenant removed and added again over the admin
socket. Meanwhile others send what is no request, or do not read what they asked for, and the server is stopped, killed, halted, reloaded and
resized. A value may always be gone; what comes back has to be the last that was stored, with its flags, alive, and this tenant's own. tests/crash.py
is the narrower one: what is kept after a kill. The seed draws the flags too: devices, driver, admission, a memory file.
"""

import argparse
import collections
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from loopback import free_port

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENTS = 4
KEYS = 3000  # a client
# The server counts in seconds, the client sees an answer after it was given
SLACK = 2.2

Stored = collections.namedtuple("Stored", "value flags expiry since")


class Broken(Exception):
    """The connection ended: whatever was asked for may have happened or not."""


class Wrong(Exception):
    """What must not be."""


class Wire:
    """One connection, a request at a time."""

    def __init__(self, port):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError as error:
            raise Broken(str(error)) from error
        self.stream = self.socket.makefile("rb")

    def send(self, request):
        try:
            self.socket.sendall(request)
        except OSError as error:
            raise Broken(str(error)) from error

    def line(self):
        try:
            line = self.stream.readline()
        except TimeoutError as error:
            raise Wrong("no answer within a minute") from error
        except OSError as error:
            raise Broken(str(error)) from error
        if not line.endswith(b"\r\n"):
            raise Broken("end of stream")
        return line[:-2]

    def block(self, size):
        try:
            block = self.stream.read(size + 2)
        except OSError as error:
            raise Broken(str(error)) from error
        if len(block) != size + 2:
            raise Broken("end of stream")
        if not block.endswith(b"\r\n"):
            raise Wrong("a block that does not end where its length says")
        return block[:-2]

    def ask(self, request):
        self.send(request)
        return self.line()


class Client(threading.Thread):
    """Somebody who knows what each of its keys may hold: a set of what may be stored; nothing is always allowed."""

    def __init__(self, number, seed, rig):
        super().__init__(daemon=True)
        self.number, self.rig, self.dice = number, rig, random.Random(f"{seed} {number}")
        self.port = rig.ports[number]
        self.allowed = collections.defaultdict(set)
        self.flushes = []
        self.wire, self.failure, self.serial = None, None, 0
        self.asked, self.hits, self.gets = collections.Counter(), 0, 0

    def run(self):
        try:
            while not self.rig.over.is_set():
                if not self.rig.serving.wait(timeout=0.1):
                    continue
                try:
                    self.wire = self.wire or Wire(self.port)
                    self.one()
                except Broken:
                    self.wire = None
                    time.sleep(0.01)
        except Exception as error:  # told by the main thread
            self.failure = f"client {self.number}: {type(error).__name__}: {error}"

    def key(self, n):
        return f"key-{n}".encode() if n % 7 else f"longer-key-{n}-".encode().ljust(120, b"k")

    def new_value(self, n):
        self.serial += 1
        size = self.dice.choice((30, 100, 300, 900, 1400, 5000, 40_000)) + n % 50
        if n % 500 == 0:
            size = 200_000
        return f"c{self.number} {n} {self.serial} ".encode().ljust(size, b"%d" % (self.serial % 10))

    def one(self):
        n = int(self.dice.random() ** 2 * KEYS)
        ways = {
            self.get: 40,
            self.gets_of_many: 4,
            self.set: 30,
            self.meta_set: 8,
            self.meta_get: 10,
            self.delete: 4,
            self.cas: 5,
            self.extend: 3,
            self.count: 4,
            self.touch: 4,
            self.flush: 0.008,
            self.replace_tenant: 0.006,
        }
        way = self.dice.choices(list(ways), list(ways.values()))[0]
        way(n)
        self.asked[way.__name__] += 1

    # what a key may hold

    def may_become(self, n, new):
        """Until the answer is there: what it was, or this."""
        self.allowed[n] = self.allowed[n] | {new}

    def is_now(self, n, *new):
        self.allowed[n] = set(new)

    def seen(self, n, value, flags):
        now = time.monotonic()
        right = {one for one in self.allowed[n] if (one.value, one.flags) == (value, flags)}
        if not right:
            may = [(one.value[:30], one.flags) for one in self.allowed[n]]
            raise Wrong(f"key {n} holds {value[:30]!r} of {len(value)} bytes, flags {flags}; right were {may}")
        alive = {one for one in right if one.expiry is None or now < one.expiry + SLACK}
        if not alive:
            raise Wrong(f"key {n} was served {now - max(one.expiry for one in right):.1f} s after its end")
        kept = {one for one in alive if not any(now > due + SLACK and one.since < due - SLACK for due in self.flushes)}
        if not kept:
            raise Wrong(f"key {n} was served after a flush")
        self.allowed[n] = kept

    # requests

    def values(self, n_of):
        """Reads VALUE blocks up to END: what was there."""
        found = {}
        while True:
            words = self.wire.line().split()
            if words == [b"END"]:
                return found
            if not words or words[0] != b"VALUE" or words[1] not in n_of:
                raise Wrong(f"instead of a value: {words}")
            value = self.wire.block(int(words[3]))
            found[n_of[words[1]]] = (value, int(words[2]), int(words[4]) if len(words) > 4 else None)

    def read(self, verb, numbers):
        self.wire.send(verb + b" " + b" ".join(map(self.key, numbers)) + b"\r\n")
        found = self.values({self.key(n): n for n in numbers})
        self.gets, self.hits = self.gets + len(numbers), self.hits + len(found)
        for n, (value, flags, _) in found.items():
            self.seen(n, value, flags)
        return found

    def get(self, n):
        self.read(b"get", [n])

    def gets_of_many(self, n):
        self.read(b"gets", sorted({n, *(self.dice.randrange(KEYS) for _ in range(self.dice.choice((3, 30))))}))

    def new(self, n):
        secs = self.dice.choice((0, 0, 0, 0, 2, 5))
        now = time.monotonic()
        new = Stored(self.new_value(n), self.dice.randrange(1 << 16), now + secs if secs else None, now)
        return new, secs

    def store(self, n, new, request, stored, refused=()):
        """A request that stores: it did, or it says why not, and then nothing of the key is left where it had begun to."""
        self.may_become(n, new)
        answer = self.wire.ask(request)
        if answer.split(b" ")[0] == stored:
            self.is_now(n, new._replace(since=time.monotonic(), expiry=new.expiry and new.expiry + time.monotonic() - new.since))
        elif answer.startswith(b"SERVER_ERROR out of memory"):
            self.is_now(n)  # memcached: a store that failed leaves no older value behind
        elif answer in refused:
            self.allowed[n].discard(new)
        else:
            raise Wrong(f"a store of key {n} was answered {answer!r}")
        return answer

    def set(self, n):
        new, secs = self.new(n)
        head = b"set %s %d %d %d\r\n" % (self.key(n), new.flags, secs, len(new.value))
        self.store(n, new, head + new.value + b"\r\n", b"STORED")

    def meta_set(self, n):
        new, secs = self.new(n)
        mode = self.dice.choice((b"", b" MR", b" ME"))
        head = b"ms %s %d F%d T%d%s\r\n" % (self.key(n), len(new.value), new.flags, secs, mode)
        self.store(n, new, head + new.value + b"\r\n", b"HD", (b"NS",) if mode else ())

    def meta_get(self, n):
        extra = self.dice.choice((b"", b" s t", b" q k", b" h l"))
        self.wire.send(b"mg %s v f%s\r\nmn\r\n" % (self.key(n), extra))
        words = self.wire.line().split()
        self.gets += 1
        if words[0] == b"VA":
            value = self.wire.block(int(words[1]))
            flags = int(next(word[1:] for word in words[2:] if word.startswith(b"f")))
            self.hits += 1
            self.seen(n, value, flags)
            words = self.wire.line().split()
        elif words[0] == b"EN":
            words = self.wire.line().split()
        if words != [b"MN"]:
            raise Wrong(f"instead of MN: {words}")

    def delete(self, n):
        answer = self.wire.ask(self.dice.choice((b"delete %s\r\n", b"md %s\r\n")) % self.key(n))
        if answer not in (b"DELETED", b"NOT_FOUND", b"HD", b"NF"):
            raise Wrong(f"a delete was answered {answer!r}")
        self.is_now(n)

    def cas(self, n):
        found = self.read(b"gets", [n])
        if n not in found:
            return
        unique = found[n][2]
        changed = self.dice.random() < 0.3
        if changed:
            self.set(n)
        new, secs = self.new(n)
        head = b"cas %s %d %d %d %d\r\n" % (self.key(n), new.flags, secs, len(new.value), unique)
        answer = self.store(n, new, head + new.value + b"\r\n", b"STORED", (b"EXISTS", b"NOT_FOUND"))
        if changed and answer == b"STORED":
            raise Wrong(f"a unique of an older value of key {n} was taken")

    def extend(self, n):
        more = b"+%d" % self.serial
        verb = self.dice.choice((b"append", b"prepend"))
        before = self.allowed[n]
        after = {one._replace(value=one.value + more if verb == b"append" else more + one.value) for one in before}
        self.allowed[n] = before | after
        answer = self.wire.ask(b"%s %s 0 0 %d\r\n%s\r\n" % (verb, self.key(n), len(more), more))
        if answer == b"STORED":
            self.allowed[n] = after
        elif answer == b"NOT_STORED":
            self.allowed[n] = before
        elif answer.startswith(b"SERVER_ERROR out of memory"):
            self.is_now(n)
        else:
            raise Wrong(f"an {verb} was answered {answer!r}")

    def count(self, n):
        """Counters are keys of their own."""
        n, by = -1 - n % 100, self.dice.randrange(1, 1000)
        before = self.allowed[n]
        after = {one._replace(value=b"%d" % (int(one.value) + by)) for one in before}
        self.allowed[n] = before | after
        answer = self.wire.ask(b"incr %s %d\r\n" % (self.key(n), by))
        if answer.isdigit():
            self.allowed[n] = {one for one in after if one.value == answer}
            if not self.allowed[n]:
                raise Wrong(f"counter {n} is {answer!r}; right were {[one.value for one in after]}")
        elif answer == b"NOT_FOUND":
            self.allowed[n] = before
            new = Stored(b"10000000", 0, None, time.monotonic())
            self.store(n, new, b"set %s 0 0 8\r\n10000000\r\n" % self.key(n), b"STORED")
        elif answer.startswith(b"SERVER_ERROR out of memory"):
            self.is_now(n)
        else:
            raise Wrong(f"incr was answered {answer!r}")

    def touch(self, n):
        secs = self.dice.choice((0, 3))
        before, now = self.allowed[n], time.monotonic()
        after = {one._replace(expiry=now + secs if secs else None) for one in before}
        self.allowed[n] = before | after
        if self.dice.random() < 0.5:
            answer = self.wire.ask(b"touch %s %d\r\n" % (self.key(n), secs))
            if answer not in (b"TOUCHED", b"NOT_FOUND"):
                raise Wrong(f"touch was answered {answer!r}")
        else:
            self.wire.send(b"gat %d %s\r\n" % (secs, self.key(n)))
            found = self.values({self.key(n): n})
            answer = b"TOUCHED" if found else b"NOT_FOUND"
            for value, flags, _ in found.values():
                self.seen(n, value, flags)
                after = {one for one in after if (one.value, one.flags) == (value, flags)}
        later = time.monotonic() - now
        if answer == b"TOUCHED":
            self.allowed[n] = {one._replace(expiry=one.expiry and one.expiry + later) for one in after}
        else:
            self.allowed[n] = before

    # what is done to all that the tenant has

    def flush(self, _):
        secs = self.dice.choice((0, 0, 3))
        answer = self.wire.ask(b"flush_all %d\r\n" % secs if secs else b"flush_all\r\n")
        if answer != b"OK":
            raise Wrong(f"flush_all was answered {answer!r}")
        if secs:
            self.flushes.append(time.monotonic() + secs)
        else:
            self.flushes.clear()  # memcached: one flush at a time
            self.allowed.clear()

    def replace_tenant(self, _):
        """Once it was removed, nothing of it may ever come back."""
        name = self.rig.name(self.number)
        self.wire = None
        status, body = self.rig.admin("DELETE", f"/tenants/{name}")
        if status not in (200, 404):
            raise Wrong(f"removing {name} was answered {status}: {body}")
        self.allowed.clear()
        self.flushes.clear()
        status, body = self.rig.admin("PUT", f"/tenants/{name}", f'{{"port": {self.port}}}')
        if status not in (200, 201):
            raise Wrong(f"adding {name} was answered {status}: {body}")


class Rude(threading.Thread):
    """Somebody who sends what is no request, or half of one, or does not read what it asked for. It is another tenant, and harms nobody."""

    def __init__(self, seed, rig):
        super().__init__(daemon=True)
        self.rig, self.dice, self.kept = rig, random.Random(f"{seed} rude"), collections.deque(maxlen=20)

    def run(self):
        while not self.rig.over.is_set():
            if not self.rig.serving.wait(timeout=0.1):
                continue
            try:
                connection = socket.create_connection(("127.0.0.1", self.rig.ports[-1]), timeout=0.3)
                self.kept.append(connection)  # those before end when they fall out
                connection.sendall(self.something())
                if self.dice.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)
                elif self.dice.random() < 0.3:
                    connection.close()
            except OSError:
                pass
            time.sleep(0.02)

    def something(self):
        size = self.dice.choice((10, 3000, 200_000))
        return self.dice.choice((
            self.dice.randbytes(size),
            b"\x80" + self.dice.randbytes(size),
            b"get " + b"k" * size,
            b"get " + b" ".join(b"k%d" % n for n in range(size // 10)) + b"\r\n",
            b"set big 0 0 %d\r\n" % size + b"x" * self.dice.randrange(size),
            b"set big 0 0 %d\r\n" % size + b"x" * size + b"\r\n" + b"get big\r\n" * 300,
            b"set k 0 0 99999999999\r\n",
            b"ms k %d T0 q\r\n" % size,
            b"mg k v s t f c k q O1234\r\n" * (size // 20),
            b"watch fetchers mutations evictions\r\n",
            b"lru_crawler metadump all\r\n",
            b"stats detail on\r\nstats detail dump\r\nstats cachedump 1 1000\r\nstats conns\r\n" * (size // 1000 + 1),
            b"flush_all\r\n" * (size // 100),
            b"gat -1 k k k\r\nincr k 18446744073709551616\r\nverbosity\r\ncas k 1 1 1 x\r\n",
        ))


class Rig:
    """The server, its files, and what an operator does."""

    def __init__(self, folder, dice, arguments):
        self.folder, self.dice, self.restart = pathlib.Path(folder), dice, arguments.restart
        self.over, self.serving = threading.Event(), threading.Event()
        self.ports = [free_port() for _ in range(CLIENTS + 1)]
        self.main_port = free_port()
        self.done = collections.Counter()
        tenants = [f'[[tenant]]\nname = "{self.name(n)}"\nport = {self.ports[n]}\n' for n in range(CLIENTS + 1)]
        tenants[0] += 'reserved = "2MiB"\nrank = "lru"\n'
        tenants[1] += 'flash_reserved = "8MiB"\nweight = 2\n'
        (self.folder / "tenants.toml").write_text("\n".join(tenants))
        self.command = [arguments.server, "-p", str(self.main_port), "-l", "127.0.0.1", "-m", "24", "-u", "root", "--admin", str(self.folder / "admin")]
        self.command += ["--config", str(self.folder / "tenants.toml"), "--restart", self.restart, "--flash-segment", "512KiB", "-t", "2"]
        for device in range(dice.choice((1, 1, 2))):
            self.command += ["--flash", f"{folder}/flash{device}:48MiB"]
        self.command += ["--admission", dice.choice(("all", "svm", "second-hit")), "--io", dice.choice(("auto", "tokio"))]
        if self.restart == "clean" and dice.random() < 0.3:
            self.command += ["-e", f"{folder}/memory"]
        self.command += arguments.more
        self.said = open(self.folder / "said", "w+")
        self.process = None

    def name(self, number):
        return f"t{number}"

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.said, stderr=self.said)
        deadline = time.monotonic() + 30
        while True:
            try:
                for port in self.ports:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Wrong("the server does not start") from None
                time.sleep(0.02)
        self.serving.set()

    def admin(self, verb, path, body=""):
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(self.folder / "admin"))
                connection.sendall(f"{verb} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
                answer = connection.makefile("rb").read()
        except TimeoutError as error:
            raise Wrong(f"{verb} {path} was not answered") from error
        except OSError as error:
            raise Broken(str(error)) from error
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            raise Broken("no answer")
        return int(head.split()[1]), body.decode(errors="replace")

    def ended(self, expected):
        status = self.process.wait(timeout=60)
        if status != expected:
            raise Wrong(f"the server ended with status {status}")

    def kill(self):
        self.serving.clear()
        self.process.kill()
        self.ended(-signal.SIGKILL)
        self.start()

    def stop(self):
        self.serving.clear()
        self.process.terminate()
        self.ended(0)
        self.start()

    def halt(self):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.05, 2))
        self.process.send_signal(signal.SIGCONT)

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def resize(self):
        answer = Wire(self.main_port).ask(b"cache_memlimit %d\r\n" % self.dice.choice((20, 24, 32, 48)))
        if not answer.startswith((b"OK", b"MEMLIMIT")):
            raise Wrong(f"cache_memlimit was answered {answer!r}")

    def look(self):
        """What monitoring asks for."""
        for path in ("/healthz", "/metrics", "/tenants", "/advice", "/curves/t0"):
            self.admin("GET", path)

    def disturb(self):
        ways = {self.kill: 2, self.stop: 2, self.halt: 1, self.reload: 2, self.resize: 2, self.look: 3}
        way = self.dice.choices(list(ways), list(ways.values()))[0]
        try:
            way()
        except Broken as error:
            raise Wrong(f"{way.__name__}: {error}") from error
        self.done[way.__name__] += 1

    def memory(self):
        """MiB resident."""
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--restart", choices=("clean", "crash"))
    parser.add_argument("--server", default=str(ROOT / "target/release/flashare"))
    parser.add_argument("--resident", type=int, default=120, help="MiB of memory that the server may take")
    parser.add_argument("more", nargs="*", help="flags of the server")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    arguments.restart = arguments.restart or dice.choice(("clean", "crash"))
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(folder, dice, arguments)
        clients = [Client(number, arguments.seed, rig) for number in range(CLIENTS)]
        failure = None
        try:
            rig.start()
            for thread in (*clients, Rude(arguments.seed, rig)):
                thread.start()
            end = time.monotonic() + arguments.seconds
            while time.monotonic() < end and failure is None:
                time.sleep(dice.uniform(0.2, 2))
                rig.disturb()
                failure = next((client.failure for client in clients if client.failure), None)
                if rig.memory() > arguments.resident:
                    failure = f"{rig.memory()} MiB are resident"
            rig.over.set()
            for client in clients:
                client.join(timeout=90)
                failure = failure or client.failure or ("a client hangs" if client.is_alive() else None)
            rig.process.terminate()
            rig.ended(0)
        except Wrong as error:
            failure = failure or str(error)
        finally:
            rig.over.set()
            if rig.process and rig.process.poll() is None:
                rig.process.kill()
                rig.process.wait()
        asked = sum((client.asked for client in clients), collections.Counter())
        gets, hits = sum(client.gets for client in clients), sum(client.hits for client in clients)
        flags = " ".join(rig.command[rig.command.index("--restart"):]).replace(folder, "")
        print(f"seed {arguments.seed}, {flags}: {sum(asked.values()):,} requests, {100 * hits / max(gets, 1):.0f} % hits, {asked['flush']} flushes, "
              f"{asked['replace_tenant']} tenants replaced; " + ", ".join(f"{way} {times}" for way, times in sorted(rig.done.items())))
        if failure:
            rig.said.seek(0)
            sys.exit(f"{failure}\nthe server said last:\n" + "".join(rig.said.readlines()[-15:]))
        if hits * 10 < gets:
            sys.exit("too little was found for the checks to mean anything")


if __name__ == "__main__":
    main()
