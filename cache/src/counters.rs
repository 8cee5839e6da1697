//! What happened, counted by the thread that did it, a tenant apart: no counter is written by two threads.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident = $key:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Count { $($(#[doc = $doc])* $name,)* }

        /// Every count, with its key in stats.
        pub const COUNTS: &[(Count, &str)] = &[$((Count::$name, $key),)*];
    };
}

counts! {
    /// Keys asked for.
    Gets = "cmd_get",
    /// Found in DRAM.
    DramHits = "get_dram_hits",
    /// Found on flash.
    FlashHits = "get_flash_hits",
    /// Found nowhere.
    Misses = "get_misses",
    /// Of the misses: what was found had expired.
    Expired = "get_expired",
    /// Of the misses: what was found had been flushed.
    Flushed = "get_flushed",
    /// Misses that a little more memory would have made hits.
    ShadowHits = "shadow_hits",
    /// Stores asked for, of every kind.
    Sets = "cmd_set",
    /// Objects stored.
    Stored = "total_items",
    /// Bytes of key and value stored.
    StoredBytes = "app_bytes_written",
    /// Deletes that found their key.
    DeleteHits = "delete_hits",
    /// Deletes that did not.
    DeleteMisses = "delete_misses",
    /// Increments that found their key.
    IncrHits = "incr_hits",
    /// Increments that did not.
    IncrMisses = "incr_misses",
    /// Decrements that found their key.
    DecrHits = "decr_hits",
    /// Decrements that did not.
    DecrMisses = "decr_misses",
    /// Compare-and-swaps that stored.
    CasHits = "cas_hits",
    /// Compare-and-swaps whose unique was out of date.
    CasBadval = "cas_badval",
    /// Compare-and-swaps of unknown keys.
    CasMisses = "cas_misses",
    /// Touches asked for.
    Touches = "cmd_touch",
    /// Touches that found their key.
    TouchHits = "touch_hits",
    /// Touches that did not.
    TouchMisses = "touch_misses",
    /// Flushes.
    Flushes = "cmd_flush",
    /// Objects that left the cache alive, for want of room.
    Evictions = "evictions",
    /// Of those: never read.
    EvictedUnread = "evicted_unfetched",
    /// Objects that went from DRAM to flash.
    Demoted = "demoted",
    /// Bytes of flash records of those.
    DemotedBytes = "demoted_bytes",
    /// Of those bytes: records that had been on flash before.
    RescueBytes = "rescue_bytes",
    /// Objects that came back from flash to DRAM when their segment was recycled.
    Rescued = "rescued",
    /// Objects that had expired or been flushed when the cleaner found them or a store replaced them.
    Reclaimed = "reclaimed",
    /// Of those: never read.
    ExpiredUnread = "expired_unfetched",
    /// Objects that the predictor refused.
    Refused = "flash_refused",
}

/// Counters of one tenant.
pub(crate) struct Counters([AtomicU64; COUNTS.len()]);

impl Default for Counters {
    fn default() -> Counters {
        Counters([const { AtomicU64::new(0) }; COUNTS.len()])
    }
}

impl Counters {
    /// Adds, as the only writer.
    #[inline]
    pub(crate) fn add(&self, count: Count, by: u64) {
        let counter = &self.0[count as usize];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
}

/// Sums of counters.
#[derive(Clone, Copy, Debug)]
pub struct Totals([u64; COUNTS.len()]);

impl Default for Totals {
    fn default() -> Totals {
        Totals([0; COUNTS.len()])
    }
}

impl Totals {
    pub(crate) fn include(&mut self, counters: &Counters) {
        self.0.iter_mut().zip(&counters.0).for_each(|(sum, counter)| *sum += counter.load(Ordering::Relaxed));
    }

    /// Adds another tenant's totals.
    pub fn add(&mut self, other: &Totals) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// What happened since `before`.
    pub fn since(&self, before: &Totals) -> Totals {
        Totals(std::array::from_fn(|n| self.0[n].wrapping_sub(before.0[n])))
    }

    /// One total.
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    /// Hits in either tier.
    pub fn hits(&self) -> u64 {
        self.get(Count::DramHits) + self.get(Count::FlashHits)
    }
}
