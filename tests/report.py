#!/usr/bin/env python3
"""Makes a report from scratch and opens it in a real browser (headless Chromium): it has to draw, and the console to stay silent.

usage: tests/report.py [FOLDER]      keeps what it makes in FOLDER. Installs chromium with apt where it is missing.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOOL = ROOT / "target/release/flashare-trace"
SECTIONS = ["The trace", "The servers", "The runs", "Tenants", "Endurance"]
PLOTS = ["Misses of an LRU by its size", "Hit ratio over time", "Write amplification over time", "Latency", "Hit ratio by bytes written to flash", "DRAM by tenant"]
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def run(*words):
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def make(folder):
    run("cargo", "build", "--release", "--locked", "--quiet", "--bin", "flashare", "--bin", "flashare-trace")
    trace = folder / "trace.csv.zst"
    run(TOOL, "synth", trace, "--requests", 200_000)
    run(TOOL, "stat", trace, "--json", folder / "trace.json")
    run(TOOL, "simulate", trace, "--dram", "4MiB", "--flash", "32MiB", "--sweep", "admission=svm,all", "--sweep", "dram=4MiB,8MiB", "--json", folder / "sweep.json")
    setup = folder / "setup.toml"
    setup.write_text(
        '[[server]]\nname = "both-tiers"\ndram = "4MiB"\n'
        f'command = "{TOOL.parent}/flashare -p {{port}} -m 4 -t 2 --config {{tenants}} --flash {{folder}}/flash:32MiB"\n\n'
        f'[[server]]\nname = "dram-only"\ncommand = "{TOOL.parent}/flashare -p {{port}} -m 4 -t 2 --no-flash"\n'
    )
    run(TOOL, "compare", setup, "--trace", trace, "--folder", folder / "work", "--json", folder / "servers.json")
    inputs = [folder / f"{name}.json" for name in ("trace", "servers", "sweep")]
    run(TOOL, "report", *inputs, "--out", folder / "report.html", "--plots", folder / "plots", "--drive", "960GB", "--dwpd", 1)


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
    return shutil.which("chromium")


def look(folder):
    """Opens the report; returns the document as the browser has it, and what its console said."""
    chromium, page = browser(), (folder / "report.html").as_uri()
    with tempfile.TemporaryDirectory() as profile:
        words = [chromium, *QUIET, f"--user-data-dir={profile}", "--enable-logging=stderr", "--log-level=0", "--window-size=1200,4000"]
        shot = subprocess.run([*words, f"--screenshot={folder / 'report.png'}", page], capture_output=True, text=True, timeout=120)
        dump = subprocess.run([*words, "--dump-dom", page], capture_output=True, text=True, timeout=120)
    console = [line for line in (shot.stderr + dump.stderr).splitlines() if "CONSOLE" in line]
    return dump.stdout, console


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(dir=ROOT / "target"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        make(folder)
        document, console = look(folder)
        problems = [f"the console says: {line}" for line in console]
        problems += [f"section {name} is missing" for name in SECTIONS if f"<h2>{name}</h2>" not in document]
        problems += [f"plot {name} is missing" for name in PLOTS if not re.search(rf'aria-label="{re.escape(name)}', document)]
        drawn = len(re.findall("<polyline", document))
        shot = folder / "report.png"
        if not shot.exists() or shot.stat().st_size < 60_000:
            problems.append("the screenshot is all but empty")
        if drawn < 20:
            problems.append(f"{drawn} lines are drawn, which are too few")
        if any(mark in document for mark in ("NaN", "inf %", ">None<")):
            problems.append("a figure is no number")
        print("\n".join(problems) or f"report: {len(document)} bytes, {drawn} lines drawn, nothing on the console")
        sys.exit(1 if problems else 0)
    finally:
        if len(sys.argv) < 2:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
