"""Sends the same lines to memcached and to flashare and compares the answers, byte by byte.

usage: differential.py MEMCACHED_PORT FLASHARE_PORT
"""

import re
import socket
import sys

L = "k" * 250
LL = "k" * 251
cases=["","\r\n"," \r\n","get\r\n","gets\r\n","get \r\n","gat\r\n","gat 1\r\n","gat x a\r\n","gats 1\r\n","gat 10 a b\r\n","set\r\n","set a\r\n","set a 0\r\n","set a 0 0\r\n","set a 0 0 \r\n","set a x 0 1\r\nq\r\n","set a 0 x 1\r\nq\r\n","set a 0 0 x\r\n","set a 0 0 -1\r\n","set a -1 0 1\r\nq\r\n","set a 4294967296 0 1\r\nq\r\n","set a 4294967295 0 1\r\nq\r\n","set a 0 0 1 noreply\r\nq\r\n","set a 0 0 1 foo\r\nq\r\n","set a 0 0 1 foo bar\r\nq\r\n",f"set {L} 0 0 1\r\nq\r\n",f"set {LL} 0 0 1\r\nq\r\n",f"set {LL} 0 0 1 noreply\r\nq\r\n","set a 0 0 2147483647\r\n","set a 0 0 99999999999\r\n","cas a 0 0 1\r\nq\r\n","cas a 0 0 1 x\r\nq\r\n","cas zz 0 0 1 5\r\nq\r\n","cas a 0 0 1 5 noreply\r\nq\r\n","incr\r\n","incr a\r\n","incr a x\r\n","incr a -1\r\n","incr a 1 2\r\n","incr zz 1\r\n",f"incr {LL} 1\r\n","decr a 18446744073709551616\r\n","delete\r\n","delete a 0\r\n","delete a 1\r\n","delete a noreply\r\n","delete a 0 noreply\r\n","delete a b c\r\n",f"delete {LL}\r\n","touch\r\n","touch a\r\n","touch a x\r\n","touch zz 5\r\n","touch a 5 6\r\n",f"touch {LL} 1\r\n","flush_all x\r\n","flush_all 0\r\n","flush_all -5\r\n","flush_all noreply\r\n","flush_all 1 2 3\r\n","flush_all 0 noreply\r\n","verbosity\r\n","verbosity x\r\n","verbosity 1 2 3\r\n","version foo\r\n","quit foo\r\n","bogus\r\n","GET a\r\n","get a\n","set b 0 0 2\nab\r\n","set c 0 0 3\r\nabcd\r\nget c\r\n","add a 0 0 1\r\n1\r\n","append zz 0 0 1\r\n1\r\n","set n 0 0 2\r\n9a\r\nincr n 1\r\n","set n 0 0 2\r\n99\r\nincr n 1\r\nget n\r\ndecr n 91\r\nget n\r\nincr n 5\r\nget n\r\n","set n 0 0 21\r\n184467440737095516160\r\nincr n 1\r\n","set n 0 0 2\r\n-1\r\nincr n 1\r\n","set n 0 0 1\r\n \r\nincr n 1\r\n","set n 0 0 2\r\n 5\r\nincr n 1\r\n","set n 0 0 2\r\n5 \r\nincr n 1\r\n","set n 0 0 0\r\n\r\nincr n 1\r\nget n\r\n","verbosity noreply\r\n","stats bogus\r\n",f"get {LL}\r\n",f"get a {LL}\r\n","  get a\r\n","get  a\r\n","set a  0 0 1\r\nq\r\n","get a \r\n","gat 0\r\n","touch a 0 noreply\r\n","incr n 1 noreply\r\n","set d 0 0 1\r\nabc\r\n","slabs\r\n","lru\r\n","watch\r\n","shutdown\r\n","mn\r\n","cache_memlimit\r\n","noreply\r\n","set noreply 0 0 1\r\nq\r\nget noreply\r\n", "delete noreply\r\n","touch noreply 1\r\n"]

# Where the answers may differ, and why.
KNOWN = {
    "set a 4294967296 0 1\r\nq\r\n": "client flags have 32 bits here; memcached lets them overflow",
    "set n 0 0 2\r\n99\r\nincr n 1\r\nget n\r\ndecr n 91\r\nget n\r\nincr n 5\r\nget n\r\n": "memcached pads a shortened counter only if nobody reads it",
    "set n 0 0 1\r\n \r\nincr n 1\r\n": "memcached reads beyond the value",
    f"get {LL}\r\n": "memcached ends this line twice",
    f"get a {LL}\r\n": "memcached ends this line twice",
    "watch\r\n": "not there yet",
    "shutdown\r\n": "not there yet",
    "mn\r\n": "not there yet",
    "noreply\r\n": "memcached takes the verb for noreply",
}


def ask(port, request):
    """The answer to a request, up to that of the version command behind it."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(request.encode() + b"version\r\n")
        stream.settimeout(0.3)
        got = b""
        try:
            while b"VERSION" not in got:
                part = stream.recv(65536)
                if not part:
                    return got + b"<closed>"
                got += part
        except socket.timeout:
            got += b"<waits>"
        return re.sub(rb"VERSION \S+", b"VERSION", got)


def main():
    ports = [int(port) for port in sys.argv[1:3]]
    passed = failed = 0
    for case in cases:
        answers = []
        for port in ports:
            ask(port, "flush_all\r\n")
            ask(port, "set a 5 0 1\r\n7\r\n")
            answers.append(ask(port, case))
        if answers[0] == answers[1] or case in KNOWN:
            passed += 1
        else:
            failed += 1
            print(f"{case[:60]!r}\n  memcached {answers[0]}\n  flashare  {answers[1]}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
