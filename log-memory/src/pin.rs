//! Pins: bytes of a value that stay in place beyond the turn in which they were found, so that they can be sent from where they lie.
//!
//! A pin counts in its segment. A retired segment is used again only when its grace period has passed *and* it has no pins: a pin is taken
//! within a turn, so whoever sees that turn ended sees the pin as well, and a segment whose grace period has passed gets no further ones
//! (INV-GRACE). Pins hold memory back from everybody, so few segments may have any at a time; beyond that the caller copies.

use std::ops::Deref;
use std::sync::Arc;

use crate::LogMemory;
use crate::object::Object;
use crate::region::Region;
use crate::segment::{SegmentId, Segments};

/// Of the segments in use, one in so many may have pins.
const PINNED_PART: usize = 8;

/// A piece of a value that stays where it is as long as this lives. It proves nothing about what its key holds now.
pub struct Pinned {
    region: Arc<Region>,
    segments: Arc<Segments>,
    segment: SegmentId,
    at: usize,
    len: usize,
}

impl LogMemory {
    /// Pins an object's value, in pieces. None if too much is pinned already: copy it then.
    pub fn pin(&self, object: &Object<'_>) -> Option<Vec<Pinned>> {
        let most = (self.segments.allowed() / PINNED_PART).max(1);
        object.value().map(|piece| self.pin_piece(piece, most)).collect()
    }

    fn pin_piece(&self, piece: &[u8], most: usize) -> Option<Pinned> {
        let at = self.region.offset_of(piece);
        let segment = self.segments.of_byte(at);
        self.segments.pin(segment, most).then(|| Pinned {
            region: Arc::clone(&self.region),
            segments: Arc::clone(&self.segments),
            segment,
            at,
            len: piece.len(),
        })
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: bytes of an object that was published in the turn in which it was pinned; its segment is not reused while the pin
        // lives, and what is published does not change (INV-GRACE).
        unsafe { self.region.bytes(self.at, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.segments.unpin(self.segment);
    }
}
