//! The life of a get.

use flash_store::{FlashStore, Page, Place, Record};
use log_memory::{Object, Pinned, Sighting};
use tenants::Arbiter;

use crate::change::Needs;
use crate::counters::Count;
use crate::intent::{Completed, FlashObject, FlashRead};
use crate::{Cache, Hands, Turn};

/// What a lookup found.
pub enum Lookup<'t> {
    /// In DRAM: valid for the turn.
    Hit(Object<'t>),
    /// On flash, but not written yet: read from the buffer.
    FlashHit(FlashObject<'static>),
    /// Maybe on flash: read this and call [`Turn::complete`].
    Flash(FlashRead),
    /// Nowhere.
    Miss,
}

/// A fetch that may change what it finds (meta protocol).
#[derive(Clone, Copy, Debug, Default)]
pub struct Fetching {
    /// Do not count it as a use.
    pub unnoted: bool,
    /// New expiry for what is found.
    pub expiry: Option<u32>,
    /// If the key is unknown: store it without a value, with this expiry and unique; the client has won it.
    pub create: Option<(u32, Option<u64>)>,
    /// The first client that finds it about to expire before this second has won it.
    pub recache_before: Option<u32>,
}

impl Fetching {
    fn changes(&self) -> bool {
        self.expiry.is_some() || self.create.is_some() || self.recache_before.is_some()
    }
}

/// What a fetch knows of an object besides its value: as it was before the fetch, but for the expiry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Whether it was read before.
    pub was_read: bool,
    /// Seconds since it was used.
    pub idle_secs: u32,
    /// Absolute second of expiry; 0 for never.
    pub expiry: u32,
    /// Marked stale by a client.
    pub stale: bool,
    /// Another client has won it before.
    pub taken: bool,
    /// This client has won it.
    pub won: bool,
}

/// What a fetch found.
pub enum Fetched<'t> {
    /// In DRAM: valid for the turn.
    Hit(Object<'t>, Seen),
    /// On flash, but not written yet: read from the buffer.
    FlashHit(FlashObject<'static>),
    /// Maybe on flash: read this and call [`Turn::complete`].
    Flash(FlashRead),
    /// Nowhere.
    Miss,
}

/// A key that will be looked up soon: its hash, and where something was seen of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    hash: u64,
    sighting: Sighting,
}

impl Turn<'_> {
    /// Has the processor fetch where a lookup of this key begins: the misses of several keys overlap.
    #[inline]
    pub fn expect(&self, tenant: u16, key: &[u8]) -> Expected {
        let expected = self.expect_alone(tenant, key);
        self.cache.memory.prefetch(expected.hash);
        expected
    }

    /// The same for a key that is looked up at once: there is nothing to overlap.
    #[inline]
    pub fn expect_alone(&self, tenant: u16, key: &[u8]) -> Expected {
        Expected { hash: self.cache.memory.hash(tenant, key), sighting: Sighting::default() }
    }

    /// Goes on to the object itself, once the first fetch has had time to arrive.
    pub fn expect_object(&self, expected: &mut Expected) {
        expected.sighting = self.cache.memory.prefetch_object(expected.hash);
    }

    /// Looks a key up, as [`Turn::get`], and changes what it finds as the fetch says.
    pub fn fetch(&mut self, tenant: u16, key: &[u8], fetching: &Fetching) -> Result<Fetched<'_>, Needs> {
        let expected = self.expect_alone(tenant, key);
        self.fetch_expected(tenant, key, expected, fetching)
    }

    /// The same of a key that was expected, as this tenant's.
    #[inline]
    pub fn fetch_expected(
        &mut self,
        tenant: u16,
        key: &[u8],
        expected: Expected,
        fetching: &Fetching,
    ) -> Result<Fetched<'_>, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let Expected { hash, sighting } = expected;
        debug_assert_eq!(hash, cache.memory.hash(tenant, key));
        let found = cache.memory.find_seen(guard, (hash, sighting), tenant, key);
        let plain = !fetching.changes() && found.is_none_or(|object| !object.access().stale);
        if plain {
            return Ok(cache.fetch_plain(guard, hands, (tenant, key, hash), found, fetching));
        }
        let lock = cache.memory.lock(hash);
        let old = cache.published(guard, tenant, key, hash);
        let live = old.filter(|old| cache.is_dead(tenant, key, old.version(), old.expiry()).is_none());
        if live.is_none()
            && let Some(read) = cache.flash_read(tenant, key, hash)
        {
            return Err(hands.needs_flash(read));
        }
        let counted = if fetching.expiry.is_some() { Count::Touches } else { Count::Gets };
        let Some(object) = live else {
            let created = match fetching.create {
                Some((expiry, unique)) => {
                    Some(cache.create_won(guard, hands, &lock, old, tenant, key, expiry, unique)?)
                }
                None => None,
            };
            hands.count(tenant, counted);
            let misses = if counted == Count::Touches { Count::TouchMisses } else { Count::Misses };
            hands.count(tenant, misses);
            let Some(object) = created else { return Ok(Fetched::Miss) };
            let expiry = object.expiry();
            let seen = Seen { was_read: false, idle_secs: 0, expiry, stale: false, taken: false, won: true };
            return Ok(Fetched::Hit(object, seen));
        };
        let mut seen = cache.seen(&object);
        if let Some(expiry) = fetching.expiry {
            object.set_expiry(expiry);
            seen.expiry = expiry;
        }
        let expires_soon = fetching.recache_before.is_some_and(|before| seen.expiry != 0 && seen.expiry < before);
        seen.won = !seen.taken && (seen.stale || expires_soon);
        if seen.won {
            object.set_marks(seen.stale, true);
        }
        if !fetching.unnoted {
            object.note_read(cache.clock.tick(), || hands.roll() as u32);
        }
        hands.count(tenant, counted);
        hands.count(tenant, if counted == Count::Touches { Count::TouchHits } else { Count::DramHits });
        hands.count_access(cache);
        Ok(Fetched::Hit(object, seen))
    }

    /// Looks a key up without counting or noting it. What is on flash comes to DRAM first.
    pub fn peek(&mut self, tenant: u16, key: &[u8]) -> Result<Option<(Object<'_>, Seen)>, Needs> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let hash = cache.memory.hash(tenant, key);
        match (cache.live(guard, tenant, key, hash), cache.flash_read(tenant, key, hash)) {
            (Some(object), _) => Ok(Some((object, cache.seen(&object)))),
            (None, Some(read)) => Err(hands.needs_flash(read)),
            (None, None) => Ok(None),
        }
    }

    /// Looks a key up. What it returns was the key's value at a moment between call and return; a flash read that
    /// follows brings that value or none, whatever is stored in the meantime (INV-FRESH).
    pub fn get(&mut self, tenant: u16, key: &[u8]) -> Lookup<'_> {
        let expected = self.expect_alone(tenant, key);
        self.get_expected(tenant, key, expected)
    }

    /// The same of a key that was expected, as this tenant's.
    #[inline]
    pub fn get_expected(&mut self, tenant: u16, key: &[u8], expected: Expected) -> Lookup<'_> {
        let Turn { cache, guard, hands } = self;
        let (cache, guard): (&Cache, &log_memory::Turn<'_>) = (cache, guard);
        let Expected { hash, sighting } = expected;
        debug_assert_eq!(hash, cache.memory.hash(tenant, key));
        let found = cache.memory.find_seen(guard, (hash, sighting), tenant, key);
        cache.lookup(guard, hands, tenant, key, hash, found)
    }

    /// Where a key is known: in DRAM, and whether flash may hold it (a tag shared by chance says so too). Counts nothing.
    pub fn whereabouts(&self, tenant: u16, key: &[u8]) -> (bool, bool) {
        let hash = self.cache.memory.hash(tenant, key);
        let in_dram = self.cache.memory.find(&self.guard, hash, tenant, key).is_some();
        (in_dram, self.cache.flash.as_ref().is_some_and(|flash| flash.may_hold(hash)))
    }

    /// Goes on with a get whose pages were read (None: the device did not answer). The read is over unless the answer is `Again`.
    pub fn complete<'p>(&mut self, read: &mut FlashRead, pages: Option<&'p [Page]>) -> Completed<'p> {
        match self.cache.complete_one(&self.guard, self.hands, read, pages) {
            Completed::Again => self.cache.read_buffered(&self.guard, self.hands, read),
            done => done,
        }
    }
}

impl Cache {
    /// Has an object's value stay where it is beyond the turn in which it was found, so that it can be sent from there. None if too much
    /// stays so already: copy it then.
    pub fn pin(&self, object: &Object<'_>) -> Option<Vec<Pinned>> {
        self.memory.pin(object)
    }
}

impl Hands {
    pub(crate) fn count_access(&mut self, cache: &Cache) {
        self.accesses += 1;
        if self.accesses >= self.accesses_a_report {
            self.accesses_a_report = cache.clock.count(self.accesses);
            self.accesses = 0;
        }
    }
}

impl Cache {
    fn fetch_plain<'t>(
        &'t self,
        guard: &'t log_memory::Turn<'_>,
        hands: &mut Hands,
        (tenant, key, hash): (u16, &[u8], u64),
        found: Option<Object<'t>>,
        fetching: &Fetching,
    ) -> Fetched<'t> {
        let seen = found.map(|object| self.seen(&object));
        if fetching.unnoted
            && let Some((object, seen)) = found.zip(seen)
            && self.is_dead(tenant, key, object.version(), object.expiry()).is_none()
        {
            hands.count(tenant, Count::Gets);
            hands.count(tenant, Count::DramHits);
            return Fetched::Hit(object, seen);
        }
        match self.lookup(guard, hands, tenant, key, hash, found) {
            Lookup::Hit(object) => {
                let seen = seen.unwrap_or_else(|| self.seen(&object));
                Fetched::Hit(object, seen)
            }
            Lookup::FlashHit(object) => Fetched::FlashHit(object),
            Lookup::Flash(read) => Fetched::Flash(read),
            Lookup::Miss => Fetched::Miss,
        }
    }

    /// Goes on with what was found in DRAM for a key, if anything.
    fn lookup<'t>(
        &'t self,
        guard: &'t log_memory::Turn<'_>,
        hands: &mut Hands,
        tenant: u16,
        key: &[u8],
        hash: u64,
        found: Option<Object<'t>>,
    ) -> Lookup<'t> {
        hands.count_access(self);
        if let Some(object) = found {
            if let Some(reason) = self.is_dead(tenant, key, object.version(), object.expiry()) {
                hands.count(tenant, Count::Gets);
                hands.count(tenant, reason);
                self.remove_dead(guard, tenant, key, hash);
                self.note_miss(hands, tenant, hash);
                return Lookup::Miss;
            }
            object.note_read(hands.tick, || hands.roll() as u32);
            let counters = &hands.counters[usize::from(tenant)];
            counters.add(Count::Gets, 1);
            counters.add(Count::DramHits, 1);
            self.learn_of_read(tenant, hash, || Some(object.charged_bytes()));
            return Lookup::Hit(object);
        }
        hands.count(tenant, Count::Gets);
        let Some(mut read) = self.flash_read(tenant, key, hash) else {
            self.note_miss(hands, tenant, hash);
            return Lookup::Miss;
        };
        match self.read_buffered(guard, hands, &mut read) {
            Completed::Hit(object) => Lookup::FlashHit(object),
            Completed::Again => Lookup::Flash(read),
            Completed::Miss => Lookup::Miss,
        }
    }

    fn seen(&self, object: &Object<'_>) -> Seen {
        let access = object.access();
        Seen {
            was_read: access.reads > 0,
            idle_secs: self.clock.secs_since(access.last),
            expiry: object.expiry(),
            stale: access.stale,
            taken: access.won,
            won: false,
        }
    }

    /// Answers a read from buffers as far as they hold it; `Again` means that the device has to be read.
    fn read_buffered(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        read: &mut FlashRead,
    ) -> Completed<'static> {
        loop {
            let buffered = self.flash_tier().buffered(&read.places[0]);
            let Some(pages) = buffered else { return Completed::Again };
            match self.complete_one(guard, hands, read, Some(&pages)) {
                Completed::Hit(object) => return Completed::Hit(object.into_owned()),
                Completed::Again => {}
                Completed::Miss => return Completed::Miss,
            }
        }
    }

    fn complete_one<'p>(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        read: &mut FlashRead,
        pages: Option<&'p [Page]>,
    ) -> Completed<'p> {
        let flash = self.flash_tier();
        let place = read.places.remove(0);
        flash.note_read(place.segment, pages.is_some());
        if pages.is_none() {
            flash.lose_place(&place);
        }
        let record = pages.and_then(|pages| flash.verify(&place, read.tenant, &read.key, pages));
        let Some(record) = record else {
            read.strangers.push(place);
            if read.places.is_empty() {
                self.note_miss(hands, read.tenant, read.hash);
                return Completed::Miss;
            }
            return Completed::Again;
        };
        if let Some(reason) = self.is_dead(read.tenant, &read.key, record.head.version, record.head.expiry) {
            hands.count(read.tenant, reason);
            flash.hide_place(&place);
            self.note_miss(hands, read.tenant, read.hash);
            return Completed::Miss;
        }
        flash.note_hit(&place);
        hands.count(read.tenant, Count::FlashHits);
        self.learn_of_read(read.tenant, read.hash, || Some(record.bytes()));
        if hands.hot.hit(read.hash) {
            self.recache(guard, hands, read, &place, &record);
        }
        Completed::Hit(FlashObject::of(&record))
    }

    /// Brings what was hit on flash back to DRAM, if there is room at once: whoever is hit again and again comes to it so, and costs no more device
    /// reads.
    fn recache(
        &self,
        guard: &log_memory::Turn<'_>,
        hands: &mut Hands,
        read: &FlashRead,
        place: &Place,
        record: &Record<'_>,
    ) {
        let flash = self.flash_tier();
        let lock = self.memory.lock(read.hash);
        if !flash.still_holds(place) || self.published(guard, read.tenant, &read.key, read.hash).is_some() {
            return;
        }
        let mut object = self.object_of(read.hash, record, true);
        object.access.reads = 1;
        if self.return_to_dram(guard, &lock, hands, read.hash, &object) {
            flash.hide(read.hash, read.tenant, &read.key);
            hands.count(read.tenant, Count::Rescued);
        }
    }

    pub(crate) fn flash_tier(&self) -> &FlashStore {
        self.flash.as_ref().expect("an intent to read flash comes from a flash tier")
    }

    /// The curve and the predictor learn from a read, if its key is one that they look at. It found so many bytes, None if nothing.
    #[inline]
    fn learn_of_read(&self, tenant: u16, hash: u64, bytes: impl Fn() -> Option<usize>) {
        let curve = &self.registry.tenant(tenant).curve;
        if curve.follows(hash) {
            curve.read(hash, bytes());
        }
        if self.is_sampled(hash) {
            self.sampler(tenant).read(hash, bytes().is_some(), self.clock.tick());
        }
    }

    /// A get found nothing: the arbiter and the predictor learn from it.
    fn note_miss(&self, hands: &mut Hands, tenant: u16, hash: u64) {
        hands.count(tenant, Count::Misses);
        self.learn_of_read(tenant, hash, || None);
        if self.registry.tenant(tenant).shadow.take(hash) {
            hands.count(tenant, Count::ShadowHits);
            if self.registry.arbiter() == Arbiter::Shadow {
                self.registry.shadow_hit(tenant, hands.roll());
            }
        }
    }

    pub(crate) fn flash_read(&self, tenant: u16, key: &[u8], hash: u64) -> Option<FlashRead> {
        let places = self.flash.as_ref()?.find(hash);
        (!places.is_empty()).then(|| FlashRead { tenant, key: key.into(), hash, places, strangers: Vec::new() })
    }

    /// Hides an object that was found expired or flushed, if it is still so under its key's lock.
    fn remove_dead(&self, guard: &log_memory::Turn<'_>, tenant: u16, key: &[u8], hash: u64) {
        let lock = self.memory.lock(hash);
        if let Some(object) = self.memory.find(guard, hash, tenant, key)
            && self.is_dead(tenant, key, object.version(), object.expiry()).is_some()
        {
            let bytes = object.charged_bytes();
            if self.memory.hide(&lock, object) {
                self.registry.tenant(tenant).account.charge(-(bytes as i64));
            }
        }
    }
}
