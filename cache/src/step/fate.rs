//! Keep, demote or drop: an object's fate, decided here and nowhere else.

use flash_store::{FlashStore, Placed, Record, RecordHead};
use log_memory::{Found, Object, Part};
use predictor::{Bid, Candidate, Observation};

use crate::counters::Count;
use crate::{Cache, Hands};

/// What happens to an object that lost the contest for DRAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loser {
    /// It is on flash now.
    Demoted,
    /// It is gone.
    Dropped,
    /// It was asked for since it was ranked, or is worth flash but found no place there: it stays this time.
    Kept,
    /// It was stored anew or deleted meanwhile.
    Gone,
}

/// What may be written to flash.
pub(super) struct Offer<'o> {
    pub(super) hash: u64,
    pub(super) tenant: u16,
    pub(super) key: &'o [u8],
    pub(super) bytes: usize,
    /// What its merit has lost, in doublings, if it lies on flash already and nobody has asked for it there.
    pub(super) faded: Option<f32>,
}

/// An entry of a chosen segment, as the contest sees it.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) found: Found,
    pub(super) worth: u64,
    /// The tick of its last access: one that is asked for meanwhile is worth more than it was.
    pub(super) accessed: u32,
    pub(super) tenant: u16,
    /// It has lost its place and been demoted or dropped, or was not there any more.
    pub(super) gone: bool,
}

impl Cache {
    /// Decides on an object that lost its place in DRAM, and carries the decision out.
    pub(super) fn lose(&self, guard: &log_memory::Turn<'_>, hands: &Hands, entry: &Entry) -> Loser {
        let Entry { found, accessed, .. } = *entry;
        let hash = found.hash;
        let lock = self.memory.lock(hash);
        let Some(Part { owner: object, .. }) = self.memory.part_of(guard, found) else { return Loser::Gone };
        if object.access().last != accessed {
            return Loser::Kept;
        }
        let tenant = object.tenant();
        let observation = self.observe(&object);
        if self.is_sampled(hash) {
            self.sampler(tenant).decided(hash, &observation, self.clock.tick());
        }
        let loser = match &self.flash {
            // what a client marked stale, or gave a unique of its own, has no place on flash
            Some(_) if object.access().stale || object.chosen_unique().is_some() => Loser::Dropped,
            Some(flash) if self.admits(hash, &object, &observation) => self.demote(flash, hands, hash, &object),
            Some(_) => {
                hands.count(tenant, Count::Refused);
                Loser::Dropped
            }
            None => Loser::Dropped,
        };
        if loser == Loser::Dropped {
            hands.count_eviction(tenant, object.access().reads > 0);
            self.registry.tenant(tenant).shadow.lost(hash, object.charged_bytes() as u64);
            self.remember(hash, object.history(), object.access().reads);
            self.note_eviction(|| crate::Eviction {
                key: object.key().into(),
                was_read: object.access().reads > 0,
                expiry: object.expiry(),
                idle_secs: self.clock.secs_since(object.access().last),
                value_bytes: object.value_bytes(),
            });
        }
        if loser != Loser::Kept {
            self.hide(&lock, object);
        }
        loser
    }

    fn admits(&self, hash: u64, object: &Object<'_>, observation: &Observation) -> bool {
        let offer =
            Offer { hash, tenant: object.tenant(), key: object.key(), bytes: object.charged_bytes(), faded: None };
        self.is_written(&offer, observation)
    }

    /// The score that has to be exceeded. A budget needs none: it is spent on the best of what there is.
    pub(super) fn threshold(&self, tenant: u16) -> f32 {
        let usual = || if self.has_budget(tenant) { f32::NEG_INFINITY } else { 0.0 };
        self.settings.threshold.unwrap_or_else(usual)
    }

    /// Whether the rule has it written to flash, and the budgets too.
    pub(super) fn is_written(&self, offer: &Offer<'_>, observation: &Observation) -> bool {
        let (model, deputy) = self.judge(offer.tenant);
        let features = observation.features();
        let dice = self.dice_of(offer.hash);
        let candidate = Candidate {
            threshold: self.threshold(offer.tenant),
            dice,
            future: self.foresight.get().map(|foresees| foresees(offer.key)),
            ..Candidate::new(observation, &features, model.as_ref(), deputy)
        };
        let Some(probability) = self.settings.admission.admits(&candidate) else { return false };
        self.is_within_budgets(offer.tenant, offer.bytes, || {
            let dice = predictor::thrown(log_memory::mix(dice));
            let merit = predictor::merit(probability, observation) - offer.faded.unwrap_or_default();
            Bid { merit, dice, is_kept: offer.faded.is_some() }
        })
    }

    /// Offers an object to the open flash segment. Its key is locked: the flash entry is published before the DRAM entry is
    /// hidden, so a reader finds one or the other.
    pub(crate) fn demote(&self, flash: &FlashStore, hands: &Hands, hash: u64, object: &Object<'_>) -> Loser {
        let access = object.access();
        let head = RecordHead {
            tenant: object.tenant(),
            key: object.key(),
            client_flags: object.client_flags(),
            expiry: object.expiry(),
            version: object.version(),
            reads: access.reads,
            updates: access.updates,
            history: object.history(),
            accessed: self.now().saturating_sub(self.clock.secs_since(access.last)),
            rescued: object.rescued(),
            won: access.won,
        };
        let value: Vec<&[u8]> = object.value().collect();
        match self.place(flash, hands, hash, &head, value.into_iter()) {
            Placed::Yes => Loser::Demoted,
            Placed::Refused => Loser::Kept,
            Placed::TooLarge | Placed::NoSegment => Loser::Dropped,
        }
    }

    /// Offers a record that would leave flash to the open flash segment, past DRAM. Returns whether it has found a place.
    pub(super) fn demote_again(&self, flash: &FlashStore, hands: &Hands, hash: u64, record: &Record<'_>) -> bool {
        let head = RecordHead { rescued: true, ..record.head };
        self.place(flash, hands, hash, &head, std::iter::once(record.value)) == Placed::Yes
    }

    /// Puts a record into the open flash segment, if it has room there, and charges for it.
    fn place<'v>(
        &self,
        flash: &FlashStore,
        hands: &Hands,
        hash: u64,
        head: &RecordHead<'_>,
        value: impl Iterator<Item = &'v [u8]> + Clone,
    ) -> Placed {
        let value_bytes: usize = value.clone().map(<[u8]>::len).sum();
        let placed = flash.append(hash, head, value);
        if placed == Placed::Yes {
            let bytes = (head.bytes() + value_bytes) as u64;
            self.charge_budgets(head.tenant, bytes);
            hands.count(head.tenant, Count::Demoted);
            hands.count_by(head.tenant, Count::DemotedBytes, bytes);
            if head.rescued {
                hands.count_by(head.tenant, Count::RescueBytes, bytes);
            }
        }
        placed
    }
}
