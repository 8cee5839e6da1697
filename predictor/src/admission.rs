//! The gate to flash.

use crate::features::Observation;
use crate::model::Model;

/// Which rule decides.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Admission {
    /// The tenant's own model; until it has one, [`default_filter`].
    #[default]
    Svm,
    /// Everything that leaves DRAM.
    All,
    /// Nothing.
    Nothing,
}

impl std::str::FromStr for Admission {
    type Err = String;

    fn from_str(text: &str) -> Result<Admission, String> {
        match text {
            "svm" => Ok(Admission::Svm),
            "all" => Ok(Admission::All),
            "none" => Ok(Admission::Nothing),
            _ => Err(format!("'{text}' is no admission rule: take svm, all or none")),
        }
    }
}

impl Admission {
    /// Its name, as it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Admission::Svm => "svm",
            Admission::All => "all",
            Admission::Nothing => "none",
        }
    }

    /// Whether an object that leaves DRAM goes to flash. `threshold` is the score that a model's verdict must exceed.
    pub fn admits(self, observation: &Observation, model: Option<&Model>, threshold: f32) -> bool {
        match (self, model) {
            (Admission::All, _) => true,
            (Admission::Nothing, _) => false,
            (Admission::Svm, Some(model)) => model.score(&observation.features()) > threshold,
            (Admission::Svm, None) => default_filter(observation),
        }
    }
}

/// The filter before there is a model: an object that was read since it was stored, or that came back after it was lost.
pub fn default_filter(observation: &Observation) -> bool {
    observation.reads > 0 || observation.history > 0
}
