//! A segment's life.
//!
//! ```text
//!          take            seal             choose               retire               grace period passed
//!  Free ----------> Open ---------> Sealed ---------> Cleaning ----------> Retired -----------------------> Free
//!   (any writer)         (its writer)      ^    (cleaner)  |  (cleaner)              (whoever takes one)
//!                                          +---------------+
//!                                             put back
//! ```
//! Each edge is a compare-and-exchange in this file, so a segment has one owner at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::SEGMENTS_SPARE;
use crate::grace::Grace;
use crate::region::Region;

/// Number of a segment in the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct SegmentId(pub(crate) u32);

/// Where a segment is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Holds nothing.
    Free,
    /// Being appended to by one writer.
    Open,
    /// Full; objects in it are read, hidden, never added.
    Sealed,
    /// Chosen by the cleaner.
    Cleaning,
    /// Holds nothing that is published; readers of this moment may still look.
    Retired,
}

const STATES: [State; 5] = [State::Free, State::Open, State::Sealed, State::Cleaning, State::Retired];

/// A tenant's bytes in a segment when it was sealed.
pub(crate) type Shares = Box<[(u16, u32)]>;

/// What is known of a segment without reading it.
pub(crate) struct Meta {
    state: AtomicU8,
    /// Bytes appended, once it is sealed.
    pub(crate) written: AtomicU32,
    /// Bytes of entries that are published (an upper bound: expired objects count until they are found; and while it is open, all count that
    /// were not published and hidden again).
    pub(crate) live: AtomicU32,
    /// Values in it that are being sent from where they lie.
    pins: AtomicU32,
    /// Fragments in it of values that are arriving.
    landings: AtomicU32,
    pub(crate) shares: Mutex<Shares>,
}

impl Meta {
    /// Whether the cleaner would get somewhere with it: a value that is arriving cannot be moved.
    pub(crate) fn is_cleanable(&self) -> bool {
        self.state() == State::Sealed && self.landings.load(Ordering::Acquire) == 0
    }

    pub(crate) fn state(&self) -> State {
        STATES[self.state.load(Ordering::Acquire) as usize]
    }

    /// Takes the edge `from -> to`; false if the segment is not in `from`.
    fn take_edge(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// All segments, and which of them are free.
pub(crate) struct Segments {
    pub(crate) metas: Box<[Meta]>,
    pub(crate) segment_bytes: usize,
    grace: Arc<Grace>,
    pool: Mutex<Pool>,
    /// Segments that may be in use or free; the others are parked, their pages given back.
    allowed: AtomicUsize,
    /// Segments that have pins.
    pinned: AtomicUsize,
    /// Segments in which values are arriving.
    landed_in: AtomicUsize,
    /// The end of the region as far as segments were ever opened, in bytes: they are opened in order, at first.
    opened_to: AtomicUsize,
}

struct Pool {
    free: Vec<SegmentId>,
    retired: VecDeque<(SegmentId, u64)>,
    /// Retired, their grace period passed, but pinned then.
    held: Vec<SegmentId>,
    parked: Vec<SegmentId>,
}

impl Segments {
    pub(crate) fn new(count: usize, segment_bytes: usize, grace: Arc<Grace>) -> Segments {
        assert!(segment_bytes.is_power_of_two(), "a byte's segment is told by shifting");
        let metas = (0..count).map(|_| Meta {
            state: AtomicU8::new(State::Free as u8),
            written: AtomicU32::new(0),
            live: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            landings: AtomicU32::new(0),
            shares: Mutex::new(Box::default()),
        });
        let free = (0..count as u32).rev().map(SegmentId).collect();
        Segments {
            metas: metas.collect(),
            segment_bytes,
            grace,
            pool: Mutex::new(Pool { free, retired: VecDeque::new(), held: Vec::new(), parked: Vec::new() }),
            allowed: AtomicUsize::new(count),
            pinned: AtomicUsize::new(0),
            landed_in: AtomicUsize::new(0),
            opened_to: AtomicUsize::new(0),
        }
    }

    pub(crate) fn meta(&self, id: SegmentId) -> &Meta {
        &self.metas[id.0 as usize]
    }

    pub(crate) fn of_byte(&self, at: usize) -> SegmentId {
        SegmentId((at >> self.segment_bytes.trailing_zeros()) as u32)
    }

    pub(crate) fn start(&self, id: SegmentId) -> usize {
        id.0 as usize * self.segment_bytes
    }

    /// How far into the region segments were ever opened, in bytes.
    pub(crate) fn opened_to(&self) -> usize {
        self.opened_to.load(Ordering::Relaxed)
    }

    pub(crate) fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Free segments, those in their grace period counted in, after what is over the allowance.
    pub(crate) fn free(&self) -> usize {
        let pool = self.pool.lock();
        (pool.free.len() + pool.retired.len()).saturating_sub(self.excess(&pool))
    }

    /// Whether segments are on their way to being free.
    pub(crate) fn has_retired(&self) -> bool {
        let pool = self.pool.lock();
        !pool.retired.is_empty() || !pool.held.is_empty()
    }

    /// Segments in circulation beyond the allowance: they are parked as they come free.
    fn excess(&self, pool: &Pool) -> usize {
        (self.metas.len() - pool.parked.len()).saturating_sub(self.allowed())
    }

    /// Changes how many segments may be in circulation. Takes effect as segments come free.
    pub(crate) fn allow(&self, count: usize, region: &Region) {
        self.allowed.store(count.min(self.metas.len()), Ordering::Relaxed);
        let mut pool = self.pool.lock();
        self.park(&mut pool, region);
        while self.metas.len() - pool.parked.len() < self.allowed() {
            let Some(id) = pool.parked.pop() else { break };
            pool.free.push(id);
        }
    }

    /// Takes a free segment, or one whose grace period has passed. The last `spare` ones are left alone.
    pub(crate) fn open(&self, spare: usize, region: &Region) -> Option<SegmentId> {
        let mut pool = self.pool.lock();
        while let Some(&(id, stamp)) = pool.retired.front()
            && self.grace.has_passed(stamp)
        {
            pool.retired.pop_front();
            pool.held.push(id);
        }
        let is_pinned = |id: &SegmentId| self.meta(*id).pins.load(Ordering::Acquire) > 0;
        while let Some(at) = pool.held.iter().position(|id| !is_pinned(id)) {
            let id = pool.held.swap_remove(at);
            self.release(&mut pool, id, region);
        }
        if pool.free.len() <= spare {
            return None;
        }
        let id = pool.free.pop()?;
        let meta = self.meta(id);
        assert!(meta.take_edge(State::Free, State::Open), "a free segment has no owner");
        meta.written.store(0, Ordering::Relaxed);
        meta.live.store(self.segment_bytes as u32, Ordering::Relaxed);
        self.opened_to.fetch_max(self.start(id) + self.segment_bytes, Ordering::Relaxed);
        Some(id)
    }

    /// A retired segment that nobody looks at any more is free, or parked if there are too many.
    fn release(&self, pool: &mut Pool, id: SegmentId, region: &Region) {
        assert!(self.meta(id).take_edge(State::Retired, State::Free), "only this queue frees a retired segment");
        pool.free.push(id);
        self.park(pool, region);
    }

    /// Parks free segments that are over the allowance. Not the last ones: what survives in the segments that the cleaner empties moves
    /// through them, and would be lost.
    fn park(&self, pool: &mut Pool, region: &Region) {
        while self.excess(pool) > 0
            && pool.free.len() > SEGMENTS_SPARE
            && let Some(id) = pool.free.pop()
        {
            region.discard(self.start(id), self.segment_bytes);
            pool.parked.push(id);
        }
    }

    /// Holds a segment back from reuse. The caller is in a turn in which it found a published object there. False if `most` segments
    /// are held back already.
    pub(crate) fn pin(&self, id: SegmentId, most: usize) -> bool {
        let is_first = self.meta(id).pins.fetch_add(1, Ordering::AcqRel) == 0;
        if is_first && self.pinned.fetch_add(1, Ordering::Relaxed) >= most {
            self.unpin(id); // somebody else may have pinned it meanwhile: then it counts for them
            return false;
        }
        true
    }

    /// Takes a pin back.
    pub(crate) fn unpin(&self, id: SegmentId) {
        if self.meta(id).pins.fetch_sub(1, Ordering::Release) == 1 {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A fragment of a value that is arriving lies in a segment that the caller has open, or has sealed just now: the cleaner is not offered it
    /// until the value has come. One that it has chosen in between has live bytes, and is not retired.
    pub(crate) fn begin_landing(&self, id: SegmentId) {
        if self.meta(id).landings.fetch_add(1, Ordering::AcqRel) == 0 {
            self.landed_in.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It has come, or will not.
    pub(crate) fn end_landing(&self, id: SegmentId) {
        if self.meta(id).landings.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.landed_in.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Segments in which values are arriving.
    pub(crate) fn landed_in(&self) -> usize {
        self.landed_in.load(Ordering::Relaxed)
    }

    pub(crate) fn seal(&self, id: SegmentId, written: usize, shares: Shares) {
        let meta = self.meta(id);
        *meta.shares.lock() = shares;
        meta.written.store(written as u32, Ordering::Relaxed);
        meta.live.fetch_sub((self.segment_bytes - written) as u32, Ordering::Relaxed);
        assert!(meta.take_edge(State::Open, State::Sealed), "its writer alone seals an open segment");
    }

    /// Takes a sealed segment for cleaning.
    pub(crate) fn choose(&self, id: SegmentId) -> bool {
        self.meta(id).take_edge(State::Sealed, State::Cleaning)
    }

    pub(crate) fn put_back(&self, id: SegmentId) {
        assert!(self.meta(id).take_edge(State::Cleaning, State::Sealed), "the cleaner owns what it chose");
    }

    /// Nothing in the segment is published any more: it is free after a grace period (INV-GRACE).
    pub(crate) fn retire(&self, id: SegmentId) {
        assert!(self.meta(id).take_edge(State::Cleaning, State::Retired), "the cleaner owns what it chose");
        let stamp = self.grace.retire();
        self.pool.lock().retired.push_back((id, stamp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: usize = 4096;

    #[test]
    fn an_allowance_that_shrinks_leaves_the_cleaner_room_to_move_through() {
        let region = Region::map(10 * SEGMENT_BYTES).unwrap();
        let segments = Segments::new(10, SEGMENT_BYTES, Grace::new());
        let mut sealed = VecDeque::new();
        let fill_one = || {
            let id = segments.open(0, &region)?;
            segments.seal(id, 0, Box::default());
            Some(id)
        };
        sealed.extend((0..8).filter_map(|_| fill_one()));
        segments.allow(4, &region);
        assert_eq!((sealed.len(), segments.free()), (8, 0), "six are too many, so none is free for a store");
        for _ in 0..6 {
            // what survives in two goes into one
            let one = fill_one().expect("the cleaner moves it through the spare ones");
            for id in sealed.drain(..2) {
                assert!(segments.choose(id));
                segments.retire(id);
            }
            sealed.push_back(one);
        }
        assert!(
            segments.open(10, &region).is_none(),
            "it was asked so that those come free whose grace period has passed"
        );
        let pool = segments.pool.lock();
        assert_eq!((segments.excess(&pool), segments.metas.len() - pool.parked.len()), (0, 4));
    }
}
