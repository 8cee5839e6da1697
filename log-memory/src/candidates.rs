//! What can be said of sealed segments before one is cleaned, from counters alone.

use std::sync::atomic::Ordering;

use crate::LogMemory;
use crate::segment::SegmentId;

/// A sealed segment as the cleaner sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which segment.
    pub id: SegmentId,
    /// Bytes appended to it.
    pub written: usize,
    /// Bytes of published entries, expired ones that nobody found yet counted in.
    pub live: usize,
}

impl LogMemory {
    /// Every segment that may be cleaned now.
    pub fn candidates(&self) -> Vec<Candidate> {
        let sealed = self.segments.metas.iter().enumerate().filter(|(_, meta)| meta.is_cleanable());
        sealed
            .map(|(n, meta)| Candidate {
                id: SegmentId(n as u32),
                written: meta.written.load(Ordering::Relaxed) as usize,
                live: meta.live.load(Ordering::Relaxed) as usize,
            })
            .collect()
    }

    /// About how many live bytes of `tenant` a candidate holds: its share when the segment was sealed, less the share of what
    /// has died there since.
    pub fn bytes_of(&self, candidate: Candidate, tenant: u16) -> usize {
        let shares = self.segments.meta(candidate.id).shares.lock();
        let at_seal = shares.iter().find(|share| share.0 == tenant).map_or(0, |share| share.1 as usize);
        at_seal * candidate.live / candidate.written.max(1)
    }
}
