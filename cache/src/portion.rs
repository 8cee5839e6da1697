//! What is kept of a tenant to learn from, by how many share the memory.

use predictor::Sampler;
use tenants::{LiveCurve, Memories};

use crate::CacheSettings;

/// Without flash a tenant's shadow queue is worth one in so many parts of what it would have were all equal, with flash all of that; 10 MiB at most.
const SHADOW_PART_DRAM_ONLY: usize = 4;
/// Part of the memory that watches what becomes of sampled keys: 3 %.
const WATCHED_PART: usize = 32;
/// The same for each hundred tenants, at most; with the samples that are kept, 15 MiB.
const WATCHED_BYTES_MAX: usize = 10 << 20;
/// Part of the memory that follows hit-rate curves: a 64th.
const CURVES_PART: usize = 64;
/// Objects that a tenant's curve follows at most: half a megabyte.
const CURVE_OBJECTS_MAX: usize = 6_000;
/// Curves follow all keys up to this size of memory, half of them with twice the memory, and so on; at least a 64th.
const CURVE_FULL_BITS: u32 = 21;
const CURVE_HALVINGS_MAX: u32 = 6;

/// How much is kept of one tenant. Who comes when there are more has less.
#[derive(Clone, Copy)]
pub(crate) struct Portion {
    pub(crate) memories: Memories,
    /// Keys that its sampler watches at most, and samples that it keeps; none without flash.
    watched_max: usize,
    samples_max: usize,
    has_samples: bool,
}

impl Portion {
    /// What one of so many tenants has.
    pub(crate) fn of(settings: &CacheSettings, tenants: usize) -> Portion {
        let memory = settings.memory_bytes;
        let flash_bytes = settings.flash.map_or(0, |flash| flash.bytes);
        let shadow_part = if flash_bytes == 0 { SHADOW_PART_DRAM_ONLY } else { 1 };
        let part = (memory / WATCHED_PART).min(WATCHED_BYTES_MAX * tenants.div_ceil(100)) / tenants;
        Portion {
            memories: Memories {
                shadow_worth_bytes: (memory / tenants / shadow_part).clamp(64 << 10, 10 << 20) as u64,
                curve_objects: LiveCurve::objects_for(memory / CURVES_PART / tenants).min(CURVE_OBJECTS_MAX),
                curve_halvings: (memory >> CURVE_FULL_BITS).max(1).ilog2().min(CURVE_HALVINGS_MAX),
                curve_reach_bytes: 4 * (memory as u64 + flash_bytes),
            },
            watched_max: (part / predictor::WATCHED_BYTES).clamp(64, 4096),
            samples_max: (part / Sampler::SAMPLE_BYTES / 2).clamp(100, predictor::SAMPLES_MAX),
            has_samples: settings.flash.is_some(),
        }
    }

    /// Bytes of DRAM that it takes at most.
    pub(crate) fn bytes(&self) -> usize {
        let samples = if self.has_samples { Sampler::bytes_max(self.watched_max, self.samples_max) } else { 0 };
        self.memories.bytes() + samples
    }

    pub(crate) fn sampler(&self, horizon: u32, reads_above: u32) -> Sampler {
        Sampler::new(horizon, reads_above, self.watched_max, self.samples_max)
    }
}
