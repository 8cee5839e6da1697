//! The life of a store, a counter, a touch, a delete and a flush.
//!
//! Every change holds its key's lock from the look at what is there to the last index entry that it touches: in DRAM it
//! publishes, on flash it hides, so no reader that begins afterwards finds anything older (INV-FRESH, INV-ONE-PLACE). A change
//! that depends on what is there, and finds it may be on flash, asks for it to be read and *promoted* to DRAM first.

use std::sync::atomic::Ordering;

use flash_store::Page;
use log_memory::{Access, KeyLock, NewObject, Object};

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
    /// If it is known and its version is still this.
    Cas(u64),
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
    /// It is stored, with this version.
    Yes(u64),
    /// The mode's condition does not hold.
    No,
    /// The version is another (cas).
    Changed,
    /// The key is unknown (cas).
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

/// What came of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Its new value, and version.
    Is(u64, u64),
    /// The value is no number.
    NotANumber,
    /// The key is unknown.
    Unknown,
}

/// A counter's change.
pub type Arithmetic = Result<Counted, Needs>;

/// Whether a touch found its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touched {
    /// It has its new expiry.
    Yes,
    /// The key is unknown.
    Unknown,
}

/// What a store writes, besides key and value.
struct Writing<'a> {
    tenant: u16,
    key: &'a [u8],
    client_flags: u32,
    expiry: u32,
}

impl Turn<'_> {
    /// Stores a value. `expiry` is an absolute second, 0 for never.
    pub fn store(
        &mut self,
        tenant: u16,
        key: &[u8],
        mode: Mode,
        client_flags: u32,
        expiry: u32,
        value: &[u8],
    ) -> Result<Stored, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let old = cache.published(guard, tenant, key, hash);
        let live = old.filter(|old| cache.is_dead(tenant, old.version(), old.expiry()).is_none());
        if live.is_none()
            && mode != Mode::Set
            && let Some(read) = cache.flash_read(tenant, key, hash)
        {
            return Err(Needs::Flash(read));
        }
        let writing = Writing { tenant, key, client_flags, expiry };
        let outcome = match (mode, live) {
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => {
                cache.write(guard, hands, &lock, old, &writing, &[value]).map(Stored::Yes)
            }
            (Mode::Cas(version), Some(live)) if live.version() == version => {
                cache.write(guard, hands, &lock, old, &writing, &[value]).map(Stored::Yes)
            }
            (Mode::Cas(_), Some(_)) => Ok(Stored::Changed),
            (Mode::Cas(_), None) => Ok(Stored::Unknown),
            (Mode::Append | Mode::Prepend, Some(live)) => {
                cache.extend(guard, hands, &lock, live, &writing, mode, value)
            }
            (Mode::Add, Some(live)) => {
                live.note_read(cache.clock.tick(), 0); // as in memcached, an add that fails counts as a use
                Ok(Stored::No)
            }
            (Mode::Replace | Mode::Append | Mode::Prepend, None) => Ok(Stored::No),
        }?;
        hands.count_access(cache);
        hands.count_store(tenant, mode, outcome);
        Ok(outcome)
    }

    /// Changes a decimal counter. The text keeps its length when it gets shorter, padded with spaces, as in memcached.
    pub fn arithmetic(&mut self, tenant: u16, key: &[u8], delta: Delta) -> Arithmetic {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        let lock = cache.memory.lock(hash);
        let (hits, misses) = match delta {
            Delta::Increment(_) => (Count::IncrHits, Count::IncrMisses),
            Delta::Decrement(_) => (Count::DecrHits, Count::DecrMisses),
        };
        let Some(live) = cache.live(guard, tenant, key, hash) else {
            if let Some(read) = cache.flash_read(tenant, key, hash) {
                return Err(Needs::Flash(read));
            }
            hands.count(tenant, misses);
            return Ok(Counted::Unknown);
        };
        let text = if live.value_bytes() > 24 { Vec::new() } else { live.value_to_vec() };
        let Some(number) = parse_counter(&text) else { return Ok(Counted::NotANumber) };
        let result = match delta {
            Delta::Increment(by) => number.wrapping_add(by),
            Delta::Decrement(by) => number.saturating_sub(by),
        };
        let mut digits = result.to_string().into_bytes();
        digits.resize(digits.len().max(text.len()), b' ');
        let writing = Writing { tenant, key, client_flags: live.client_flags(), expiry: live.expiry() };
        let version = cache.write(guard, hands, &lock, Some(live), &writing, &[&digits])?;
        hands.count(tenant, hits);
        hands.count_access(cache);
        Ok(Counted::Is(result, version))
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
            live.note_read(cache.clock.tick(), 0);
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
            found = cache.is_dead(tenant, old.version(), old.expiry()).is_none();
            cache.hide(&lock, old);
        }
        if let Some(flash) = &cache.flash {
            found |= flash.hide(hash, tenant, key);
        }
        if cache.is_sampled(hash) {
            cache.sampler(tenant).deleted(hash);
        }
        drop(lock);
        hands.count(tenant, if found { Count::DeleteHits } else { Count::DeleteMisses });
        hands.count_access(cache);
        found
    }

    /// Drops everything that a tenant (None: every tenant) has stored until now, or until the second `at`.
    pub fn flush_all(&mut self, tenant: Option<u16>, at: Option<u32>) {
        let Turn { cache, hands, .. } = self;
        let tenants = match tenant {
            Some(tenant) => tenant..tenant + 1,
            None => 0..cache.flushed.len() as u16,
        };
        hands.count(tenants.start, Count::Flushes);
        for tenant in tenants {
            match at.filter(|at| *at > cache.now()) {
                Some(at) => cache.flush_due[usize::from(tenant)].store(at, Ordering::Relaxed),
                None => {
                    cache.flush_due[usize::from(tenant)].store(0, Ordering::Relaxed);
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
        if cache.published(guard, read.tenant, &read.key, read.hash).is_some() {
            return Ok(()); // somebody stored it meanwhile
        }
        let place = read.places[0];
        let buffered = flash.buffered(&place);
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
        if cache.is_dead(read.tenant, record.head.version, record.head.expiry).is_none() {
            let object = cache.object_of(&record);
            let at = cache.append(hands, read.hash, &object)?;
            cache.publish(guard, &lock, at, None);
        }
        flash.hide(read.hash, read.tenant, &read.key);
        Ok(())
    }
}

/// A counter's value as C's strtoull reads it: digits, maybe behind spaces, up to a space or the end.
fn parse_counter(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii_start();
    let digits = text.split(|c: char| c.is_ascii_whitespace()).next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Hands {
    fn count_store(&self, tenant: u16, mode: Mode, outcome: Stored) {
        self.count(tenant, Count::Sets);
        if let Mode::Cas(_) = mode {
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
        let kept = Writing { client_flags: live.client_flags(), expiry: live.expiry(), ..*writing };
        self.write(guard, hands, lock, Some(live), &kept, &pieces).map(Stored::Yes)
    }

    /// Appends, publishes, hides what was there before, and keeps the accounts. Returns the new version.
    fn write(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        lock: &KeyLock<'_>,
        old: Option<Object<'_>>,
        writing: &Writing<'_>,
        value: &[&[u8]],
    ) -> Result<u64, Needs> {
        let (tenant, hash) = (writing.tenant, lock.hash());
        let tick = self.clock.tick();
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let updates = old.map_or(0, |old| (old.access().updates + 1).min(15));
        let object = NewObject {
            tenant,
            key: writing.key,
            value,
            client_flags: writing.client_flags,
            expiry: writing.expiry,
            version,
            birth: tick,
            access: Access { last: tick, updates, ..Access::default() },
            history: old.map_or_else(|| self.history_of(hash), |old| old.history()),
            rescued: false,
        };
        let at = self.append(hands, hash, &object)?;
        self.publish(guard, lock, at, old);
        if let Some(flash) = &self.flash {
            flash.hide(hash, tenant, writing.key);
        }
        if self.is_sampled(hash) {
            self.sampler(tenant).stored(hash);
        }
        let bytes = writing.key.len() + value.iter().map(|piece| piece.len()).sum::<usize>();
        hands.count(tenant, Count::Stored);
        hands.count_by(tenant, Count::StoredBytes, bytes as u64);
        Ok(version)
    }

    /// Appends an object, or tells the cleaner how much room it takes.
    fn append(&self, hands: &mut Hands, hash: u64, object: &NewObject<'_>) -> Result<log_memory::Location, Needs> {
        self.memory.append(&mut hands.writer, hash, object).map_err(|_| {
            let segments = object.whole_bytes().div_ceil(self.memory.shape().segment_bytes) + 1;
            self.room_wanted.fetch_max(segments, Ordering::Relaxed);
            Needs::Room
        })
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

    fn live<'t>(&'t self, guard: &'t log_memory::Turn<'_>, tenant: u16, key: &[u8], hash: u64) -> Option<Object<'t>> {
        let found = self.published(guard, tenant, key, hash);
        found.filter(|object| self.is_dead(tenant, object.version(), object.expiry()).is_none())
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
        self.registry.tenant(tenant).account.charge(bytes - freed);
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

    pub(crate) fn flush_tenant(&self, tenant: u16) {
        let version = self.version.load(Ordering::Relaxed);
        self.flushed[usize::from(tenant)].fetch_max(version, Ordering::Relaxed);
    }

    /// What is remembered of a key that is stored anew: how often it has left.
    fn history_of(&self, hash: u64) -> u8 {
        self.history.as_ref().map_or(0, |history| history.times(hash))
    }

    /// Remembers a key whose object leaves the cache.
    pub(crate) fn remember(&self, hash: u64, before: u8) {
        if let Some(history) = &self.history {
            history.left(hash, before, log_memory::mix(hash ^ u64::from(self.clock.tick())));
        }
    }

    /// The DRAM object that a flash record becomes: a new arrival that has proved itself once.
    pub(crate) fn object_of<'r>(&self, record: &'r flash_store::Record<'r>) -> NewObject<'r> {
        let tick = self.clock.tick();
        NewObject {
            tenant: record.head.tenant,
            key: record.head.key,
            value: &record.value,
            client_flags: record.head.client_flags,
            expiry: record.head.expiry,
            version: record.head.version,
            birth: tick,
            access: Access { last: tick, updates: record.head.updates, ..Access::default() },
            history: record.head.history,
            rescued: true,
        }
    }
}
