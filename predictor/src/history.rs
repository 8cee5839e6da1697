//! What is remembered of keys that left: how often, in two bytes a key.
//!
//! Sets of sixteen slots; a slot is 13 bits of hash and 3 bits of count. A key that leaves DRAM or flash is noted, a key that
//! is stored anew is looked up: objects that come back prove themselves over several stays. The slot with the lowest count of
//! two picked at random makes room, so keys that return are remembered longest.

use std::sync::atomic::{AtomicU16, Ordering};

const WAYS: usize = 16;
const COUNT_BITS: u32 = 3;
/// Highest count.
pub const COUNT_MAX: u8 = (1 << COUNT_BITS) - 1;

/// A bounded memory of keys that left the cache.
pub struct History {
    slots: Box<[AtomicU16]>,
}

impl History {
    /// A memory of so many bytes: half as many keys.
    pub fn new(bytes: usize) -> History {
        let sets = (bytes / (2 * WAYS)).max(1);
        History { slots: (0..sets * WAYS).map(|_| AtomicU16::new(0)).collect() }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.slots.len() * 2
    }

    fn set_of(&self, hash: u64) -> &[AtomicU16] {
        let sets = self.slots.len() / WAYS;
        let set = ((u128::from(hash) * sets as u128) >> 64) as usize;
        &self.slots[set * WAYS..(set + 1) * WAYS]
    }

    fn fingerprint(hash: u64) -> u16 {
        (hash as u16) & !u16::from(COUNT_MAX)
    }

    fn find(set: &[AtomicU16], fingerprint: u16) -> Option<(&AtomicU16, u8)> {
        set.iter().find_map(|slot| {
            let word = slot.load(Ordering::Relaxed);
            let count = (word & u16::from(COUNT_MAX)) as u8;
            (count > 0 && word & !u16::from(COUNT_MAX) == fingerprint).then_some((slot, count))
        })
    }

    /// How often the key is known to have left, 0 to [`COUNT_MAX`].
    pub fn times(&self, hash: u64) -> u8 {
        Self::find(self.set_of(hash), Self::fingerprint(hash)).map_or(0, |(_, count)| count)
    }

    /// A key leaves that had left `before` times by its own account. `dice` are uniform bits.
    pub fn left(&self, hash: u64, before: u8, dice: u64) {
        let (set, fingerprint) = (self.set_of(hash), Self::fingerprint(hash));
        let known = Self::find(set, fingerprint);
        let count = known.map_or(0, |(_, count)| count).max(before).saturating_add(1).min(COUNT_MAX);
        let slot = match known {
            Some((slot, _)) => slot,
            None => {
                let pick = |shift: u32| &set[(dice >> shift) as usize % WAYS];
                let count_of = |slot: &AtomicU16| slot.load(Ordering::Relaxed) & u16::from(COUNT_MAX);
                let (one, other) = (pick(0), pick(8));
                if count_of(one) <= count_of(other) { one } else { other }
            }
        };
        slot.store(fingerprint | u16::from(count), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn departures_are_counted_and_strangers_rarely_mistaken() {
        let history = History::new(64 << 10); // 32,768 keys
        for round in 0..3 {
            (0..4000).for_each(|n| history.left(hash(n), 0, hash(n ^ round << 20)));
        }
        let known = (0..4000).filter(|n| history.times(hash(*n)) == 3).count();
        assert!(known > 3600, "{known}");
        let strangers = (10_000..20_000).filter(|n| history.times(hash(*n)) > 0).count();
        assert!(strangers < 50, "{strangers}");
    }

    #[test]
    fn counts_stop_at_their_top() {
        let history = History::new(1024);
        (0..20).for_each(|dice| history.left(hash(1), 0, dice));
        assert_eq!(history.times(hash(1)), COUNT_MAX);
    }
}
