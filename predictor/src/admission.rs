//! The gate to flash.

use std::str::FromStr;

use crate::features::{Features, Observation};
use crate::model::Model;

/// A rule that looks at an object and needs no training.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plain {
    /// What was asked for a second time: read since it was stored, or back after it was lost.
    #[default]
    SecondHit,
    /// As S3-FIFO's small queue (Yang et al., SOSP 2023), DRAM in its place: read more than once since it was stored, or back after it
    /// was lost.
    SmallFifo,
}

impl Plain {
    /// All of them.
    pub const ALL: [Plain; 2] = [Plain::SecondHit, Plain::SmallFifo];

    /// Its name, as it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Plain::SecondHit => "second-hit",
            Plain::SmallFifo => "small-fifo",
        }
    }

    /// Whether it admits what was seen so.
    pub fn admits(self, seen: &Observation) -> bool {
        self.admits_counts(seen.reads, seen.history)
    }

    /// Whether it admits what has these features.
    pub fn admits_features(self, features: &Features) -> bool {
        let (reads, history) = Observation::counts_of(features);
        self.admits_counts(reads, history)
    }

    fn admits_counts(self, reads: u32, history: u32) -> bool {
        history > 0
            || match self {
                Plain::SecondHit => reads > 0,
                Plain::SmallFifo => reads > 1,
            }
    }
}

/// Who decides where no model does: a plain rule, and how probable a read is of what it refuses and of what it admits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Deputy {
    /// The rule.
    pub filter: Plain,
    /// Of what it refuses.
    pub refused: f32,
    /// Of what it admits.
    pub admitted: f32,
}

impl Default for Deputy {
    /// As long as nothing was measured.
    fn default() -> Deputy {
        Deputy { filter: Plain::default(), refused: REFUSED_PROBABILITY, admitted: PLAIN_PROBABILITY }
    }
}

/// Which rule decides.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Admission {
    /// The tenant's own model; one of all tenants, or a plain rule, where it has none that is any good.
    #[default]
    Svm,
    /// Everything that leaves DRAM.
    All,
    /// Nothing.
    Nothing,
    /// This share of what leaves DRAM, by a throw of dice.
    Random(f32),
    /// A rule that needs no training.
    Plain(Plain),
    /// What the future says, where the caller knows it: in simulation only.
    Oracle,
}

impl FromStr for Admission {
    type Err = String;

    fn from_str(text: &str) -> Result<Admission, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("svm", "") => Ok(Admission::Svm),
            ("all", "") => Ok(Admission::All),
            ("none", "") => Ok(Admission::Nothing),
            ("second-hit", "") => Ok(Admission::Plain(Plain::SecondHit)),
            ("small-fifo", "") => Ok(Admission::Plain(Plain::SmallFifo)),
            ("oracle", "") => Ok(Admission::Oracle),
            ("random", share) => {
                let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                share.map(Admission::Random).ok_or_else(|| format!("'{text}': write random:P, P from 0 to 1"))
            }
            _ => Err(format!(
                "'{text}' is no admission rule: take svm, all, none, random:P, second-hit, small-fifo or (in simulate) oracle"
            )),
        }
    }
}

/// What a rule may look at.
#[derive(Clone, Copy)]
pub struct Candidate<'c> {
    /// What DRAM saw of the object.
    pub observation: &'c Observation,
    /// The same as a model sees it.
    pub features: &'c Features,
    /// The model, if there is one that is to decide.
    pub model: Option<&'c Model>,
    /// What decides where none does.
    pub deputy: Deputy,
    /// Score that a model's verdict must exceed.
    pub threshold: f32,
    /// Uniform bits.
    pub dice: u64,
    /// What the future says, where it is known.
    pub future: Option<bool>,
}

impl<'c> Candidate<'c> {
    /// One of whom nothing else is known or asked.
    pub fn new(
        observation: &'c Observation,
        features: &'c Features,
        model: Option<&'c Model>,
        deputy: Deputy,
    ) -> Candidate<'c> {
        Candidate { observation, features, model, deputy, threshold: 0.0, dice: 0, future: None }
    }

    /// Score, and probability of a read, as the model has them or else the deputy.
    fn judged(&self) -> (f32, f32) {
        match self.model {
            Some(model) => model.verdict(self.features),
            None if self.deputy.filter.admits(self.observation) => (ADMITTED, self.deputy.admitted),
            None => (REFUSED, self.deputy.refused),
        }
    }
}

/// Scores that a plain filter's verdicts stand for, where it decides in a model's place: a threshold beyond these decides alone.
const ADMITTED: f32 = 1.0;
const REFUSED: f32 = -1.0;
/// Probability of a read of what a plain rule admits, where a budget has to choose between tenants.
const PLAIN_PROBABILITY: f32 = 0.5;
const REFUSED_PROBABILITY: f32 = 0.1;
/// What is read less often than this is not worth a write, whatever the threshold, and however much may be written.
pub const WORTH_WRITING: f32 = 0.01;

impl Admission {
    /// Its name, as it is asked for.
    pub fn name(self) -> String {
        let name = match self {
            Admission::Svm => "svm",
            Admission::All => "all",
            Admission::Nothing => "none",
            Admission::Random(share) => return format!("random:{share}"),
            Admission::Plain(plain) => plain.name(),
            Admission::Oracle => "oracle",
        };
        name.to_owned()
    }

    /// Whether an object that leaves DRAM goes to flash, where no budget says how much may: the probability that it is read there, or None if it
    /// does not go.
    pub fn admits(self, candidate: &Candidate<'_>) -> Option<f32> {
        let seen = candidate.observation;
        let admitted = match self {
            Admission::Svm => {
                let (score, probability) = candidate.judged();
                return (score > candidate.threshold && probability >= WORTH_WRITING).then_some(probability);
            }
            Admission::All => true,
            Admission::Nothing => false,
            Admission::Random(share) => thrown(candidate.dice) < share,
            Admission::Plain(plain) => plain.admits(seen),
            Admission::Oracle => candidate.future.unwrap_or(false),
        };
        admitted.then_some(PLAIN_PROBABILITY)
    }
}

/// Uniform bits as a number from 0 to 1.
pub fn thrown(dice: u64) -> f32 {
    (dice >> 40) as f32 / (1u32 << 24) as f32
}

/// How much an object deserves a place on flash, for a [`Budget`](crate::Budget) to choose by: the logarithm of the reads to be expected for each
/// byte, if this is how probable one is. The model does not tell how many there will be; past accesses do, by their root (docs/predictor.md has what
/// else was tried).
pub fn merit(probability: f32, seen: &Observation) -> f32 {
    let accesses = 1.0 + seen.reads as f32 + seen.history as f32;
    (probability * accesses.sqrt() / seen.bytes.max(1) as f32).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rules_are_one_to_one() {
        for name in ["svm", "all", "none", "random:0.25", "second-hit", "small-fifo", "oracle"] {
            assert_eq!(name.parse::<Admission>().unwrap().name(), name);
        }
        for bad in ["", "best", "random", "random:2", "random:x", "svm:1"] {
            bad.parse::<Admission>().unwrap_err();
        }
    }

    #[test]
    fn each_rule_looks_at_its_own() {
        let admits = |rule: &str, reads: u32, history: u32, future: Option<bool>| {
            let observation = Observation { reads, history, ..Observation::default() };
            let features = observation.features();
            let candidate =
                Candidate { dice: 7, future, ..Candidate::new(&observation, &features, None, Deputy::default()) };
            rule.parse::<Admission>().unwrap().admits(&candidate).is_some()
        };
        assert!(admits("all", 0, 0, None) && !admits("none", 9, 7, Some(true)));
        assert!(
            !admits("second-hit", 0, 0, None) && admits("second-hit", 1, 0, None) && admits("second-hit", 0, 1, None)
        );
        assert!(
            !admits("small-fifo", 1, 0, None) && admits("small-fifo", 2, 0, None) && admits("small-fifo", 0, 1, None)
        );
        assert!(
            admits("oracle", 0, 0, Some(true)) && !admits("oracle", 9, 7, Some(false)) && !admits("oracle", 9, 7, None)
        );
        assert!(admits("random:1", 0, 0, None) && !admits("random:0", 9, 7, None));
    }

    #[test]
    fn a_threshold_decides_over_a_deputy_too() {
        let admits = |reads: u32, threshold: f32| {
            let observation = Observation { reads, ..Observation::default() };
            let features = observation.features();
            let candidate = Candidate { threshold, ..Candidate::new(&observation, &features, None, Deputy::default()) };
            Admission::Svm.admits(&candidate).is_some()
        };
        assert!(admits(1, 0.0) && !admits(0, 0.0));
        assert!(admits(0, -9.0) && !admits(5, 9.0));
    }

    #[test]
    fn what_promises_more_for_each_byte_has_more_merit() {
        let merit_of = |reads: u32, bytes: u32, model: Option<&Model>| {
            let observation = Observation { reads, bytes, ..Observation::default() };
            let features = observation.features();
            let candidate =
                Candidate { threshold: -9.0, ..Candidate::new(&observation, &features, model, Deputy::default()) };
            merit(Admission::Svm.admits(&candidate).unwrap(), &observation)
        };
        let model = Model::linear([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], -2.0);
        assert!(merit_of(3, 100, Some(&model)) > merit_of(1, 100, Some(&model)));
        assert!(merit_of(1, 100, Some(&model)) > merit_of(1, 1000, Some(&model)));
        assert!(merit_of(1, 100, None) > merit_of(0, 100, None));
    }

    #[test]
    fn what_is_hardly_ever_read_is_not_written_whatever_the_threshold() {
        let observation = Observation { reads: 3, ..Observation::default() };
        let features = observation.features();
        let admits = |model: Option<&Model>, deputy: Deputy, threshold: f32| {
            let candidate = Candidate { threshold, ..Candidate::new(&observation, &features, model, deputy) };
            Admission::Svm.admits(&candidate).is_some()
        };
        let (rare, common) = (0.9 * WORTH_WRITING, 1.1 * WORTH_WRITING);
        for threshold in [f32::NEG_INFINITY, 0.0] {
            assert!(!admits(None, Deputy { admitted: rare, ..Deputy::default() }, threshold));
            assert!(admits(None, Deputy { admitted: common, ..Deputy::default() }, threshold));
        }
        let hopeless = Model::linear([0.0; crate::FEATURES], -9.0);
        assert!(!admits(Some(&hopeless), Deputy::default(), f32::NEG_INFINITY));
        let poor = Model::linear([0.0; crate::FEATURES], -3.0);
        assert!(
            admits(Some(&poor), Deputy::default(), f32::NEG_INFINITY) && !admits(Some(&poor), Deputy::default(), 0.0)
        );
    }

    #[test]
    fn random_admits_its_share() {
        let observation = Observation::default();
        let features = observation.features();
        let admitted = (0..100_000u64).filter(|n| {
            let dice = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0x2545_f491_4f6c_dd1d);
            let candidate = Candidate { dice, ..Candidate::new(&observation, &features, None, Deputy::default()) };
            Admission::Random(0.3).admits(&candidate).is_some()
        });
        assert!((29_000..31_000).contains(&admitted.count()));
    }
}
