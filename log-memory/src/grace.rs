//! Grace periods: when a retired segment may be used again (INV-GRACE).
//!
//! Every thread that reads the log owns a [`Participant`]. It *enters* before it looks anything up and *exits* when it holds no
//! view any more: a turn. Entering publishes the current epoch in the participant's own cache line, once a turn, not once a
//! read. Whoever retires a segment, after hiding all its objects, advances the epoch and stamps the segment with it. The
//! segment is free when every participant is outside of a turn or entered its turn at the stamp or later: such a turn began
//! after the hiding and cannot have found the old places.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Mutex, PARTICIPANTS_MAX, fence};

/// Slot value of a participant that is outside of a turn.
const OUTSIDE: u64 = u64::MAX;

/// The shared epoch and every participant's view of it.
pub struct Grace {
    epoch: AtomicU64,
    slots: Box<[CachePadded<AtomicU64>]>,
    unused: Mutex<Vec<usize>>,
}

impl Grace {
    /// Nobody takes part yet.
    pub fn new() -> Arc<Grace> {
        Arc::new(Grace {
            epoch: AtomicU64::new(1),
            slots: (0..PARTICIPANTS_MAX).map(|_| CachePadded::new(AtomicU64::new(OUTSIDE))).collect(),
            unused: Mutex::new((0..PARTICIPANTS_MAX).rev().collect()),
        })
    }

    /// Takes a slot for a thread.
    ///
    /// # Panics
    /// When more threads than the fixed number of slots (256) take part.
    pub fn join(self: &Arc<Grace>) -> Participant {
        let slot = self.unused.lock().pop().expect("at most 256 threads take part in reclamation");
        Participant { grace: Arc::clone(self), slot }
    }

    /// A stamp for what was hidden up to now.
    pub(crate) fn retire(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether no turn is left that began before `stamp`.
    pub(crate) fn has_passed(&self, stamp: u64) -> bool {
        fence(Ordering::SeqCst);
        self.slots.iter().all(|slot| slot.load(Ordering::SeqCst) >= stamp)
    }
}

/// One thread's part in reclamation.
pub struct Participant {
    grace: Arc<Grace>,
    slot: usize,
}

impl Participant {
    /// Begins a turn: views of objects are valid until the turn is dropped. A participant has one turn at a time.
    pub fn enter(&self) -> Turn<'_> {
        let slot = &self.grace.slots[self.slot];
        debug_assert_eq!(slot.load(Ordering::Relaxed), OUTSIDE, "a participant has one turn at a time");
        slot.store(self.grace.epoch.load(Ordering::Acquire), Ordering::Relaxed);
        fence(Ordering::SeqCst); // the slot is visible before anything is looked up
        Turn { slot }
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.grace.unused.lock().push(self.slot);
    }
}

/// Proof that its thread is counted as a reader. Views borrow it. It does not prove that what was found is still published.
pub struct Turn<'p> {
    slot: &'p AtomicU64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.slot.store(OUTSIDE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_began_before_the_stamp_holds_it_back() {
        let grace = Grace::new();
        let (early, late) = (grace.join(), grace.join());
        let turn = early.enter();
        let stamp = grace.retire();
        let after = late.enter();
        assert!(!grace.has_passed(stamp));
        drop(turn);
        assert!(grace.has_passed(stamp), "a turn that began at the stamp holds nothing back");
        drop(after);
    }
}
