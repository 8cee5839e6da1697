//! What is known of an object when it is to leave DRAM, as numbers of like size.
//!
//! All counts and times enter as logarithms: the difference between one read and two matters, that between 100 and 101 does
//! not. Times are ticks of the access clock, so a replay at any speed sees the same features.

/// Number of features.
pub const FEATURES: usize = 8;

/// What the features are, in their order: logarithms of one more than these.
pub const FEATURE_NAMES: [&str; FEATURES] =
    ["reads", "updates", "age", "idle", "bytes", "history", "age_per_read", "ttl_left"];

/// An object as the cleaner sees it at the moment of decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// Reads since it was stored.
    pub reads: u32,
    /// Updates that it replaced, up to 15.
    pub updates: u32,
    /// Ticks since it arrived.
    pub age: u32,
    /// Ticks since it was last accessed.
    pub idle: u32,
    /// Bytes of key and value.
    pub bytes: u32,
    /// What is remembered from before this stay in DRAM, 0 (nothing) to 7.
    pub history: u32,
    /// Seconds until it expires; None if it never does.
    pub ttl_left: Option<u32>,
}

/// A vector for the classifier.
pub type Features = [f32; FEATURES];

impl Observation {
    /// The features of this observation.
    pub fn features(&self) -> Features {
        let log = |n: u32| (n as f32).ln_1p();
        [
            log(self.reads),
            log(self.updates),
            log(self.age),
            log(self.idle),
            log(self.bytes),
            log(self.history),
            log(self.age / (self.reads + 1)),
            log(self.ttl_left.unwrap_or(u32::MAX / 2)),
        ]
    }

    /// Reads and history of an observation that has these features.
    pub fn counts_of(features: &Features) -> (u32, u32) {
        let count = |feature: f32| feature.exp_m1().round() as u32;
        (count(features[0]), count(features[5]))
    }
}
