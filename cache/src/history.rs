//! What is remembered of keys whose objects leave, change, or move between the tiers.

use log_memory::Object;

use crate::Cache;

impl Cache {
    /// Remembers a key whose object leaves the cache: it came with the level `before`, and its reads are told by `reads` (as an object counts
    /// them).
    pub(crate) fn remember(&self, hash: u64, before: u8, reads: u8) {
        self.history.left(hash, before, log_memory::reads_estimate(reads) + 1, self.dice_of(hash));
    }

    /// The history of a key whose value is replaced: its reads are not forgotten.
    pub(crate) fn history_after(&self, hash: u64, old: &Object<'_>) -> u8 {
        match log_memory::reads_estimate(old.access().reads) {
            0 => old.history(),
            reads => predictor::level_after(old.history(), reads, self.dice_of(hash)),
        }
    }

    /// What a record's history is when its stay on flash ends, with what it began with in DRAM.
    pub(crate) fn record_history_after(&self, hash: u64, head: &flash_store::RecordHead<'_>, was_hit: bool) -> u8 {
        // one that was rescued before came by no access
        let came = u32::from(!head.rescued);
        let accesses = came + log_memory::reads_estimate(head.reads) + u32::from(was_hit);
        predictor::level_after(head.history, accesses, self.dice_of(hash))
    }

    /// Bits that are uniform over keys and ticks.
    pub(crate) fn dice_of(&self, hash: u64) -> u64 {
        log_memory::mix(hash ^ u64::from(self.clock.tick()))
    }
}
