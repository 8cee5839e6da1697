//! Packing: where in the open segment a record goes.
//!
//! A hash names sixteen candidate positions, pages of the segment. The record takes the fullest page that still has room for
//! its first part (and, if it is longer than a page, empty pages behind it). Taking the fullest keeps empty pages together for
//! large records and leaves small rests; any of the sixteen costs the index the same four bits.

use crate::PAGE_BYTES;
use crate::entry::CHOICES;
use crate::format::Extent;

/// Fill levels of a segment's pages. Page 0 is the segment's header.
pub(crate) struct Packing {
    used: Vec<u16>,
    bytes: usize,
}

impl Packing {
    pub(crate) fn new(pages: usize) -> Packing {
        let mut used = vec![0; pages];
        used[0] = PAGE_BYTES as u16;
        Packing { used, bytes: PAGE_BYTES }
    }

    /// Takes a place for a record: (hash choice, page, offset in the page).
    pub(crate) fn place(&mut self, hash: u64, extent: Extent) -> Option<(u32, u32, usize)> {
        let pages = self.used.len();
        let fits = |page: usize| {
            usize::from(self.used[page]) + extent.first <= PAGE_BYTES
                && page + extent.more_pages < pages
                && self.used[page + 1..=page + extent.more_pages].iter().all(|used| *used == 0)
        };
        let (choice, page) = (0..CHOICES)
            .map(|choice| (choice, position(hash, choice, pages as u32) as usize))
            .filter(|(_, page)| fits(*page))
            .max_by_key(|(choice, page)| (self.used[*page], CHOICES - choice))?;
        let at = usize::from(self.used[page]);
        self.used[page] += extent.first as u16;
        self.used[page + 1..=page + extent.more_pages].fill(PAGE_BYTES as u16);
        self.bytes += extent.first + extent.more_pages * PAGE_BYTES;
        Some((choice, page as u32, at))
    }

    /// Bytes placed, the header page counted in.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The page that hash choice `choice` names, in a segment of `pages` pages: 1 to `pages` - 1.
pub(crate) fn position(hash: u64, choice: u32, pages: u32) -> u32 {
    let spread = mix(hash ^ (u64::from(choice) + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
    1 + (((spread >> 32) * u64::from(pages - 1)) >> 32) as u32
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers records of log-normal sizes until twenty in a row find no place.
    fn fill(mean: f64, sigma: f64) -> f64 {
        let pages = 1024;
        let mut packing = Packing::new(pages);
        let (mut n, mut refused) = (0u64, 0);
        while refused < 20 {
            n += 1;
            let (a, b) = (mix(n) >> 11, mix(n ^ 1 << 60) >> 11);
            let unit = |x: u64| (x as f64 + 1.0) / (1u64 << 53) as f64;
            let normal = (-2.0 * unit(a).ln()).sqrt() * (std::f64::consts::TAU * unit(b)).cos();
            let size = (mean.ln() - sigma * sigma / 2.0 + sigma * normal).exp().max(16.0) as usize;
            match packing.place(mix(n * 3), Extent::of(50, size)) {
                Some(_) => refused = 0,
                None => refused += 1,
            }
        }
        packing.bytes() as f64 / (pages * PAGE_BYTES) as f64
    }

    #[test]
    fn small_records_fill_a_segment_to_95_percent() {
        for (mean, sigma) in [(100.0, 0.5), (257.0, 1.0), (600.0, 1.0)] {
            let filled = fill(mean, sigma);
            assert!(filled >= 0.95, "mean {mean}: {filled}");
        }
    }

    #[test]
    fn positions_cover_the_segment_but_for_its_header() {
        let mut seen = [false; 64];
        (0..10_000).for_each(|n| seen[position(mix(n), (n % 16) as u32, 64) as usize] = true);
        assert!(!seen[0] && seen[1..].iter().all(|page| *page));
    }
}
