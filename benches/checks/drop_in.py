"""Drop-in: memcached's own suite, answers beside memcached's, clients, twemproxy and monitoring."""

import re
import subprocess

from .kit import ROOT, Row, exactly

# A cross-section for a quick look: every protocol, and what is easily broken.
QUICK = ["basic.t", "binary.t", "binary-get.t", "metaget.t", "cas.t", "expirations.t", "stats.t", "ascii-auth.t", "udp.t", "ssl_ports.t"]


def run(*command):
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def measure(quick):
    suite = ROOT / "tests/memcached-suite.py"
    known = {path.name for path in (ROOT / "target/memcached-suite/t").glob("*.t")}
    names = [name for name in QUICK if name in known] if quick else []
    _, output = run(suite, *names)
    passed, failed = map(int, re.findall(r"^(\d+) passed, (\d+) failed$", output, re.M)[-1])
    rows = [exactly(f"memcached's own suite: {passed:,} passed, failed", failed, 0)]
    omitted = re.findall(r"^left out, ([^:]+(?:: [^:]+)?): (.*)$", output, re.M)
    rows += [Row(f"left out: {why}", f"{len(files.split())} files", "stated", True) for why, files in omitted]
    status, output = run(ROOT / "tests/differential.sh")
    rows.append(exactly(f"answers beside memcached's ({output.strip().splitlines()[-1]}): exit code", status, 0))
    if not quick:
        status, output = run(ROOT / "tests/clients.sh")
        rows.append(exactly("clients, twemproxy and monitoring: exit code", status, 0))
        told = [line for line in output.splitlines() if re.search(r"\d+ passed", line)]
        rows += [Row("  " + line.strip(), "", "stated", True) for line in told]
    return rows
