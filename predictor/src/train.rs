//! Training off the path: support vector machines by linfa-svm, one over the features and one over them and their products.
//!
//! Features are scaled to zero mean and unit deviation before, classes weighted by their rarity. The machine's decision
//! function is read back by probing it at the origin and at the unit vectors, so that scoring needs no linfa.

use linfa::prelude::*;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};

use crate::features::{FEATURES, Features};
use crate::model::{Model, Scale};

/// Most samples that are worth keeping for a training. Its time goes with their square, and many small models averaged are as good as a few large ones
/// (docs/predictor.md).
pub const SAMPLES_MAX: usize = 300;
/// Fewest samples of either class that make a model.
pub const CLASS_MIN: usize = 20;

/// What a sample on the wrong side costs: products could fit anything, so they are held back more.
const COST_LINEAR: f64 = 1.0;
const COST_QUADRATIC: f64 = 0.1;

/// Products of two features, squares among them.
const PRODUCTS: usize = FEATURES * (FEATURES + 1) / 2;

/// Why there is no model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoModel {
    /// One class has too few samples.
    OneSided,
    /// The solver gave up.
    Unsolved,
}

/// Which function is fitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kernel {
    /// A plane through the features.
    #[default]
    Linear,
    /// A surface of the second degree: as good as RBF and a hundredth of its cost (docs/predictor.md).
    Quadratic,
}

/// Trains on samples of (features, flashy?). Takes time and memory by the square of their number: a thousand, 0.1 s and 8 MB.
pub fn train(samples: &[(Features, bool)], kernel: Kernel) -> Result<Model, NoModel> {
    let flashy = samples.iter().filter(|sample| sample.1).count();
    let other = samples.len() - flashy;
    if flashy.min(other) < CLASS_MIN {
        return Err(NoModel::OneSided);
    }
    let scale = Scale::of(samples);
    let (terms, cost) = match kernel {
        Kernel::Linear => (FEATURES, COST_LINEAR),
        Kernel::Quadratic => (FEATURES + PRODUCTS, COST_QUADRATIC),
    };
    let rows = samples.iter().flat_map(|(features, _)| terms_of(scale.apply(features)).take(terms)).collect();
    let records = Array2::from_shape_vec((samples.len(), terms), rows).expect("one row a sample");
    let targets = Array1::from_iter(samples.iter().map(|sample| sample.1));
    let total = samples.len() as f64;
    let machine = Svm::<f64, bool>::params()
        .pos_neg_weights(cost * total / (2.0 * flashy as f64), cost * total / (2.0 * other as f64))
        .linear_kernel()
        .eps(1e-2)
        .fit(&Dataset::new(records, targets))
        .map_err(|_| NoModel::Unsolved)?;
    let decide = |one: Option<usize>| {
        let point = (0..terms).map(|n| f64::from(u8::from(one == Some(n)))).collect();
        machine.weighted_sum(&Array1::from_vec(point)) - machine.rho
    };
    let bias = decide(None);
    let mut weights = (0..terms).map(|n| (decide(Some(n)) - bias) as f32);
    let mut model = Model::linear(std::array::from_fn(|_| weights.next().expect("a term a feature")), bias as f32);
    (model.scale, model.is_quadratic, model.samples) = (scale, kernel == Kernel::Quadratic, samples.len() as u32);
    for ((a, b), weight) in pairs().zip(weights) {
        model.products[a][b] = weight;
    }
    model.accuracy = accuracy(&model, samples);
    model.calibration = model.calibrated(samples);
    Ok(model)
}

/// Pairs of features, the first not behind the second.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..FEATURES).flat_map(|a| (a..FEATURES).map(move |b| (a, b)))
}

/// What a machine is trained on: features, and then their products.
fn terms_of(scaled: Features) -> impl Iterator<Item = f64> {
    let scaled = scaled.map(f64::from);
    scaled.into_iter().chain(pairs().map(move |(a, b)| scaled[a] * scaled[b]))
}

/// Share of the samples that the model puts on the right side.
pub fn accuracy(model: &Model, samples: &[(Features, bool)]) -> f32 {
    let right = samples.iter().filter(|(features, flashy)| (model.score(features) > 0.0) == *flashy).count();
    right as f32 / samples.len().max(1) as f32
}

/// A feature that hardly varies hardly matters.
const DEVIATION_MIN: f64 = 0.01;

impl Scale {
    fn of(samples: &[(Features, bool)]) -> Scale {
        let count = samples.len() as f64;
        let mean_of = |of: &dyn Fn(&Features) -> f64| samples.iter().map(|sample| of(&sample.0)).sum::<f64>() / count;
        let mean: [f64; FEATURES] = std::array::from_fn(|n| mean_of(&|features| f64::from(features[n])));
        let inverse = std::array::from_fn(|n| {
            let variance = mean_of(&|features| (f64::from(features[n]) - mean[n]).powi(2));
            // a feature that never varies says nothing; it must not blow up when it first does
            if variance < 1e-9 { 0.0 } else { (1.0 / variance.sqrt().max(DEVIATION_MIN)) as f32 }
        });
        Scale { mean: mean.map(|mean| mean as f32), inverse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Observation;

    fn sample(n: u32) -> Observation {
        Observation { reads: n % 7, idle: n % 50, age: 50 + n % 91, bytes: 100 + n % 13 * 50, ..Observation::default() }
    }

    fn learned(kernel: Kernel, law: impl Fn(&Observation) -> bool) -> f32 {
        let labelled = |n: u32| (sample(n).features(), law(&sample(n)));
        let samples: Vec<_> = (0..1500).map(labelled).collect();
        let model = train(&samples, kernel).unwrap();
        let fresh: Vec<_> = (5000..5700).map(labelled).collect();
        assert_eq!(model.is_quadratic(), kernel == Kernel::Quadratic);
        accuracy(&model, &fresh).min(model.accuracy)
    }

    #[test]
    fn a_separable_law_is_learned() {
        assert!(learned(Kernel::Linear, |seen| seen.reads >= 3) > 0.97);
        assert!(learned(Kernel::Quadratic, |seen| seen.reads >= 3) > 0.97);
    }

    #[test]
    fn a_law_that_no_plane_separates_is_learned_with_products() {
        let between = |seen: &Observation| (2..=4).contains(&seen.reads);
        assert!(learned(Kernel::Linear, between) < 0.8);
        assert!(learned(Kernel::Quadratic, between) > 0.95);
    }

    #[test]
    fn one_class_alone_makes_no_model() {
        let samples = vec![(Observation::default().features(), false); 500];
        assert_eq!(train(&samples, Kernel::Linear), Err(NoModel::OneSided));
    }
}
