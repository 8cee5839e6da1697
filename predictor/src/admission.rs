//! The gate to flash.

use std::str::FromStr;

use crate::features::Observation;
use crate::model::Model;

/// Which rule decides.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Admission {
    /// The tenant's own model; until it has one, [`seen_twice`].
    #[default]
    Svm,
    /// Everything that leaves DRAM.
    All,
    /// Nothing.
    Nothing,
    /// This share of what leaves DRAM, by a throw of dice.
    Random(f32),
    /// What was asked for a second time: read since it was stored, or back after it was lost.
    SecondHit,
    /// As S3-FIFO's small queue (Yang et al., SOSP 2023), DRAM in its place: read more than once since it was stored, or back after it
    /// was lost.
    SmallFifo,
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
            ("second-hit", "") => Ok(Admission::SecondHit),
            ("small-fifo", "") => Ok(Admission::SmallFifo),
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
    /// The tenant's model, if it has one.
    pub model: Option<&'c Model>,
    /// Score that a model's verdict must exceed.
    pub threshold: f32,
    /// Uniform bits.
    pub dice: u64,
    /// What the future says, where it is known.
    pub future: Option<bool>,
}

impl Admission {
    /// Its name, as it is asked for.
    pub fn name(self) -> String {
        let name = match self {
            Admission::Svm => "svm",
            Admission::All => "all",
            Admission::Nothing => "none",
            Admission::Random(share) => return format!("random:{share}"),
            Admission::SecondHit => "second-hit",
            Admission::SmallFifo => "small-fifo",
            Admission::Oracle => "oracle",
        };
        name.to_owned()
    }

    /// Whether an object that leaves DRAM goes to flash.
    pub fn admits(self, candidate: &Candidate<'_>) -> bool {
        let seen = candidate.observation;
        match (self, candidate.model) {
            (Admission::All, _) => true,
            (Admission::Nothing, _) => false,
            (Admission::Random(share), _) => ((candidate.dice >> 40) as f32 / (1u32 << 24) as f32) < share,
            (Admission::SecondHit, _) | (Admission::Svm, None) => seen_twice(seen),
            (Admission::SmallFifo, _) => seen.reads > 1 || seen.history > 0,
            (Admission::Oracle, _) => candidate.future.unwrap_or(false),
            (Admission::Svm, Some(model)) => model.score(&seen.features()) > candidate.threshold,
        }
    }
}

/// An object that was read since it was stored, or that came back after it was lost.
pub fn seen_twice(observation: &Observation) -> bool {
    observation.reads > 0 || observation.history > 0
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
            let candidate = Candidate { observation: &observation, model: None, threshold: 0.0, dice: 7, future };
            rule.parse::<Admission>().unwrap().admits(&candidate)
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
    fn random_admits_its_share() {
        let observation = Observation::default();
        let admitted = (0..100_000u64).filter(|n| {
            let dice = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0x2545_f491_4f6c_dd1d);
            let candidate = Candidate { observation: &observation, model: None, threshold: 0.0, dice, future: None };
            Admission::Random(0.3).admits(&candidate)
        });
        assert!((29_000..31_000).contains(&admitted.count()));
    }
}
