//! Random stores, deletes and cleaner passes against a map that is trivially right, alone and with several threads, on a log
//! so small that segments are cleaned all the time. Promises: INV-FRESH, INV-OWN-KEY and INV-GRACE within DRAM.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use log_memory::{Access, KeyHasher, Landing, LogMemory, NewObject, NoSpace, Participant, Shape, Writer, mix};

/// Under Miri everything takes a thousand times as long: a short walk has to do.
const LESS: u64 = if cfg!(miri) { 100 } else { 1 };

fn shape() -> Shape {
    Shape { region_bytes: 16 * (32 << 10), mapped_bytes: 16 * (32 << 10), segment_bytes: 32 << 10, index_entries: 64 }
}

/// A value that says whose it is: every byte follows from the key and the version.
fn value_of(key: u64, version: u64, len: usize) -> Vec<u8> {
    (0..len).map(|n| mix(key ^ mix(version) ^ (n as u64 / 8)).to_le_bytes()[n % 8]).collect()
}

fn object<'a>(key: u64, name: &'a str, version: u64, value: &'a [&'a [u8]]) -> NewObject<'a> {
    NewObject {
        tenant: 1,
        key: name.as_bytes(),
        value,
        client_flags: (key % 3) as u32,
        expiry: 0,
        version,
        unique: (key.is_multiple_of(5)).then_some(version ^ u64::MAX),
        birth: 0,
        access: Access::default(),
        history: 0,
        rescued: false,
    }
}

fn store(
    memory: &LogMemory,
    part: &Participant,
    writer: &mut Writer,
    key: u64,
    version: u64,
    value: &[u8],
) -> Result<(), NoSpace> {
    let name = key.to_string();
    let hash = memory.hash(1, name.as_bytes());
    let turn = part.enter();
    let pieces = [&value[..value.len() / 3], &value[value.len() / 3..]];
    let at = memory.append(writer, hash, &object(key, &name, version, &pieces))?;
    let lock = memory.lock(hash);
    let old = memory.find(&turn, hash, 1, name.as_bytes());
    memory.publish(&turn, &lock, at, old);
    Ok(())
}

/// Puts `more` bytes behind the value of a key whose bytes all follow from the key alone. False if it is not there.
fn extend(
    memory: &LogMemory,
    part: &Participant,
    writer: &mut Writer,
    key: u64,
    version: u64,
    more: usize,
) -> Result<bool, NoSpace> {
    let name = key.to_string();
    let turn = part.enter();
    let lock = memory.lock(memory.hash(1, name.as_bytes()));
    let Some(old) = memory.find(&turn, lock.hash(), 1, name.as_bytes()) else { return Ok(false) };
    let whole = value_of(key, 0, old.value_bytes() + more);
    let mut pieces: Vec<_> = old.value().collect();
    pieces.push(&whole[old.value_bytes()..]);
    let at = memory.extend(writer, &lock, &object(key, &name, version, &pieces), old)?;
    memory.publish(&turn, &lock, at, Some(old));
    Ok(true)
}

/// Reads a value that was [extended](extend), and checks every byte; returns its length.
fn read_extended(memory: &LogMemory, part: &Participant, key: u64) -> Option<usize> {
    let name = key.to_string();
    let turn = part.enter();
    let object = memory.find(&turn, memory.hash(1, name.as_bytes()), 1, name.as_bytes())?;
    let value = object.value_to_vec();
    assert_eq!(value.len(), object.value_bytes());
    assert!(value == value_of(key, 0, value.len()), "foreign bytes for key {key}");
    Some(value.len())
}

/// Publishes a value that has landed, as `store` does.
fn store_landed(
    memory: &LogMemory,
    part: &Participant,
    writer: &mut Writer,
    key: u64,
    version: u64,
    landing: &mut Landing,
) -> Result<(), NoSpace> {
    let name = key.to_string();
    let turn = part.enter();
    let at = memory.append_landed(writer, &object(key, &name, version, &landing.pieces()), landing)?;
    let lock = memory.lock(landing.hash());
    let old = memory.find(&turn, landing.hash(), 1, name.as_bytes());
    memory.publish(&turn, &lock, at, old);
    landing.hand_over();
    Ok(())
}

fn delete(memory: &LogMemory, part: &Participant, key: u64) -> bool {
    let name = key.to_string();
    let hash = memory.hash(1, name.as_bytes());
    let turn = part.enter();
    let lock = memory.lock(hash);
    memory.find(&turn, hash, 1, name.as_bytes()).is_some_and(|object| memory.hide(&lock, object))
}

/// Reads a key and checks every byte; returns its version.
fn read(memory: &LogMemory, part: &Participant, key: u64) -> Option<u64> {
    let name = key.to_string();
    let turn = part.enter();
    let object = memory.find(&turn, memory.hash(1, name.as_bytes()), 1, name.as_bytes())?;
    let value = object.value_to_vec();
    assert_eq!(value, value_of(key, object.version(), value.len()), "foreign bytes for key {key}");
    assert_eq!(object.client_flags(), (key % 3) as u32);
    Some(object.version())
}

/// Cleans the deadest segment; keeps objects by a coin. Returns how many were dropped.
fn clean(memory: &LogMemory, part: &Participant, writer: &mut Writer, coin: &mut u64, keep_all: bool) -> usize {
    let turn = part.enter();
    while memory.grow_index_step(&turn, 1024) {}
    if memory.wanted_index_growth().is_some() {
        memory.grow_index().unwrap();
    }
    let Some(candidate) = memory.candidates().into_iter().min_by_key(|c| c.live) else {
        return 0;
    };
    assert!(memory.choose(candidate.id));
    let mut parts = Vec::new();
    memory.scan(&turn, candidate.id, |part| parts.push(part));
    let mut dropped = 0;
    for part in parts {
        *coin = mix(*coin + 1);
        let keep = keep_all || !coin.is_multiple_of(4);
        if !keep || memory.relocate(&turn, writer, &[part.found()]).entries == 0 {
            let lock = memory.lock(part.hash);
            dropped += usize::from(memory.hide(&lock, part.owner));
        }
    }
    memory.retire(candidate.id);
    drop(turn);
    dropped
}

#[test]
fn random_operations_agree_with_a_map() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    let (mut model, mut dice, mut coin) = (HashMap::new(), 1u64, 5u64);
    let (mut hits, mut cleaned, mut fragmented) = (0, 0, 0);
    for version in 1..60_000 / LESS {
        dice = mix(dice + version);
        let key = dice % 300;
        match dice >> 32 & 7 {
            0..3 => {
                let len = [0, 1, 60, 500, 5_000, 9_000][(dice >> 40) as usize % 6];
                fragmented += usize::from(len > 4096);
                let value = value_of(key, version, len);
                while store(&memory, &part, &mut writer, key, version, &value).is_err() {
                    clean(&memory, &part, &mut cleaner, &mut coin, false);
                    cleaned += 1;
                }
                model.insert(key, version);
            }
            3 => {
                let was = delete(&memory, &part, key);
                let known = model.remove(&key).is_some();
                assert!(known || !was, "a key that was never stored cannot be deleted");
            }
            4 if memory.segments_free() < 4 => cleaned += clean(&memory, &part, &mut cleaner, &mut coin, true),
            _ => {
                if let Some(found) = read(&memory, &part, key) {
                    assert_eq!(Some(&found), model.get(&key), "a read is the last store, or a miss");
                    hits += 1;
                }
            }
        }
    }
    assert!(
        cfg!(miri) || hits > 1_000 && cleaned > 100 && fragmented > 1_000,
        "the rare paths were taken: {hits} {cleaned} {fragmented}"
    );
    for (key, version) in model {
        assert!(read(&memory, &part, key).is_none_or(|found| found == version));
    }
}

/// Cleans until something can be done again; a cleaner that gets nowhere is noticed.
fn make_room<T>(mut attempt: impl FnMut() -> Result<T, NoSpace>, mut clean: impl FnMut()) -> T {
    for _ in 0..1_000 {
        match attempt() {
            Ok(done) => return done,
            Err(NoSpace) => clean(),
        }
    }
    panic!("a thousand passes have freed nothing");
}

/// Values that arrive piece by piece while everything else is stored, deleted, moved and dropped around them: some come to their end, some do not.
#[test]
fn values_land_while_the_log_goes_on() {
    struct Arriving {
        key: u64,
        version: u64,
        value: Vec<u8>,
        landing: Landing,
    }
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    let (mut model, mut dice, mut coin) = (HashMap::new(), 1u64, 5u64);
    let mut arriving: Vec<Arriving> = Vec::new();
    let (mut landed, mut given_up, mut refused, mut hits, mut cleaned) = (0, 0, 0, 0, 0);
    for version in 1..60_000 / LESS {
        dice = mix(dice + version);
        let key = dice % 200;
        if memory.segments_free() < 4 {
            clean(&memory, &part, &mut cleaner, &mut coin, false);
            cleaned += 1;
        }
        match dice >> 32 & 7 {
            0 => {
                let value = value_of(key, version, 4_100 + (dice >> 40) as usize % 20_000);
                match memory.land(&mut writer, 1, memory.hash(1, key.to_string().as_bytes()), value.len()) {
                    Ok(landing) => arriving.push(Arriving { key, version, value, landing }),
                    Err(_) => refused += 1,
                }
            }
            1 if !arriving.is_empty() => {
                let at = (dice >> 40) as usize % arriving.len();
                let Arriving { value, landing, .. } = &mut arriving[at];
                let came = value.len() - landing.missing();
                let more = &value[came..(came + 5_000).min(value.len())];
                assert_eq!(landing.fill(more), more.len());
                if landing.missing() == 0 {
                    let Arriving { key, version, mut landing, .. } = arriving.swap_remove(at);
                    make_room(
                        || store_landed(&memory, &part, &mut writer, key, version, &mut landing),
                        || _ = clean(&memory, &part, &mut cleaner, &mut coin, false),
                    );
                    model.insert(key, version);
                    landed += 1;
                }
            }
            2 if !arriving.is_empty() && (dice >> 48) % 8 == 0 => {
                arriving.swap_remove((dice >> 40) as usize % arriving.len());
                given_up += 1;
            }
            2..4 => {
                let value = value_of(key, version, [1, 500, 5_000][(dice >> 40) as usize % 3]);
                make_room(
                    || store(&memory, &part, &mut writer, key, version, &value),
                    || _ = clean(&memory, &part, &mut cleaner, &mut coin, false),
                );
                model.insert(key, version);
            }
            4 => {
                delete(&memory, &part, key);
                model.remove(&key);
            }
            _ => {
                if let Some(found) = read(&memory, &part, key) {
                    assert_eq!(Some(&found), model.get(&key), "a read is the last store, or a miss");
                    hits += 1;
                }
            }
        }
    }
    assert!(
        cfg!(miri) || landed > 500 && given_up > 50 && refused > 50 && hits > 500 && cleaned > 500,
        "the rare paths were taken: {landed} {given_up} {refused} {hits} {cleaned}"
    );
    arriving.clear();
    assert_nothing_is_held_back(&memory, &part, [writer, cleaner], 200);
}

/// Deletes all keys below `keys` and sees that every byte of the log is free then.
fn assert_nothing_is_held_back(memory: &LogMemory, part: &Participant, writers: [Writer; 2], keys: u64) {
    writers.into_iter().for_each(|mut writer| memory.seal(&mut writer));
    for key in 0..keys {
        delete(memory, part, key);
    }
    for candidate in memory.candidates() {
        assert_eq!(candidate.live, 0, "what was given up, or is deleted, is dead");
        assert!(memory.choose(candidate.id) && memory.retire(candidate.id));
    }
    assert_eq!(memory.segments_free(), memory.segments_allowed(), "no segment is held back for ever");
}

/// Values that grow by little and by much, and begin anew, while their pieces are moved and dropped.
#[test]
fn values_grow_while_the_log_goes_on() {
    const KEYS: u64 = 30;
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    let (mut model, mut dice, mut coin) = (HashMap::new(), 1u64, 5u64);
    let (mut grown, mut evicted, mut largest, mut cleaned) = (0, 0, 0, 0);
    for version in 1..40_000 / LESS {
        dice = mix(dice + version);
        let key = dice % KEYS;
        let mut clean = || {
            clean(&memory, &part, &mut cleaner, &mut coin, !version.is_multiple_of(8));
            cleaned += 1;
        };
        match dice >> 32 & 31 {
            0 => {
                let len = [1, 3_000, 5_000, 30_000][(dice >> 40) as usize % 4];
                let value = value_of(key, 0, len);
                make_room(|| store(&memory, &part, &mut writer, key, version, &value), clean);
                model.insert(key, len);
            }
            1 if dice >> 40 & 7 == 0 => {
                delete(&memory, &part, key);
                model.remove(&key);
            }
            2..6 => match read_extended(&memory, &part, key) {
                Some(len) => assert_eq!(Some(&len), model.get(&key), "a read is the last store, or a miss"),
                None => evicted += usize::from(model.remove(&key).is_some()),
            },
            n => {
                let more = [1, 70, 70, 300, 9_000][(dice >> 40) as usize % if n == 7 { 5 } else { 4 }];
                if model.get(&key).is_none_or(|len| len + more > 60_000) {
                    continue;
                }
                if make_room(|| extend(&memory, &part, &mut writer, key, version, more), &mut clean) {
                    let len = model.get_mut(&key).unwrap();
                    *len += more;
                    (grown, largest) = (grown + usize::from(*len > 16 << 10), largest.max(*len));
                } else {
                    model.remove(&key);
                    evicted += 1;
                }
            }
        }
    }
    assert!(
        cfg!(miri) || grown > 1_000 && evicted > 20 && largest > 50_000 && cleaned > 500,
        "the rare paths were taken: {grown} {evicted} {largest} {cleaned}"
    );
    assert_nothing_is_held_back(&memory, &part, [writer, cleaner], KEYS);
}

/// A large value that grows keeps its pieces where they are: what an append takes of the log does not follow from how large the value is.
#[test]
fn a_large_value_grows_in_place() {
    let memory = LogMemory::new(Shape::for_memory(64 << 20), KeyHasher::new(7)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    store(&memory, &part, &mut writer, 1, 1, &value_of(1, 0, 100_000)).unwrap();
    let free = memory.segments_free();
    for version in 2..1_000 {
        assert_eq!(extend(&memory, &part, &mut writer, 1, version, 100), Ok(true));
    }
    assert_eq!(read_extended(&memory, &part, 1), Some(100_000 + 998 * 100));
    assert!(free - memory.segments_free() <= 8_000_000 / memory.shape().segment_bytes, "998 times 8 kB, not 150");
    let turn = part.enter();
    let object = memory.find(&turn, memory.hash(1, b"1"), 1, b"1").unwrap();
    assert!(object.value().count() < 50, "and not in {} pieces", object.value().count());
}

/// The cleaner could not move a fragment that has no head yet: it is not offered such a segment, and one that it has got hold of all the same
/// is not retired.
#[test]
fn a_segment_in_which_a_value_lands_is_not_freed() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    store(&memory, &part, &mut writer, 2, 1, &value_of(2, 1, 100)).unwrap();
    memory.seal(&mut writer);
    let sealed: Vec<_> = memory.candidates().into_iter().map(|candidate| candidate.id).collect();
    let value = value_of(1, 2, 20_000);
    let mut landing = memory.land(&mut writer, 1, memory.hash(1, b"1"), value.len()).unwrap();
    assert_eq!(landing.fill(&value[..9_000]), 9_000);
    memory.seal(&mut writer);
    let offered: Vec<_> = memory.candidates().into_iter().map(|candidate| candidate.id).collect();
    assert_eq!(offered, sealed);
    assert_eq!(landing.fill(&value[9_000..]), 11_000);
    store_landed(&memory, &part, &mut writer, 1, 2, &mut landing).unwrap();
    drop(landing);
    assert_eq!(memory.candidates().len(), 2, "it can be cleaned now");
    assert_eq!(read(&memory, &part, 1), Some(2));
    for candidate in memory.candidates().into_iter().filter(|candidate| candidate.id != sealed[0]) {
        assert!(memory.choose(candidate.id) && !memory.retire(candidate.id), "a landed value is as live as any");
    }
    // one that is given up leaves dead bytes, and nothing that holds them back
    let landing = memory.land(&mut writer, 1, memory.hash(1, b"3"), value.len()).unwrap();
    drop(landing);
    memory.seal(&mut writer);
    assert!(memory.candidates().iter().any(|candidate| candidate.live < candidate.written));
}

/// Whose bytes lie in a segment is counted as they are appended, in each of a writer's segments anew, whatever order the tenants come in.
#[test]
fn a_segment_knows_whose_bytes_it_holds() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    let mut appended = HashMap::new();
    for (round, tenants) in [[5, 0, 9, 5, 2], [9, 2, 300, 9, 0], [0, 7, 5, 300, 5]].into_iter().enumerate() {
        for (n, tenant) in tenants.into_iter().enumerate() {
            let name = format!("{round}-{n}");
            let value = value_of(n as u64, round as u64, 40 + 10 * n);
            let pieces = [value.as_slice()];
            let new = NewObject { tenant, ..object(1, &name, 1 + n as u64, &pieces) };
            let hash = memory.hash(tenant, name.as_bytes());
            let at = memory.append(&mut writer, hash, &new).unwrap();
            memory.publish(&part.enter(), &memory.lock(hash), at, None);
            *appended.entry((round, tenant)).or_insert(0) += new.whole_bytes();
        }
        memory.seal(&mut writer);
        let sealed = memory.candidates().into_iter().max_by_key(|candidate| candidate.id).unwrap();
        assert_eq!(sealed.live, sealed.written, "all of it is published");
        for tenant in [0, 2, 5, 7, 9, 300, 301] {
            let bytes = appended.get(&(round, tenant)).copied().unwrap_or(0);
            assert_eq!(memory.bytes_of(sealed, tenant), bytes, "tenant {tenant} in segment {round}");
        }
    }
}

/// Keys and versions that a scan of all sealed segments visits.
fn scanned(memory: &LogMemory, part: &Participant) -> Vec<(String, u64)> {
    let (turn, mut seen) = (part.enter(), Vec::new());
    for candidate in memory.candidates() {
        assert!(memory.choose(candidate.id));
        memory.scan(&turn, candidate.id, |part| {
            assert!(memory.part_of(&turn, part.found()).is_some(), "visited, but not published");
            seen.push((String::from_utf8_lossy(part.owner.key()).into_owned(), part.owner.version()));
        });
        memory.put_back(candidate.id);
    }
    seen.sort();
    seen
}

#[test]
fn a_scan_visits_what_is_published_and_nothing_that_was_left_behind() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    for key in 0..30 {
        store(&memory, &part, &mut writer, key, key, &value_of(key, key, 100)).unwrap();
    }
    for key in 10..20 {
        store(&memory, &part, &mut writer, key, 100 + key, &value_of(key, 100 + key, 100)).unwrap();
    }
    (20..25).for_each(|key| assert!(delete(&memory, &part, key)));
    let given_up = memory.append(&mut writer, memory.hash(1, b"5"), &object(5, "5", 1000, &[b"given up"])).unwrap();
    memory.abandon(&part.enter(), given_up);
    memory.seal(&mut writer);
    let mut published: Vec<(String, u64)> = (0..30)
        .filter(|key| !(20..25).contains(key))
        .map(|key| (key.to_string(), if (10..20).contains(&key) { 100 + key } else { key }))
        .collect();
    published.sort();
    assert_eq!(scanned(&memory, &part), published);
    // what has moved is not where it was, though its segment was not freed
    let turn = part.enter();
    let from = memory.candidates()[0].id;
    assert!(memory.choose(from));
    let mut found = Vec::new();
    memory.scan(&turn, from, |part| found.push(part.found()));
    assert_eq!(memory.relocate(&turn, &mut cleaner, &found[..12]).entries, 12);
    assert!(!memory.retire(from), "the others are still there");
    drop(turn);
    memory.seal(&mut cleaner);
    assert_eq!(scanned(&memory, &part), published);
}

#[test]
fn what_is_replaced_between_scan_and_move_stays_dead() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    // one that is not published until now: a key that has lost its slot of the index to another looks like that for a moment
    let unpublished = memory.append(&mut writer, memory.hash(1, b"5"), &object(5, "5", 1, &[b"five"])).unwrap();
    // the last is in pieces
    for (key, len) in [(1, 100), (2, 100), (3, 100), (4, 9_000)] {
        store(&memory, &part, &mut writer, key, 1, &value_of(key, 1, len)).unwrap();
    }
    memory.seal(&mut writer);
    let from = memory.candidates()[0].id;
    assert!(memory.choose(from));
    let mut found = Vec::new();
    memory.scan(&part.enter(), from, |part| found.push(part.found()));
    store(&memory, &part, &mut writer, 1, 2, &value_of(1, 2, 100)).unwrap();
    store(&memory, &part, &mut writer, 4, 2, &value_of(4, 2, 9_000)).unwrap();
    assert!(delete(&memory, &part, 2));
    let done = memory.relocate(&part.enter(), &mut cleaner, &found);
    let of_3 = found.iter().find(|found| found.hash == memory.hash(1, b"3")).unwrap();
    assert_eq!((done.entries, done.bytes), (found.len(), of_3.bytes as usize));
    assert_eq!([1, 2, 3, 4, 5].map(|key| read(&memory, &part, key)), [Some(2), None, Some(1), Some(2), None]);
    assert!(!memory.retire(from), "something may still be published there");
    memory.abandon(&part.enter(), unpublished);
    assert!(memory.choose(from) && memory.retire(from), "nothing lives there any more");
    memory.seal(&mut cleaner);
    let to = memory.candidates();
    assert_eq!(to.iter().map(|to| to.live).sum::<usize>(), of_3.bytes as usize, "nothing else was moved");
}

#[test]
fn values_that_arrive_take_a_part_of_the_log_at_most() {
    let memory = LogMemory::new(shape(), KeyHasher::new(7)).unwrap();
    let mut writer = memory.writer();
    let landings: Vec<_> = (0..100).map_while(|n| memory.land(&mut writer, 1, n, 25_000).ok()).collect();
    assert!((2..=4).contains(&landings.len()), "{}", landings.len());
    assert!(memory.land(&mut writer, 1, 7, 0).is_err(), "nothing needs no room");
    drop(landings);
    assert!(memory.land(&mut writer, 1, 7, 25_000).is_ok());
}

#[test]
fn nothing_is_lost_without_a_reason() {
    let memory = LogMemory::new(shape(), KeyHasher::new(1)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    for version in 1..=20_000 / LESS {
        let key = version % 500; // 500 objects of 300 bytes: a third of the log
        while store(&memory, &part, &mut writer, key, version, &value_of(key, version, 240)).is_err() {
            clean(&memory, &part, &mut cleaner, &mut 0, true);
        }
        if memory.wanted_index_growth().is_some() {
            memory.grow_index().unwrap();
            while memory.grow_index_step(&part.enter(), 16) {}
        }
    }
    for key in (1..=20_000 / LESS).map(|version| version % 500) {
        assert!(read(&memory, &part, key).is_some(), "key {key} was lost though there was room");
    }
    assert!(memory.take_victims().is_empty());
}

/// Tries until a cleaner beside it has made room, for a minute at most.
fn wait_for_room<T>(mut attempt: impl FnMut() -> Result<T, NoSpace>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        match attempt() {
            Ok(done) => return done,
            Err(NoSpace) => std::thread::yield_now(),
        }
    }
    panic!("no room within a minute");
}

/// Waits for writers, and has the others stop however it went with them.
fn join_then_stop<T>(writers: Vec<ScopedJoinHandle<'_, T>>, stop: &AtomicBool) -> Vec<T> {
    let ended: Vec<_> = writers.into_iter().map(ScopedJoinHandle::join).collect();
    stop.store(true, Ordering::Relaxed);
    ended.into_iter().map(|ended| ended.expect("a writer has panicked")).collect()
}

/// A cleaner's life; returns how many passes it took.
fn clean_until(memory: &LogMemory, stop: &AtomicBool) -> usize {
    let (part, mut writer, mut coin, mut passes) = (memory.join(), memory.cleaner_writer(), 9, 0);
    while !stop.load(Ordering::Relaxed) {
        if memory.segments_free() < 5 {
            clean(memory, &part, &mut writer, &mut coin, false);
            passes += 1;
        } else {
            std::thread::yield_now();
        }
    }
    passes
}

/// Whoever reads a value that grows sees one that it was, whole, while its pieces are handed on from head to head, moved and dropped.
#[test]
fn a_reader_of_a_value_that_grows_never_sees_foreign_bytes() {
    const KEYS: u64 = 8;
    const WRITERS: u64 = 2;
    let memory = LogMemory::new(shape(), KeyHasher::new(3)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let cleaner = threads.spawn(|| clean_until(&memory, &stop));
        let writers: Vec<_> = (0..WRITERS)
            .map(|me| {
                let memory = &memory;
                threads.spawn(move || {
                    let (part, mut writer, mut grown) = (memory.join(), memory.writer(), 0);
                    for version in 1..=20_000 / LESS {
                        let key = mix(version) % (KEYS / WRITERS) * WRITERS + me;
                        let len = read_extended(memory, &part, key).unwrap_or(0);
                        grown += usize::from(wait_for_room(|| {
                            if len == 0 || len > 40_000 {
                                store(memory, &part, &mut writer, key, version, &value_of(key, 0, 5_000))?;
                                return Ok(false);
                            }
                            let more = 1 + mix(version + 1) as usize % 900;
                            extend(memory, &part, &mut writer, key, version, more)
                        }));
                    }
                    grown
                })
            })
            .collect();
        let reader = threads.spawn(|| {
            let (part, mut dice, mut hits) = (memory.join(), 1, 0);
            while !stop.load(Ordering::Relaxed) {
                dice = mix(dice + 1);
                hits += usize::from(read_extended(&memory, &part, dice % KEYS).is_some());
            }
            hits
        });
        let grown: usize = join_then_stop(writers, &stop).into_iter().sum();
        let (hits, cleaned) = (reader.join().unwrap(), cleaner.join().unwrap());
        assert!(cfg!(miri) || grown > 1_000 && hits > 100 && cleaned > 50, "{grown}, hits {hits}, passes {cleaned}");
    });
}

/// Readers, writers that own disjoint keys, and a cleaner at once: what a reader finds is whole and never older than what
/// its writer had finished before the read began.
#[test]
fn a_reader_on_a_retired_segment_never_sees_foreign_bytes() {
    const KEYS: u64 = 64;
    const WRITERS: u64 = 2;
    let memory = LogMemory::new(shape(), KeyHasher::new(3)).unwrap();
    let finished: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let (mut hits, mut cleaned) = (0u64, 0usize);
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|me| {
                let (memory, finished) = (&memory, &finished);
                threads.spawn(move || {
                    let (part, mut writer) = (memory.join(), memory.writer());
                    for version in 1..25_000 / LESS {
                        let key = mix(version) % (KEYS / WRITERS) * WRITERS + me;
                        let len = [10, 200, 3_000, 6_000][(mix(version) >> 20) as usize % 4];
                        let value = value_of(key, version, len);
                        wait_for_room(|| store(memory, &part, &mut writer, key, version, &value));
                        finished[key as usize].store(version, Ordering::SeqCst);
                    }
                    memory.seal(&mut writer);
                })
            })
            .collect();
        let cleaner = threads.spawn(|| clean_until(&memory, &stop));
        let readers: Vec<_> = (0..2)
            .map(|me| {
                let (memory, finished, stop) = (&memory, &finished, &stop);
                threads.spawn(move || {
                    let (part, mut dice, mut hits) = (memory.join(), me, 0u64);
                    while !stop.load(Ordering::Relaxed) {
                        dice = mix(dice + 1);
                        let key = dice % KEYS;
                        let before = finished[key as usize].load(Ordering::SeqCst);
                        if let Some(version) = read(memory, &part, key) {
                            assert!(version >= before, "key {key}: read {version} after {before} was finished");
                            hits += 1;
                        }
                    }
                    hits
                })
            })
            .collect();
        join_then_stop(writers, &stop);
        hits = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        cleaned = cleaner.join().unwrap();
    });
    assert!(cfg!(miri) || hits > 100 && cleaned > 50, "hits {hits}, passes {cleaned}");
}

/// Whoever shares a hash by chance is told apart by the tenant and by the whole key (INV-OWN-KEY).
#[test]
fn objects_with_equal_hashes_are_told_apart() {
    let memory = LogMemory::new(shape(), KeyHasher::new(3)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    let hash = 0x1234_5678_9abc_def0;
    let all: [(u16, &[u8]); 3] = [(1, b"key"), (2, b"key"), (1, b"kez")];
    for (tenant, key) in all {
        let turn = part.enter();
        let value = [key, &tenant.to_le_bytes()].concat();
        let object = NewObject {
            tenant,
            key,
            value: &[&value],
            client_flags: 0,
            expiry: 0,
            version: 1,
            unique: None,
            birth: 0,
            access: Access::default(),
            history: 0,
            rescued: false,
        };
        let at = memory.append(&mut writer, hash, &object).unwrap();
        assert!(memory.find(&turn, hash, tenant, key).is_none(), "nobody has stored it yet");
        memory.publish(&turn, &memory.lock(hash), at, None);
    }
    let turn = part.enter();
    for (tenant, key) in all {
        let found = memory.find(&turn, hash, tenant, key).unwrap();
        assert_eq!((found.tenant(), found.key()), (tenant, key));
        assert_eq!(found.value().collect::<Vec<_>>().concat(), [key, &tenant.to_le_bytes()].concat());
    }
    assert!(memory.find(&turn, hash, 3, b"key").is_none() && memory.find(&turn, hash, 1, b"ke").is_none());
}

/// What is pinned outlives its turn: its bytes stay as they are while the log is overwritten many times over, and few segments may be
/// held back so.
#[test]
fn pinned_bytes_stay_in_place_while_the_log_goes_on() {
    let memory = LogMemory::new(shape(), KeyHasher::new(5)).unwrap();
    let (part, mut writer, mut cleaner) = (memory.join(), memory.writer(), memory.cleaner_writer());
    let pin = |key: u64| {
        let turn = part.enter();
        let name = key.to_string();
        memory.find(&turn, memory.hash(1, name.as_bytes()), 1, name.as_bytes()).and_then(|object| memory.pin(&object))
    };
    let mut held: Vec<(u64, u64, Vec<log_memory::Pinned>)> = Vec::new();
    let (mut refused, mut coin) = (0, 1);
    for version in 1..20_000 / LESS {
        let key = mix(version) % 40;
        let len = [300, 3_000, 9_000][version as usize % 3];
        while store(&memory, &part, &mut writer, key, version, &value_of(key, version, len)).is_err() {
            clean(&memory, &part, &mut cleaner, &mut coin, false);
        }
        match pin(key) {
            Some(pieces) => held.push((key, version, pieces)),
            None => refused += 1,
        }
        if held.len() > 12 {
            let (key, version, pieces) = held.swap_remove(mix(version) as usize % 12);
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            assert_eq!(bytes, value_of(key, version, bytes.len()), "key {key} was stored {version} versions ago");
        }
    }
    assert!(cfg!(miri) || refused > 100, "only some segments may be held back: {refused}");
    // nothing is held back for good
    held.clear();
    let mut opened = 0;
    while memory.segments_free() < 8 && opened < 200 {
        clean(&memory, &part, &mut cleaner, &mut coin, false);
        opened += 1;
    }
    assert!(memory.segments_free() >= 8, "{} free", memory.segments_free());
}

#[test]
#[cfg_attr(miri, ignore = "Miri's pages are all resident")]
fn fresh_memory_is_wanted_ahead_of_writers_and_no_further() {
    let bytes = 16 << 20;
    let shape = Shape { region_bytes: bytes, mapped_bytes: bytes, segment_bytes: 256 << 10, index_entries: 1024 };
    let memory = LogMemory::new(shape, KeyHasher::new(1)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    assert!(!memory.wants_pages(), "nobody has stored anything");
    let mut steps = 0;
    for key in 0..2_000 {
        store(&memory, &part, &mut writer, key, 1, &[7; 4_000]).unwrap();
        while memory.wants_pages() {
            memory.populate_step();
            steps += 1;
        }
    }
    // 8 MiB were written, and one more is kept ahead, in pieces of 2
    assert_eq!(steps, 5);
}
