//! A cleaner pass: several segments in, their survivors out into fewer.
//!
//! Candidates are taken half by the tenant that should shrink (the lowest need; dead bytes count in), half at random. What is
//! published in them is ranked a tenant apart; the contest says who keeps a place; losers are demoted or dropped. Then the
//! survivors move, a segment at a time, and each emptied segment is retired.

use flash_store::Device;
use log_memory::{Candidate, Location, Relocated, SegmentId};
use tenants::{Arbiter, Contestant, contest};

use super::Background;
use super::fate::{Entry, Loser};
use crate::Cache;

/// Most segments that one pass takes: what bounds its time and the memory of its lists.
const CANDIDATES_MAX: usize = 16;
/// What a dead byte counts against one of the tenant that should shrink. Freeing it costs no object; and where one tenant has everything,
/// its bytes say nothing, and dead ones are what tells segments apart.
const DEAD_WEIGHT: usize = 3;
/// Share of a survivor segment that is given away, in percent: the rest is the unused ends.
const FILL_PERCENT: usize = 98;
/// Times that relocation waits for a grace period before it gives an object up.
const WAITS_MAX: usize = 10_000;
/// Losers whose places in the index are fetched together.
const LOSERS_AHEAD: usize = 32;

/// What is published in the chosen segments.
struct Census {
    entries: Vec<Entry>,
    live_bytes: usize,
}

impl Cache {
    pub(super) fn clean_pass(&self, background: &mut Background, device: Option<&dyn Device>) {
        let chosen = self.choose_candidates(background);
        if chosen.is_empty() {
            return;
        }
        let census = self.take_census(background, &chosen);
        let segment_bytes = self.memory.shape().segment_bytes;
        let freed = chosen.len().div_ceil(4);
        let places = (chosen.len() - freed) * segment_bytes * FILL_PERCENT / 100;
        if census.live_bytes > places {
            self.hold_contest(background, device, census.entries, places);
        }
        let mut moved = 0;
        let mut retired = 0;
        for id in &chosen {
            moved += self.move_survivors(background, *id);
            retired += usize::from(self.memory.retire(*id));
        }
        self.holders.note_pass(retired, moved, (retired * segment_bytes).saturating_sub(moved));
    }

    fn choose_candidates(&self, background: &mut Background) -> Vec<SegmentId> {
        let mut candidates = self.memory.candidates();
        let wanted = (candidates.len() / 4).clamp(4, CANDIDATES_MAX).min(candidates.len());
        let shrinking = self.lowest_need();
        let score = |candidate: &Candidate| {
            let dead = candidate.written - candidate.live;
            std::cmp::Reverse(self.memory.bytes_of(*candidate, shrinking) + DEAD_WEIGHT * dead)
        };
        candidates.sort_by_cached_key(score);
        // the second half of the places goes to random ones among the rest
        for place in wanted.div_ceil(2)..wanted {
            let pick = place + background.worker.hands.roll() as usize % (candidates.len() - place);
            candidates.swap(place, pick);
        }
        candidates.truncate(wanted);
        candidates.into_iter().map(|candidate| candidate.id).filter(|id| self.memory.choose(*id)).collect()
    }

    /// The tenant that should give memory back first.
    fn lowest_need(&self) -> u16 {
        let balances = self.registry.all().map(|tenant| (tenant.id, tenant.account.balance()));
        let with_objects = balances.filter(|(_, balance)| balance.in_use > 0);
        with_objects.min_by(|a, b| a.1.need().total_cmp(&b.1.need())).map_or(0, |(id, _)| id)
    }

    /// Lists what is published in the chosen segments; hides what has expired.
    fn take_census(&self, background: &mut Background, chosen: &[SegmentId]) -> Census {
        let Background { worker, .. } = background;
        let guard = worker.participant.enter();
        let mut census = Census { entries: Vec::new(), live_bytes: 0 };
        for id in chosen {
            self.memory.scan(&guard, *id, |part| {
                let object = part.owner;
                if self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_some() {
                    let lock = self.memory.lock(part.hash);
                    if self.memory.part_at(&guard, part.location()).is_some()
                        && self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_some()
                        && self.hide(&lock, object)
                    {
                        worker.hands.count_reclaimed(object.tenant(), &object);
                    }
                    return;
                }
                census.live_bytes += part.bytes;
                census.entries.push(self.entry_of(&part));
            });
        }
        census
    }

    fn hold_contest(
        &self,
        background: &mut Background,
        device: Option<&dyn Device>,
        mut entries: Vec<Entry>,
        places: usize,
    ) {
        // a pass sees a part of each tenant's objects: were it to make up for all that a tenant holds too much, good ones would go
        let live: f64 = entries.iter().map(|entry| entry.bytes as f64).sum();
        let all: i64 = self.registry.all().map(|tenant| tenant.account.balance().in_use).sum();
        let kept = places as f64 / live;
        let seen = (live / all.max(1) as f64).min(1.0);
        // without shares there is one order for all, which one tenant's contest is
        let shares = self.settings.arbiter != Arbiter::Global;
        entries.sort_unstable_by_key(|entry| (if shares { entry.tenant } else { 0 }, entry.worth));
        let mut contestants: Vec<Contestant<(Location, u64)>> = entries
            .chunk_by(|a, b| !shares || a.tenant == b.tenant)
            .map(|own| {
                let mut balance = self.registry.tenant(own[0].tenant).account.balance();
                let bytes = own.iter().map(|entry| entry.bytes as i64).sum::<i64>();
                let owed = (balance.target - balance.in_use) as f64;
                balance.target = balance.in_use - bytes + (bytes as f64 * kept + owed * seen) as i64;
                balance.in_use -= bytes;
                Contestant {
                    balance,
                    candidates: own.iter().map(|entry| ((entry.at, entry.hash), entry.bytes)).collect(),
                }
            })
            .collect();
        contest(&mut contestants, places, |_| {});
        let mut losers: Vec<((Location, u64), usize)> = contestants.into_iter().flat_map(|c| c.candidates).collect();
        losers.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes)); // large records are the hardest to place
        for (n, ((at, _), _)) in losers.iter().enumerate() {
            if n % LOSERS_AHEAD == 0 {
                losers[n..].iter().take(LOSERS_AHEAD).for_each(|((_, hash), _)| self.memory.prefetch(*hash));
            }
            self.lose_at(background, *at);
            if let (Some(flash), Some(device)) = (&self.flash, device)
                && flash.wants_to_seal()
            {
                self.flush_step(flash, device, background);
                self.recycle_step(flash, device, background);
            }
        }
    }

    fn lose_at(&self, background: &mut Background, at: Location) -> Loser {
        let worker = &mut background.worker;
        let guard = worker.participant.enter();
        match self.memory.part_at(&guard, at) {
            Some(part) => self.lose(&guard, &worker.hands, part),
            None => Loser::Gone,
        }
    }

    /// Moves what is still published in a segment. Returns the bytes that were moved.
    fn move_survivors(&self, background: &mut Background, id: SegmentId) -> usize {
        let mut places = Vec::new();
        {
            let guard = background.worker.participant.enter();
            self.memory.scan(&guard, id, |part| places.push(part.location()));
        }
        let mut moved = 0;
        let mut rest = places.as_slice();
        let mut waits = 0;
        while let [at, others @ ..] = rest {
            let worker = &mut background.worker;
            let guard = worker.participant.enter();
            let Some(part) = self.memory.part_at(&guard, *at) else {
                rest = others;
                continue;
            };
            match self.memory.relocate(&guard, &mut worker.hands.writer, part) {
                Ok(Relocated::Moved) => moved += part.bytes,
                Ok(Relocated::Gone) => {}
                Err(_) if waits < WAITS_MAX => {
                    // retired segments come free when the readers of this moment are done; this turn must not hold them back
                    drop(guard);
                    waits += 1;
                    std::thread::yield_now();
                    continue;
                }
                Err(_) => {
                    let lock = self.memory.lock(part.hash);
                    if self.memory.part_at(&guard, *at).is_some() && self.hide(&lock, part.owner) {
                        worker.hands.count_eviction(part.owner.tenant(), part.owner.access().reads > 0);
                    }
                }
            }
            rest = others;
        }
        moved
    }
}
