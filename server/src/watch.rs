//! `watch`: lines about what happens, to connections that asked for them, in memcached's form. Costs one load while nobody
//! watches. A watcher that does not read loses lines, and is told how many.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// What can be watched, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Topic {
    Fetchers = 1,
    Mutations = 2,
    Evictions = 4,
    Connections = 8,
    Deletions = 16,
    System = 32,
}

/// Topics by the names that watch takes. Those of memcached's proxy are known and never happen.
pub(crate) fn topic_bits(name: &[u8]) -> Option<u16> {
    match name {
        b"fetchers" => Some(Topic::Fetchers as u16),
        b"mutations" => Some(Topic::Mutations as u16),
        b"evictions" => Some(Topic::Evictions as u16),
        b"connevents" => Some(Topic::Connections as u16),
        b"deletions" => Some(Topic::Deletions as u16),
        b"sysevents" => Some(Topic::System as u16),
        b"rawcmds" | b"proxyreqs" | b"proxyevents" | b"proxyuser" => Some(0),
        _ => None,
    }
}

/// One watching connection's lines.
pub(crate) struct Watcher {
    topics: u16,
    bytes_max: usize,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    text: String,
    skipped: u64,
}

impl Watcher {
    fn offer(&self, line: &str) -> bool {
        let mut lines = self.lines.lock();
        if lines.text.len() + line.len() > self.bytes_max {
            lines.skipped += 1;
            return false;
        }
        if lines.skipped > 0 {
            let skipped = std::mem::take(&mut lines.skipped);
            let _ = writeln!(lines.text, "skipped={skipped}");
        }
        lines.text.push_str(line);
        true
    }

    /// Takes the lines that wait.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.lines.lock().text)
    }
}

/// Everyone who watches.
#[derive(Default)]
pub(crate) struct Watchers {
    /// Topics that anyone watches.
    topics: AtomicU16,
    all: Mutex<Vec<Arc<Watcher>>>,
    lines: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

impl Watchers {
    pub(crate) fn add(&self, topics: u16, bytes_max: usize) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher { topics, bytes_max, lines: Mutex::default() });
        self.all.lock().push(Arc::clone(&watcher));
        self.refresh();
        watcher
    }

    pub(crate) fn remove(&self, watcher: &Arc<Watcher>) {
        self.all.lock().retain(|other| !Arc::ptr_eq(other, watcher));
        self.refresh();
    }

    fn refresh(&self) {
        let topics = self.all.lock().iter().fold(0, |topics, watcher| topics | watcher.topics);
        self.topics.store(topics, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.all.lock().len()
    }

    /// Lines that were made.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Whether anyone watches a topic.
    pub(crate) fn wants(&self, topic: Topic) -> bool {
        self.topics.load(Ordering::Relaxed) & topic as u16 != 0
    }

    /// Tells everyone who watches `topic`; the line is made only if there is anyone.
    pub(crate) fn tell(&self, topic: Topic, line: impl FnOnce(&mut String)) {
        if !self.wants(topic) {
            return;
        }
        let number = self.lines.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut text = format!("ts={}.{:06} gid={number} type=", now.as_secs(), now.subsec_micros());
        line(&mut text);
        text.push('\n');
        for watcher in self.all.lock().iter().filter(|watcher| watcher.topics & topic as u16 != 0) {
            let counter = if watcher.offer(&text) { &self.sent } else { &self.skipped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A key as watchers are told it: what is no letter, digit or one of `-._~` is escaped as in a URI.
pub(crate) fn escaped(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
