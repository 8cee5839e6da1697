//! The 4 bytes that the index keeps of an object on flash, and how they are divided.
//!
//! ```text
//! 31 ........................................................ 0
//! tag (rest) | segment (n) | length class (3 or 4) | choice (4) | clock (2)
//! ```
//! The segment number takes what the number of segments needs; the length class takes four bits where the tag keeps twelve
//! or more, else three; the tag gets the rest. An entry of all zeroes is empty: segment numbers are stored from 1.

use crate::PAGE_BYTES;

/// Hash choices of an object: in how many places of a segment it may lie.
pub const CHOICES: u32 = 16;
const CHOICE_BITS: u32 = 4;
const CLOCK_BITS: u32 = 2;
const _: () = assert!(1 << CHOICE_BITS == CHOICES);
/// Shortest tag that keeps wasted reads a miss below 0.01 (see docs/flash-index.md).
pub const TAG_BITS_MIN: u32 = 11;

/// The clock's highest value: set on a hit.
pub(crate) const CLOCK_MAX: u32 = (1 << CLOCK_BITS) - 1;

/// How the bits of an entry are divided, and what each length class means. Fixed when the store is opened.
#[derive(Clone, Debug)]
pub struct EntryLayout {
    segment_bits: u32,
    class_bits: u32,
    /// Pages that a record of each class is read as.
    class_pages: Vec<u32>,
}

impl EntryLayout {
    /// A layout for so many segments and records of up to `record_bytes_max`. None if the tag would get too short: the
    /// segments have to be larger.
    pub fn new(segments: u32, record_bytes_max: usize) -> Option<EntryLayout> {
        let segment_bits = u32::BITS - segments.leading_zeros(); // numbers 1 to `segments`
        let left = 32u32.checked_sub(CHOICE_BITS + CLOCK_BITS + segment_bits)?;
        let class_bits = if left >= 4 + 12 { 4 } else { 3 };
        (left >= class_bits + TAG_BITS_MIN).then(|| EntryLayout {
            segment_bits,
            class_bits,
            class_pages: class_pages(1 << class_bits, record_bytes_max.div_ceil(PAGE_BYTES) as u32 + 1),
        })
    }

    /// Bits of the tag.
    pub fn tag_bits(&self) -> u32 {
        32 - CHOICE_BITS - CLOCK_BITS - self.class_bits - self.segment_bits
    }

    /// The tag of a hash.
    pub fn tag(&self, hash: u64) -> u32 {
        (hash as u32) & ((1 << self.tag_bits()) - 1)
    }

    /// The smallest class whose reads hold `pages` pages.
    pub fn class_of(&self, pages: u32) -> u32 {
        self.class_that_holds(pages).expect("the last class holds the largest record")
    }

    /// The smallest class whose reads hold `pages` pages, if there is one.
    pub fn class_that_holds(&self, pages: u32) -> Option<u32> {
        self.class_pages.iter().position(|most| *most >= pages).map(|class| class as u32)
    }

    /// Pages that are read for a class.
    pub fn pages_of(&self, class: u32) -> u32 {
        self.class_pages[class as usize]
    }

    /// Packs an entry with its clock at `clock`.
    pub fn entry(&self, tag: u32, segment: u32, class: u32, choice: u32, clock: u32) -> Entry {
        debug_assert!(segment < 1 << self.segment_bits && class < 1 << self.class_bits && choice < CHOICES);
        let mut word = tag;
        word = word << self.segment_bits | (segment + 1);
        word = word << self.class_bits | class;
        word = word << CHOICE_BITS | choice;
        Entry(word << CLOCK_BITS | clock)
    }

    /// Tag of an entry.
    pub fn tag_of(&self, entry: Entry) -> u32 {
        entry.0 >> (32 - self.tag_bits())
    }

    /// Segment of an entry that is not empty.
    pub fn segment_of(&self, entry: Entry) -> u32 {
        (entry.0 >> (CLOCK_BITS + CHOICE_BITS + self.class_bits) & ((1 << self.segment_bits) - 1)) - 1
    }

    /// Length class of an entry.
    pub fn class(&self, entry: Entry) -> u32 {
        entry.0 >> (CLOCK_BITS + CHOICE_BITS) & ((1 << self.class_bits) - 1)
    }
}

/// Pages of each of `classes` classes: from 1 to `most`, in even ratios.
fn class_pages(classes: u32, most: u32) -> Vec<u32> {
    let ratio = f64::from(most.max(2)).powf(1.0 / f64::from(classes - 1));
    let mut pages: Vec<u32> = Vec::new();
    for class in 0..classes {
        let next = ratio.powi(class as i32).round() as u32;
        let least = pages.last().map_or(1, |last| last + 1);
        pages.push(next.max(least));
    }
    let last = pages.last_mut().expect("there are classes");
    *last = (*last).max(most);
    pages
}

/// One slot of the flash index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(pub u32);

impl Entry {
    /// Whether the slot is free.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Hash choice: which of the candidate positions the object took.
    pub fn choice(self) -> u32 {
        self.0 >> CLOCK_BITS & (CHOICES - 1)
    }

    /// Clock bits; 0 is a ghost.
    pub fn clock(self) -> u32 {
        self.0 & CLOCK_MAX
    }

    /// The same entry with its clock at `clock`.
    pub fn with_clock(self, clock: u32) -> Entry {
        Entry(self.0 & !CLOCK_MAX | clock)
    }

    /// Whether both name the same place for the same tag, whatever their clocks say.
    pub fn same_place(self, other: Entry) -> bool {
        self.0 | CLOCK_MAX == other.0 | CLOCK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_keeps_its_boundary_values() {
        for segments in [1, 2, 63, 64, 1000, 4095] {
            let layout = EntryLayout::new(segments, 1 << 20).unwrap();
            assert!(layout.tag_bits() >= TAG_BITS_MIN);
            for segment in [0, segments - 1] {
                for class in [0, layout.class_pages.len() as u32 - 1] {
                    for (choice, clock) in [(0, 0), (15, 3), (7, 1)] {
                        let tag = layout.tag(u64::MAX);
                        let entry = layout.entry(tag, segment, class, choice, clock);
                        assert!(!entry.is_empty());
                        assert_eq!((layout.tag_of(entry), layout.segment_of(entry)), (tag, segment));
                        assert_eq!((layout.class(entry), entry.choice(), entry.clock()), (class, choice, clock));
                        assert!(entry.with_clock(2).same_place(entry));
                    }
                }
            }
        }
    }

    #[test]
    fn bits_suffice_from_64_mib_to_16_tib() {
        for log2 in 26..=44 {
            let flash: u64 = 1 << log2;
            let segment = crate::segment_bytes_for(flash, usize::MAX);
            let segments = (flash / segment as u64) as u32;
            let layout = EntryLayout::new(segments, 1 << 20).unwrap();
            assert!(layout.tag_bits() >= TAG_BITS_MIN, "{log2}");
            assert!(segments >= 16, "{log2}");
        }
    }

    #[test]
    fn every_length_has_a_class_that_holds_it() {
        let layout = EntryLayout::new(100, 128 << 20).unwrap();
        for pages in [1, 2, 3, 100, 32_768] {
            assert!(layout.pages_of(layout.class_of(pages)) >= pages);
        }
        assert_eq!(layout.pages_of(0), 1);
    }
}
