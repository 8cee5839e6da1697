//! Training off the path: a linear support vector machine by linfa-svm.
//!
//! Features are scaled to zero mean and unit deviation before, classes weighted by their rarity. The machine's decision
//! function is read back by probing it at the origin and at the unit vectors, and unscaled, so that scoring needs neither
//! linfa nor the scale.

use linfa::prelude::*;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};

use crate::features::{FEATURES, Features};
use crate::model::Model;

/// Most samples that one training takes. The solver holds a kernel matrix of their square: 8 MB at a thousand.
pub const SAMPLES_MAX: usize = 1_000;
/// Fewest samples of either class that make a model.
pub const CLASS_MIN: usize = 20;

/// Why there is no model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoModel {
    /// One class has too few samples.
    OneSided,
    /// The solver gave up.
    Unsolved,
}

/// Trains on samples of (features, flashy?).
pub fn train(samples: &[(Features, bool)]) -> Result<Model, NoModel> {
    let samples = &samples[samples.len().saturating_sub(SAMPLES_MAX)..];
    let flashy = samples.iter().filter(|sample| sample.1).count();
    let other = samples.len() - flashy;
    if flashy.min(other) < CLASS_MIN {
        return Err(NoModel::OneSided);
    }
    let scale = Scale::of(samples);
    let rows = samples.iter().flat_map(|(features, _)| scale.apply(features)).collect();
    let records = Array2::from_shape_vec((samples.len(), FEATURES), rows).expect("one row a sample");
    let targets = Array1::from_iter(samples.iter().map(|sample| sample.1));
    let total = samples.len() as f64;
    let machine = Svm::<f64, bool>::params()
        .pos_neg_weights(total / (2.0 * flashy as f64), total / (2.0 * other as f64))
        .linear_kernel()
        .eps(1e-2)
        .fit(&Dataset::new(records, targets))
        .map_err(|_| NoModel::Unsolved)?;
    let decide = |point: [f64; FEATURES]| machine.weighted_sum(&Array1::from_vec(point.to_vec())) - machine.rho;
    let model = scale.unscaled(decide, samples.len());
    Ok(Model { accuracy: accuracy(&model, samples), ..model })
}

/// Share of the samples that the model puts on the right side.
pub fn accuracy(model: &Model, samples: &[(Features, bool)]) -> f32 {
    let right = samples.iter().filter(|(features, flashy)| (model.score(features) > 0.0) == *flashy).count();
    right as f32 / samples.len().max(1) as f32
}

/// A feature that hardly varies hardly matters.
const DEVIATION_MIN: f64 = 0.01;

struct Scale {
    mean: [f64; FEATURES],
    deviation: [f64; FEATURES],
}

impl Scale {
    fn of(samples: &[(Features, bool)]) -> Scale {
        let count = samples.len() as f64;
        let mean_of = |of: &dyn Fn(&Features) -> f64| samples.iter().map(|sample| of(&sample.0)).sum::<f64>() / count;
        let mean = std::array::from_fn(|n| mean_of(&|features| f64::from(features[n])));
        let deviation = std::array::from_fn(|n| {
            let variance = mean_of(&|features| (f64::from(features[n]) - mean[n]).powi(2));
            // a feature that never varies says nothing; it must not blow up when it first does
            if variance < 1e-9 { f64::INFINITY } else { variance.sqrt().max(DEVIATION_MIN) }
        });
        Scale { mean, deviation }
    }

    fn apply(&self, features: &Features) -> [f64; FEATURES] {
        std::array::from_fn(|n| (f64::from(features[n]) - self.mean[n]) / self.deviation[n])
    }

    fn unscaled(&self, decide: impl Fn([f64; FEATURES]) -> f64, samples: usize) -> Model {
        let origin = decide([0.0; FEATURES]);
        let weights: [f64; FEATURES] = std::array::from_fn(|n| {
            let mut unit = [0.0; FEATURES];
            unit[n] = 1.0;
            (decide(unit) - origin) / self.deviation[n]
        });
        let shift: f64 = weights.iter().zip(self.mean).map(|(weight, mean)| weight * mean).sum();
        Model {
            weights: weights.map(|weight| weight as f32),
            bias: (origin - shift) as f32,
            samples: samples as u32,
            accuracy: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Observation;

    #[test]
    fn a_separable_law_is_learned() {
        let sample = |n: u32| {
            let observation = Observation {
                reads: n % 7,
                idle: n % 50,
                age: 50 + n % 91,
                bytes: 100 + n % 13 * 50,
                ..Observation::default()
            };
            (observation.features(), n % 7 >= 3)
        };
        let samples: Vec<_> = (0..1500).map(sample).collect();
        let model = train(&samples).unwrap();
        assert!(model.accuracy > 0.97, "{model:?}");
        let fresh: Vec<_> = (5000..5700).map(sample).collect();
        assert!(accuracy(&model, &fresh) > 0.97);
    }

    #[test]
    fn one_class_alone_makes_no_model() {
        let samples = vec![(Observation::default().features(), false); 500];
        assert_eq!(train(&samples), Err(NoModel::OneSided));
    }
}
