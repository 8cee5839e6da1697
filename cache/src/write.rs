//! The life of a store, a counter, a touch, a delete and a flush.
//!
//! Every change holds its key's lock from the look at what is there to the last index entry that it touches: in DRAM it
//! publishes, on flash it hides, so no reader that begins afterwards finds anything older (INV-FRESH, INV-ONE-PLACE). A change
//! that depends on what is there, and finds it may be on flash, asks for it to be read and *promoted* to DRAM first.

use std::sync::atomic::Ordering;

use flash_store::Page;
use log_memory::{Landing, NoLanding, Object};

use crate::change::{Counted, Counting, Delta, Mode, Needs, Removed, Removing, Stored, Storing, Touched};
use crate::counters::Count;
use crate::intent::FlashRead;
use crate::publish::{Content, Writing};
use crate::{Cache, Hands, Turn};

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
            Err(NoLanding::NoSpace { segments }) => match cache.want_room(segments, 0) {
                Needs::Full => Ok(None),
                needs => Err(needs),
            },
            Err(NoLanding::Crowded) => Ok(None),
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
            return Err(hands.needs_flash(read));
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
                return Err(hands.needs_flash(read));
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
                return Err(hands.needs_flash(read));
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
            return Err(hands.needs_flash(read));
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
    /// flash does not hold the key, what could be mistaken for it is hidden. The change can be tried again then, and also if DRAM is full: it is
    /// told so.
    ///
    /// # Errors
    /// What is still to be read, or that there is no room yet, or none to be had.
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
            read.places.remove(0);
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
            let appended = cache.append(hands, read.hash, &object);
            hands.unpromoted = matches!(appended, Err(Needs::Full)).then_some(read.hash);
            cache.publish(guard, &lock, appended?, old);
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
