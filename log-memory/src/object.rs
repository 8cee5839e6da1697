//! An object's bytes in the log.
//!
//! ```text
//! word 0   version (48) | tenant (16)                                                            fixed once published
//! word 1   value length (28) | key length (8) | birth tick (20) | history (3) | rescued (1) | flags? (1) | kind (2) | unique? (1)
//! word 2   expiry (32) | last access tick (20) | reads (6) | updates (4) | stale (1) | won (1)    changes in place
//! then     client flags (4, only when not 0), unique (8, only when a client chose it), key, value padded to 8
//! ```
//! A value above [`crate::Shape::fragment_bytes_max`] is cut up: its *head* holds the key and, behind it at the next 8-byte boundary, a count and
//! a word (location, length) for each *fragment*; fragments are entries of the log of their own and move independently.
//! A fragment's word 0 is the hash of its key, its word 1 holds its length, its number in the birth field, and its kind.
//!
//! Whoever takes an object in one piece out of the index, or finds its copy there, marks it as left behind, by its kind. Who still reads it takes
//! no notice; the cleaner is spared a look into the index, which would be a cache miss or two for each of the dead.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::location::Location;
use crate::region::Region;

/// Bytes of an object's header.
pub const HEADER_BYTES: usize = 24;
/// Longest key, as in memcached.
pub const KEY_BYTES_MAX: usize = 250;
/// Ticks wrap at this many bits; ages are differences modulo it.
pub const TICK_BITS: u32 = 20;
/// Longest value that a header can describe.
pub const VALUE_BYTES_MAX: usize = (1 << 28) - 1;
/// Versions are 48 bits wide.
pub const VERSION_MAX: u64 = (1 << 48) - 1;

// Widths of each word's fields, from the top: every bit has one owner.
const WORD_0: [u32; 2] = [48, 16];
const WORD_1: [u32; 8] = [28, 8, TICK_BITS, 3, 1, 1, 2, 1];
const WORD_2: [u32; 6] = [32, TICK_BITS, 6, 4, 1, 1];
const _: () = assert!(width(&WORD_0) == 64 && width(&WORD_1) == 64 && width(&WORD_2) == 64);
const fn width(fields: &[u32]) -> u32 {
    match fields {
        [first, rest @ ..] => *first + width(rest),
        [] => 0,
    }
}
const TICK_MASK: u64 = (1 << TICK_BITS) - 1;

/// What an entry of the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Key and value in one piece.
    Whole,
    /// Key and the places of its value's fragments.
    Head,
    /// A piece of a value.
    Fragment,
}

/// What is stored: everything that a header and its key say.
#[derive(Clone, Copy, Debug)]
pub struct NewObject<'a> {
    /// Owner.
    pub tenant: u16,
    /// Full key.
    pub key: &'a [u8],
    /// The value, in as many pieces as the caller has it.
    pub value: &'a [&'a [u8]],
    /// memcached's opaque 32 bits.
    pub client_flags: u32,
    /// Absolute second at which it expires; 0 for never.
    pub expiry: u32,
    /// Version, below 2^48; the CAS unique of its key unless a client chose one.
    pub version: u64,
    /// The CAS unique that a client chose instead (meta and binary protocols).
    pub unique: Option<u64>,
    /// Tick of its arrival.
    pub birth: u32,
    /// Access statistics to begin with.
    pub access: Access,
    /// What is remembered from before this stay in DRAM (0 to 7).
    pub history: u8,
    /// Whether it came back from flash.
    pub rescued: bool,
}

impl NewObject<'_> {
    pub(crate) fn value_bytes(&self) -> usize {
        self.value.iter().map(|piece| piece.len()).sum()
    }

    fn prefix_bytes(&self) -> usize {
        let flags = if self.client_flags == 0 { 0 } else { 4 };
        HEADER_BYTES + flags + if self.unique.is_some() { 8 } else { 0 } + self.key.len()
    }

    /// Bytes in the log when stored in one piece.
    pub fn whole_bytes(&self) -> usize {
        (self.prefix_bytes() + self.value_bytes()).next_multiple_of(8)
    }

    pub(crate) fn head_bytes(&self, fragments: usize) -> usize {
        self.prefix_bytes().next_multiple_of(8) + 8 + fragments * 8
    }

    fn words(&self, kind: Kind) -> [u64; 3] {
        debug_assert!(self.version <= VERSION_MAX && self.key.len() <= KEY_BYTES_MAX);
        [
            self.version << 16 | u64::from(self.tenant),
            (self.value_bytes() as u64) << 36
                | (self.key.len() as u64) << 28
                | (u64::from(self.birth) & TICK_MASK) << 8
                | u64::from(self.history & 7) << 5
                | u64::from(self.rescued) << 4
                | u64::from(self.client_flags != 0) << 3
                | (kind as u64) << 1
                | u64::from(self.unique.is_some()),
            self.access.word(self.expiry),
        ]
    }
}

/// In the place of a kind: in one piece, and not published any more.
const LEFT_BEHIND: u64 = 3;

/// Access statistics of an object as they are kept in its header, quantised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Tick of the last access, modulo 2^20.
    pub last: u32,
    /// Quantised number of reads since it was stored (see [`reads_estimate`]).
    pub reads: u8,
    /// Updates carried over from earlier versions, saturating at 15.
    pub updates: u8,
    /// Marked stale by a client (meta protocol).
    pub stale: bool,
    /// A client holds the right to recache it (meta protocol).
    pub won: bool,
}

impl Access {
    fn word(self, expiry: u32) -> u64 {
        u64::from(expiry) << 32
            | (u64::from(self.last) & TICK_MASK) << 12
            | u64::from(self.reads & 63) << 6
            | u64::from(self.updates & 15) << 2
            | u64::from(self.stale) << 1
            | u64::from(self.won)
    }

    fn from_word(word: u64) -> Access {
        Access {
            last: (word >> 12 & TICK_MASK) as u32,
            reads: (word >> 6 & 63) as u8,
            updates: (word >> 2 & 15) as u8,
            stale: word >> 1 & 1 == 1,
            won: word & 1 == 1,
        }
    }
}

/// Quantised counts below this are exact.
const READS_EXACT: u8 = 16;
/// Ticks between two notes of reads of an object that is read all the time.
const TICKS_BETWEEN_NOTES: u32 = 8;

/// Reads that a quantised count stands for: exact up to 15, then four steps a doubling.
pub fn reads_estimate(quantised: u8) -> u32 {
    match quantised {
        0..READS_EXACT => u32::from(quantised),
        q => {
            let (octave, step) = ((u32::from(q) - 16) / 4, (u32::from(q) - 16) % 4);
            (16 << octave) + (step << (octave + 2))
        }
    }
}

/// The next quantised count; `dice` are uniform bits, which decide above 15.
fn reads_after(quantised: u8, dice: u32) -> u8 {
    match quantised {
        0..READS_EXACT => quantised + 1,
        63 => 63,
        q => {
            let octave = (u32::from(q) - 16) / 4;
            if dice & ((1 << (octave + 2)) - 1) == 0 { q + 1 } else { q }
        }
    }
}

/// An object in the log. Having one proves that its bytes stay as they are for the turn `'t`; it does not prove that the
/// object is still published.
#[derive(Clone, Copy)]
pub struct Object<'t> {
    region: &'t Region,
    at: Location,
}

impl<'t> Object<'t> {
    /// # Safety
    /// An entry of the log begins at `at`, and its segment is not reused during `'t`: it was found in the index within a
    /// turn, or the caller owns the segment (INV-GRACE).
    pub(crate) unsafe fn at(region: &'t Region, at: Location) -> Object<'t> {
        Object { region, at }
    }

    fn word(&self, n: usize) -> u64 {
        self.region.words()[self.at.word() + n].load(Ordering::Relaxed)
    }

    fn mutable(&self) -> &'t AtomicU64 {
        &self.region.words()[self.at.word() + 2]
    }

    /// Where it lies.
    pub fn location(&self) -> Location {
        self.at
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self.word(1) >> 1 & 3 {
            1 => Kind::Head,
            2 => Kind::Fragment,
            _ => Kind::Whole,
        }
    }

    /// Whether it was marked as left behind.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.word(1) >> 1 & LEFT_BEHIND == LEFT_BEHIND
    }

    /// Marks an object in one piece as left behind: nothing finds it here any more.
    pub(crate) fn leave_behind(&self) {
        if self.kind() == Kind::Whole {
            self.region.words()[self.at.word() + 1].store(self.word(1) | LEFT_BEHIND << 1, Ordering::Relaxed);
        }
    }

    /// Its owner.
    pub fn tenant(&self) -> u16 {
        self.word(0) as u16
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.word(0) >> 16
    }

    /// Bytes of its value (of the piece, for a fragment).
    pub fn value_bytes(&self) -> usize {
        (self.word(1) >> 36) as usize
    }

    fn key_bytes(&self) -> usize {
        (self.word(1) >> 28 & 0xff) as usize
    }

    /// Tick of its arrival, modulo 2^20; the piece's number, for a fragment.
    pub fn birth(&self) -> u32 {
        (self.word(1) >> 8 & TICK_MASK) as u32
    }

    /// What is remembered from before this stay in DRAM.
    pub fn history(&self) -> u8 {
        (self.word(1) >> 5 & 7) as u8
    }

    /// Whether it came back from flash.
    pub fn rescued(&self) -> bool {
        self.word(1) >> 4 & 1 == 1
    }

    fn has_flags(&self) -> bool {
        self.word(1) >> 3 & 1 == 1
    }

    fn has_unique(&self) -> bool {
        self.word(1) & 1 == 1
    }

    fn unique_at(&self) -> usize {
        self.at.byte() + HEADER_BYTES + if self.has_flags() { 4 } else { 0 }
    }

    fn key_at(&self) -> usize {
        self.unique_at() + if self.has_unique() { 8 } else { 0 }
    }

    /// The CAS unique that a client chose for it, if one did.
    pub fn chosen_unique(&self) -> Option<u64> {
        if !self.has_unique() {
            return None;
        }
        // SAFETY: bytes of a published object (INV-GRACE).
        let bytes = unsafe { self.region.bytes(self.unique_at(), 8) };
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Its CAS unique: the chosen one, or its version.
    pub fn unique(&self) -> u64 {
        self.chosen_unique().unwrap_or_else(|| self.version())
    }

    /// memcached's opaque 32 bits.
    pub fn client_flags(&self) -> u32 {
        if !self.has_flags() {
            return 0;
        }
        // SAFETY: bytes of a published object (INV-GRACE).
        let bytes = unsafe { self.region.bytes(self.at.byte() + HEADER_BYTES, 4) };
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    /// Its full key.
    pub fn key(&self) -> &'t [u8] {
        // SAFETY: bytes of a published object (INV-GRACE).
        unsafe { self.region.bytes(self.key_at(), self.key_bytes()) }
    }

    /// Absolute second of its expiry; 0 for never.
    pub fn expiry(&self) -> u32 {
        (self.mutable().load(Ordering::Relaxed) >> 32) as u32
    }

    /// Its access statistics.
    pub fn access(&self) -> Access {
        Access::from_word(self.mutable().load(Ordering::Relaxed))
    }

    /// Gives it another expiry. The caller holds the lock of its key.
    pub fn set_expiry(&self, expiry: u32) {
        let _ = self.mutable().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Some(u64::from(expiry) << 32 | word & 0xffff_ffff)
        });
    }

    /// Marks it stale, or as won by a client. The caller holds the lock of its key.
    pub fn set_marks(&self, stale: bool, won: bool) {
        let _ = self.mutable().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Some(word & !3 | u64::from(stale) << 1 | u64::from(won))
        });
    }

    /// Notes a read at `tick`. At most one write a tick, one in several ticks once its reads are many, and none when another thread writes at
    /// the same moment: a hot object stays shared in every core's cache.
    #[inline]
    pub fn note_read(&self, tick: u32, dice: impl FnOnce() -> u32) {
        let word = self.mutable().load(Ordering::Relaxed);
        let mut access = Access::from_word(word);
        let since = tick.wrapping_sub(access.last) & TICK_MASK as u32;
        let pause = if access.reads < READS_EXACT { 1 } else { TICKS_BETWEEN_NOTES };
        if since < pause && access.reads != 0 {
            return;
        }
        access.last = tick;
        access.reads = reads_after(access.reads, dice());
        let _ = self.mutable().compare_exchange(
            word,
            access.word((word >> 32) as u32),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Bytes that this entry takes in its segment.
    pub fn log_bytes(&self) -> usize {
        match self.kind() {
            Kind::Whole => (self.key_at() + self.key_bytes() + self.value_bytes()).next_multiple_of(8) - self.at.byte(),
            Kind::Head => self.table_at() + 8 + self.fragment_count() * 8 - self.at.byte(),
            Kind::Fragment => HEADER_BYTES + self.value_bytes().next_multiple_of(8),
        }
    }

    /// Bytes that the whole object takes in the log, fragments and all.
    pub fn charged_bytes(&self) -> usize {
        let fragments: usize = match self.kind() {
            Kind::Head => self.fragments().map(Fragment::log_bytes).sum(),
            _ => 0,
        };
        self.log_bytes() + fragments
    }

    fn table_at(&self) -> usize {
        (self.key_at() + self.key_bytes()).next_multiple_of(8)
    }

    fn fragment_count(&self) -> usize {
        self.region.words()[self.table_at() / 8].load(Ordering::Relaxed) as usize
    }

    /// Where a head says that its fragments lie, a word each, in order.
    fn table(&self) -> &'t [AtomicU64] {
        debug_assert_eq!(self.kind(), Kind::Head);
        let (first, count) = (self.table_at() / 8 + 1, self.fragment_count());
        &self.region.words()[first..first + count]
    }

    /// Places of a head's fragments, in order.
    pub(crate) fn fragments(&self) -> impl Iterator<Item = Fragment> + 't {
        self.table().iter().map(|word| Fragment::from_word(word.load(Ordering::Acquire)))
    }

    pub(crate) fn fragment(&self, number: usize) -> Option<Fragment> {
        self.table().get(number).map(|word| Fragment::from_word(word.load(Ordering::Acquire)))
    }

    /// Points a head to a fragment's new place. The caller holds the lock of the key.
    pub(crate) fn set_fragment(&self, number: usize, fragment: Fragment) {
        self.table()[number].store(fragment.word(), Ordering::Release);
    }

    /// Hash of the key that a fragment belongs to.
    pub(crate) fn fragment_owner(&self) -> u64 {
        self.word(0)
    }

    /// The value of an object in one piece.
    fn piece(&self) -> &'t [u8] {
        // SAFETY: bytes of a published object (INV-GRACE).
        unsafe { self.region.bytes(self.key_at() + self.key_bytes(), self.value_bytes()) }
    }

    /// The value's pieces in order: one for most objects.
    pub fn value(&self) -> Value<'t> {
        match self.kind() {
            Kind::Head => Value { region: self.region, piece: None, table: self.table().iter() },
            Kind::Whole | Kind::Fragment => Value { region: self.region, piece: Some(self.piece()), table: [].iter() },
        }
    }

    /// The value in one new vector.
    pub fn value_to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.value_bytes());
        self.value().for_each(|piece| out.extend_from_slice(piece));
        out
    }
}

/// Pieces of a value, in order.
pub struct Value<'t> {
    region: &'t Region,
    /// All of it, of an object in one piece.
    piece: Option<&'t [u8]>,
    table: std::slice::Iter<'t, AtomicU64>,
}

impl<'t> Iterator for Value<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        self.piece.take().or_else(|| {
            let fragment = Fragment::from_word(self.table.next()?.load(Ordering::Acquire));
            // SAFETY: the table of a published head names a live fragment or its old place, which the turn keeps (INV-GRACE).
            Some(unsafe { self.region.bytes(fragment.piece_at(), fragment.len) })
        })
    }
}

/// One word of a head's table: location (40) and length (24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fragment {
    pub(crate) at: Location,
    pub(crate) len: usize,
}

impl Fragment {
    /// Bytes that it takes in its segment.
    pub(crate) fn log_bytes(self) -> usize {
        HEADER_BYTES + self.len.next_multiple_of(8)
    }

    /// Byte offset of its piece of the value.
    pub(crate) fn piece_at(self) -> usize {
        self.at.byte() + HEADER_BYTES
    }

    fn word(self) -> u64 {
        debug_assert!(self.len < 1 << 24);
        self.at.units() << 24 | self.len as u64
    }

    fn from_word(word: u64) -> Fragment {
        Fragment { at: Location::from_units(word >> 24), len: (word & 0xff_ffff) as usize }
    }
}

/// Writes an object in one piece at `at`.
///
/// # Safety
/// The caller owns `object.whole_bytes()` bytes at `at` in its open segment.
pub(crate) unsafe fn write_whole(region: &Region, at: Location, object: &NewObject<'_>) {
    // SAFETY: the range is the caller's.
    let mut at = unsafe { write_prefix(region, at, object, Kind::Whole) };
    for piece in object.value {
        // SAFETY: still within `whole_bytes`.
        unsafe { region.write(at, piece) };
        at += piece.len();
    }
}

/// Writes a head at `at`.
///
/// # Safety
/// The caller owns `object.head_bytes(fragments.len())` bytes at `at` in its open segment.
pub(crate) unsafe fn write_head(region: &Region, at: Location, object: &NewObject<'_>, fragments: &[Fragment]) {
    // SAFETY: the range is the caller's.
    let end = unsafe { write_prefix(region, at, object, Kind::Head) };
    let table = end.div_ceil(8);
    region.words()[table].store(fragments.len() as u64, Ordering::Relaxed);
    for (word, fragment) in region.words()[table + 1..].iter().zip(fragments) {
        word.store(fragment.word(), Ordering::Relaxed);
    }
}

/// Writes the header of a fragment of `len` bytes at `at`; its bytes go behind it. The caller owns the place, in its open segment.
pub(crate) fn write_fragment_header(region: &Region, at: Location, owner: u64, number: usize, len: usize) {
    debug_assert!(number < 1 << TICK_BITS);
    store_words(region, at, [owner, (len as u64) << 36 | (number as u64) << 8 | (Kind::Fragment as u64) << 1, 0]);
}

fn store_words(region: &Region, at: Location, words: [u64; 3]) {
    for (n, word) in words.into_iter().enumerate() {
        region.words()[at.word() + n].store(word, Ordering::Relaxed);
    }
}

/// Header, client flags and key; returns the byte offset behind them.
///
/// # Safety
/// As for `write_whole` and `write_head`.
unsafe fn write_prefix(region: &Region, at: Location, object: &NewObject<'_>, kind: Kind) -> usize {
    store_words(region, at, object.words(kind));
    let mut to = at.byte() + HEADER_BYTES;
    if object.client_flags != 0 {
        // SAFETY: the range is the caller's.
        unsafe { region.write(to, &object.client_flags.to_le_bytes()) };
        to += 4;
    }
    if let Some(unique) = object.unique {
        // SAFETY: the range is the caller's.
        unsafe { region.write(to, &unique.to_le_bytes()) };
        to += 8;
    }
    // SAFETY: the range is the caller's.
    unsafe { region.write(to, object.key) };
    to + object.key.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_gives_back_what_was_stored() {
        let region = Region::map(1 << 16).unwrap();
        let access = Access { last: TICK_MASK as u32, reads: 63, updates: 15, stale: true, won: false };
        let cases = [
            (0, 0, 0, None),
            (u32::MAX, VERSION_MAX, u32::MAX, Some(u64::MAX)),
            (1, 1, 1, Some(0)),
            (0, 1, 1, Some(7)),
        ];
        for (flags, version, expiry, unique) in cases {
            let object = NewObject {
                tenant: u16::MAX,
                key: b"a key",
                value: &[b"some ", b"value"],
                client_flags: flags,
                expiry,
                version,
                unique,
                birth: 77,
                access,
                history: 7,
                rescued: true,
            };
            let at = Location::from_byte(64);
            // SAFETY: the region is this test's own.
            let stored = unsafe {
                write_whole(&region, at, &object);
                Object::at(&region, at)
            };
            assert_eq!(
                (stored.tenant(), stored.version(), stored.client_flags(), stored.expiry()),
                (u16::MAX, version, flags, expiry)
            );
            assert_eq!((stored.key(), stored.value_to_vec().as_slice()), (&b"a key"[..], &b"some value"[..]));
            assert_eq!((stored.birth(), stored.history(), stored.rescued()), (77, 7, true));
            assert_eq!(stored.access(), access);
            assert_eq!(stored.log_bytes(), object.whole_bytes());
            assert_eq!((stored.chosen_unique(), stored.unique()), (unique, unique.unwrap_or(version)));
            stored.set_marks(false, true);
            assert_eq!(stored.access(), Access { stale: false, won: true, ..access });
            stored.set_marks(true, false);
            stored.set_expiry(9);
            assert_eq!((stored.expiry(), stored.access()), (9, access));
        }
    }

    #[test]
    fn read_counts_grow_slowly_and_never_wrap() {
        let mut quantised = 0;
        for _ in 0..100 {
            quantised = reads_after(quantised, 0);
        }
        assert_eq!(quantised, 63);
        assert!((0..63).all(|q| reads_estimate(q) < reads_estimate(q + 1)));
        assert_eq!(reads_after(40, u32::MAX), 40);
    }
}
