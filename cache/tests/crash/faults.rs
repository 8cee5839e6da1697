//! Devices that fail in every way: no wrong and no stale value, and the tier comes back (INV-FRESH, INV-OWN-KEY). Each run is told by its
//! seed: FLASHARE_SEED, FLASHARE_FAULT_RUNS.

use crate::world::{Ills, KEYS, World, number};
use cache::{PartState, SyncPolicy};

/// Works on a device with these ills, has it taken out and brought back, and lets the process be killed now and then.
fn run(name: &str, seed: u64, ills: Ills) -> (u64, u64) {
    // with the one policy segments are synced, with the other not
    let policy = if seed.is_multiple_of(2) { SyncPolicy::Always } else { SyncPolicy::Os };
    let mut world = World::new(seed, policy);
    let (mut outs, mut hits) = (0, 0);
    for round in 0..4 {
        let cache = world.start(1);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        *world.flash.ills.lock() = Ills { dice: seed, ..ills };
        for step in 0..20_000u64 {
            world.act(&cache, &mut worker, &mut background);
            if step % 500 == 499 && cache.flash_parts() == [PartState::Out] {
                cache.bring_back(0, false);
                outs += 1;
            }
        }
        *world.flash.ills.lock() = Ills::default();
        if round == 1 {
            continue; // the process is killed as it is, the device out perhaps
        }
        for _ in 0..3 {
            cache.step(&mut background, Some(&world.flash));
            if cache.flash_parts() == [PartState::Out] {
                cache.bring_back(0, false);
            }
        }
        for key in 0..KEYS {
            hits += u64::from(world.check(&cache, &mut worker, key));
        }
        assert_eq!(cache.flash_parts(), [PartState::In], "{name}, seed {seed}: it is in use again");
    }
    (outs, hits)
}

#[test]
fn devices_that_fail_in_every_way_never_make_a_wrong_answer() {
    let kinds = [
        ("errors", Ills { errors: 40, ..Ills::default() }),
        ("bit flips", Ills { flips: 5, ..Ills::default() }),
        ("torn writes", Ills { torn: 4, ..Ills::default() }),
        ("lost writes", Ills { lost: 3, ..Ills::default() }),
        ("gone for a while", Ills { gone: 60, ..Ills::default() }),
        ("everything", Ills { errors: 100, flips: 50, torn: 20, lost: 20, gone: 300, ..Ills::default() }),
    ];
    for (name, ills) in kinds {
        let (mut outs, mut hits) = (0, 0);
        let first = number("FLASHARE_SEED", 1);
        for seed in first..first + number("FLASHARE_FAULT_RUNS", 2) {
            let (more_outs, more_hits) = run(name, seed, ills);
            (outs, hits) = (outs + more_outs, hits + more_hits);
        }
        println!("{name}: taken out {outs} times, {hits} hits at the ends");
        assert!(hits > 2_000, "{name}: {hits}");
        assert!(outs > 0 || ills.errors + ills.torn + ills.gone == 0, "{name}: it was never taken out");
    }
}

#[test]
fn one_error_costs_one_object_and_not_the_device() {
    let mut world = World::new(9, SyncPolicy::Os);
    let cache = world.start(1);
    let (mut worker, mut background) = (cache.worker(), cache.background());
    for _ in 0..20_000 {
        world.act(&cache, &mut worker, &mut background);
    }
    let on_flash = |worker: &mut cache::Worker, key: &u64| {
        cache.turn(worker).whereabouts(0, format!("key{key}").as_bytes()) == (false, true)
    };
    let keys: Vec<u64> = (0..KEYS).filter(|key| on_flash(&mut worker, key)).collect();
    let mut lost = 0;
    for key in keys.iter().take(200).filter(|key| *key % 2 == 0) {
        world.flash.ills.lock().errors = 1;
        world.check(&cache, &mut worker, *key);
        world.flash.ills.lock().errors = 0;
        lost += u32::from(!on_flash(&mut worker, key));
        // in turns: one that is hit again and again comes back to DRAM
        world.check(&cache, &mut worker, keys[keys.len() - 1 - lost as usize % 20]);
    }
    assert!(lost > 30, "what cannot be read is not asked for again: {lost}");
    assert_eq!(cache.flash_parts(), [PartState::In]);
}

#[test]
fn a_device_that_fails_in_the_search_after_a_crash_brings_nothing_stale_back() {
    for seed in 1..=4 {
        let mut world = World::new(seed, SyncPolicy::Os);
        let cache = world.start(1);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        (0..20_000).for_each(|_| world.act(&cache, &mut worker, &mut background));
        drop((worker, background, cache));

        let cache = world.start(1);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        assert!(cache.is_recovering());
        world.flash.ills.lock().errors = 1;
        while cache.flash_parts() != [PartState::Out] {
            cache.step(&mut background, Some(&world.flash));
        }
        // changes of what it still has, and nobody knows
        (0..3_000).for_each(|_| world.act(&cache, &mut worker, &mut background));
        world.flash.ills.lock().errors = 0;
        drop((worker, background, cache));

        let cache = world.start(1);
        let (mut worker, mut background) = (cache.worker(), cache.background());
        while cache.is_recovering() {
            cache.step(&mut background, Some(&world.flash));
        }
        (0..KEYS).for_each(|key| _ = world.check(&cache, &mut worker, key));
    }
}
