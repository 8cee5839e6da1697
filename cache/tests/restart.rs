//! A clean stop and the start after it: what comes back is what was stored last, or nothing.

use std::collections::HashMap;

use cache::{Cache, CacheSettings, Completed, Device, FlashSettings, Lookup, MemoryDevice, Mode, Page, Storing};
use log_memory::mix;

const FLASH_BYTES: u64 = 24 << 20;

fn settings() -> CacheSettings {
    let mut settings = CacheSettings::for_memory(4 << 20);
    settings.flash = Some(FlashSettings { segment_bytes: Some(256 << 10), ..FlashSettings::for_bytes(FLASH_BYTES) });
    settings.admission = "all".parse().unwrap();
    settings.seed = 5;
    settings
}

fn value_of(key: u64, version: u64) -> Vec<u8> {
    (0..100 + mix(key ^ version) as usize % 900)
        .map(|n| mix(key ^ mix(version) ^ (n as u64 / 8)).to_le_bytes()[n % 8])
        .collect()
}

/// The value, flags and unique of a key, wherever it lies.
fn read(cache: &Cache, worker: &mut cache::Worker, device: &MemoryDevice, key: &str) -> Option<(Vec<u8>, u32, u64)> {
    let mut turn = cache.turn(worker);
    let mut wanted = match turn.get(0, key.as_bytes()) {
        Lookup::Hit(object) => {
            return Some((object.value().collect::<Vec<_>>().concat(), object.client_flags(), object.unique()));
        }
        Lookup::FlashHit(object) => return Some((object.value.into_owned(), object.client_flags, object.unique)),
        Lookup::Miss => return None,
        Lookup::Flash(read) => read,
    };
    loop {
        let mut pages = vec![Page::ZERO; wanted.pages()];
        device.read(wanted.at(), &mut pages).unwrap();
        match turn.complete(&mut wanted, Some(&pages)) {
            Completed::Again => {}
            Completed::Hit(object) => return Some((object.value.into_owned(), object.client_flags, object.unique)),
            Completed::Miss => return None,
        }
    }
}

/// Stores, overwrites, deletes and expires; returns what every key should hold.
fn work(cache: &Cache, device: &MemoryDevice, seed: u64) -> HashMap<u64, Option<u64>> {
    let (mut worker, mut background) = (cache.worker(), cache.background());
    let mut expected = HashMap::new();
    for n in 0..30_000u64 {
        let key = mix(seed ^ n) % 9_000;
        let name = format!("key{key}");
        if mix(n ^ seed).is_multiple_of(7) {
            cache.turn(&mut worker).delete(0, name.as_bytes());
            expected.insert(key, None);
        } else {
            let value = value_of(key, n);
            let expiry = if key % 11 == 3 { cache.now() + 50 } else { 0 };
            let storing =
                Storing { client_flags: (key % 3) as u32, expiry, ..Storing::new(Mode::Set, name.as_bytes(), &value) };
            while cache.turn(&mut worker).store(0, &storing).is_err() {
                cache.step(&mut background, Some(device));
            }
            expected.insert(key, Some(n));
        }
        while cache.wants_cleaning() {
            cache.step(&mut background, Some(device));
        }
    }
    expected
}

fn stop(cache: &Cache, device: &MemoryDevice) -> Vec<u8> {
    let mut background = cache.background();
    cache.finish_recovery(&mut background, device, || false);
    cache.leave(&mut background, device, || false);
    cache.flush_now(device);
    let mut image = Vec::new();
    cache.save(&mut image).unwrap();
    image
}

#[test]
fn a_clean_stop_keeps_what_was_stored_last_and_nothing_else() {
    let device = MemoryDevice::new(FLASH_BYTES);
    let mut cache = Cache::new(settings()).unwrap();
    cache.advance(1_000_000);
    for life in 0..3u64 {
        let expected = work(&cache, &device, life);
        let mut worker = cache.worker();
        let before: HashMap<u64, _> =
            expected.keys().map(|key| (*key, read(&cache, &mut worker, &device, &format!("key{key}")))).collect();
        drop(worker);
        let image = stop(&cache, &device);
        cache = Cache::restore(settings(), Box::new(image)).unwrap();
        cache.advance(1_000_010);
        let (mut worker, mut there, mut kept) = (cache.worker(), 0, 0);
        for (key, version) in &expected {
            let after = read(&cache, &mut worker, &device, &format!("key{key}"));
            if let Some((value, flags, _)) = &after {
                assert_eq!(Some(value), version.map(|version| value_of(*key, version)).as_ref(), "key{key}");
                assert_eq!(u64::from(*flags), key % 3);
                assert_eq!(after, before[key], "its unique is the same");
                kept += 1;
            }
            there += u32::from(before[key].is_some());
        }
        assert!(there > 3_000 && kept * 100 > there * 97, "of {there} objects {kept} came back");
    }
    cache.advance(1_000_100);
    let mut worker = cache.worker();
    let expired = (0..9_000u64)
        .filter(|key| key % 11 == 3)
        .filter(|key| read(&cache, &mut worker, &device, &format!("key{key}")).is_some());
    assert_eq!(expired.count(), 0, "expiries hold across a restart");
    cache.turn(&mut worker).flush_all(None, None);
    let image = stop(&cache, &device);
    let cache = Cache::restore(settings(), Box::new(image)).unwrap();
    let mut worker = cache.worker();
    assert!(
        (0..9_000).all(|key| read(&cache, &mut worker, &device, &format!("key{key}")).is_none()),
        "so does a flush"
    );
}

/// Objects that were stored and not demoted, every tenth of which was read.
fn in_memory(flash_segment: usize) -> (Cache, MemoryDevice) {
    const KEYS: usize = 3_000;
    let mut settings = CacheSettings::for_memory(4 << 20);
    settings.flash =
        Some(FlashSettings { segment_bytes: Some(flash_segment), ..FlashSettings::for_bytes(FLASH_BYTES) });
    let (cache, device) = (Cache::new(settings).unwrap(), MemoryDevice::new(FLASH_BYTES));
    let mut worker = cache.worker();
    for key in 0..KEYS {
        let name = format!("key{key}");
        let value = [key as u8; 500];
        cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, name.as_bytes(), &value)).unwrap();
        if key % 10 == 0 {
            assert!(matches!(cache.turn(&mut worker).get(0, name.as_bytes()), Lookup::Hit(_)));
        }
    }
    assert_eq!(cache.figures().objects, KEYS, "all of it lies in DRAM");
    drop(worker);
    (cache, device)
}

/// The last records of a segment find no place in it, and there are many of them where segments are large.
#[test]
fn all_that_is_in_memory_goes_to_flash() {
    for flash_segment in [128 << 10, 512 << 10] {
        let (cache, device) = in_memory(flash_segment);
        let left = cache.leave(&mut cache.background(), &device, || false);
        assert_eq!((left.moved, left.stayed, cache.figures().objects), (3_000, 0, 0));
    }
}

#[test]
fn what_was_read_goes_first_where_time_is_short() {
    let mut both = 0;
    for pieces in 1..10 {
        let (cache, device) = in_memory(128 << 10);
        let looked = std::cell::Cell::new(0);
        let is_over = || looked.replace(looked.get() + 1) >= pieces;
        let left = cache.leave(&mut cache.background(), &device, is_over);
        let mut worker = cache.worker();
        let mut stays = |key: usize| {
            let name = format!("key{key}");
            matches!(cache.turn(&mut worker).get(0, name.as_bytes()), Lookup::Hit(_))
        };
        let read = (0..3_000).step_by(10).filter(|key| stays(*key)).count();
        let unread = (0..3_000).filter(|key| key % 10 != 0 && stays(*key)).count();
        assert!(read == 0 || unread == 2_700, "{read} that were read stay, of the others {unread}");
        assert!(left.stayed == 0 || left.stayed == read + unread);
        both += usize::from(unread > 0 && unread < 2_700);
    }
    assert!(both > 0, "time was never too short");
}

#[test]
fn a_damaged_or_foreign_image_is_refused() {
    let device = MemoryDevice::new(FLASH_BYTES);
    let cache = Cache::new(settings()).unwrap();
    cache.advance(1_000_000);
    work(&cache, &device, 1);
    let image = stop(&cache, &device);
    assert!(Cache::restore(settings(), Box::new(image.clone())).is_ok());
    for at in (0..image.len()).step_by(image.len() / 50 + 1).chain([image.len() - 1]) {
        let mut damaged = image.clone();
        damaged[at] ^= 1;
        assert!(Cache::restore(settings(), Box::new(damaged)).is_err(), "byte {at} was changed");
        assert!(Cache::restore(settings(), Box::new(image[..at].to_vec())).is_err(), "cut at {at}");
    }
    assert!(Cache::restore(settings(), Box::new(vec![0; 1000])).is_err());
    let mut coarser = settings();
    coarser.flash = Some(FlashSettings { segment_bytes: Some(512 << 10), ..FlashSettings::for_bytes(FLASH_BYTES) });
    let error = Cache::restore(coarser, Box::new(image)).err().unwrap();
    assert!(error.to_string().contains("has changed"), "{error}");
}

/// How many keys are there; each with what it should hold.
fn count(cache: &Cache, device: &MemoryDevice, expected: &HashMap<u64, Option<u64>>) -> usize {
    let mut worker = cache.worker();
    let found = expected.iter().filter(|(key, version)| {
        let value = read(cache, &mut worker, device, &format!("key{key}")).map(|(value, ..)| value);
        assert!(value.is_none() || value == version.map(|version| value_of(**key, version)), "key{key}");
        value.is_some()
    });
    found.count()
}

/// More flash, an index for other objects, less flash: what is still on flash is found by and by. What is stored and deleted meanwhile stays
/// so, and what had been overwritten or deleted before does not come back.
#[test]
fn content_outlives_a_change_of_sizes() {
    let sized = |bytes: u64, object_bytes: usize| {
        let flash = FlashSettings { segment_bytes: Some(256 << 10), object_bytes, ..FlashSettings::for_bytes(bytes) };
        CacheSettings { flash: Some(flash), ..settings() }
    };
    let device = MemoryDevice::new(2 * FLASH_BYTES);
    let mut cache = Cache::new(settings()).unwrap();
    cache.advance(1_000_000);
    let mut expected = work(&cache, &device, 0);
    let untouched = |expected: &HashMap<u64, Option<u64>>| -> HashMap<u64, Option<u64>> {
        expected.iter().filter(|(key, _)| **key % 10 >= 2).map(|(key, version)| (*key, *version)).collect()
    };
    for (life, settings, least_percent) in [
        (1u64, sized(2 * FLASH_BYTES, 512), 95),
        (2, sized(2 * FLASH_BYTES, 300), 95),
        (3, sized(FLASH_BYTES / 4, 300), 10),
    ] {
        let before = count(&cache, &device, &untouched(&expected));
        let image = stop(&cache, &device);
        cache = Cache::restore(settings, Box::new(image)).unwrap();
        cache.advance(1_000_000);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        assert!(cache.is_recovering() && count(&cache, &device, &expected) == 0, "the index is empty at first");
        for _ in 0..cache.figures().flash.unwrap().to_recover / 2 {
            cache.step(&mut background, Some(&device));
        }
        let half = count(&cache, &device, &expected);
        for key in (0..9_000).filter(|key| key % 10 < 2) {
            let (name, version) = (format!("key{key}"), 1 << 40 | life);
            if key % 10 == 0 {
                cache.turn(&mut worker).delete(0, name.as_bytes());
                expected.insert(key, None);
                continue;
            }
            let value = value_of(key, version);
            while cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, name.as_bytes(), &value)).is_err() {
                cache.step(&mut background, Some(&device));
            }
            expected.insert(key, Some(version));
        }
        while cache.is_recovering() {
            cache.step(&mut background, Some(&device));
        }
        assert!(half > 0 && half < count(&cache, &device, &expected), "{half} half way");
        let after = count(&cache, &device, &untouched(&expected));
        assert!(after * 100 > before * least_percent, "life {life}: of {before} objects {after} came back");
    }
}

#[test]
fn a_clock_that_was_set_back_ends_what_has_a_time_to_live() {
    let device = MemoryDevice::new(FLASH_BYTES);
    let cache = Cache::new(settings()).unwrap();
    cache.advance(1_000_000);
    let mut worker = cache.worker();
    for (key, expiry) in [("forever", 0), ("for an hour", 1_003_600)] {
        let storing = Storing { expiry, ..Storing::new(Mode::Set, key.as_bytes(), b"x") };
        cache.turn(&mut worker).store(0, &storing).unwrap();
    }
    drop(worker);
    let image = stop(&cache, &device);
    let start = |wall: u32| {
        let cache = Cache::restore(settings(), Box::new(image.clone())).unwrap();
        let second = cache.begin_at(wall);
        cache.advance(second);
        let mut worker = cache.worker();
        let there = ["forever", "for an hour"].map(|key| read(&cache, &mut worker, &device, key).is_some());
        (second, there)
    };
    assert_eq!(start(1_000_100), (1_000_100, [true, true]), "time went on");
    assert_eq!(start(999_998), (1_000_000, [true, true]), "a little back is nothing: time stands still until then");
    assert_eq!(start(900_000), (900_000, [true, false]), "nobody knows how long it was");
    assert_eq!(start(1_003_600), (1_003_600, [true, false]), "the hour is over");
}

#[test]
fn a_flush_to_come_is_not_put_off_by_a_clock_that_was_set_back() {
    let device = MemoryDevice::new(FLASH_BYTES);
    let cache = Cache::new(settings()).unwrap();
    cache.advance(1_000_000);
    let mut worker = cache.worker();
    cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, b"key", b"x")).unwrap();
    cache.turn(&mut worker).flush_all(None, Some(1_000_010));
    drop(worker);
    let image = stop(&cache, &device);
    let cache = Cache::restore(settings(), Box::new(image)).unwrap();
    let second = cache.begin_at(900_000);
    let mut worker = cache.worker();
    cache.advance(second + 9);
    assert!(read(&cache, &mut worker, &device, "key").is_some());
    cache.advance(second + 10);
    assert!(read(&cache, &mut worker, &device, "key").is_none(), "ten seconds are over");
}
