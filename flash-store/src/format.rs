//! Every byte on flash.
//!
//! ```text
//! file     superblock (one page) | segment 0 | segment 1 | ...
//! segment  header (one page) | pages of records
//! page     record | record | ... | zeroes           4 KiB; a record of one page never crosses into the next
//! record   checksum 4 | value length 4 | key length 1 | traits 1 | tenant 2 | expiry 4 | version 6 | reads 1 |
//!          updates and history 1 | last access 4 | client flags 0 or 4 | key | value       little-endian, unaligned
//! ```
//! A record longer than a page begins in a page among others with its header, its key and as much of its value as makes the
//! rest a whole number of pages; the rest fills the pages that follow. So a reader that knows the first page and the number
//! of pages needs one read. A key length of 0 ends a page.
//!
//! The checksum of a record is seeded with the file's secret, the segment's sequence number and the page: bytes of another
//! place, of an earlier life of the segment, or made up by a client inside of a value never pass for a record here.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::{PAGE_BYTES, Page};

/// Bytes of a record before its client flags and its key.
pub const RECORD_HEADER_BYTES: usize = 28;
/// Bytes of client flags, which only records have whose flags are not 0.
const FLAGS_BYTES: usize = 4;
/// Tenant number of a record that was taken back before its segment was written.
pub(crate) const TENANT_NOBODY: u16 = u16::MAX;
const SUPERBLOCK_MAGIC: &[u8; 16] = b"flashare flash 1";
const SEGMENT_MAGIC: &[u8; 8] = b"flashseg";
/// Version of this format.
pub const FORMAT_VERSION: u32 = 1;
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
    /// The value, in the two pieces that a record of several pages has.
    pub value: [&'a [u8]; 2],
}

impl Record<'_> {
    /// Bytes of the value.
    pub fn value_bytes(&self) -> usize {
        self.value[0].len() + self.value[1].len()
    }

    /// Bytes of the record on flash.
    pub fn bytes(&self) -> usize {
        self.head.bytes() + self.value_bytes()
    }
}

/// How a record lies: bytes in its first page, and whole pages after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes in the first page.
    pub first: usize,
    /// Pages that follow, all its own.
    pub more_pages: usize,
}

impl Extent {
    /// Extent of a record with so many bytes before its value, and of its value.
    pub fn of(prefix: usize, value_bytes: usize) -> Extent {
        let total = prefix + value_bytes;
        if total <= PAGE_BYTES {
            return Extent { first: total, more_pages: 0 };
        }
        let first = (total % PAGE_BYTES).max(prefix);
        Extent { first, more_pages: (total - first).div_ceil(PAGE_BYTES) }
    }

    /// Pages from its first to its last.
    pub fn pages(&self) -> usize {
        1 + self.more_pages
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

/// Writes a record into `pages`, `at` bytes into the first of them.
pub(crate) fn write_record<'a>(
    pages: &mut [Page],
    at: usize,
    seed: PageSeed,
    head: &RecordHead<'_>,
    value: impl Iterator<Item = &'a [u8]> + Clone,
) {
    let value_bytes = value.clone().map(<[u8]>::len).sum();
    let extent = Extent::of(head.bytes(), value_bytes);
    let header = header_bytes(head, value_bytes);
    let header = &header[..head.bytes() - head.key.len()];
    let mut checksum = Xxh3::with_seed(seed.0);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(pages);
    // the bytes of a record are in order but for the gap between the first page's part and the rest
    let (near_end, far) = (at + extent.first, PAGE_BYTES);
    let mut to = at;
    let mut put = |mut piece: &[u8], bytes: &mut [u8]| {
        while !piece.is_empty() {
            let room = if to < near_end { near_end - to } else { usize::MAX };
            let len = room.min(piece.len());
            bytes[to..to + len].copy_from_slice(&piece[..len]);
            piece = &piece[len..];
            to += len;
            if to == near_end && extent.more_pages > 0 {
                to = far;
            }
        }
    };
    put(header, bytes);
    checksum.update(&header[4..]);
    put(head.key, bytes);
    checksum.update(head.key);
    for piece in value {
        put(piece, bytes);
        checksum.update(piece);
    }
    bytes[at..at + 4].copy_from_slice(&(checksum.digest() as u32).to_le_bytes());
}

/// A record as its bytes claim to be, not verified.
pub(crate) struct Claimed<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) at: usize,
    pub(crate) extent: Extent,
    bytes: &'a [u8],
}

impl Claimed<'_> {
    pub(crate) fn is_whole(&self, seed: PageSeed) -> bool {
        let claimed = u32::from_le_bytes(self.bytes[self.at..self.at + 4].try_into().expect("four bytes"));
        let near = &self.bytes[self.at + 4..self.at + self.extent.first];
        let digest = if self.extent.more_pages == 0 {
            xxh3_64_with_seed(near, seed.0)
        } else {
            let mut checksum = Xxh3::with_seed(seed.0);
            checksum.update(near);
            checksum.update(self.record.value[1]);
            checksum.digest()
        };
        claimed == digest as u32
    }
}

/// The records that begin in the first of `pages`, as far as they lie within `pages`.
pub(crate) fn records(pages: &[Page]) -> impl Iterator<Item = Claimed<'_>> {
    let bytes: &[u8] = bytemuck::cast_slice(pages);
    let mut at = 0;
    std::iter::from_fn(move || {
        let claimed = record_at(bytes, at)?;
        at += claimed.extent.first;
        Some(claimed)
    })
}

fn record_at(bytes: &[u8], at: usize) -> Option<Claimed<'_>> {
    if at + RECORD_HEADER_BYTES >= PAGE_BYTES {
        return None;
    }
    let header = &bytes[at..at + RECORD_HEADER_BYTES];
    let key_bytes = usize::from(header[8]);
    let value_bytes = u32::from_le_bytes(header[4..8].try_into().expect("four bytes")) as usize;
    let key_at = at + RECORD_HEADER_BYTES + if header[9] & TRAIT_FLAGS == 0 { 0 } else { FLAGS_BYTES };
    let extent = Extent::of(key_at + key_bytes - at, value_bytes);
    let near_end = at + extent.first;
    if key_bytes == 0 || near_end > PAGE_BYTES || extent.pages() * PAGE_BYTES > bytes.len() {
        return None;
    }
    let near = &bytes[key_at + key_bytes..near_end];
    let far = &bytes[PAGE_BYTES..][..value_bytes - near.len()];
    let word = |from: usize| u32::from_le_bytes(bytes[at + from..at + from + 4].try_into().expect("four bytes"));
    let mut version = [0; 8];
    version[..6].copy_from_slice(&header[16..22]);
    let head = RecordHead {
        tenant: u16::from_le_bytes([header[10], header[11]]),
        key: &bytes[key_at..key_at + key_bytes],
        client_flags: if header[9] & TRAIT_FLAGS == 0 { 0 } else { word(RECORD_HEADER_BYTES) },
        expiry: word(12),
        version: u64::from_le_bytes(version),
        reads: header[22],
        updates: header[23] >> 4,
        history: header[23] & 7,
        accessed: word(24),
        rescued: header[9] & TRAIT_RESCUED != 0,
        won: header[9] & TRAIT_WON != 0,
    };
    Some(Claimed { record: Record { head, value: [near, far] }, at, extent, bytes })
}

/// Marks the record at `at` of `page` as nobody's.
pub(crate) fn disown(page: &mut Page, at: usize) {
    page.0[at + 10..at + 12].copy_from_slice(&TENANT_NOBODY.to_le_bytes());
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

/// Whether `pages` are a whole segment as it was written with this sequence number (INV-WHOLE).
pub(crate) fn is_whole_segment(pages: &[Page], sequence: u64) -> bool {
    let header = &pages[0].0;
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    header[..8] == SEGMENT_MAGIC[..]
        && word(32) == xxh3_64(&header[..32])
        && word(16) == sequence
        && word(24) == xxh3_64(bytemuck::cast_slice(&pages[1..]))
}

/// The first page of a flash file. `nonce` names the image that a clean stop left; 0 while the file is in use, and after a
/// crash.
pub fn superblock(segment_bytes: usize, segments: u32, nonce: u64) -> Page {
    let mut page = Page::ZERO;
    page.0[..16].copy_from_slice(SUPERBLOCK_MAGIC);
    page.0[16..20].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page.0[20..24].copy_from_slice(&segments.to_le_bytes());
    page.0[24..32].copy_from_slice(&(segment_bytes as u64).to_le_bytes());
    page.0[32..40].copy_from_slice(&nonce.to_le_bytes());
    page
}

/// The nonce of a superblock of this version; 0 of any other page.
pub fn superblock_nonce(page: &Page) -> u64 {
    let known = page.0[..16] == SUPERBLOCK_MAGIC[..] && page.0[16..20] == FORMAT_VERSION.to_le_bytes();
    let nonce = page.0[32..40].try_into().map_or(0, u64::from_le_bytes);
    if known { nonce } else { 0 }
}

/// Whether a page is the superblock of a flashare file (of any version), or blank.
pub(crate) fn may_be_overwritten(page: &Page) -> bool {
    page.0[..15] == SUPERBLOCK_MAGIC[..15] || page.0.iter().all(|byte| *byte == 0)
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

    #[test]
    fn records_of_every_length_come_back_whole() {
        let seed = PageSeed::new(1, 2, 3);
        for len in [0, 1, 100, 4000, 4057, 4058, 4059, 4060, 4096, 8100, 8150, 8152, 8154, 8160, 12_285, 100_000] {
            let value: Vec<u8> = (0..len).map(|n| (n * 7 + n / 256) as u8).collect();
            let extent = Extent::of(head(b"record").bytes(), len);
            for at in [0, 44].into_iter().filter(|at| at + extent.first <= PAGE_BYTES) {
                let mut pages = vec![Page::ZERO; extent.pages()];
                if at > 0 {
                    write_record(&mut pages, 0, seed, &head(b"other"), [&b"1234567"[..]].into_iter());
                }
                write_record(&mut pages, at, seed, &head(b"my key"), value.chunks(1000));
                let found = records(&pages).last().unwrap();
                assert_eq!(found.record.head, head(b"my key"));
                assert_eq!(found.record.value.concat(), value, "{len} at {at}");
                assert!(found.is_whole(seed));
                assert!(!found.is_whole(PageSeed::new(1, 2, 4)), "another page");
                assert!(!found.is_whole(PageSeed::new(1, 3, 3)), "another life of the segment");
            }
        }
    }

    #[test]
    fn two_records_of_2000_bytes_fit_a_page_and_flags_take_room_only_if_there_are_any() {
        let seed = PageSeed::new(1, 2, 3);
        let plain = RecordHead { client_flags: 0, ..head(b"a key of 20 bytes...") };
        let flagged = RecordHead { client_flags: 1, ..plain };
        assert_eq!((2 * (plain.bytes() + 2000), flagged.bytes() - plain.bytes()), (PAGE_BYTES, 4));
        let mut pages = vec![Page::ZERO; 1];
        for at in [0, PAGE_BYTES / 2] {
            write_record(&mut pages, at, seed, &plain, [&[7; 2000][..]].into_iter());
        }
        assert_eq!(records(&pages).filter(|found| found.record.head == plain && found.is_whole(seed)).count(), 2);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let seed = PageSeed::new(1, 2, 3);
        let mut pages = vec![Page::ZERO; 2];
        let value = vec![7; 5000];
        write_record(&mut pages, 0, seed, &head(b"k"), [&value[..]].into_iter());
        let extent = Extent::of(head(b"k").bytes(), 5000);
        let places = (0..extent.first).chain(PAGE_BYTES..PAGE_BYTES + 5000 + head(b"k").bytes() - extent.first);
        for at in places {
            pages[at / PAGE_BYTES].0[at % PAGE_BYTES] ^= 4;
            let whole = records(&pages).next().is_some_and(|found| found.is_whole(seed));
            assert!(!whole, "byte {at}");
            pages[at / PAGE_BYTES].0[at % PAGE_BYTES] ^= 4;
        }
        assert!(records(&pages).next().unwrap().is_whole(seed));
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
            assert!(!records(&pages).any(|found| found.is_whole(PageSeed::new(1, 1, 1))));
        }
    }
}
