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
/// Of an entry that is larger no more than the beginning is looked at.
const BYTES_AHEAD: usize = 1024;

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
    /// What it takes to come back to it.
    pub fn found(&self) -> Found {
        Found { at: self.entry.location(), hash: self.hash, bytes: self.bytes as u32 }
    }
}

/// Where `scan` has found an entry: what it takes to come back to it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where the entry lies.
    pub at: Location,
    /// Hash of the key that it is for.
    pub hash: u64,
    /// Bytes that it takes in its segment.
    pub bytes: u32,
}

/// How far a call of [`LogMemory::relocate`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Relocated {
    /// Entries that were dealt with: moved, or found replaced or hidden.
    pub entries: usize,
    /// Bytes of those that lie elsewhere now.
    pub bytes: usize,
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

    /// Calls `visit` for each published entry of a segment that the caller has chosen. Of what is in one piece, the entry itself tells: the index
    /// is not asked, and an entry that is being replaced or hidden at this moment may still be visited.
    pub fn scan<'t>(&'t self, turn: &'t Turn<'_>, id: SegmentId, visit: impl FnMut(Part<'t>)) {
        self.scan_beginning(turn, id, usize::MAX, 0, visit);
    }

    /// The same for the segment's beginning: so many bytes of it and so many entries, dead ones counted in, if it has them.
    pub fn scan_beginning<'t>(
        &'t self,
        turn: &'t Turn<'_>,
        id: SegmentId,
        bytes: usize,
        entries: usize,
        mut visit: impl FnMut(Part<'t>),
    ) {
        let start = self.segments.start(id);
        let end = start + self.segments.meta(id).written.load(Ordering::Acquire) as usize;
        let (mut at, mut seen) = (start, 0);
        while at < end && (at - start < bytes || seen < entries) {
            seen += 1;
            // SAFETY: entries follow each other from the segment's start to `written`, and the caller owns the segment.
            let entry = unsafe { Object::at(&self.region, Location::from_byte(at)) };
            let bytes = entry.log_bytes();
            if bytes <= BYTES_AHEAD {
                self.region.prefetch_range(at + BYTES_AHEAD, bytes);
            } else {
                self.region.prefetch(at + bytes);
            }
            at += bytes;
            if entry.is_left_behind() {
                continue;
            }
            let hash = self.hash_of_entry(entry);
            let part = match entry.kind() {
                Kind::Whole => Some(Part { owner: entry, hash, bytes, entry }),
                Kind::Head | Kind::Fragment => self.published(turn, entry, bytes, hash),
            };
            part.into_iter().for_each(&mut visit);
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

    /// Has the processor fetch what [`LogMemory::part_of`] will read first of an entry: it is called for many in a row.
    #[inline]
    pub fn prefetch_entry(&self, found: Found) {
        self.index.prefetch(found.hash);
        self.region.prefetch(found.at.byte());
    }

    /// The entry that `scan` has found in a segment that the caller has chosen, if it is still published.
    pub fn part_of<'t>(&'t self, turn: &'t Turn<'_>, found: Found) -> Option<Part<'t>> {
        // SAFETY: `scan` saw it in a segment that the caller still owns, so the bytes are as they were.
        let entry = unsafe { Object::at(&self.region, found.at) };
        self.published(turn, entry, found.bytes as usize, found.hash)
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

    /// Copies entries that `scan` has found into the writer's segment and publishes the copies in their places, in order, until no segment is
    /// free for the next. Those that were replaced or hidden since are left.
    pub fn relocate(&self, turn: &Turn<'_>, writer: &mut Writer, entries: &[Found]) -> Relocated {
        let mut done = Relocated::default();
        for group in entries.chunks(ENTRIES_AHEAD) {
            // their places in the index are far apart: they are fetched together, those first where most are
            group.iter().for_each(|found| self.prefetch_entry(*found));
            let mut slots = [None; ENTRIES_AHEAD];
            for (found, slot) in group.iter().zip(&mut slots) {
                *slot = self.index.slot_at_home(found.hash, found.at);
            }
            for (found, slot) in group.iter().zip(slots) {
                let Ok(moved) = self.relocate_one(turn, writer, *found, slot) else { return done };
                done.entries += 1;
                done.bytes += if moved { found.bytes as usize } else { 0 };
            }
        }
        done
    }

    /// Moves one entry, which was seen in a slot of the index if anywhere. False if it was replaced or hidden before.
    fn relocate_one(
        &self,
        turn: &Turn<'_>,
        writer: &mut Writer,
        found: Found,
        slot: Option<usize>,
    ) -> Result<bool, NoSpace> {
        let lock = self.lock(found.hash);
        // SAFETY: `scan` saw it in a segment that the caller still owns, so the bytes are as they were.
        let entry = unsafe { Object::at(&self.region, found.at) };
        let bytes = found.bytes as usize;
        match entry.kind() {
            Kind::Fragment => return self.relocate_fragment(turn, writer, found),
            // a fragment of it may have lost its place since, and it with that
            Kind::Head if !self.index.holds(found.hash, found.at) => return Ok(false),
            Kind::Whole if entry.is_left_behind() => return Ok(false),
            Kind::Head | Kind::Whole => {}
        }
        let at = writer.copy(&self.segments, &self.region, entry.tenant(), entry, bytes)?;
        if !self.index.replace(&lock, at, found.at, slot) {
            // in the table before, of an index that grows; or it has just lost its slot to another key, and is not marked yet
            if !self.index.holds(found.hash, found.at) {
                self.appended(turn, at).leave_behind();
                discharge(&self.segments, at.byte(), bytes);
                return Ok(false);
            }
            let published = self.index.publish(&lock, at, Some(found.at), |l| self.hash_at(l));
            debug_assert!(published.replaced, "published above, and the key is locked");
            self.discharge_victim(published.evicted);
        }
        entry.leave_behind();
        discharge(&self.segments, found.at.byte(), bytes);
        Ok(true)
    }

    /// The same for a fragment, whose key is locked: its head is told.
    fn relocate_fragment(&self, turn: &Turn<'_>, writer: &mut Writer, found: Found) -> Result<bool, NoSpace> {
        let Some(part) = self.part_of(turn, found) else { return Ok(false) };
        let at = writer.copy(&self.segments, &self.region, part.owner.tenant(), part.entry, part.bytes)?;
        part.owner.set_fragment(part.entry.birth() as usize, Fragment { at, len: part.entry.value_bytes() });
        discharge(&self.segments, found.at.byte(), part.bytes);
        Ok(true)
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
