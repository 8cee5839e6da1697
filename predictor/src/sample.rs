//! Seen, watched, became: labels from a hashed sample of keys.
//!
//! When the cleaner decides on an object whose key is in the sample, its features are noted and the key is *watched*, wherever
//! its object goes. A read, a hit in any tier or a miss, counts one. The watch ends with an update, a delete, or the horizon;
//! the label is whether the reads until then were more than the threshold `n`. The store that fills a missed read is no update.
//!
//! Bounded: at most `watched_max` keys are watched and [`crate::train::SAMPLES_MAX`] samples are kept, a tenant.

use std::collections::{HashMap, VecDeque};

use crate::features::{Features, Observation};
use crate::train::SAMPLES_MAX;

#[derive(Clone, Copy)]
struct Watched {
    features: Features,
    since: u32,
    reads: u32,
    missed: bool,
}

/// The watched keys and finished samples of one tenant.
pub struct Sampler {
    watched: HashMap<u64, Watched>,
    /// Keys in the order in which their watch began; some may have ended before.
    order: VecDeque<(u64, u32)>,
    samples: VecDeque<(Features, bool)>,
    fresh: usize,
    horizon: u32,
    reads_above: u32,
    watched_max: usize,
}

impl Sampler {
    /// Watches up to `watched_max` keys for `horizon` ticks each; flashy is what is read more than `reads_above` times in them.
    pub fn new(horizon: u32, reads_above: u32, watched_max: usize) -> Sampler {
        Sampler {
            watched: HashMap::new(),
            order: VecDeque::new(),
            samples: VecDeque::new(),
            fresh: 0,
            horizon,
            reads_above,
            watched_max,
        }
    }

    /// Changes the horizon for the watches that end from now on.
    pub fn set_horizon(&mut self, ticks: u32) {
        self.horizon = ticks;
    }

    /// A decision is being taken on a key of the sample.
    pub fn decided(&mut self, hash: u64, observation: &Observation, tick: u32) {
        self.expire(tick);
        if self.watched.len() >= self.watched_max || self.watched.contains_key(&hash) {
            return;
        }
        let watched = Watched { features: observation.features(), since: tick, reads: 0, missed: false };
        self.watched.insert(hash, watched);
        self.order.push_back((hash, tick));
    }

    /// A key of the sample was read.
    pub fn read(&mut self, hash: u64, hit: bool) {
        if let Some(watched) = self.watched.get_mut(&hash) {
            watched.reads += 1;
            watched.missed = !hit;
        }
    }

    /// A key of the sample was stored.
    pub fn stored(&mut self, hash: u64) {
        match self.watched.get_mut(&hash) {
            Some(watched) if watched.missed => watched.missed = false,
            Some(_) => self.finish(hash),
            None => {}
        }
    }

    /// A key of the sample was deleted.
    pub fn deleted(&mut self, hash: u64) {
        self.finish(hash);
    }

    fn finish(&mut self, hash: u64) {
        let Some(watched) = self.watched.remove(&hash) else { return };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((watched.features, watched.reads > self.reads_above));
        self.fresh += 1;
    }

    /// Ends the watches whose horizon has passed.
    pub fn expire(&mut self, tick: u32) {
        while let Some(&(hash, since)) = self.order.front()
            && (tick.wrapping_sub(since) >= self.horizon || self.order.len() > 2 * self.watched_max)
        {
            self.order.pop_front();
            if self.watched.get(&hash).is_some_and(|watched| watched.since == since) {
                self.finish(hash);
            }
        }
    }

    /// Samples that came since the last call of [`Sampler::take`].
    pub fn fresh(&self) -> usize {
        self.fresh
    }

    /// A copy of the samples to train on.
    pub fn take(&mut self) -> Vec<(Features, bool)> {
        self.fresh = 0;
        self.samples.iter().copied().collect()
    }

    /// Finished samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether no sample is finished yet.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Bytes that a sampler may take at most.
    pub fn bytes_max(watched_max: usize) -> usize {
        SAMPLES_MAX * size_of::<(Features, bool)>()
            + watched_max * (2 * size_of::<(u64, Watched)>() + 2 * size_of::<(u64, u32)>())
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
        let mut sampler = Sampler::new(100, 1, 4096);
        (1..=5).for_each(|hash| sampler.decided(hash, &Observation::default(), 0));
        (0..2).for_each(|_| sampler.read(1, true)); // two reads, then the horizon: flashy
        sampler.read(2, true); // one read is not more than one
        sampler.stored(3); // updated before it was read
        (0..2).for_each(|_| sampler.read(4, true));
        sampler.deleted(4); // read twice before it was deleted
        sampler.read(5, false); // a miss, its fill, and another read: two reads, no update
        sampler.stored(5);
        sampler.read(5, true);
        sampler.expire(99);
        assert_eq!(labels(&mut sampler), [false, true], "3 and 4 have ended");
        sampler.expire(100);
        let mut all = labels(&mut sampler);
        all.sort_unstable();
        assert_eq!(all, [false, false, true, true, true]);
    }

    #[test]
    fn the_sample_is_bounded() {
        let mut sampler = Sampler::new(1_000_000, 0, 4096);
        for hash in 0..50_000 {
            sampler.decided(hash, &Observation::default(), 0);
            if hash % 2 == 0 {
                sampler.stored(hash);
            }
        }
        assert!(sampler.watched.len() <= 4096 && sampler.len() <= SAMPLES_MAX);
        assert!(sampler.order.len() <= 2 * 4096 + 1);
    }
}
