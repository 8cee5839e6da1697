//! Two clocks, both handed in: seconds, for expiry, and *ticks*, for everything that is about recency.
//!
//! A tick passes with every so many accesses (a 256th of the objects in DRAM, sixteen or more), and at least once a second. So
//! recency has the same grain whether a trace runs in its own time or a hundred times as fast.

use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

/// Fewest accesses that make a tick.
const ACCESSES_MIN: u32 = 16;
/// Accesses that a worker counts before it reports them: a part of a tick's, and no more than make a line that all cores write rare.
const REPORT_PART: u32 = 2;
const REPORT_MAX: u32 = 1024;
/// Seconds whose ticks are remembered: a little over an hour, about as long as 20 bits of ticks last under full load.
const SECS_REMEMBERED: u32 = 4096;

pub(crate) struct Clock {
    secs: AtomicU32,
    accesses_a_tick: AtomicU32,
    /// Under full load it changes thousands of times a second, so it lies apart, too.
    tick: CachePadded<AtomicU32>,
    /// Written by everybody, so it lies apart from what everybody reads.
    accesses: CachePadded<AtomicU32>,
    /// The tick at which each of the last seconds began, by second modulo their number.
    begun: Box<[AtomicU32]>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            secs: AtomicU32::new(0),
            tick: CachePadded::new(AtomicU32::new(1)),
            accesses_a_tick: AtomicU32::new(ACCESSES_MIN),
            accesses: CachePadded::new(AtomicU32::new(0)),
            begun: (0..SECS_REMEMBERED).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    pub(crate) fn secs(&self) -> u32 {
        self.secs.load(Ordering::Relaxed)
    }

    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Goes on from the tick of an earlier life.
    pub(crate) fn resume(&self, tick: u32) {
        self.tick.store(tick, Ordering::Relaxed);
    }

    /// Sets the time; true if a second has passed.
    pub(crate) fn advance(&self, secs: u32, objects: usize) -> bool {
        let before = self.secs.swap(secs, Ordering::Relaxed);
        let passed = before != secs;
        if passed {
            let tick = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
            let first = before.max(secs.saturating_sub(SECS_REMEMBERED - 1));
            (first..secs).for_each(|second| self.slot(second + 1).store(tick, Ordering::Relaxed));
        }
        self.accesses_a_tick.store((objects as u32 / 256).max(ACCESSES_MIN), Ordering::Relaxed);
        passed
    }

    fn slot(&self, second: u32) -> &AtomicU32 {
        &self.begun[(second % SECS_REMEMBERED) as usize]
    }

    /// Seconds since a tick that was kept in 20 bits; at most what is remembered.
    pub(crate) fn secs_since(&self, then: u32) -> u32 {
        let (now, secs) = (self.tick(), self.secs());
        let age = ticks_since(now, then);
        // the longest ago that a second can have begun after that tick, by bisection: earlier seconds began at earlier ticks
        let (mut low, mut high) = (0, (SECS_REMEMBERED - 1).min(secs));
        while low < high {
            let middle = (low + high) / 2;
            let began = now.wrapping_sub(self.slot(secs - middle).load(Ordering::Relaxed));
            if began >= age { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// The tick at which a second began; the oldest that is remembered, for one before.
    pub(crate) fn tick_at(&self, second: u32) -> u32 {
        let secs = self.secs();
        self.slot(second.clamp(secs.saturating_sub(SECS_REMEMBERED - 1), secs)).load(Ordering::Relaxed)
    }

    /// Counts accesses. Workers report theirs in batches: it returns how many the next one should be of.
    pub(crate) fn count(&self, accesses: u32) -> u32 {
        let total = self.accesses.fetch_add(accesses, Ordering::Relaxed).wrapping_add(accesses);
        let a_tick = self.accesses_a_tick.load(Ordering::Relaxed);
        // one of those who see a tick's worth takes it; who is overtaken leaves it to the one who came later
        if total >= a_tick
            && self.accesses.compare_exchange(total, total - a_tick, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.tick.fetch_add(1, Ordering::Relaxed);
        }
        (a_tick / REPORT_PART).clamp(ACCESSES_MIN, REPORT_MAX)
    }
}

/// Ticks from `then` to `now`, where `then` was kept in 20 bits.
pub(crate) fn ticks_since(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then) & ((1 << log_memory::TICK_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_report_at_once_make_no_tick_twice() {
        let clock = Clock::new();
        let (before, a_tick) = (clock.tick(), clock.accesses_a_tick.load(Ordering::Relaxed));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..50_000).for_each(|_| _ = clock.count(a_tick / 3 + 1)));
            }
        });
        let counted = u64::from(clock.tick() - before) * u64::from(a_tick);
        assert_eq!(counted + u64::from(clock.accesses.load(Ordering::Relaxed)), 200_000 * u64::from(a_tick / 3 + 1));
    }

    #[test]
    fn ticks_are_turned_back_into_seconds() {
        let clock = Clock::new();
        clock.advance(1_000_000, 0);
        let then = clock.tick();
        assert_eq!(clock.secs_since(then), 0);
        clock.advance(1_000_001, 0);
        (0..100).for_each(|_| _ = clock.count(16));
        let later = clock.tick();
        clock.advance(1_000_002, 0);
        assert_eq!((clock.secs_since(then), clock.secs_since(later)), (2, 1));
        clock.advance(1_000_500, 0);
        assert_eq!((clock.secs_since(then), clock.secs_since(later)), (500, 499));
        assert_eq!(clock.tick_at(1_000_000), then);
        clock.advance(1_100_000, 0);
        assert_eq!(clock.secs_since(then), SECS_REMEMBERED - 1);
    }
}
