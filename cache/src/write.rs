//! The life of a store, a counter, a touch, a delete and a flush.
//!
//! Every change holds its key's lock from the look at what is there to the last index entry that it touches: in DRAM it
//! publishes, on flash it hides, so no reader that begins afterwards finds anything older (INV-FRESH, INV-ONE-PLACE). A change
//! that depends on what is there, and finds it may be on flash, asks for it to be read and *promoted* to DRAM first.

use std::sync::atomic::Ordering;

use flash_store::Page;
use log_memory::{Access, KeyLock, Landing, NewObject, NoLanding, Object};

use crate::counters::Count;
use crate::intent::FlashRead;
use crate::{Cache, Hands, Turn};

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

/// Where a store's value is.
enum Content<'a> {
    /// Somewhere, in pieces.
    Pieces(&'a [&'a [u8]]),
    /// In its place already.
    Landed(&'a mut Landing),
}

/// What a store writes, besides the value.
#[derive(Clone, Copy)]
struct Writing<'a> {
    tenant: u16,
    key: &'a [u8],
    client_flags: u32,
    expiry: u32,
    unique: Option<u64>,
    stale: bool,
    won: bool,
}

impl<'a> Writing<'a> {
    /// What `live` has, under a fresh unique.
    fn like(live: Object<'_>, tenant: u16, key: &'a [u8]) -> Writing<'a> {
        let Access { stale, won, .. } = live.access();
        let (client_flags, expiry) = (live.client_flags(), live.expiry());
        Writing { tenant, key, client_flags, expiry, unique: None, stale, won }
    }
}

impl Turn<'_> {
    /// Stores a value.
    pub fn store(&mut self, tenant: u16, storing: &Storing<'_>) -> Result<Stored, Needs> {
        self.store_content(tenant, storing, Content::Pieces(&[storing.value]))
    }

    /// Makes room for a large value that is arriving, for a store that is no append or prepend. None: collect it, and [store](Turn::store) it.
    ///
    /// # Errors
    /// The cleaner has to make room first.
    pub fn land(&mut self, tenant: u16, key: &[u8], bytes: usize) -> Result<Option<Landing>, Needs> {
        let cache = self.cache;
        match cache.memory.land(&mut self.hands.writer, tenant, cache.memory.hash(tenant, key), bytes) {
            Ok(landing) => Ok(Some(landing)),
            Err(NoLanding::NoSpace { segments }) if cache.settings.evict => Err(cache.want_room(segments)),
            Err(_) => Ok(None),
        }
    }

    /// Stores a value that has landed, instead of the one that `storing` has. The landing is used up if the store is carried out; otherwise, and
    /// if the answer is that something is needed first, it stays as it is.
    pub fn store_landed(&mut self, tenant: u16, storing: &Storing<'_>, landing: &mut Landing) -> Result<Stored, Needs> {
        debug_assert!(!matches!(storing.mode, Mode::Append | Mode::Prepend));
        if landing.hash() == self.cache.memory.hash(tenant, storing.key) {
            return self.store_content(tenant, storing, Content::Landed(landing));
        }
        // whose the key is has changed meanwhile
        self.store_content(tenant, storing, Content::Pieces(&landing.pieces()))
    }

    fn store_content(&mut self, tenant: u16, storing: &Storing<'_>, content: Content<'_>) -> Result<Stored, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let Storing { key, mode, client_flags, expiry, .. } = *storing;
        let hash = cache.memory.hash(tenant, key);
        if cache.memory.index_wants_help() {
            cache.help_index(guard);
        }
        let lock = cache.memory.lock(hash);
        let old = cache.published(guard, tenant, key, hash);
        let live = old.filter(|old| cache.is_dead(tenant, key, old.version(), old.expiry()).is_none());
        if live.is_none()
            && (mode != Mode::Set || storing.compare.is_some())
            && let Some(read) = cache.flash_read(tenant, key, hash)
        {
            return Err(Needs::Flash(read));
        }
        let mut writing =
            Writing { tenant, key, client_flags, expiry, unique: storing.unique, stale: false, won: false };
        let outcome = match (compared(storing, live), mode, live) {
            (Comparison::Missing, Mode::Set | Mode::Replace, _) => Ok(Stored::Unknown),
            (Comparison::Differs, Mode::Set | Mode::Replace | Mode::Append | Mode::Prepend, _) => Ok(Stored::Changed),
            (Comparison::Lower, Mode::Set | Mode::Replace, Some(live)) => {
                (writing.expiry, writing.stale, writing.won) = (live.expiry(), true, live.access().won);
                cache.write(guard, hands, &lock, old, &writing, content).map(Stored::Yes)
            }
            (_, Mode::Add, Some(live)) => {
                live.note_read(cache.clock.tick(), || 0); // as in memcached, an add that fails counts as a use
                Ok(Stored::No)
            }
            (_, Mode::Append | Mode::Prepend, Some(live)) => {
                let kept = Writing { unique: storing.unique, ..Writing::like(live, tenant, key) };
                cache.extend(guard, hands, &lock, live, &kept, mode, storing.value)
            }
            (_, Mode::Replace, None) => Ok(Stored::No),
            (_, Mode::Append | Mode::Prepend, None) if !storing.create => Ok(Stored::No),
            _ => cache.write(guard, hands, &lock, old, &writing, content).map(Stored::Yes),
        }?;
        hands.count_access(cache);
        hands.count_store(tenant, storing, outcome);
        if let (Some(dead), None, Stored::Yes(_)) = (old, live, outcome) {
            hands.count_reclaimed(tenant, &dead);
        }
        Ok(outcome)
    }

    /// Changes a decimal counter. The text keeps its length when it gets shorter, padded with spaces, as in memcached.
    pub fn arithmetic(&mut self, tenant: u16, counting: &Counting<'_>) -> Result<Counted, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let key = counting.key;
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let (hits, misses) = match counting.delta {
            Delta::Increment(_) => (Count::IncrHits, Count::IncrMisses),
            Delta::Decrement(_) => (Count::DecrHits, Count::DecrMisses),
        };
        let old = cache.published(guard, tenant, key, hash);
        let live = old.filter(|old| cache.is_dead(tenant, key, old.version(), old.expiry()).is_none());
        let Some(live) = live else {
            if let Some(read) = cache.flash_read(tenant, key, hash) {
                return Err(Needs::Flash(read));
            }
            let Some((number, expiry)) = counting.create else {
                hands.count(tenant, misses);
                return Ok(Counted::Unknown);
            };
            let unique = counting.unique;
            let writing = Writing { tenant, key, client_flags: 0, expiry, unique, stale: false, won: false };
            let digits = number.to_string();
            let written = cache.write(guard, hands, &lock, old, &writing, Content::Pieces(&[digits.as_bytes()]))?;
            return Ok(Counted::Is { number, unique: written.unique, expiry });
        };
        let text = if live.value_bytes() > 24 { Vec::new() } else { live.value_to_vec() };
        if counting.compare.is_some_and(|unique| unique != 0 && unique != live.unique()) {
            return Ok(Counted::Changed);
        }
        let Some(number) = parse_counter(&text) else { return Ok(Counted::NotANumber) };
        let number = match counting.delta {
            Delta::Increment(by) => number.wrapping_add(by),
            Delta::Decrement(by) => number.saturating_sub(by),
        };
        let mut digits = number.to_string().into_bytes();
        digits.resize(digits.len().max(text.len()), b' ');
        let expiry = counting.expiry.unwrap_or_else(|| live.expiry());
        let writing = Writing { unique: counting.unique, expiry, ..Writing::like(live, tenant, key) };
        let written = cache.write(guard, hands, &lock, Some(live), &writing, Content::Pieces(&[&digits]))?;
        hands.count(tenant, hits);
        hands.count_access(cache);
        Ok(Counted::Is { number, unique: written.unique, expiry })
    }

    /// Removes a key on conditions, or leaves it behind stale or blank.
    pub fn remove(&mut self, tenant: u16, removing: &Removing<'_>) -> Result<Removed, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let key = removing.key;
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let Some(live) = cache.live(guard, tenant, key, hash) else {
            if let Some(read) = cache.flash_read(tenant, key, hash) {
                return Err(Needs::Flash(read));
            }
            hands.count(tenant, Count::DeleteMisses);
            return Ok(Removed::Unknown);
        };
        if removing.compare.is_some_and(|unique| unique != live.unique()) {
            hands.count(tenant, Count::DeleteMisses);
            return Ok(Removed::Changed);
        }
        if !removing.stale && removing.blank.is_none() {
            cache.hide(&lock, live);
            cache.note_deleted(tenant, hash);
        } else {
            let mut writing = Writing::like(live, tenant, key);
            let mut value: Vec<&[u8]> = live.value().collect();
            if let Some((client_flags, expiry)) = removing.blank {
                value = Vec::new();
                (writing.client_flags, writing.expiry, writing.stale, writing.won) =
                    (client_flags, expiry, false, false);
                writing.unique = Some(live.unique());
            }
            if removing.stale {
                (writing.stale, writing.won, writing.unique) = (true, false, None);
                writing.expiry = removing.expiry.unwrap_or(writing.expiry);
            }
            writing.unique = removing.unique.or(writing.unique);
            cache.write(guard, hands, &lock, Some(live), &writing, Content::Pieces(&value))?;
        }
        hands.count(tenant, Count::DeleteHits);
        hands.count_access(cache);
        Ok(Removed::Yes)
    }

    /// Gives a key another expiry.
    pub fn touch(&mut self, tenant: u16, key: &[u8], expiry: u32) -> Result<Touched, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let live = cache.live(guard, tenant, key, hash);
        if live.is_none()
            && let Some(read) = cache.flash_read(tenant, key, hash)
        {
            return Err(Needs::Flash(read));
        }
        if let Some(live) = live {
            live.set_expiry(expiry);
            live.note_read(cache.clock.tick(), || 0);
        }
        drop(lock);
        hands.count(tenant, Count::Touches);
        hands.count(tenant, if live.is_some() { Count::TouchHits } else { Count::TouchMisses });
        hands.count_access(cache);
        Ok(if live.is_some() { Touched::Yes } else { Touched::Unknown })
    }

    /// Deletes a key in both tiers. What could be its copy on flash is hidden without a read; true if anything was known.
    pub fn delete(&mut self, tenant: u16, key: &[u8]) -> bool {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let mut found = false;
        if let Some(old) = cache.published(guard, tenant, key, hash) {
            found = cache.is_dead(tenant, key, old.version(), old.expiry()).is_none();
            cache.hide(&lock, old);
        }
        if let Some(flash) = &cache.flash {
            found |= flash.hide(hash, tenant, key);
        }
        cache.note_deleted(tenant, hash);
        drop(lock);
        hands.count(tenant, if found { Count::DeleteHits } else { Count::DeleteMisses });
        hands.count_access(cache);
        found
    }

    /// Drops everything that a tenant has stored until now, or until the second `at`. None: every tenant that is told by its keys, as
    /// whoever may use their keys can change them anyhow; tenants with ports and users of their own are not touched.
    pub fn flush_all(&mut self, tenant: Option<u16>, at: Option<u32>) {
        let Turn { cache, hands, .. } = self;
        hands.count(tenant.unwrap_or(0), Count::Flushes);
        for tenant in cache.reach(tenant) {
            match at.filter(|at| *at > cache.now()) {
                Some(at) => {
                    cache.standing(tenant).flush_due.store(at, Ordering::Relaxed);
                    cache.note_due(tenant, at);
                }
                None => {
                    if cache.standing(tenant).flush_due.swap(0, Ordering::Relaxed) != 0 {
                        cache.note_due(tenant, 0);
                    }
                    cache.flush_tenant(tenant);
                }
            }
        }
    }

    /// Brings the object that was read from flash back to DRAM, so that a change can be decided. Where the read shows that
    /// flash does not hold the key, what could be mistaken for it is hidden. Returns what is still to be read, if anything.
    pub fn promote(&mut self, mut read: FlashRead, pages: Option<&[Page]>) -> Result<(), Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let flash = cache.flash_tier();
        let lock = cache.memory.lock(read.hash);
        let old = cache.published(guard, read.tenant, &read.key, read.hash);
        if old.is_some_and(|old| cache.is_dead(read.tenant, &read.key, old.version(), old.expiry()).is_none()) {
            return Ok(()); // somebody stored it meanwhile
        }
        let place = read.places[0];
        let buffered = flash.buffered(&place);
        flash.note_read(place.segment, buffered.is_some() || pages.is_some());
        let record =
            buffered.as_deref().or(pages).and_then(|pages| flash.verify(&place, read.tenant, &read.key, pages));
        let Some(record) = record.filter(|_| flash.still_holds(&place)) else {
            read.places.pop_front();
            if !read.places.is_empty() {
                return Err(Needs::Flash(read));
            }
            flash.hide(read.hash, read.tenant, &read.key);
            return Ok(());
        };
        if cache.is_dead(read.tenant, &read.key, record.head.version, record.head.expiry).is_none() {
            let mut object = cache.object_of(read.hash, &record, true);
            // it comes because a client asks for it, who may also ask when it was used last
            object.access.last = cache.clock.tick_at(record.head.accessed);
            object.access.reads = record.head.reads.min(1);
            let at = cache.append(hands, read.hash, &object)?;
            cache.publish(guard, &lock, at, old);
        }
        flash.hide(read.hash, read.tenant, &read.key);
        Ok(())
    }
}

/// How a store's compared unique stands to its key's.
enum Comparison {
    /// Nothing is compared, or it is the same.
    Fits,
    /// There is no key.
    Missing,
    /// It is another.
    Differs,
    /// It is lower, and the store is content with that.
    Lower,
}

fn compared(storing: &Storing<'_>, live: Option<Object<'_>>) -> Comparison {
    match (storing.compare, live.map(|live| live.unique())) {
        (None, _) => Comparison::Fits,
        (Some(_), None) => Comparison::Missing,
        (Some(wanted), Some(unique)) if wanted == unique => Comparison::Fits,
        (Some(wanted), Some(unique)) if storing.stale_if_lower && wanted < unique => Comparison::Lower,
        _ => Comparison::Differs,
    }
}

/// A counter's value as C's strtoull reads it: digits, maybe behind spaces, up to a space or the end.
fn parse_counter(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii_start();
    let digits = text.split(|c: char| c.is_ascii_whitespace()).next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Hands {
    /// A dead object has made room.
    pub(crate) fn count_reclaimed(&self, tenant: u16, dead: &Object<'_>) {
        self.count(tenant, Count::Reclaimed);
        if dead.access().reads == 0 {
            self.count(tenant, Count::ExpiredUnread);
        }
    }

    /// A living object has left the cache.
    pub(crate) fn count_eviction(&self, tenant: u16, was_read: bool) {
        self.count(tenant, Count::Evictions);
        if !was_read {
            self.count(tenant, Count::EvictedUnread);
        }
    }

    fn count_store(&self, tenant: u16, storing: &Storing<'_>, outcome: Stored) {
        self.count(tenant, Count::Sets);
        if storing.compare.is_some() {
            match outcome {
                Stored::Yes(_) => self.count(tenant, Count::CasHits),
                Stored::Changed => self.count(tenant, Count::CasBadval),
                _ => self.count(tenant, Count::CasMisses),
            }
        }
    }
}

impl Cache {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a turn, apart so that views and hands can be borrowed at once"
    )]
    fn extend(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        lock: &KeyLock<'_>,
        live: Object<'_>,
        writing: &Writing<'_>,
        mode: Mode,
        value: &[u8],
    ) -> Result<Stored, Needs> {
        let total = live.value_bytes() + value.len() + writing.key.len();
        if total > self.settings.item_bytes_max {
            return Ok(Stored::TooLarge);
        }
        let mut pieces: Vec<&[u8]> = live.value().collect();
        match mode {
            Mode::Append => pieces.push(value),
            _ => pieces.insert(0, value),
        }
        self.write(guard, hands, lock, Some(live), writing, Content::Pieces(&pieces)).map(Stored::Yes)
    }

    /// Appends, publishes, hides what was there before, and keeps the accounts.
    fn write(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        lock: &KeyLock<'_>,
        old: Option<Object<'_>>,
        writing: &Writing<'_>,
        content: Content<'_>,
    ) -> Result<Written, Needs> {
        let (tenant, hash) = (writing.tenant, lock.hash());
        let tick = self.clock.tick();
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let updates = old.map_or(0, |old| (old.access().updates + 1).min(15));
        let landed: Vec<&[u8]>;
        let value = match &content {
            Content::Pieces(pieces) => *pieces,
            Content::Landed(landing) => {
                landed = landing.pieces();
                &landed
            }
        };
        let value_bytes = value.iter().map(|piece| piece.len()).sum::<usize>();
        let object = NewObject {
            tenant,
            key: writing.key,
            value,
            client_flags: writing.client_flags,
            expiry: writing.expiry,
            version,
            unique: writing.unique,
            birth: tick,
            access: Access { last: tick, updates, stale: writing.stale, won: writing.won, ..Access::default() },
            history: old.map_or_else(|| self.history.level(hash), |old| self.history_after(hash, &old)),
            rescued: false,
        };
        let at = match &content {
            Content::Pieces(_) => self.append(hands, hash, &object)?,
            Content::Landed(landing) => {
                let head = self.memory.append_landed(&mut hands.writer, &object, landing);
                head.map_err(|_| self.want_room(1))?
            }
        };
        self.publish(guard, lock, at, old);
        if let Content::Landed(landing) = content {
            landing.hand_over();
        }
        if let Some(flash) = &self.flash {
            flash.hide(hash, tenant, writing.key);
        }
        if self.is_sampled(hash) {
            self.sampler(tenant).stored(hash, self.clock.tick());
        }
        hands.count(tenant, Count::Stored);
        hands.count_by(tenant, Count::StoredBytes, (writing.key.len() + value_bytes) as u64);
        Ok(Written { unique: writing.unique.unwrap_or(version), value_bytes })
    }

    /// Stores a key without a value, won by the client that asked for it.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a turn, apart so that views and hands can be borrowed at once"
    )]
    pub(crate) fn create_won<'t>(
        &'t self,
        guard: &'t log_memory::Turn<'_>,
        hands: &mut Hands,
        lock: &KeyLock<'_>,
        old: Option<Object<'_>>,
        tenant: u16,
        key: &[u8],
        expiry: u32,
        unique: Option<u64>,
    ) -> Result<Object<'t>, Needs> {
        let writing = Writing { tenant, key, client_flags: 0, expiry, unique, stale: false, won: true };
        self.write(guard, hands, lock, old, &writing, Content::Pieces(&[]))?;
        Ok(self.published(guard, tenant, key, lock.hash()).expect("it was published under this lock"))
    }

    /// Appends an object, or tells the cleaner how much room it takes.
    pub(crate) fn append(
        &self,
        hands: &mut Hands,
        hash: u64,
        object: &NewObject<'_>,
    ) -> Result<log_memory::Location, Needs> {
        self.memory
            .append(&mut hands.writer, hash, object)
            .map_err(|_| self.want_room(object.whole_bytes().div_ceil(self.memory.shape().segment_bytes) + 1))
    }

    /// Tells the cleaner how many segments somebody waits for.
    fn want_room(&self, segments: usize) -> Needs {
        self.room_wanted.fetch_max(segments, Ordering::Relaxed);
        Needs::Room
    }

    /// What is published for a key in DRAM, dead or alive.
    pub(crate) fn published<'t>(
        &'t self,
        guard: &'t log_memory::Turn<'_>,
        tenant: u16,
        key: &[u8],
        hash: u64,
    ) -> Option<Object<'t>> {
        self.memory.find(guard, hash, tenant, key)
    }

    pub(crate) fn live<'t>(
        &'t self,
        guard: &'t log_memory::Turn<'_>,
        tenant: u16,
        key: &[u8],
        hash: u64,
    ) -> Option<Object<'t>> {
        let found = self.published(guard, tenant, key, hash);
        found.filter(|object| self.is_dead(tenant, key, object.version(), object.expiry()).is_none())
    }

    /// Publishes an appended object in place of `old` and keeps the accounts.
    pub(crate) fn publish(
        &self,
        guard: &log_memory::Turn<'_>,
        lock: &KeyLock<'_>,
        at: log_memory::Location,
        old: Option<Object<'_>>,
    ) {
        let new = self.memory.appended(guard, at);
        let (tenant, bytes) = (new.tenant(), new.charged_bytes() as i64);
        let freed = old.map_or(0, |old| old.charged_bytes() as i64);
        self.memory.publish(guard, lock, at, old);
        let owner = self.registry.tenant(tenant);
        owner.account.charge(bytes - freed);
        if owner.curve.follows(lock.hash()) {
            owner.curve.stored(lock.hash(), bytes as usize);
        }
    }

    /// Hides a published object and keeps the accounts. The caller holds its key's lock.
    pub(crate) fn hide(&self, lock: &KeyLock<'_>, object: Object<'_>) -> bool {
        let (tenant, bytes) = (object.tenant(), object.charged_bytes() as i64);
        let hidden = self.memory.hide(lock, object);
        if hidden {
            self.registry.tenant(tenant).account.charge(-bytes);
        }
        hidden
    }

    /// A key was deleted: the predictor and the curve learn from it.
    fn note_deleted(&self, tenant: u16, hash: u64) {
        if self.is_sampled(hash) {
            self.sampler(tenant).deleted(hash, self.clock.tick());
        }
        let curve = &self.registry.tenant(tenant).curve;
        if curve.follows(hash) {
            curve.deleted(hash);
        }
    }

    pub(crate) fn flush_tenant(&self, tenant: u16) {
        let version = self.version.load(Ordering::Relaxed);
        self.standing(tenant).flushed.fetch_max(version, Ordering::Relaxed);
        if let Some(journal) = self.journal() {
            journal.note(flash_store::Note::Flushed { tenant, version });
        }
    }

    /// A flush is to come, or is not any more.
    pub(crate) fn note_due(&self, tenant: u16, at: u32) {
        if let Some(journal) = self.journal() {
            journal.note(flash_store::Note::Due { tenant, at });
        }
    }

    /// Remembers a key whose object leaves the cache: it came with the level `before`, and its reads are told by `reads` (as an object counts
    /// them).
    pub(crate) fn remember(&self, hash: u64, before: u8, reads: u8) {
        self.history.left(hash, before, log_memory::reads_estimate(reads) + 1, self.dice_of(hash));
    }

    /// The history of a key whose value is replaced: its reads are not forgotten.
    fn history_after(&self, hash: u64, old: &Object<'_>) -> u8 {
        match log_memory::reads_estimate(old.access().reads) {
            0 => old.history(),
            reads => predictor::level_after(old.history(), reads, self.dice_of(hash)),
        }
    }

    /// Bits that are uniform over keys and ticks.
    pub(crate) fn dice_of(&self, hash: u64) -> u64 {
        log_memory::mix(hash ^ u64::from(self.clock.tick()))
    }

    /// The DRAM object that a flash record becomes: a new arrival that has proved itself once. `was_hit`: on flash, since it was written there.
    pub(crate) fn object_of<'r>(&self, hash: u64, record: &'r flash_store::Record<'r>, was_hit: bool) -> NewObject<'r> {
        let tick = self.clock.tick();
        NewObject {
            tenant: record.head.tenant,
            key: record.head.key,
            value: std::slice::from_ref(&record.value),
            client_flags: record.head.client_flags,
            expiry: record.head.expiry,
            version: record.head.version,
            unique: None,
            birth: tick,
            access: Access { last: tick, updates: record.head.updates, won: record.head.won, ..Access::default() },
            history: self.record_history_after(hash, &record.head, was_hit),
            rescued: true,
        }
    }

    /// Publishes what was read from flash in DRAM, if there is room at once; where it lay on flash is still to be hidden. Returns whether it is there.
    pub(crate) fn return_to_dram(
        &self,
        guard: &log_memory::Turn<'_>,
        lock: &KeyLock<'_>,
        hands: &mut Hands,
        hash: u64,
        object: &NewObject<'_>,
    ) -> bool {
        // the last free segment is the cleaner's
        let at = (self.memory.segments_free() > 1).then(|| self.memory.append(&mut hands.writer, hash, object).ok());
        let Some(at) = at.flatten() else { return false };
        self.publish(guard, lock, at, None);
        true
    }

    /// What a record's history is when its stay on flash ends, with what it began with in DRAM.
    pub(crate) fn record_history_after(&self, hash: u64, head: &flash_store::RecordHead<'_>, was_hit: bool) -> u8 {
        // one that was rescued before came by no access
        let came = u32::from(!head.rescued);
        let accesses = came + log_memory::reads_estimate(head.reads) + u32::from(was_hit);
        predictor::level_after(head.history, accesses, self.dice_of(hash))
    }
}
