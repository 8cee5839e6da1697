//! Landings: a large value goes to its place in the log as it arrives, before anybody can find it.
//!
//! Received into a buffer and appended when it is whole, a value is copied once more, all of it at a moment: for 700 kB that is half a
//! millisecond into memory that no cache holds. A landing has its fragments reserved instead, headers and all, and is filled piece by piece; at the
//! end only the head is appended, and published. Until then its bytes count as live, as those of any append that is not published yet, so its
//! segments are not retired; and the cleaner, which could not move what has no head, does not choose them. Such segments are few: beyond that
//! the caller collects the value itself.

use std::sync::Arc;

use crate::LogMemory;
use crate::SEGMENTS_SPARE;
use crate::location::Location;
use crate::object::{Fragment, NewObject};
use crate::open_segment::{NoSpace, Writer, discharge_all, value_bytes};
use crate::region::Region;
use crate::segment::Segments;

/// Of the segments in use, one in so many may have values arriving in it.
const LANDED_IN_PART: usize = 4;

/// Why a value cannot land.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLanding {
    /// As many as may are landing, or it is empty: collect it.
    Crowded,
    /// The cleaner has to free segments, so many in all.
    NoSpace {
        /// Free segments that are wanted.
        segments: usize,
    },
}

/// A value on its way into the log. Dropped before it is [handed over](Landing::hand_over), it leaves dead bytes behind.
pub struct Landing {
    region: Arc<Region>,
    segments: Arc<Segments>,
    hash: u64,
    fragments: Vec<Fragment>,
    /// The fragment that is being filled, and how many of its bytes are.
    filling: usize,
    filled: usize,
    missing: usize,
}

impl LogMemory {
    /// Makes room for a value of `bytes` bytes, of a key with this hash.
    ///
    /// # Errors
    /// See [`NoLanding`]; nothing was changed.
    pub fn land(&self, writer: &mut Writer, tenant: u16, hash: u64, bytes: usize) -> Result<Landing, NoLanding> {
        let wanted = self.segments_for(bytes);
        if bytes == 0 || self.segments.landed_in() + wanted > self.segments.allowed() / LANDED_IN_PART {
            return Err(NoLanding::Crowded);
        }
        let short = NoLanding::NoSpace { segments: wanted + SEGMENTS_SPARE };
        if self.segments.free() < wanted + SEGMENTS_SPARE {
            return Err(short);
        }
        let fragment_max = self.shape.fragment_bytes_max();
        let mut fragments = Vec::new();
        writer
            .reserve_fragments(&self.segments, &self.region, fragment_max, (tenant, hash), bytes, &mut fragments)
            .map_err(|NoSpace| short)?;
        fragments.iter().for_each(|fragment| self.segments.begin_landing(self.segments.of_byte(fragment.at.byte())));
        Ok(Landing {
            region: Arc::clone(&self.region),
            segments: Arc::clone(&self.segments),
            hash,
            fragments,
            filling: 0,
            filled: 0,
            missing: bytes,
        })
    }

    /// Segments that a value of so many bytes takes part of at most.
    fn segments_for(&self, bytes: usize) -> usize {
        bytes / self.shape.segment_bytes + 2
    }

    /// Appends the head of a value that has landed, without publishing it; the object's value is the landing's [pieces](Landing::pieces). The
    /// fragments go with the head from then on, published or [abandoned](LogMemory::abandon): [hand them over](Landing::hand_over).
    ///
    /// # Panics
    /// Some of it is still to come.
    pub fn append_landed(
        &self,
        writer: &mut Writer,
        object: &NewObject<'_>,
        landed: &Landing,
    ) -> Result<Location, NoSpace> {
        assert!(
            landed.missing == 0 && !landed.fragments.is_empty(),
            "what has not come would show what lay there before"
        );
        debug_assert_eq!(object.value_bytes(), landed.bytes());
        writer.append_head(&self.segments, &self.region, object, &landed.fragments)
    }
}

impl Landing {
    /// Hash of the key that it is for.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Bytes of the whole value.
    pub fn bytes(&self) -> usize {
        value_bytes(&self.fragments)
    }

    /// Where the next bytes go: what is left of the fragment that is being filled, and then whole fragments; none when all have come.
    /// [Note](Landing::note_filled) how much was put there.
    pub fn rooms(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (first, behind) = (self.vacant(), self.fragments.iter().skip(self.filling + 1));
        let vacant = std::iter::once(first).chain(behind.map(|fragment| (fragment.piece_at(), fragment.len)));
        // SAFETY: see `vacant`; no two fragments share a byte. The borrow of `self` keeps them apart from `pieces`.
        vacant.filter(|(_, len)| *len > 0).map(|(at, len)| unsafe { self.region.bytes_mut(at, len) })
    }

    /// Where the next bytes go, and how many of them lie side by side. They were reserved for this landing, behind a fragment's header; until a
    /// head is published they are nobody else's, and their segment is not reused, as they count as live.
    fn vacant(&self) -> (usize, usize) {
        let filling = self.fragments.get(self.filling);
        filling.map_or((0, 0), |fragment| (fragment.piece_at() + self.filled, fragment.len - self.filled))
    }

    /// So many bytes of the [rooms](Landing::rooms), from the first on, were filled: whoever gets the value will see what is there.
    ///
    /// # Panics
    /// There is not so much room.
    pub fn note_filled(&mut self, bytes: usize) {
        assert!(bytes <= self.missing, "more was filled than there was room");
        self.missing -= bytes;
        self.filled += bytes;
        while let Some(fragment) = self.fragments.get(self.filling)
            && self.filled >= fragment.len
        {
            self.filled -= fragment.len;
            self.filling += 1;
        }
    }

    /// Copies the beginning of `bytes` to where it belongs; returns how many that were.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.missing > 0 {
            let (at, room) = self.vacant();
            let len = room.min(bytes.len() - done);
            // SAFETY: see there, and nothing of it is lent while `self` is borrowed.
            unsafe { self.region.write(at, &bytes[done..done + len]) };
            self.note_filled(len);
            done += len;
        }
        done
    }

    /// The value, in pieces.
    pub fn pieces(&self) -> Vec<&[u8]> {
        debug_assert_eq!(self.missing, 0);
        // SAFETY: reserved for this landing, and written by nobody while it is borrowed.
        let piece = |fragment: &Fragment| unsafe { self.region.bytes(fragment.piece_at(), fragment.len) };
        self.fragments.iter().map(piece).collect()
    }

    /// The fragments belong to a head now.
    pub fn hand_over(&mut self) {
        self.let_go();
        self.fragments.clear();
        (self.filling, self.filled, self.missing) = (0, 0, 0);
    }

    /// The cleaner may have the segments.
    fn let_go(&self) {
        self.fragments.iter().for_each(|fragment| self.segments.end_landing(self.segments.of_byte(fragment.at.byte())));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        discharge_all(&self.segments, self.fragments.iter().copied());
        self.let_go();
    }
}
