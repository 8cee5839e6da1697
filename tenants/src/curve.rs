//! Miss-ratio curves of an LRU, from reuse distances in bytes: exact for small traces, sampled by key hash for large ones (SHARDS with
//! a bounded number of objects, and its correction for hot keys: Waldspurger et al., FAST 2015).
//!
//! A reuse distance is an object's own bytes and those of everything that was used since: the smallest LRU that would have kept it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Names a key: a hash of it.
pub(crate) type KeyId = u64;

/// Buckets of the histogram of distances for each doubling: a width of half a percent.
const BUCKETS_FINE: usize = 128;
/// The same of a curve that is followed while requests are served: a width of four percent, in 6 KiB.
const BUCKETS_COARSE: usize = 16;
const DOUBLINGS: usize = 48;
/// Slots that a stack begins with.
const STACK_SLOTS_MIN: usize = 64;
/// Points of a curve as it is told.
const POINTS: usize = 128;

/// A map by keys that are hashes already.
pub type IdMap<V> = HashMap<KeyId, V, BuildHasherDefault<IdHasher>>;

/// Takes a hash for what it is.
#[derive(Default, Debug, Clone, Copy)]
pub struct IdHasher(u64);

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
        *self = Stack::new((live.len() * 2).max(64));
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
    buckets_a_doubling: usize,
    /// Bytes of cache beyond which nobody asks: what stands lower in the stack is forgotten when there is no room for it; 0 for no such.
    reach_bytes: u64,
    /// Whether every read is told of; otherwise only those of followed keys are, and the others are counted elsewhere.
    counts_reads: bool,
    /// Reads by reuse distance, each counted as often as it stands for others; as many doublings as were seen, since of thousands of tenants
    /// most read what is near.
    histogram: Vec<f64>,
    /// Reads of what was never seen, or deleted.
    cold: f64,
    reads: u64,
    sampled_reads: f64,
    /// Reads of the sample since they faded last.
    raw_reads: usize,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Bytes of the cache.
    pub bytes: u64,
    /// Misses for each read.
    pub miss_ratio: f64,
}

fn bucket_of(distance: f64, buckets_a_doubling: usize) -> usize {
    ((distance.max(1.0).log2() * buckets_a_doubling as f64) as usize).min(DOUBLINGS * buckets_a_doubling - 1)
}

impl ReuseDistances {
    /// Follows up to so many objects at a time; all of them while they are fewer.
    pub fn new(objects_max: usize) -> ReuseDistances {
        ReuseDistances::with(objects_max, u64::MAX, BUCKETS_FINE, 0)
    }

    /// Follows keys whose hash is up to `threshold`, and fewer once they are more than `objects_max`.
    fn with(objects_max: usize, threshold: u64, buckets_a_doubling: usize, reach_bytes: u64) -> ReuseDistances {
        ReuseDistances {
            seen: IdMap::default(),
            seen_bytes: 0,
            stack: Stack::new(STACK_SLOTS_MIN),
            objects_max,
            threshold,
            buckets_a_doubling,
            reach_bytes,
            counts_reads: reach_bytes == 0,
            histogram: Vec::new(),
            cold: 0.0,
            reads: 0,
            sampled_reads: 0.0,
            raw_reads: 0,
        }
    }

    fn bucket_of(&self, distance: f64) -> usize {
        bucket_of(distance, self.buckets_a_doubling)
    }

    fn bytes_of(&self, bucket: usize) -> f64 {
        (bucket as f64 / self.buckets_a_doubling as f64).exp2()
    }

    /// The share of the keys that is followed.
    pub fn rate(&self) -> f64 {
        (self.threshold as f64 + 1.0) / 2f64.powi(64)
    }

    /// A request that reads, or writes, an object of so many bytes.
    pub fn used(&mut self, id: KeyId, bytes: u32, is_read: bool) {
        self.reads += u64::from(is_read && self.counts_reads);
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
            self.raw_reads += 1;
            match distance {
                Some(distance) => {
                    let bucket = bucket_of(distance, self.buckets_a_doubling);
                    if bucket >= self.histogram.len() {
                        let whole = (bucket + 1).next_multiple_of(self.buckets_a_doubling);
                        self.histogram.reserve_exact(whole - self.histogram.len());
                        self.histogram.resize(whole, 0.0);
                    }
                    self.histogram[bucket] += weight;
                }
                None => self.cold += weight,
            }
        }
        self.seen_bytes = self.seen_bytes - u64::from(own.bytes) + u64::from(bytes);
        own.bytes = bytes;
        self.stack.push(id, own);
        if self.seen.len() > self.objects_max {
            if self.reach_bytes > 0 && self.stack.bytes as f64 * weight > self.reach_bytes as f64 {
                self.forget_oldest();
            } else {
                self.follow_fewer();
            }
        }
    }

    /// Forgets what was deleted, and the quarter that was used longest ago.
    fn forget_oldest(&mut self) {
        self.stack.rebuild(&mut self.seen);
        for slot in 0..self.stack.next / 4 {
            if let Some(own) = self.seen.remove(&self.stack.owners[slot]) {
                self.seen_bytes -= u64::from(own.bytes);
                self.stack.add(slot, -i64::from(own.bytes));
            }
        }
        let bytes = &mut self.seen_bytes;
        self.seen.retain(|_, own| {
            if own.slot == GONE {
                *bytes -= u64::from(own.bytes);
            }
            own.slot != GONE
        });
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

    /// Has what was counted until now count half.
    fn fade(&mut self) {
        self.histogram.iter_mut().for_each(|reads| *reads /= 2.0);
        self.cold /= 2.0;
        self.sampled_reads /= 2.0;
        self.reads /= 2;
        self.raw_reads = 0;
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
        let doublings = self.histogram.chunks(self.buckets_a_doubling).enumerate();
        let sums = doublings.map(|(n, part)| (1u64 << (n + 1), part.iter().sum::<f64>()));
        sums.filter(|(_, reads)| *reads > 0.0).collect()
    }

    /// Misses for each read in an LRU of so many bytes.
    pub fn miss_ratio(&self, bytes: u64) -> f64 {
        if self.reads == 0 {
            return 0.0;
        }
        let hits: f64 = self.histogram.iter().take(self.bucket_of(bytes as f64)).sum();
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
                points.push(Point { bytes: self.bytes_of(bucket).ceil() as u64, miss_ratio: self.ratio(hits) });
            }
            hits += self.histogram.get(bucket).copied().unwrap_or(0.0);
        }
        points
    }
}

/// Bytes of DRAM that an object which is followed takes at most: its place in a map that may be half empty, and two slots of the stack.
const FOLLOWED_BYTES: usize = 2 * (size_of::<(KeyId, Seen)>() + 1) + 4 * size_of::<u64>();
/// Sampled reads, for each object that may be followed, after which what was counted before counts half.
const READS_A_FADING: usize = 16;
/// Fewest objects that say anything.
const FOLLOWED_MIN: usize = 64;

/// Most that a curve is stretched.
const CALIBRATION_MAX: f64 = 8.0;

/// A curve that is followed while requests are served: of a sample of the keys, in bounded memory, the past fading. What is not in the
/// sample costs a load; nobody waits for anybody.
pub struct LiveCurve {
    /// Keys up to this are followed. Every request of every worker reads it, so it lies apart from what is written with each that is followed.
    threshold: CachePadded<AtomicU64>,
    /// The same at first.
    threshold_first: u64,
    /// The key that was used last, of those: a read of it again is a hit at any size.
    last: AtomicU64,
    distances: Mutex<Followed>,
}

struct Followed {
    /// None until something is followed: thousands of tenants may never be heard of.
    distances: Option<ReuseDistances>,
    objects_max: usize,
    reach_bytes: u64,
    /// Reads that had been counted elsewhere when they were last asked for.
    counted: u64,
}

impl LiveCurve {
    /// For at most so many objects, of a share of the keys at first that is `1 / 2^halvings`, and caches of up to `reach_bytes`. It follows none before it is
    /// told to begin.
    pub fn new(objects_max: usize, halvings: u32, reach_bytes: u64) -> LiveCurve {
        let objects_max = if objects_max < FOLLOWED_MIN { 0 } else { objects_max };
        let threshold = if objects_max == 0 { 0 } else { u64::MAX >> halvings };
        LiveCurve {
            threshold: CachePadded::new(AtomicU64::new(0)),
            threshold_first: threshold,
            last: AtomicU64::new(0),
            distances: Mutex::new(Followed {
                distances: None,
                objects_max,
                reach_bytes: reach_bytes.max(1),
                counted: 0,
            }),
        }
    }

    /// Follows keys from now on.
    pub fn begin(&self) {
        self.threshold.store(self.threshold_first, Ordering::Relaxed);
    }

    /// Forgets everything, and follows nothing from now on.
    pub fn end(&self) {
        let mut followed = self.distances.lock();
        self.threshold.store(0, Ordering::Relaxed);
        followed.distances = None;
    }

    /// Objects that so many bytes of DRAM are enough for.
    pub fn objects_for(bytes: usize) -> usize {
        bytes.saturating_sub(DOUBLINGS * BUCKETS_COARSE * size_of::<f64>()) / FOLLOWED_BYTES
    }

    /// Bytes of DRAM that it takes at most.
    pub fn bytes_max(objects_max: usize) -> usize {
        DOUBLINGS * BUCKETS_COARSE * size_of::<f64>() + objects_max * FOLLOWED_BYTES
    }

    /// Whether this key is followed.
    #[inline]
    pub fn follows(&self, hash: u64) -> bool {
        hash <= self.threshold.load(Ordering::Relaxed)
    }

    fn with_followed(&self, hash: u64, act: impl FnOnce(&mut ReuseDistances)) {
        // somebody else is at it: one request of a sample more or less
        let Some(mut followed) = self.distances.try_lock() else { return };
        self.last.store(hash, Ordering::Relaxed);
        let (objects_max, reach_bytes) = (followed.objects_max, followed.reach_bytes);
        let threshold = self.threshold.load(Ordering::Relaxed);
        if threshold == 0 {
            return; // it has ended meanwhile
        }
        let fresh = || ReuseDistances::with(objects_max, threshold, BUCKETS_COARSE, reach_bytes);
        let distances = followed.distances.get_or_insert_with(fresh);
        act(distances);
        if distances.raw_reads >= READS_A_FADING * distances.objects_max {
            distances.fade();
        }
        if distances.threshold != threshold {
            self.threshold.store(distances.threshold, Ordering::Relaxed);
        }
    }

    /// A key that is followed was read: what was found has so many bytes, None if nothing was.
    pub fn read(&self, hash: u64, bytes: Option<usize>) {
        if self.last.load(Ordering::Relaxed) != hash {
            self.with_followed(hash, |distances| {
                let known = distances.seen.get(&hash).map_or(0, |own| own.bytes);
                distances.used(hash, bytes.map_or(known, |bytes| bytes as u32), true);
            });
        }
    }

    /// A key that is followed was stored.
    pub fn stored(&self, hash: u64, bytes: usize) {
        self.with_followed(hash, |distances| distances.used(hash, bytes as u32, false));
    }

    /// A key that is followed was deleted.
    pub fn deleted(&self, hash: u64) {
        self.with_followed(hash, |distances| distances.deleted(hash));
    }

    /// The curve as hits by bytes, for the reads that were counted until now (all of them, sampled or not), which fade as those of the
    /// sample do. The first point is nothing for nothing.
    pub fn demand(&self, reads: u64) -> Demand {
        let mut followed = self.distances.lock();
        let more = reads.saturating_sub(followed.counted);
        followed.counted = reads;
        let Some(distances) = &mut followed.distances else {
            return Demand { reads: reads as f64, points: vec![(0.0, 0.0)], sampled: 0 };
        };
        distances.reads += more;
        let total = distances.reads as f64;
        let points = distances.curve().into_iter().map(|point| (point.bytes as f64, (1.0 - point.miss_ratio) * total));
        Demand {
            reads: total,
            points: std::iter::once((0.0, 0.0)).chain(points).collect(),
            sampled: distances.seen.len(),
        }
    }
}

/// What a tenant would do with memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Reads, the latest counting most.
    pub reads: f64,
    /// Hits by bytes, both rising.
    pub points: Vec<(f64, f64)>,
    /// Objects that this is told from.
    pub sampled: usize,
}

impl Demand {
    /// The curve is that of an LRU; a rank that knows better gets more out of the same bytes. Where so many bytes give this hit ratio,
    /// the curve is compressed (or stretched) along the bytes until it says so too.
    pub fn calibrate(&mut self, bytes: f64, hit_ratio: f64) {
        let Some(alike) = self.bytes_for(hit_ratio).filter(|alike| *alike > 0.0) else { return };
        if bytes > 0.0 && hit_ratio > 0.0 {
            let factor = (bytes / alike).clamp(1.0 / CALIBRATION_MAX, CALIBRATION_MAX);
            self.points.iter_mut().for_each(|(own, _)| *own *= factor);
        }
    }

    /// Hits of each read with so many bytes.
    pub fn hit_ratio(&self, bytes: f64) -> f64 {
        if self.reads > 0.0 { self.hits(bytes) / self.reads } else { 0.0 }
    }

    /// Hits with so many bytes, between the points in proportion.
    pub fn hits(&self, bytes: f64) -> f64 {
        let above = self.points.partition_point(|(own, _)| *own <= bytes);
        match (self.points.get(above.wrapping_sub(1)), self.points.get(above)) {
            (Some(low), Some(high)) => low.1 + (high.1 - low.1) * (bytes - low.0) / (high.0 - low.0),
            (Some(last), None) => last.1,
            _ => 0.0,
        }
    }

    /// Fewest bytes that give so many hits of each read; None if none do.
    pub fn bytes_for(&self, hit_ratio: f64) -> Option<f64> {
        let wanted = hit_ratio * self.reads;
        let at = self.points.partition_point(|(_, hits)| *hits < wanted);
        let high = self.points.get(at)?;
        let Some(low) = at.checked_sub(1).map(|before| self.points[before]) else { return Some(high.0) };
        Some(low.0 + (high.0 - low.0) * (wanted - low.1) / (high.1 - low.1).max(f64::MIN_POSITIVE))
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
    fn a_live_curve_is_bounded_and_comes_near_the_exact_one() {
        let mut requests = requests(400_000, 60_000.0, 4);
        // keys that never come back do not make it forget those that do
        requests
            .iter_mut()
            .step_by(3)
            .enumerate()
            .for_each(|(n, request)| request.0 = xxh3_64(&(n as u64 | 1 << 40).to_le_bytes()));
        let mut exact = ReuseDistances::new(1 << 20);
        let live = LiveCurve::new(2_000, 3, 16 << 20);
        live.begin();
        let mut reads = 0;
        for (id, bytes) in &requests {
            exact.used(*id, *bytes, true);
            reads += 1;
            if live.follows(*id) {
                live.read(*id, None);
                live.stored(*id, *bytes as usize);
            }
        }
        let demand = live.demand(reads);
        assert!(demand.sampled <= 2_000 && demand.sampled > 500, "{}", demand.sampled);
        for bytes in [400_000u64, 1 << 20, 2 << 20, 4 << 20] {
            let (own, true_one) = (demand.hit_ratio(bytes as f64), 1.0 - exact.miss_ratio(bytes));
            assert!((own - true_one).abs() < 0.05, "{bytes}: {own} and {true_one}");
        }
        let half = demand.bytes_for(demand.hit_ratio(1e6)).unwrap();
        assert!((half - 1e6).abs() < 1e5 && demand.bytes_for(1.0).is_none());
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
