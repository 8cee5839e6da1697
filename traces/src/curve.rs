//! Miss-ratio curves of an LRU, from reuse distances in bytes: exact for small traces, sampled by key hash for large ones (SHARDS with
//! a bounded number of objects, and its correction for hot keys: Waldspurger et al., FAST 2015).
//!
//! A reuse distance is an object's own bytes and those of everything that was used since: the smallest LRU that would have kept it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};

use crate::values::KeyId;

/// Buckets of the histogram of distances for each doubling: a width of half a percent.
const BUCKETS_A_DOUBLING: usize = 128;
const DOUBLINGS: usize = 48;
/// Points of a curve as it is told.
const POINTS: usize = 128;

/// A map by keys that are hashes already.
pub(crate) type IdMap<V> = HashMap<KeyId, V, BuildHasherDefault<IdHasher>>;

/// Takes a hash for what it is.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, id: u64) {
        // what is sampled has small numbers: bring all bits to where a table looks
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// What is known of an object that was seen.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// Requests for it.
    pub requests: u32,
    /// Bytes of key and value, as last seen.
    pub bytes: u32,
    /// Where it stands in the stack; [`GONE`] after a delete.
    slot: u32,
}

const GONE: u32 = u32::MAX;

/// Objects in order of last use, with sums of bytes: a binary indexed tree over slots, the latest use last.
struct Stack {
    sums: Vec<u64>,
    owners: Vec<KeyId>,
    next: usize,
    bytes: u64,
}

impl Stack {
    fn new(slots: usize) -> Stack {
        Stack { sums: vec![0; slots + 1], owners: vec![0; slots], next: 0, bytes: 0 }
    }

    fn add(&mut self, slot: usize, bytes: i64) {
        let mut at = slot + 1;
        while at < self.sums.len() {
            self.sums[at] = self.sums[at].wrapping_add_signed(bytes);
            at += at & at.wrapping_neg();
        }
        self.bytes = self.bytes.wrapping_add_signed(bytes);
    }

    /// Bytes of what was used before or at this slot.
    fn up_to(&self, slot: usize) -> u64 {
        let (mut at, mut sum) = (slot + 1, 0u64);
        while at > 0 {
            sum = sum.wrapping_add(self.sums[at]);
            at -= at & at.wrapping_neg();
        }
        sum
    }

    /// Puts everything that is left into fresh slots, in order.
    fn rebuild(&mut self, seen: &mut IdMap<Seen>) {
        let live: Vec<KeyId> = (0..self.next)
            .filter(|slot| seen.get(&self.owners[*slot]).is_some_and(|own| own.slot as usize == *slot))
            .map(|slot| self.owners[slot])
            .collect();
        *self = Stack::new((live.len() * 2).max(1024));
        for id in live {
            let own = seen.get_mut(&id).expect("it was just there");
            self.push(id, own);
        }
    }

    fn push(&mut self, id: KeyId, own: &mut Seen) {
        own.slot = self.next as u32;
        self.owners[self.next] = id;
        self.add(self.next, i64::from(own.bytes));
        self.next += 1;
    }
}

/// Follows a stream of requests.
pub struct ReuseDistances {
    seen: IdMap<Seen>,
    /// Bytes of all of them.
    seen_bytes: u64,
    stack: Stack,
    objects_max: usize,
    /// Keys up to this are followed.
    threshold: u64,
    /// Reads by reuse distance, each counted as often as it stands for others.
    histogram: Vec<f64>,
    /// Reads of what was never seen, or deleted.
    cold: f64,
    reads: u64,
    sampled_reads: f64,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Point {
    /// Bytes of the cache.
    pub bytes: u64,
    /// Misses for each read.
    pub miss_ratio: f64,
}

fn bucket_of(distance: f64) -> usize {
    ((distance.max(1.0).log2() * BUCKETS_A_DOUBLING as f64) as usize).min(DOUBLINGS * BUCKETS_A_DOUBLING - 1)
}

fn bytes_of(bucket: usize) -> f64 {
    (bucket as f64 / BUCKETS_A_DOUBLING as f64).exp2()
}

impl ReuseDistances {
    /// Follows up to so many objects at a time; all of them while they are fewer.
    pub fn new(objects_max: usize) -> ReuseDistances {
        ReuseDistances {
            seen: IdMap::default(),
            seen_bytes: 0,
            stack: Stack::new(1024),
            objects_max,
            threshold: u64::MAX,
            histogram: vec![0.0; DOUBLINGS * BUCKETS_A_DOUBLING],
            cold: 0.0,
            reads: 0,
            sampled_reads: 0.0,
        }
    }

    /// The share of the keys that is followed.
    pub fn rate(&self) -> f64 {
        (self.threshold as f64 + 1.0) / 2f64.powi(64)
    }

    /// A request that reads, or writes, an object of so many bytes.
    pub fn used(&mut self, id: KeyId, bytes: u32, is_read: bool) {
        self.reads += u64::from(is_read);
        if id > self.threshold {
            return;
        }
        let weight = 1.0 / self.rate();
        if self.stack.next == self.stack.owners.len() {
            self.stack.rebuild(&mut self.seen);
        }
        let own = self.seen.entry(id).or_insert(Seen { slot: GONE, ..Seen::default() });
        own.requests += 1;
        let distance = (own.slot != GONE).then(|| {
            let above = self.stack.bytes - self.stack.up_to(own.slot as usize);
            self.stack.add(own.slot as usize, -i64::from(own.bytes));
            above as f64 * weight + f64::from(own.bytes)
        });
        if is_read {
            self.sampled_reads += weight;
            match distance {
                Some(distance) => self.histogram[bucket_of(distance)] += weight,
                None => self.cold += weight,
            }
        }
        self.seen_bytes = self.seen_bytes - u64::from(own.bytes) + u64::from(bytes);
        own.bytes = bytes;
        self.stack.push(id, own);
        if self.seen.len() > self.objects_max {
            self.follow_fewer();
        }
    }

    /// A request that deletes.
    pub fn deleted(&mut self, id: KeyId) {
        if let Some(own) = self.seen.get_mut(&id) {
            own.requests += 1;
            if own.slot != GONE {
                self.stack.add(own.slot as usize, -i64::from(own.bytes));
                own.slot = GONE;
            }
        }
    }

    fn follow_fewer(&mut self) {
        self.threshold /= 2;
        let (threshold, stack, bytes) = (self.threshold, &mut self.stack, &mut self.seen_bytes);
        self.seen.retain(|id, own| {
            let stays = *id <= threshold;
            if !stays {
                *bytes -= u64::from(own.bytes);
                if own.slot != GONE {
                    stack.add(own.slot as usize, -i64::from(own.bytes));
                }
            }
            stays
        });
    }

    /// Objects that were seen, and their bytes, as far as they are followed.
    pub fn seen(&self) -> (u64, u64) {
        (self.seen.len() as u64, self.seen_bytes)
    }

    /// The objects that are followed.
    pub fn objects(&self) -> impl Iterator<Item = &Seen> {
        self.seen.values()
    }

    /// Reads by reuse distance: bytes, up to which; how many. A doubling each.
    pub fn histogram(&self) -> Vec<(u64, f64)> {
        let doublings = self.histogram.chunks(BUCKETS_A_DOUBLING).enumerate();
        let sums = doublings.map(|(n, part)| (1u64 << (n + 1), part.iter().sum::<f64>()));
        sums.filter(|(_, reads)| *reads > 0.0).collect()
    }

    /// Misses for each read in an LRU of so many bytes.
    pub fn miss_ratio(&self, bytes: u64) -> f64 {
        if self.reads == 0 {
            return 0.0;
        }
        let hits: f64 = self.histogram[..bucket_of(bytes as f64)].iter().sum();
        self.ratio(hits)
    }

    /// The sample has some hot keys too many or too few: what is missing was read again at once (SHARDS-adj).
    fn ratio(&self, hits: f64) -> f64 {
        let missing = self.reads as f64 - self.sampled_reads;
        (1.0 - (hits + missing) / self.reads as f64).clamp(0.0, 1.0)
    }

    /// The curve, from where it begins to fall to where it ends, at sizes in equal proportions.
    pub fn curve(&self) -> Vec<Point> {
        let used: Vec<usize> = (0..self.histogram.len()).filter(|n| self.histogram[*n] > 0.0).collect();
        let (Some(first), Some(last)) = (used.first(), used.last()) else { return Vec::new() };
        let step = ((last - first) / POINTS).max(1);
        let mut hits = 0.0;
        let mut points = Vec::new();
        for bucket in *first..=last + 1 {
            if (bucket - first).is_multiple_of(step) || bucket == last + 1 {
                points.push(Point { bytes: bytes_of(bucket).ceil() as u64, miss_ratio: self.ratio(hits) });
            }
            hits += self.histogram.get(bucket).copied().unwrap_or(0.0);
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use rand_distr::{Distribution, Zipf};
    use xxhash_rust::xxh3::xxh3_64;

    /// An LRU by bytes as one would write it down; reads that it misses.
    fn misses(requests: &[(u64, u32)], capacity: u64) -> f64 {
        let (mut order, mut held) = (Vec::<(u64, u32)>::new(), 0u64);
        let mut misses = 0;
        for (id, bytes) in requests {
            match order.iter().position(|(known, _)| known == id) {
                Some(at) => drop(order.remove(at)),
                None => {
                    misses += 1;
                    held += u64::from(*bytes);
                }
            }
            order.push((*id, *bytes));
            while held > capacity {
                held -= u64::from(order.remove(0).1);
            }
        }
        f64::from(misses) / requests.len() as f64
    }

    fn requests(count: usize, keys: f64, seed: u64) -> Vec<(u64, u32)> {
        let mut dice = SmallRng::seed_from_u64(seed);
        let zipf = Zipf::new(keys, 0.9).unwrap();
        (0..count)
            .map(|_| {
                let key = zipf.sample(&mut dice) as u64;
                (xxh3_64(&key.to_le_bytes()), 50 + (key * 37 % 400) as u32)
            })
            .collect()
    }

    #[test]
    fn the_curve_is_that_of_an_lru() {
        let requests = requests(30_000, 2_000.0, 1);
        let mut distances = ReuseDistances::new(1 << 20);
        requests.iter().for_each(|(id, bytes)| distances.used(*id, *bytes, true));
        assert_eq!(distances.rate(), 1.0);
        for capacity in [2_000, 20_000, 60_000, 150_000, 400_000, 1_000_000] {
            let (exact, told) = (misses(&requests, capacity), distances.miss_ratio(capacity));
            // objects of unequal size: an LRU that is nearly full drops one more than the sum says
            assert!((exact - told).abs() < 0.01, "{capacity}: {exact} and {told}");
        }
    }

    #[test]
    fn a_sample_comes_within_three_points() {
        let requests = requests(400_000, 100_000.0, 2);
        let (mut all, mut some) = (ReuseDistances::new(1 << 20), ReuseDistances::new(20_000));
        for (id, bytes) in &requests {
            all.used(*id, *bytes, true);
            some.used(*id, *bytes, true);
        }
        assert!(some.rate() < 0.5 && some.objects().count() <= 20_000);
        // smaller caches than this hold some dozens of objects, of which a sample knows too few
        for Point { bytes, miss_ratio } in all.curve().into_iter().filter(|point| point.bytes > 20_000) {
            assert!(
                (some.miss_ratio(bytes) - miss_ratio).abs() < 0.03,
                "{bytes}: {} and {miss_ratio}",
                some.miss_ratio(bytes)
            );
        }
    }

    #[test]
    fn what_is_deleted_is_cold_again_and_slots_are_used_again() {
        let mut distances = ReuseDistances::new(1 << 20);
        let mut dice = SmallRng::seed_from_u64(3);
        for _ in 0..5_000 {
            let id = dice.random_range(0..10u64);
            distances.used(id, 10, true);
            distances.deleted(id);
        }
        assert_eq!(distances.cold, 5_000.0);
        assert_eq!((distances.stack.bytes, distances.miss_ratio(1 << 40)), (0, 1.0));
    }
}
