//! A driver for tests: performs flash reads at once, takes background steps when they are wanted.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::time::{Duration, Instant};

use cache::{
    Background, Cache, CacheSettings, Completed, Counted, Counting, Delta, Device, FlashRead, FlashSettings, Lookup,
    MemoryDevice, Mode, Needs, Page, Stored, Storing, Touched, Worker,
};

/// Longest time that a change may wait for what it needs: far beyond what a busy machine keeps the cleaner from its core.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cache so small that cleaning, flushing and recycling go on all the time.
pub fn tiny(flash: bool) -> CacheSettings {
    let mut settings = CacheSettings::for_memory(2 << 20);
    settings.item_bytes_max = 256 << 10;
    if flash {
        let mut tier = FlashSettings::for_bytes(3 << 20);
        tier.segment_bytes = Some(64 << 10);
        settings.flash = Some(tier);
    }
    settings
}

pub struct Rig {
    pub cache: Cache,
    pub device: MemoryDevice,
}

/// What a read brought: version and value.
pub type Found = Option<(u64, Vec<u8>)>;

impl Rig {
    pub fn new(settings: CacheSettings) -> Rig {
        let bytes = settings.flash.map_or(4096, |flash| flash.bytes);
        let cache = Cache::new(settings).unwrap();
        cache.advance(1_000);
        Rig { cache, device: MemoryDevice::new(bytes) }
    }

    pub fn step(&self, background: &mut Background) {
        for _ in 0..1000 {
            if !self.cache.step(background, Some(&self.device)) {
                return;
            }
        }
        panic!("the background steps never come to an end");
    }

    fn pages(&self, read: &FlashRead) -> Vec<Page> {
        let mut pages = vec![Page::ZERO; read.pages()];
        self.device.read(read.at(), &mut pages).unwrap();
        pages
    }

    pub fn get(&self, worker: &mut Worker, tenant: u16, key: &[u8]) -> Found {
        let mut read = match self.cache.turn(worker).get(tenant, key) {
            Lookup::Hit(object) => return Some((object.unique(), object.value_to_vec())),
            Lookup::FlashHit(object) => return Some((object.unique, object.value.into_owned())),
            Lookup::Miss => return None,
            Lookup::Flash(read) => read,
        };
        loop {
            let pages = self.pages(&read);
            match self.cache.turn(worker).complete(&mut read, Some(&pages)) {
                Completed::Hit(object) => return Some((object.unique, object.value.into_owned())),
                Completed::Again => {}
                Completed::Miss => return None,
            }
        }
    }

    /// Repeats a change until it has what it needs. `make_room` is called when memory is short.
    pub fn change<T>(
        &self,
        worker: &mut Worker,
        mut make_room: impl FnMut(),
        mut verb: impl FnMut(&mut cache::Turn<'_>) -> Result<T, Needs>,
    ) -> T {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut needs = match verb(&mut self.cache.turn(worker)) {
                Ok(done) => return done,
                Err(needs) => needs,
            };
            loop {
                match needs {
                    Needs::Room => {
                        make_room();
                        break;
                    }
                    Needs::Full => panic!("there is no room, and never will be"),
                    Needs::Flash(read) => {
                        let pages = self.pages(&read);
                        match self.cache.turn(worker).promote(read, Some(&pages)) {
                            Ok(()) => break,
                            Err(next) => needs = next,
                        }
                    }
                }
            }
        }
        panic!("a change never got what it needs");
    }

    #[allow(clippy::too_many_arguments, reason = "a store has as many parts")]
    pub fn store(
        &self,
        worker: &mut Worker,
        mut make_room: impl FnMut(),
        tenant: u16,
        key: &[u8],
        mode: Mode,
        expiry: u32,
        value: &[u8],
    ) -> Stored {
        let storing = Storing { expiry, ..Storing::new(mode, key, value) };
        // half of the large values land in turns of their own, as they do when they arrive in pieces
        if value.len() > 4_096 && value[0].is_multiple_of(2) && !matches!(mode, Mode::Append | Mode::Prepend) {
            let landing = self.change(worker, &mut make_room, |turn| turn.land(tenant, key, value.len()));
            if let Some(mut landing) = landing {
                value.chunks(3_000).for_each(|piece| assert_eq!(landing.fill(piece), piece.len()));
                return self.change(worker, make_room, |turn| turn.store_landed(tenant, &storing, &mut landing));
            }
        }
        self.change(worker, make_room, |turn| turn.store(tenant, &storing))
    }

    pub fn touch(&self, worker: &mut Worker, make_room: impl FnMut(), tenant: u16, key: &[u8], expiry: u32) -> Touched {
        self.change(worker, make_room, |turn| turn.touch(tenant, key, expiry))
    }

    pub fn count(
        &self,
        worker: &mut Worker,
        make_room: impl FnMut(),
        tenant: u16,
        key: &[u8],
        delta: Delta,
    ) -> Counted {
        self.change(worker, make_room, |turn| turn.arithmetic(tenant, &Counting::new(key, delta)))
    }
}

/// Uniform dice.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}
