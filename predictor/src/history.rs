//! What is remembered of keys that left: about how often they were asked for, in two bytes a key.
//!
//! Sets of sixteen slots; a slot is 13 bits of hash and a level of 3 bits: a power of two of accesses, in all stays, of which earlier ones
//! fade. A key that leaves DRAM or flash is noted, a key that is stored anew is looked up: objects that come back prove themselves
//! over several stays. The slot with the lower level of two picked at random makes room, so keys in demand are remembered longest.

use std::sync::atomic::{AtomicU16, Ordering};

const WAYS: usize = 16;
const LEVEL_BITS: u32 = 3;
/// Highest level.
pub const LEVEL_MAX: u8 = (1 << LEVEL_BITS) - 1;
/// What is left of earlier accesses when a stay ends.
const FADED: f32 = 0.75;

/// About how many accesses a level stands for: 0, 1, 2, 4, up to 64.
pub fn accesses_at(level: u8) -> u32 {
    match level.min(LEVEL_MAX) {
        0 => 0,
        level => 1 << (level - 1),
    }
}

/// The level after a stay with so many accesses, of a key that came with the level `before`. What lies between two levels becomes one of them
/// by chance, so that many such keys are right on the mean. `dice` are uniform bits.
pub fn level_after(before: u8, accesses: u32, dice: u64) -> u8 {
    let total = FADED * accesses_at(before) as f32 + accesses as f32;
    let level = (total as u32).checked_ilog2().map_or(0, |doublings| doublings as u8 + 1).min(LEVEL_MAX);
    if level == LEVEL_MAX {
        return level;
    }
    let (low, high) = (accesses_at(level) as f32, accesses_at(level + 1) as f32);
    let thrown = (dice >> 40) as f32 / (1u64 << 24) as f32;
    level + u8::from(thrown < (total - low) / (high - low))
}

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
        (hash as u16) & !u16::from(LEVEL_MAX)
    }

    fn find(set: &[AtomicU16], fingerprint: u16) -> Option<(&AtomicU16, u8)> {
        set.iter().find_map(|slot| {
            let word = slot.load(Ordering::Relaxed);
            let level = (word & u16::from(LEVEL_MAX)) as u8;
            (level > 0 && word & !u16::from(LEVEL_MAX) == fingerprint).then_some((slot, level))
        })
    }

    /// The level that a key left with, 0 (it is not known) to [`LEVEL_MAX`].
    pub fn level(&self, hash: u64) -> u8 {
        Self::find(self.set_of(hash), Self::fingerprint(hash)).map_or(0, |(_, level)| level)
    }

    /// A key leaves that came with the level `before` and was asked for so many times. `dice` are uniform bits.
    pub fn left(&self, hash: u64, before: u8, accesses: u32, dice: u64) {
        let (set, fingerprint) = (self.set_of(hash), Self::fingerprint(hash));
        let known = Self::find(set, fingerprint);
        let before = known.map_or(0, |(_, level)| level).max(before);
        let level = level_after(before, accesses.max(1), dice);
        let slot = match known {
            Some((slot, _)) => slot,
            None => {
                let pick = |shift: u32| &set[(dice >> shift) as usize % WAYS];
                let level_of = |slot: &AtomicU16| slot.load(Ordering::Relaxed) & u16::from(LEVEL_MAX);
                let (one, other) = (pick(0), pick(8));
                if level_of(one) <= level_of(other) { one } else { other }
            }
        };
        slot.store(fingerprint | u16::from(level), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn levels_are_right_on_the_mean_and_fade() {
        for accesses in [1, 3, 5, 24, 40] {
            let levels = (0..20_000).map(|n| level_after(0, accesses, hash(n)));
            let mean = levels.map(|level| f64::from(accesses_at(level))).sum::<f64>() / 20_000.0;
            assert!((mean / f64::from(accesses) - 1.0).abs() < 0.03, "{accesses}: {mean}");
        }
        assert_eq!(level_after(LEVEL_MAX, 1_000, 0), LEVEL_MAX);
        let faded = (0..40).fold(LEVEL_MAX, |level, n| level_after(level, 1, hash(n)));
        assert!((1..=3).contains(&faded), "{faded}: a key that is asked for once a stay");
    }

    #[test]
    fn departures_are_remembered_and_strangers_rarely_mistaken() {
        let history = History::new(64 << 10); // 32,768 keys
        for round in 0..3 {
            (0..4000).for_each(|n| history.left(hash(n), 0, 4, hash(n ^ round << 20)));
        }
        let known = (0..4000).filter(|n| history.level(hash(*n)) >= 4).count(); // 4, then 7 and 9 accesses
        assert!(known > 3600, "{known}");
        let strangers = (10_000..20_000).filter(|n| history.level(hash(*n)) > 0).count();
        assert!(strangers < 50, "{strangers}");
    }

    #[test]
    fn who_leaves_unread_is_remembered() {
        let history = History::new(1024);
        history.left(hash(1), 0, 0, 0);
        assert_eq!(history.level(hash(1)), 1);
        (0..40).for_each(|dice| history.left(hash(1), 0, 100, dice));
        assert_eq!(history.level(hash(1)), LEVEL_MAX);
    }
}
