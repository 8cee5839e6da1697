//! Random operations against a map that is trivially right, with time, cleaning, demotion, recycling and rescue forced all the
//! time by tiny sizes. A read is the last acknowledged write or a miss (INV-FRESH), of its own key and tenant (INV-OWN-KEY).

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cache::{Admission, CacheSettings, Count, Counted, Delta, Mode, Stored, Touched, WriteBudget};
use common::{Dice, Rig, tiny};
use tenants::{Rank, Recognition, TenantSpec, Terms};

fn two_tenants() -> Vec<TenantSpec> {
    let tenant = |name: &str, reserved_bytes| TenantSpec {
        name: name.to_owned(),
        recognised: Recognition::Prefix(format!("{name}:")),
        terms: Terms { reserved_bytes, rank: Rank::Lru, ..Terms::default() },
    };
    vec![tenant("a", 300 << 10), tenant("b", 100 << 10)]
}

/// What the model knows of a key: its value and expiry.
type Model = HashMap<(u16, u64), (Vec<u8>, u32)>;

struct Run {
    rig: Rig,
    model: Model,
    dice: Dice,
    now: u32,
    hits: [u64; 2],
}

impl Run {
    fn value(&mut self, key: u64) -> Vec<u8> {
        let len = [3, 40, 200, 900, 5_000, 30_000][self.dice.roll(6) as usize];
        let stamp = self.dice.roll(1 << 30);
        format!("{key}/{stamp}/").into_bytes().into_iter().cycle().take(len).collect()
    }

    fn alive(&mut self, key: (u16, u64)) -> Option<Vec<u8>> {
        let now = self.now;
        self.model.get(&key).filter(|(_, expiry)| *expiry == 0 || *expiry > now).map(|(value, _)| value.clone())
    }
}

fn run(seed: u64, steps: u64) -> (Run, cache::Totals) {
    // with a budget, what leaves flash competes with what is new, and is written again past DRAM
    let flash_write_budget =
        if seed.is_multiple_of(2) { WriteBudget::Amplification(3.0) } else { WriteBudget::Unlimited };
    let settings =
        CacheSettings { tenants: two_tenants(), seed, admission: Admission::Svm, flash_write_budget, ..tiny(true) };
    let mut run = Run { rig: Rig::new(settings), model: Model::new(), dice: Dice(seed), now: 1_000, hits: [0; 2] };
    let mut worker = run.rig.cache.worker();
    let mut background = run.rig.cache.background();
    let mut deletes = [0; 2];
    for step in 0..steps {
        let tenant = run.dice.roll(2) as u16 + 1;
        // a small hot set and a long tail, so that some objects prove themselves and others do not
        let number = if run.dice.roll(2) == 0 { run.dice.roll(40) } else { 100 + run.dice.roll(1500) };
        let key = (tenant, number);
        let name = format!("key-{number}");
        let name = name.as_bytes();
        if run.rig.cache.wants_cleaning() || step % 16 == 0 {
            run.rig.step(&mut background);
        }
        match run.dice.roll(100) {
            0..50 => {
                let found = run.rig.get(&mut worker, tenant, name);
                let expected = run.alive(key);
                if let Some((_, value)) = found {
                    assert_eq!(Some(value), expected, "seed {seed}, step {step}: {key:?} is stale, foreign or expired");
                    run.hits[usize::from(tenant) - 1] += 1;
                }
            }
            50..75 => {
                let value = run.value(number);
                let expiry = if run.dice.roll(4) == 0 { run.now + 1 + run.dice.roll(5) as u32 } else { 0 };
                let rig = &run.rig;
                let make_room = || rig.step(&mut background);
                assert!(matches!(
                    rig.store(&mut worker, make_room, tenant, name, Mode::Set, expiry, &value),
                    Stored::Yes(_)
                ));
                run.model.insert(key, (value, expiry));
            }
            75..85 => conditional_store(&mut run, &mut worker, &mut background, key, name),
            85..90 => {
                let deleted = run.rig.cache.turn(&mut worker).delete(tenant, name);
                let known = run.alive(key).is_some();
                // what was evicted is not found, a neighbour's tag on flash may be; what is gone stays gone either way
                deletes[usize::from(deleted && known)] += 1;
                run.model.remove(&key);
            }
            90..93 => {
                let expiry = run.now + 2;
                let rig = &run.rig;
                let touched = rig.touch(&mut worker, || rig.step(&mut background), tenant, name, expiry);
                if touched == Touched::Yes {
                    assert!(run.alive(key).is_some(), "seed {seed}, step {step}: touched what is not there");
                    run.model.get_mut(&key).unwrap().1 = expiry;
                }
            }
            93..96 => {
                let name = format!("count-{number}");
                let rig = &run.rig;
                let counted =
                    rig.count(&mut worker, || rig.step(&mut background), tenant, name.as_bytes(), Delta::Increment(3));
                let key = (tenant + 10, number);
                match counted {
                    Counted::Is { number: value, .. } => {
                        let old = run.model.get(&key).expect("a counter exists only once stored");
                        let before: u64 = std::str::from_utf8(&old.0).unwrap().trim().parse().unwrap();
                        assert_eq!(value, before + 3, "seed {seed}, step {step}");
                        run.model.insert(key, (value.to_string().into_bytes(), 0));
                    }
                    Counted::Unknown => {
                        let make_room = || rig.step(&mut background);
                        rig.store(&mut worker, make_room, tenant, name.as_bytes(), Mode::Add, 0, b"5");
                        run.model.insert(key, (b"5".to_vec(), 0));
                    }
                    other => panic!("seed {seed}, step {step}: a counter came to {other:?}"),
                }
            }
            96..99 => {
                run.now += 1;
                run.rig.cache.advance(run.now);
            }
            _ if run.dice.roll(40) == 0 => {
                run.rig.cache.turn(&mut worker).flush_all(Some(tenant), None);
                run.model.retain(|(owner, _), _| owner % 10 != tenant);
            }
            _ => drop(run.rig.cache.train_step()),
        }
    }
    assert!(deletes[1] > 0);
    let totals = run.rig.cache.totals_of_all();
    (run, totals)
}

fn conditional_store(
    run: &mut Run,
    worker: &mut cache::Worker,
    background: &mut cache::Background,
    key: (u16, u64),
    name: &[u8],
) {
    let value = run.value(key.1);
    let alive = run.alive(key);
    let mode = [Mode::Add, Mode::Replace, Mode::Append, Mode::Prepend][run.dice.roll(4) as usize];
    if alive.as_ref().is_some_and(|alive| alive.len() > 100_000) {
        return;
    }
    let rig = &run.rig;
    let stored = rig.store(worker, || rig.step(background), key.0, name, mode, 0, &value);
    let expiry = run.model.get(&key).map_or(0, |known| known.1);
    match (stored, mode) {
        (Stored::Yes(_), Mode::Add) => drop(run.model.insert(key, (value, 0))),
        (Stored::Yes(_), Mode::Replace) => {
            assert!(alive.is_some(), "replaced what is not there");
            run.model.insert(key, (value, 0));
        }
        (Stored::Yes(_), Mode::Append) => {
            run.model.insert(key, ([alive.expect("appended to what is there"), value].concat(), expiry));
        }
        (Stored::Yes(_), _) => {
            run.model.insert(key, ([value, alive.expect("prepended to what is there")].concat(), expiry));
        }
        (Stored::No, Mode::Add) => assert!(alive.is_some(), "an add was refused though nothing is there"),
        (Stored::No, _) => {} // it was evicted
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_is_never_stale() {
    let mut sum = cache::Totals::default();
    let mut recycled = 0;
    for seed in 1..=6 {
        let (run, totals) = run(seed, 25_000);
        sum.add(&totals);
        recycled += run.rig.cache.figures().flash.unwrap().ledger.segments_recycled;
        assert!(run.hits.iter().all(|hits| *hits > 100));
    }
    for rare in [Count::FlashHits, Count::Demoted, Count::Rescued, Count::Evictions, Count::Expired, Count::Flushed] {
        assert!(sum.get(rare) > 20, "the rare path {rare:?} was hardly taken: {}", sum.get(rare));
    }
    assert!(recycled > 50);
}

/// Several threads, each the only writer of its keys: a reader, whoever it is, never sees a version older than what that
/// writer had finished before the read began.
#[test]
fn a_read_is_never_stale_with_many_threads() {
    const KEYS: u64 = 800;
    const WRITERS: u64 = 2;
    let rig = Rig::new(cache::CacheSettings { admission: Admission::All, ..tiny(true) });
    // even: stored with this version; odd: deleted after it
    let finished: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let (done, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let text = |key: u64, version: u64, len: usize| -> Vec<u8> {
        format!("{key}:{version}:").into_bytes().into_iter().cycle().take(len).collect()
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut background = rig.cache.background();
            while !stop.load(Ordering::Relaxed) {
                rig.cache.step(&mut background, Some(&rig.device));
            }
        });
        let helper = threads.spawn(|| {
            let mut helper = rig.cache.helper();
            while !done.load(Ordering::Relaxed) {
                if !rig.cache.help(&mut helper) {
                    std::thread::yield_now();
                }
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|me| {
                let (rig, finished, stop) = (&rig, &finished, &stop);
                threads.spawn(move || {
                    let (mut worker, mut dice, mut hits) = (rig.cache.worker(), Dice(me), 0u64);
                    while !stop.load(Ordering::Relaxed) {
                        let key = dice.roll(KEYS);
                        let before = finished[key as usize].load(Ordering::SeqCst);
                        let Some((_, value)) = rig.get(&mut worker, 0, format!("k{key}").as_bytes()) else { continue };
                        hits += 1;
                        let head = String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
                        let mut parts = head.split(':');
                        assert_eq!(parts.next(), Some(key.to_string().as_str()), "another key's value");
                        let version: u64 = parts.next().unwrap().parse().unwrap();
                        assert!(
                            version > before / 2 || (version == before / 2 && before % 2 == 0),
                            "key {key}: {version} after {before}"
                        );
                        assert_eq!(value, text(key, version, value.len()));
                    }
                    hits
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|me| {
                let (rig, finished) = (&rig, &finished);
                threads.spawn(move || {
                    let (mut worker, mut dice) = (rig.cache.worker(), Dice(99 + me));
                    for version in 1..30_000u64 {
                        let key = dice.roll(KEYS / WRITERS) * WRITERS + me;
                        let name = format!("k{key}");
                        if dice.roll(8) == 0 {
                            rig.cache.turn(&mut worker).delete(0, name.as_bytes());
                            let last = finished[key as usize].load(Ordering::SeqCst);
                            finished[key as usize].store(last | 1, Ordering::SeqCst);
                            continue;
                        }
                        let value = text(key, version, [30, 300, 3_000, 9_000][dice.roll(4) as usize]);
                        rig.store(&mut worker, std::thread::yield_now, 0, name.as_bytes(), Mode::Set, 0, &value);
                        finished[key as usize].store(version * 2, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        let helped = helper.join(); // it may be waiting for the background thread
        stop.store(true, Ordering::Relaxed); // whatever failed: a thread that goes on for ever would keep it from being told
        written.into_iter().chain([helped]).for_each(Result::unwrap);
        let hits: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(hits > 500, "{hits}");
    });
    let totals = rig.cache.totals_of_all();
    assert!(totals.get(Count::FlashHits) > 100 && totals.get(Count::Demoted) > 1000, "{totals:?}");
    assert!(
        rig.cache.figures().helped_passes > 25,
        "the helper has cleaned, too: {}",
        rig.cache.figures().helped_passes
    );
}

#[test]
fn what_is_admitted_reaches_flash_whoever_cleans() {
    const OBJECTS: u64 = 4_000;
    let mut settings = CacheSettings { admission: Admission::All, ..tiny(true) };
    settings.flash.as_mut().unwrap().bytes = 40 << 20;
    let rig = Rig::new(settings);
    let (done, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut background = rig.cache.background();
            while !stop.load(Ordering::Relaxed) {
                rig.cache.step(&mut background, Some(&rig.device));
                std::thread::sleep(std::time::Duration::from_micros(200)); // so that most passes are the helper's
            }
        });
        let helper = threads.spawn(|| {
            let mut helper = rig.cache.helper();
            while !done.load(Ordering::Relaxed) {
                if !rig.cache.help(&mut helper) {
                    std::thread::yield_now();
                }
            }
        });
        let mut worker = rig.cache.worker();
        for n in 0..OBJECTS {
            // eight fill a segment, so that one is full several times in a pass
            rig.store(&mut worker, std::thread::yield_now, 0, format!("k{n}").as_bytes(), Mode::Set, 0, &[7; 7_000]);
        }
        done.store(true, Ordering::Relaxed);
        helper.join().unwrap(); // it may be waiting for the background thread
        stop.store(true, Ordering::Relaxed);
    });
    let mut worker = rig.cache.worker();
    let lost = (0..OBJECTS).filter(|n| rig.get(&mut worker, 0, format!("k{n}").as_bytes()).is_none()).count();
    assert!(rig.cache.figures().helped_passes > 10, "{}", rig.cache.figures().helped_passes);
    // flash has room for all; one here and there may find its own place taken when memory is at its shortest
    assert!(lost < OBJECTS as usize / 100, "{lost} of {OBJECTS} lost");
}
