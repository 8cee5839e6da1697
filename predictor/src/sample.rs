//! Seen, watched, became: labels from a hashed sample of keys.
//!
//! When the cleaner decides on an object whose key is in the sample, its features are noted and the key is *watched*, wherever
//! its object goes. A read, a hit in any tier or a miss, counts one. The watch ends with an update, a delete, or the horizon, or once
//! enough reads have come that nothing else can change the label, which is whether they were more than the threshold `n`. The store
//! that fills a missed read is no update.
//!
//! Bounded: at most `watched_max` keys are watched and `samples_max` samples are kept, a tenant. A watched key takes
//! [`WATCHED_BYTES`]: its features are kept in fixed point.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::features::{FEATURES, Features, Observation};

/// What a logarithm is multiplied with in fixed point: the largest is 22.2.
const FIXED_POINT: f32 = 2048.0;
/// Watches that are looked at with each decision, whether their horizon has passed.
const LOOKS: usize = 4;
/// Bytes of DRAM for each key that may be watched: the watch, and its place in a map that is half empty.
pub const WATCHED_BYTES: usize = size_of::<Watched>() + 20;

type Fixed = [u16; FEATURES];

#[derive(Clone, Copy)]
struct Watched {
    key: u32,
    since: u32,
    features: Fixed,
    reads: u16,
    missed: bool,
}

/// The watched keys and finished samples of one tenant.
pub struct Sampler {
    watched: Vec<Watched>,
    /// Where a key stands in `watched`.
    places: FxHashMap<u32, u32>,
    /// Which watch is looked at next.
    next: usize,
    samples: VecDeque<(Fixed, bool)>,
    fresh: usize,
    horizon: u32,
    reads_above: u16,
    watched_max: usize,
    samples_max: usize,
    /// Tick of the first decision.
    begun: Option<u32>,
}

fn key_of(hash: u64) -> u32 {
    // what is in the sample has low bits in common
    (hash >> 32) as u32
}

impl Sampler {
    /// Bytes of DRAM that a sample takes, where there are as many as may be: a queue grows by doubling.
    pub const SAMPLE_BYTES: usize = 2 * size_of::<(Fixed, bool)>();

    /// Watches up to `watched_max` keys for `horizon` ticks each, and keeps up to `samples_max` samples; flashy is what is read more
    /// than `reads_above` times in the horizon.
    pub fn new(horizon: u32, reads_above: u32, watched_max: usize, samples_max: usize) -> Sampler {
        Sampler {
            watched: Vec::new(),
            places: FxHashMap::default(),
            next: 0,
            samples: VecDeque::new(),
            fresh: 0,
            horizon,
            reads_above: reads_above.min(u32::from(u16::MAX) - 1) as u16,
            watched_max,
            samples_max,
            begun: None,
        }
    }

    /// Changes the horizon for the watches that end from now on.
    pub fn set_horizon(&mut self, ticks: u32) {
        self.horizon = ticks;
    }

    /// A decision is being taken on a key of the sample.
    pub fn decided(&mut self, hash: u64, observation: &Observation, tick: u32) {
        for _ in 0..LOOKS.min(self.watched.len()) {
            self.look_at_next(tick);
        }
        self.begun.get_or_insert(tick);
        if self.watched.len() >= self.watched_max || self.places.contains_key(&key_of(hash)) {
            return;
        }
        let features = observation.features().map(|feature| (feature * FIXED_POINT) as u16);
        self.places.insert(key_of(hash), self.watched.len() as u32);
        self.watched.push(Watched { key: key_of(hash), since: tick, features, reads: 0, missed: false });
    }

    fn look_at_next(&mut self, tick: u32) {
        self.next = if self.next < self.watched.len() { self.next } else { 0 };
        match self.watched.get(self.next) {
            Some(watched) if self.is_over(watched, tick) => self.finish(self.next),
            _ => self.next += 1,
        }
    }

    fn is_over(&self, watched: &Watched, tick: u32) -> bool {
        tick.wrapping_sub(watched.since) >= self.horizon
    }

    /// The watch of a key, if it is not over.
    fn find(&mut self, hash: u64, tick: u32) -> Option<usize> {
        let at = *self.places.get(&key_of(hash))? as usize;
        if self.is_over(&self.watched[at], tick) {
            self.finish(at);
            return None;
        }
        Some(at)
    }

    /// A key of the sample was read.
    pub fn read(&mut self, hash: u64, hit: bool, tick: u32) {
        let Some(at) = self.find(hash, tick) else { return };
        let watched = &mut self.watched[at];
        watched.reads += 1;
        watched.missed = !hit;
        if watched.reads > self.reads_above {
            self.finish(at);
        }
    }

    /// A key of the sample was stored: the end of the watch, unless it fills a missed read.
    pub fn stored(&mut self, hash: u64, tick: u32) {
        let Some(at) = self.find(hash, tick) else { return };
        if !std::mem::take(&mut self.watched[at].missed) {
            self.finish(at);
        }
    }

    /// A key of the sample was deleted.
    pub fn deleted(&mut self, hash: u64, tick: u32) {
        if let Some(at) = self.find(hash, tick) {
            self.finish(at);
        }
    }

    fn finish(&mut self, at: usize) {
        let watched = self.watched.swap_remove(at);
        self.places.remove(&watched.key);
        if let Some(moved) = self.watched.get(at) {
            self.places.insert(moved.key, at as u32);
        }
        if self.samples.len() >= self.samples_max {
            self.samples.pop_front();
        }
        self.samples.push_back((watched.features, watched.reads > self.reads_above));
        self.fresh += 1;
    }

    /// Ends the watches whose horizon has passed.
    pub fn expire(&mut self, tick: u32) {
        self.next = 0;
        while self.next < self.watched.len() {
            self.look_at_next(tick);
        }
    }

    /// Whether a whole horizon has passed since the first decision: before that, more is known of what is read soon than of what
    /// is not.
    pub fn is_mature(&self, tick: u32) -> bool {
        self.begun.is_some_and(|begun| tick.wrapping_sub(begun) >= self.horizon)
    }

    /// Samples that came since [`Sampler::take`] was called last.
    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// The samples that are kept.
    pub fn take(&mut self) -> Vec<(Features, bool)> {
        self.fresh = 0;
        self.latest(self.samples.len())
    }

    /// The last `count` of the samples that are kept.
    pub fn latest(&self, count: usize) -> Vec<(Features, bool)> {
        let float = |features: &Fixed| features.map(|feature| f32::from(feature) / FIXED_POINT);
        let skipped = self.samples.len().saturating_sub(count);
        self.samples.iter().skip(skipped).map(|(features, flashy)| (float(features), *flashy)).collect()
    }

    /// Number of samples that are kept.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Most bytes of DRAM that a sampler takes.
    pub fn bytes_max(watched_max: usize, samples_max: usize) -> usize {
        samples_max * Sampler::SAMPLE_BYTES + watched_max * WATCHED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(sampler: &mut Sampler) -> Vec<bool> {
        sampler.take().into_iter().map(|sample| sample.1).collect()
    }

    #[test]
    fn labels_count_reads_until_update_delete_or_horizon() {
        let mut sampler = Sampler::new(100, 1, 4096, 1000);
        let hash = |key: u64| key << 32;
        (1..=6).for_each(|key| sampler.decided(hash(key), &Observation::default(), 0));
        sampler.read(hash(1), true, 5);
        sampler.read(hash(2), true, 5); // one read is not more than one
        sampler.stored(hash(3), 5); // updated before it was read
        assert_eq!(labels(&mut sampler), [false], "3 has ended");
        sampler.read(hash(1), true, 9); // two reads: nothing can change that
        sampler.read(hash(5), false, 9); // a miss, its fill, and another read: two reads, no update
        sampler.stored(hash(5), 9);
        sampler.read(hash(5), true, 9);
        sampler.read(hash(4), true, 50);
        sampler.deleted(hash(4), 60); // read once before it was deleted
        sampler.expire(99);
        assert!(!sampler.is_mature(99));
        assert_eq!(labels(&mut sampler), [false, true, true, false]);
        sampler.read(hash(6), true, 100); // too late
        sampler.expire(100);
        assert!(sampler.is_mature(100) && sampler.watched.is_empty() && sampler.places.is_empty());
        assert_eq!(labels(&mut sampler), [false, true, true, false, false, false]);
    }

    #[test]
    fn the_sample_is_bounded() {
        let mut sampler = Sampler::new(1_000_000, 0, 4096, 1000);
        for key in 0..50_000u64 {
            sampler.decided(key << 32, &Observation::default(), 0);
            if key % 2 == 0 {
                sampler.stored(key << 32, 0);
            }
        }
        assert!(sampler.watched.len() <= 4096 && sampler.len() <= 1000);
        assert!(sampler.watched.capacity() <= 2 * 4096 && sampler.places.len() == sampler.watched.len());
    }
}
