//! The devices that a tier lies on, each with a run of its segments, and what becomes of one that fails.
//!
//! ```text
//!  In --- a write fails, or reads fail one after another ---> Failing --- a step purges its entries ---> Out --- it answers again ---> In
//! ```
//! A device that comes back begins empty: nobody noted what happened to its content meanwhile. Its segments are noted as dead before
//! its entries go, so a crash does not bring them back either.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::FlashStore;
use crate::journal::Note;
use crate::segment::FlashSegmentId;

/// Reads that fail one after another until their device is taken out.
const ERRORS_MAX: u32 = 8;

const IN: u8 = 0;
const FAILING: u8 = 1;
const OUT: u8 = 2;

/// One device's share of the tier.
pub(crate) struct Part {
    segments: Range<u32>,
    state: AtomicU8,
    /// Reads that failed since the last that did not.
    errors: AtomicU32,
}

/// What a device is to the tier at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartState {
    /// It is used.
    In,
    /// It has failed, and is about to be taken out.
    Failing,
    /// It is not used.
    Out,
}

impl Part {
    /// Parts of so many segments each, in order.
    pub(crate) fn of(segments: &[u32]) -> Box<[Part]> {
        let mut first = 0;
        let part = |count: &u32| {
            let segments = first..first + count;
            first = segments.end;
            Part { segments, state: AtomicU8::new(IN), errors: AtomicU32::new(0) }
        };
        segments.iter().map(part).collect()
    }

    fn is_in(&self) -> bool {
        self.state.load(Ordering::Relaxed) == IN
    }

    fn has(&self, segment: FlashSegmentId) -> bool {
        self.segments.contains(&segment.0)
    }
}

/// Segments of all parts, one of each in turn, so that all devices are written.
pub(crate) fn interleaved(segments: &[u32]) -> impl Iterator<Item = FlashSegmentId> {
    let most = segments.iter().copied().max().unwrap_or(0);
    let firsts: Vec<u32> =
        segments.iter().scan(0, |next, count| Some(std::mem::replace(next, *next + count))).collect();
    let counts = segments.to_vec();
    (0..most).flat_map(move |turn| {
        let own: Vec<_> = firsts
            .iter()
            .zip(&counts)
            .filter(|(_, count)| turn < **count)
            .map(|(first, _)| FlashSegmentId(first + turn))
            .collect();
        own
    })
}

impl FlashStore {
    fn part_of(&self, segment: FlashSegmentId) -> &Part {
        let found = self.parts.iter().find(|part| part.has(segment));
        found.unwrap_or(&self.parts[0])
    }

    /// Whether the device of a segment is used.
    pub(crate) fn is_in(&self, segment: FlashSegmentId) -> bool {
        self.part_of(segment).is_in()
    }

    /// Whether the tier takes records: it does as long as one device works.
    pub fn is_enabled(&self) -> bool {
        self.parts.iter().any(Part::is_in)
    }

    /// What each device is.
    pub fn parts(&self) -> Vec<PartState> {
        let state = |part: &Part| match part.state.load(Ordering::Relaxed) {
            IN => PartState::In,
            FAILING => PartState::Failing,
            _ => PartState::Out,
        };
        self.parts.iter().map(state).collect()
    }

    /// The device of a segment cannot be used: nothing is looked for there any more, and a step takes it out.
    pub(crate) fn fail(&self, segment: FlashSegmentId) {
        let part = self.part_of(segment);
        let _ = part.state.compare_exchange(IN, FAILING, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// How a read from a segment went.
    pub fn note_read(&self, segment: FlashSegmentId, ok: bool) {
        let part = self.part_of(segment);
        if !ok {
            self.read_failed();
            if part.errors.fetch_add(1, Ordering::Relaxed) + 1 >= ERRORS_MAX {
                self.fail(segment);
            }
        } else if part.errors.load(Ordering::Relaxed) != 0 {
            part.errors.store(0, Ordering::Relaxed);
        }
    }

    /// Takes out the devices that have failed. Whoever takes the tier's steps calls it.
    pub fn take_out_failing(&self) {
        for part in self.parts.iter().filter(|part| part.state.load(Ordering::Acquire) == FAILING) {
            self.take_out(part);
        }
    }

    fn take_out(&self, part: &Part) {
        let sequence = self.newest_sequence();
        for segment in part.segments.clone() {
            self.note(Note::Dead { segment, sequence });
            self.recovery.forget(FlashSegmentId(segment));
        }
        {
            let mut lives = self.lives.lock();
            lives.free.retain(|id| !part.has(*id));
            lives.readable.retain(|id| !part.has(*id));
            lives.open = lives.open.take().filter(|open| !part.has(open.id));
        }
        self.index.purge(
            &self.layout,
            |entry| part.segments.contains(&self.layout.segment_of(entry)),
            |entry| self.count_gone(entry),
        );
        for segment in part.segments.clone() {
            self.metas[segment as usize].records.store(0, Ordering::Relaxed);
        }
        part.state.store(OUT, Ordering::Release);
    }

    /// Uses a device again that was out. It begins empty.
    pub fn bring_back(&self, number: usize) {
        let part = &self.parts[number];
        if part.state.load(Ordering::Acquire) == OUT {
            part.errors.store(0, Ordering::Relaxed);
            let mut lives = self.lives.lock();
            let busy: Vec<_> =
                lives.recycling.into_iter().chain(self.writing.lock().iter().map(|(id, _)| *id)).collect();
            lives.free.extend(part.segments.clone().map(FlashSegmentId).filter(|id| !busy.contains(id)));
            part.state.store(IN, Ordering::Release);
        }
    }
}
