"""Servers for python-binary-memcached's own suite, whose source package leaves out the file that starts them."""

import os
import subprocess
import time

import pytest

IPV6_PORT = int(os.environ["FLASHARE_IPV6_PORT"])
SASL_PORT = int(os.environ["FLASHARE_SASL_PORT"])


def running(*arguments):
    server = subprocess.Popen(["memcached", *arguments], stdout=subprocess.PIPE)
    assert b"serves on" in server.stdout.readline()
    yield
    server.terminate()
    server.wait()


@pytest.fixture(scope="session", autouse=True)
def memcached_unix():
    yield from running("-s", "/tmp/memcached.sock")


@pytest.fixture(scope="session", autouse=True)
def second_memcached():
    yield from running("-p", "5000")


@pytest.fixture(scope="session")
def memcached_ipv6():
    yield from running("-l", "::1", "-p", str(IPV6_PORT))


@pytest.fixture(scope="session")
def memcached_sasl(tmp_path_factory):
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text("someone:secret\n")
    for _ in running("-S", "-Y", str(users), "-p", str(SASL_PORT)):
        yield SASL_PORT, "someone", "secret"
