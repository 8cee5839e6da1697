//! What became invalid on flash, kept so that it outlives the process: with it, flash content can be used after a crash.
//!
//! The index says what is valid; it lies in DRAM and a crash takes it. Segments on flash keep everything that was ever written to
//! them, so a start that only read segments would bring back what had been overwritten, deleted or flushed. Every removal from the
//! index that the segments themselves do not show is therefore noted here before its request is answered.
//!
//! ```text
//! file    head (one page) | clock (one page) | ring of pages
//! page    slots of 24 bytes: PAGE, then notes, then END (unless it is full)
//! slot    checksum 4 | kind 1 | 0 0 0 | x 4 | y 4 | z 8                  little-endian
//! ```
//! | kind | x | y | z | meaning |
//! |---|---|---|---|---|
//! | PAGE | number, low half | high half | sequence | the ring's page of this number; notes before it touch no segment later than this |
//! | HIDDEN | bucket | tag | sequence | what this class had in segments up to this sequence is gone |
//! | DEAD | segment | 0 | sequence | what this segment held up to this sequence is gone |
//! | FLUSHED | tenant | 0 | version | so is what this tenant stored up to this version |
//! | DUE | tenant | second | 0 | a flush is to come (0: none is) |
//! | END | 0 | 0 | 0 | nothing follows; the next note overwrites it |
//!
//! Checksums are seeded with the journal's nonce, the page's number and the slot, so old content of the ring never passes for new.
//! When the ring wraps, the oldest notes go; segments that they may be about are not trusted after that: `horizon`.
//! A note is one write to the page cache: it outlives the process as soon as it is made. What it takes to outlive the machine
//! is [`SyncPolicy`]'s choice.

use std::collections::{HashMap, HashSet};
use std::io::{self, Error, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::PAGE_BYTES;

const SLOT_BYTES: usize = 24;
const SLOTS: usize = PAGE_BYTES / SLOT_BYTES;
/// Pages before the ring.
const FIXED_PAGES: u64 = 2;
/// Fewest pages of a ring.
pub const RING_PAGES_MIN: u64 = 8;
const MAGIC: &[u8; 16] = b"flashare journal";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 96;
const CLOCK_BYTES: usize = 40;

const PAGE: u8 = 1;
const HIDDEN: u8 = 2;
const DEAD: u8 = 3;
const FLUSHED: u8 = 4;
const DUE: u8 = 5;
const END: u8 = 6;

/// Where a journal lies. Calls may block, as long as the page cache takes.
pub trait JournalFile: Send + Sync {
    /// Fills `bytes` from offset `at`.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes `bytes` at offset `at`: they outlive the process, but not yet the machine.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written outlive the machine.
    fn sync(&self) -> io::Result<()>;
    /// Makes the file unusable: notes can no longer be kept.
    fn void(&self) -> io::Result<()>;
    /// Bytes that it has.
    fn bytes(&self) -> io::Result<u64>;
}

/// When notes are made to outlive a loss of power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncPolicy {
    /// Whenever the system likes. After a loss of power the flash's content is not used.
    Os,
    /// Every so often. After a loss of power, changes of that last while may be forgotten.
    Every(Duration),
    /// Before the change is answered. Nothing that was answered is forgotten.
    Always,
}

/// What a journal belongs to: it means nothing for another flash tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Names the journal; the flash's superblock names the same.
    pub nonce: u64,
    /// Seed of the hashes and of the flash's checksums.
    pub seed: u64,
    /// Segments of the tier.
    pub segments: u64,
    /// Bytes of each.
    pub segment_bytes: u64,
    /// Slots of the index.
    pub slots: u64,
    /// Sums up the tenants' names.
    pub tenants: u64,
}

/// A removal that is to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The class of this bucket and tag has lost what it had in segments up to this sequence.
    Hidden {
        /// The lower of its buckets.
        bucket: u32,
        /// Its tag.
        tag: u32,
        /// Highest sequence it is about.
        sequence: u64,
    },
    /// A segment's content up to this sequence is gone.
    Dead {
        /// The segment.
        segment: u32,
        /// Highest sequence it is about.
        sequence: u64,
    },
    /// What a tenant stored up to this version was flushed.
    Flushed {
        /// The tenant.
        tenant: u16,
        /// Highest version it is about.
        version: u64,
    },
    /// A tenant is to be flushed at this second; 0: it is not.
    Due {
        /// The tenant.
        tenant: u16,
        /// Absolute second.
        at: u32,
    },
}

/// How far a run has come: kept about once a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beat {
    /// The second it is.
    pub now: u32,
    /// Seconds that this was ahead of the wall's clock when the run began, since after a crash it goes on from the latest that it may have been.
    pub ahead: u32,
    /// A version that was reached.
    pub version: u64,
}

/// What a journal knows.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Classes, with the highest sequence that is gone of each; by class.
    hidden: Vec<(u64, u64)>,
    dead: HashMap<u32, u64>,
    /// The sequences that those notes name: whatever says that it is one of them is dead, also where it does not belong.
    dead_sequences: HashSet<u64>,
    /// Versions up to which tenants were flushed.
    pub flushed: HashMap<u16, u64>,
    /// Flushes to come.
    pub due: HashMap<u16, u32>,
    /// Segments up to this sequence are not to be trusted.
    pub horizon: u64,
    /// Highest sequence that was seen.
    pub sequence: u64,
    /// How far that run had come, a second ago at most.
    pub beat: Beat,
    /// What was wrong with it, if anything was.
    pub damage: Option<&'static str>,
}

fn class_word(bucket: u32, tag: u32) -> u64 {
    u64::from(bucket) << 32 | u64::from(tag)
}

impl Remembered {
    /// Whether what a class had in a segment of this sequence is gone.
    pub(crate) fn hides(&self, bucket: u32, tag: u32, sequence: u64) -> bool {
        let class = class_word(bucket, tag);
        self.hidden.binary_search_by_key(&class, |known| known.0).is_ok_and(|at| self.hidden[at].1 >= sequence)
    }

    /// Whether a segment's content of this sequence may be used.
    pub(crate) fn trusts(&self, segment: u32, sequence: u64) -> bool {
        sequence > self.horizon
            && self.dead.get(&segment).is_none_or(|dead| *dead < sequence)
            && !self.dead_sequences.contains(&sequence)
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Hidden { bucket, tag, sequence } => self.hidden.push((class_word(bucket, tag), sequence)),
            Note::Dead { segment, sequence } => {
                let dead = self.dead.entry(segment).or_default();
                *dead = sequence.max(*dead);
                self.dead_sequences.insert(sequence);
            }
            Note::Flushed { tenant, version } => {
                let flushed = self.flushed.entry(tenant).or_default();
                *flushed = version.max(*flushed);
            }
            Note::Due { tenant, at } => {
                self.due.insert(tenant, at);
            }
        }
        self.sequence = self.sequence.max(note.sequence());
    }

    /// One entry a class, in order.
    fn settle(&mut self) {
        self.hidden.sort_unstable_by_key(|(class, sequence)| (*class, std::cmp::Reverse(*sequence)));
        self.hidden.dedup_by_key(|(class, _)| *class);
        self.hidden.shrink_to_fit();
    }
}

impl Note {
    fn sequence(self) -> u64 {
        match self {
            Note::Hidden { sequence, .. } | Note::Dead { sequence, .. } => sequence,
            Note::Flushed { .. } | Note::Due { .. } => 0,
        }
    }

    fn slot(self) -> Slot {
        match self {
            Note::Hidden { bucket, tag, sequence } => Slot { kind: HIDDEN, x: bucket, y: tag, z: sequence },
            Note::Dead { segment, sequence } => Slot { kind: DEAD, x: segment, y: 0, z: sequence },
            Note::Flushed { tenant, version } => Slot { kind: FLUSHED, x: tenant.into(), y: 0, z: version },
            Note::Due { tenant, at } => Slot { kind: DUE, x: tenant.into(), y: at, z: 0 },
        }
    }

    fn of(slot: Slot) -> Option<Note> {
        let Slot { kind, x, y, z } = slot;
        Some(match kind {
            HIDDEN => Note::Hidden { bucket: x, tag: y, sequence: z },
            DEAD => Note::Dead { segment: x, sequence: z },
            FLUSHED => Note::Flushed { tenant: x as u16, version: z },
            DUE => Note::Due { tenant: x as u16, at: y },
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    kind: u8,
    x: u32,
    y: u32,
    z: u64,
}

const END_SLOT: Slot = Slot { kind: END, x: 0, y: 0, z: 0 };

/// Seed of the checksum of a slot. A page's first slot tells its number, so its own checksum cannot depend on it.
fn slot_seed(nonce: u64, page: u64, slot: usize) -> u64 {
    let page = if slot == 0 { u64::MAX } else { page };
    nonce ^ page.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (slot as u64) << 48
}

impl Slot {
    fn bytes(self, seed: u64) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        out[4] = self.kind;
        out[8..12].copy_from_slice(&self.x.to_le_bytes());
        out[12..16].copy_from_slice(&self.y.to_le_bytes());
        out[16..24].copy_from_slice(&self.z.to_le_bytes());
        let sum = xxh3_64_with_seed(&out[4..], seed) as u32;
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn read(bytes: &[u8], seed: u64) -> Option<Slot> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if word(0) != xxh3_64_with_seed(&bytes[4..SLOT_BYTES], seed) as u32 {
            return None;
        }
        let z = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
        Some(Slot { kind: bytes[4], x: word(8), y: word(12), z })
    }

    fn page(number: u64, sequence: u64) -> Slot {
        Slot { kind: PAGE, x: number as u32, y: (number >> 32) as u32, z: sequence }
    }
}

/// One page of the ring, as it was found.
struct RingPage {
    number: u64,
    sequence: u64,
    notes: Vec<Note>,
    /// Every slot is good up to its end.
    is_whole: bool,
    is_full: bool,
    used: usize,
}

impl RingPage {
    fn read(bytes: &[u8], nonce: u64) -> Option<RingPage> {
        let head = Slot::read(bytes, slot_seed(nonce, 0, 0)).filter(|head| head.kind == PAGE)?;
        let number = u64::from(head.y) << 32 | u64::from(head.x);
        let slots = bytes.chunks_exact(SLOT_BYTES).take(SLOTS).enumerate().skip(1);
        let read: Vec<Option<Slot>> = slots.map(|(n, bytes)| Slot::read(bytes, slot_seed(nonce, number, n))).collect();
        let end = read.iter().position(|slot| *slot == Some(END_SLOT)).unwrap_or(read.len());
        Some(RingPage {
            number,
            sequence: head.z,
            notes: read[..end].iter().filter_map(|slot| Note::of((*slot)?)).collect(),
            is_whole: read[..end].iter().all(Option::is_some),
            is_full: end == read.len(),
            used: end + 1,
        })
    }
}

struct State {
    /// Number of the page that is being filled.
    page: u64,
    /// Slots of it that are used.
    used: usize,
    /// Highest sequence that a note was about.
    sequence: u64,
    flushed: HashMap<u16, u64>,
    due: HashMap<u16, u32>,
    beats: u64,
}

/// A journal that notes are made in.
pub struct Journal {
    file: Box<dyn JournalFile>,
    identity: Identity,
    policy: SyncPolicy,
    ring_pages: u64,
    state: Mutex<State>,
    /// Slots written since the beginning, and how many of them outlive the machine.
    tail: AtomicU64,
    synced: AtomicU64,
    syncing: Mutex<()>,
    notes: AtomicU64,
    failed: AtomicBool,
}

/// What a journal is at one moment.
#[derive(Clone, Copy, Debug)]
pub struct JournalFigures {
    /// Notes made by this process.
    pub notes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether notes can be made.
    pub works: bool,
}

impl Journal {
    /// A new journal for a tier whose segments up to `sequence` are not to be trusted: nobody noted what became of them.
    pub fn create(
        file: Box<dyn JournalFile>,
        identity: Identity,
        policy: SyncPolicy,
        boot: u64,
        sequence: u64,
    ) -> io::Result<Journal> {
        let ring_pages = ring_pages(&*file)?;
        let blank = vec![0; 1 << 20];
        let end = (FIXED_PAGES + ring_pages) * PAGE_BYTES as u64;
        for at in (0..end).step_by(blank.len()) {
            let len = (end - at).min(blank.len() as u64) as usize;
            file.write(at, &blank[..len])?;
        }
        let journal = Journal::over(file, identity, policy, ring_pages, 0, sequence);
        journal.begin_page(&mut journal.state.lock(), 0)?;
        journal.write_head(boot)?;
        journal.file.sync()?;
        Ok(journal)
    }

    /// What the journal in this file belongs to; an error says why there is none.
    pub fn identity(file: &dyn JournalFile) -> io::Result<Identity> {
        Ok(read_head(file)?.identity)
    }

    /// Goes on with a journal, after a stop or a crash: what it knows, and itself. `boot` names this run of the machine (0: unknown).
    pub fn resume(file: Box<dyn JournalFile>, policy: SyncPolicy, boot: u64) -> io::Result<(Remembered, Journal)> {
        let head = read_head(&*file)?;
        let lost_power = boot == 0 || boot != head.boot;
        if lost_power && !head.synced {
            return Err(invalid("the machine was restarted, and the journal was not synced (see --journal-sync)"));
        }
        let ring_pages = ring_pages(&*file)?;
        let (mut remembered, newest) = read_ring(&*file, &head.identity, ring_pages, lost_power)?;
        remembered.settle();
        let sequence = remembered.sequence;
        let journal = Journal::over(file, head.identity, policy, ring_pages, newest + 1, sequence);
        {
            let mut state = journal.state.lock();
            state.flushed.clone_from(&remembered.flushed);
            state.due.clone_from(&remembered.due);
            journal.begin_page(&mut state, newest + 1)?;
        }
        journal.write_head(boot)?;
        journal.sync();
        Ok((remembered, journal))
    }

    fn over(
        file: Box<dyn JournalFile>,
        identity: Identity,
        policy: SyncPolicy,
        ring_pages: u64,
        page: u64,
        sequence: u64,
    ) -> Journal {
        let state = State { page, used: 0, sequence, flushed: HashMap::new(), due: HashMap::new(), beats: 0 };
        Journal {
            file,
            identity,
            policy,
            ring_pages,
            state: Mutex::new(state),
            tail: AtomicU64::new(page * SLOTS as u64),
            synced: AtomicU64::new(page * SLOTS as u64),
            syncing: Mutex::new(()),
            notes: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// What it belongs to.
    pub fn belongs_to(&self) -> Identity {
        self.identity
    }

    /// Its figures.
    pub fn figures(&self) -> JournalFigures {
        JournalFigures {
            notes: self.notes.load(Ordering::Relaxed),
            bytes: (FIXED_PAGES + self.ring_pages) * PAGE_BYTES as u64,
            works: !self.failed.load(Ordering::Relaxed),
        }
    }

    /// Whether notes are made; not since the file could not be written. Then it is void, and so is the flash after a crash.
    pub fn works(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// Makes a note. When this returns, it outlives the process.
    pub fn note(&self, note: Note) {
        let mut state = self.state.lock();
        match note {
            Note::Flushed { tenant, version } => {
                state.flushed.insert(tenant, version);
            }
            Note::Due { tenant, at } => {
                state.due.insert(tenant, at);
            }
            _ => {}
        }
        self.notes.fetch_add(1, Ordering::Relaxed);
        if self.works() && self.append(&mut state, note).is_err() {
            self.fail();
        }
    }

    fn append(&self, state: &mut State, note: Note) -> io::Result<()> {
        state.sequence = state.sequence.max(note.sequence());
        self.put(state, note.slot())?;
        if state.used == SLOTS {
            let page = state.page + 1;
            self.begin_page(state, page)?;
            if page.is_multiple_of((self.ring_pages / 4).max(1)) {
                self.repeat_flushes(state)?;
            }
        }
        Ok(())
    }

    /// Flushes are about all segments, however long ago: their notes must not fall out of the ring.
    fn repeat_flushes(&self, state: &mut State) -> io::Result<()> {
        let flushed =
            state.flushed.iter().map(|(tenant, version)| Note::Flushed { tenant: *tenant, version: *version });
        let due =
            state.due.iter().filter(|(_, at)| **at != 0).map(|(tenant, at)| Note::Due { tenant: *tenant, at: *at });
        for note in flushed.chain(due).collect::<Vec<_>>() {
            self.put(state, note.slot())?;
            if state.used == SLOTS {
                let page = state.page + 1;
                self.begin_page(state, page)?;
            }
        }
        Ok(())
    }

    fn put(&self, state: &mut State, slot: Slot) -> io::Result<()> {
        let nonce = self.identity.nonce;
        let mut bytes = [0; 2 * SLOT_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&slot.bytes(slot_seed(nonce, state.page, state.used)));
        let mut len = SLOT_BYTES;
        if state.used + 1 < SLOTS {
            bytes[SLOT_BYTES..].copy_from_slice(&END_SLOT.bytes(slot_seed(nonce, state.page, state.used + 1)));
            len += SLOT_BYTES;
        }
        let at = self.offset(state.page) + (state.used * SLOT_BYTES) as u64;
        self.file.write(at, &bytes[..len])?;
        state.used += 1;
        self.tail.store(state.page * SLOTS as u64 + state.used as u64, Ordering::Release);
        Ok(())
    }

    fn begin_page(&self, state: &mut State, page: u64) -> io::Result<()> {
        (state.page, state.used) = (page, 0);
        self.put(state, Slot::page(page, state.sequence))
    }

    fn offset(&self, page: u64) -> u64 {
        (FIXED_PAGES + page % self.ring_pages) * PAGE_BYTES as u64
    }

    /// Notes can no longer be kept: after a crash nothing of the flash may be believed.
    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        // whoever runs the tier takes the journal's name from the superblock as well: one of both will hold
        let _ = self.file.void();
    }

    /// Keeps this instead of the beat before.
    pub fn beat(&self, beat: Beat) {
        let mut state = self.state.lock();
        state.beats += 1;
        let copy = state.beats % 2 * (PAGE_BYTES as u64 / 2);
        let mut bytes = [0; CLOCK_BYTES];
        bytes[8..12].copy_from_slice(&beat.now.to_le_bytes());
        bytes[12..16].copy_from_slice(&beat.ahead.to_le_bytes());
        let tail = self.tail.load(Ordering::Relaxed);
        for (at, word) in [(16, beat.version), (24, tail), (32, self.synced.load(Ordering::Relaxed))] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = xxh3_64_with_seed(&bytes[8..], self.identity.nonce);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        if self.works() && self.file.write(PAGE_BYTES as u64 + copy, &bytes).is_err() {
            self.fail();
        }
    }

    /// Makes all notes outlive the machine.
    pub fn sync(&self) {
        let tail = self.tail.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) >= tail || !self.works() {
            return;
        }
        let _one = self.syncing.lock();
        if self.synced.load(Ordering::Acquire) >= tail {
            return; // somebody else's was in time for ours too
        }
        let tail = self.tail.load(Ordering::Acquire);
        match self.file.sync() {
            Ok(()) => self.synced.store(tail, Ordering::Release),
            Err(_) => self.fail(),
        }
    }

    /// What has to happen before changes are answered.
    pub fn settle(&self) {
        if self.policy == SyncPolicy::Always {
            self.sync();
        }
    }

    /// What has to happen before a segment is written: its objects have left DRAM, and what they replaced must not come back. Returns
    /// whether notes outlive the machine; then the segment should too.
    pub fn settle_segment(&self) -> bool {
        let syncs = self.policy != SyncPolicy::Os;
        if syncs {
            self.sync();
        }
        syncs
    }

    /// How often somebody has to call [`Journal::sync`].
    pub fn sync_every(&self) -> Option<Duration> {
        match self.policy {
            SyncPolicy::Every(time) => Some(time),
            _ => None,
        }
    }

    fn write_head(&self, boot: u64) -> io::Result<()> {
        let mut page = [0; PAGE_BYTES];
        page[..16].copy_from_slice(MAGIC);
        page[16..20].copy_from_slice(&VERSION.to_le_bytes());
        page[20] = u8::from(self.policy != SyncPolicy::Os);
        let Identity { nonce, seed, segments, segment_bytes, slots, tenants } = self.identity;
        for (n, word) in
            [self.ring_pages, nonce, seed, segments, segment_bytes, slots, tenants, boot].into_iter().enumerate()
        {
            page[24 + 8 * n..32 + 8 * n].copy_from_slice(&word.to_le_bytes());
        }
        let sum = xxh3_64(&page[..HEAD_BYTES]);
        page[HEAD_BYTES..HEAD_BYTES + 8].copy_from_slice(&sum.to_le_bytes());
        self.file.write(0, &page)?;
        self.file.sync()
    }
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

fn ring_pages(file: &dyn JournalFile) -> io::Result<u64> {
    let pages = (file.bytes()? / PAGE_BYTES as u64).saturating_sub(FIXED_PAGES);
    if pages < RING_PAGES_MIN { Err(invalid("it is too short for a journal")) } else { Ok(pages) }
}

struct Head {
    identity: Identity,
    boot: u64,
    synced: bool,
}

fn read_head(file: &dyn JournalFile) -> io::Result<Head> {
    let ring_pages = ring_pages(file)?;
    let mut page = [0; PAGE_BYTES];
    file.read(0, &mut page)?;
    if page[..16] != MAGIC[..] {
        return Err(invalid("it is no journal"));
    }
    if page[16..20] != VERSION.to_le_bytes() {
        return Err(invalid("it is a journal of another version"));
    }
    let word = |n: usize| u64::from_le_bytes(page[24 + 8 * n..32 + 8 * n].try_into().expect("eight bytes"));
    if page[HEAD_BYTES..HEAD_BYTES + 8] != xxh3_64(&page[..HEAD_BYTES]).to_le_bytes() {
        return Err(invalid("its head is damaged"));
    }
    if word(0) != ring_pages {
        return Err(invalid("it is cut off or longer than it was"));
    }
    let identity = Identity {
        nonce: word(1),
        seed: word(2),
        segments: word(3),
        segment_bytes: word(4),
        slots: word(5),
        tenants: word(6),
    };
    Ok(Head { identity, boot: word(7), synced: page[20] == 1 })
}

/// The later of the clock's two copies: the beat, and the slots written and synced.
fn read_clock(file: &dyn JournalFile, nonce: u64) -> io::Result<(Beat, u64, u64)> {
    let mut page = [0; PAGE_BYTES];
    file.read(PAGE_BYTES as u64, &mut page)?;
    let copies = [&page[..CLOCK_BYTES], &page[PAGE_BYTES / 2..][..CLOCK_BYTES]];
    let good = copies.into_iter().filter(|bytes| bytes[..8] == xxh3_64_with_seed(&bytes[8..], nonce).to_le_bytes());
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let read = |bytes: &[u8]| {
        let (now, ahead) = (word(bytes, 8) as u32, (word(bytes, 8) >> 32) as u32);
        (Beat { now, ahead, version: word(bytes, 16) }, word(bytes, 24), word(bytes, 32))
    };
    good.map(read)
        .max_by_key(|(beat, tail, _)| (beat.version, *tail, beat.now))
        .ok_or_else(|| invalid("its clock is damaged"))
}

/// Reads the ring. Returns what it knows, and the number of its newest page.
fn read_ring(
    file: &dyn JournalFile,
    identity: &Identity,
    ring_pages: u64,
    lost_power: bool,
) -> io::Result<(Remembered, u64)> {
    let nonce = identity.nonce;
    let (beat, tail, synced) = read_clock(file, nonce)?;
    let mut pages: HashMap<u64, RingPage> = HashMap::new();
    let mut bytes = vec![0; PAGE_BYTES];
    let mut blank = Vec::new();
    for place in 0..ring_pages {
        file.read((FIXED_PAGES + place) * PAGE_BYTES as u64, &mut bytes)?;
        match RingPage::read(&bytes, nonce) {
            Some(page) if page.number % ring_pages == place => {
                pages.insert(page.number, page);
            }
            Some(_) => {}
            None if bytes.iter().all(|byte| *byte == 0) => blank.push(place),
            None => {}
        }
    }
    let newest = pages.keys().copied().max().ok_or_else(|| invalid("its ring is blank"))?;
    let mut remembered = Remembered { beat, ..Remembered::default() };
    // what was never made to outlive the machine may be missing after a loss of power: nobody was answered on its strength
    let may_lack = |number: u64| lost_power && (number + 1) * SLOTS as u64 > synced;
    let next_place = (newest + 1) % ring_pages;
    let last = &pages[&newest];
    let before_next = (newest + 1).checked_sub(ring_pages);
    let ends_well = last.is_whole
        && (!last.is_full
            || blank.contains(&next_place)
            || before_next.is_some_and(|number| pages.contains_key(&number)))
        && newest * SLOTS as u64 + last.used as u64 >= tail;
    if !ends_well && !may_lack(newest) {
        return Err(invalid("its end is damaged"));
    }
    let oldest = newest.saturating_sub(ring_pages - 1);
    remembered.horizon = last.sequence;
    remembered.sequence = last.sequence;
    for number in (oldest..=newest).rev() {
        match pages.get(&number) {
            Some(page) if page.is_whole || may_lack(number) => {
                page.notes.iter().for_each(|note| remembered.take(*note));
                remembered.horizon = page.sequence;
            }
            None if may_lack(number) => {}
            _ => {
                remembered.damage = Some("a page of the journal is damaged");
                break;
            }
        }
    }
    // read from new to old: what is to come is what was said last
    let mut due = HashMap::new();
    for number in oldest..=newest {
        for note in pages.get(&number).into_iter().flat_map(|page| &page.notes) {
            if let Note::Due { tenant, at } = note {
                due.insert(*tenant, *at);
            }
        }
    }
    remembered.due = due;
    Ok((remembered, newest))
}
