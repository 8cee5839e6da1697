//! A cache over storage that ends, forgets and fails, with one client who knows what every key may hold.

use std::collections::HashMap;
use std::io::{self, Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cache::{
    Cache, CacheSettings, Completed, Device, FlashSettings, JournalFile, Lookup, Mode, Needs, Page, Storing,
    SyncPolicy, Touched, WriteBudget,
};
use log_memory::mix;
use parking_lot::Mutex;

pub(crate) const FLASH_BYTES: u64 = 3 << 20;
pub(crate) const JOURNAL_BYTES: u64 = 96 << 10;
pub(crate) const SECTOR: usize = 512;
pub(crate) const KEYS: u64 = 6_000;

/// Writes that are left before the end; what comes after has no effect.
#[derive(Clone)]
pub(crate) struct Fuse(pub(crate) Arc<AtomicI64>);

impl Fuse {
    pub(crate) fn burn(&self) -> i64 {
        self.0.fetch_sub(1, Ordering::Relaxed)
    }

    pub(crate) fn is_out(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }
}

/// What can go wrong with a device, each once in so many calls; 0 for never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ills {
    pub(crate) dice: u64,
    /// A read or write ends in an error.
    pub(crate) errors: u64,
    /// A read brings, or a write leaves, one bit that is wrong.
    pub(crate) flips: u64,
    /// A write is cut off, and says so.
    pub(crate) torn: u64,
    /// A write says that it went well, and did nothing.
    pub(crate) lost: u64,
    /// The device is gone, for so many calls.
    pub(crate) gone: u64,
    pub(crate) gone_for: u64,
}

impl Ills {
    fn roll(&mut self, one_in: u64) -> bool {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        one_in > 0 && mix(self.dice).is_multiple_of(one_in)
    }

    /// Whether this call ends in an error.
    fn fails(&mut self) -> bool {
        if self.gone_for > 0 {
            self.gone_for -= 1;
            return true;
        }
        if self.roll(self.gone) {
            self.gone_for = 40;
        }
        self.roll(self.errors)
    }
}

fn ill() -> Error {
    Error::other("the device is ill")
}

/// Storage that knows what was synced.
pub(crate) struct Media {
    pub(crate) seen: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    /// Sectors that were written since the last sync.
    pub(crate) dirty: Vec<bool>,
}

#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) media: Arc<Mutex<Media>>,
    pub(crate) fuse: Fuse,
    /// A write that the end comes in the middle of is cut off.
    pub(crate) tears: bool,
    pub(crate) ills: Arc<Mutex<Ills>>,
}

impl Disk {
    pub(crate) fn new(bytes: u64, fuse: &Fuse, tears: bool) -> Disk {
        let bytes = bytes as usize;
        let media = Media { seen: vec![0; bytes], durable: vec![0; bytes], dirty: vec![false; bytes.div_ceil(SECTOR)] };
        Disk { media: Arc::new(Mutex::new(media)), fuse: fuse.clone(), tears, ills: Arc::default() }
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let left = self.fuse.burn();
        let len = match left {
            2.. => bytes.len(),
            1 if self.tears => (mix(at) as usize % (bytes.len() + 1)) / SECTOR * SECTOR,
            1 => bytes.len(),
            _ => 0,
        };
        let mut media = self.media.lock();
        let at = at as usize;
        if bytes.is_empty() {
            return Ok(());
        }
        media.seen[at..at + len].copy_from_slice(&bytes[..len]);
        if len > 0 {
            media.dirty[at / SECTOR..=(at + len - 1) / SECTOR].fill(true);
        }
        if left > 1 { Ok(()) } else { Err(Error::new(ErrorKind::BrokenPipe, "the end")) }
    }

    pub(crate) fn get(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let media = self.media.lock();
        let from = media.seen.get(at as usize..at as usize + bytes.len());
        bytes.copy_from_slice(from.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "beyond the end"))?);
        Ok(())
    }

    pub(crate) fn make_durable(&self) -> io::Result<()> {
        if self.fuse.is_out() {
            return Err(Error::new(ErrorKind::BrokenPipe, "the end"));
        }
        let Media { seen, durable, dirty } = &mut *self.media.lock();
        for (sector, dirty) in dirty.iter_mut().enumerate().filter(|(_, dirty)| **dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(seen.len());
            durable[range.clone()].copy_from_slice(&seen[range]);
            *dirty = false;
        }
        Ok(())
    }

    pub(crate) fn lose_power(&self, seed: u64) {
        let Media { seen, durable, dirty } = &mut *self.media.lock();
        for (sector, dirty) in dirty.iter_mut().enumerate().filter(|(_, dirty)| **dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(seen.len());
            // whole pages mostly go together
            let dice = mix(seed ^ (sector / 8) as u64) % 3;
            let kept = if dice == 2 { mix(seed ^ !(sector as u64)).is_multiple_of(2) } else { dice == 1 };
            if !kept {
                seen[range.clone()].copy_from_slice(&durable[range.clone()]);
            }
            durable[range.clone()].copy_from_slice(&seen[range]);
            *dirty = false;
        }
    }
}

fn flip(pages: &mut [Page], dice: u64) {
    let at = mix(dice) as usize % size_of_val(pages);
    pages[at / cache::PAGE_BYTES].0[at % cache::PAGE_BYTES] ^= 1 << (dice >> 60 & 7);
}

impl Device for Disk {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        let ills = &mut *self.ills.lock();
        if ills.fails() {
            return Err(ill());
        }
        self.get(at, bytemuck::cast_slice_mut(pages))?;
        if ills.roll(ills.flips) {
            flip(pages, ills.dice);
        }
        Ok(())
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        let ills = &mut *self.ills.lock();
        let mut pages = pages.to_vec();
        if ills.fails() {
            return Err(ill());
        }
        if ills.roll(ills.torn) {
            let part = mix(ills.dice) as usize % pages.len();
            self.put(at, bytemuck::cast_slice(&pages[..part]))?;
            return Err(ill());
        }
        if ills.roll(ills.lost) {
            return Ok(());
        }
        if ills.roll(ills.flips) {
            flip(&mut pages, ills.dice);
        }
        self.put(at, bytemuck::cast_slice(&pages))
    }

    fn sync(&self) -> io::Result<()> {
        if self.ills.lock().fails() {
            return Err(ill());
        }
        self.make_durable()
    }

    fn bytes(&self) -> u64 {
        FLASH_BYTES
    }
}

impl JournalFile for Disk {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.get(at, bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(at, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.make_durable()
    }

    fn void(&self) -> io::Result<()> {
        Err(Error::new(ErrorKind::BrokenPipe, "the end"))
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(JOURNAL_BYTES)
    }
}

pub(crate) fn settings(seed: u64) -> CacheSettings {
    let mut settings = CacheSettings::for_memory(2 << 20);
    settings.flash = Some(FlashSettings { segment_bytes: Some(64 << 10), ..FlashSettings::for_bytes(FLASH_BYTES) });
    settings.admission = "all".parse().unwrap();
    settings.seed = seed;
    settings
}

/// What a key may hold: the number of the store that put it there, and when it expires; None if it may hold nothing at all. After a
/// change that was not answered both the old and the new are right.
pub(crate) type Allowed = Vec<(u64, u32)>;

pub(crate) struct World {
    pub(crate) dice: u64,
    /// Seconds.
    pub(crate) now: u32,
    pub(crate) latest: u32,
    pub(crate) stores: u64,
    pub(crate) keys: HashMap<u64, Allowed>,
    pub(crate) highest_unique: u64,
    pub(crate) fuse: Fuse,
    pub(crate) flash: Disk,
    pub(crate) journal: Disk,
    pub(crate) policy: SyncPolicy,
    pub(crate) nonce: u64,
    /// Keys that lay on flash when a life began and when the one before ended.
    pub(crate) found: u64,
    pub(crate) sought: u64,
    pub(crate) on_flash: Vec<u64>,
    pub(crate) refused: u64,
}

pub(crate) fn value_of(key: u64, store: u64) -> Vec<u8> {
    let len = 50 + mix(key ^ mix(store)) as usize % 1_500;
    let mut value = format!("{key} {store} ").into_bytes();
    value.resize(len.max(value.len()), b'.');
    value
}

pub(crate) fn store_of(key: u64, value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("a value is text");
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some(key.to_string().as_str()), "the value of another key");
    let store = words.next().unwrap().parse().unwrap();
    assert_eq!(value, value_of(key, store), "a value that nobody stored");
    store
}

impl World {
    pub(crate) fn new(seed: u64, policy: SyncPolicy) -> World {
        let fuse = Fuse(Arc::new(AtomicI64::new(i64::MAX)));
        World {
            dice: seed,
            now: 1_000_000,
            latest: 1_000_000,
            stores: 0,
            keys: HashMap::new(),
            highest_unique: 0,
            flash: Disk::new(FLASH_BYTES, &fuse, true),
            journal: Disk::new(JOURNAL_BYTES, &fuse, false),
            fuse,
            policy,
            nonce: 0,
            found: 0,
            sought: 0,
            on_flash: Vec::new(),
            refused: 0,
        }
    }

    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.dice) % below
    }

    pub(crate) fn get(&self, cache: &Cache, worker: &mut cache::Worker, key: u64) -> Option<(Vec<u8>, u64)> {
        let mut turn = cache.turn(worker);
        let mut wanted = match turn.get(0, format!("key{key}").as_bytes()) {
            Lookup::Hit(object) => return Some((object.value().collect::<Vec<_>>().concat(), object.unique())),
            Lookup::FlashHit(object) => return Some((object.value.into_owned(), object.unique)),
            Lookup::Miss => return None,
            Lookup::Flash(read) => read,
        };
        loop {
            let mut pages = vec![Page::ZERO; wanted.pages()];
            let read = Device::read(&self.flash, wanted.at(), &mut pages);
            match turn.complete(&mut wanted, read.is_ok().then_some(&pages[..])) {
                Completed::Again => {}
                Completed::Hit(object) => return Some((object.value.into_owned(), object.unique)),
                Completed::Miss => return None,
            }
        }
    }

    /// Reads a key and judges what comes.
    pub(crate) fn check(&mut self, cache: &Cache, worker: &mut cache::Worker, key: u64) -> bool {
        let Some((value, unique)) = self.get(cache, worker, key) else { return false };
        let store = store_of(key, &value);
        let allowed = self.keys.entry(key).or_default();
        let latest = self.latest;
        let before = allowed.clone();
        allowed.retain(|(number, expiry)| *number == store && (*expiry == 0 || *expiry > latest));
        assert!(!allowed.is_empty(), "key{key}: store {store} came back at {latest}; allowed: {before:?} (INV-FRESH)");
        assert!(unique <= self.highest_unique, "key{key}: unique {unique} was never given");
        true
    }

    /// Retries what needs memory or a read.
    fn change<T>(
        &self,
        cache: &Cache,
        worker: &mut cache::Worker,
        background: &mut cache::Background,
        mut attempt: impl FnMut(&mut cache::Turn<'_>) -> Result<T, Needs>,
    ) -> T {
        let mut needs = None;
        loop {
            match needs.take() {
                None => match attempt(&mut cache.turn(worker)) {
                    Ok(done) => return done,
                    Err(more) => needs = Some(more),
                },
                Some(Needs::Room | Needs::Full) => {
                    cache.step(background, Some(&self.flash));
                }
                Some(Needs::Flash(read)) => {
                    let mut pages = vec![Page::ZERO; read.pages()];
                    let outcome = Device::read(&self.flash, read.at(), &mut pages);
                    needs = cache.turn(worker).promote(read, outcome.is_ok().then_some(&pages[..])).err();
                }
            }
        }
    }

    /// One change or read, answered or not.
    pub(crate) fn act(&mut self, cache: &Cache, worker: &mut cache::Worker, background: &mut cache::Background) {
        let key = self.roll(KEYS);
        let name = format!("key{key}");
        let dice = self.roll(1000);
        let mut new: Option<Allowed> = None;
        let mut flushed = false;
        match dice {
            0 if self.roll(20) == 0 => {
                cache.turn(worker).flush_all(None, None);
                flushed = true;
            }
            1..=90 => {
                self.change(cache, worker, background, |turn| Ok(turn.delete(0, name.as_bytes())));
                new = Some(Vec::new());
            }
            91..=120 => {
                let expiry = self.now + 1 + self.roll(30) as u32;
                let touched = self.change(cache, worker, background, |turn| turn.touch(0, name.as_bytes(), expiry));
                if touched == Touched::Yes {
                    let before = self.keys.entry(key).or_default().clone();
                    new = Some(before.iter().map(|(store, _)| (*store, expiry)).collect());
                }
            }
            121..=600 => {
                self.stores += 1;
                let value = value_of(key, self.stores);
                let expiry = if self.roll(5) == 0 { self.now + 1 + self.roll(40) as u32 } else { 0 };
                let mode = if dice < 150 { Mode::Add } else { Mode::Set };
                let storing = Storing { expiry, ..Storing::new(mode, name.as_bytes(), &value) };
                let stored = self.change(cache, worker, background, |turn| turn.store(0, &storing));
                if let cache::Stored::Yes(written) = stored {
                    assert!(written.unique > self.highest_unique, "a unique was given twice");
                    self.highest_unique = written.unique;
                    new = Some(vec![(self.stores, expiry)]);
                }
            }
            _ => {
                self.check(cache, worker, key);
            }
        }
        cache.settle();
        let answered = !self.fuse.is_out();
        if let Some(new) = new {
            let allowed = self.keys.entry(key).or_default();
            if answered { *allowed = new } else { allowed.extend(new) }
        }
        if flushed && answered {
            self.keys.values_mut().for_each(Vec::clear);
        }
        if self.roll(50) == 0 {
            self.now += 1;
            cache.advance(self.now);
            if !self.fuse.is_out() {
                self.latest = self.latest.max(self.now);
            }
        }
        if cache.wants_cleaning() || self.roll(20) == 0 {
            cache.step(background, Some(&self.flash));
        }
    }

    pub(crate) fn start(&mut self, boot: u64) -> Cache {
        // with a budget, what would leave flash is written again past DRAM; another start may have none
        let budget = if self.roll(2) == 0 { WriteBudget::Amplification(3.0) } else { WriteBudget::Unlimited };
        let settings = CacheSettings { flash_write_budget: budget, ..settings(7) };
        let recovered =
            Cache::recover(settings.clone(), &self.flash, Box::new(self.journal.clone()), self.policy, boot);
        let cache = match recovered {
            Ok(cache) => cache,
            Err(_) => {
                self.refused += u64::from(self.nonce > 0);
                self.nonce += 1;
                let cache = Cache::new(settings).unwrap();
                let journal = Box::new(self.journal.clone());
                cache.begin_journal(&self.flash, journal, self.policy, boot, self.nonce).unwrap();
                cache
            }
        };
        let back = if self.roll(10) == 0 { 100 } else { 0 };
        self.now = cache.begin_at(self.now.max(cache.now()) - back);
        cache.advance(self.now);
        if back == 0 {
            self.latest = self.latest.max(self.now);
        } else {
            // nobody knows how long the clock was wrong: what had a time to live must be gone
            self.keys.values_mut().for_each(|allowed| allowed.retain(|(_, expiry)| *expiry == 0));
            self.latest = self.now;
        }
        cache
    }

    /// Counts what of the last life's flash comes back, in a cache of its own: nothing it does is seen.
    pub(crate) fn weigh(&mut self, boot: u64) {
        let copy = |disk: &Disk| {
            let media = disk.media.lock();
            let media = Media { seen: media.seen.clone(), durable: media.durable.clone(), dirty: media.dirty.clone() };
            Disk { media: Arc::new(Mutex::new(media)), fuse: disk.fuse.clone(), tears: false, ills: Arc::default() }
        };
        let (flash, journal) = (copy(&self.flash), copy(&self.journal));
        let Ok(cache) = Cache::recover(settings(7), &flash, Box::new(journal), self.policy, boot) else { return };
        let (mut worker, mut background) = (cache.worker(), cache.background());
        while cache.is_recovering() {
            cache.step(&mut background, Some(&flash));
        }
        let turn = cache.turn(&mut worker);
        let came = |key: &&u64| turn.whereabouts(0, format!("key{key}").as_bytes()).1;
        self.sought += self.on_flash.len() as u64;
        self.found += self.on_flash.iter().filter(came).count() as u64;
    }

    pub(crate) fn live(&mut self, boot: u64, lose_power: bool) {
        self.weigh(boot);
        let cache = self.start(boot);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        let early = self.roll(400);
        for _ in 0..early {
            self.act(&cache, &mut worker, &mut background); // beside the recovery
        }
        while cache.is_recovering() {
            cache.step(&mut background, Some(&self.flash));
        }
        for key in 0..KEYS {
            self.check(&cache, &mut worker, key);
        }
        let fuse = 1 + self.roll(4_000) as i64;
        self.fuse.0.store(fuse, Ordering::Relaxed);
        while !self.fuse.is_out() {
            self.act(&cache, &mut worker, &mut background);
        }
        let is_on_flash =
            |turn: &cache::Turn<'_>, key: &u64| turn.whereabouts(0, format!("key{key}").as_bytes()) == (false, true);
        self.on_flash = (0..KEYS).filter(|key| is_on_flash(&cache.turn(&mut worker), key)).collect();
        if lose_power {
            let seed = self.roll(u64::MAX);
            self.flash.lose_power(seed);
            self.journal.lose_power(!seed);
        }
        self.fuse.0.store(i64::MAX, Ordering::Relaxed);
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
