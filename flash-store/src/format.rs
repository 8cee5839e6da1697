//! Every byte on flash.
//!
//! ```text
//! file     superblock (one page) | segment 0 | segment 1 | ...
//! segment  header (one page) | pages of records
//! body     record | record | zeroes to the end of a page | record ...     contiguous bytes over the segment's pages
//! record   checksum 4 | value length 4 | key length 1 | traits 1 | tenant 2 | expiry 4 | version 6 | reads 1 |
//!          updates and history 1 | last access 4 | client flags 0 or 4 | key | value       little-endian, unaligned
//! ```
//! A page fills from its beginning; a record may run on into the pages behind it (packing.rs says which do). A reader knows the
//! first page that it may begin in and how many to read, and finds it by its key's bytes. Whoever walks over a segment goes from
//! record to record, and where there is none, to the next page. docs/flash-format.md has every byte.
//!
//! The checksum of a record is seeded with the file's secret, the segment's sequence number and the page that it begins in: bytes of
//! another place, of an earlier life of the segment, or made up by a client inside of a value never pass for a record here.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{PAGE_BYTES, Page};

/// Bytes of a record before its client flags and its key.
pub const RECORD_HEADER_BYTES: usize = 28;
/// Bytes of client flags, which only records have whose flags are not 0.
const FLAGS_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
/// Claims to be a key's record that are checked in one read, at most.
const CLAIMS_MAX: usize = 16;
/// Records from the beginning of a read that are gone through one by one: as many as a page has of 60 bytes.
const WALKED_MAX: usize = 64;
/// Tenant number of a record that was taken back before its segment was written.
pub(crate) const TENANT_NOBODY: u16 = u16::MAX;
const SUPERBLOCK_MAGIC: &[u8; 16] = b"flashare flash 1";
const SEGMENT_MAGIC: &[u8; 8] = b"flashseg";
/// Version of this format.
pub const FORMAT_VERSION: u32 = 2;
const TRAIT_RESCUED: u8 = 1;
const TRAIT_WON: u8 = 2;
const TRAIT_FLAGS: u8 = 4;

/// Everything that is kept of an object on flash but its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead<'a> {
    /// Owner.
    pub tenant: u16,
    /// Full key, 1 to 250 bytes.
    pub key: &'a [u8],
    /// memcached's opaque 32 bits.
    pub client_flags: u32,
    /// Absolute second of expiry; 0 for never.
    pub expiry: u32,
    /// Version, below 2^48.
    pub version: u64,
    /// Quantised reads while in DRAM.
    pub reads: u8,
    /// Updates, up to 15.
    pub updates: u8,
    /// What was remembered of it in DRAM, 0 to 7.
    pub history: u8,
    /// Absolute second of its last access in DRAM.
    pub accessed: u32,
    /// Whether it was on flash before.
    pub rescued: bool,
    /// A client holds the right to recache it.
    pub won: bool,
}

impl RecordHead<'_> {
    /// Bytes of the record before its value.
    pub fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + if self.client_flags == 0 { 0 } else { FLAGS_BYTES } + self.key.len()
    }
}

/// A record whose tenant, full key and checksum were compared with what was asked for (INV-OWN-KEY). It does not prove that
/// the copy is still the newest: ask the index again after a device read (INV-FRESH).
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// All but the value.
    pub head: RecordHead<'a>,
    /// The value.
    pub value: &'a [u8],
}

impl Record<'_> {
    /// Bytes of the record on flash.
    pub fn bytes(&self) -> usize {
        self.head.bytes() + self.value.len()
    }
}

/// What seeds the checksums of a page's records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSeed(u64);

impl PageSeed {
    pub(crate) fn new(secret: u64, sequence: u64, page: u32) -> PageSeed {
        let mut place = [0; 12];
        place[..8].copy_from_slice(&sequence.to_le_bytes());
        place[8..].copy_from_slice(&page.to_le_bytes());
        PageSeed(xxh3_64_with_seed(&place, secret))
    }
}

/// The header, with the client flags behind it; they belong to the record only if they are not 0.
fn header_bytes(head: &RecordHead<'_>, value_bytes: usize) -> [u8; RECORD_HEADER_BYTES + FLAGS_BYTES] {
    let mut out = [0; RECORD_HEADER_BYTES + FLAGS_BYTES];
    out[4..8].copy_from_slice(&(value_bytes as u32).to_le_bytes());
    out[8] = head.key.len() as u8;
    out[9] = (u8::from(head.rescued) * TRAIT_RESCUED) | (u8::from(head.won) * TRAIT_WON);
    out[9] |= u8::from(head.client_flags != 0) * TRAIT_FLAGS;
    out[10..12].copy_from_slice(&head.tenant.to_le_bytes());
    out[12..16].copy_from_slice(&head.expiry.to_le_bytes());
    out[16..22].copy_from_slice(&head.version.to_le_bytes()[..6]);
    out[22] = head.reads;
    out[23] = head.updates << 4 | head.history;
    out[24..28].copy_from_slice(&head.accessed.to_le_bytes());
    out[28..32].copy_from_slice(&head.client_flags.to_le_bytes());
    out
}

/// Writes a record, `at` bytes behind the beginning of `pages`. Returns where it ends.
pub(crate) fn write_record<'a>(
    pages: &mut [Page],
    at: usize,
    seed: PageSeed,
    head: &RecordHead<'_>,
    value: impl Iterator<Item = &'a [u8]> + Clone,
) -> usize {
    let value_bytes = value.clone().map(<[u8]>::len).sum();
    let header = header_bytes(head, value_bytes);
    let header = &header[..head.bytes() - head.key.len()];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(pages);
    let mut end = at;
    let mut put = |piece: &[u8]| {
        bytes[end..end + piece.len()].copy_from_slice(piece);
        end += piece.len();
    };
    put(header);
    put(head.key);
    value.for_each(put);
    sign(&mut bytes[at..end], seed);
    end
}

/// Puts the checksum over a record into its first bytes.
fn sign(record: &mut [u8], seed: PageSeed) {
    let sum = xxh3_64_with_seed(&record[CHECKSUM_BYTES..], seed.0) as u32;
    record[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// A record as its bytes claim to be, not verified.
pub(crate) struct Claimed<'a> {
    pub(crate) record: Record<'a>,
    /// Where it begins, in bytes.
    pub(crate) at: usize,
    bytes: &'a [u8],
}

impl<'a> Claimed<'a> {
    /// What begins `at` bytes behind the beginning of `bytes`, if all of it lies within them.
    pub(crate) fn at(bytes: &'a [u8], at: usize) -> Option<Claimed<'a>> {
        let header = bytes.get(at..at + RECORD_HEADER_BYTES)?;
        let word = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes"));
        let key_bytes = usize::from(header[8]);
        let has_flags = header[9] & TRAIT_FLAGS != 0;
        let key_at = at + RECORD_HEADER_BYTES + if has_flags { FLAGS_BYTES } else { 0 };
        let value_at = key_at + key_bytes;
        let end = value_at.checked_add(word(4) as usize)?;
        if key_bytes == 0 || end > bytes.len() {
            return None;
        }
        let flags = &bytes[at + RECORD_HEADER_BYTES..key_at];
        let mut version = [0; 8];
        version[..6].copy_from_slice(&header[16..22]);
        let head = RecordHead {
            tenant: u16::from_le_bytes([header[10], header[11]]),
            key: &bytes[key_at..value_at],
            client_flags: flags.try_into().map_or(0, u32::from_le_bytes),
            expiry: word(12),
            version: u64::from_le_bytes(version),
            reads: header[22],
            updates: header[23] >> 4,
            history: header[23] & 7,
            accessed: word(24),
            rescued: header[9] & TRAIT_RESCUED != 0,
            won: header[9] & TRAIT_WON != 0,
        };
        Some(Claimed { record: Record { head, value: &bytes[value_at..end] }, at, bytes: &bytes[at..end] })
    }

    /// Whether the checksum says that these bytes were written as a record, at this place, in this life of the segment.
    pub(crate) fn is_whole(&self, seed: PageSeed) -> bool {
        let claimed = u32::from_le_bytes(self.bytes[..CHECKSUM_BYTES].try_into().expect("four bytes"));
        claimed == xxh3_64_with_seed(&self.bytes[CHECKSUM_BYTES..], seed.0) as u32
    }

    /// Where the next record may begin.
    pub(crate) fn end(&self) -> usize {
        self.at + self.bytes.len()
    }
}

/// Finds the record of a key in `pages`, wherever it begins, and verifies it; `seed` tells the seed of each page. Mostly a page begins with a
/// record, and going from one to the next finds it soonest; where the page begins with the rest of one, its key's bytes do.
pub(crate) fn find<'p>(
    pages: &'p [Page],
    tenant: u16,
    key: &[u8],
    seed: impl Fn(usize) -> PageSeed,
) -> Option<Claimed<'p>> {
    let bytes: &[u8] = bytemuck::cast_slice(pages);
    let own = |claimed: &Claimed<'_>| claimed.record.head.tenant == tenant && claimed.record.head.key == key;
    let whole = |claimed: &Claimed<'_>| claimed.is_whole(seed(claimed.at / PAGE_BYTES));
    let row = std::iter::successors(Claimed::at(bytes, 0), |claimed| Claimed::at(bytes, claimed.end()));
    row.take(WALKED_MAX).find(own).filter(whole).or_else(|| find_by_bytes(bytes, key, own, whole))
}

/// Bytes that a client made up to look like a record cost a checksum each, so no more than a few are looked at.
fn find_by_bytes<'p>(
    bytes: &'p [u8],
    key: &[u8],
    own: impl Fn(&Claimed<'_>) -> bool,
    whole: impl Fn(&Claimed<'_>) -> bool,
) -> Option<Claimed<'p>> {
    memchr::memmem::find_iter(bytes, key)
        .flat_map(|key_at| {
            [RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + FLAGS_BYTES].map(|before| key_at.checked_sub(before))
        })
        .flatten()
        .filter_map(|at| Claimed::at(bytes, at).filter(&own))
        .take(CLAIMS_MAX)
        .find(whole)
}

/// All records of a segment's body that are whole, those that were taken back too; `seed` tells the seed of each page.
pub(crate) fn walk<'p>(pages: &'p [Page], seed: impl Fn(usize) -> PageSeed) -> impl Iterator<Item = Claimed<'p>> {
    let bytes: &[u8] = bytemuck::cast_slice(pages);
    let mut at = PAGE_BYTES;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            if let Some(claimed) = Claimed::at(bytes, at).filter(|claimed| claimed.is_whole(seed(at / PAGE_BYTES))) {
                at = claimed.end();
                return Some(claimed);
            }
            at = (at / PAGE_BYTES + 1) * PAGE_BYTES; // the rest of the page is blank
        }
        None
    })
}

/// Marks the record at `at` as nobody's; a walk over the segment still finds its way past it.
pub(crate) fn disown(pages: &mut [Page], at: usize, end: usize, seed: PageSeed) {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(pages);
    let record = &mut bytes[at..end];
    record[10..12].copy_from_slice(&TENANT_NOBODY.to_le_bytes());
    sign(record, seed);
}

/// The header page of a segment, over the pages that follow it.
pub(crate) fn segment_header(sequence: u64, records: u32, pages: &[Page]) -> Page {
    let mut page = Page::ZERO;
    page.0[..8].copy_from_slice(SEGMENT_MAGIC);
    page.0[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page.0[12..16].copy_from_slice(&records.to_le_bytes());
    page.0[16..24].copy_from_slice(&sequence.to_le_bytes());
    page.0[24..32].copy_from_slice(&xxh3_64(bytemuck::cast_slice(pages)).to_le_bytes());
    let own = xxh3_64(&page.0[..32]);
    page.0[32..40].copy_from_slice(&own.to_le_bytes());
    page
}

/// Sequence number and records of the segment that this header page begins, if it is one.
pub(crate) fn read_segment_header(page: &Page) -> Option<(u64, u32)> {
    let header = &page.0;
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let is_ours = header[..8] == SEGMENT_MAGIC[..] && header[8..12] == FORMAT_VERSION.to_le_bytes();
    (is_ours && word(32) == xxh3_64(&header[..32])).then(|| (word(16), (word(8) >> 32) as u32))
}

/// Whether `pages` are a whole segment as it was written with this sequence number (INV-WHOLE).
pub(crate) fn is_whole_segment(pages: &[Page], sequence: u64) -> bool {
    let sum = u64::from_le_bytes(pages[0].0[24..32].try_into().expect("eight bytes"));
    read_segment_header(&pages[0]).is_some_and(|(of, _)| of == sequence)
        && sum == xxh3_64(bytemuck::cast_slice(&pages[1..]))
}

/// What the first page of a flash file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Superblock {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments.
    pub segments: u32,
    /// Names the image that a clean stop left; 0 while the file is in use, and after a crash.
    pub image: u64,
    /// Names the journal that tells what is invalid; 0 if none is kept.
    pub journal: u64,
    /// Which of the tier's devices this is.
    pub part: u16,
    /// How many devices it lies on.
    pub parts: u16,
}

impl Superblock {
    /// As a page.
    pub fn page(&self) -> Page {
        let mut page = Page::ZERO;
        page.0[..16].copy_from_slice(SUPERBLOCK_MAGIC);
        page.0[16..20].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page.0[20..24].copy_from_slice(&self.segments.to_le_bytes());
        for (at, word) in [(24, self.segment_bytes), (32, self.image), (40, self.journal)] {
            page.0[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        page.0[48..50].copy_from_slice(&self.part.to_le_bytes());
        page.0[50..52].copy_from_slice(&self.parts.to_le_bytes());
        let sum = xxh3_64(&page.0[..56]);
        page.0[56..64].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// What a page of this version says; None of any other page, and of a damaged one.
    pub fn read(page: &Page) -> Option<Superblock> {
        let word = |at: usize| u64::from_le_bytes(page.0[at..at + 8].try_into().expect("eight bytes"));
        let known = page.0[..16] == SUPERBLOCK_MAGIC[..] && page.0[16..20] == FORMAT_VERSION.to_le_bytes();
        (known && word(56) == xxh3_64(&page.0[..56])).then(|| Superblock {
            segment_bytes: word(24),
            segments: (word(16) >> 32) as u32,
            image: word(32),
            journal: word(40),
            part: word(48) as u16,
            parts: (word(48) >> 16) as u16,
        })
    }
}

/// Whose page the first page of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Nobody's: it is blank.
    Nobody,
    /// This version's.
    Us,
    /// Another version's of this program.
    Version(u32),
    /// Somebody else's.
    Other,
}

pub(crate) fn owner(page: &Page) -> Owner {
    let version = u32::from_le_bytes(page.0[16..20].try_into().expect("four bytes"));
    match () {
        () if page.0.iter().all(|byte| *byte == 0) => Owner::Nobody,
        () if page.0[..15] != SUPERBLOCK_MAGIC[..15] => Owner::Other,
        () if version == FORMAT_VERSION => Owner::Us,
        () => Owner::Version(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(key: &[u8]) -> RecordHead<'_> {
        RecordHead {
            tenant: 3,
            key,
            client_flags: 0xfeed,
            expiry: 9,
            version: (1 << 48) - 1,
            reads: 63,
            updates: 15,
            history: 7,
            accessed: u32::MAX,
            rescued: true,
            won: true,
        }
    }

    fn found<'p>(pages: &'p [Page], key: &[u8], seed: PageSeed) -> Option<Claimed<'p>> {
        find(pages, 3, key, |_| seed)
    }

    #[test]
    fn records_of_every_length_come_back_whole_wherever_they_begin() {
        let seed = PageSeed::new(1, 2, 3);
        for len in [0usize, 1, 100, 4000, 4057, 4058, 4059, 4060, 4096, 8100, 8150, 8152, 8154, 8160, 12_285, 100_000] {
            let value: Vec<u8> = (0..len).map(|n| (n * 7 + n / 256) as u8).collect();
            for at in [0usize, 44, 4090, 4095] {
                let mut pages = vec![Page::ZERO; (at + len + 100).div_ceil(PAGE_BYTES)];
                if at > 0 {
                    write_record(&mut pages, 0, seed, &head(b"other"), [&b"1234567"[..]].into_iter());
                }
                write_record(&mut pages, at, seed, &head(b"my key"), value.chunks(1000));
                let mine = found(&pages, b"my key", seed).unwrap();
                assert_eq!((mine.record.head, mine.at), (head(b"my key"), at));
                assert_eq!(mine.record.value, value, "{len} at {at}");
                assert!(found(&pages, b"my key", PageSeed::new(1, 2, 4)).is_none(), "another page");
                assert!(found(&pages, b"my key", PageSeed::new(1, 3, 3)).is_none(), "another life of the segment");
                assert!(found(&pages, b"y key", seed).is_none(), "a part of the key is another key");
            }
        }
    }

    #[test]
    fn two_records_of_2000_bytes_fit_a_page_and_flags_take_room_only_if_there_are_any() {
        let seed = PageSeed::new(1, 2, 3);
        let plain = RecordHead { client_flags: 0, ..head(b"a key of 20 bytes...") };
        let flagged = RecordHead { client_flags: 1, ..plain };
        assert_eq!((2 * (plain.bytes() + 2000), flagged.bytes() - plain.bytes()), (PAGE_BYTES, 4));
        let mut pages = vec![Page::ZERO; 2];
        for at in [0, PAGE_BYTES / 2] {
            write_record(&mut pages[1..], at, seed, &plain, [&[7; 2000][..]].into_iter());
        }
        assert_eq!(walk(&pages, |_| seed).filter(|found| found.record.head == plain).count(), 2);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let seed = PageSeed::new(1, 2, 3);
        let mut pages = vec![Page::ZERO; 2];
        let value = vec![7; 5000];
        let end = write_record(&mut pages, 0, seed, &head(b"k"), [&value[..]].into_iter());
        for at in 0..end {
            pages[at / PAGE_BYTES].0[at % PAGE_BYTES] ^= 4;
            assert!(found(&pages, b"k", seed).is_none(), "byte {at}");
            pages[at / PAGE_BYTES].0[at % PAGE_BYTES] ^= 4;
        }
        assert!(found(&pages, b"k", seed).is_some());
    }

    #[test]
    fn a_walk_finds_every_record_past_those_that_were_taken_back() {
        let seed = |page: usize| PageSeed::new(1, 2, page as u32);
        let mut pages = vec![Page::ZERO; 9];
        let (mut at, mut ends) = (PAGE_BYTES, Vec::new());
        for (n, len) in [10, 5000, 0, 3000, 9000, 2000].into_iter().enumerate() {
            let key = [b'a' + n as u8; 4];
            let value = vec![n as u8; len];
            let end = write_record(&mut pages, at, seed(at / PAGE_BYTES), &head(&key), [&value[..]].into_iter());
            ends.push((at, end));
            at = if n == 2 { end.next_multiple_of(PAGE_BYTES) } else { end };
        }
        let (from, to) = ends[1];
        disown(&mut pages, from, to, seed(from / PAGE_BYTES));
        let walked: Vec<_> = walk(&pages, seed).map(|found| (found.at, found.end())).collect();
        assert_eq!(walked, ends);
        let owners: Vec<u16> = walk(&pages, seed).map(|found| found.record.head.tenant).collect();
        assert_eq!(owners, [3, TENANT_NOBODY, 3, 3, 3, 3]);
    }

    #[test]
    fn a_value_that_looks_like_records_of_a_key_costs_a_few_checksums_at_most() {
        let seed = PageSeed::new(1, 2, 3);
        let mut fake = vec![Page::ZERO; 1];
        let end = write_record(&mut fake, 0, PageSeed::new(9, 9, 9), &head(b"k"), [&b"lie"[..]].into_iter());
        let value: Vec<u8> = fake[0].0[..end].repeat(50);
        let mut pages = vec![Page::ZERO; 2];
        write_record(&mut pages, 0, seed, &head(b"other"), [&value[..]].into_iter());
        assert!(found(&pages, b"k", seed).is_none());
        assert_eq!(found(&pages, b"other", seed).unwrap().record.value, value);
    }

    #[test]
    fn arbitrary_pages_never_panic() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut pages = vec![Page::ZERO; 3];
            for byte in pages.iter_mut().flat_map(|page| page.0.iter_mut()) {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = if state >> 62 == 0 { (state >> 40) as u8 } else { 0 };
            }
            let seed = PageSeed::new(1, 1, 1);
            assert_eq!(walk(&pages, |_| seed).count(), 0);
            assert!(found(&pages, &[0], seed).is_none());
        }
    }
}
