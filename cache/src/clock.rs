//! Two clocks, both handed in: seconds, for expiry, and *ticks*, for everything that is about recency.
//!
//! A tick passes with every so many accesses (a 256th of the objects in DRAM, sixteen or more), and at least once a second. So
//! recency has the same grain whether a trace runs in its own time or a hundred times as fast.

use std::sync::atomic::{AtomicU32, Ordering};

/// Fewest accesses that make a tick.
const ACCESSES_MIN: u32 = 16;

pub(crate) struct Clock {
    secs: AtomicU32,
    tick: AtomicU32,
    accesses: AtomicU32,
    accesses_a_tick: AtomicU32,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            secs: AtomicU32::new(0),
            tick: AtomicU32::new(1),
            accesses: AtomicU32::new(0),
            accesses_a_tick: AtomicU32::new(ACCESSES_MIN),
        }
    }

    pub(crate) fn secs(&self) -> u32 {
        self.secs.load(Ordering::Relaxed)
    }

    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Sets the time; true if a second has passed.
    pub(crate) fn advance(&self, secs: u32, objects: usize) -> bool {
        let passed = self.secs.swap(secs, Ordering::Relaxed) != secs;
        if passed {
            self.tick.fetch_add(1, Ordering::Relaxed);
        }
        self.accesses_a_tick.store((objects as u32 / 256).max(ACCESSES_MIN), Ordering::Relaxed);
        passed
    }

    /// Counts accesses. Workers report theirs in batches.
    pub(crate) fn count(&self, accesses: u32) {
        let total = self.accesses.fetch_add(accesses, Ordering::Relaxed) + accesses;
        let a_tick = self.accesses_a_tick.load(Ordering::Relaxed);
        if total >= a_tick {
            self.accesses.fetch_sub(a_tick.min(total), Ordering::Relaxed);
            self.tick.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ticks from `then` to `now`, where `then` was kept in 20 bits.
pub(crate) fn ticks_since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then) & ((1 << log_memory::TICK_BITS) - 1)
}
