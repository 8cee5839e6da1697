//! Training: collect a tenant's samples, fit, publish the model.

use std::sync::atomic::Ordering;

use predictor::{CLASS_MIN, train};

use crate::Cache;

/// Fresh samples that make a first training worth it.
const FRESH_MIN: usize = 100;
/// Part of the kept samples that must be fresh for another.
const FRESH_PART: usize = 2;

/// Trainings over which a model is averaged: one alone depends on which keys happened to be sampled.
const MODELS_AVERAGED: u32 = 4;

/// What one training step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trained {
    /// This tenant has a new model.
    Tenant(u16),
    /// No tenant has enough fresh samples.
    Nothing,
}

impl Cache {
    /// Trains the model of the one tenant that has the most fresh samples, if that is enough of them. Takes up to 0.2 s; call
    /// it from a thread that nobody waits for.
    pub fn train_step(&self) -> Trained {
        if self.settings.admission != predictor::Admission::Svm || self.flash.is_none() {
            return Trained::Nothing;
        }
        let tick = self.clock.tick();
        let fresh = self.standings.iter().map(|(tenant, standing)| {
            let mut sampler = standing.sampler.lock();
            sampler.expire(tick);
            let enough = (sampler.len() / FRESH_PART).max(FRESH_MIN);
            if !sampler.is_mature(tick) {
                return (0, tenant);
            }
            (sampler.fresh().saturating_sub(enough), tenant)
        });
        let Some((fresh, tenant)) = fresh.max() else { return Trained::Nothing };
        if fresh == 0 {
            return Trained::Nothing;
        }
        let standing = &self.standings[tenant];
        let samples = standing.sampler.lock().take();
        if samples.len() < 2 * CLASS_MIN {
            return Trained::Nothing;
        }
        if let Ok(model) = train(&samples) {
            let before = standing.trained.fetch_add(1, Ordering::Relaxed);
            let share = 1.0 / (before + 1).min(MODELS_AVERAGED) as f32;
            let mut current = standing.model.write();
            *current = Some(current.map_or(model, |old| old.toward(&model, share)));
            return Trained::Tenant(tenant as u16);
        }
        Trained::Nothing
    }
}
