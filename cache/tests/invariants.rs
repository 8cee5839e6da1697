//! Promises of the composed engine that are not about a single read.

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cache::{
    Admission, Arbiter, Background, Cache, CacheSettings, Count, FlashSettings, Lookup, Mode, Rank, Recognition,
    Stored, Storing, TenantSpec, Terms, Worker,
};
use common::{Dice, Rig, tiny};

fn tenant(name: &str, reserved_bytes: i64) -> TenantSpec {
    TenantSpec {
        name: name.to_owned(),
        recognised: Recognition::Prefix(format!("{name}:")),
        terms: Terms { reserved_bytes, rank: Rank::Lru, ..Terms::default() },
    }
}

#[test]
fn a_tenant_within_its_reservation_keeps_its_objects() {
    let settings = CacheSettings {
        tenants: vec![tenant("quiet", 512 << 10), tenant("loud", 256 << 10)],
        ..CacheSettings::for_memory(2 << 20)
    };
    let rig = Rig::new(settings);
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let (quiet, loud) = (1, 2);
    let key = |n: u64| format!("quiet:{n}");
    let store = |worker: &mut cache::Worker, background: &mut cache::Background, tenant: u16, key: &str| {
        rig.store(worker, || rig.step(background), tenant, key.as_bytes(), Mode::Set, 0, &[7; 400]);
        if rig.cache.wants_cleaning() {
            rig.step(background);
        }
    };
    // about 180 kB: well within what is left of half a megabyte when indexes and buffers have taken their part
    (0..400).for_each(|n| store(&mut worker, &mut background, quiet, &key(n)));
    (0..40_000).for_each(|n| store(&mut worker, &mut background, loud, &format!("loud:{n}")));
    assert!(rig.cache.totals(loud).get(Count::Evictions) > 20_000, "the other tenant was cleaned many times over");
    assert_eq!(rig.cache.totals(quiet).get(Count::Evictions), 0);
    assert!((0..400).all(|n| rig.get(&mut worker, quiet, key(n).as_bytes()).is_some()));
}

/// What is never asked for fills segments of its own, and a pass takes those: what stays is not moved for each of them again.
#[test]
fn a_pass_takes_segments_that_have_little_to_keep() {
    let rig = Rig::new(CacheSettings { tenants: Vec::new(), ..CacheSettings::for_memory(8 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let store = |worker: &mut Worker, background: &mut Background, key: String| {
        rig.store(worker, || rig.step(background), 0, key.as_bytes(), Mode::Set, 0, &[7; 400]);
        if rig.cache.wants_cleaning() {
            rig.step(background);
        }
    };
    const HOT: u64 = 8_000; // half of the memory
    (0..HOT).for_each(|n| store(&mut worker, &mut background, format!("hot{n}")));
    for n in 0..100_000 {
        store(&mut worker, &mut background, format!("once{n}"));
        rig.get(&mut worker, 0, format!("hot{}", n % HOT).as_bytes());
    }
    let lost = (0..HOT).filter(|n| rig.get(&mut worker, 0, format!("hot{n}").as_bytes()).is_none()).count();
    assert!(lost < HOT as usize / 50, "{lost} of {HOT} hot objects lost");
    let figures = rig.cache.figures();
    let moved = figures.relocated_bytes as f64 / figures.freed_bytes as f64;
    assert!(moved < 3.0, "{moved} bytes moved for each freed: four where segments are taken at random");
}

/// The background thread may be late: who stores makes the index larger then, and no object loses its slot to another.
#[test]
fn an_index_grows_with_what_is_stored_though_nobody_steps() {
    const OBJECTS: u64 = 300_000;
    let rig = Rig::new(CacheSettings { tenants: Vec::new(), ..CacheSettings::for_memory(64 << 20) });
    let slots = rig.cache.figures().index_bytes / 8;
    assert!(slots < OBJECTS as usize / 2, "it has to grow: {slots}");
    let grew = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for part in 0..2 {
            let (rig, grew) = (&rig, &grew);
            threads.spawn(move || {
                let mut worker = rig.cache.worker();
                for n in (part..OBJECTS).step_by(2) {
                    rig.store(
                        &mut worker,
                        || unreachable!("there is room"),
                        0,
                        &n.to_le_bytes(),
                        Mode::Set,
                        0,
                        &[7; 40],
                    );
                    grew.fetch_or(rig.cache.figures().index_grows, Ordering::Relaxed);
                }
            });
        }
    });
    let mut worker = rig.cache.worker();
    let lost = (0..OBJECTS).filter(|n| rig.get(&mut worker, 0, &n.to_le_bytes()).is_none()).count();
    assert!(grew.into_inner(), "it says so while it grows");
    assert_eq!(lost, 0, "of {OBJECTS}");
}

/// A name for each deployment, say: what is kept of each is given back when it goes, and a prefix that was given up costs no lookup anything.
#[test]
fn tenants_that_have_gone_leave_their_memory_to_the_others() {
    let settings = CacheSettings { tenants: Vec::new(), ..tiny(true) };
    let cache = Cache::new(settings.clone()).unwrap();
    let of = |n: usize| {
        let name = format!("deployment-{n}");
        TenantSpec { recognised: Recognition::Prefix(format!("{name}:")), name, ..TenantSpec::default() }
    };
    let segments = cache.figures().segments;
    for n in 0..900 {
        cache.revise_tenants(&[of(n)], |_| Ok(())).unwrap();
    }
    cache.revise_tenants(&[], |_| Ok(())).unwrap();
    assert_eq!(cache.figures().segments, segments);
    // those that are there are too many at some time, and that is said
    let mut there: Vec<TenantSpec> = Vec::new();
    let refused = (0..2_000).find_map(|n| {
        there.push(of(10_000 + n));
        cache.revise_tenants(&there, |_| Ok(())).err()
    });
    assert!(refused.is_some_and(|error| error.to_string().contains("raise -m")), "of {} tenants none", there.len());
    let memory = cache.figures().segments * cache.figures().segment_bytes;
    assert!(memory >= settings.memory_bytes / 16, "objects have room still: {memory}");
    // all of them gone, a start that knows their numbers has what the first had
    cache.revise_tenants(&[], |_| Ok(())).unwrap();
    let numbering = Some(cache.registry().numbering());
    assert!(Cache::new(CacheSettings { numbering, ..settings }).is_ok());
}

#[test]
fn pooled_memory_flows_to_the_tenant_that_earns_hits() {
    for arbiter in [Arbiter::Shadow, Arbiter::Curve] {
        let shadow_hits = memory_flows(arbiter);
        assert!(arbiter != Arbiter::Shadow || shadow_hits > 20);
    }
}

fn memory_flows(arbiter: Arbiter) -> u64 {
    let settings =
        CacheSettings { arbiter, tenants: vec![tenant("a", 0), tenant("b", 0)], ..CacheSettings::for_memory(4 << 20) };
    let rig = Rig::new(settings);
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(1));
    // a asks again and again for somewhat more than its share; b never asks twice
    for n in 0..120_000u64 {
        let (id, key) = if n % 2 == 0 { (1, format!("a:{}", dice.roll(5_000))) } else { (2, format!("b:{n}")) };
        if rig.get(&mut worker, id, key.as_bytes()).is_none() {
            rig.store(&mut worker, || rig.step(&mut background), id, key.as_bytes(), Mode::Set, 0, &[7; 400]);
        }
        if rig.cache.wants_cleaning() {
            rig.step(&mut background);
        }
        if n % 1000 == 0 {
            rig.step(&mut background);
            let figures = rig.cache.figures();
            assert_eq!(rig.cache.registry().targets_sum() as u64, figures.log_bytes, "INV-SUM");
        }
    }
    let target = |id: u16| rig.cache.registry().tenant(id).account.balance().target;
    assert!(target(1) > 2 * target(2), "{arbiter:?}: {} {}", target(1), target(2));
    rig.cache.totals(1).get(Count::ShadowHits)
}

/// What is fetched ahead of a pipeline's gets is only where to look: what the requests before them do counts.
#[test]
fn a_key_that_was_expected_is_found_as_it_is_by_then() {
    let rig = Rig::new(CacheSettings::for_memory(2 << 20));
    let mut worker = rig.cache.worker();
    let key = b"somebody";
    rig.store(&mut worker, || {}, 0, key, Mode::Set, 0, b"before");
    let mut turn = rig.cache.turn(&mut worker);
    let expect = |turn: &mut cache::Turn<'_>| {
        let mut expected = turn.expect(0, key);
        turn.expect_object(&mut expected);
        expected
    };
    let value = |turn: &mut cache::Turn<'_>, expected| match turn.get_expected(0, key, expected) {
        Lookup::Hit(object) => Some(object.value_to_vec()),
        _ => None,
    };
    let expected = expect(&mut turn);
    assert_eq!(value(&mut turn, expected).as_deref(), Some(&b"before"[..]));
    turn.store(0, &Storing::new(Mode::Set, key, b"after")).unwrap();
    assert_eq!(value(&mut turn, expected).as_deref(), Some(&b"after"[..]));
    let expected = expect(&mut turn);
    turn.delete(0, key);
    assert_eq!(value(&mut turn, expected), None);
    let expected = expect(&mut turn);
    turn.store(0, &Storing::new(Mode::Set, key, b"anew")).unwrap();
    assert_eq!(value(&mut turn, expected).as_deref(), Some(&b"anew"[..]));
}

#[test]
fn a_key_lives_in_one_place() {
    let rig = Rig::new(CacheSettings { admission: Admission::All, ..tiny(true) });
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(5));
    for n in 0..40_000u64 {
        let key = format!("k{}", dice.roll(9_000));
        rig.store(&mut worker, || rig.step(&mut background), 0, key.as_bytes(), Mode::Set, 0, &[n as u8; 300]);
        if rig.cache.wants_cleaning() {
            rig.step(&mut background);
        }
    }
    let whereabouts: Vec<(bool, bool)> =
        (0..9_000).map(|n| rig.cache.turn(&mut worker).whereabouts(0, format!("k{n}").as_bytes())).collect();
    let in_dram = whereabouts.iter().filter(|place| place.0).count();
    let on_flash = whereabouts.iter().filter(|place| place.1).count();
    let in_both = whereabouts.iter().filter(|place| place.0 && place.1).count();
    assert!(in_dram > 300 && on_flash > 300, "{in_dram} {on_flash}");
    assert!(in_both < 45, "{in_both} keys in both tiers: more than tags shared by chance explain");
}

/// A key that expired in DRAM while flash holds another of its tag: what a conditional store has read decides it, though something is published.
#[test]
fn an_expired_key_is_stored_though_flash_has_a_neighbour() {
    let rig = Rig::new(CacheSettings { admission: Admission::All, ..tiny(true) });
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(5));
    let key = |n: u64| format!("k{n}").into_bytes();
    // which keys share a tag is chance: until some do, one in DRAM and one on flash
    let neighboured = (0..20).find_map(|_| {
        for n in 0..40_000u64 {
            let key = key(dice.roll(40_000));
            rig.store(&mut worker, || rig.step(&mut background), 0, &key, Mode::Set, 2_000, &[n as u8; 60]);
            if rig.cache.wants_cleaning() {
                rig.step(&mut background);
            }
        }
        let turn = rig.cache.turn(&mut worker);
        let found: Vec<u64> = (0..40_000).filter(|n| turn.whereabouts(0, &key(*n)) == (true, true)).collect();
        (!found.is_empty()).then_some(found)
    });
    let neighboured = neighboured.expect("no two keys share a tag: this test sees nothing");
    rig.cache.advance(2_001);
    for n in neighboured {
        let stored = rig.store(&mut worker, || rig.step(&mut background), 0, &key(n), Mode::Add, 0, b"anew");
        assert!(matches!(stored, Stored::Yes(_)), "k{n}: {stored:?}");
    }
}

#[test]
fn a_full_log_without_eviction_refuses_and_keeps() {
    let rig = Rig::new(CacheSettings { evict: false, ..CacheSettings::for_memory(2 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let mut stored = 0;
    loop {
        let key = format!("k{stored}");
        match rig.cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, key.as_bytes(), &[1; 500])) {
            Ok(_) => stored += 1,
            Err(cache::Needs::Room) => rig.step(&mut background), // it looks for what is dead, and finds nothing
            Err(cache::Needs::Full) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(!rig.cache.wants_cleaning(), "nobody is asked for what cannot be done");
    assert!(stored > 1_500, "{stored}");
    assert!((0..stored).all(|n| rig.get(&mut worker, 0, format!("k{n}").as_bytes()).is_some()));
    // what is deleted makes room again
    (0..stored / 4).for_each(|n| assert!(rig.cache.turn(&mut worker).delete(0, format!("k{n}").as_bytes())));
    for n in 0..stored / 8 {
        let key = format!("k{n}");
        rig.store(&mut worker, || rig.step(&mut background), 0, key.as_bytes(), Mode::Set, 0, &[2; 500]);
    }
    assert!((stored / 4..stored).all(|n| rig.get(&mut worker, 0, format!("k{n}").as_bytes()).is_some()));
}

/// Who waits for room that never comes free waits for ever.
#[test]
fn what_no_memory_has_room_for_is_refused_and_the_rest_stored() {
    let rig = Rig::new(CacheSettings { item_bytes_max: 8 << 20, ..CacheSettings::for_memory(4 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let mut is_stored = |bytes: usize, key: &str| {
        let value = vec![1; bytes];
        for _ in 0..100 {
            match rig.cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, key.as_bytes(), &value)) {
                Ok(_) => return true,
                Err(cache::Needs::Room) => rig.step(&mut background),
                Err(cache::Needs::Full) => return false,
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("{bytes} bytes wait for room");
    };
    for round in 0..3 {
        let sizes = (1..70).map(|n| n * (64 << 10));
        let most = sizes.filter(|bytes| is_stored(*bytes, &format!("k{round}-{bytes}"))).max();
        assert!(most.is_some_and(|bytes| (1 << 20..4 << 20).contains(&bytes)), "{most:?}");
    }
}

#[test]
fn flash_that_leaves_no_memory_for_objects_is_refused() {
    let flash = FlashSettings { segment_bytes: Some(2 << 20), ..FlashSettings::for_bytes(64 << 20) };
    let settings = CacheSettings { flash: Some(flash), ..CacheSettings::for_memory(8 << 20) };
    let error = cache::Cache::new(settings).err().expect("two buffers and a third take nearly all");
    assert!(error.to_string().contains("left for objects"), "{error}");
}

/// Half of records that are nearly half as large as a segment find no place in an empty one by their rows: the drive must not be worn out by that.
#[test]
fn large_objects_go_to_flash_and_nothing_else_is_written() {
    const SEGMENT_BYTES: usize = 512 << 10;
    for bytes in [90_000, 170_000, 250_000] {
        let flash = FlashSettings { segment_bytes: Some(SEGMENT_BYTES), ..FlashSettings::for_bytes(24 << 20) };
        let settings = CacheSettings { flash: Some(flash), ..CacheSettings::for_memory(8 << 20) };
        let rig = Rig::new(CacheSettings { admission: Admission::All, ..settings });
        let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
        let count = 30_000_000 / bytes;
        for n in 0..count {
            let key = format!("k{n}");
            rig.store(&mut worker, || rig.step(&mut background), 0, key.as_bytes(), Mode::Set, 0, &vec![1; bytes]);
            rig.step(&mut background);
        }
        let flash = rig.cache.figures().flash.unwrap();
        let written = flash.ledger.written as usize;
        assert!(written <= 5 * count * bytes / 2, "{bytes}: {written} for {}", count * bytes);
        assert!(flash.live * bytes > 8 << 20, "{bytes}: {} on flash", flash.live);
    }
}

/// Nobody asks for anything but stores that are refused: time alone makes room, as what is there expires.
#[test]
fn a_full_log_without_eviction_has_room_again_for_what_expires() {
    let rig = Rig::new(CacheSettings { evict: false, ..CacheSettings::for_memory(2 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let mut number = 0;
    let mut is_stored = |second: u32, expiry: u32| {
        rig.cache.advance(second);
        number += 1;
        let key = format!("k{number}");
        let storing = Storing { expiry, ..Storing::new(Mode::Set, key.as_bytes(), &[1; 500]) };
        loop {
            match rig.cache.turn(&mut worker).store(0, &storing) {
                Ok(stored) => return matches!(stored, Stored::Yes(_)),
                Err(cache::Needs::Room) => rig.step(&mut background),
                Err(cache::Needs::Full) => return false,
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    while is_stored(10, 20) {}
    assert!((0..100).all(|_| !is_stored(10, 20)));
    assert!((21..40).any(|second| is_stored(second, 0)), "all has expired");
}

/// Stores, and takes a step if one is due.
fn store_and_step(
    rig: &Rig,
    worker: &mut Worker,
    background: &mut cache::Background,
    key: &str,
    expiry: u32,
    value: &[u8],
) {
    rig.store(worker, || rig.step(background), 0, key.as_bytes(), Mode::Set, expiry, value);
    if rig.cache.wants_cleaning() {
        rig.step(background);
    }
}

fn moved_for_each_freed(rig: &Rig) -> f64 {
    let figures = rig.cache.figures();
    figures.relocated_bytes as f64 / figures.freed_bytes as f64
}

/// As long as there is room for what is stored, nothing that lives is dropped, however often it is stored anew, with eviction or without.
#[test]
fn what_there_is_room_for_is_not_dropped() {
    for evict in [true, false] {
        let rig = Rig::new(CacheSettings { evict, tenants: Vec::new(), ..CacheSettings::for_memory(8 << 20) });
        let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
        let mut dice = Dice(7);
        const KEYS: u64 = 400; // of 12,600 bytes on average: three fifths of the memory
        for n in 0..20_000 {
            // most often the same few, so that most segments keep a little that lives
            let key = if n < KEYS { n } else { dice.roll(KEYS).min(dice.roll(KEYS)).min(dice.roll(KEYS)) };
            let value = vec![key as u8; 600 + (key as usize * 61) % 24_000];
            store_and_step(&rig, &mut worker, &mut background, &format!("k{key}"), 0, &value);
        }
        assert_eq!(rig.cache.totals(0).get(Count::Evictions), 0, "with eviction: {evict}");
        for key in 0..KEYS {
            let (_, value) = rig.get(&mut worker, 0, format!("k{key}").as_bytes()).expect("it was never dropped");
            assert!(value.iter().all(|byte| *byte == key as u8));
        }
        assert!(moved_for_each_freed(&rig) < 1.0);
    }
}

/// The same where three quarters of memory are in use, and each key is as likely to be stored again as any other: no segment is mostly dead.
#[test]
fn what_fits_is_not_dropped_though_little_is_dead_anywhere() {
    let rig = Rig::new(CacheSettings { tenants: Vec::new(), ..CacheSettings::for_memory(32 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let mut dice = Dice(11);
    const KEYS: u64 = 16_000; // of about 1,570 bytes
    for n in 0..8 * KEYS {
        let key = if n < KEYS { n } else { dice.roll(KEYS) };
        let value = vec![key as u8; 100 + dice.roll(2_900) as usize];
        store_and_step(&rig, &mut worker, &mut background, &format!("k{key}"), 0, &value);
    }
    assert_eq!(rig.cache.totals(0).get(Count::Evictions), 0);
    assert!(moved_for_each_freed(&rig) < 3.0);
}

/// What never expires fills half of memory; beside it much is stored that expires within seconds. Nobody asks for either, so by rank what is older
/// would go first. None of it does: what has expired makes room for what comes.
#[test]
fn what_has_expired_goes_before_what_lives() {
    let rig = Rig::new(CacheSettings { tenants: Vec::new(), ..CacheSettings::for_memory(16 << 20) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    const LASTING: u64 = 8_000; // of about a kibibyte
    const A_SECOND: u64 = 2_000;
    let mut store = |key: String, expiry| store_and_step(&rig, &mut worker, &mut background, &key, expiry, &[5; 940]);
    for n in 0..LASTING {
        store(format!("lasting:{n}"), 0);
    }
    for second in 1_000..1_040 {
        rig.cache.advance(second);
        for n in 0..A_SECOND {
            store(format!("passing:{second}:{n}"), second + 2);
        }
    }
    assert_eq!(rig.cache.totals(0).get(Count::Evictions), 0);
    for n in 0..LASTING {
        assert!(rig.get(&mut worker, 0, format!("lasting:{n}").as_bytes()).is_some(), "lasting:{n}");
    }
    assert!(moved_for_each_freed(&rig) < 1.0);
}

#[test]
fn idle_memory_is_taxed_from_its_reservation_and_given_back() {
    let settings = CacheSettings {
        tenants: vec![tenant("idle", 1 << 20), tenant("busy", 0)],
        idle_secs: 100,
        ..CacheSettings::for_memory(4 << 20)
    };
    let rig = Rig::new(settings);
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let reserved = || rig.cache.registry().tenant(1).account.balance().reserved;
    let mut second = 1_000;
    let mut pass = |background: &mut cache::Background, secs: u32| {
        for _ in 0..secs {
            second += 1;
            rig.cache.advance(second);
            rig.step(background);
        }
    };
    let key = |n: u64| format!("idle:{n}");
    pass(&mut background, 1);
    for n in 0..500 {
        rig.store(&mut worker, || rig.step(&mut background), 1, key(n).as_bytes(), Mode::Set, 0, &[7; 400]);
    }
    let whole = reserved();
    pass(&mut background, 110);
    assert_eq!((rig.cache.activity(1), reserved()), (1.0, whole), "it was stored in this period");
    pass(&mut background, 110);
    assert_eq!(rig.cache.activity(1), 0.0);
    assert!(
        (reserved() - whole / 2).abs() <= 1,
        "all of it idle at rate 0.5: half of {whole} is left, not {}",
        reserved()
    );
    for n in 0..250 {
        assert!(rig.get(&mut worker, 1, key(n).as_bytes()).is_some());
    }
    pass(&mut background, 110);
    assert!((rig.cache.activity(1) - 0.5).abs() < 0.02, "{}", rig.cache.activity(1));
    assert!((reserved() as f64 / whole as f64 - 1.0 / 1.5).abs() < 0.02);
    assert_eq!(rig.cache.registry().targets_sum() as u64, rig.cache.figures().log_bytes, "INV-SUM");
}

/// A full cache whose memory shrinks by a third: the cleaner has no free segment but its spare ones, and its passes still end as the contest
/// has it. What was asked for again and again is all there, and what is there fills the memory that is left.
#[test]
fn memory_that_shrinks_loses_what_is_worth_least() {
    for flash in [false, true] {
        let mut settings = CacheSettings { memory_bytes: 6 << 20, ..tiny(flash) };
        settings.admission = Admission::All;
        if let Some(tier) = &mut settings.flash {
            tier.bytes = 16 << 20;
        }
        let rig = Rig::new(settings);
        let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
        let key = |n: usize| format!("key{n}").into_bytes();
        let store = |worker: &mut Worker, background: &mut Background, n: usize| {
            let key = key(n);
            let storing = Storing::new(Mode::Set, &key, &[7; 300]);
            rig.change(worker, || rig.step(background), |turn| turn.store(0, &storing).map(|_| ()));
        };
        let hot = 0..2_000;
        for n in 0..20_000 {
            store(&mut worker, &mut background, n);
            if n >= hot.end {
                let again = n % hot.end;
                if rig.get(&mut worker, 0, &key(again)).is_none() {
                    store(&mut worker, &mut background, again);
                }
            }
        }
        let before = rig.cache.totals_of_all().get(Count::Evictions);
        assert!(rig.cache.resize(4 << 20));
        rig.step(&mut background);
        let figures = rig.cache.figures();
        assert_eq!(figures.gave_up, 0, "flash {flash}");
        assert!(
            figures.bytes * 10 > figures.log_bytes * 7,
            "flash {flash}: {} of {}",
            figures.bytes,
            figures.log_bytes
        );
        let lost = hot.clone().filter(|n| rig.get(&mut worker, 0, &key(*n)).is_none()).count();
        assert!(lost < hot.len() / 50, "flash {flash}: {lost} of {} that are read again and again", hot.len());
        if flash {
            let evicted = rig.cache.totals_of_all().get(Count::Evictions) - before;
            assert!(evicted < 200, "{evicted} went though flash has room for them");
        }
    }
}

/// A reader that loses its core in the middle of a turn holds back what the cleaner has emptied meanwhile. The cleaner waits for it.
#[test]
fn the_cleaner_waits_for_a_reader_that_was_stopped() {
    let rig = Rig::new(tiny(false));
    let (mut worker, mut reader) = (rig.cache.worker(), rig.cache.worker());
    let mut background = rig.cache.background();
    for n in 0.. {
        let key = format!("key{n}").into_bytes();
        if rig.cache.turn(&mut worker).store(0, &Storing::new(Mode::Set, &key, &[7; 300])).is_err() {
            break;
        }
    }
    let stopped = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _turn = rig.cache.turn(&mut reader);
            stopped.wait();
            std::thread::sleep(Duration::from_millis(300));
        });
        stopped.wait();
        while rig.cache.step(&mut background, None) {}
    });
    let figures = rig.cache.figures();
    assert!(figures.cleaned_segments > 0);
    assert_eq!(figures.gave_up, 0);
}
