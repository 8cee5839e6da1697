//! Who is hit on flash again and again: a short memory of a worker's last hits there, for a few keys of which each costs a device read every time.
//!
//! One slot a key, found by its hash: another key's hit takes a slot over. So a key gets far only if it is hit more often than about so many others
//! are hit once, which is all that is asked.

/// Slots; about so many hits on flash are remembered.
const SLOTS: usize = 4096;
/// So many hits bring an object back to DRAM: what comes back takes the place of something else, and has to be written again some day (docs/flash.md).
const HITS: u32 = 32;

#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u32,
    hits: u32,
}

/// Hits on flash, lately. 32 KiB.
pub(crate) struct HotOnFlash(Box<[Slot]>);

impl HotOnFlash {
    pub(crate) fn new() -> HotOnFlash {
        HotOnFlash(vec![Slot::default(); SLOTS].into())
    }

    /// Notes a hit on flash of a key with this hash. Returns whether it has been hit so often that it should be in DRAM; it begins anew then.
    pub(crate) fn hit(&mut self, hash: u64) -> bool {
        let slot = &mut self.0[hash as usize % SLOTS];
        let tag = (hash >> 32) as u32;
        if slot.tag != tag {
            *slot = Slot { tag, hits: 0 };
        }
        slot.hits += 1;
        if slot.hits < HITS {
            return false;
        }
        slot.hits = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix;

    #[test]
    fn who_is_hit_often_is_found_and_who_is_hit_now_and_then_is_not() {
        let mut hot = HotOnFlash::new();
        let mut found = [0; 2];
        for n in 0..200_000u64 {
            // one key has one hit of twenty, and twenty thousand take turns
            let key = if n % 20 == 0 { 0 } else { 1 + n % 20_000 };
            found[usize::from(key != 0)] += u32::from(hot.hit(mix(key)));
        }
        assert!(found[0] > 200 && found[1] == 0, "{found:?}");
    }
}
