//! Training: collect a tenant's samples, fit, publish the model; and one model of all for those that have too few.

use std::sync::atomic::Ordering;

use predictor::{CLASS_MIN, Features, Kernel, Model, Plain, SAMPLES_MAX, train};

use crate::Cache;
use crate::clock::ticks_since;

/// Fresh samples that make a training worth it while a tenant's models are few; later all that are kept must be fresh.
const FRESH_MIN: usize = 100;

/// Trainings over which a model is averaged: one alone depends on which keys happened to be sampled.
const MODELS_AVERAGED: u32 = 12;
/// How far probabilities move to those that fresh samples show, with each training.
const CALIBRATED_SHARE: f32 = 0.5;
/// The pooled model is trained this often in a horizon.
const POOLED_A_HORIZON: u32 = 4;

/// What one training step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trained {
    /// This tenant has a new model.
    Tenant(u16),
    /// There is a new model of all tenants' samples.
    Pooled,
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
            let is_new = standing.trained.load(Ordering::Relaxed) < MODELS_AVERAGED;
            let enough = if is_new { FRESH_MIN } else { sampler.len().max(FRESH_MIN) };
            if !sampler.is_mature(tick) {
                return (0, tenant);
            }
            (sampler.fresh().saturating_sub(enough), tenant)
        });
        match fresh.max() {
            Some((fresh, tenant)) if fresh > 0 => self.train_tenant(tenant),
            _ => self.train_pooled(tick),
        }
    }

    fn train_tenant(&self, tenant: usize) -> Trained {
        let standing = &self.standings[tenant];
        let (samples, fresh) = {
            let mut sampler = standing.sampler.lock();
            let fresh = sampler.fresh();
            (sampler.take(), fresh)
        };
        let fresh = &samples[samples.len().saturating_sub(fresh)..];
        if let Some(listener) = self.listener.get() {
            listener(tenant as u16, fresh);
        }
        let before = *standing.judge.read();
        let mut now = before;
        {
            let mut quality = standing.quality.lock();
            let filter = match &before.linear {
                Some(linear) => {
                    quality.judge(linear, before.quadratic.as_ref(), fresh);
                    quality.set_aside()
                }
                None => {
                    quality.count(fresh);
                    Some(Plain::default())
                }
            };
            (now.kernel, now.deputy) = (quality.kernel(), filter.and_then(|filter| quality.deputy(filter)));
        }
        // before they learn from them
        for model in [&mut now.linear, &mut now.quadratic].into_iter().flatten() {
            model.calibrate(fresh, CALIBRATED_SHARE);
        }
        let linear = fitted(&samples, Kernel::Linear);
        let trained = linear.is_some();
        if trained {
            let count = standing.trained.fetch_add(1, Ordering::Relaxed) + 1;
            let share = 1.0 / count.min(MODELS_AVERAGED) as f32;
            let nearer = |old: Option<Model>, new: Option<Model>| match (old, new) {
                (Some(old), Some(new)) => Some(old.toward(&new, share)),
                (old, new) => new.or(old),
            };
            if now.linear.is_none() {
                now.deputy = None;
            }
            now.linear = nearer(now.linear, linear);
            now.quadratic = nearer(now.quadratic, fitted(&samples, Kernel::Quadratic));
        }
        *standing.judge.write() = now;
        if !trained {
            return Trained::Nothing;
        }
        Trained::Tenant(tenant as u16)
    }

    /// Trains one model on what the tenants have sampled, an equal part of each, if there are tenants that have none of their own.
    fn train_pooled(&self, tick: u32) -> Trained {
        let pause = self.horizon.load(Ordering::Relaxed) / POOLED_A_HORIZON;
        let at = self.pooled_at.load(Ordering::Relaxed);
        if at != 0 && ticks_since(tick, at) < pause {
            return Trained::Nothing;
        }
        let is_without = |standing: &crate::Standing| standing.judge.read().linear.is_none();
        if self.standings.count() < 2 || !self.standings.iter().any(|(_, standing)| is_without(standing)) {
            return Trained::Nothing;
        }
        let mature = |standing: &&crate::Standing| {
            let sampler = standing.sampler.lock();
            sampler.is_mature(tick) && !sampler.is_empty()
        };
        let sampled: Vec<_> = self.standings.iter().map(|(_, standing)| standing).filter(mature).collect();
        self.pooled_at.store(tick, Ordering::Relaxed);
        let quota = (SAMPLES_MAX / sampled.len().max(1)).max(1);
        let samples: Vec<_> =
            sampled.iter().flat_map(|standing| standing.sampler.lock().latest(quota)).take(SAMPLES_MAX).collect();
        let Some(model) = fitted(&samples, Kernel::Linear) else { return Trained::Nothing };
        let mut pooled = self.pooled.write();
        *pooled = Some(pooled.map_or(model, |old| old.toward(&model, 1.0 / MODELS_AVERAGED as f32)));
        Trained::Pooled
    }
}

fn fitted(samples: &[(Features, bool)], kernel: Kernel) -> Option<Model> {
    if samples.len() < 2 * CLASS_MIN {
        return None;
    }
    train(samples, kernel).ok()
}
