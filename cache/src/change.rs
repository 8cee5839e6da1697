//! Changes as callers state them, and what comes of them.

#[cfg(doc)]
use crate::Turn;
use crate::intent::FlashRead;

/// When a store is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Always.
    Set,
    /// Only if the key is unknown.
    Add,
    /// Only if it is known.
    Replace,
    /// If it is known: behind its value.
    Append,
    /// If it is known: before its value.
    Prepend,
}

/// A store: what, and on which conditions.
#[derive(Clone, Copy, Debug)]
pub struct Storing<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value, or what is put to its end or beginning.
    pub value: &'a [u8],
    /// When it is carried out.
    pub mode: Mode,
    /// memcached's opaque 32 bits. Not changed by append and prepend.
    pub client_flags: u32,
    /// Absolute second of expiry, 0 for never. Not changed by append and prepend.
    pub expiry: u32,
    /// Only if the key's unique is this.
    pub compare: Option<u64>,
    /// Its new unique, instead of one that the cache makes.
    pub unique: Option<u64>,
    /// If `compare` is lower than the key's unique: store all the same, marked stale, with the expiry and the winner that the
    /// key has.
    pub stale_if_lower: bool,
    /// Append and prepend: store what is given if the key is unknown.
    pub create: bool,
}

impl<'a> Storing<'a> {
    /// A store without conditions beside its mode.
    pub fn new(mode: Mode, key: &'a [u8], value: &'a [u8]) -> Storing<'a> {
        Storing {
            key,
            value,
            mode,
            client_flags: 0,
            expiry: 0,
            compare: None,
            unique: None,
            stale_if_lower: false,
            create: false,
        }
    }
}

/// What was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The key's CAS unique now.
    pub unique: u64,
    /// Bytes of its value now.
    pub value_bytes: usize,
}

/// What a change needs before it can be decided.
#[derive(Debug)]
pub enum Needs {
    /// What is on flash: read this, call [`Turn::promote`], and try again.
    Flash(FlashRead),
    /// Memory that the cleaner has yet to free: end the turn, wait a little, and try again.
    Room,
    /// More memory than there is at all, or than comes free where nothing that lives may be dropped ([`crate::CacheSettings::evict`]): it was not done.
    Full,
}

/// What came of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It is stored.
    Yes(Written),
    /// The mode's condition does not hold.
    No,
    /// The unique is another than the compared.
    Changed,
    /// There is no key to compare.
    Unknown,
    /// The result would be larger than an object may be.
    TooLarge,
}

/// Direction of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delta {
    /// Up, wrapping at 2^64.
    Increment(u64),
    /// Down, stopping at 0.
    Decrement(u64),
}

/// A counter's change.
#[derive(Clone, Copy, Debug)]
pub struct Counting<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Up or down, and by how much.
    pub delta: Delta,
    /// Only if the key's unique is this.
    pub compare: Option<u64>,
    /// Its new unique, instead of one that the cache makes.
    pub unique: Option<u64>,
    /// Its new expiry, instead of the one it has.
    pub expiry: Option<u32>,
    /// If the key is unknown: store this number, with this expiry.
    pub create: Option<(u64, u32)>,
}

impl<'a> Counting<'a> {
    /// A change without conditions.
    pub fn new(key: &'a [u8], delta: Delta) -> Counting<'a> {
        Counting { key, delta, compare: None, unique: None, expiry: None, create: None }
    }
}

/// What came of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It has a new value.
    Is {
        /// The value.
        number: u64,
        /// The key's CAS unique now.
        unique: u64,
        /// Its expiry now.
        expiry: u32,
    },
    /// The value is no number.
    NotANumber,
    /// The unique is another than the compared.
    Changed,
    /// The key is unknown.
    Unknown,
}

/// A removal with conditions, or one that leaves something behind (meta protocol).
#[derive(Clone, Copy, Debug)]
pub struct Removing<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Only if the key's unique is this.
    pub compare: Option<u64>,
    /// Leave it, marked stale, for the next client to win.
    pub stale: bool,
    /// Leave it without its value, with these client flags and this expiry.
    pub blank: Option<(u32, u32)>,
    /// What is left behind gets this unique, instead of one that the cache makes.
    pub unique: Option<u64>,
    /// What is left behind, stale, gets this expiry.
    pub expiry: Option<u32>,
}

/// What came of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// It is gone, or left behind as was asked for.
    Yes,
    /// The unique is another than the compared.
    Changed,
    /// The key is unknown.
    Unknown,
}

/// Whether a touch found its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touched {
    /// It has its new expiry.
    Yes,
    /// The key is unknown.
    Unknown,
}
