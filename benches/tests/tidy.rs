//! House rules that a machine can hold: who may use whom, where `unsafe` may be, that every invariant is stated and cited by a
//! test that exists, that every flag and stats key is documented.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder of the workspace.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

const CRATES: [&str; 8] =
    ["log-memory", "flash-store", "predictor", "tenants", "cache", "protocol", "server", "traces"];

#[test]
fn dependencies_point_one_way() {
    let allowed = |name: &str| -> &[&str] {
        match name {
            "cache" => &["log-memory", "flash-store", "predictor", "tenants"],
            "server" => &["cache", "protocol"],
            "traces" => &["cache", "protocol", "server"],
            _ => &[],
        }
    };
    for name in CRATES {
        let manifest = read(format!("{name}/Cargo.toml"));
        let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        let used = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
        for used in used.filter(|used| CRATES.contains(used)) {
            assert!(allowed(name).contains(&used), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn unsafe_stays_where_it_may_be() {
    let allowed = ["region.rs", "object.rs", "open_segment.rs", "landing.rs", "pin.rs", "relocate.rs", "lib.rs"];
    for name in CRATES.into_iter().filter(|name| !["log-memory", "server"].contains(name)) {
        let lib = read(format!("{name}/src/lib.rs"));
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{name} forbids unsafe code");
    }
    assert!(read("server/src/lib.rs").contains("#![deny(unsafe_code)]"));
    for path in sources("server/src") {
        let inside = path.components().any(|part| part.as_os_str() == "uring")
            || ["server/src/lib.rs", "server/src/priority.rs", "server/src/wear.rs"]
                .iter()
                .any(|file| path.ends_with(file));
        assert!(inside || !std::fs::read_to_string(&path).unwrap().contains("unsafe"), "unsafe in {}", path.display());
    }
    for path in sources("log-memory/src") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(allowed.contains(&name) || !text.contains("unsafe"), "unsafe in {}", path.display());
    }
}

#[test]
fn engine_and_protocol_touch_no_clock_and_no_socket() {
    let forbidden = ["std::net", "std::time::Instant", "SystemTime", "std::fs", "tokio"];
    for folder in ["cache/src", "protocol/src", "predictor/src", "tenants/src", "log-memory/src"] {
        for path in sources(folder) {
            let text = std::fs::read_to_string(&path).unwrap();
            let found = forbidden.iter().find(|word| text.contains(**word));
            assert!(found.is_none(), "{} uses {}", path.display(), found.unwrap());
        }
    }
    let session = sources("server/src/session").into_iter().chain([root().join("server/src/session.rs")]);
    for path in session {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = forbidden.iter().find(|word| text.contains(**word));
        assert!(
            found.is_none(),
            "{} uses {}: a session does no I/O and reads no clock",
            path.display(),
            found.unwrap()
        );
    }
}

#[test]
fn every_invariant_is_stated_and_tested() {
    let stated: BTreeSet<String> = invariants(&read("ARCHITECTURE.md"));
    let mut cited = BTreeSet::new();
    let mut tests = BTreeSet::new();
    for folder in CRATES {
        for path in sources(folder) {
            let text = std::fs::read_to_string(&path).unwrap();
            cited.extend(invariants(&text));
            let marks = text.split("#[test]").skip(1);
            tests.extend(
                marks.filter_map(|after| Some(after.split("fn ").nth(1)?.split('(').next()?.trim().to_owned())),
            );
        }
    }
    let unknown: Vec<_> = cited.difference(&stated).collect();
    assert!(unknown.is_empty(), "cited but not stated in ARCHITECTURE.md: {unknown:?}");
    let architecture = read("ARCHITECTURE.md");
    for row in architecture.lines().filter(|line| line.starts_with("| INV-")) {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test is named: {row}");
        for name in named {
            let exists = if name.ends_with(".rs") { root().join(name).exists() } else { tests.contains(name) };
            assert!(exists, "{name} is named in ARCHITECTURE.md and does not exist");
        }
    }
}

fn invariants(text: &str) -> BTreeSet<String> {
    let names = text.split("INV-").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '-').unwrap_or(rest.len());
        format!("INV-{}", rest[..end].trim_end_matches('-'))
    });
    names.filter(|name| name.len() > 4).collect()
}

#[test]
fn every_stats_key_is_documented() {
    let page = read("docs/stats.md");
    let source = read("server/src/stats.rs");
    let keys = source.split("stat(out, \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let rows = source.split("row(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let counts = cache::COUNTS.iter().map(|(_, key)| *key);
    let table = server::COUNT_KEYS.iter().map(|(key, _, _)| *key);
    for key in keys.chain(rows).chain(counts).chain(table) {
        assert!(page.contains(&format!("`{key}`")), "docs/stats.md lacks {key}");
    }
}

#[test]
fn nothing_unfinished_is_left() {
    for folder in CRATES {
        for path in sources(folder) {
            let text = std::fs::read_to_string(&path).unwrap();
            let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ign", "ore")];
            assert!(words.iter().all(|word| !text.contains(word)), "{}", path.display());
        }
    }
}
