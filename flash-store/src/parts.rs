//! The devices that a tier lies on, each with a run of its segments, and what becomes of one that fails.
//!
//! ```text
//!  In --- a write fails, or reads fail one after another ---> Failing --- a step puts it aside ---> Out --- it answers again ---> In
//! ```
//! A device that comes back has what it had: its entries stay, and changes hide them as ever while nothing is looked for there. What was in the open
//! segment is lost, and what could not be written, and what had not been looked through after a crash. Where it is another device that
//! answers, it begins empty.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::FlashStore;
use crate::journal::Note;
use crate::segment::{FlashSegmentId, Lives};

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
    /// Its segments while it is not used. Locked after the lives of all segments.
    aside: Mutex<Aside>,
}

/// Segments that wait for their device.
#[derive(Default)]
struct Aside {
    free: Vec<FlashSegmentId>,
    readable: Vec<FlashSegmentId>,
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
            Part { segments, state: AtomicU8::new(IN), errors: AtomicU32::new(0), aside: Mutex::default() }
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

    /// Puts aside the devices that have failed. Whoever takes the tier's steps calls it.
    pub fn take_out_failing(&self) {
        for part in self.parts.iter().filter(|part| part.state.load(Ordering::Acquire) == FAILING) {
            self.take_out(part);
        }
    }

    fn take_out(&self, part: &Part) {
        let mut unseen = self.recovery.forget(|id| part.has(id));
        unseen.sort_unstable();
        for segment in &unseen {
            // changes of what the index does not know are not noted from now on
            let sequence = self.meta(*segment).sequence.load(Ordering::Acquire);
            self.note(Note::Dead { segment: segment.0, sequence });
        }
        let open = {
            let mut lives = self.lives.lock();
            let mut aside = part.aside.lock();
            let Lives { free, readable, open, .. } = &mut *lives;
            let own = |ids: &mut VecDeque<FlashSegmentId>| -> Vec<_> {
                let (own, others): (VecDeque<_>, _) = std::mem::take(ids).into_iter().partition(|id| part.has(*id));
                *ids = others;
                own.into()
            };
            aside.free.extend(own(free));
            let (lost, kept): (Vec<_>, Vec<_>) =
                own(readable).into_iter().partition(|id| unseen.binary_search(id).is_ok());
            aside.free.extend(lost);
            aside.readable.extend(kept);
            let open = open.take_if(|open| part.has(open.id)).map(|open| open.id);
            aside.free.extend(open);
            open
        };
        if let Some(segment) = open {
            self.purge(segment);
        }
        part.state.store(OUT, Ordering::Release);
    }

    /// A segment has nothing in it any more: it can be opened, as soon as its device is used.
    pub(crate) fn set_free(&self, lives: &mut Lives, segment: FlashSegmentId) {
        let part = self.part_of(segment);
        if part.is_in() {
            lives.free.push_back(segment);
        } else {
            part.aside.lock().free.push(segment);
        }
    }

    /// A segment is on its device.
    pub(crate) fn set_readable(&self, lives: &mut Lives, segment: FlashSegmentId) {
        let part = self.part_of(segment);
        if part.is_in() {
            lives.readable.push_back(segment);
        } else {
            part.aside.lock().readable.push(segment);
        }
    }

    /// Uses a device again that was out, with what it had, or empty.
    pub fn bring_back(&self, number: usize, is_another: bool) {
        let part = &self.parts[number];
        if part.state.load(Ordering::Acquire) != OUT {
            return;
        }
        if is_another {
            self.empty(part);
        }
        part.errors.store(0, Ordering::Relaxed);
        let mut lives = self.lives.lock();
        let aside = std::mem::take(&mut *part.aside.lock());
        lives.free.extend(aside.free);
        lives.readable.extend(aside.readable);
        lives.readable.make_contiguous().sort_by_key(|id| self.meta(*id).sequence.load(Ordering::Relaxed));
        part.state.store(IN, Ordering::Release);
    }

    /// Forgets what is on devices that are out.
    pub(crate) fn empty_those_out(&self) {
        self.parts.iter().filter(|part| part.state.load(Ordering::Acquire) == OUT).for_each(|part| self.empty(part));
    }

    /// Forgets what is on a device that is not used.
    fn empty(&self, part: &Part) {
        let sequence = self.newest_sequence();
        // before the entries go: nobody notes changes of what the index does not know
        part.segments.clone().for_each(|segment| self.note(Note::Dead { segment, sequence }));
        {
            let mut aside = part.aside.lock();
            let Aside { free, readable } = &mut *aside;
            free.append(readable);
        }
        self.index.purge(
            &self.layout,
            |entry| part.segments.contains(&self.layout.segment_of(entry)),
            |entry| self.count_gone(entry),
        );
        for segment in part.segments.clone() {
            self.metas[segment as usize].records.store(0, Ordering::Relaxed);
        }
    }
}
