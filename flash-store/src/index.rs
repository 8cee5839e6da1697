//! The flash index: 4 bytes an entry in buckets of one cache line, no key, no offset.
//!
//! An entry lies in one of two buckets that follow from each other and the tag. So all entries that a key could match, those
//! with its tag in its two buckets, are a class that never loses a member to another bucket: hiding a key hides them all, and
//! displacing an entry keeps it in its class (INV-FRESH depends on it: see docs/flash-index.md). Changes to a class are made
//! under its lock; readers take none.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use parking_lot::{Mutex, MutexGuard};

use crate::entry::{CLOCK_MAX, Entry, EntryLayout};
use crate::image::read_u32;

pub(crate) const SLOTS: usize = 16;
const _: () = assert!(SLOTS * 4 == 64); // a bucket is a cache line
const LOCKS: usize = 256;
/// Share of slots that is meant to be used.
const LOAD: f64 = 0.92;

#[repr(align(64))]
struct Bucket([AtomicU32; SLOTS]);

pub(crate) struct FlashIndex {
    buckets: Box<[Bucket]>,
    locks: Box<[Mutex<()>]>,
    entries: AtomicUsize,
    /// Entries that began to move to their other bucket, and those that have: who looks without a lock must not miss one.
    moves_begun: AtomicUsize,
    moves_ended: AtomicUsize,
}

/// The two buckets and the tag that a hash stands for.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    home: usize,
    other: usize,
    tag: u32,
}

impl Class {
    /// The class of a hash in an index of so many buckets.
    pub(crate) fn of(hash: u64, layout: &EntryLayout, buckets: usize) -> Class {
        let home = ((u128::from(hash) * buckets as u128) >> 64) as usize;
        let tag = layout.tag(hash);
        Class { home, other: other_bucket(home, tag, buckets), tag }
    }

    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    /// The buckets that its entries lie in: two, or by chance one.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = usize> + use<> {
        let other = (self.other != self.home).then_some(self.other);
        std::iter::once(self.home).chain(other)
    }
}

/// The bucket that entries with this tag lie in besides `bucket`: of the two, each follows from the other.
fn other_bucket(bucket: usize, tag: u32, buckets: usize) -> usize {
    let spread = (u64::from(tag) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
    let sum = (spread % buckets as u64) as usize;
    if sum >= bucket { sum - bucket } else { sum + buckets - bucket }
}

/// What a class is called outside: the lower of its buckets, and its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClassName {
    pub(crate) bucket: u32,
    pub(crate) tag: u32,
}

/// The right to change a class.
pub(crate) struct ClassLock<'a> {
    class: Class,
    _guard: MutexGuard<'a, ()>,
}

impl FlashIndex {
    pub(crate) fn new(objects: usize) -> FlashIndex {
        let buckets = ((objects as f64 / LOAD) as usize).div_ceil(SLOTS).max(4);
        FlashIndex {
            buckets: (0..buckets).map(|_| Bucket([const { AtomicU32::new(0) }; SLOTS])).collect(),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            entries: AtomicUsize::new(0),
            moves_begun: AtomicUsize::new(0),
            moves_ended: AtomicUsize::new(0),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buckets.len() * 64
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    pub(crate) fn save(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; 4 * SLOTS];
        for bucket in &self.buckets {
            for (slot, bytes) in bucket.0.iter().zip(bytes.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&slot.load(Ordering::Relaxed).to_le_bytes());
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    pub(crate) fn load(&self, input: &mut impl Read) -> io::Result<()> {
        let mut used = 0;
        for slot in self.buckets.iter().flat_map(|bucket| &bucket.0) {
            let word = read_u32(input)?;
            used += usize::from(word != 0);
            slot.store(word, Ordering::Relaxed);
        }
        self.entries.store(used, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    pub(crate) fn class(&self, layout: &EntryLayout, hash: u64) -> Class {
        Class::of(hash, layout, self.buckets.len())
    }

    fn other(&self, bucket: usize, tag: u32) -> usize {
        other_bucket(bucket, tag, self.buckets.len())
    }

    pub(crate) fn name(&self, class: Class) -> ClassName {
        ClassName { bucket: class.home.min(class.other) as u32, tag: class.tag }
    }

    fn lock_of(class: Class) -> usize {
        class.home.min(class.other) % LOCKS
    }

    pub(crate) fn lock(&self, class: Class) -> ClassLock<'_> {
        ClassLock { class, _guard: self.locks[Self::lock_of(class)].lock() }
    }

    fn places(&self, class: Class) -> impl Iterator<Item = &AtomicU32> {
        class.buckets().flat_map(|bucket| &self.buckets[bucket].0)
    }

    /// Entries that the class holds, as they are now.
    pub(crate) fn entries_of(&self, layout: &EntryLayout, class: Class) -> impl Iterator<Item = Entry> {
        // one pass without a branch over both lines says which slots to look at; mostly there are none
        let mut marked = self.marked(layout, class.home, class.tag);
        if class.other != class.home {
            marked |= self.marked(layout, class.other, class.tag) << SLOTS;
        }
        std::iter::from_fn(move || {
            let slot = (marked != 0).then(|| marked.trailing_zeros() as usize)?;
            marked &= marked - 1;
            let bucket = if slot < SLOTS { class.home } else { class.other };
            Some(Entry(self.buckets[bucket].0[slot % SLOTS].load(Ordering::Acquire)))
        })
        .filter(move |entry| !entry.is_empty() && layout.tag_of(*entry) == class.tag)
    }

    /// Whether the class certainly holds nothing: no entry was seen, and none was on its way between the buckets meanwhile. A false answer
    /// may be wrong.
    pub(crate) fn is_certainly_empty(&self, layout: &EntryLayout, class: Class) -> bool {
        // a move that is over by now has its copy in place; one that takes its original from under the look was begun before the fence
        let ended = self.moves_ended.load(Ordering::Acquire);
        let empty = self.entries_of(layout, class).next().is_none();
        fence(Ordering::Acquire);
        empty && self.moves_begun.load(Ordering::Relaxed) == ended
    }

    /// Which slots of a bucket have this tag, a bit each.
    fn marked(&self, layout: &EntryLayout, bucket: usize, tag: u32) -> u32 {
        self.buckets[bucket].0.iter().enumerate().fold(0, |marked, (slot, entry)| {
            let entry = Entry(entry.load(Ordering::Relaxed));
            marked | u32::from(!entry.is_empty() & (layout.tag_of(entry) == tag)) << slot
        })
    }

    /// Sets the clock of an entry that is still there. Returns the entry as it was.
    pub(crate) fn set_clock(&self, class: Class, entry: Entry, clock: u32) -> Option<Entry> {
        self.places(class).find_map(|slot| {
            let now = Entry(slot.load(Ordering::Relaxed));
            if now.is_empty() || !now.same_place(entry) {
                return None;
            }
            let new = now.with_clock(clock);
            let set = new == now || slot.compare_exchange(now.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            set.then_some(now)
        })
    }

    /// Removes the entries of the class that `wanted` names; calls `removed` for each as it was.
    pub(crate) fn remove(
        &self,
        layout: &EntryLayout,
        lock: &ClassLock<'_>,
        wanted: impl Fn(Entry) -> bool,
        mut removed: impl FnMut(Entry),
    ) {
        for slot in self.places(lock.class) {
            let mut entry = Entry(slot.load(Ordering::Acquire));
            // a reader may turn the clock between the look and the exchange: look again
            while !entry.is_empty() && layout.tag_of(entry) == lock.class.tag && wanted(entry) {
                match slot.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        self.entries.fetch_sub(1, Ordering::Relaxed);
                        removed(entry);
                        break;
                    }
                    Err(now) => entry = Entry(now),
                }
            }
        }
    }

    /// Adds an entry to its class. If neither bucket has room and no neighbour can move, the neighbour with the lowest clock
    /// has to go: it is returned.
    pub(crate) fn insert(
        &self,
        layout: &EntryLayout,
        lock: &ClassLock<'_>,
        entry: Entry,
    ) -> Option<(Entry, ClassName)> {
        let class = lock.class;
        self.entries.fetch_add(1, Ordering::Relaxed);
        if self.put(class.home, entry) || self.put(class.other, entry) {
            return None;
        }
        for bucket in [class.home, class.other] {
            if self.displace(layout, class, bucket) && self.put(bucket, entry) {
                return None;
            }
        }
        let evicted = self.replace(layout, class, entry);
        self.entries.fetch_sub(1, Ordering::Relaxed);
        evicted
    }

    fn put(&self, bucket: usize, entry: Entry) -> bool {
        self.buckets[bucket].0.iter().any(|slot| {
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, entry.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// The lock of another class, for a thread that holds `held`'s.
    fn try_lock_too(&self, held: Class, class: Class) -> Option<Option<MutexGuard<'_, ()>>> {
        let (held, wanted) = (Self::lock_of(held), Self::lock_of(class));
        if held == wanted { Some(None) } else { self.locks[wanted].try_lock().map(Some) }
    }

    fn displace(&self, layout: &EntryLayout, held: Class, bucket: usize) -> bool {
        self.buckets[bucket].0.iter().any(|slot| {
            let entry = Entry(slot.load(Ordering::Acquire));
            if entry.is_empty() {
                return true;
            }
            let tag = layout.tag_of(entry);
            let other = self.other(bucket, tag);
            let class = Class { home: bucket, other, tag };
            let Some(_guard) = self.try_lock_too(held, class) else { return false };
            if other == bucket || Entry(slot.load(Ordering::Acquire)) != entry {
                return false;
            }
            self.moves_begun.fetch_add(1, Ordering::AcqRel);
            let moved = self.move_entry(slot, entry, other);
            self.moves_ended.fetch_add(1, Ordering::AcqRel);
            moved
        })
    }

    fn move_entry(&self, slot: &AtomicU32, entry: Entry, other: usize) -> bool {
        if !self.put(other, entry) {
            return false;
        }
        if slot.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return true;
        }
        // its clock was turned meanwhile: take the copy back, it stays where it is
        let copy = self.buckets[other].0.iter().find(|slot| slot.load(Ordering::Relaxed) == entry.0);
        if let Some(copy) = copy {
            let _ = copy.compare_exchange(entry.0, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
        false
    }

    fn replace(&self, layout: &EntryLayout, held: Class, entry: Entry) -> Option<(Entry, ClassName)> {
        for clock in 0..=CLOCK_MAX {
            for bucket in [held.home, held.other] {
                for slot in &self.buckets[bucket].0 {
                    let victim = Entry(slot.load(Ordering::Acquire));
                    if victim.clock() > clock {
                        continue;
                    }
                    let tag = layout.tag_of(victim);
                    let class = Class { home: bucket, other: self.other(bucket, tag), tag };
                    let Some(_guard) = self.try_lock_too(held, class) else { continue };
                    if slot.compare_exchange(victim.0, entry.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                        return (!victim.is_empty()).then(|| (victim, self.name(class)));
                    }
                }
            }
        }
        Some((entry, self.name(held))) // every neighbour is busy: the new entry is the one that has to go
    }

    /// One step of the clock's hand: turns the entries of `buckets` buckets from `from` on down by one, until `done` says so.
    /// `ghosted` is told of each that reaches 0. Returns the bucket to go on with.
    pub(crate) fn sweep(&self, from: usize, buckets: usize, mut ghosted: impl FnMut(Entry) -> bool) -> usize {
        for step in 0..buckets {
            let bucket = (from + step) % self.buckets.len();
            for slot in &self.buckets[bucket].0 {
                let entry = Entry(slot.load(Ordering::Relaxed));
                if entry.is_empty() || entry.clock() == 0 {
                    continue;
                }
                let turned = entry.with_clock(entry.clock() - 1);
                let done = slot.compare_exchange(entry.0, turned.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
                if done && turned.clock() == 0 && ghosted(turned) {
                    return bucket;
                }
            }
        }
        (from + buckets) % self.buckets.len()
    }

    /// Removes every entry that `wanted` names, wherever it is: for segments that cannot be read.
    pub(crate) fn purge(&self, layout: &EntryLayout, wanted: impl Fn(Entry) -> bool, mut removed: impl FnMut(Entry)) {
        for (bucket, slots) in self.buckets.iter().enumerate() {
            for slot in &slots.0 {
                let entry = Entry(slot.load(Ordering::Acquire));
                if entry.is_empty() || !wanted(entry) {
                    continue;
                }
                let tag = layout.tag_of(entry);
                let lock = self.lock(Class { home: bucket, other: self.other(bucket, tag), tag });
                self.remove(layout, &lock, &wanted, &mut removed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_at_the_working_load_and_hidden_by_class() {
        let layout = EntryLayout::new(100, 1 << 20).unwrap();
        let total = 20_000u64;
        let index = FlashIndex::new(total as usize);
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 50;
        let mut lost = 0;
        for n in 1..=total {
            let class = index.class(&layout, hash(n));
            let entry = layout.entry(layout.tag(hash(n)), (n % 100) as u32, 0, (n % 16) as u32, 1);
            lost += usize::from(index.insert(&layout, &index.lock(class), entry).is_some());
        }
        assert!(lost < total as usize / 1000, "{lost} of {total} lost at the working load");
        assert!(index.bytes() as f64 / total as f64 <= 4.6, "bytes an object");
        let found = (1..=total).filter(|n| {
            let class = index.class(&layout, hash(*n));
            index.entries_of(&layout, class).any(|e| layout.segment_of(e) == (*n % 100) as u32)
        });
        assert!(found.count() >= total as usize - lost);
        let strangers = (total + 1..=total * 2)
            .map(|n| index.entries_of(&layout, index.class(&layout, hash(n))).count())
            .sum::<usize>();
        assert!((strangers as f64) < total as f64 * 0.01, "{strangers} wasted reads for {total} misses");
        for n in 1..=total {
            let class = index.class(&layout, hash(n));
            index.remove(&layout, &index.lock(class), |_| true, |_| {});
            assert_eq!(index.entries_of(&layout, class).count(), 0);
        }
        assert_eq!(index.entries(), 0);
    }

    #[test]
    fn the_sweep_turns_clocks_down_to_ghosts() {
        let layout = EntryLayout::new(100, 1 << 20).unwrap();
        let index = FlashIndex::new(100);
        let class = index.class(&layout, 77 << 40);
        index.insert(&layout, &index.lock(class), layout.entry(class.tag, 1, 0, 0, 2));
        let mut ghosts = 0;
        for _ in 0..2 {
            index.sweep(0, index.buckets.len(), |_| {
                ghosts += 1;
                false
            });
        }
        assert_eq!(ghosts, 1);
        let entry = index.entries_of(&layout, class).next().unwrap();
        assert_eq!(entry.clock(), 0, "a ghost can still be found");
        assert_eq!(index.set_clock(class, entry, CLOCK_MAX).unwrap().clock(), 0);
    }

    #[test]
    fn an_entry_on_its_way_between_its_buckets_is_not_overlooked() {
        let layout = EntryLayout::new(100, 1 << 20).unwrap();
        let index = FlashIndex::new(40);
        let class =
            (0u64..).map(|n| index.class(&layout, n << 56 | n)).find(|class| class.home != class.other).unwrap();
        index.insert(&layout, &index.lock(class), layout.entry(class.tag, 1, 0, 0, 2));
        // a lock that is another's, so that the entry's own can be taken
        let held = (0..index.buckets.len()).map(|home| Class { home, other: home, tag: 0 });
        let held = held.into_iter().find(|held| FlashIndex::lock_of(*held) != FlashIndex::lock_of(class)).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let mut moves = 0;
                while !stop.load(Ordering::Relaxed) {
                    for bucket in [class.home, class.other] {
                        moves += u32::from(index.displace(&layout, held, bucket));
                    }
                }
                moves
            });
            let overlooked = (0..6_000_000).filter(|_| index.is_certainly_empty(&layout, class)).count();
            stop.store(true, Ordering::Relaxed);
            assert!(mover.join().unwrap() > 100, "it moved");
            assert_eq!(overlooked, 0);
        });
    }
}
