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

const SCHEDULES: usize = 3_000;

fn at(n: u64) -> Location {
    Location::from_units(n)
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

#[test]
fn what_is_there_all_along_is_always_found() {
    let check = || {
        let index = Arc::new(Index::new(1).unwrap());
        for n in 1..=8 {
            assert!(index.publish(&index.lock(crowded(at(n))), at(n), None, crowded).evicted.is_none());
        }
        let reader = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                for n in [1, 5, 8] {
                    let found = index.find(crowded(at(n)), |location| location == at(n));
                    assert!(found.is_some(), "{n} was missed");
                }
            })
        };
        let writer = {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                // the home bucket is full: each of these makes somebody move
                for n in 9..=11 {
                    assert!(index.publish(&index.lock(crowded(at(n))), at(n), None, crowded).evicted.is_none());
                }
            })
        };
        index.grow().unwrap();
        while index.grow_step(8, crowded, |_| panic!("there is room for all")) {}
        writer.join().unwrap();
        reader.join().unwrap();
        assert!((1..=11).all(|n| index.find(crowded(at(n)), |location| location == at(n)).is_some()));
        assert_eq!(index.entries(), 11);
    };
    shuttle::check_random(check, SCHEDULES / 10);
}

#[test]
fn of_two_writers_one_is_published() {
    let check = || {
        let index = Arc::new(Index::new(1).unwrap());
        let hash = crowded(at(1));
        let writers: Vec<_> = [1, 2]
            .map(|me| {
                let index = Arc::clone(&index);
                thread::spawn(move || {
                    for n in 0..2 {
                        let lock = index.lock(hash);
                        let old = index.find(hash, |_| true);
                        index.publish(&lock, at(10 * me + n), old, |_| hash);
                    }
                })
            })
            .into_iter()
            .collect();
        index.grow().unwrap();
        while index.grow_step(16, |_| hash, |_| panic!("there is room for both")) {}
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let mut found = Vec::new();
        let _ = index.find(hash, |location| {
            found.push(location);
            false
        });
        assert_eq!((found.len(), index.entries()), (1, 1), "{found:?}");
    };
    shuttle::check_random(check, SCHEDULES / 10);
}
