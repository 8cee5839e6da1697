//! Where an object lies: a byte offset into the region in units of 8, packed with the tag into an index entry.
//!
//! ```text
//! index entry  63........44 43.................4 3..1  0
//!              tag (20)     location (40)        spare used
//! ```

pub(crate) const TAG_BITS: u32 = 20;
pub(crate) const LOCATION_BITS: u32 = 40;
const SPARE_BITS: u32 = 3;
const USED_BITS: u32 = 1;
const _: () = assert!(TAG_BITS + LOCATION_BITS + SPARE_BITS + USED_BITS == 64); // every bit of an entry has one owner

/// Place of an object in the log, in units of 8 bytes from the start of the region (8 TiB in all).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Location(u64);

impl Location {
    pub(crate) fn from_byte(at: usize) -> Location {
        debug_assert!(at.is_multiple_of(8));
        let units = (at / 8) as u64;
        assert!(units < 1 << LOCATION_BITS, "the region is larger than a location can address");
        Location(units)
    }

    pub(crate) fn from_units(units: u64) -> Location {
        Location(units & ((1 << LOCATION_BITS) - 1))
    }

    pub(crate) fn units(self) -> u64 {
        self.0
    }

    /// Byte offset in the region.
    pub fn byte(self) -> usize {
        (self.0 * 8) as usize
    }

    /// Index of its first word in the region.
    pub(crate) fn word(self) -> usize {
        self.0 as usize
    }
}

/// One slot of the index: empty, or a tag and a location.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    pub(crate) const EMPTY: Entry = Entry(0);

    pub(crate) fn new(hash: u64, location: Location) -> Entry {
        Entry(tag_of(hash) << (LOCATION_BITS + SPARE_BITS + USED_BITS) | location.0 << (SPARE_BITS + USED_BITS) | 1)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn tag(self) -> u64 {
        self.0 >> (LOCATION_BITS + SPARE_BITS + USED_BITS)
    }

    pub(crate) fn location(self) -> Location {
        Location(self.0 >> (SPARE_BITS + USED_BITS) & ((1 << LOCATION_BITS) - 1))
    }
}

/// The tag of a hash: its low bits (the bucket comes from the high ones).
pub(crate) fn tag_of(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_keeps_its_boundary_values() {
        for units in [0, 1, (1u64 << LOCATION_BITS) - 1] {
            for hash in [0, (1u64 << TAG_BITS) - 1, u64::MAX, 1 << TAG_BITS] {
                let entry = Entry::new(hash, Location(units));
                assert!(!entry.is_empty());
                assert_eq!(entry.location().units(), units);
                assert_eq!(entry.tag(), tag_of(hash));
            }
        }
    }
}
