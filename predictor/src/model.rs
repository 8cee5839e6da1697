//! The model on the path: a weighted sum.

use crate::features::{FEATURES, Features};

/// A linear decision function over raw features: scaling is folded into the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// One weight a feature.
    pub weights: [f32; FEATURES],
    /// Added to the weighted sum.
    pub bias: f32,
    /// Samples that it was trained on.
    pub samples: u32,
    /// Share of those samples that it puts on the right side.
    pub accuracy: f32,
}

impl Model {
    /// A model that is `share` of the way from this one to another.
    pub fn toward(&self, other: &Model, share: f32) -> Model {
        let between = |from: f32, to: f32| from + (to - from) * share;
        Model {
            weights: std::array::from_fn(|n| between(self.weights[n], other.weights[n])),
            bias: between(self.bias, other.bias),
            ..*other
        }
    }

    /// Signed distance from the separating plane: above 0 is flashy.
    #[inline]
    pub fn score(&self, features: &Features) -> f32 {
        self.weights.iter().zip(features).fold(self.bias, |sum, (weight, feature)| weight.mul_add(*feature, sum))
    }
}
