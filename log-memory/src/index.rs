//! The DRAM index: 8 bytes an entry in buckets of one cache line; readers take no lock.
//!
//! A hash names a *home* bucket of eight slots; an entry that finds it full lies in its *other* bucket, which follows from the
//! bucket and the tag alone and leads back again. Readers look at home first, then at the other; nothing ever moves from
//! home's reader's past into its future: entries are displaced from home to other only, and from an old table to the new one
//! only, so a reader that goes home, other, and old table, new table, never misses an entry that was there all along.
//!
//! Writers of a key hold its [`KeyLock`] and change slots by compare-and-exchange. A table that gets full is replaced by one
//! half as large again: entries move over in bounded steps ([`Index::grow_step`]) while both are searched.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use crate::hash::mix;
use crate::location::{Entry, Location, tag_of};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, LOCKS, Mutex, MutexGuard, Words};

const SLOTS: usize = 8;
const _: () = assert!(SLOTS * 8 == 64); // a bucket is a cache line
const TABLES_MAX: usize = 64;
/// How far a chain of displacements goes.
const DISPLACE_DEPTH: usize = 2;
/// Share of used slots (in 1/16) at which a larger table is wanted.
const GROW_AT_SIXTEENTHS: usize = 13;
/// The same at which whoever stores begins with it, where nobody else has.
const CROWDED_AT_SIXTEENTHS: usize = 14;

struct Table {
    memory: Words,
    buckets: usize,
}

impl Table {
    fn new(buckets: usize) -> io::Result<Table> {
        Ok(Table { memory: Words::map(buckets * 64)?, buckets })
    }

    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets as u128) >> 64) as usize
    }

    /// The other bucket of an entry with `tag` that lies in `bucket`: an involution.
    fn other(&self, bucket: usize, tag: u64) -> usize {
        let sum = ((u128::from(mix(tag + 1)) * self.buckets as u128) >> 64) as usize;
        if sum >= bucket { sum - bucket } else { sum + self.buckets - bucket }
    }

    fn slots(&self, bucket: usize) -> &[AtomicU64] {
        &self.memory.words()[bucket * SLOTS..(bucket + 1) * SLOTS]
    }

    fn both(&self, hash: u64) -> [usize; 2] {
        let home = self.home(hash);
        [home, self.other(home, tag_of(hash))]
    }

    fn find(&self, hash: u64, is_it: &mut impl FnMut(Location) -> bool) -> Option<Location> {
        let (tag, home) = (tag_of(hash), self.home(hash));
        self.find_in(home, tag, is_it).or_else(|| self.find_in(self.other(home, tag), tag, is_it))
    }

    fn find_in(&self, bucket: usize, tag: u64, is_it: &mut impl FnMut(Location) -> bool) -> Option<Location> {
        for slot in self.slots(bucket) {
            let entry = Entry(slot.load(Ordering::Acquire));
            if !entry.is_empty() && entry.tag() == tag && is_it(entry.location()) {
                return Some(entry.location());
            }
        }
        None
    }

    /// The slot of a bucket that `wanted` is in.
    fn slot_in(&self, bucket: usize, wanted: Entry) -> Option<usize> {
        let n = self.slots(bucket).iter().position(|slot| slot.load(Ordering::Acquire) == wanted.0)?;
        Some(bucket * SLOTS + n)
    }

    /// The slot of its home bucket that `wanted` is in, or of its other one: looked for in this order, as entries move in it.
    fn slot_of(&self, hash: u64, wanted: Entry) -> Option<usize> {
        let home = self.home(hash);
        self.slot_in(home, wanted).or_else(|| self.slot_in(self.other(home, wanted.tag()), wanted))
    }

    fn exchange(&self, hash: u64, old: Entry, new: Entry) -> bool {
        self.slot_of(hash, old).is_some_and(|slot| self.exchange_at(slot, old, new))
    }

    fn exchange_at(&self, slot: usize, old: Entry, new: Entry) -> bool {
        let slot = self.memory.words().get(slot);
        slot.is_some_and(|slot| slot.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    fn insert(&self, bucket: usize, new: Entry) -> bool {
        self.slots(bucket).iter().any(|slot| {
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }
}

/// The right to change what is published for a key (and for the few keys that share the lock).
pub struct KeyLock<'a> {
    _guard: MutexGuard<'a, ()>,
    hash: u64,
}

impl KeyLock<'_> {
    /// Hash of the key that was locked.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Where an entry was seen. What it names is still published while its slot holds it, and one look tells (INV-GRACE asks for the turn of that look).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sighting {
    /// The entry; 0 for none.
    entry: u64,
    /// Number of the table, and of the slot in it.
    table: u32,
    slot: usize,
}

/// How far a walk over an index has come.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cursor {
    table: Option<u32>,
    bucket: usize,
}

/// Maps hashes to places in the log.
pub(crate) struct Index {
    tables: [OnceLock<Table>; TABLES_MAX],
    /// Number of the current table, times two; plus one while entries move over from the table before it.
    state: AtomicU32,
    cursor: AtomicUsize,
    entries: AtomicUsize,
    locks: Box<[Mutex<()>]>,
}

impl Index {
    pub(crate) fn new(entries: usize) -> io::Result<Index> {
        let index = Index {
            tables: [const { OnceLock::new() }; TABLES_MAX],
            state: AtomicU32::new(0),
            cursor: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        };
        let first = Table::new(entries.div_ceil(SLOTS).max(16))?;
        assert!(index.tables[0].set(first).is_ok(), "nothing was set before");
        Ok(index)
    }

    fn table(&self, number: u32) -> &Table {
        self.tables[number as usize].get().expect("a table is set before its number is published")
    }

    /// The tables to search, in order.
    fn tables_at(&self, state: u32) -> impl Iterator<Item = &Table> {
        let current = state / 2;
        (current - state % 2..=current).map(|number| self.table(number))
    }

    /// Calls `visit` for each entry of the next `buckets` buckets, from where `cursor` stands; false at the end. Entries that
    /// move while the index grows are seen in the old table, the new one, or both.
    pub(crate) fn visit(&self, cursor: &mut Cursor, buckets: usize, mut visit: impl FnMut(Location)) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let (oldest, newest) = (state / 2 - state % 2, state / 2);
        if cursor.table.is_none_or(|table| table < oldest) {
            *cursor = Cursor { table: Some(oldest), bucket: 0 };
        }
        let number = cursor.table.expect("set above");
        let table = self.table(number);
        let end = (cursor.bucket + buckets).min(table.buckets);
        for bucket in cursor.bucket..end {
            for slot in table.slots(bucket) {
                let entry = Entry(slot.load(Ordering::Acquire));
                if !entry.is_empty() {
                    visit(entry.location());
                }
            }
        }
        cursor.bucket = end;
        if end < table.buckets {
            return true;
        }
        *cursor = Cursor { table: Some(number + 1), bucket: 0 };
        number < newest
    }

    /// Buckets of the current table.
    pub(crate) fn buckets(&self) -> usize {
        self.table(self.state.load(Ordering::Acquire) / 2).buckets
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of the tables in use.
    pub(crate) fn bytes(&self) -> usize {
        self.tables_at(self.state.load(Ordering::Acquire)).map(|table| table.memory.len()).sum()
    }

    pub(crate) fn lock(&self, hash: u64) -> KeyLock<'_> {
        KeyLock { _guard: self.locks[hash as usize % LOCKS].lock(), hash }
    }

    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(Location) -> bool) -> Option<Location> {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let found = self.tables_at(state).find_map(|table| table.find(hash, &mut is_it));
            if found.is_some() || self.state.load(Ordering::Acquire) == state {
                return found;
            }
        }
    }

    /// The first entry that may be for a key with this hash.
    pub(crate) fn see(&self, hash: u64) -> (Sighting, Option<Location>) {
        let (tag, state) = (tag_of(hash), self.state.load(Ordering::Acquire));
        for number in state / 2 - state % 2..=state / 2 {
            let table = self.table(number);
            let home = table.home(hash);
            for bucket in [home, table.other(home, tag)] {
                for (n, slot) in table.slots(bucket).iter().enumerate() {
                    let entry = Entry(slot.load(Ordering::Acquire));
                    if !entry.is_empty() && entry.tag() == tag {
                        let sighting = Sighting { entry: entry.0, table: number, slot: bucket * SLOTS + n };
                        return (sighting, Some(entry.location()));
                    }
                }
            }
        }
        (Sighting::default(), None)
    }

    /// What was seen, if it is still published.
    #[inline]
    pub(crate) fn look_again(&self, sighting: Sighting) -> Option<Location> {
        let table = self.tables[sighting.table as usize].get().filter(|_| sighting.entry != 0)?;
        // a table that was left behind reads as empty
        let now = table.memory.words()[sighting.slot].load(Ordering::Acquire);
        (now == sighting.entry).then(|| Entry(now).location())
    }

    /// Whether `at` is published for a key with this hash.
    pub(crate) fn holds(&self, hash: u64, at: Location) -> bool {
        let wanted = Entry::new(hash, at);
        loop {
            let state = self.state.load(Ordering::Acquire);
            let found = self.tables_at(state).any(|table| table.slot_of(hash, wanted).is_some());
            if found || self.state.load(Ordering::Acquire) == state {
                return found;
            }
        }
    }

    /// The slot where it is in its home bucket of the current table, which most are. If it is not, what else a look for it will read is fetched.
    pub(crate) fn slot_at_home(&self, hash: u64, at: Location) -> Option<usize> {
        let wanted = Entry::new(hash, at);
        let table = self.table(self.state.load(Ordering::Acquire) / 2);
        let home = table.home(hash);
        let found = table.slot_in(home, wanted);
        if found.is_none() {
            table.memory.prefetch(table.other(home, wanted.tag()) * 64);
        }
        found
    }

    /// Has the processor fetch what a look for this hash will read first.
    pub(crate) fn prefetch(&self, hash: u64) {
        for table in self.tables_at(self.state.load(Ordering::Acquire)) {
            table.memory.prefetch(table.home(hash) * 64);
        }
    }

    /// Publishes `new` in the place of `old`, if that is published in the current table, where it was seen in `slot` if anywhere.
    pub(crate) fn replace(&self, lock: &KeyLock<'_>, new: Location, old: Location, slot: Option<usize>) -> bool {
        let current = self.table(self.state.load(Ordering::Acquire) / 2);
        let (old, new) = (Entry::new(lock.hash, old), Entry::new(lock.hash, new));
        slot.is_some_and(|slot| current.exchange_at(slot, old, new)) || current.exchange(lock.hash, old, new)
    }

    /// Publishes `new`, in the place of `old` if that is published. Returns what had to leave for want of a slot.
    pub(crate) fn publish(
        &self,
        lock: &KeyLock<'_>,
        new: Location,
        old: Option<Location>,
        hash_of: impl Fn(Location) -> u64,
    ) -> Published {
        let (hash, entry) = (lock.hash, Entry::new(lock.hash, new));
        let state = self.state.load(Ordering::Acquire);
        let current = self.table(state / 2);
        if let Some(old) = old
            && current.exchange(hash, Entry::new(hash, old), entry)
        {
            return Published { replaced: true, evicted: None };
        }
        let evicted = self.insert(current, hash, entry, hash_of);
        let replaced = old.is_some_and(|old| self.clear_everywhere(hash, old));
        if !replaced && evicted.is_none() {
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
        Published { replaced, evicted }
    }

    /// Puts `entry` into a slot of `table`; makes room by displacing a neighbour or, when none can move, by replacing one.
    fn insert(&self, table: &Table, hash: u64, entry: Entry, hash_of: impl Fn(Location) -> u64) -> Option<Location> {
        let [home, other] = table.both(hash);
        if table.insert(home, entry) || table.insert(other, entry) {
            return None;
        }
        for bucket in [home, other] {
            if self.displace(table, bucket, hash, DISPLACE_DEPTH, &hash_of) && table.insert(bucket, entry) {
                return None;
            }
        }
        self.replace_any(table, [home, other], hash, entry, &hash_of)
    }

    /// Nobody could move: some entry of the two buckets has to go. Its lock is tried, as in `displace`.
    fn replace_any(
        &self,
        table: &Table,
        buckets: [usize; 2],
        hash: u64,
        entry: Entry,
        hash_of: &impl Fn(Location) -> u64,
    ) -> Option<Location> {
        loop {
            for slot in buckets.into_iter().flat_map(|bucket| table.slots(bucket)) {
                let victim = Entry(slot.load(Ordering::Acquire));
                let guard =
                    if victim.is_empty() { Some(None) } else { self.try_lock_too(hash, hash_of(victim.location())) };
                if guard.is_some()
                    && slot.compare_exchange(victim.0, entry.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    return (!victim.is_empty()).then(|| victim.location());
                }
            }
            std::hint::spin_loop();
        }
    }

    /// The lock of `other`, for a thread that holds the lock of `held`: none needed if they are the same.
    fn try_lock_too(&self, held: u64, other: u64) -> Option<Option<MutexGuard<'_, ()>>> {
        let (held, other) = (held as usize % LOCKS, other as usize % LOCKS);
        if held == other { Some(None) } else { self.locks[other].try_lock().map(Some) }
    }

    /// Moves one entry of `bucket`, its home, to its other bucket; makes room there in the same way, up to `depth` times.
    /// Returns whether a slot came free.
    fn displace(
        &self,
        table: &Table,
        bucket: usize,
        hash: u64,
        depth: usize,
        hash_of: &impl Fn(Location) -> u64,
    ) -> bool {
        let slots = table.slots(bucket);
        slots.iter().any(|slot| self.move_to_other(table, bucket, slot, hash, hash_of).is_ok())
            || depth > 0
                && slots.iter().any(|slot| match self.move_to_other(table, bucket, slot, hash, hash_of) {
                    Ok(()) => true,
                    Err(Some(full)) => {
                        self.displace(table, full, hash, depth - 1, hash_of)
                            && self.move_to_other(table, bucket, slot, hash, hash_of).is_ok()
                    }
                    Err(None) => false,
                })
    }

    /// Moves the entry in a slot of its home bucket to its other bucket. An error names that bucket if it is full, and nothing
    /// if the entry cannot move. Its key's lock is tried, not awaited: two writers that make room for each other must not
    /// wait for each other.
    fn move_to_other(
        &self,
        table: &Table,
        bucket: usize,
        slot: &AtomicU64,
        hash: u64,
        hash_of: &impl Fn(Location) -> u64,
    ) -> Result<(), Option<usize>> {
        let entry = Entry(slot.load(Ordering::Acquire));
        if entry.is_empty() {
            return Ok(());
        }
        let other = table.other(bucket, entry.tag());
        let moved = hash_of(entry.location());
        if other == bucket || table.home(moved) != bucket || tag_of(moved) != entry.tag() {
            return Err(None); // in its other bucket already, or nowhere to go
        }
        let Some(_guard) = self.try_lock_too(hash, moved) else { return Err(None) };
        if slot.load(Ordering::Acquire) != entry.0 {
            return Err(None);
        }
        if !table.insert(other, entry) {
            return Err(Some(other));
        }
        let cleared = slot.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Relaxed);
        assert!(cleared.is_ok(), "an entry changes only under its key's lock");
        Ok(())
    }

    /// Hides the entry of `at`. False if it is not published (any more).
    pub(crate) fn hide(&self, lock: &KeyLock<'_>, at: Location) -> bool {
        let hidden = self.clear_everywhere(lock.hash, at);
        if hidden {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
        hidden
    }

    fn clear_everywhere(&self, hash: u64, at: Location) -> bool {
        let entry = Entry::new(hash, at);
        self.tables_at(self.state.load(Ordering::Acquire)).any(|table| table.exchange(hash, entry, Entry::EMPTY))
    }

    /// Whether the current table is so full that a larger one is wanted, and none is being filled.
    pub(crate) fn wants_to_grow(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let slots = self.table(state / 2).buckets * SLOTS;
        state.is_multiple_of(2) && self.entries() * 16 > slots * GROW_AT_SIXTEENTHS
    }

    /// Whether entries are on their way to a larger table.
    pub(crate) fn is_growing(&self) -> bool {
        !self.state.load(Ordering::Acquire).is_multiple_of(2)
    }

    /// Whether it grows, or is long due to.
    pub(crate) fn wants_help(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let slots = self.table(state / 2).buckets * SLOTS;
        !state.is_multiple_of(2) || self.entries() * 16 > slots * CROWDED_AT_SIXTEENTHS
    }

    /// Bytes that growing will add in the end.
    pub(crate) fn growth_bytes(&self) -> usize {
        self.table(self.state.load(Ordering::Acquire) / 2).memory.len() / 2
    }

    /// Begins to move to a table half as large again. One thread at a time calls this and [`Index::grow_step`], and no step is
    /// taken before everyone has ended the turn in which it could have taken the old table for the current one: what such a
    /// writer put there could be overlooked.
    pub(crate) fn grow(&self) -> io::Result<()> {
        let state = self.state.load(Ordering::Acquire);
        let next = state / 2 + 1;
        if !state.is_multiple_of(2) || next as usize >= TABLES_MAX {
            return Ok(());
        }
        let buckets = self.table(state / 2).buckets;
        if self.tables[next as usize].set(Table::new(buckets + buckets / 2)?).is_err() {
            unreachable!("one thread grows the index");
        }
        self.cursor.store(0, Ordering::Relaxed);
        self.state.store(next * 2 + 1, Ordering::Release);
        Ok(())
    }

    /// Moves the entries of up to `buckets` buckets. `hash_of` reads the key at a location, so the caller is in a turn.
    /// Returns whether more is to be done. `evicted` is told of entries that found no slot in the new table.
    pub(crate) fn grow_step(
        &self,
        buckets: usize,
        hash_of: impl Fn(Location) -> u64,
        mut evicted: impl FnMut(Location),
    ) -> bool {
        let state = self.state.load(Ordering::Acquire);
        if state.is_multiple_of(2) {
            return false;
        }
        let (old, new) = (self.table(state / 2 - 1), self.table(state / 2));
        let from = self.cursor.load(Ordering::Relaxed);
        let to = (from + buckets).min(old.buckets);
        for slot in (from..to).flat_map(|bucket| old.slots(bucket)) {
            let entry = Entry(slot.load(Ordering::Acquire));
            if entry.is_empty() {
                continue;
            }
            let lock = self.lock(hash_of(entry.location()));
            if slot.load(Ordering::Acquire) != entry.0 {
                continue; // its writer was faster; what it published lies in the new table
            }
            if let Some(victim) = self.insert(new, lock.hash, entry, &hash_of) {
                self.entries.fetch_sub(1, Ordering::Relaxed);
                evicted(victim);
            }
            let _ = slot.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.cursor.store(to, Ordering::Relaxed);
        if to < old.buckets {
            return true;
        }
        self.state.store(state & !1, Ordering::Release);
        old.memory.discard(0, old.memory.len()); // reads as empty from now on, also to a reader that is late
        false
    }
}

/// What publishing did to other entries.
pub(crate) struct Published {
    /// The old location of the key was published, and is not any more.
    pub(crate) replaced: bool,
    /// Another key's object that lost its slot.
    pub(crate) evicted: Option<Location>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Location {
        Location::from_units(n)
    }

    #[test]
    fn the_other_bucket_leads_back() {
        let table = Table::new(1001).unwrap();
        for hash in (0..5000u64).map(mix) {
            let [home, other] = table.both(hash);
            assert!(home < 1001 && other < 1001);
            assert_eq!(table.other(other, tag_of(hash)), home);
        }
    }

    #[test]
    fn entries_survive_growth_and_working_load() {
        // under Miri, which takes a thousand times as long, fewer have to do
        let total = if cfg!(miri) { 1_500 } else { 20_000 };
        let index = Index::new(1024).unwrap();
        let hash_of = |location: Location| mix(location.units());
        for n in 1..=total {
            let lock = index.lock(mix(n));
            let published = index.publish(&lock, at(n), None, hash_of);
            assert!(published.evicted.is_none(), "displacement makes room at the working load ({n})");
            drop(lock);
            if index.wants_to_grow() {
                index.grow().unwrap();
            }
            index.grow_step(8, hash_of, |_| panic!("no entry is lost while growing"));
        }
        for n in 1..=total {
            assert_eq!(index.find(mix(n), |location| location == at(n)), Some(at(n)));
        }
        assert_eq!(index.entries(), total as usize);
        assert!(index.bytes() <= total as usize * 16);
        for n in 1..=total {
            assert!(index.hide(&index.lock(mix(n)), at(n)));
        }
        assert_eq!(index.entries(), 0);
    }

    #[test]
    fn what_was_seen_is_told_of_while_it_is_published() {
        let index = Index::new(64).unwrap();
        let (hash_of, hash) = (|location: Location| mix(location.units() % 10), mix(1));
        assert!(index.look_again(Sighting::default()).is_none() && index.see(hash).1.is_none());
        index.publish(&index.lock(hash), at(1), None, hash_of);
        let (first, seen) = index.see(hash);
        assert_eq!((seen, index.look_again(first)), (Some(at(1)), Some(at(1))));
        index.publish(&index.lock(hash), at(11), Some(at(1)), hash_of);
        assert_eq!(index.look_again(first), None, "it was replaced");
        let (second, seen) = index.see(hash);
        assert_eq!((seen, index.look_again(second)), (Some(at(11)), Some(at(11))));
        index.grow().unwrap();
        while index.grow_step(8, hash_of, |_| panic!("there is room")) {}
        assert_eq!(index.look_again(second), None, "the table was left behind");
        let (third, seen) = index.see(hash);
        assert_eq!((seen, index.look_again(third)), (Some(at(11)), Some(at(11))));
        assert!(index.hide(&index.lock(hash), at(11)));
        assert_eq!((index.look_again(third), index.see(hash).1), (None, None), "it was hidden");
    }

    #[test]
    fn a_full_bucket_pair_replaces_one_entry() {
        const COUNT: u64 = if cfg!(miri) { 140 } else { 400 };
        let index = Index::new(1).unwrap(); // 16 buckets
        let hash_of = |location: Location| mix(location.units());
        let mut lost = 0;
        for n in 1..=COUNT {
            let published = index.publish(&index.lock(mix(n)), at(n), None, hash_of);
            lost += usize::from(published.evicted.is_some());
        }
        let found = (1..=COUNT).filter(|n| index.find(mix(*n), |l| l == at(*n)).is_some()).count();
        assert_eq!(found + lost, COUNT as usize);
        assert_eq!(index.entries(), found);
    }
}
