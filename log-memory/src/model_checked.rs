//! The index and the grace periods under a model checker: `cargo test -p log-memory --features model`. shuttle decides after
//! every access to an atomic who runs next, at random from a seed that it prints when an assertion fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shuttle::sync::atomic::{AtomicBool, AtomicU64};
use shuttle::thread;

use crate::grace::Grace;
use crate::hash::mix;
use crate::index::Index;
use crate::location::Location;
use crate::sync::Mutex;

const SCHEDULES: usize = 30_000;

fn at(n: u64) -> Location {
    Location::from_units(n)
}

/// An index that grows, as `LogMemory` has it: threads take turns, and nothing moves while somebody may take the old table for the current one.
struct Growing {
    index: Index,
    grace: Arc<Grace>,
    /// The stamp of when it began.
    growing: Mutex<u64>,
}

impl Growing {
    fn new() -> Arc<Growing> {
        Arc::new(Growing { index: Index::new(1).unwrap(), grace: Grace::new(), growing: Mutex::new(0) })
    }

    fn begin(&self) {
        let mut stamp = self.growing.lock();
        self.index.grow().unwrap();
        *stamp = self.grace.retire();
    }

    /// Moves some entries, if that may be. Whoever stores does so too.
    fn help(&self, hash_of: impl Fn(Location) -> u64 + Copy) {
        if self.index.is_growing() {
            let stamp = self.growing.lock();
            if self.grace.has_passed(*stamp) {
                self.index.grow_step(4, hash_of, |_| panic!("there is room for all"));
            }
        }
    }

    /// Begins to grow, and sees to it until that is done.
    fn grow(&self, hash_of: impl Fn(Location) -> u64 + Copy) {
        self.begin();
        while self.index.is_growing() {
            self.help(hash_of);
            thread::yield_now();
        }
    }
}

/// Hashes that all have the same home among sixteen buckets, so that entries must make room for each other.
fn crowded(location: Location) -> u64 {
    3 << 60 | mix(location.units()) >> 4
}

#[test]
fn nothing_is_freed_while_a_turn_may_see_it() {
    let check = || {
        let grace = Grace::new();
        let (published, freed) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (grace, published, freed) = (Arc::clone(&grace), Arc::clone(&published), Arc::clone(&freed));
                thread::spawn(move || {
                    let part = grace.join();
                    for _ in 0..2 {
                        let turn = part.enter();
                        if published.load(Ordering::SeqCst) == 1 {
                            thread::yield_now();
                            assert!(!freed.load(Ordering::SeqCst), "freed under a reader");
                        }
                        drop(turn);
                    }
                })
            })
            .collect();
        published.store(0, Ordering::SeqCst);
        let stamp = grace.retire();
        while !grace.has_passed(stamp) {
            thread::yield_now();
        }
        freed.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    };
    shuttle::check_random(check, SCHEDULES);
}

/// A reader pins what it found and reads it after its turn; whoever frees it waits for the grace period, and then for the pins.
#[test]
fn nothing_is_freed_while_it_is_pinned() {
    let check = || {
        let grace = Grace::new();
        let [published, pins, freed] = [1, 0, 0].map(|word| Arc::new(AtomicU64::new(word)));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let grace = Arc::clone(&grace);
                let [published, pins, freed] = [&published, &pins, &freed].map(Arc::clone);
                thread::spawn(move || {
                    let part = grace.join();
                    let turn = part.enter();
                    let found = published.load(Ordering::SeqCst) == 1;
                    if found {
                        pins.fetch_add(1, Ordering::AcqRel);
                    }
                    drop(turn);
                    if found {
                        thread::yield_now();
                        assert_eq!(freed.load(Ordering::SeqCst), 0, "freed under a pin");
                        pins.fetch_sub(1, Ordering::Release);
                    }
                })
            })
            .collect();
        published.store(0, Ordering::SeqCst);
        let stamp = grace.retire();
        while !grace.has_passed(stamp) || pins.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        freed.store(1, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    };
    shuttle::check_random(check, SCHEDULES);
}

#[test]
fn what_is_there_all_along_is_always_found() {
    let check = || {
        let growing = Growing::new();
        let index = &growing.index;
        for n in 1..=8 {
            assert!(index.publish(&index.lock(crowded(at(n))), at(n), None, crowded).evicted.is_none());
        }
        let reader = {
            let growing = Arc::clone(&growing);
            thread::spawn(move || {
                let part = growing.grace.join();
                for n in [1, 5, 8] {
                    let _turn = part.enter();
                    let found = growing.index.find(crowded(at(n)), |location| location == at(n));
                    assert!(found.is_some(), "{n} was missed");
                }
            })
        };
        let writer = {
            let growing = Arc::clone(&growing);
            thread::spawn(move || {
                let (part, index) = (growing.grace.join(), &growing.index);
                // the home bucket is full: each of these makes somebody move
                for n in 9..=11 {
                    let _turn = part.enter();
                    growing.help(crowded);
                    assert!(index.publish(&index.lock(crowded(at(n))), at(n), None, crowded).evicted.is_none());
                }
            })
        };
        growing.grow(crowded);
        writer.join().unwrap();
        reader.join().unwrap();
        assert!((1..=11).all(|n| index.find(crowded(at(n)), |location| location == at(n)).is_some()));
        assert_eq!(index.entries(), 11);
    };
    shuttle::check_random(check, SCHEDULES / 10);
}

/// A look at what was seen finds it or tells to search, and never finds what was hidden before.
#[test]
fn what_was_seen_is_not_found_once_it_is_hidden() {
    let check = || {
        let growing = Growing::new();
        let index = &growing.index;
        let hash = crowded(at(1));
        index.publish(&index.lock(hash), at(1), None, |_| hash);
        let hidden = Arc::new(AtomicU64::new(0));
        let reader = {
            let (growing, hidden) = (Arc::clone(&growing), Arc::clone(&hidden));
            thread::spawn(move || {
                let part = growing.grace.join();
                let _turn = part.enter();
                let (sighting, _) = growing.index.see(hash);
                let before = hidden.load(Ordering::SeqCst);
                let found = growing.index.look_again(sighting);
                assert!(found.is_none_or(|found| found.units() > before), "{found:?} after {before} was hidden");
            })
        };
        let writer = {
            let (growing, hidden) = (Arc::clone(&growing), Arc::clone(&hidden));
            thread::spawn(move || {
                let (part, index) = (growing.grace.join(), &growing.index);
                for n in 1..=2 {
                    let _turn = part.enter();
                    growing.help(|_| hash);
                    index.publish(&index.lock(hash), at(n + 1), Some(at(n)), |_| hash);
                    hidden.store(n, Ordering::SeqCst);
                }
            })
        };
        growing.grow(|_| hash);
        writer.join().unwrap();
        reader.join().unwrap();
    };
    shuttle::check_random(check, SCHEDULES / 10);
}

#[test]
fn of_two_writers_one_is_published() {
    let check = || {
        let growing = Growing::new();
        let index = &growing.index;
        let hash = crowded(at(1));
        let writers: Vec<_> = [1, 2]
            .map(|me| {
                let growing = Arc::clone(&growing);
                thread::spawn(move || {
                    let (part, index) = (growing.grace.join(), &growing.index);
                    for n in 0..2 {
                        let _turn = part.enter();
                        growing.help(|_| hash);
                        let lock = index.lock(hash);
                        let old = index.find(hash, |_| true);
                        index.publish(&lock, at(10 * me + n), old, |_| hash);
                    }
                })
            })
            .into_iter()
            .collect();
        growing.grow(|_| hash);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let found = index.find(hash, |_| true).unwrap();
        assert_eq!(index.entries(), 1);
        assert!(index.hide(&index.lock(hash), found));
        assert_eq!((index.find(hash, |_| true), index.entries()), (None, 0), "it was there twice");
    };
    shuttle::check_random(check, SCHEDULES / 10);
}
