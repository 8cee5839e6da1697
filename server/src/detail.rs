//! `stats detail`: counts by key prefix, kept only while they are asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Prefixes that are told apart; keys of further ones are not counted.
const PREFIXES_MAX: usize = 10_000;

/// What is counted of a prefix.
#[derive(Default)]
struct Counts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

/// What was done to a key.
#[derive(Clone, Copy)]
pub(crate) enum Done {
    Get { hit: bool },
    Set,
    Delete,
}

/// Counts by prefix.
pub(crate) struct Details {
    on: AtomicBool,
    end: u8,
    prefixes: Mutex<BTreeMap<Box<[u8]>, Counts>>,
}

impl Details {
    pub(crate) fn new(on: bool, end: u8) -> Details {
        Details { on: AtomicBool::new(on), end, prefixes: Mutex::default() }
    }

    pub(crate) fn turn(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.prefixes.lock().clear();
    }

    pub(crate) fn note(&self, key: &[u8], done: Done) {
        if !self.is_on() {
            return;
        }
        let Some(len) = memchr::memchr(self.end, key) else { return };
        let mut prefixes = self.prefixes.lock();
        if prefixes.len() >= PREFIXES_MAX && !prefixes.contains_key(&key[..len]) {
            return;
        }
        let counts = prefixes.entry(key[..len].into()).or_default();
        match done {
            Done::Get { hit } => {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            }
            Done::Set => counts.sets += 1,
            Done::Delete => counts.deletes += 1,
        }
    }

    pub(crate) fn dump(&self) -> String {
        let mut out = String::new();
        for (prefix, counts) in self.prefixes.lock().iter() {
            let Counts { gets, hits, sets, deletes } = counts;
            let prefix = String::from_utf8_lossy(prefix);
            let _ = write!(out, "PREFIX {prefix} get {gets} hit {hits} set {sets} del {deletes}\r\n");
        }
        out.push_str("END\r\n");
        out
    }
}
