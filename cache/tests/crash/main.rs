//! A crash at any moment, and the start after it: what comes back of flash is what was stored last, or nothing (INV-FRESH).
//!
//! Processes are killed and machines lose power between any two writes, and in the middle of one. After a loss of power each sector
//! that was not synced is as it was before or as it was written, at random. Rounds and seed: FLASHARE_CRASH_ROUNDS, FLASHARE_SEED.

mod damage;
mod faults;
mod world;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cache::{Cache, JournalFile, SyncPolicy};
use log_memory::mix;
use parking_lot::Mutex;
use world::{KEYS, World, number, settings};

fn rounds(policy: SyncPolicy, powers: bool) -> World {
    let mut world = World::new(number("FLASHARE_SEED", 1), policy);
    let mut boot = 1;
    for _ in 0..number("FLASHARE_CRASH_ROUNDS", 100) {
        let loses = powers && world.roll(2) == 0;
        world.live(boot, loses);
        boot += u64::from(loses);
    }
    let share = world.found * 100 / world.sought.max(1);
    println!("of what lay on flash {share} % came back; {} starts began empty", world.refused);
    world
}

#[test]
fn killed_at_any_moment_nothing_stale_comes_back() {
    let world = rounds(SyncPolicy::Os, false);
    assert_eq!(world.refused, 0, "the journal was not believed");
    assert!(world.found * 10 > world.sought * 7, "of {} came back {}", world.sought, world.found);
}

#[test]
fn crashes_in_a_row_are_no_clock_that_was_set_back() {
    let mut world = World::new(number("FLASHARE_SEED", 1), SyncPolicy::Os);
    world.live(1, false);
    let (wall, mut last) = (world.now, 0);
    for _ in 0..10 {
        let journal = Box::new(world.journal.clone());
        let cache = Cache::recover(settings(7), &world.flash, journal, world.policy, 1).unwrap();
        let second = cache.begin_at(wall);
        assert!(second >= last, "what has a time to live was given up");
        cache.advance(second);
        last = second;
    }
    let cache = Cache::recover(settings(7), &world.flash, Box::new(world.journal.clone()), world.policy, 1).unwrap();
    assert_eq!(cache.begin_at(wall - 100), wall - 100, "this clock was");
    drop(cache);
    let cache = Cache::recover(settings(7), &world.flash, Box::new(world.journal.clone()), world.policy, 1).unwrap();
    assert!(cache.begin_at(wall - 100) < wall - 90, "and everybody knows since");
}

#[test]
fn without_power_at_any_moment_nothing_stale_comes_back() {
    let world = rounds(SyncPolicy::Always, true);
    assert_eq!(world.refused, 0, "the journal was not believed");
    assert!(world.found * 10 > world.sought * 7, "of {} came back {}", world.sought, world.found);
}

#[test]
fn a_journal_that_was_not_synced_is_not_believed_after_a_loss_of_power() {
    let mut world = World::new(3, SyncPolicy::Os);
    world.live(1, false);
    let refused = Cache::recover(settings(7), &world.flash, Box::new(world.journal.clone()), world.policy, 2);
    assert!(refused.err().unwrap().to_string().contains("restarted"));
    assert!(Cache::recover(settings(7), &world.flash, Box::new(world.journal.clone()), world.policy, 1).is_ok());
}

/// Whatever is flipped, cut or blanked in the journal: nothing stale comes back.
#[test]
fn a_damaged_journal_is_refused_or_what_it_vouches_for_is_right() {
    let mut world = World::new(7, SyncPolicy::Os);
    let (mut lives, mut whole) = (0, 0);
    while lives < 6 || whole < 100 {
        // a life may flush all at its end: nothing comes back then, damaged or not
        world.live(1, false);
        let before = world.found;
        world.weigh(1);
        (lives, whole) = (lives + 1, world.found - before);
    }
    let (flash, journal) = (world.flash.media.lock().seen.clone(), world.journal.media.lock().seen.clone());
    let (mut refused, mut came) = (0, 0);
    for n in 0..400u64 {
        world.flash.media.lock().seen.copy_from_slice(&flash);
        let mut damaged = journal.clone();
        let at = mix(n) as usize % damaged.len();
        match n % 4 {
            0 => damaged[at] ^= 1 << (n / 4 % 8),
            1 => damaged[at / 4096 * 4096..][..4096].fill(0),
            2 => damaged[at..].fill(0),
            _ => damaged[at / 512 * 512..][..512]
                .iter_mut()
                .enumerate()
                .for_each(|(at, byte)| *byte = mix(n ^ at as u64) as u8),
        }
        world.journal.media.lock().seen.copy_from_slice(&damaged);
        match Cache::recover(settings(7), &world.flash, Box::new(world.journal.clone()), world.policy, 1) {
            Err(_) => refused += 1,
            Ok(cache) => {
                cache.advance(cache.begin_at(world.now.max(cache.now())));
                let (mut worker, mut background) = (cache.worker(), cache.background());
                while cache.is_recovering() {
                    cache.step(&mut background, Some(&world.flash));
                }
                for key in 0..KEYS {
                    came += u32::from(world.check(&cache, &mut worker, key));
                }
            }
        }
    }
    assert!(refused > 20 && came > 1000, "{refused} refused, {came} keys came back");
}

#[test]
fn damaged_flash_brings_back_what_is_provably_right() {
    let whole = damage::survive(&[]).expect("what a crash leaves is believed");
    assert!(whole > 500, "{whole} keys came back");
    let (mut refused, mut came) = (0, 0);
    for n in 0..300u64 {
        let orders: Vec<u8> = (0..1 + n % 4).flat_map(|step| mix(n << 8 | step).to_le_bytes()).collect();
        match damage::survive(&orders) {
            Some(keys) => came += keys,
            None => refused += 1,
        }
    }
    assert!(refused > 20 && came > 50 * whole, "{refused} refused, {came} keys came back");
}

/// What was recycled may still lie there whole; wherever it comes to lie by a write that went astray, it stays dead.
#[test]
fn a_segment_that_lies_where_another_should_brings_nothing_back() {
    let copy = |from: u8, to: u8| [6 << 1, 0, 0, 0, from, to, 0, 0];
    let pairs = (0..15).flat_map(|from| (0..15).map(move |to| (from, to))).filter(|(from, to)| from != to);
    let came: u32 = pairs.filter_map(|(from, to)| damage::survive(&copy(from, to))).sum();
    assert!(came > 10_000, "{came} keys came back in all");
}

/// A journal in memory that stops to take writes.
#[derive(Clone, Default)]
struct Breaking(Arc<(Mutex<Vec<u8>>, AtomicBool)>);

impl JournalFile for Breaking {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = self.0.0.lock();
        let from = file.get(at as usize..at as usize + bytes.len());
        bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.0.1.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.0.lock()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn void(&self) -> io::Result<()> {
        self.0.0.lock().clear();
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().len() as u64)
    }
}

#[test]
fn a_journal_that_cannot_be_written_is_void() {
    let world = World::new(1, SyncPolicy::Os);
    let journal = Breaking::default();
    journal.0.0.lock().resize(128 << 10, 0);
    let cache = Cache::new(settings(7)).unwrap();
    cache.begin_journal(&world.flash, Box::new(journal.clone()), SyncPolicy::Os, 1, 9).unwrap();
    cache.advance(1_000_000);
    let begin = || Cache::recover(settings(7), &world.flash, Box::new(journal.clone()), SyncPolicy::Os, 1);
    assert!(begin().is_ok());
    journal.0.1.store(true, Ordering::Relaxed);
    cache.turn(&mut cache.worker()).flush_all(None, None);
    assert!(!cache.journal().unwrap().works());
    assert!(begin().is_err(), "what it no longer says is not missed");
}
