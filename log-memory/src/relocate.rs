//! The cleaner's hands: look through a chosen segment, move what survives, hide what does not.
//!
//! Relocating takes the key's lock, so it either swings the index to the copy or finds that the key was stored or deleted in
//! the meantime, and leaves it. Readers see the old place or the new one; the old bytes stay for the grace period.

use std::sync::atomic::Ordering;

use crate::LogMemory;
use crate::grace::Turn;
use crate::location::Location;
use crate::object::{Fragment, HEADER_BYTES, Kind, Object};
use crate::open_segment::{NoSpace, Writer, discharge};
use crate::segment::SegmentId;

/// Buckets of an index that a thread moves before others may.
const GROWN_AT_A_TIME: usize = 32;
/// Entries of a segment whose places in the index are fetched together.
const ENTRIES_AHEAD: usize = 32;
/// Bytes of a segment that are fetched ahead of a scan: where an entry begins is only known from the one before it, so the processor cannot look ahead itself.
const BYTES_AHEAD: usize = 1024;
/// Of each entry, so many at most: of what is longer, only the beginning is looked at.
const FETCHED_MAX: usize = 512;

/// A published entry of a segment: a whole object, a head, or a fragment of the object `owner`.
#[derive(Clone, Copy)]
pub struct Part<'t> {
    /// The object that it is, or belongs to.
    pub owner: Object<'t>,
    /// Hash of its key.
    pub hash: u64,
    /// Bytes that this entry takes in its segment.
    pub bytes: usize,
    entry: Object<'t>,
}

impl Part<'_> {
    /// Where the entry lies.
    pub fn location(&self) -> Location {
        self.entry.location()
    }
}

/// What became of an entry that was to be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relocated {
    /// It lies elsewhere now, in so many bytes.
    Moved(usize),
    /// It was replaced or hidden before.
    Gone,
}

impl LogMemory {
    /// Takes a sealed segment; false if it is not sealed any more.
    pub fn choose(&self, id: SegmentId) -> bool {
        self.segments.choose(id)
    }

    /// Gives a chosen segment back, as it is.
    pub fn put_back(&self, id: SegmentId) {
        self.segments.put_back(id);
    }

    /// Frees a chosen segment after a grace period. False, and the segment goes back as it is, if something in it is still
    /// live: stored in it but not published until now, or hidden and about to be counted as dead.
    pub fn retire(&self, id: SegmentId) -> bool {
        let dead = self.segments.meta(id).live.load(Ordering::Acquire) == 0;
        if dead {
            self.segments.retire(id);
        } else {
            self.segments.put_back(id);
        }
        dead
    }

    /// Calls `visit` for each published entry of a segment that the caller has chosen.
    pub fn scan<'t>(&'t self, turn: &'t Turn<'_>, id: SegmentId, mut visit: impl FnMut(Part<'t>)) {
        let meta = self.segments.meta(id);
        let (mut at, end) =
            (self.segments.start(id), self.segments.start(id) + meta.written.load(Ordering::Acquire) as usize);
        let mut ahead = Vec::with_capacity(ENTRIES_AHEAD);
        while at < end {
            // their places in the index are far apart: they are fetched together
            while at < end && ahead.len() < ENTRIES_AHEAD {
                // SAFETY: entries follow each other from the segment's start to `written`, and the caller owns the segment.
                let entry = unsafe { Object::at(&self.region, Location::from_byte(at)) };
                let (bytes, hash) = (entry.log_bytes(), self.hash_of_entry(entry));
                self.index.prefetch_both(hash);
                (0..bytes.min(FETCHED_MAX)).step_by(64).for_each(|n| self.region.prefetch(at + BYTES_AHEAD + n));
                ahead.push((entry, bytes, hash));
                at += bytes;
            }
            for (entry, bytes, hash) in ahead.drain(..) {
                if let Some(part) = self.published(turn, entry, bytes, hash) {
                    visit(part);
                }
            }
        }
    }

    /// Hash of the key that an entry is for.
    fn hash_of_entry(&self, entry: Object<'_>) -> u64 {
        if entry.kind() == Kind::Fragment {
            entry.fragment_owner()
        } else {
            self.hasher.hash(entry.tenant(), entry.key())
        }
    }

    /// Has the processor fetch what [`LogMemory::part_at`] and [`LogMemory::relocate`] will read of the entry at `at`, for a key with this
    /// hash: they are called for many in a row.
    #[inline]
    pub fn prefetch_entry(&self, at: Location, hash: u64) {
        self.index.prefetch_both(hash);
        self.region.prefetch(at.byte());
    }

    /// The entry at `at`, for a key with this hash, as `scan` told them of a segment that the caller has chosen, if it is still published.
    pub fn part_at<'t>(&'t self, turn: &'t Turn<'_>, at: Location, hash: u64) -> Option<Part<'t>> {
        // SAFETY: `at` was seen by `scan` in a segment that the caller still owns, so the bytes are as they were.
        let entry = unsafe { Object::at(&self.region, at) };
        self.published(turn, entry, entry.log_bytes(), hash)
    }

    fn published<'t>(&'t self, _turn: &'t Turn<'_>, entry: Object<'t>, bytes: usize, hash: u64) -> Option<Part<'t>> {
        if entry.kind() == Kind::Fragment {
            let number = entry.birth() as usize;
            let head = self.index.find(hash, |at| self.owns(at, number, entry.location()))?;
            // SAFETY: found in the index within the turn.
            let owner = unsafe { Object::at(&self.region, head) };
            return Some(Part { owner, hash, bytes, entry });
        }
        self.index.holds(hash, entry.location()).then_some(Part { owner: entry, hash, bytes, entry })
    }

    /// Whether the object at `head` says that its fragment `number` lies at `at`.
    fn owns(&self, head: Location, number: usize, at: Location) -> bool {
        // SAFETY: `head` comes out of the index within the caller's turn.
        let head = unsafe { Object::at(&self.region, head) };
        head.kind() == Kind::Head && head.fragment(number).is_some_and(|fragment| fragment.at == at)
    }

    /// Copies an entry into the writer's segment and publishes the copy in its place. `at` and `hash` are as for
    /// [`LogMemory::part_at`].
    pub fn relocate(
        &self,
        turn: &Turn<'_>,
        writer: &mut Writer,
        at: Location,
        hash: u64,
    ) -> Result<Relocated, NoSpace> {
        let lock = self.lock(hash);
        let Some(part) = self.part_at(turn, at, hash) else { return Ok(Relocated::Gone) };
        let at = writer.copy(&self.segments, &self.region, part.owner.tenant(), part.entry, part.bytes)?;
        match part.entry.kind() {
            Kind::Fragment => {
                let number = part.entry.birth() as usize;
                let head = self.index.find(part.hash, |head| self.owns(head, number, part.location()));
                let head = head.expect("published above, and the key is locked");
                // SAFETY: found in the index within the turn.
                let head = unsafe { Object::at(&self.region, head) };
                head.set_fragment(number, Fragment { at, len: part.entry.value_bytes() });
                discharge(&self.segments, part.location().byte(), part.bytes);
            }
            _ => {
                let published = self.index.publish(&lock, at, Some(part.location()), |l| self.hash_at(l));
                debug_assert!(published.replaced, "published above, and the key is locked");
                discharge(&self.segments, part.location().byte(), part.bytes);
                self.discharge_victim(published.evicted);
            }
        }
        Ok(Relocated::Moved(part.bytes))
    }

    /// Moves index entries to a larger table, a bounded number of buckets; none while a turn is open that began before
    /// [`LogMemory::grow_index`] (so begin the one that is lent after it). Threads take turns at it, a few buckets each time: who waits for
    /// one that is not running lets it run. Call it without a key's lock. Returns whether there is more to do.
    pub fn grow_index_step(&self, _turn: &Turn<'_>, buckets: usize) -> bool {
        let chunks = (0..buckets).step_by(GROWN_AT_A_TIME).map(|begin| GROWN_AT_A_TIME.min(buckets - begin));
        for chunk in chunks {
            if !self.index.is_growing() {
                return false;
            }
            let _growing = self.growing.lock();
            let grown_at = self.grown_at.load(Ordering::Relaxed);
            if grown_at > 0 && !self.grace.has_passed(grown_at) {
                return true;
            }
            self.grown_at.store(0, Ordering::Relaxed);
            self.index.grow_step(chunk, |at| self.hash_at(at), |victim| self.discharge_victim(Some(victim)));
        }
        self.index.is_growing()
    }

    pub(crate) fn hash_at(&self, at: Location) -> u64 {
        // SAFETY: `at` comes out of the index within the caller's turn.
        let object = unsafe { Object::at(&self.region, at) };
        self.hasher.hash(object.tenant(), object.key())
    }
}

impl Writer {
    fn copy(
        &mut self,
        segments: &crate::segment::Segments,
        region: &crate::region::Region,
        owner: u16,
        entry: Object<'_>,
        bytes: usize,
    ) -> Result<Location, NoSpace> {
        let at = self.reserve(segments, region, owner, bytes, bytes)?.at;
        let from = entry.location();
        let words = region.words();
        for n in 0..HEADER_BYTES / 8 {
            words[at / 8 + n].store(words[from.word() + n].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        // SAFETY: the source is a published entry behind its header, where only the holder of its key's lock writes (the
        // caller); the target was just reserved.
        unsafe {
            let rest = region.bytes(from.byte() + HEADER_BYTES, bytes - HEADER_BYTES);
            region.write(at + HEADER_BYTES, rest);
        }
        Ok(Location::from_byte(at))
    }
}
