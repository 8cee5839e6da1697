//! One connection: what goes over it, in which order, and what the answers mean.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::tally::{Sum, Tally, tenths};
use super::wire::{Answers, Got, Sender};
use crate::event::Kind;
use crate::values::{KeyId, Values, Verdict};
use cache::IdMap;

/// Bytes of a batch beyond which it is sent.
const BATCH_BYTES: usize = 16 << 10;
/// Requests that an open loop lets wait for answers on a connection. What is due beyond waits for its turn, and its time counts.
const WAITING_MAX: usize = 1 << 16;
/// Closed loop: how far at least a request may be sent before another that comes earlier in the trace.
const AHEAD_MIN: u64 = 32;
/// Closed loop: chunks for each connection that a thread takes before it has sent others.
const CHUNKS_MAX: usize = 4;
/// Longest sleep of an open loop: fills are sent that soon.
const NAP: Duration = Duration::from_micros(200);

/// One request on its way to its connection; its key lies in its chunk.
#[derive(Clone, Copy)]
pub(super) struct Request {
    /// Its place in the trace.
    pub(super) at: u64,
    pub(super) key_at: u32,
    pub(super) key_bytes: u16,
    pub(super) kind: Kind,
    pub(super) id: KeyId,
    pub(super) tenant: u32,
    pub(super) value_bytes: u32,
    pub(super) ttl: u32,
    /// Seconds from the beginning of the replay at which it is due, of an open loop.
    pub(super) due: f64,
}

/// Requests of one connection, in order.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) keys: Vec<u8>,
    pub(super) requests: Vec<Request>,
    /// Whether it is being served.
    begun: bool,
}

impl Chunk {
    fn key(&self, request: &Request) -> &[u8] {
        &self.keys[request.key_at as usize..][..usize::from(request.key_bytes)]
    }
}

/// What an answer is expected to be.
#[derive(Clone, Copy)]
struct Awaited {
    kind: Kind,
    id: KeyId,
    version: u64,
    tenant: u32,
}

/// What all connections of a replay do alike.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) pipeline: usize,
    pub(super) value_max: usize,
    /// Whether a miss is filled.
    pub(super) fills: bool,
}

/// What is stored under which version, as far as this connection knows: it alone has these keys.
struct Store {
    sender: Sender,
    values: Values,
    /// Version times two, plus one if it is there.
    versions: IdMap<u64>,
    tally: Tally,
    manner: Manner,
}

impl Store {
    fn new(sender: Sender, manner: Manner) -> Store {
        let (values, versions) = (Values::default(), IdMap::default());
        Store { sender, values, versions, tally: Tally::default(), manner }
    }

    fn version(&self, id: KeyId) -> u64 {
        self.versions.get(&id).map_or(0, |known| known >> 1)
    }

    /// Whether the key was stored or found when it was last used.
    fn is_there(&self, id: KeyId) -> bool {
        self.versions.get(&id).is_some_and(|known| known & 1 == 1)
    }

    fn note_found(&mut self, id: KeyId, found: bool) {
        let known = self.versions.entry(id).or_default();
        *known = *known & !1 | u64::from(found);
    }

    /// A change makes the next version of a key.
    fn next_version(&mut self, id: KeyId, is_there: bool) -> u64 {
        let known = self.versions.entry(id).or_default();
        *known = ((*known >> 1) + 1) << 1 | u64::from(is_there);
        *known >> 1
    }

    /// Adds a request to the batch. None if it is not sent: its value is too large.
    fn add(&mut self, chunk: &Chunk, request: &Request) -> Option<u64> {
        let key = chunk.key(request);
        self.tally.of(request.tenant).requests += 1;
        match request.kind {
            Kind::Get => self.sender.get(key),
            Kind::Delete => {
                self.next_version(request.id, false);
                self.sender.delete(key);
            }
            Kind::Set => return self.set(key, request),
        }
        Some(self.version(request.id))
    }

    fn set(&mut self, key: &[u8], request: &Request) -> Option<u64> {
        let size = request.value_bytes as usize;
        if size > self.manner.value_max {
            self.tally.errors += 1;
            return None;
        }
        let version = self.next_version(request.id, true);
        let (id, values) = (request.id, &self.values);
        self.sender.set(key, request.ttl, size, |out| values.make(id, version, size, out));
        self.tally.of(request.tenant).app_bytes_written += (key.len() + size) as u64;
        Some(version)
    }
}

impl Store {
    /// Adds the set that fills a miss to the batch; not if something was stored or deleted since.
    fn fill(&mut self, miss: &Missed) -> Option<Awaited> {
        let Missed { awaited, ref key, value_bytes, ttl } = *miss;
        let Awaited { id, tenant, .. } = awaited;
        let key_bytes = key.len() as u16;
        let request = Request { at: 0, key_at: 0, key_bytes, kind: Kind::Set, id, tenant, value_bytes, ttl, due: 0.0 };
        if self.version(id) != awaited.version {
            return None;
        }
        let version = self.set(key, &request)?;
        Some(Awaited { kind: Kind::Set, version, ..awaited })
    }
}

/// Reads one answer and judges it. Returns whether it is a miss.
fn judge(
    answers: &mut Answers,
    values: &Values,
    value: &mut Vec<u8>,
    awaited: &Awaited,
    tally: &mut Tally,
) -> Result<bool> {
    let is_miss = match awaited.kind {
        Kind::Get => {
            let got = answers.read_value(value)?;
            tally.of(awaited.tenant).gets += 1;
            tally.errors += u64::from(got == Got::Error);
            if got == Got::Hit {
                tally.of(awaited.tenant).hits += 1;
                match values.judge(awaited.id, awaited.version, std::iter::once(value.as_slice())) {
                    Verdict::Right => {}
                    Verdict::Stale => tally.stale += 1,
                    Verdict::Wrong => tally.wrong += 1,
                }
            }
            got != Got::Hit
        }
        Kind::Set => {
            tally.errors += u64::from(!answers.read_stored()?);
            false
        }
        Kind::Delete => {
            tally.errors += u64::from(!answers.read_deleted()?);
            false
        }
    };
    tally.sent += 1; // answered: what broke before does not count
    Ok(is_miss)
}

/// Takes the next batch off what is left of a chunk: up to so many requests, of those that come before a place in the trace. A key that was
/// not there when it was last asked for is asked for once: its next request waits until the miss is filled, as in the application that was
/// traced; others overtake it.
fn take_batch(
    requests: &[Request],
    left: &mut Vec<u32>,
    pipeline: usize,
    until: u64,
    batch: &mut Vec<u32>,
    is_there: impl Fn(KeyId) -> bool,
) {
    const WORDS: usize = 32;
    // so many bits say which keys were taken, or left; keys that share one are taken for the same, and wait a turn at no harm
    let (mut taken, mut kept) = ([0u64; WORDS], [0u64; WORDS]);
    batch.clear();
    let (mut seen, mut stay) = (0, 0);
    while seen < left.len() && batch.len() < pipeline {
        let number = left[seen];
        let request = &requests[number as usize];
        if request.at >= until {
            break;
        }
        let bit = request.id as usize % (64 * WORDS);
        let (word, mask) = (bit / 64, 1u64 << (bit % 64));
        let may_follow = || taken[word] & mask == 0 || (request.kind == Kind::Get && is_there(request.id));
        if kept[word] & mask == 0 && may_follow() {
            taken[word] |= mask;
            batch.push(number);
        } else {
            kept[word] |= mask;
            left[stay] = number;
            stay += 1;
        }
        seen += 1;
    }
    left.drain(stay..seen);
}

/// A connection in a closed loop: fills of the batch before and as many requests as the pipeline takes, then their answers.
struct Lane {
    answers: Answers,
    store: Store,
    /// Chunks that wait, the one that is being served first.
    chunks: VecDeque<Chunk>,
    /// Requests of that one that are left.
    left: Vec<u32>,
    batch: Vec<u32>,
    awaited: Vec<Awaited>,
    /// Of those, fills, which come first.
    fills: usize,
    missed: Vec<Missed>,
    sent: Instant,
    value: Vec<u8>,
}

impl Lane {
    fn new((sender, answers): (Sender, Answers), manner: Manner) -> Lane {
        Lane {
            answers,
            store: Store::new(sender, manner),
            chunks: VecDeque::new(),
            left: Vec::new(),
            batch: Vec::new(),
            awaited: Vec::new(),
            fills: 0,
            missed: Vec::new(),
            sent: Instant::now(),
            value: Vec::new(),
        }
    }

    /// The place in the trace of the first request that waits to be sent, if any does.
    fn front(&self) -> Option<u64> {
        let begun = self.chunks.front().zip(self.left.first()).map(|(chunk, number)| &chunk.requests[*number as usize]);
        let next = || self.chunks.iter().find(|chunk| !chunk.begun).and_then(|chunk| chunk.requests.first());
        begun.or_else(next).map(|request| request.at)
    }

    /// Sends the next batch, of requests that come before `until` in the trace. False if there is nothing to send.
    fn begin(&mut self, until: u64, sum: &Sum) -> Result<bool> {
        self.awaited.clear();
        for miss in self.missed.drain(..) {
            self.awaited.extend(self.store.fill(&miss));
        }
        self.fills = self.awaited.len();
        if self.left.is_empty() {
            if self.chunks.front().is_some_and(|chunk| chunk.begun) {
                self.chunks.pop_front();
                sum.take(&mut self.store.tally);
            }
            if let Some(chunk) = self.chunks.front_mut() {
                chunk.begun = true;
                self.left.extend(0..chunk.requests.len() as u32);
            }
        }
        self.batch.clear();
        if let Some(chunk) = self.chunks.front() {
            let (pipeline, store) = (self.store.manner.pipeline, &self.store);
            take_batch(&chunk.requests, &mut self.left, pipeline, until, &mut self.batch, |id| store.is_there(id));
            self.batch.retain(|number| {
                let request = &chunk.requests[*number as usize];
                let Request { kind, id, tenant, .. } = *request;
                let added = self.store.add(chunk, request);
                self.awaited.extend(added.map(|version| Awaited { kind, id, version, tenant }));
                added.is_some()
            });
        }
        if self.awaited.is_empty() {
            return Ok(false);
        }
        self.sent = Instant::now();
        self.store.sender.send()?;
        Ok(true)
    }

    /// Reads the answers to what was sent; what misses is to be filled next.
    fn end(&mut self, latencies: &mut Histogram<u64>) -> Result<()> {
        let chunk = self.chunks.front();
        for (number, one) in self.awaited.iter().enumerate() {
            let is_miss = judge(&mut self.answers, &self.store.values, &mut self.value, one, &mut self.store.tally)?;
            if one.kind == Kind::Get && is_miss == self.store.is_there(one.id) {
                self.store.note_found(one.id, !is_miss);
            }
            if is_miss
                && self.store.manner.fills
                && let (Some(at), Some(chunk)) = (number.checked_sub(self.fills), chunk)
            {
                let request = &chunk.requests[self.batch[at] as usize];
                let Request { value_bytes, ttl, .. } = *request;
                self.missed.push(Missed { awaited: *one, key: chunk.key(request).to_vec(), value_bytes, ttl });
            }
        }
        // answers of a batch come together: the time of the last is that of all
        let count = (self.awaited.len() - self.fills) as u64;
        if count > 0 {
            self.store.tally.batches += 1;
            latencies.saturating_record_n(self.sent.elapsed().as_nanos() as u64 / 100, count);
        }
        self.awaited.clear();
        Ok(())
    }
}

/// A thread's closed loops: while the server works on one connection's batch, the next one's is sent, so that neither waits for the
/// other. The trace's order holds but for as many requests as may be in flight: a connection whose keys are rare waits for one whose keys are hot.
pub(super) fn run_closed(
    ends: Vec<(Sender, Answers)>,
    manner: Manner,
    chunks: &Receiver<(usize, Chunk)>,
    sum: &Sum,
) -> Result<()> {
    let mut lanes: Vec<Lane> = ends.into_iter().map(|end| Lane::new(end, manner)).collect();
    let mut latencies = tenths();
    let outcome = serve_lanes(&mut lanes, chunks, &mut latencies, sum);
    lanes.iter_mut().for_each(|lane| sum.take(&mut lane.store.tally));
    sum.take_latencies(&latencies);
    outcome
}

fn serve_lanes(
    lanes: &mut [Lane],
    chunks: &Receiver<(usize, Chunk)>,
    latencies: &mut Histogram<u64>,
    sum: &Sum,
) -> Result<()> {
    let mut is_open = true;
    let in_flight: usize = lanes.iter().map(|lane| lane.store.manner.pipeline).sum();
    let ahead = (in_flight as u64).max(AHEAD_MIN);
    loop {
        let mut waiting: usize = lanes.iter().map(|lane| lane.chunks.len()).sum();
        while waiting < CHUNKS_MAX * lanes.len()
            && let Ok((lane, chunk)) = chunks.try_recv()
        {
            lanes[lane].chunks.push_back(chunk);
            waiting += 1;
        }
        let front = lanes.iter().filter_map(Lane::front).min().unwrap_or(0);
        let until = front + ahead;
        let mut sent = false;
        for lane in &mut *lanes {
            if !lane.awaited.is_empty() {
                lane.end(latencies)?;
            }
            sent |= lane.begin(until, sum)?;
        }
        if sent || lanes.iter().any(|lane| !lane.awaited.is_empty()) {
            continue;
        }
        match chunks.recv() {
            Ok((lane, chunk)) => lanes[lane].chunks.push_back(chunk),
            Err(_) => is_open = false,
        }
        if !is_open && lanes.iter().all(|lane| lane.front().is_none() && lane.missed.is_empty()) {
            return Ok(());
        }
    }
}

/// A miss: what to fill it with, and its key.
struct Missed {
    awaited: Awaited,
    key: Vec<u8>,
    value_bytes: u32,
    ttl: u32,
}

/// An answer that an open loop waits for.
struct Expected {
    awaited: Awaited,
    /// When the request should have been sent: latency counts from there. None for a fill.
    due: Option<Instant>,
    fill: Option<(Vec<u8>, u32, u32)>,
}

/// Open loop: each request is sent when it is due, whatever has been answered; latency counts from when it was due, so a server
/// (or a network, or this tool) that falls behind shows.
pub(super) fn run_open(
    (sender, answers): (Sender, Answers),
    manner: Manner,
    began: Instant,
    chunks: &Receiver<(usize, Chunk)>,
    sum: &Sum,
) -> Result<()> {
    let (expect, expected) = sync_channel(WAITING_MAX);
    let missed = Mutex::new(VecDeque::new());
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let outcome = read_answers(answers, &expected, manner, &missed, sum);
            over.store(true, Ordering::Relaxed);
            drop(expected); // a sender that waits for room learns of it
            outcome
        });
        let mut store = Store::new(sender, manner);
        let outcome = chunks.iter().try_for_each(|(_, chunk)| {
            let outcome = send_chunk(&mut store, &chunk, began, &expect, &missed, &over);
            sum.take(&mut store.tally);
            outcome
        });
        sum.take(&mut store.tally);
        drop(expect);
        if outcome.is_err() {
            store.sender.finish();
        }
        let read = reader.join().expect("the reader does not panic");
        // when the server goes, both ends fail: the reader knows why
        read.and(outcome)
    })
}

fn send_chunk(
    store: &mut Store,
    chunk: &Chunk,
    began: Instant,
    expect: &std::sync::mpsc::SyncSender<Expected>,
    missed: &Mutex<VecDeque<Missed>>,
    over: &AtomicBool,
) -> Result<()> {
    let gone = || anyhow::anyhow!("the server closed the connection");
    for request in &chunk.requests {
        let due = began + Duration::from_secs_f64(request.due);
        loop {
            send_fills(store, expect, missed)?;
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if store.sender.waiting() > 0 {
                store.sender.send()?;
            }
            if over.load(Ordering::Relaxed) {
                return Err(gone());
            }
            std::thread::sleep(left.min(NAP));
        }
        let Some(version) = store.add(chunk, request) else { continue };
        let Request { kind, id, tenant, value_bytes, ttl, .. } = *request;
        let awaited = Awaited { kind, id, version, tenant };
        let fill = (kind == Kind::Get && store.manner.fills).then(|| (chunk.key(request).to_vec(), value_bytes, ttl));
        if store.sender.waiting() > BATCH_BYTES {
            store.sender.send()?;
        }
        expect.send(Expected { awaited, due: Some(due), fill }).map_err(|_| gone())?;
    }
    store.sender.send()
}

fn send_fills(
    store: &mut Store,
    expect: &std::sync::mpsc::SyncSender<Expected>,
    missed: &Mutex<VecDeque<Missed>>,
) -> Result<()> {
    let fills = std::mem::take(&mut *missed.lock().expect("nobody panics with it"));
    for miss in fills {
        if let Some(awaited) = store.fill(&miss) {
            let expected = Expected { awaited, due: None, fill: None };
            expect.send(expected).map_err(|_| anyhow::anyhow!("the server closed the connection"))?;
        }
    }
    Ok(())
}

fn read_answers(
    mut answers: Answers,
    expected: &Receiver<Expected>,
    manner: Manner,
    missed: &Mutex<VecDeque<Missed>>,
    sum: &Sum,
) -> Result<()> {
    const HANDED_IN_EVERY: u64 = 256;
    let (values, mut value, mut latencies, mut tally) = (Values::default(), Vec::new(), tenths(), Tally::default());
    let outcome = expected.iter().try_for_each(|Expected { awaited, due, fill }| {
        let is_miss = judge(&mut answers, &values, &mut value, &awaited, &mut tally)?;
        if let Some(due) = due {
            latencies.saturating_record(due.elapsed().as_nanos() as u64 / 100);
        }
        if let (true, true, Some((key, value_bytes, ttl))) = (is_miss, manner.fills, fill) {
            missed.lock().expect("nobody panics with it").push_back(Missed { awaited, key, value_bytes, ttl });
        }
        if tally.sent >= HANDED_IN_EVERY {
            sum.take(&mut tally);
        }
        Ok(())
    });
    sum.take(&mut tally);
    sum.take_latencies(&latencies);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(ids: &[u64]) -> Vec<Request> {
        let request = |(at, id): (usize, &u64)| {
            let at = at as u64 * 10;
            Request {
                at,
                key_at: 0,
                key_bytes: 1,
                kind: Kind::Get,
                id: *id,
                tenant: 0,
                value_bytes: 0,
                ttl: 0,
                due: 0.0,
            }
        };
        ids.iter().enumerate().map(request).collect()
    }

    #[test]
    fn a_key_that_may_be_missing_is_not_asked_for_twice_in_a_batch() {
        let all = requests(&[1, 2, 3, 2, 4, 2]);
        let mut batch = Vec::new();
        let mut next = |left: &mut Vec<u32>, pipeline, is_there: bool| {
            take_batch(&all, left, pipeline, 1000, &mut batch, |_| is_there);
            batch.clone()
        };
        let mut left = (0..6).collect();
        assert_eq!(next(&mut left, 8, false), [0, 1, 2, 4]);
        assert_eq!(next(&mut left, 8, false), [3]);
        assert_eq!(next(&mut left, 8, false), [5]);
        let mut left = (0..6).collect();
        assert_eq!(next(&mut left, 2, false), [0, 1]);
        assert_eq!(next(&mut left, 2, false), [2, 3], "a key's requests stay in order");
        assert_eq!(next(&mut left, 2, false), [4, 5]);
        let mut left = (0..6).collect();
        assert_eq!(next(&mut left, 8, true), [0, 1, 2, 3, 4, 5], "what is there may be asked for again at once");
    }

    #[test]
    fn what_comes_much_later_in_the_trace_waits() {
        let all = requests(&[1, 2, 2, 3, 4]);
        let (mut left, mut batch) = ((0..5).collect(), Vec::new());
        take_batch(&all, &mut left, 8, 40, &mut batch, |_| false);
        assert_eq!((batch.as_slice(), left.as_slice()), ([0, 1, 3].as_slice(), [2, 4].as_slice()));
        take_batch(&all, &mut left, 8, 20, &mut batch, |_| false);
        assert_eq!((batch.len(), left.len()), (0, 2));
    }
}
