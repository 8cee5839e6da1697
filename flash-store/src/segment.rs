//! A flash segment's life.
//!
//! ```text
//!        first record          sealed                written            oldest, and space is short      its entries are gone
//!  Free --------------> Open ---------> Writing --------------> Readable --------------> Recycling ------------------> Free
//!                                          |  (write failed: entries purged)                                             ^
//!                                          +-----------------------------------------------------------------------------+
//! ```
//! Objects can be read in every state but Free: from the buffer while Open or Writing, from the device afterwards.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Page;
use crate::packing::Packing;

/// Number of a segment on flash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct FlashSegmentId(pub u32);

/// What is known of a segment in DRAM: 24 bytes each.
#[derive(Default)]
pub(crate) struct Meta {
    /// Sequence number of its present life; 0 before the first.
    pub(crate) sequence: AtomicU64,
    /// Records written into it in this life.
    pub(crate) records: AtomicU32,
    /// Entries of the index that point to it and are not ghosts.
    pub(crate) live: AtomicU32,
    /// Whoever seals notes when, in the caller's ticks.
    pub(crate) sealed_tick: AtomicU32,
}

impl Meta {
    pub(crate) fn begin(&self, sequence: u64) {
        self.records.store(0, Ordering::Relaxed);
        self.live.store(0, Ordering::Relaxed);
        self.sequence.store(sequence, Ordering::Release);
    }
}

/// The segment that is being filled.
pub(crate) struct OpenSegment {
    pub(crate) id: FlashSegmentId,
    pub(crate) sequence: u64,
    pub(crate) pages: Vec<Page>,
    pub(crate) packing: Packing,
    pub(crate) records: u32,
    /// Records that were offered to it, and their bytes.
    pub(crate) offers: usize,
    pub(crate) offered_bytes: usize,
    /// Records that found no place in it.
    pub(crate) refused: usize,
}

impl OpenSegment {
    /// About how many bytes found no place, counted as records of middling size: that large ones find none says nothing about small ones.
    pub(crate) fn refused_bytes(&self) -> usize {
        self.refused * (self.offered_bytes / self.offers.max(1))
    }
}

/// Which segments are in which state.
pub(crate) struct Lives {
    pub(crate) open: Option<OpenSegment>,
    pub(crate) free: VecDeque<FlashSegmentId>,
    /// Readable ones, oldest first.
    pub(crate) readable: VecDeque<FlashSegmentId>,
    pub(crate) recycling: Option<FlashSegmentId>,
    pub(crate) next_sequence: u64,
    /// Whether the segment that was sealed last was offered large records among others.
    pub(crate) mixed: bool,
}
