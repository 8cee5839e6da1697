//! What the driver is asked to read, and what comes of it.

use std::borrow::Cow;

use flash_store::{Place, Places, Record};

/// A read that the driver is to perform: `pages` pages at byte offset `at` of the flash device. Hand the pages to
/// [`crate::Turn::complete`] (for a get) or [`crate::Turn::promote`] (for a change).
#[derive(Debug)]
pub struct FlashRead {
    pub(crate) tenant: u16,
    pub(crate) key: Box<[u8]>,
    pub(crate) hash: u64,
    pub(crate) places: Places,
    /// Kept of each place that did not hold the key.
    pub(crate) strangers: Vec<Place>,
}

impl FlashRead {
    /// Byte offset on the device.
    pub fn at(&self) -> u64 {
        self.places[0].at
    }

    /// Pages to read.
    pub fn pages(&self) -> usize {
        self.places[0].pages
    }

    /// The key that is being looked for.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// An object that was read from flash. Its value lies in the pages that were read; of what is still in a buffer it is a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlashObject<'p> {
    /// memcached's opaque 32 bits.
    pub client_flags: u32,
    /// Its CAS unique.
    pub unique: u64,
    /// Absolute second of expiry; 0 for never.
    pub expiry: u32,
    /// Whether it was read since it was stored, as far as DRAM saw.
    pub was_read: bool,
    /// Absolute second of its last access in DRAM.
    pub accessed: u32,
    /// A client holds the right to recache it.
    pub won: bool,
    /// The value.
    pub value: Cow<'p, [u8]>,
}

impl<'p> FlashObject<'p> {
    pub(crate) fn of(record: &Record<'p>) -> FlashObject<'p> {
        FlashObject {
            client_flags: record.head.client_flags,
            unique: record.head.version,
            expiry: record.head.expiry,
            was_read: record.head.reads > 0,
            accessed: record.head.accessed,
            won: record.head.won,
            value: Cow::Borrowed(record.value),
        }
    }

    /// One that outlives the pages.
    pub(crate) fn into_owned(self) -> FlashObject<'static> {
        FlashObject { value: Cow::Owned(self.value.into_owned()), ..self }
    }
}

/// What a completed read means.
#[derive(Debug)]
pub enum Completed<'p> {
    /// The object was there.
    Hit(FlashObject<'p>),
    /// It may lie elsewhere: perform the read again, which says now where. Rare: two keys shared a tag.
    Again,
    /// It is not on flash.
    Miss,
}
