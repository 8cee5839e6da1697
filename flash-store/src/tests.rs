use super::*;

fn store(segments: u64) -> (FlashStore, MemoryDevice) {
    let flash_bytes = PAGE_BYTES as u64 + segments * (64 << 10);
    let shape = FlashShape { flash_bytes, segment_bytes: 64 << 10, objects: 4000, secret: 99 };
    (FlashStore::new(shape).unwrap(), MemoryDevice::new(flash_bytes))
}

fn hash_of(tenant: u16, key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, u64::from(tenant))
}

fn head(key: &[u8], version: u64) -> RecordHead<'_> {
    RecordHead {
        tenant: 1,
        key,
        client_flags: 0,
        expiry: 0,
        version,
        reads: 0,
        updates: 0,
        history: 0,
        accessed: 0,
        rescued: false,
        won: false,
    }
}

fn append(store: &FlashStore, key: &str, version: u64, value: &[u8]) -> Placed {
    let key = key.as_bytes();
    let hash = hash_of(1, key);
    store.hide(hash, 1, key);
    store.append(hash, &head(key, version), [value].into_iter())
}

fn read(store: &FlashStore, device: &MemoryDevice, key: &str) -> Option<(u64, Vec<u8>)> {
    let key = key.as_bytes();
    store.find(hash_of(1, key)).iter().find_map(|place| {
        let pages = store.buffered(place).unwrap_or_else(|| {
            let mut pages = vec![Page::ZERO; place.pages];
            device.read(place.at, &mut pages).unwrap();
            pages
        });
        let record = store.verify(place, 1, key, &pages)?;
        store.note_hit(place);
        Some((record.head.version, record.value.to_vec()))
    })
}

fn flush(store: &FlashStore, device: &MemoryDevice) {
    if let Some(intent) = store.seal(0) {
        device.write(intent.at, &intent.pages).unwrap();
        store.written(intent.segment, true);
    }
}

#[test]
fn objects_are_readable_while_open_while_written_and_after() {
    let (store, device) = store(4);
    for n in 0..50 {
        assert_eq!(append(&store, &format!("key{n}"), n, &vec![n as u8; n as usize * 20]), Placed::Yes);
    }
    let all = |stage: &str| {
        for n in 0..50 {
            let found = read(&store, &device, &format!("key{n}"));
            assert_eq!(found, Some((n, vec![n as u8; n as usize * 20])), "{stage}");
        }
    };
    all("open");
    let intent = store.seal(0).unwrap();
    all("writing");
    device.write(intent.at, &intent.pages).unwrap();
    store.written(intent.segment, true);
    all("readable");
    assert_eq!(read(&store, &device, "never stored"), None);
}

#[test]
fn a_set_hides_the_flash_copy() {
    let (store, device) = store(4);
    append(&store, "a", 1, b"old");
    flush(&store, &device);
    assert!(store.hide(hash_of(1, b"a"), 1, b"a"));
    assert_eq!(read(&store, &device, "a"), None);
    assert_eq!(store.live(), 0);
}

/// The trap of tags: the old copy lies in the open segment, and another key of the same class gets an entry with the same hash
/// choice there. Looking up the first key then leads to the page of its old copy, with its full key and a good checksum.
#[test]
fn a_copy_hidden_in_the_open_segment_is_struck_out() {
    let (store, _device) = store(4);
    append(&store, "a", 1, b"old");
    let hash = hash_of(1, b"a");
    let place = store.find(hash)[0];
    store.hide(hash, 1, b"a");
    store.publish(hash, place.segment, 0, place.entry.choice(), CLOCK_PLACED); // as that other key would
    let again = store.find(hash)[0];
    let pages = store.buffered(&again).unwrap();
    assert!(store.verify(&again, 1, b"a", &pages).is_none(), "a hidden copy came back");
}

#[test]
fn another_tenants_key_is_never_returned() {
    let (store, _device) = store(4);
    append(&store, "a", 1, b"secret");
    let place = store.find(hash_of(1, b"a"))[0];
    let pages = store.buffered(&place).unwrap();
    assert!(store.verify(&place, 2, b"a", &pages).is_none());
    assert!(store.verify(&place, 1, b"a", &pages).is_some());
}

#[test]
fn recycling_visits_what_is_published_and_leaves_no_entry() {
    let (store, device) = store(2);
    append(&store, "large", 99, &[8; 9000]);
    for n in 0..40 {
        append(&store, &format!("key{n}"), n, &[7; 900]);
    }
    store.hide(hash_of(1, b"key3"), 1, b"key3");
    flush(&store, &device);
    append(&store, "next", 100, b"x");
    flush(&store, &device);
    let intent = store.wants_to_recycle(0).expect("both segments are in use");
    let mut pages = vec![Page::ZERO; intent.pages];
    device.read(intent.at, &mut pages).unwrap();
    let mut seen = Vec::new();
    store.recycle(&intent, Some(&pages), hash_of, |_, record, clock| {
        assert_eq!(clock, Clock::Running);
        seen.push(record.head.version);
    });
    seen.sort_unstable();
    let expected: Vec<u64> = (0..40).filter(|n| *n != 3).chain([99]).collect();
    assert_eq!(seen, expected);
    assert_eq!((store.live(), store.index_load().0), (1, 1), "only the other segment's object is left");
    assert_eq!(store.segments_free(), 1);
}

#[test]
fn a_segment_that_cannot_be_read_loses_its_objects_and_nothing_else() {
    let (store, device) = store(2);
    for n in 0..20 {
        append(&store, &format!("key{n}"), n, &[7; 900]);
    }
    flush(&store, &device);
    append(&store, "next", 100, b"x");
    flush(&store, &device);
    let intent = store.wants_to_recycle(0).unwrap();
    store.recycle(&intent, None, hash_of, |_, _, _| panic!("nothing was read"));
    assert_eq!((store.live(), store.index_load().0), (1, 1));
    assert_eq!(read(&store, &device, "next").unwrap().0, 100);
}

#[test]
fn a_write_that_fails_takes_the_tier_out_of_use_and_loses_its_segment() {
    let (store, device) = store(4);
    let (stays, lost) = ("stays", "lost");
    for key in [stays, "changed"] {
        append(&store, key, 1, b"x");
    }
    flush(&store, &device);
    append(&store, lost, 1, b"x");
    let intent = store.seal(0).unwrap();
    append(&store, "open", 1, b"x");
    store.written(intent.segment, false);
    assert_eq!(read(&store, &device, lost), None);
    assert_eq!(append(&store, "b", 2, b"y"), Placed::NoSegment);
    assert_eq!(store.parts(), [PartState::Failing]);
    store.take_out_failing();
    assert_eq!(append(&store, "b", 2, b"y"), Placed::NoSegment);
    assert_eq!((read(&store, &device, stays), store.segments_free()), (None, 0));
    // a change while it is out is a change
    assert!(store.hide(hash_of(1, b"changed"), 1, b"changed"));
    store.bring_back(0, false);
    assert_eq!((read(&store, &device, stays).unwrap().0, store.segments_free()), (1, 3));
    for key in [lost, "changed", "open"] {
        assert_eq!(read(&store, &device, key), None, "{key}");
    }
    assert_eq!((store.live(), append(&store, "b", 2, b"y")), (1, Placed::Yes));
}

#[test]
fn another_device_in_the_place_of_one_that_failed_begins_empty() {
    let (store, device) = store(4);
    append(&store, "a", 1, b"x");
    flush(&store, &device);
    (0..8).for_each(|_| store.note_read(FlashSegmentId(0), false));
    store.take_out_failing();
    store.bring_back(0, true);
    assert_eq!((read(&store, &device, "a"), store.live(), store.segments_free()), (None, 0, 4));
}

#[test]
fn a_ghost_is_readable_and_revived_by_a_hit() {
    let (store, device) = store(4);
    for n in 0..30 {
        append(&store, &format!("key{n}"), n, &[1; 100]);
    }
    flush(&store, &device);
    while store.sweep(0, 16) {}
    assert_eq!(store.live(), 0);
    assert_eq!(read(&store, &device, "key5").unwrap().0, 5);
    assert_eq!(store.live(), 1);
}

/// A tier with more segments and another index takes over what the former index led to: neither what was hidden nor what was replaced.
#[test]
fn a_tier_of_other_sizes_finds_what_the_former_index_led_to() {
    let (store, device) = store(4);
    let key = |n: u64| format!("key{n}");
    for n in 0..90 {
        append(&store, &key(n), n, &vec![n as u8; 1000]);
        if n % 30 == 29 {
            flush(&store, &device);
        }
    }
    for n in 0..10 {
        store.hide(hash_of(1, key(n).as_bytes()), 1, key(n).as_bytes());
        append(&store, &key(n + 10), 100 + n, b"newer");
    }
    flush(&store, &device);
    let mut image = Vec::new();
    store.save(&mut image).unwrap();
    let flash_bytes = PAGE_BYTES as u64 + 9 * (64 << 10);
    let shape = FlashShape { flash_bytes, segment_bytes: 64 << 10, objects: 9000, secret: 99 };
    let larger = FlashStore::new(shape).unwrap();
    let former = larger.load(&mut image.as_slice()).unwrap().expect("sizes have changed");
    let at = image.len() as u64 - former.index_bytes();
    larger.look_through_former(former, Box::new(image), at);
    assert!(!larger.resumes_recovery() && read(&larger, &device, &key(50)).is_none());
    let mut taken = 0;
    while let Some(intent) = larger.to_recover() {
        let mut pages = vec![Page::ZERO; intent.pages];
        device.read(intent.at, &mut pages).unwrap();
        taken += larger.recover(&intent, Some(&pages), hash_of, |_, _, take| {
            take();
        });
    }
    assert_eq!((taken, larger.live(), larger.segments_free()), (80, 80, 9 - 4));
    for n in 0..90 {
        let expected = match n {
            0..10 => None,
            10..20 => Some((90 + n, b"newer".to_vec())),
            _ => Some((n, vec![n as u8; 1000])),
        };
        assert_eq!(read(&larger, &device, &key(n)), expected, "key{n}");
    }
}

/// What a hash names are the same pages in each segment: what finds no place in an empty one must not be offered to one after the other.
#[test]
fn records_of_up_to_half_a_segment_find_a_place_and_no_segment_is_written_empty() {
    const SEGMENT_BYTES: usize = 512 << 10;
    for value_bytes in [60_000, 120_000, 170_000, 250_000, 262_000] {
        let flash_bytes = (PAGE_BYTES + 64 * SEGMENT_BYTES) as u64;
        let shape = FlashShape { flash_bytes, segment_bytes: SEGMENT_BYTES, objects: 4000, secret: 99 };
        let (store, device) = (FlashStore::new(shape).unwrap(), MemoryDevice::new(flash_bytes));
        let value = vec![7; value_bytes];
        let mut left: Vec<String> = (0..20_000_000 / value_bytes / 2).map(|n| format!("key{n}")).collect();
        let mut written = 0;
        for round in 0.. {
            assert!(round < 60, "{value_bytes}: {} found no place", left.len());
            left.retain(|key| {
                let placed = append(&store, key, 1, &value);
                assert!(matches!(placed, Placed::Yes | Placed::Refused), "{value_bytes}: {placed:?}");
                if store.wants_to_seal() {
                    let packed = store.ledger().record_bytes;
                    assert!(packed > written, "{value_bytes}: an empty segment is written");
                    written = packed;
                    flush(&store, &device);
                }
                placed != Placed::Yes
            });
            if left.is_empty() {
                break;
            }
        }
        let ledger = store.ledger();
        let filled = written as f64 / (ledger.segments_written * SEGMENT_BYTES as u64) as f64;
        assert!(filled > 0.45, "{value_bytes}: {filled}");
    }
}
