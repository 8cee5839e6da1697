//! The model on the path: a sum over the features and, where that is better, over their products.

use crate::calibrate::Calibration;
use crate::features::{FEATURES, Features};

/// Scaled features are cut off here: beyond what training has seen, a square says anything.
const SCALED_MAX: f32 = 4.0;

/// What features are taken to before they are weighed: mean 0, deviation 1 on the samples of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) mean: [f32; FEATURES],
    /// One over the deviation; 0 for a feature that does not vary, and so says nothing.
    pub(crate) inverse: [f32; FEATURES],
}

impl Scale {
    /// The features in this scale.
    #[inline]
    pub(crate) fn apply(&self, features: &Features) -> Features {
        std::array::from_fn(|n| ((features[n] - self.mean[n]) * self.inverse[n]).clamp(-SCALED_MAX, SCALED_MAX))
    }
}

/// A decision function over features: linear, or with their products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    pub(crate) scale: Scale,
    /// One weight a feature.
    pub(crate) weights: [f32; FEATURES],
    /// One weight a pair of features, in the row of the first; 0 where the second comes before the first.
    pub(crate) products: [[f32; FEATURES]; FEATURES],
    pub(crate) bias: f32,
    /// Whether products count.
    pub(crate) is_quadratic: bool,
    pub(crate) calibration: Calibration,
    /// Samples that it was trained on.
    pub samples: u32,
    /// Share of those samples that it puts on the right side.
    pub accuracy: f32,
}

impl Model {
    /// A linear model over features as they are.
    pub fn linear(weights: Features, bias: f32) -> Model {
        Model {
            scale: Scale { mean: [0.0; FEATURES], inverse: [1.0; FEATURES] },
            weights,
            products: [[0.0; FEATURES]; FEATURES],
            bias,
            is_quadratic: false,
            calibration: Calibration::default(),
            samples: 0,
            accuracy: 0.0,
        }
    }

    /// Whether it weighs products of features.
    pub fn is_quadratic(&self) -> bool {
        self.is_quadratic
    }

    /// Signed distance from the separating surface: above 0 is flashy.
    #[inline]
    pub fn score(&self, features: &Features) -> f32 {
        let scaled = self.scale.apply(features);
        let dot = |weights: &Features| -> f32 { weights.iter().zip(&scaled).map(|(a, b)| a * b).sum() };
        let mut sum = self.bias + dot(&self.weights);
        if self.is_quadratic {
            for (row, feature) in self.products.iter().zip(&scaled) {
                sum += dot(row) * feature;
            }
        }
        sum
    }

    /// Its score, and the probability that an object with these features is flashy.
    #[inline]
    pub fn verdict(&self, features: &Features) -> (f32, f32) {
        let score = self.score(features);
        (score, self.calibration.probability(score))
    }

    /// Scores of samples, with their labels.
    pub(crate) fn scores(&self, samples: &[(Features, bool)]) -> Vec<(f32, bool)> {
        samples.iter().map(|(features, flashy)| (self.score(features), *flashy)).collect()
    }

    /// Probabilities as these samples have them.
    pub(crate) fn calibrated(&self, samples: &[(Features, bool)]) -> Calibration {
        Calibration::fit(&self.scores(samples))
    }

    /// Learns from samples on which it was not trained what its scores are worth.
    pub fn calibrate(&mut self, fresh: &[(Features, bool)], share: f32) {
        self.calibration = self.calibration.toward(&self.calibrated(fresh), share);
    }

    /// A model that is `share` of the way from this one to another of its kind, in the other's scale.
    pub fn toward(&self, other: &Model, share: f32) -> Model {
        let own = self.in_scale(&other.scale);
        let between = |from: f32, to: f32| from + (to - from) * share;
        Model {
            weights: std::array::from_fn(|n| between(own.weights[n], other.weights[n])),
            products: std::array::from_fn(|a| {
                std::array::from_fn(|b| between(own.products[a][b], other.products[a][b]))
            }),
            bias: between(own.bias, other.bias),
            calibration: own.calibration.toward(&other.calibration, share),
            ..*other
        }
    }

    /// The same function, for features in another scale.
    fn in_scale(&self, scale: &Scale) -> Model {
        // a feature in the old scale is shift + ratio times itself in the new one
        let shift: [f64; FEATURES] =
            std::array::from_fn(|n| f64::from(scale.mean[n] - self.scale.mean[n]) * f64::from(self.scale.inverse[n]));
        let ratio: [f64; FEATURES] = std::array::from_fn(|n| match scale.inverse[n] {
            0.0 => 0.0,
            inverse => f64::from(self.scale.inverse[n]) / f64::from(inverse),
        });
        let mut bias = f64::from(self.bias);
        let mut weights = [0.0f64; FEATURES];
        let mut products = [[0.0f32; FEATURES]; FEATURES];
        for a in 0..FEATURES {
            let weight = f64::from(self.weights[a]);
            bias += weight * shift[a];
            weights[a] += weight * ratio[a];
            for b in a..FEATURES {
                let weight = f64::from(self.products[a][b]);
                bias += weight * shift[a] * shift[b];
                weights[a] += weight * ratio[a] * shift[b];
                weights[b] += weight * shift[a] * ratio[b];
                products[a][b] = (weight * ratio[a] * ratio[b]) as f32;
            }
        }
        Model { scale: *scale, weights: weights.map(|weight| weight as f32), products, bias: bias as f32, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quadratic(mean: f32, inverse: f32) -> Model {
        let scale = Scale { mean: std::array::from_fn(|n| mean + n as f32 / 4.0), inverse: [inverse; FEATURES] };
        let weight = |n: usize| (n as f32 * 1.7).sin();
        let products =
            std::array::from_fn(|a| std::array::from_fn(|b| if b < a { 0.0 } else { weight(7 * a + b) / 3.0 }));
        Model { scale, products, is_quadratic: true, ..Model::linear(std::array::from_fn(weight), 0.3) }
    }

    #[test]
    fn a_scale_changes_how_a_function_is_written_and_not_what_it_says() {
        let (old, new) = (quadratic(1.0, 0.5), quadratic(1.3, 0.7));
        let moved = old.in_scale(&new.scale);
        for n in 0..50 {
            let features: Features = std::array::from_fn(|k| 1.0 + ((n * 8 + k) as f32).sin());
            assert!((old.score(&features) - moved.score(&features)).abs() < 1e-4);
            let half = old.toward(&new, 0.5).score(&features);
            assert!((half - (old.score(&features) + new.score(&features)) / 2.0).abs() < 1e-4);
        }
    }
}
