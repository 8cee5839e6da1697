//! How a change gets into the log and the index, and out of them: appended, published, hidden, with the accounts kept.

use std::sync::atomic::Ordering;

use log_memory::{Access, KeyLock, Landing, NewObject, Object};

use crate::change::{Mode, Needs, Stored, Written};
use crate::counters::Count;
use crate::{Cache, Hands};

/// Where a store's value is.
pub(crate) enum Content<'a> {
    /// Somewhere, in pieces.
    Pieces(&'a [&'a [u8]]),
    /// The same, and it begins with all of what is there.
    Grown(Object<'a>, &'a [&'a [u8]]),
    /// In its place already.
    Landed(&'a mut Landing),
}

/// What a store writes, besides the value.
#[derive(Clone, Copy)]
pub(crate) struct Writing<'a> {
    pub(crate) tenant: u16,
    pub(crate) key: &'a [u8],
    pub(crate) client_flags: u32,
    pub(crate) expiry: u32,
    pub(crate) unique: Option<u64>,
    pub(crate) stale: bool,
    pub(crate) won: bool,
}

impl<'a> Writing<'a> {
    /// What `live` has, under a fresh unique.
    pub(crate) fn like(live: Object<'_>, tenant: u16, key: &'a [u8]) -> Writing<'a> {
        let Access { stale, won, .. } = live.access();
        let (client_flags, expiry) = (live.client_flags(), live.expiry());
        Writing { tenant, key, client_flags, expiry, unique: None, stale, won }
    }
}

impl Cache {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a turn, apart so that views and hands can be borrowed at once"
    )]
    pub(crate) fn extend(
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
        let content = if mode == Mode::Append {
            pieces.push(value);
            Content::Grown(live, &pieces)
        } else {
            pieces.insert(0, value);
            Content::Pieces(&pieces)
        };
        self.write(guard, hands, lock, Some(live), writing, content).map(Stored::Yes)
    }

    /// Appends, publishes, hides what was there before, and keeps the accounts.
    pub(crate) fn write(
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
            Content::Pieces(pieces) | Content::Grown(_, pieces) => *pieces,
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
            Content::Grown(live, _) => {
                let grown = self.memory.extend(&mut hands.writer, lock, &object, *live);
                grown.map_err(|_| self.want_room_for(&object))?
            }
            Content::Landed(landing) => {
                let head = self.memory.append_landed(&mut hands.writer, &object, landing);
                head.map_err(|_| self.want_room(1, 0))?
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
        self.memory.append(&mut hands.writer, hash, object).map_err(|_| self.want_room_for(object))
    }

    fn want_room_for(&self, object: &NewObject<'_>) -> Needs {
        let bytes = object.whole_bytes();
        self.want_room(bytes.div_ceil(self.memory.shape().segment_bytes) + 1, bytes)
    }

    /// Tells the cleaner how many segments somebody waits for who holds so many bytes meanwhile, if it can make room for that.
    pub(crate) fn want_room(&self, segments: usize, held: usize) -> Needs {
        if !self.can_make_room() || segments >= self.segments_freed_ever(held) {
            return Needs::Full;
        }
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
        // most values take the place of one as long, and all threads that store for a tenant write to its account
        if bytes != freed {
            owner.account.charge(bytes - freed);
        }
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
    pub(crate) fn note_deleted(&self, tenant: u16, hash: u64) {
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
        self.barren.store(0, Ordering::Relaxed);
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
}
