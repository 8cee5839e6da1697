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
    /// Accesses before this stay in DRAM, as far as they are remembered, and faded.
    pub history: u32,
    /// Seconds until it expires; None if it never does.
    pub ttl_left: Option<u32>,
}

/// A vector for the classifier.
pub type Features = [f32; FEATURES];

impl Observation {
    /// The features of this observation.
    pub fn features(&self) -> Features {
        let log = log_of_one_more;
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

/// ln(1 + n), to a part in 100,000: the exponent of the float, and a polynomial of its mantissa (ln(1 + t) / t, interpolated at Chebyshev's
/// points of 0 to 1). A call of the library's takes five times as long, and there are seven in an object.
fn log_of_one_more(n: u32) -> f32 {
    const TERMS: [f32; 6] = [0.999_990_6, -0.499_314_65, 0.324_849_58, -0.209_079_54, 0.100_139_73, -0.023_443_656];
    let bits = (n as f32 + 1.0).to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let part = f32::from_bits(bits & 0x007f_ffff | 1.0f32.to_bits()) - 1.0;
    let log = TERMS.iter().rev().fold(0.0, |sum, term| sum * part + term) * part;
    exponent as f32 * std::f32::consts::LN_2 + log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_and_rise() {
        let mut before = -1.0;
        for n in
            (0..5_000).chain((13..32).flat_map(|bits| [(1u32 << bits) - 1, 1 << bits, (1 << bits) + (1 << (bits - 2))]))
        {
            let (own, exact) = (log_of_one_more(n), f64::from(n).ln_1p() as f32);
            assert!((own - exact).abs() < 2e-5 && own >= before, "{n}: {own}, {exact}");
            before = own;
        }
        assert_eq!(log_of_one_more(0), 0.0);
    }

    #[test]
    fn counts_come_back_from_features() {
        for reads in [0, 1, 2, 3, 7, 100] {
            let seen = Observation { reads, history: reads % 8, ..Observation::default() };
            assert_eq!(Observation::counts_of(&seen.features()), (reads, reads % 8));
        }
    }
}
