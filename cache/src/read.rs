//! The life of a get.

use flash_store::{FlashStore, Page};
use log_memory::Object;

use crate::counters::Count;
use crate::intent::{Completed, FlashObject, FlashRead};
use crate::{ACCESSES_A_REPORT, Cache, Hands, Turn};

/// What a lookup found.
pub enum Lookup<'t> {
    /// In DRAM: valid for the turn.
    Hit(Object<'t>),
    /// On flash, but not written yet: read from the buffer.
    FlashHit(FlashObject),
    /// Maybe on flash: read this and call [`Turn::complete`].
    Flash(FlashRead),
    /// Nowhere.
    Miss,
}

impl Turn<'_> {
    /// Looks a key up. What it returns was the key's value at a moment between call and return; a flash read that
    /// follows brings that value or none, whatever is stored in the meantime (INV-FRESH).
    pub fn get(&mut self, tenant: u16, key: &[u8]) -> Lookup<'_> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        hands.count_access(cache);
        hands.count(tenant, Count::Gets);
        let dice = hands.roll() as u32;
        if let Some(object) = cache.memory.find(guard, hash, tenant, key) {
            if let Some(reason) = cache.is_dead(tenant, object.version(), object.expiry()) {
                hands.count(tenant, reason);
                cache.remove_dead(guard, tenant, key, hash);
                cache.note_miss(hands, tenant, hash);
                return Lookup::Miss;
            }
            object.note_read(cache.clock.tick(), dice);
            hands.count(tenant, Count::DramHits);
            if cache.is_sampled(hash) {
                cache.sampler(tenant).read(hash, true);
            }
            return Lookup::Hit(object);
        }
        let Some(read) = cache.flash_read(tenant, key, hash) else {
            cache.note_miss(hands, tenant, hash);
            return Lookup::Miss;
        };
        match cache.read_buffered(hands, read) {
            Completed::Hit(object) => Lookup::FlashHit(object),
            Completed::Again(read) => Lookup::Flash(read),
            Completed::Miss => Lookup::Miss,
        }
    }

    /// Where a key is known: in DRAM, and whether flash may hold it (a tag shared by chance says so too). Counts nothing.
    pub fn whereabouts(&self, tenant: u16, key: &[u8]) -> (bool, bool) {
        let hash = self.cache.memory.hash(tenant, key);
        let in_dram = self.cache.memory.find(&self.guard, hash, tenant, key).is_some();
        (in_dram, self.cache.flash.as_ref().is_some_and(|flash| flash.may_hold(hash)))
    }

    /// Goes on with a get whose pages were read (None: the device did not answer).
    pub fn complete(&mut self, read: FlashRead, pages: Option<&[Page]>) -> Completed {
        match self.cache.complete_one(self.hands, read, pages) {
            Completed::Again(next) => self.cache.read_buffered(self.hands, next),
            done => done,
        }
    }
}

impl Hands {
    pub(crate) fn count_access(&mut self, cache: &Cache) {
        self.accesses += 1;
        if self.accesses >= ACCESSES_A_REPORT {
            cache.clock.count(self.accesses);
            self.accesses = 0;
        }
    }
}

impl Cache {
    /// Answers a read from buffers as far as they hold it; `Again` means that the device has to be read.
    fn read_buffered(&self, hands: &mut Hands, mut read: FlashRead) -> Completed {
        loop {
            let buffered = self.flash_tier().buffered(&read.places[0]);
            let Some(pages) = buffered else { return Completed::Again(read) };
            match self.complete_one(hands, read, Some(&pages)) {
                Completed::Again(next) => read = next,
                done => return done,
            }
        }
    }

    fn complete_one(&self, hands: &mut Hands, mut read: FlashRead, pages: Option<&[Page]>) -> Completed {
        let flash = self.flash_tier();
        let place = read.places.pop_front().expect("an intent has a place");
        if pages.is_none() {
            flash.read_failed();
        }
        let record = pages.and_then(|pages| flash.verify(&place, read.tenant, &read.key, pages));
        let Some(record) = record else {
            read.strangers.push(place);
            if read.places.is_empty() {
                self.note_miss(hands, read.tenant, read.hash);
                return Completed::Miss;
            }
            return Completed::Again(read);
        };
        if let Some(reason) = self.is_dead(read.tenant, record.head.version, record.head.expiry) {
            hands.count(read.tenant, reason);
            flash.hide_place(&place);
            self.note_miss(hands, read.tenant, read.hash);
            return Completed::Miss;
        }
        flash.note_hit(&place);
        hands.count(read.tenant, Count::FlashHits);
        if self.is_sampled(read.hash) {
            self.sampler(read.tenant).read(read.hash, true);
        }
        Completed::Hit(FlashObject::of(&record))
    }

    pub(crate) fn flash_tier(&self) -> &FlashStore {
        self.flash.as_ref().expect("an intent to read flash comes from a flash tier")
    }

    /// A get found nothing: the arbiter and the predictor learn from it.
    fn note_miss(&self, hands: &mut Hands, tenant: u16, hash: u64) {
        hands.count(tenant, Count::Misses);
        if self.is_sampled(hash) {
            self.sampler(tenant).read(hash, false);
        }
        if self.registry.tenant(tenant).shadow.take(hash) {
            hands.count(tenant, Count::ShadowHits);
            let dice = hands.roll();
            self.registry.shadow_hit(tenant, dice);
        }
    }

    pub(crate) fn flash_read(&self, tenant: u16, key: &[u8], hash: u64) -> Option<FlashRead> {
        let places = self.flash.as_ref()?.find(hash);
        (!places.is_empty()).then(|| FlashRead {
            tenant,
            key: key.into(),
            hash,
            places: places.into(),
            strangers: Vec::new(),
        })
    }

    /// Hides an object that was found expired or flushed, if it is still so under its key's lock.
    fn remove_dead(&self, guard: &log_memory::Turn<'_>, tenant: u16, key: &[u8], hash: u64) {
        let lock = self.memory.lock(hash);
        if let Some(object) = self.memory.find(guard, hash, tenant, key)
            && self.is_dead(tenant, object.version(), object.expiry()).is_some()
        {
            let bytes = object.charged_bytes();
            if self.memory.hide(&lock, object) {
                self.registry.tenant(tenant).account.charge(-(bytes as i64));
            }
        }
    }
}
