//! Flash and journal, changed at will, and the start after it. Shared by a test and a fuzz target, so it stands for itself.

use std::io::{self, Error, ErrorKind};
use std::sync::{Arc, Mutex, OnceLock};

use cache::{
    Cache, CacheSettings, Completed, Device, FlashSettings, JournalFile, Lookup, Mode, PAGE_BYTES, Page, Storing,
    SyncPolicy,
};

const FLASH_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = 64 << 10;
const KEYS: u32 = 4_000;

#[derive(Clone)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl Disk {
    fn get(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let from = disk.get(at as usize..at as usize + bytes.len());
        bytes.copy_from_slice(from.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "beyond the end"))?);
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let to = disk.get_mut(at as usize..at as usize + bytes.len());
        to.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "beyond the end"))?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Device for Disk {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        pages.iter_mut().zip(0..).try_for_each(|(page, n)| self.get(at + n * PAGE_BYTES as u64, &mut page.0))
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        pages.iter().zip(0..).try_for_each(|(page, n)| self.put(at + n * PAGE_BYTES as u64, &page.0))
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
        Ok(())
    }

    fn void(&self) -> io::Result<()> {
        self.0.lock().unwrap().clear();
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

fn settings() -> CacheSettings {
    let mut settings = CacheSettings::for_memory(2 << 20);
    settings.flash = Some(FlashSettings { segment_bytes: Some(64 << 10), ..FlashSettings::for_bytes(FLASH_BYTES) });
    settings.admission = "all".parse().unwrap();
    settings
}

fn value(key: u32, round: u32) -> Vec<u8> {
    format!("{key} {round} ").repeat(20 + key as usize % 100).into_bytes()
}

/// What a crash left.
struct Left {
    flash: Vec<u8>,
    journal: Vec<u8>,
    /// The round in which each key was stored last; None: it was deleted.
    last: Vec<Option<u32>>,
}

fn left() -> &'static Left {
    static LEFT: OnceLock<Left> = OnceLock::new();
    LEFT.get_or_init(|| {
        let blank = |bytes: u64| Disk(Arc::new(Mutex::new(vec![0; bytes as usize])));
        let (flash, journal) = (blank(FLASH_BYTES), blank(JOURNAL_BYTES));
        let cache = Cache::new(settings()).unwrap();
        cache.begin_journal(&flash, Box::new(journal.clone()), SyncPolicy::Os, 1, 77).unwrap();
        cache.advance(1_000_000);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        let mut last = vec![None; KEYS as usize];
        for n in 0..KEYS * 3 {
            let key = n.wrapping_mul(2_654_435_761) % KEYS;
            let name = format!("key{key}");
            if n % 9 == 0 {
                cache.turn(&mut worker).delete(0, name.as_bytes());
                last[key as usize] = None;
            } else {
                let value = value(key, n);
                while cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, name.as_bytes(), &value)).is_err() {
                    cache.step(&mut background, Some(&flash));
                }
                last[key as usize] = Some(n);
            }
            while cache.wants_cleaning() {
                cache.step(&mut background, Some(&flash));
            }
        }
        let (flash, journal) = (flash.0.lock().unwrap().clone(), journal.0.lock().unwrap().clone());
        Left { flash, journal, last }
    })
}

/// Changes what a crash left as `orders` say, starts, and compares every key with what it held. Returns how many came back, if anything was
/// believed.
pub(crate) fn survive(orders: &[u8]) -> Option<u32> {
    let Left { flash, journal, last } = left();
    let (mut flash, mut journal) = (flash.clone(), journal.clone());
    for order in orders.chunks_exact(8) {
        let disk = if order[0] & 1 == 0 { &mut flash } else { &mut journal };
        if disk.is_empty() {
            continue;
        }
        let len = disk.len();
        let at = (u32::from_le_bytes([order[1], order[2], order[3], 0]) as usize) % len;
        let page = at / PAGE_BYTES * PAGE_BYTES;
        match order[0] >> 1 & 7 {
            0 => disk[at] = order[4],
            1 => disk[at] ^= 1 << (order[4] & 7),
            2 => disk[page..(page + PAGE_BYTES).min(len)].fill(order[4]),
            3 => disk[at..].fill(0),
            4 if order[0] & 1 == 1 => disk.truncate(at),
            5 => {
                let from = (usize::from(order[4]) << 12) % len / PAGE_BYTES * PAGE_BYTES;
                let count = PAGE_BYTES.min(len - from).min(len - page);
                disk.copy_within(from..from + count, page);
            }
            6 if order[0] & 1 == 0 => {
                // a segment lies where another should
                const SEGMENT: usize = 64 << 10;
                let segments = (disk.len() - PAGE_BYTES) / SEGMENT;
                let place = |n: usize| PAGE_BYTES + n % segments * SEGMENT;
                let from = place(usize::from(order[4]));
                disk.copy_within(from..from + SEGMENT, place(usize::from(order[5])));
            }
            _ => {
                let end = (at + 4).min(disk.len());
                disk[at..end].copy_from_slice(&order[4..4 + end - at]);
            }
        }
    }
    let disk = |bytes: Vec<u8>| Disk(Arc::new(Mutex::new(bytes)));
    let flash = disk(flash);
    let cache = Cache::recover(settings(), &flash, Box::new(disk(journal)), SyncPolicy::Os, 1).ok()?;
    cache.advance(cache.begin_at(1_000_001));
    let (mut worker, mut background) = (cache.worker(), cache.background());
    while cache.is_recovering() {
        cache.step(&mut background, Some(&flash));
    }
    let mut came = 0;
    for (key, last) in (0u32..).zip(last) {
        if let Some(found) = read(&cache, &mut worker, &flash, format!("key{key}").as_bytes()) {
            assert_eq!(Some(found), last.map(|round| value(key, round)), "key{key}");
            came += 1;
        }
    }
    Some(came)
}

fn read(cache: &Cache, worker: &mut cache::Worker, flash: &Disk, key: &[u8]) -> Option<Vec<u8>> {
    let mut turn = cache.turn(worker);
    let mut wanted = match turn.get(0, key) {
        Lookup::Hit(object) => return Some(object.value().collect::<Vec<_>>().concat()),
        Lookup::FlashHit(object) => return Some(object.value.into_owned()),
        Lookup::Miss => return None,
        Lookup::Flash(read) => read,
    };
    loop {
        let mut pages = vec![Page::ZERO; wanted.pages()];
        let answer = Device::read(flash, wanted.at(), &mut pages);
        match turn.complete(&mut wanted, answer.is_ok().then_some(&pages[..])) {
            Completed::Again => {}
            Completed::Hit(object) => return Some(object.value.into_owned()),
            Completed::Miss => return None,
        }
    }
}
