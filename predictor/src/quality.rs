//! Is the model any good? Its verdicts on samples that it was not trained on, beside those of the plain filters.
//!
//! A verdict is measured by Youden's index: the share of the flashy that are admitted, less the share of the others that are (0 for dice,
//! for everything and for nothing, 1 for an oracle). It does not depend on how many are flashy, and it is what training with
//! balanced classes looks for. Which of a tenant's two models decides is a matter of ranking, at any threshold: whose area under the ROC curve is
//! larger, that is, how often a flashy sample has a larger score than another.

use crate::admission::{Deputy, Plain};
use crate::features::Features;
use crate::model::Model;
use crate::train::Kernel;

/// Fresh samples, and of either class, below which nothing is concluded.
const SAMPLES_MIN: f32 = 200.0;
const CLASS_MIN: f32 = 20.0;
/// Samples below which nothing is told of how often what a filter admits is flashy.
const COUNTED_MIN: f32 = 100.0;
/// What is expected of a filter's verdicts counts as much as so many samples: that what it refuses is as good as all, and what it admits as much better
/// as it is usually.
const EXPECTED_COUNT: f32 = 10.0;
/// How much worse than a filter a model must be to be set aside, a twentieth being what chance does; half of that is near enough to come back.
const WORSE_BY: f32 = 0.05;
/// What the samples of before count when new ones come.
const KEPT: f32 = 0.75;
/// Bounds between the bands of scores whose share of flashy samples is told.
const BANDS_BOUNDS: [f32; 3] = [-1.0, 0.0, 1.0];
/// Bands of scores: below -1, to 0, to 1, above.
pub const BANDS: usize = BANDS_BOUNDS.len() + 1;

/// Verdicts counted: flashy and admitted, flashy and refused, and so on. They fade, so they are no whole numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Verdicts {
    admitted: f32,
    admitted_flashy: f32,
}

/// How good a model is, on samples that came after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    samples: f32,
    flashy: f32,
    model: Verdicts,
    filters: [Verdicts; Plain::ALL.len()],
    /// Samples, and flashy ones, by band of score.
    bands: [(f32, f32); BANDS],
    /// Areas under the ROC curve: linear, quadratic.
    areas: [Area; 2],
    kernel: Kernel,
    set_aside: Option<Plain>,
    /// Whether there has been a model to judge.
    has_model: bool,
}

/// A mean area, and how many samples it rests on. They fade, too.
#[derive(Clone, Copy, Debug, Default)]
struct Area {
    sum: f32,
    samples: f32,
}

impl Area {
    fn note(&mut self, area: f32, samples: usize) {
        self.sum = self.sum * KEPT + area * samples as f32;
        self.samples = self.samples * KEPT + samples as f32;
    }

    fn mean(&self) -> f32 {
        self.sum / self.samples.max(1.0)
    }
}

/// Area under the ROC curve of scores and labels: how often a flashy sample has a larger score than another; ties count half. None if one
/// kind is missing.
pub fn roc_area(mut scores: Vec<(f32, bool)>) -> Option<f32> {
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut others_below, mut won, mut flashy) = (0.0, 0.0, 0.0);
    for equal in scores.chunk_by(|a, b| a.0 == b.0) {
        let good = equal.iter().filter(|sample| sample.1).count() as f32;
        let others = equal.len() as f32 - good;
        won += good * (others_below + others / 2.0);
        (others_below, flashy) = (others_below + others, flashy + good);
    }
    (flashy * others_below > 0.0).then(|| won / (flashy * others_below))
}

impl Quality {
    /// Takes note of samples where there is no model: what is known then is how often what the plain filters admit is flashy, and what they refuse.
    pub fn count(&mut self, fresh: &[(Features, bool)]) {
        self.fade();
        for (features, flashy) in fresh {
            self.note(features, *flashy);
        }
    }

    /// Takes note of samples on which the models have not been trained.
    pub fn judge(&mut self, linear: &Model, quadratic: Option<&Model>, fresh: &[(Features, bool)]) {
        if !std::mem::replace(&mut self.has_model, true) {
            // no model has given its verdict on what was counted before
            *self = Quality { has_model: true, ..Quality::default() };
        }
        for (own, model) in self.areas.iter_mut().zip([Some(linear), quadratic]) {
            if let Some(area) = model.and_then(|model| roc_area(model.scores(fresh))) {
                own.note(area, fresh.len());
            }
        }
        let [flat, curved] = self.areas;
        let is_known = flat.samples >= SAMPLES_MIN && curved.samples >= SAMPLES_MIN;
        self.kernel = if is_known && curved.mean() > flat.mean() { Kernel::Quadratic } else { Kernel::Linear };
        let model = quadratic.filter(|_| self.kernel == Kernel::Quadratic).unwrap_or(linear);
        self.fade();
        for (features, flashy) in fresh {
            let worth = self.note(features, *flashy);
            let score = model.score(features);
            self.model.note(score > 0.0, worth);
            let band = BANDS_BOUNDS.iter().filter(|bound| score > **bound).count();
            self.bands[band].0 += 1.0;
            self.bands[band].1 += worth;
        }
        self.conclude();
    }

    /// Counts a sample and the filters' verdicts on it.
    fn note(&mut self, features: &Features, flashy: bool) -> f32 {
        let worth = f32::from(u8::from(flashy));
        self.samples += 1.0;
        self.flashy += worth;
        for (filter, verdicts) in Plain::ALL.iter().zip(&mut self.filters) {
            verdicts.note(filter.admits_features(features), worth);
        }
        worth
    }

    fn fade(&mut self) {
        self.samples *= KEPT;
        self.flashy *= KEPT;
        for verdicts in self.filters.iter_mut().chain([&mut self.model]) {
            verdicts.admitted *= KEPT;
            verdicts.admitted_flashy *= KEPT;
        }
        self.bands.iter_mut().for_each(|(samples, flashy)| (*samples, *flashy) = (*samples * KEPT, *flashy * KEPT));
    }

    fn conclude(&mut self) {
        if self.samples < SAMPLES_MIN || self.flashy.min(self.samples - self.flashy) < CLASS_MIN {
            return;
        }
        let own = self.youden(&self.model);
        let rated = Plain::ALL.iter().zip(&self.filters).map(|(filter, verdicts)| (self.youden(verdicts), *filter));
        let (best, filter) = rated.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are filters");
        let worse_by = if self.set_aside.is_some() { WORSE_BY / 2.0 } else { WORSE_BY };
        self.set_aside = (own + worse_by < best).then_some(filter);
    }

    fn youden(&self, verdicts: &Verdicts) -> f32 {
        let others = self.samples - self.flashy;
        verdicts.admitted_flashy / self.flashy.max(1e-3)
            - (verdicts.admitted - verdicts.admitted_flashy) / others.max(1e-3)
    }

    /// A plain filter as deputy, with the shares of what it admits and refuses that were flashy; None if there are too few samples to tell.
    pub fn deputy(&self, filter: Plain) -> Option<Deputy> {
        if self.samples < COUNTED_MIN {
            return None;
        }
        let place = Plain::ALL.iter().position(|one| *one == filter).expect("all of them are there");
        let Verdicts { admitted, admitted_flashy } = self.filters[place];
        // of all samples, as if one of either kind had been seen before (Laplace's rule)
        let of_all = (self.flashy + 1.0) / (self.samples + 2.0);
        let usual = Deputy::default();
        let share =
            |flashy: f32, all: f32, expected: f32| (flashy + expected * EXPECTED_COUNT) / (all + EXPECTED_COUNT);
        Some(Deputy {
            filter,
            refused: share(self.flashy - admitted_flashy, self.samples - admitted, of_all),
            admitted: share(admitted_flashy, admitted, (of_all * usual.admitted / usual.refused).min(1.0)),
        })
    }

    /// The filter that decides in the model's place, if the model is worse than it.
    pub fn set_aside(&self) -> Option<Plain> {
        self.set_aside
    }

    /// Which of the models decides.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Area under the ROC curve of the model that decides.
    pub fn area(&self) -> f32 {
        self.areas[usize::from(self.kernel == Kernel::Quadratic)].mean()
    }

    /// Samples that this rests on.
    pub fn samples(&self) -> u32 {
        self.samples as u32
    }

    /// Of what the model would admit, the share that is flashy.
    pub fn precision(&self) -> f32 {
        self.model.admitted_flashy / self.model.admitted.max(1e-3)
    }

    /// Of what is flashy, the share that the model would admit.
    pub fn recall(&self) -> f32 {
        self.model.admitted_flashy / self.flashy.max(1e-3)
    }

    /// Youden's index of the model, and of the best plain filter.
    pub fn indices(&self) -> (f32, f32) {
        let best = self.filters.iter().map(|verdicts| self.youden(verdicts)).fold(0.0, f32::max);
        (self.youden(&self.model), best)
    }

    /// Share of flashy samples among those of each band of scores: below -1, to 0, to 1, above. A calibrated model's shares rise.
    pub fn calibration(&self) -> [f32; BANDS] {
        self.bands.map(|(samples, flashy)| flashy / samples.max(1e-3))
    }
}

impl Verdicts {
    fn note(&mut self, admits: bool, flashy: f32) {
        if admits {
            self.admitted += 1.0;
            self.admitted_flashy += flashy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Observation;

    fn samples(flashy: impl Fn(u32) -> bool) -> Vec<(Features, bool)> {
        (0..400).map(|n| (Observation { reads: n % 4, ..Observation::default() }.features(), flashy(n))).collect()
    }

    fn model(weight: f32, bias: f32) -> Model {
        let mut weights = [0.0; crate::FEATURES];
        weights[0] = weight;
        Model::linear(weights, bias)
    }

    #[test]
    fn a_model_that_is_worse_than_a_filter_is_set_aside_and_comes_back() {
        let mut quality = Quality::default();
        let read = samples(|n| n % 4 > 0);
        quality.judge(&model(1.0, -0.1), None, &read);
        assert_eq!(quality.set_aside(), None);
        assert!(quality.precision() > 0.99 && quality.recall() > 0.99 && quality.indices().0 > 0.99);
        // the world turns: the model says the contrary of what is
        for _ in 0..4 {
            quality.judge(&model(-1.0, 0.1), None, &read);
        }
        assert_eq!(quality.set_aside(), Some(Plain::SecondHit));
        assert!(quality.indices().0 < 0.0 && quality.indices().1 > 0.99);
        for _ in 0..20 {
            quality.judge(&model(1.0, -0.1), None, &read);
        }
        assert_eq!(quality.set_aside(), None);
    }

    #[test]
    fn too_few_samples_conclude_nothing() {
        let mut quality = Quality::default();
        quality.judge(&model(-1.0, 0.1), None, &samples(|n| n % 4 > 0)[..100]);
        assert_eq!(quality.set_aside(), None);
        let mut one_sided = Quality::default();
        one_sided.judge(&model(-1.0, 0.1), None, &samples(|_| true));
        assert_eq!(one_sided.set_aside(), None);
    }

    #[test]
    fn a_deputy_knows_how_often_its_verdicts_are_right() {
        let mut quality = Quality::default();
        quality.count(&samples(|n| n % 4 == 3)[..99]);
        assert_eq!(quality.deputy(Plain::SecondHit), None, "too few");
        (0..10).for_each(|_| quality.count(&samples(|n| n % 4 == 3)));
        // of four: not read, bad; read once, bad; twice, bad; thrice, good
        let [second, small] = Plain::ALL.map(|filter| quality.deputy(filter).unwrap());
        assert!((second.admitted - 0.333).abs() < 0.01 && (small.admitted - 0.5).abs() < 0.01, "{second:?}, {small:?}");
        assert!(second.refused < 0.01 && small.refused < 0.01, "{second:?}, {small:?}");
        // what it has hardly seen is thought as much better as usual
        let mut quality = Quality::default();
        let unread: Vec<_> = samples(|_| false).into_iter().step_by(4).cycle().take(400).collect();
        quality.count(&unread);
        let deputy = quality.deputy(Plain::SecondHit).unwrap();
        assert!(deputy.refused < 0.001 && (0.01..0.02).contains(&deputy.admitted), "{deputy:?}");
    }

    #[test]
    fn what_was_counted_without_a_model_is_not_held_against_it() {
        let mut quality = Quality::default();
        let read = samples(|n| n % 4 > 0);
        quality.count(&read);
        quality.judge(&model(1.0, -0.1), None, &read);
        assert!(quality.indices().0 > 0.99 && quality.recall() > 0.99, "{quality:?}");
        assert_eq!(quality.samples(), 400);
    }

    #[test]
    fn the_model_that_ranks_better_decides() {
        let mut quality = Quality::default();
        let read = samples(|n| n % 4 > 0);
        let (good, bad) = (model(1.0, 9.0), model(-1.0, 0.0));
        quality.judge(&bad, Some(&good), &read);
        assert_eq!((quality.kernel(), quality.area()), (Kernel::Quadratic, 1.0));
        (0..5).for_each(|_| quality.judge(&good, Some(&bad), &read));
        assert_eq!(quality.kernel(), Kernel::Linear);
        let dice = samples(|n| n / 4 % 2 == 0);
        let mut quality = Quality::default();
        quality.judge(&good, None, &dice);
        assert!((quality.area() - 0.5).abs() < 0.01, "{}", quality.area());
    }

    #[test]
    fn calibration_tells_the_share_of_each_band() {
        let mut quality = Quality::default();
        // scores: -1.5 for none, -0.8, -0.4 and -0.1 for one to three reads
        quality.judge(&model(1.0, -1.5), None, &samples(|n| n % 8 == 1));
        let [lowest, low, high, highest] = quality.calibration();
        assert_eq!((lowest, high, highest), (0.0, 0.0, 0.0));
        assert!((low - 1.0 / 6.0).abs() < 0.01, "{low}");
    }
}
