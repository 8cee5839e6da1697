//! What the objects of a cleaner pass are worth to their tenants.

use log_memory::Part;
use predictor::{Admission, Candidate, Deputy, Features, Model, Observation};
use tenants::{Rank, Standing};

use super::fate::Entry;
use crate::Cache;

/// Ranks the objects that a pass finds. Whom to ask is looked up once for each tenant that it meets, not once for each object: that takes four locks,
/// and a pass sees tens of thousands of objects.
pub(super) struct Appraisal<'c> {
    cache: &'c Cache,
    /// By the tenant's number. A pass may meet few of many thousands.
    appraisers: Vec<Option<Box<Appraiser>>>,
}

/// What decides on one tenant's objects, as it was when the pass first met one.
struct Appraiser {
    rank: Rank,
    /// Its own model, where its rank asks for a score.
    model: Option<Model>,
    flash: Option<FlashOutlook>,
}

/// What flash would have of a tenant: what passes the bar of its budgets.
struct FlashOutlook {
    rule: Admission,
    model: Option<Model>,
    deputy: Deputy,
    threshold: f32,
    bar: f32,
}

impl<'c> Appraisal<'c> {
    pub(super) fn new(cache: &'c Cache) -> Appraisal<'c> {
        Appraisal { cache, appraisers: Vec::new() }
    }

    /// The entry as the contest sees it.
    pub(super) fn entry_of(&mut self, part: &Part<'_>) -> Entry {
        let object = &part.owner;
        let seen = self.cache.observe(object);
        let tenant = object.tenant();
        let worth = self.appraiser(tenant).worth(&seen, part.bytes);
        let accessed = object.access().last;
        Entry { found: part.found(), worth, accessed, tenant, gone: false }
    }

    fn appraiser(&mut self, tenant: u16) -> &Appraiser {
        let number = usize::from(tenant);
        if number >= self.appraisers.len() {
            self.appraisers.resize_with(number + 1, || None);
        }
        self.appraisers[number].get_or_insert_with(|| Box::new(Appraiser::new(self.cache, tenant)))
    }
}

impl Appraiser {
    fn new(cache: &Cache, tenant: u16) -> Appraiser {
        let rank = cache.registry.tenant(tenant).rank();
        if !rank.wants_score() {
            return Appraiser { rank, model: None, flash: None };
        }
        let model = cache.standing(tenant).judge.read().linear;
        Appraiser { rank, model, flash: FlashOutlook::new(cache, tenant) }
    }

    fn worth(&self, seen: &Observation, bytes: usize) -> u64 {
        let features = (self.model.is_some() || self.flash.is_some()).then(|| seen.features());
        self.rank.worth(&Standing {
            idle: seen.idle,
            age: seen.age,
            reads: seen.reads,
            bytes: bytes as u32,
            history: seen.history,
            score: self.model.as_ref().zip(features.as_ref()).map(|(model, features)| model.score(features)),
            is_for_flash: self
                .flash
                .as_ref()
                .zip(features.as_ref())
                .is_some_and(|(flash, features)| flash.would_have(seen, features)),
        })
    }
}

impl FlashOutlook {
    /// None without a budget; and not while the model is still to come: a plain rule in its place knows too little of what flash would have (where
    /// flash is not full yet, a third of a point of hits and more chance).
    fn new(cache: &Cache, tenant: u16) -> Option<FlashOutlook> {
        let bar = cache.bar(tenant)?;
        let rule = cache.settings.admission;
        let (model, deputy) = cache.judge(tenant);
        let threshold = cache.threshold(tenant);
        (model.is_some() || rule != Admission::Svm).then_some(FlashOutlook { rule, model, deputy, threshold, bar })
    }

    /// Whether flash would have an object: the place in DRAM matters less then. Not if it is stored again and again: each time that flash has it, it
    /// would have to be written anew.
    fn would_have(&self, seen: &Observation, features: &Features) -> bool {
        let candidate =
            Candidate { threshold: self.threshold, ..Candidate::new(seen, features, self.model.as_ref(), self.deputy) };
        let admitted = self.rule.admits(&candidate).filter(|_| seen.updates == 0);
        admitted.is_some_and(|probability| predictor::merit(probability, seen) > self.bar)
    }
}
