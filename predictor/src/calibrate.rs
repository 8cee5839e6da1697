//! From scores to probabilities: a logistic curve through the labels (Platt, "Probabilistic outputs for support vector machines", 1999).
//!
//! Scores of two models cannot be compared; probabilities can.

/// Newton steps of a fit; it has settled long before.
const STEPS: usize = 25;
/// Keeps slopes finite where samples are separable, as so many samples of either class at a score of 0 would.
const RIDGE: f64 = 1.0;

/// The probability of a score: the logistic function of `slope` times it, plus `offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Calibration {
    slope: f32,
    offset: f32,
}

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration { slope: 1.0, offset: 0.0 }
    }
}

impl Calibration {
    /// The curve that makes these labels most probable.
    pub(crate) fn fit(scores: &[(f32, bool)]) -> Calibration {
        // targets as Platt has them: none is certain, the less so the fewer samples there are of its kind
        let flashy = scores.iter().filter(|score| score.1).count() as f64;
        let others = scores.len() as f64 - flashy;
        let (high, low) = ((flashy + 1.0) / (flashy + 2.0), 1.0 / (others + 2.0));
        let (mut slope, mut offset) = (1.0f64, 0.0f64);
        for _ in 0..STEPS {
            // gradient and Hessian of the log likelihood, less the ridge
            let (mut ga, mut gb) = (-RIDGE * (slope - 1.0), 0.0);
            let (mut haa, mut hab, mut hbb) = (RIDGE, 0.0, 1e-6);
            for (score, flashy) in scores {
                let score = f64::from(*score);
                let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
                let (error, weight) = (if *flashy { high } else { low } - p, p * (1.0 - p));
                (ga, gb) = (ga + error * score, gb + error);
                (haa, hab, hbb) = (haa + weight * score * score, hab + weight * score, hbb + weight);
            }
            let determinant = haa * hbb - hab * hab;
            if determinant < 1e-9 {
                break;
            }
            let bounded = |step: f64| step.clamp(-2.0, 2.0);
            slope += bounded((ga * hbb - gb * hab) / determinant);
            offset += bounded((gb * haa - ga * hab) / determinant);
        }
        // a curve that falls says that the model is wrong, which Quality tells; a flat one, that it knows nothing
        Calibration { slope: slope.clamp(0.0, 20.0) as f32, offset: offset.clamp(-20.0, 20.0) as f32 }
    }

    pub(crate) fn probability(&self, score: f32) -> f32 {
        1.0 / (1.0 + (-(self.slope * score + self.offset)).exp())
    }

    pub(crate) fn toward(&self, other: &Calibration, share: f32) -> Calibration {
        let between = |from: f32, to: f32| from + (to - from) * share;
        Calibration { slope: between(self.slope, other.slope), offset: between(self.offset, other.offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_goes_through_the_labels() {
        // scores of -2 to 2; flashy with a probability that is logistic in twice the score, less one
        let truth = |score: f32| 1.0 / (1.0 + (-(2.0 * score - 1.0)).exp());
        let samples = (0..4000u32).map(|n| {
            let score = (n % 41) as f32 / 10.0 - 2.0;
            let dice = (n.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
            (score, dice < truth(score))
        });
        let fitted = Calibration::fit(&samples.collect::<Vec<_>>());
        for score in [-1.5, -0.5, 0.0, 0.7, 1.9] {
            assert!((fitted.probability(score) - truth(score)).abs() < 0.04, "{score}: {fitted:?}");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let separable: Vec<_> = (0..100).map(|n| (if n < 50 { -1.0 } else { 1.0 }, n >= 50)).collect();
        assert!(Calibration::fit(&separable).probability(1.0) > 0.9);
        let contrary: Vec<_> = (0..100).map(|n| (if n < 50 { -1.0 } else { 1.0 }, n < 50)).collect();
        assert!((Calibration::fit(&contrary).probability(1.0) - 0.5).abs() < 0.1);
        let rare: Vec<_> = (0..1000).map(|n| (0.0, n == 0)).collect();
        assert!(Calibration::fit(&rare).probability(0.0) < 0.01);
        let none: Vec<_> = (0..300).map(|n| (n as f32 / 150.0 - 1.0, false)).collect();
        let hopeless = Calibration::fit(&none).probability(0.0);
        assert!((0.002..0.01).contains(&hopeless), "rare, but not impossible: {hopeless}");
    }
}
