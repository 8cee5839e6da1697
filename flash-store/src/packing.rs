//! Packing: where in the open segment a record goes.
//!
//! A hash names sixteen pages of the segment. A page fills from its beginning, and a record takes the rest of one of them:
//! - A record that fits a page stays in it, so that a hit reads one page; it takes the fullest that has room. Only where a page's
//!   rest is too small for anything that came lately, a record takes it and runs on into the next page.
//! - A longer record runs on through pages that are blank, and leaves the rest of its last page to others.
//! - A large one (sixteen pages and more) begins a page, and may begin some pages behind the one that its hash names: a reader reads
//!   whole length classes anyhow, and finds the record by its key.
//!
//! Among the places that are free, the one that wastes least is taken: bytes up to the neighbours that no whole number of such
//! records fills. So records of one size end up side by side, and those of mixed sizes in the gaps. Any of the sixteen costs
//! the index the same four bits. docs/flash-index.md has the figures, and those of the layouts that were tried before.

use crate::PAGE_BYTES;
use crate::entry::{CHOICES, EntryLayout};

/// Sizes that are remembered to tell which rest of a page is too small for anything.
const SIZES: usize = 64;
/// Pages from which on a record is large.
const LARGE_PAGES: usize = 16;
/// Records below this size never cross into the next page: they fit somewhere.
const CROSSING_MIN: usize = 512;
/// Pages that are looked at to either side, for gaps between neighbours.
const VIEW_PAGES: usize = 64;

/// Fill levels of a segment's pages. Page 0 is the segment's header.
pub(crate) struct Packing {
    used: Vec<u16>,
    /// Which pages nothing lies in.
    blank: Blank,
    bytes: usize,
    sizes: [u32; SIZES],
    offered: usize,
    smallest: usize,
    largest: usize,
    expects_large: bool,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The hash choice that names its page.
    pub(crate) choice: u32,
    /// Length class: reading so many pages from the named one brings all of the record.
    pub(crate) class: u32,
    /// Page in which it begins.
    pub(crate) page: usize,
    /// Byte of that page.
    pub(crate) at: usize,
}

/// What is offered: bytes, pages if it begins one, and the size of the smallest that came lately.
#[derive(Clone, Copy)]
struct Offer {
    bytes: usize,
    pages: usize,
    least: usize,
    /// Whether large records come too.
    mixed: bool,
    /// Whether a large record may break a row.
    anywhere: bool,
}

impl Offer {
    /// Bytes of a gap that no whole number of such records fills, and nothing smaller will.
    fn waste(&self, gap: Gap) -> i64 {
        if gap.is_open {
            return 0;
        }
        let rest = gap.bytes % self.bytes;
        if rest >= 4 * self.least { 0 } else { rest as i64 }
    }
}

/// Free bytes beside a place; `is_open` if there are more than were counted.
#[derive(Clone, Copy)]
struct Gap {
    bytes: usize,
    is_open: bool,
}

impl Packing {
    /// `mixed`: large records are to be expected among others, as in the segment before.
    pub(crate) fn new(pages: usize, mixed: bool) -> Packing {
        let mut used = vec![0; pages];
        used[0] = PAGE_BYTES as u16;
        Packing {
            used,
            blank: Blank::all_but_the_first(pages),
            bytes: PAGE_BYTES,
            sizes: [0; SIZES],
            offered: 0,
            smallest: usize::MAX,
            largest: 0,
            expects_large: mixed,
        }
    }

    /// Takes a place for a record. `anywhere`: a large one may lie where it leaves less room for others of its size. What a hash names are the same
    /// pages in each segment: of records that are nearly half as large as it, half would never find a place otherwise.
    pub(crate) fn place(&mut self, hash: u64, bytes: usize, layout: &EntryLayout, anywhere: bool) -> Option<Spot> {
        self.sizes[self.offered % SIZES] = bytes as u32;
        self.offered += 1;
        let sizes = &self.sizes[..self.offered.min(SIZES)];
        let least = sizes.iter().copied().min().unwrap_or_default() as usize;
        self.largest = self.largest.max(bytes);
        self.smallest = self.smallest.min(bytes);
        let mixed = self.expects_large || self.is_mixed();
        let offer = Offer { bytes, pages: bytes.div_ceil(PAGE_BYTES), least, mixed, anywhere };
        let further = self.further(&offer, layout);
        let mut best: Option<(i64, Spot)> = None;
        for choice in 0..CHOICES {
            let named = position(hash, choice, self.used.len() as u32) as usize;
            for page in named..=(named + further).min(self.used.len() - 1) {
                let to_beat = best.map_or(i64::MIN, |(score, _)| score);
                let Some((score, end)) = self.score(&offer, named, page, to_beat) else { continue };
                let too_far = offer.pages > 1 && page > named && end > named + offer.pages + further + 1;
                if too_far || score <= to_beat {
                    continue;
                }
                let read = if offer.pages >= LARGE_PAGES { offer.pages + further } else { end - named };
                let Some(class) = layout.class_that_holds(read as u32) else { continue };
                best = Some((score, Spot { choice, class, page, at: usize::from(self.used[page]) }));
            }
        }
        let (_, spot) = best?;
        self.take(spot, bytes);
        Some(spot)
    }

    /// How many pages behind the named one a record may begin.
    fn further(&self, offer: &Offer, layout: &EntryLayout) -> usize {
        if offer.pages == 1 {
            return usize::from(offer.bytes >= CROSSING_MIN);
        }
        let read = |pages: usize| layout.pages_of(layout.class_of(pages as u32)) as usize;
        let mut most = read(offer.pages);
        if (most - offer.pages) * 4 < offer.pages {
            // the class leaves little play: the next one
            most = read((offer.pages + offer.pages.div_ceil(4)).min(self.used.len() / 2));
        }
        most.saturating_sub(offer.pages)
    }

    /// What speaks for a place, and the page behind the record's last. None if it has no room, or cannot beat `to_beat`.
    fn score(&self, offer: &Offer, named: usize, page: usize, to_beat: i64) -> Option<(i64, usize)> {
        let used = usize::from(self.used[page]);
        if offer.pages >= LARGE_PAGES {
            return self.score_large(offer, page);
        }
        let end = page + (used + offer.bytes).div_ceil(PAGE_BYTES);
        if used == PAGE_BYTES || end > self.used.len() {
            return None;
        }
        let crosses = end > page + 1;
        if offer.pages == 1 && crosses && (PAGE_BYTES - used >= offer.least || used == 0 || offer.bytes < CROSSING_MIN)
        {
            return None; // something smaller fits this page's rest, or it can be read with one page elsewhere
        }
        let best = match (crosses, used) {
            (false, 0) => -(PAGE_BYTES as i64),
            (false, _) => used as i64 / 4, // the fullest
            (true, _) if offer.pages == 1 => PAGE_BYTES as i64 / 2,
            (true, _) => 0,
        };
        // neighbours can only make it worse, and to look at them is what takes time
        if best <= to_beat || crosses && !self.are_blank(page + 1, end) || !crosses && page > named {
            return None;
        }
        let mut after = self.gap_after(end, VIEW_PAGES);
        after.bytes += end * PAGE_BYTES - (page * PAGE_BYTES + used + offer.bytes);
        let mut score = best - 4 * offer.waste(after);
        if used == 0 {
            let before = self.gap_before(page, VIEW_PAGES.max(4 * offer.pages));
            score -= 4 * offer.waste(before);
            if !crosses && offer.mixed {
                // small ones gather at the segment's beginning, so that blank pages stay together for large ones
                score -= (PAGE_BYTES * page / self.used.len()) as i64;
            }
            if crosses && before.bytes > 0 {
                score -= PAGE_BYTES as i64 + offer.bytes as i64 / 8;
            }
            if crosses && before.is_open {
                score -= 4 * (((page - 1) * PAGE_BYTES) % offer.bytes) as i64;
            }
        }
        Some((score, end))
    }

    /// A large record begins where a row of such records would that ends where the segment does, or beside another. A row from the beginning on would have
    /// hardly anything to begin it: only hashes that name its very first page.
    fn score_large(&self, offer: &Offer, page: usize) -> Option<(i64, usize)> {
        let end = page + offer.pages;
        if end > self.used.len() || !self.are_blank(page, end) {
            return None;
        }
        let in_row = (self.used.len() - page).is_multiple_of(offer.pages);
        let beside = [self.used[page - 1] != 0, self.used.get(end).is_none_or(|used| *used != 0)];
        let score = 3 * i64::from(in_row) + beside.into_iter().map(i64::from).sum::<i64>();
        (score > 0 || offer.anywhere).then(|| (score * self.used.len() as i64 + page as i64, end))
    }

    fn are_blank(&self, from: usize, to: usize) -> bool {
        self.blank.run_from(from, to - from) == to - from
    }

    fn gap_after(&self, page: usize, most: usize) -> Gap {
        let blank = self.blank.run_from(page, most);
        Gap { bytes: blank * PAGE_BYTES, is_open: blank == most }
    }

    fn gap_before(&self, page: usize, most: usize) -> Gap {
        let blank = self.blank.run_before(page, most);
        let rest = PAGE_BYTES - usize::from(self.used[page - 1 - blank.min(page - 1)]);
        Gap { bytes: blank * PAGE_BYTES + rest, is_open: blank == most }
    }

    fn take(&mut self, spot: Spot, bytes: usize) {
        let end = spot.at + bytes;
        let last = spot.page + (end - 1) / PAGE_BYTES;
        self.used[spot.page..last].fill(PAGE_BYTES as u16);
        self.used[last] = ((end - 1) % PAGE_BYTES + 1) as u16;
        (spot.page..=last).for_each(|page| self.blank.clear(page));
        self.bytes += bytes;
    }

    /// Whether large records came, and others.
    pub(crate) fn is_mixed(&self) -> bool {
        self.largest > LARGE_PAGES * PAGE_BYTES && self.smallest < self.largest / 2
    }

    /// Bytes placed, the header page counted in.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A bit a page: the length of a run of blank pages takes a step for 64 of them, and is asked for up to 32 times a record.
struct Blank {
    /// Bit `n % 64` of word `n / 64` is set while page `n` is blank. Behind the segment's last page nothing is.
    words: Vec<u64>,
}

impl Blank {
    fn all_but_the_first(pages: usize) -> Blank {
        let mut blank = Blank { words: vec![0; pages / 64 + 2] };
        (1..pages).for_each(|page| blank.words[page / 64] |= 1 << (page % 64));
        blank
    }

    fn clear(&mut self, page: usize) {
        self.words[page / 64] &= !(1 << (page % 64));
    }

    /// The 64 bits from `page` on.
    fn bits_from(&self, page: usize) -> u64 {
        let (word, shift) = (page / 64, page % 64);
        let next = if shift == 0 { 0 } else { self.words[word + 1] << (64 - shift) };
        self.words[word] >> shift | next
    }

    /// Blank pages in a row from `page` on, up to `most`.
    fn run_from(&self, page: usize, most: usize) -> usize {
        run(most, |done| self.bits_from(page + done).trailing_ones())
    }

    /// Blank pages in a row before `page`, up to `most`. The first page is never blank, so a run ends there.
    fn run_before(&self, page: usize, most: usize) -> usize {
        run(most, |done| {
            let end = page - done;
            let bits = if end >= 64 { self.bits_from(end - 64) } else { self.words[0] << (64 - end) };
            bits.leading_ones()
        })
    }
}

/// The length of a run, up to `most`: `next` tells how many of the next 64 belong to it.
fn run(most: usize, next: impl Fn(usize) -> u32) -> usize {
    let mut done = 0;
    while done < most {
        let more = next(done) as usize;
        done += more;
        if more < 64 {
            break;
        }
    }
    done.min(most)
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

    const PAGES: usize = 4096;

    /// Offers records until as many bytes as a segment holds were refused. Returns the share that is filled.
    fn fill(pages: usize, size: impl Fn(u64) -> usize) -> f64 {
        let layout = EntryLayout::new(1000, pages * PAGE_BYTES / 2).unwrap();
        let mut packing = Packing::new(pages, false);
        let mut owner = vec![false; pages * PAGE_BYTES];
        let (mut n, mut refused) = (0u64, 0);
        while refused < pages * PAGE_BYTES && packing.bytes() * 1000 < pages * PAGE_BYTES * 998 {
            n += 1;
            let (hash, bytes) = (mix(n * 3), size(n));
            let anywhere = 2 * refused >= pages * PAGE_BYTES;
            let Some(spot) = packing.place(hash, bytes, &layout, anywhere) else {
                refused += bytes;
                continue;
            };
            let from = spot.page * PAGE_BYTES + spot.at;
            let taken = &mut owner[from..from + bytes];
            assert!(taken.iter().all(|taken| !taken), "two records lie over each other");
            taken.fill(true);
            let named = position(hash, spot.choice, pages as u32) as usize;
            let read_to = (named + layout.pages_of(spot.class) as usize).min(pages) * PAGE_BYTES;
            assert!(spot.page >= named && from + bytes <= read_to, "one read brings all of it: {spot:?} of {bytes}");
            assert!(bytes > PAGE_BYTES || bytes >= CROSSING_MIN || spot.at + bytes <= PAGE_BYTES);
        }
        (packing.bytes() - PAGE_BYTES) as f64 / (pages * PAGE_BYTES) as f64
    }

    fn log_normal(mean: f64, sigma: f64) -> impl Fn(u64) -> usize {
        move |n| {
            let (a, b) = (mix(n) >> 11, mix(n ^ 1 << 60) >> 11);
            let unit = |x: u64| (x as f64 + 1.0) / (1u64 << 53) as f64;
            let normal = (-2.0 * unit(a).ln()).sqrt() * (std::f64::consts::TAU * unit(b)).cos();
            48 + (mean.ln() - sigma * sigma / 2.0 + sigma * normal).exp().max(1.0) as usize
        }
    }

    #[test]
    fn records_of_one_size_fill_a_segment_to_95_percent() {
        for bytes in [100, 1000, 2000, 3000, 5000, 100_000] {
            let filled = fill(PAGES, |_| bytes + 48);
            assert!(filled >= 0.95, "{bytes}: {filled}");
        }
        let largest = fill(4 * PAGES, |_| (1 << 20) - 8);
        assert!(largest >= 0.95, "1 MiB in segments of 64 MiB: {largest}");
        for (pages, bytes) in [(512, 200_000), (2048, 1_000_000), (PAGES, 300_000)] {
            let filled = fill(pages, |_| bytes + 48);
            assert!(filled >= 0.95, "{bytes} in segments of {pages} pages: {filled}");
        }
    }

    #[test]
    fn records_of_mixed_sizes_fill_a_segment_to_95_percent() {
        for (mean, sigma) in [(100.0, 0.5), (257.0, 1.0), (600.0, 1.0), (1000.0, 1.5), (5000.0, 1.0)] {
            let filled = fill(PAGES, log_normal(mean, sigma));
            assert!(filled >= 0.95, "mean {mean}: {filled}");
        }
    }

    #[test]
    fn small_segments_are_packed_too() {
        for (name, filled) in [("100 B", fill(32, |_| 148)), ("mixed", fill(32, log_normal(257.0, 1.0)))] {
            assert!(filled >= 0.90, "{name}: {filled}");
        }
    }

    #[test]
    fn every_size_up_to_half_a_segment_finds_a_place_or_is_refused() {
        for pages in [16, 32, 64, 256] {
            let half = (pages * PAGE_BYTES / 2) as u64;
            for round in 0..40 {
                let filled = fill(pages, |n| match mix(n ^ round << 32) % 3 {
                    0 => 30 + mix(n + round) as usize % 2000,
                    1 => 30 + (mix(n * 7 + round) % half) as usize - 29,
                    _ => (half - mix(n * 3 + round) % (half / 4)) as usize,
                });
                assert!(filled > 0.0, "{pages} pages: nothing found a place");
            }
        }
    }

    #[test]
    fn runs_of_blank_pages_are_as_long_as_counted_page_by_page() {
        for pages in [2, 63, 64, 65, 127, 128, 300] {
            let mut blank = Blank::all_but_the_first(pages);
            let mut is_blank: Vec<bool> = (0..pages).map(|page| page > 0).collect();
            for n in 0..40 {
                for (page, most) in (1..pages).flat_map(|page| [1, 64, 100].map(|most| (page, most))) {
                    let after = is_blank[page..].iter().take(most).take_while(|is| **is).count();
                    let before = is_blank[..page].iter().rev().take(most).take_while(|is| **is).count();
                    assert_eq!((blank.run_from(page, most), blank.run_before(page, most)), (after, before));
                }
                let page = mix(n + pages as u64) as usize % pages;
                blank.clear(page);
                is_blank[page] = false;
            }
            assert_eq!(blank.run_from(pages, 64), 0, "behind the last page");
        }
    }

    #[test]
    fn positions_cover_the_segment_but_for_its_header() {
        let mut seen = [false; 64];
        (0..10_000).for_each(|n| seen[position(mix(n), (n % 16) as u32, 64) as usize] = true);
        assert!(!seen[0] && seen[1..].iter().all(|page| *page));
    }
}
