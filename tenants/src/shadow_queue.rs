//! The keys that a tenant lost last: a miss that is found here would have been a hit with a little more memory (Memshare,
//! section 4).
//!
//! Four bytes a key: 18 bits of hash, 14 bits of when. Sets of sixteen slots, the oldest of a set makes room. *When* counts
//! bytes lost, so a key is forgotten after so many bytes were lost behind it, whatever the objects' sizes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

const WAYS: usize = 16;
const STAMP_BITS: u32 = 14;
const FINGERPRINT_BITS: u32 = 18;
const _: () = assert!(STAMP_BITS + FINGERPRINT_BITS == 32);
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;
/// Stamps that a full queue spans: a quarter of what they can tell apart.
const STAMPS_A_QUEUE: u64 = 1 << (STAMP_BITS - 2);
/// Object size that the number of slots is meant for.
const OBJECT_BYTES: u64 = 256;

/// A bounded memory of lost keys. It takes no memory, and remembers nothing, while its tenant is not there.
pub struct ShadowQueue {
    slots: ArcSwapOption<Box<[AtomicU32]>>,
    lost_bytes: AtomicU64,
    worth_bytes: u64,
}

impl ShadowQueue {
    /// For the keys of the last `worth_bytes` bytes of objects that were lost, as far as its slots go. It remembers none before it is told to begin.
    pub fn new(worth_bytes: u64) -> ShadowQueue {
        ShadowQueue { slots: ArcSwapOption::empty(), lost_bytes: AtomicU64::new(0), worth_bytes }
    }

    /// Remembers from now on.
    pub fn begin(&self) {
        let slots = (0..Self::slots(self.worth_bytes)).map(|_| AtomicU32::new(0)).collect();
        self.slots.store(Some(Arc::new(slots)));
    }

    /// Forgets everything, and remembers nothing from now on.
    pub fn end(&self) {
        self.slots.store(None);
    }

    fn slots(worth_bytes: u64) -> u64 {
        (worth_bytes / OBJECT_BYTES).div_ceil(WAYS as u64).max(1) * WAYS as u64
    }

    fn stamp(&self, lost_bytes: u64) -> u64 {
        lost_bytes / (self.worth_bytes / STAMPS_A_QUEUE).max(1)
    }

    /// Bytes of DRAM that a queue of this worth takes.
    pub fn memory_bytes(worth_bytes: u64) -> u64 {
        Self::slots(worth_bytes) * 4
    }

    fn set_of(slots: &[AtomicU32], hash: u64) -> &[AtomicU32] {
        let sets = slots.len() / WAYS;
        let set = ((u128::from(hash) * sets as u128) >> 64) as usize;
        &slots[set * WAYS..(set + 1) * WAYS]
    }

    fn fingerprint(hash: u64) -> u32 {
        ((hash & ((1 << FINGERPRINT_BITS) - 1)) as u32).max(1) << STAMP_BITS
    }

    fn age(now: u64, slot: u32) -> u64 {
        now.wrapping_sub(u64::from(slot)) & STAMP_MASK
    }

    /// A key was lost, with an object of so many bytes.
    pub fn lost(&self, hash: u64, bytes: u64) {
        let slots = self.slots.load();
        let Some(slots) = &*slots else { return };
        let now = self.stamp(self.lost_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
        let place = Self::set_of(slots, hash).iter().max_by_key(|slot| match slot.load(Ordering::Relaxed) {
            0 => u64::MAX,
            slot => Self::age(now, slot),
        });
        let stamped = Self::fingerprint(hash) | (now & STAMP_MASK) as u32;
        place.expect("a set has slots").store(stamped, Ordering::Relaxed);
    }

    /// Looks a missed key up and forgets it. True is a shadow hit.
    pub fn take(&self, hash: u64) -> bool {
        let slots = self.slots.load();
        let Some(slots) = &*slots else { return false };
        let now = self.stamp(self.lost_bytes.load(Ordering::Relaxed));
        let wanted = Self::fingerprint(hash);
        Self::set_of(slots, hash).iter().any(|slot| {
            let found = slot.load(Ordering::Relaxed);
            found & !(STAMP_MASK as u32) == wanted
                && found != 0
                && slot.compare_exchange(found, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                && Self::age(now, found) <= STAMPS_A_QUEUE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    fn begun() -> ShadowQueue {
        let queue = ShadowQueue::new(1 << 20);
        queue.begin();
        queue
    }

    #[test]
    fn whose_tenant_is_not_there_remembers_nothing() {
        let queue = ShadowQueue::new(1 << 20);
        queue.lost(hash(1), 1000);
        assert!(!queue.take(hash(1)));
        queue.begin();
        queue.lost(hash(1), 1000);
        queue.end();
        assert!(!queue.take(hash(1)) && queue.slots.load().is_none());
    }

    #[test]
    fn a_lost_key_is_found_once_and_for_so_many_bytes() {
        let queue = begun();
        queue.lost(hash(1), 1000);
        assert!(queue.take(hash(1)));
        assert!(!queue.take(hash(1)), "a shadow hit is counted once");
        queue.lost(hash(2), 1000);
        (100..500).for_each(|n| queue.lost(hash(n), 1000));
        assert!(queue.take(hash(2)), "400 kB were lost behind it");
        queue.lost(hash(3), 1000);
        (1000..3000).for_each(|n| queue.lost(hash(n), 1000));
        assert!(!queue.take(hash(3)), "2 MB were lost behind it");
    }

    #[test]
    fn strangers_are_rarely_found() {
        let queue = begun();
        (0..4096).for_each(|n| queue.lost(hash(n), 256));
        let found = (10_000..20_000).filter(|n| queue.take(hash(*n))).count();
        assert!(found < 20, "{found}");
    }
}
