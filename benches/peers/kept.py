#!/usr/bin/env python3
"""What stays in memory of what there is room for, beside memcached with the same -m: keys that are stored again with other sizes, deleted, or
stand beside what expires; and what is found when a new working set of other sizes takes an old one's place.

usage: benches/peers/kept.py [--memory MIB] [--json FILE]      four minutes
"""

import argparse
import json
import pathlib
import random
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from checks.kit import BIN, Server, build, stats  # noqa: E402
from checks.load import peer  # noqa: E402

ENTRY_BYTES = 60  # of key and header
BATCH = 200


class Client:
    """One connection that sends batches of meta commands, and waits for the end of each."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.replies = self.socket.makefile("rb", 1 << 20)
        self.requests = 0

    def send(self, commands):
        """Returns the lines of those that are not silent."""
        self.requests += len(commands)
        self.socket.sendall(b"".join(commands) + b"mn\r\n")
        return list(iter(self.replies.readline, b"MN\r\n"))

    def store(self, keys, bytes_of, ttl=0):
        for begin in range(0, len(keys), BATCH):
            values = [(key, bytes_of()) for key in keys[begin : begin + BATCH]]
            self.send([b"ms %s %d T%d q\r\n%s\r\n" % (key, size, ttl, b"x" * size) for key, size in values])

    def delete(self, keys):
        self.send([b"md %s q\r\n" % key for key in keys])

    def missing(self, keys):
        batches = (keys[begin : begin + BATCH] for begin in range(0, len(keys), BATCH))
        return [key for batch in batches for key, line in zip(batch, self.send([b"mg %s k\r\n" % key for key in batch])) if line[:2] != b"HD"]


def names(prefix, begin, end):
    return [b"%s:%010d" % (prefix, n) for n in range(begin, end)]


def as_many(memory, part, size):
    return int(memory * part / (size + ENTRY_BYTES))


def restored(client, memory, part):
    """Sizes from 100 to 3,000 bytes, drawn anew with each store; keys uniformly at random, six stores for each."""
    dice = random.Random(1)
    size = lambda: dice.randrange(100, 3000)  # noqa: E731
    keys = names(b"key", 0, as_many(memory, part, 1550))
    client.store(keys, size)
    for _ in range(6 * len(keys) // BATCH):
        client.store(dice.choices(keys, k=BATCH), size)
    return 1 - len(client.missing(keys)) / len(keys)


def beside_expiring(client, memory, part):
    """Keys that nobody asks for; beside them a tenth of memory a second that lasts for two seconds, twenty seconds long."""
    keys = names(b"lasting", 0, as_many(memory, part, 1000))
    client.store(keys, lambda: 1000)
    began, done = time.monotonic(), 0
    while (now := time.monotonic() - began) < 20:
        if done < as_many(memory, 0.1, 1000) * now:
            client.store(names(b"passing", done, done + BATCH), lambda: 1000, ttl=2)
            done += BATCH
        else:
            time.sleep(0.002)
    return 1 - len(client.missing(keys)) / len(keys)


def beside_deleted(client, memory, part):
    """Keys that nobody asks for; beside them ten times as much as memory has, deleted when a tenth of memory has come after it."""
    keys = names(b"lasting", 0, as_many(memory, part, 1000))
    client.store(keys, lambda: 1000)
    behind = as_many(memory, 0.1, 1000)
    for done in range(0, as_many(memory, 10, 1000), BATCH):
        client.store(names(b"passing", done, done + BATCH), lambda: 1000)
        client.delete(names(b"passing", max(done - behind, 0), max(done + BATCH - behind, 0)))
    return 1 - len(client.missing(keys)) / len(keys)


def after_another(client, memory, part, former, size):
    """Memory is full of a former working set; a new one is asked for four times over, and stored where it misses. Hits of the last round."""
    client.store(names(b"former", 0, as_many(memory, 1.5, former)), lambda: former)
    keys, dice = names(b"key", 0, as_many(memory, part, size)), random.Random(2)
    for _ in range(4):
        dice.shuffle(keys)
        missed = 0
        for begin in range(0, len(keys), BATCH):
            missing = client.missing(keys[begin : begin + BATCH])
            client.store(missing, lambda: size)
            missed += len(missing)
    return 1 - missed / len(keys)


LOADS = [
    *((f"{part:.0%} of -m, stored again with other sizes", restored, (part,)) for part in (0.6, 0.75, 0.85)),
    *((f"{part:.0%} of -m, beside what expires", beside_expiring, (part,)) for part in (0.5, 0.6)),
    ("60% of -m, beside what is deleted", beside_deleted, (0.6,)),
    ("75% of -m, 300 bytes after 2,000", after_another, (0.75, 2000, 300)),
    ("75% of -m, 2,000 bytes after 500", after_another, (0.75, 500, 2000)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="-m of both servers")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    arguments = parser.parse_args()
    build()
    flags = ["-p", "{port}", "-t", 1, "-m", arguments.memory]
    servers = {"flashare": [BIN / "flashare", *flags, "--no-flash"], "memcached": [peer(), "-u", "root", "-l", "127.0.0.1", *flags]}
    rows = []
    print("| load | kept or found | evictions | CPU us a request |\n|---|---|---|---|")
    for name, load, parameters in LOADS:
        row = {"load": name}
        for server, command in servers.items():
            with Server(command) as process:
                client = Client(process.port)
                kept = load(client, arguments.memory << 20, *parameters)
                cpu = process.cpu_seconds() / client.requests * 1e6
                row[server] = {"kept": kept, "evictions": int(stats(process.port)["evictions"]), "cpu_us": cpu}
        rows.append(row)
        ours, theirs = row["flashare"], row["memcached"]
        pairs = [("kept", "{:.2%}"), ("evictions", "{:,}"), ("cpu_us", "{:.2f}")]
        cells = [f"{form.format(ours[key])}, memcached {form.format(theirs[key])}" for key, form in pairs]
        print("|", " | ".join([name, *cells]), "|", flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"kept.py: {error}")
