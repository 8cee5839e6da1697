#!/usr/bin/env python3
"""Breaks each invariant of ARCHITECTURE.md on purpose, in a copy of the sources, and sees that the tests named for it fail.

usage: tests/break-invariants.py [INV-NAME ...]     takes about five minutes; exits 1 if a break goes unnoticed
       tests/break-invariants.py --check            only whether what is to be broken still stands where it stood
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Invariant, file, what stands there, what is put in its place, and the test that has to fail (arguments of cargo test).
BREAKS = [
    ("INV-FRESH", "cache/src/publish.rs", "        if let Some(flash) = &self.flash {\n            flash.hide(hash, tenant, writing.key);\n        }", "", "-p cache --test model"),
    ("INV-FRESH", "server/src/restart.rs", '        mark(&cache, self.device, 0, journal).context("writing to flash")?;\n', "", "-p server --test restart"),
    ("INV-FRESH", "cache/src/content.rs", "self.standing(tenant.id).flushed.fetch_max(flushed, Relaxed);", "let _ = flushed;", "-p cache --test restart"),
    ("INV-FRESH", "flash-store/src/lib.rs", "        if recovering || !removed.is_empty() {\n            self.note_hidden", "        if recovering {\n            self.note_hidden", "-p cache --test crash"),
    ("INV-FRESH", "flash-store/src/lib.rs", "        self.note(Note::Dead { segment: intent.segment.0, sequence });\n        self.recovery", "        self.recovery", "-p cache --test crash"),
    ("INV-FRESH", "flash-store/src/lib.rs", "            self.recovery.touch(self.index.name(class));\n", "", "-p cache --test crash"),
    ("INV-FRESH", "cache/src/publish.rs", "            journal.note(flash_store::Note::Flushed { tenant, version });\n", "", "-p cache --test crash"),
    ("INV-FRESH", "cache/src/lib.rs", "            self.beat();\n", "", "-p cache --test crash"),
    ("INV-FRESH", "cache/src/write.rs", "        if old.is_some_and(|old| cache.is_dead(read.tenant, &read.key, old.version(), old.expiry()).is_none()) {", "        if old.is_some() {", "-p cache --test invariants"),
    ("INV-FRESH", "tenants/src/registry.rs", "            leaving.iter().for_each(|tenant| release(tenant.id));\n", "", "-p tenants"),
    ("INV-FRESH", "tenants/src/registry.rs", "released.extend(prefixes.into_iter().map(|prefix| Released { prefix, version }));", "let _ = version;", "-p server --test admin"),
    ("INV-FRESH", "server/src/restart.rs", "        cache.settle_tenants();\n", "", "-p server --test restart"),
    ("INV-FRESH", "log-memory/src/relocate.rs", "            if !self.index.holds(found.hash, found.at) {", "            if false {", "-p log-memory --test model"),
    ("INV-FRESH", "flash-store/src/recovery.rs", "former.entry_of(hash, intent.segment, &claimed).map(|entry| entry.clock().max(CLOCK_RUNNING))", "former.entry_of(hash, intent.segment, &claimed).map_or(Some(CLOCK_RUNNING), |_| Some(CLOCK_PLACED))", "-p cache --test restart"),
    ("INV-FRESH", "flash-store/src/recovery.rs", "if search.touched.has(name) {", "if false && search.touched.has(name) {", "-p cache --test restart"),
    ("INV-OWN-KEY", "tenants/src/registry.rs", "let known = numbering.map_or(&[][..], |numbering| &numbering.numbers);", "let known: &[(String, Recognition)] = &[];", "-p server --test restart"),
    ("INV-SUM", "tenants/src/arbiter.rs", "let given = if n + 1 == ids.len() { left } else { step.min(left) };", "let given = step;", "-p tenants"),
    ("INV-OWN-KEY", "log-memory/src/lib.rs", "object.tenant() == tenant && object.key() == key", "object.tenant() == tenant", "-p log-memory --test model"),
    ("INV-ONE-PLACE", "cache/src/step/fate.rs", "if loser != Loser::Kept {", "if loser == Loser::Dropped {", "-p cache"),
    ("INV-GRACE", "log-memory/src/grace.rs", "self.slots.iter().all(|slot| slot.load(Ordering::SeqCst) >= stamp)", "stamp > 0", "-p log-memory"),
    ("INV-GRACE", "log-memory/src/segment.rs", "self.meta(*id).pins.load(Ordering::Acquire) > 0;", "self.meta(*id).pins.load(Ordering::Acquire) > u32::MAX / 2;", "-p log-memory --test model"),
    ("INV-GRACE", "log-memory/src/landing.rs", "        fragments.iter().for_each(|fragment| self.segments.begin_landing", "        discharge_all(&self.segments, fragments.iter().copied());\n        fragments.iter().for_each(|fragment| self.segments.begin_landing", "-p log-memory --test model"),
    ("INV-GRACE", "log-memory/src/lib.rs", ".take_while(|(old, new)| old == new).count();", ".take_while(|(old, new)| old == new).count() * 0;", "-p log-memory --test model"),
    ("INV-BOUNDED", "log-memory/src/segment.rs", " && self.landings.load(Ordering::Acquire) == 0", "", "-p log-memory --test model"),
    ("INV-BOUNDED", "log-memory/src/segment.rs", "pool.free.len() > SEGMENTS_SPARE", "!pool.free.is_empty()", "-p cache --test invariants"),
    ("INV-ORDER", "server/src/session/replies.rs", "        if self.behind.is_empty() {\n            return self.output.ready();\n        }", "        if self.reads < usize::MAX {\n            return self.output.ready();\n        }", "-p server --test invariants"),
    ("INV-MEMORY", "server/src/session.rs", "        if !cache.receive(wanted - *held) {\n            return false;\n        }\n        *held = wanted;", "        let _ = cache;", "-p server --test memory"),
    ("INV-RESERVED", "tenants/src/contest.rs", "(self.within.cmp(&other.within))\n            .then(self.claim.total_cmp(&other.claim))", "(self.claim.total_cmp(&other.claim))", "-p tenants"),
    ("INV-SUM", "tenants/src/arbiter.rs", "                self.tenant(winner).account.grant(CREDIT_BYTES);\n", "", "-p tenants"),
    ("INV-WHOLE", "flash-store/src/format.rs", "claimed == xxh3_64_with_seed(&self.bytes[CHECKSUM_BYTES..], seed.0) as u32", "claimed == claimed || seed.0 == 0", "-p flash-store"),
    ("INV-BOUNDED", "predictor/src/sample.rs", "            self.samples.pop_front();\n", "", "-p predictor"),
    ("INV-CONTAINED", "protocol/src/text.rs", "    if row[0].len() > KEY_BYTES_MAX {", "    assert!(row[0].len() <= KEY_BYTES_MAX, \"a key is too long\");\n    if row[0].len() > KEY_BYTES_MAX {", "-p server --test fuzz_corpus"),
]


def main():
    wanted = sys.argv[1:]
    for name, file, old, _, _ in BREAKS:
        if (ROOT / file).read_text().count(old) != 1:
            sys.exit(f"{name}: {file} has changed: look at BREAKS")
    if wanted == ["--check"]:
        return
    unnoticed = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "copy"
        # with new times: cargo would take what the last break left in the target folder for built from this
        shutil.copytree(ROOT, copy, copy_function=shutil.copy, ignore=shutil.ignore_patterns("target", "results", ".git"))
        for name, file, old, new, test in BREAKS:
            if wanted and name not in wanted:
                continue
            path = copy / file
            text = path.read_text()
            path.write_text(text.replace(old, new))
            command = ["cargo", "test", "--locked", "--target-dir", ROOT / "target/broken", *test.split()]
            try:
                run = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
                output, failed = run.stdout + run.stderr, run.returncode != 0
            except subprocess.TimeoutExpired:
                output, failed = "did not end", True
            if "error: could not compile" in output:
                sys.exit(f"{name}: the break does not compile:\n{output[-2000:]}")
            seen = sorted({line.split()[1] for line in output.splitlines() if line.startswith("test ") and line.endswith("FAILED")})
            print(f"{name:14} {'noticed by ' + ', '.join(seen) if failed else 'NOT NOTICED'}", flush=True)
            if not failed:
                unnoticed.append(name)
            path.write_text(text)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
