//! What `watch fetchers mutations deletions` tells of a running memcached, or of flashare: a trace of what its clients ask for.
//!
//! The lines are of what the server does, which is more than it was asked for:
//! - Who stores or deletes looks its key up first, and that is a line like a client's read. It is told apart by what follows it
//!   on the same connection, so a read is held back until that is known, and whatever came after it too.
//! - A read that misses tells no size, and the store that fills it is no request of its own but what a trace leaves to whoever
//!   runs it. So a miss waits for its fill, and is one read then, of the size that was filled in. A key that nobody fills was
//!   asked for in vain, as it would be of any cache: its reads are left out.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context, Result, bail};

use super::spread::{Pending, set_key};
use super::{ONLY_TENANT, Tenants, field};
use crate::event::{Event, Op};

/// A store later than this after the miss of its key is a store of its own.
const FILL_SECS: f64 = 10.0;
/// Between a store's look at its key and its own line there are microseconds, or as long as its thread was without a core.
const LOOKUP_SECS: f64 = 0.2;
/// `deleted` does not say on which connection: its look at the key is among so many lines before.
const LOOKUP_LINES: usize = 64;

/// Longest time to live, in seconds.
const TTL_MAX: u64 = i32::MAX as u64;

/// What a line tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// A key was looked for, and was there or not.
    Looked(bool),
    Stored(Op),
    Deleted,
    /// A look for the sake of a store or of a delete.
    Nothing,
}

/// A line that is held back.
struct Told {
    at: f64,
    what: What,
    key: Box<[u8]>,
    connection: u64,
    size: u32,
    ttl: u32,
}

/// Lines on their way to be requests, and what was left out.
#[derive(Default)]
pub(super) struct Watch {
    held: VecDeque<Told>,
    /// Lines that have left `held`.
    gone: u64,
    /// The number of each connection's last line.
    latest: HashMap<u64, u64>,
    now: f64,
    /// By key: when it missed first, and how many reads did.
    missed: HashMap<Box<[u8]>, (f64, u64)>,
    /// The same keys, in order of their first miss; some have been filled since.
    order: VecDeque<(f64, Box<[u8]>)>,
    /// Reads whose key nobody filled.
    pub(super) unfilled: u64,
    /// Lines that the server says it left out, since the watcher did not keep up.
    pub(super) skipped: u64,
}

impl Told {
    /// None if the line is of what clients do not ask for.
    fn of(line: &[u8]) -> Result<Option<Told>> {
        let (mut at, mut what, mut key, mut status, mut cmd) = (None, None, None, b"".as_slice(), b"".as_slice());
        let (mut connection, mut size, mut ttl) = (0, 0, 0);
        for word in line.split(|byte| *byte == b' ') {
            let equals = memchr::memchr(b'=', word).unwrap_or(word.len());
            let value = word.get(equals + 1..).unwrap_or(b"");
            match &word[..equals] {
                b"ts" => at = Some(time(value)?),
                b"type" => what = Some(value),
                b"key" => key = Some(value),
                b"status" => status = value,
                b"cmd" => cmd = value,
                b"cfd" => connection = field::count(value, "cfd")?,
                b"size" => size = field::bytes(value, "size")?,
                // what has expired already has a negative one, which is written as a large one
                b"ttl" => ttl = field::whole(value).map_or(0, |secs| if secs > TTL_MAX { 1 } else { secs as u32 }),
                _ => {}
            }
        }
        let (Some(at), Some(what)) = (at, what) else {
            bail!("expected ts=SECONDS.MICROSECONDS gid=NUMBER type=KIND and more");
        };
        let what = match what {
            b"item_get" => What::Looked(status == b"found"),
            // what lacked room was asked for all the same
            b"item_store" if matches!(status, b"stored" | b"no_memory" | b"too_large") => {
                What::Stored(Op::of(cmd).unwrap_or(Op::Set))
            }
            // it looked its key up, too
            b"item_store" => What::Nothing,
            b"deleted" => What::Deleted,
            _ => return Ok(None),
        };
        let key = spelled(field::key(key.context("column key is missing")?, "key")?)?.into();
        Ok(Some(Told { at, what, key, connection, size, ttl }))
    }
}

impl Watch {
    /// Takes a line; what it comes to is told by [`Watch::next`].
    pub(super) fn take(&mut self, line: &[u8]) -> Result<()> {
        if let Some(skipped) = line.strip_prefix(b"skipped=") {
            self.skipped += field::count(skipped, "skipped")?;
            return Ok(());
        }
        if line == b"OK" {
            return Ok(());
        }
        let Some(told) = Told::of(line)? else { return Ok(()) };
        self.now = told.at;
        match told.what {
            What::Looked(_) => {}
            What::Deleted => self.void(self.held.len().saturating_sub(LOOKUP_LINES)..self.held.len(), &told.key),
            What::Stored(_) | What::Nothing => {
                let before = self.latest.get(&told.connection).and_then(|number| number.checked_sub(self.gone));
                before.inspect(|at| self.void(*at as usize..*at as usize + 1, &told.key));
            }
        }
        if told.what != What::Deleted {
            self.latest.insert(told.connection, self.gone + self.held.len() as u64);
        }
        self.held.push_back(told);
        Ok(())
    }

    /// The last look at the key among these lines was no client's.
    fn void(&mut self, lines: std::ops::Range<usize>, key: &[u8]) {
        let mut looks = self.held.range_mut(lines).rev();
        if let Some(look) = looks.find(|told| matches!(told.what, What::Looked(_)) && *told.key == *key) {
            look.what = What::Nothing;
        }
    }

    /// Makes the event the next request. False if the next line is needed to know.
    pub(super) fn next(&mut self, tenants: &mut Tenants, event: &mut Event, pending: &mut Pending) -> bool {
        while let Some(told) = self.held.front() {
            let is_open = matches!(told.what, What::Looked(_))
                && self.latest.get(&told.connection) == Some(&self.gone)
                && self.now - told.at < LOOKUP_SECS;
            if is_open {
                return false;
            }
            let Some(told) = self.held.pop_front() else { return false };
            self.gone += 1;
            if self.tell(told, tenants, event, pending) {
                return true;
            }
        }
        false
    }

    /// Nothing more comes: whatever is held back is due. False if nothing is.
    pub(super) fn finish(&mut self) -> bool {
        self.now = f64::INFINITY;
        if self.held.is_empty() {
            self.give_up(f64::INFINITY);
        }
        !self.held.is_empty()
    }

    fn tell(&mut self, told: Told, tenants: &mut Tenants, event: &mut Event, pending: &mut Pending) -> bool {
        self.give_up(told.at - FILL_SECS);
        let op = match told.what {
            What::Looked(true) => Op::Get,
            What::Looked(false) => {
                self.miss(told.at, told.key);
                return false;
            }
            What::Stored(op) => op,
            What::Deleted => Op::Delete,
            What::Nothing => return false,
        };
        event.time = told.at;
        event.tenant = tenants.number(ONLY_TENANT);
        (event.op, event.value_size, event.ttl) = (op, told.size, told.ttl);
        set_key(event, &told.key);
        if matches!(op, Op::Get | Op::Set | Op::Add)
            && let Some((_, reads)) = self.missed.remove(&told.key)
        {
            // as many reads as missed; one that hit besides was filled by what no line told
            event.op = Op::Get;
            *pending = Pending::Same(if op == Op::Get { reads } else { reads - 1 });
        }
        true
    }

    fn miss(&mut self, now: f64, key: Box<[u8]>) {
        if let Some((_, reads)) = self.missed.get_mut(&key) {
            *reads += 1;
            return;
        }
        self.missed.insert(key.clone(), (now, 1));
        self.order.push_back((now, key));
    }

    /// Leaves out the reads of keys that missed before `until` and were not filled.
    fn give_up(&mut self, until: f64) {
        while self.order.front().is_some_and(|(since, _)| *since < until) {
            // it may have been filled and have missed anew since
            if let Some((_, key)) = self.order.pop_front()
                && self.missed.get(&key).is_some_and(|(since, _)| *since < until)
                && let Some((_, reads)) = self.missed.remove(&key)
            {
                self.unfilled += reads;
            }
        }
    }
}

/// Seconds of `SECONDS.MICROSECONDS`: memcached writes the microseconds without leading zeros.
fn time(text: &[u8]) -> Result<f64> {
    let point = memchr::memchr(b'.', text).unwrap_or(text.len());
    let (secs, micros) = (&text[..point], text.get(point + 1..).unwrap_or(b"0"));
    Ok(field::count(secs, "ts")? as f64 + field::count(micros, "ts")? as f64 / 1e6)
}

/// The key that was escaped as in a URI. One that is no word stays escaped: other formats could not carry it.
fn spelled(escaped: &[u8]) -> Result<Vec<u8>> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            key.push(*byte);
            continue;
        }
        let digits = rest.as_slice().get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            bail!("column key: '%' without two hexadecimal digits in '{}'", String::from_utf8_lossy(escaped));
        };
        key.push(byte);
        rest.nth(1);
    }
    Ok(if key.iter().all(u8::is_ascii_graphic) { key } else { escaped.to_vec() })
}
