"""Three flashare servers behind twemproxy (ketama hashing): killing one loses its keys only, and the rest goes on.

usage: twemproxy_test.py FLASHARE NUTCRACKER
"""

import os
import socket
import subprocess
import sys
import tempfile
import time

KEYS = 600


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.lines = self.socket.makefile("rb")

    def ask(self, request):
        self.socket.sendall(request)
        return self.lines.readline()

    def get(self, key):
        """The value; None if it is unknown; False if the proxy cannot reach the key's server."""
        first = self.ask(f"get {key}\r\n".encode())
        if first == b"END\r\n":
            return None
        if not first.startswith(b"VALUE "):
            return False
        value = self.lines.readline().strip().decode()
        assert self.lines.readline() == b"END\r\n"
        return value


def start(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    sys.exit(f"{command[0]} does not listen")


def main():
    flashare, nutcracker = sys.argv[1:]
    ports, proxy_port, processes = [free_port() for _ in range(3)], free_port(), []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for port in ports:
                processes.append(start([flashare, "-p", str(port), "-m", "16", "--flash", f"{scratch}/{port}.flash:64MiB"], port))
            config = os.path.join(scratch, "nutcracker.yml")
            with open(config, "w", encoding="utf8") as out:
                print(f"pool:\n  listen: 127.0.0.1:{proxy_port}\n  hash: fnv1a_64\n  distribution: ketama\n  auto_eject_hosts: false\n  timeout: 2000\n  servers:", file=out)
                for number, port in enumerate(ports):
                    print(f"   - 127.0.0.1:{port}:1 server{number}", file=out)
            stats = ["-a", "127.0.0.1", "-s", str(free_port())]
            processes.append(start([nutcracker, "-c", config, *stats], proxy_port))
            proxy = Client(proxy_port)
            for n in range(KEYS):
                assert proxy.ask(f"set key{n} 0 0 {len(str(n))}\r\n{n}\r\n".encode()) == b"STORED\r\n"
            for n in range(KEYS):
                assert proxy.get(f"key{n}") == str(n), n
            owned = []
            for port in ports:
                direct = Client(port)
                owned.append({n for n in range(KEYS) if direct.get(f"key{n}") == str(n)})
            assert sum(len(keys) for keys in owned) == KEYS and all(len(keys) > KEYS // 10 for keys in owned), [len(keys) for keys in owned]
            processes[1].kill()
            processes[1].wait()
            for n in range(KEYS):
                found = proxy.get(f"key{n}")
                if n in owned[1]:
                    assert found in (False, None), (n, found)
                    if found is False:
                        proxy = Client(proxy_port)  # the proxy may close a connection after an error
                else:
                    assert found == str(n), (n, found)
            proxy = Client(proxy_port)
            for n in owned[0] | owned[2]:
                assert proxy.ask(f"set key{n} 0 0 3\r\nnew\r\n".encode()) == b"STORED\r\n"
                assert proxy.get(f"key{n}") == "new"
            processes[1] = start([flashare, "-p", str(ports[1]), "-m", "16", "--no-flash"], ports[1])
            back = 0
            for n in sorted(owned[1])[:50]:
                answer = Client(proxy_port).ask(f"set key{n} 0 0 4\r\nback\r\n".encode())
                back += answer == b"STORED\r\n"
            assert back > 40, back
        finally:
            for process in processes:
                process.kill()
                process.wait()
    print(f"twemproxy: {KEYS} keys over three servers; one killed: {len(owned[1])} keys lost, {KEYS - len(owned[1])} served on; it came back")


if __name__ == "__main__":
    main()
