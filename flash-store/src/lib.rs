//! The flash tier: packs records into segments, finds them again with 4 bytes of DRAM an object and one device read.
//!
//! ```text
//!  hash --> index class (two buckets) --> entry: segment, hash choice, length class
//!                                          |
//!                     hash, choice ------> page in the segment --> one read --> record: tenant, key and checksum compared
//! ```
//! This crate does not know why an object came or whether it should stay: the caller offers records, and decides what happens
//! to those of a segment that is recycled. It does no I/O of its own either: it says what to read and write, and is told
//! how that went.

#![forbid(unsafe_code)]

mod device;
mod entry;
mod format;
mod image;
mod index;
mod journal;
mod ledger;
mod packing;
mod parts;
mod rate;
mod recovery;
mod segment;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smallvec::SmallVec;

pub use device::{Device, FileDevice, JoinedDevice, JournalInFile, MemoryDevice, OpenError, segments_of};
use entry::CLOCK_MAX;
pub use entry::{CHOICES, Entry, EntryLayout, TAG_BITS_MIN};
use format::PageSeed;
pub use format::{FORMAT_VERSION, RECORD_HEADER_BYTES, Record, RecordHead, Superblock};
pub use image::{FormerSizes, Image};
use index::{ClassName, FlashIndex};
pub use journal::{Beat, Identity, Journal, JournalFigures, JournalFile, Note, RING_PAGES_MIN, Remembered, SyncPolicy};
use ledger::add;
pub use ledger::{Ledger, LedgerFigures};
use packing::{Packing, position};
pub use parts::PartState;
use parts::{Part, interleaved};
use rate::Rate;
pub use recovery::Found;
use recovery::Recovery;
pub use segment::FlashSegmentId;
use segment::{Lives, Meta, OpenSegment};

/// Unit of reading and of alignment.
pub const PAGE_BYTES: usize = 4096;
/// The smallest segment that is used by default, however little memory there is.
pub const SEGMENT_BYTES_MIN: usize = 64 << 10;
/// Clock of a record when it is placed: it survives one sweep without a hit.
const CLOCK_PLACED: u32 = 2;
/// Lowest clock of a record that counts as live.
const CLOCK_RUNNING: u32 = 1;
/// So many segments there have to be for each that is recycled before it is needed.
const SEGMENTS_FOR_EACH_SPARE: usize = 16;
/// A segment is sealed when this share of it (in percent) is filled, or when as many bytes as it holds found no place.
const SEAL_AT_PERCENT: usize = 98;

/// One page, aligned for direct I/O.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_BYTES]);

impl Page {
    /// A page of zeroes.
    pub const ZERO: Page = Page([0; PAGE_BYTES]);
}

/// Sizes of a flash tier.
#[derive(Clone, Copy, Debug)]
pub struct FlashShape {
    /// Bytes of the device to use.
    pub flash_bytes: u64,
    /// Bytes of a segment: whole pages.
    pub segment_bytes: usize,
    /// Objects that the index is sized for.
    pub objects: usize,
    /// Seeds the checksums; kept from clients.
    pub secret: u64,
}

/// Segment size for a flash tier: a 128th of the flash between 128 KiB and 16 MiB (docs/flash.md has the measurement), larger where entries could not
/// number the segments, and never above `buffer_bytes_max`, the DRAM that one segment's buffer may take.
pub fn segment_bytes_for(flash_bytes: u64, buffer_bytes_max: usize) -> usize {
    let wanted = (flash_bytes / 128).clamp(128 << 10, 16 << 20).next_power_of_two();
    let least = (flash_bytes / 2048).next_power_of_two().max(SEGMENT_BYTES_MIN as u64) as usize;
    let most = 1usize << buffer_bytes_max.max(SEGMENT_BYTES_MIN).ilog2();
    (wanted as usize).min(most).max(least)
}

/// Where an object may lie: what to read, and what to verify it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    hash: u64,
    entry: Entry,
    sequence: u64,
    page: u32,
    /// Segment it points into.
    pub segment: FlashSegmentId,
    /// Byte offset on the device.
    pub at: u64,
    /// Pages to read.
    pub pages: usize,
}

/// The places that a key may lie at: nearly always none or one, so one needs no memory of its own.
pub type Places = SmallVec<[Place; 1]>;

/// A sealed segment that is to be written.
pub struct WriteIntent {
    /// Which segment.
    pub segment: FlashSegmentId,
    /// Byte offset on the device.
    pub at: u64,
    /// What to write there.
    pub pages: Arc<Vec<Page>>,
}

/// A segment that is to be read whole, and then given to [`FlashStore::recycle`].
#[derive(Clone, Copy, Debug)]
pub struct RecycleIntent {
    /// Which segment.
    pub segment: FlashSegmentId,
    /// Byte offset on the device.
    pub at: u64,
    /// Pages to read.
    pub pages: usize,
}

/// What the clock of a record says at the end of its segment's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// It ran out.
    Ghost,
    /// It runs, but no hit has wound it up lately.
    Running,
    /// It was hit since the hand last passed.
    Wound,
}

impl Clock {
    fn of(entry: Entry) -> Clock {
        match entry.clock() {
            0 => Clock::Ghost,
            CLOCK_MAX => Clock::Wound,
            _ => Clock::Running,
        }
    }
}

/// What became of a record that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It lies in the open segment and its entry is published.
    Yes,
    /// None of its positions in the open segment has room, or that one is full, or none is free until the oldest is recycled: a later
    /// segment will take it.
    Refused,
    /// It is larger than half a segment: no segment will take it.
    TooLarge,
    /// Nothing is written at the moment: the device has failed, or more was written than may be.
    NoSegment,
}

/// Whether what is read for an entry of this hash holds the record whole.
fn leads_to(
    layout: &EntryLayout,
    segment_pages: usize,
    hash: u64,
    entry: Entry,
    claimed: &format::Claimed<'_>,
) -> bool {
    let page = position(hash, entry.choice(), segment_pages as u32) as usize;
    let pages = layout.pages_of(layout.class(entry)) as usize;
    claimed.at >= page * PAGE_BYTES && claimed.end() <= (page + pages) * PAGE_BYTES
}

/// The flash tier.
pub struct FlashStore {
    layout: EntryLayout,
    index: FlashIndex,
    secret: u64,
    segment_pages: usize,
    metas: Box<[Meta]>,
    lives: Mutex<Lives>,
    /// Segments on their way to the device, readable from here.
    writing: Mutex<Vec<(FlashSegmentId, Arc<Vec<Page>>)>>,
    hand: AtomicUsize,
    live: AtomicUsize,
    parts: Box<[Part]>,
    writes: Rate,
    /// Reads of whole segments; those that answer requests are not limited.
    reads: Rate,
    ledger: Ledger,
    journal: OnceLock<Arc<Journal>>,
    is_recovering: AtomicBool,
    recovery: Recovery,
    /// Sequence of the newest segment that was begun.
    sequence: AtomicU64,
}

impl FlashStore {
    /// A tier of this shape, empty. None if the segments are too small to be told apart by the index.
    pub fn new(shape: FlashShape) -> Option<FlashStore> {
        let segments = segments_of(shape.flash_bytes, shape.segment_bytes);
        FlashStore::over(shape, &[segments])
    }

    /// A tier over several devices, with so many segments on each.
    pub fn over(shape: FlashShape, parts: &[u32]) -> Option<FlashStore> {
        let segments = parts.iter().sum();
        let layout = EntryLayout::new(segments, shape.segment_bytes / 2)?;
        Some(FlashStore {
            layout,
            index: FlashIndex::new(shape.objects),
            secret: shape.secret,
            segment_pages: shape.segment_bytes / PAGE_BYTES,
            metas: (0..segments).map(|_| Meta::default()).collect(),
            lives: Mutex::new(Lives {
                open: None,
                free: interleaved(parts).collect(),
                readable: Default::default(),
                recycling: None,
                next_sequence: 1,
                mixed: false,
            }),
            writing: Mutex::default(),
            hand: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            parts: Part::of(parts),
            writes: Rate::default(),
            reads: Rate::default(),
            ledger: Ledger::default(),
            journal: OnceLock::new(),
            is_recovering: AtomicBool::new(false),
            recovery: Recovery::default(),
            sequence: AtomicU64::new(0),
        })
    }

    /// Keeps a journal of what becomes invalid from here on, once.
    pub fn keep_journal(&self, journal: Journal) {
        let _ = self.journal.set(Arc::new(journal)); // a second one would lack the first one's notes
    }

    /// The journal that is kept, if one is.
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.get()
    }

    fn note(&self, note: Note) {
        if let Some(journal) = self.journal.get() {
            journal.note(note);
        }
    }

    fn note_hidden(&self, name: ClassName) {
        let sequence = self.sequence.load(Ordering::Acquire);
        self.note(Note::Hidden { bucket: name.bucket, tag: name.tag, sequence });
    }

    /// What a journal of this tier belongs to.
    pub fn identity(&self, nonce: u64, seed: u64, tenants: u64) -> Identity {
        let (segments, segment_bytes) = (self.metas.len() as u64, self.segment_bytes() as u64);
        Identity { nonce, seed, segments, segment_bytes, slots: self.index.slots() as u64, tenants }
    }

    /// Sequence of the newest segment.
    pub fn newest_sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Where each segment's first page lies.
    pub fn headers(&self) -> impl Iterator<Item = u64> {
        (0..self.metas.len() as u32).map(|number| self.device_offset(FlashSegmentId(number), 0))
    }

    fn meta(&self, id: FlashSegmentId) -> &Meta {
        &self.metas[id.0 as usize]
    }

    fn device_offset(&self, id: FlashSegmentId, page: u32) -> u64 {
        PAGE_BYTES as u64 * (1 + u64::from(id.0) * self.segment_pages as u64 + u64::from(page))
    }

    fn place(&self, hash: u64, entry: Entry) -> Place {
        let segment = FlashSegmentId(self.layout.segment_of(entry));
        let page = position(hash, entry.choice(), self.segment_pages as u32);
        let pages = (self.layout.pages_of(self.layout.class(entry)) as usize).min(self.segment_pages - page as usize);
        Place {
            hash,
            entry,
            sequence: self.meta(segment).sequence.load(Ordering::Acquire),
            page,
            segment,
            at: self.device_offset(segment, page),
            pages,
        }
    }

    /// Where the object of a key may lie. Empty if the tier does not hold it.
    pub fn find(&self, hash: u64) -> Places {
        let class = self.index.class(&self.layout, hash);
        let mut places: Places =
            self.index.entries_of(&self.layout, class).map(|entry| self.place(hash, entry)).collect();
        places.retain(|place| self.is_in(place.segment));
        places.dedup_by(|a, b| a.entry.same_place(b.entry));
        places
    }

    /// Whether anything is known that could be this key's.
    pub fn may_hold(&self, hash: u64) -> bool {
        let class = self.index.class(&self.layout, hash);
        self.index.entries_of(&self.layout, class).next().is_some()
    }

    /// The pages of a place whose segment is not on the device yet.
    pub fn buffered(&self, place: &Place) -> Option<Vec<Page>> {
        let range = place.page as usize..place.page as usize + place.pages;
        if let Some(open) = self.lives.lock().open.as_ref().filter(|open| open.id == place.segment) {
            return Some(open.pages[range].to_vec());
        }
        let writing = self.writing.lock();
        writing.iter().find(|(id, _)| *id == place.segment).map(|(_, pages)| pages[range].to_vec())
    }

    /// Finds the record of a key in the pages that were read for a place, and verifies it (INV-OWN-KEY).
    pub fn verify<'p>(&self, place: &Place, tenant: u16, key: &[u8], pages: &'p [Page]) -> Option<Record<'p>> {
        self.find_in(pages, place.sequence, place.page, tenant, key).map(|claimed| claimed.record)
    }

    fn find_in<'p>(
        &self,
        pages: &'p [Page],
        sequence: u64,
        first_page: u32,
        tenant: u16,
        key: &[u8],
    ) -> Option<format::Claimed<'p>> {
        format::find(pages, tenant, key, |page| PageSeed::new(self.secret, sequence, first_page + page as u32))
    }

    /// Whether the index still says what it said when the place was found (INV-FRESH).
    pub fn still_holds(&self, place: &Place) -> bool {
        let class = self.index.class(&self.layout, place.hash);
        self.meta(place.segment).sequence.load(Ordering::Acquire) == place.sequence
            && self.index.entries_of(&self.layout, class).any(|entry| entry.same_place(place.entry))
    }

    /// Notes a hit: the clock is wound up, a ghost comes back to life.
    pub fn note_hit(&self, place: &Place) {
        let class = self.index.class(&self.layout, place.hash);
        if let Some(was) = self.index.set_clock(class, place.entry, CLOCK_MAX)
            && was.clock() == 0
        {
            self.count_live(was, 1);
        }
    }

    fn count_live(&self, entry: Entry, by: i32) {
        let meta = self.meta(FlashSegmentId(self.layout.segment_of(entry)));
        if by > 0 {
            meta.live.fetch_add(1, Ordering::Relaxed);
            self.live.fetch_add(1, Ordering::Relaxed);
        } else {
            meta.live.fetch_sub(1, Ordering::Relaxed);
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn count_gone(&self, entry: Entry) {
        if entry.clock() > 0 {
            self.count_live(entry, -1);
        }
    }

    /// Hides everything that could be this key's, without a read: its tag in its two buckets. What lies in the open segment is
    /// struck out there, so that no entry to come can lead to it. Returns whether anything was hidden. The caller holds the
    /// key's lock.
    pub fn hide(&self, hash: u64, tenant: u16, key: &[u8]) -> bool {
        let recovering = self.is_recovering();
        let class = self.index.class(&self.layout, hash);
        if !recovering && self.index.is_certainly_empty(&self.layout, class) {
            return false;
        }
        let mut removed = Vec::new();
        self.index.remove(&self.layout, &self.index.lock(class), |_| true, |entry| removed.push(entry));
        for entry in &removed {
            self.count_gone(*entry);
        }
        for entry in &removed {
            self.strike_out(*entry, hash, tenant, key);
        }
        if recovering {
            self.recovery.touch(self.index.name(class));
        }
        if recovering || !removed.is_empty() {
            self.note_hidden(self.index.name(class)); // after the entries went: none of them is of a later segment
        }
        !removed.is_empty()
    }

    fn strike_out(&self, entry: Entry, hash: u64, tenant: u16, key: &[u8]) {
        let mut lives = self.lives.lock();
        let Some(open) = lives.open.as_mut().filter(|open| open.id.0 == self.layout.segment_of(entry)) else { return };
        let place = self.place(hash, entry);
        let first = place.page as usize;
        let own = self
            .find_in(&open.pages[first..first + place.pages], open.sequence, place.page, tenant, key)
            .map(|claimed| (claimed.at, claimed.end()));
        if let Some((at, end)) = own {
            let page = first + at / PAGE_BYTES;
            let seed = PageSeed::new(self.secret, open.sequence, page as u32);
            format::disown(&mut open.pages[first..], at, end, seed);
        }
    }

    /// Offers a record. The caller holds the key's lock and hides the DRAM copy afterwards.
    pub fn append<'a>(
        &self,
        hash: u64,
        head: &RecordHead<'_>,
        value: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Placed {
        let mut lives = self.lives.lock();
        if self.waits_for_service(&lives) {
            return Placed::Refused;
        }
        let Some(open) = self.open_segment(&mut lives).filter(|open| self.is_in(open.id)) else {
            return Placed::NoSegment;
        };
        let value_bytes: usize = value.clone().map(<[u8]>::len).sum();
        let record_bytes = head.bytes() + value_bytes;
        if record_bytes.div_ceil(PAGE_BYTES) > self.segment_pages / 2 {
            return Placed::TooLarge;
        }
        (open.offers, open.offered_bytes) = (open.offers + 1, open.offered_bytes + record_bytes);
        let anywhere = 2 * open.refused_bytes() >= self.segment_bytes();
        let Some(spot) = open.packing.place(hash, record_bytes, &self.layout, anywhere) else {
            open.refused += 1;
            // what an empty segment has no place for, none has
            return if anywhere && open.records == 0 { Placed::TooLarge } else { Placed::Refused };
        };
        let seed = PageSeed::new(self.secret, open.sequence, spot.page as u32);
        format::write_record(&mut open.pages[spot.page..], spot.at, seed, head, value);
        open.records += 1;
        self.meta(open.id).records.fetch_add(1, Ordering::Relaxed);
        self.publish(hash, open.id, spot.class, spot.choice, CLOCK_PLACED);
        add(&self.ledger.records, 1);
        add(&self.ledger.record_bytes, record_bytes as u64);
        if head.rescued {
            add(&self.ledger.rescue, record_bytes as u64);
        }
        Placed::Yes
    }

    fn publish(&self, hash: u64, segment: FlashSegmentId, length_class: u32, choice: u32, clock: u32) {
        let class = self.index.class(&self.layout, hash);
        let lock = self.index.lock(class);
        let entry = self.layout.entry(self.layout.tag(hash), segment.0, length_class, choice, clock);
        self.count_live(entry, 1);
        if let Some((evicted, name)) = self.index.insert(&self.layout, &lock, entry) {
            add(&self.ledger.evicted, 1);
            self.count_gone(evicted);
            self.note_hidden(name);
        }
    }

    fn open_segment<'l>(&self, lives: &'l mut Lives) -> Option<&'l mut OpenSegment> {
        if lives.open.is_none() {
            if !self.writes.allows() {
                return None;
            }
            let id = lives.free.pop_front()?;
            let sequence = lives.next_sequence;
            lives.next_sequence += 1;
            self.sequence.store(sequence, Ordering::Release);
            self.meta(id).begin(sequence);
            lives.open = Some(OpenSegment {
                id,
                sequence,
                pages: vec![Page::ZERO; self.segment_pages],
                packing: Packing::new(self.segment_pages, lives.mixed),
                records: 0,
                offers: 0,
                offered_bytes: 0,
                refused: 0,
            });
        }
        lives.open.as_mut()
    }

    /// Whether the open segment is as full as it will get.
    pub fn wants_to_seal(&self) -> bool {
        self.lives.lock().open.as_ref().is_some_and(|open| self.is_full(open))
    }

    /// Whether records find no place until the background thread has sealed the open segment or recycled the oldest.
    pub fn wants_service(&self) -> bool {
        self.waits_for_service(&self.lives.lock())
    }

    fn waits_for_service(&self, lives: &Lives) -> bool {
        match &lives.open {
            Some(open) => self.is_in(open.id) && self.is_full(open),
            None => {
                let may_come_free = lives.recycling.is_some() || !lives.readable.is_empty();
                lives.free.is_empty() && may_come_free && self.writes.allows()
            }
        }
    }

    fn is_full(&self, open: &OpenSegment) -> bool {
        let bytes = self.segment_bytes();
        let is_refused = open.refused_bytes() >= bytes && open.records > 0;
        open.packing.bytes() * 100 >= bytes * SEAL_AT_PERCENT || is_refused
    }

    /// Seals the open segment. It stays readable from DRAM until [`FlashStore::written`] is called.
    pub fn seal(&self, tick: u32) -> Option<WriteIntent> {
        let mut lives = self.lives.lock();
        let mut open = lives.open.take().filter(|open| self.is_in(open.id))?;
        open.pages[0] = format::segment_header(open.sequence, open.records, &open.pages[1..]);
        self.meta(open.id).sealed_tick.store(tick, Ordering::Relaxed);
        add(&self.ledger.fill_bytes, open.packing.bytes() as u64);
        self.writes.take(self.segment_bytes() as u64);
        lives.mixed = open.packing.is_mixed();
        let pages = Arc::new(open.pages);
        self.writing.lock().push((open.id, Arc::clone(&pages)));
        Some(WriteIntent { segment: open.id, at: self.device_offset(open.id, 0), pages })
    }

    /// How the write of a segment went. A segment that could not be written is emptied, and its device is taken out of use.
    pub fn written(&self, segment: FlashSegmentId, ok: bool) {
        if ok {
            add(&self.ledger.written, self.segment_bytes() as u64);
            add(&self.ledger.segments_written, 1);
            self.set_readable(&mut self.lives.lock(), segment);
        } else {
            add(&self.ledger.write_errors, 1);
            self.fail(segment);
            let sequence = self.meta(segment).sequence.load(Ordering::Acquire);
            self.note(Note::Dead { segment: segment.0, sequence }); // it may have been written all the same
            self.purge(segment);
            self.set_free(&mut self.lives.lock(), segment); // of a device that is taken out
        }
        self.writing.lock().retain(|(id, _)| *id != segment);
    }

    /// Notes a read that the device did not answer.
    pub(crate) fn read_failed(&self) {
        add(&self.ledger.read_errors, 1);
    }

    fn purge(&self, segment: FlashSegmentId) {
        let of_segment = |entry: Entry| self.layout.segment_of(entry) == segment.0;
        self.index.purge(&self.layout, of_segment, |entry| self.count_gone(entry));
    }

    /// Limits how many bytes a second are written, and how many are read to recycle and to recover; 0 for no limit. What may not be written
    /// is not taken ([`Placed::NoSegment`]).
    pub fn limit_rates(&self, write_bytes_a_sec: u64, read_bytes_a_sec: u64) {
        self.writes.limit(write_bytes_a_sec);
        self.reads.limit(read_bytes_a_sec);
    }

    /// Seconds have passed, for the limits.
    pub fn pass(&self, secs: u32) {
        self.writes.pass(secs);
        self.reads.pass(secs);
    }

    /// Whether a whole segment may be read now; if so, it counts.
    pub fn may_read_segment(&self) -> bool {
        let may = self.reads.allows();
        if may {
            self.reads.take(self.segment_bytes() as u64);
        }
        may
    }

    /// The oldest segment, if no more than `spare` are free (none, of few segments) and none is being recycled. Its objects can be read
    /// until it is recycled.
    pub fn wants_to_recycle(&self, spare: usize) -> Option<RecycleIntent> {
        let spare = spare.min(self.segments() / SEGMENTS_FOR_EACH_SPARE);
        let mut lives = self.lives.lock();
        if lives.free.len() > spare || lives.recycling.is_some() {
            return None;
        }
        let segment = lives.readable.pop_front()?;
        lives.recycling = Some(segment);
        Some(self.intent(segment))
    }

    /// Notes bytes that the device was told it need not keep.
    pub fn note_discarded(&self, bytes: u64) {
        add(&self.ledger.discarded, bytes);
    }

    /// Ends the life of a segment. `visit` is called with each record that is still published and what
    /// its clock says; it may copy it away, then hides it (with [`FlashStore::hide_place`]) or leaves that to this method. `pages` is
    /// None if it was not read: its objects are lost, none is served wrongly. Returns the tick at which it was sealed.
    pub fn recycle(
        &self,
        intent: &RecycleIntent,
        pages: Option<&[Page]>,
        hash_of: impl Fn(u16, &[u8]) -> u64,
        mut visit: impl FnMut(&Place, Record<'_>, Clock),
    ) -> u32 {
        let meta = self.meta(intent.segment);
        let sequence = meta.sequence.load(Ordering::Acquire);
        // before its first entry goes: nobody notes changes of what the index does not know
        self.note(Note::Dead { segment: intent.segment.0, sequence });
        self.recovery.forget(|id| id == intent.segment);
        match pages {
            Some(pages) if format::is_whole_segment(pages, sequence) => {
                self.visit_records(intent.segment, sequence, pages, hash_of, &mut visit);
            }
            Some(_) => self.read_failed(),
            None => {}
        }
        if meta.live.load(Ordering::Relaxed) > 0 || pages.is_none() {
            self.purge(intent.segment);
        }
        add(&self.ledger.segments_recycled, 1);
        let mut lives = self.lives.lock();
        lives.recycling = None;
        self.set_free(&mut lives, intent.segment);
        meta.sealed_tick.load(Ordering::Relaxed)
    }

    fn visit_records(
        &self,
        segment: FlashSegmentId,
        sequence: u64,
        pages: &[Page],
        hash_of: impl Fn(u16, &[u8]) -> u64,
        visit: &mut impl FnMut(&Place, Record<'_>, Clock),
    ) {
        let seed = |page: usize| PageSeed::new(self.secret, sequence, page as u32);
        for claimed in format::walk(pages, seed) {
            let head = &claimed.record.head;
            if head.tenant == format::TENANT_NOBODY {
                continue;
            }
            let hash = hash_of(head.tenant, head.key);
            let class = self.index.class(&self.layout, hash);
            let own = |entry: &Entry| {
                self.layout.segment_of(*entry) == segment.0
                    && leads_to(&self.layout, self.segment_pages, hash, *entry, &claimed)
            };
            let entry = self.index.entries_of(&self.layout, class).find(own);
            if let Some(entry) = entry {
                let place = self.place(hash, entry);
                visit(&place, claimed.record, Clock::of(entry));
                self.hide_place(&place);
            }
        }
    }

    /// Hides the entry of a place that its device did not bring, for good: what lies there must not come back.
    pub fn lose_place(&self, place: &Place) {
        if self.hide_place(place) {
            self.note_hidden(self.index.name(self.index.class(&self.layout, place.hash)));
        }
    }

    /// Hides the entry of one place. Returns whether it was still there.
    pub fn hide_place(&self, place: &Place) -> bool {
        let class = self.index.class(&self.layout, place.hash);
        let mut removed = false;
        let same = |entry: Entry| entry.same_place(place.entry);
        self.index.remove(&self.layout, &self.index.lock(class), same, |entry| {
            self.count_gone(entry);
            removed = true;
        });
        removed
    }

    /// Turns the clock's hand over up to `buckets` buckets while more than `live_max` objects are live; those that run out
    /// become ghosts. Returns whether there is more to do.
    pub fn sweep(&self, live_max: usize, buckets: usize) -> bool {
        if self.live() <= live_max {
            return false;
        }
        let from = self.hand.load(Ordering::Relaxed);
        let next = self.index.sweep(from, buckets, |entry| {
            self.count_live(entry, -1);
            self.live() <= live_max
        });
        self.hand.store(next, Ordering::Relaxed);
        self.live() > live_max
    }

    /// Objects on flash that are not ghosts.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Records in segments that are open, being written or readable, dead ones counted in.
    pub fn records(&self) -> usize {
        let lives = self.lives.lock();
        let in_use = lives.readable.iter().chain(lives.open.as_ref().map(|open| &open.id));
        in_use.map(|id| self.meta(*id).records.load(Ordering::Relaxed) as usize).sum()
    }

    /// Segments that hold no data.
    pub fn segments_free(&self) -> usize {
        self.lives.lock().free.len()
    }

    /// All segments.
    pub fn segments(&self) -> usize {
        self.metas.len()
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> usize {
        self.segment_pages * PAGE_BYTES
    }

    /// Entries in use and slots of the index.
    pub fn index_load(&self) -> (usize, usize) {
        (self.index.entries(), self.index.slots())
    }

    /// Bytes of DRAM that the tier holds: index, segment table, one buffer being filled and one being written.
    pub fn memory_bytes(&self) -> usize {
        self.index.bytes() + self.metas.len() * size_of::<Meta>() + 2 * self.segment_bytes()
    }

    /// What was written and why.
    pub fn ledger(&self) -> LedgerFigures {
        self.ledger.figures()
    }

    /// How the index entry is divided.
    pub fn layout(&self) -> &EntryLayout {
        &self.layout
    }
}

const _: () = assert!(size_of::<AtomicU32>() == 4);

#[cfg(test)]
mod tests;
