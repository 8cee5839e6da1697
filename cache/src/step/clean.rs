//! A cleaner pass: several segments in, their survivors out into fewer.
//!
//! Candidates are taken half by the tenant that should shrink (the lowest need; dead bytes count in), half at random. What is
//! published in them is ranked a tenant apart; the contest says who keeps a place; losers are demoted or dropped. Then the
//! survivors move, a segment at a time, and each emptied segment is retired.

use std::time::{Duration, Instant};

use flash_store::{Device, FlashStore};
use log_memory::{Candidate, Found, Relocated, SegmentId};
use tenants::{Arbiter, Balance, Contestant, contest};

use super::Background;
use super::appraise::Appraisal;
use super::fate::{Entry, Loser};
use crate::Cache;

/// Most segments that one pass takes, and most bytes of segments: what bounds its time and the memory of its lists. Who stores faster than
/// memory is freed waits as long as a pass takes: ten of 1 MiB instead of twenty halve the p99.9 of SETs, and cost no hits (docs/data-plane.md).
const CANDIDATES_MAX: usize = 20;
const CANDIDATE_BYTES_MAX: usize = 10 << 20;
/// Of so many segments that a pass takes, one comes free: the more, the closer the losers are to being the worst of all objects, and the
/// more is moved for each byte that is freed. With flash it is not all or nothing, and one less costs no hits (docs/flash.md).
const TAKEN_FOR_EACH_FREED: usize = 5;
const TAKEN_WITH_FLASH: usize = 4;
/// What a dead byte counts against one of the tenant that should shrink. Freeing it costs no object; and where one tenant has everything,
/// its bytes say nothing, and dead ones are what tells segments apart.
const DEAD_WEIGHT: usize = 10;
/// Share of a survivor segment that is given away, in percent: the rest is the unused ends.
const FILL_PERCENT: usize = 98;
/// Times that relocation lets others run before it sleeps while it waits for segments to come free, how long it sleeps, and the time that a
/// pass sleeps at most before it gives objects up: a reader that has lost its core in the middle of a turn gets it back by then.
const YIELDS_MAX: usize = 1_000;
const NAP: Duration = Duration::from_micros(100);
const PATIENCE: Duration = Duration::from_secs(1);
/// Times that the background thread tries to make a place on flash for a record.
const SERVICES_MAX: usize = 4;
/// Longest time that a helper waits for it to do so, and how long between two looks.
const SERVICE_MAX: Duration = Duration::from_secs(1);
const SERVICE_LOOK: Duration = Duration::from_micros(50);
/// Entries whose places in the index, and bytes, are fetched together.
const ENTRIES_AHEAD: usize = 32;

/// What is published in the chosen segments, in the order in which it lies there.
struct Census {
    entries: Vec<Entry>,
    /// How many entries there are up to the end of each segment.
    ends: Vec<usize>,
    live_bytes: usize,
}

/// An entry's place in its tenant's order, worst first, as one number, which sorts twice as fast as three do: tenant, worth, and the entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u128);

impl Ranked {
    fn new(tenant: u16, worth: u64, entry: u32) -> Ranked {
        Ranked(u128::from(tenant) << 96 | u128::from(worth) << 32 | u128::from(entry))
    }

    fn tenant(self) -> u16 {
        (self.0 >> 96) as u16
    }

    fn entry(self) -> u32 {
        self.0 as u32
    }
}

impl Cache {
    pub(super) fn clean_pass(&self, background: &mut Background, device: Option<&dyn Device>) {
        let chosen = self.choose_candidates(background);
        if chosen.is_empty() {
            return;
        }
        let mut census = self.take_census(background, &chosen);
        let segment_bytes = self.memory.shape().segment_bytes;
        let taken = if self.flash.is_some() { TAKEN_WITH_FLASH } else { TAKEN_FOR_EACH_FREED };
        let freed = chosen.len().min(self.candidates_max()).div_ceil(taken);
        let places = (chosen.len() - freed) * segment_bytes * FILL_PERCENT / 100;
        if census.live_bytes > places {
            self.hold_contest(background, device, &mut census.entries, places);
        }
        let (mut moved, mut retired, mut begin) = (0, 0, 0);
        let mut patience = PATIENCE;
        for (id, end) in chosen.iter().zip(census.ends) {
            moved += self.move_survivors(background, &census.entries[begin..end], &mut patience);
            retired += usize::from(self.memory.retire(*id));
            begin = end;
        }
        self.holders.note_pass(retired, moved, (retired * segment_bytes).saturating_sub(moved));
    }

    fn choose_candidates(&self, background: &mut Background) -> Vec<SegmentId> {
        let mut candidates = self.memory.candidates();
        if self.settings.exact_order {
            return candidates.into_iter().map(|candidate| candidate.id).filter(|id| self.memory.choose(*id)).collect();
        }
        let wanted = (candidates.len() / 4).clamp(TAKEN_FOR_EACH_FREED, self.candidates_max()).min(candidates.len());
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

    fn candidates_max(&self) -> usize {
        (CANDIDATE_BYTES_MAX / self.memory.shape().segment_bytes).clamp(TAKEN_FOR_EACH_FREED, CANDIDATES_MAX)
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
        let mut appraisal = Appraisal::new(self);
        let mut census = Census { entries: Vec::new(), ends: Vec::new(), live_bytes: 0 };
        for id in chosen {
            self.memory.scan(&guard, *id, |part| {
                let object = part.owner;
                if self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_some() {
                    let lock = self.memory.lock(part.hash);
                    if self.memory.part_of(&guard, part.found()).is_some()
                        && self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_some()
                        && self.hide(&lock, object)
                    {
                        worker.hands.count_reclaimed(object.tenant(), &object);
                    }
                    return;
                }
                census.live_bytes += part.bytes;
                census.entries.push(appraisal.entry_of(&part));
            });
            census.ends.push(census.entries.len());
        }
        census
    }

    /// Gives the places away, and has those lose that got none. Of the entries, those are marked that are gone.
    fn hold_contest(
        &self,
        background: &mut Background,
        device: Option<&dyn Device>,
        entries: &mut [Entry],
        places: usize,
    ) {
        // a pass sees a part of each tenant's objects: were it to make up for all that a tenant holds too much, good ones would go
        let live: f64 = entries.iter().map(|entry| f64::from(entry.found.bytes)).sum();
        let all: i64 = self.registry.all().map(|tenant| tenant.account.balance().in_use).sum();
        let kept = places as f64 / live;
        let seen = (live / all.max(1) as f64).min(1.0);
        // without shares there is one order for all, which one tenant's contest is
        let shares = self.registry.arbiter() != Arbiter::Global;
        let rank = |(n, entry): (usize, &Entry)| {
            let tenant = if shares { entry.tenant } else { 0 };
            Ranked::new(tenant, entry.worth, n as u32)
        };
        let mut ranked: Vec<Ranked> = entries.iter().enumerate().map(rank).collect();
        ranked.sort_unstable();
        let mut contestants: Vec<Contestant<u32>> = ranked
            .chunk_by(|a, b| a.tenant() == b.tenant())
            .map(|own| {
                let candidates: Vec<_> =
                    own.iter().map(|own| (own.entry(), entries[own.entry() as usize].found.bytes as usize)).collect();
                let first = &entries[own[0].entry() as usize];
                let mut balance = self.registry.tenant(first.tenant).account.balance();
                let bytes = candidates.iter().map(|(_, bytes)| *bytes as i64).sum::<i64>();
                let owed = (balance.target - balance.in_use) as f64;
                balance.target = balance.in_use - bytes + (bytes as f64 * kept + owed * seen) as i64;
                balance.in_use -= bytes;
                Contestant { balance, candidates }
            })
            .collect();
        let by_worth = self.registry.arbiter() == Arbiter::Worth;
        let claim =
            |balance: &Balance, n: &u32| if by_worth { entries[*n as usize].worth as f64 } else { balance.need() };
        contest(&mut contestants, places, claim, |_| {});
        let mut losers: Vec<(u32, usize)> = contestants.into_iter().flat_map(|c| c.candidates).collect();
        losers.sort_unstable_by_key(|(n, bytes)| (std::cmp::Reverse(*bytes), *n)); // large records are the hardest to place
        for (done, (loser, _)) in losers.iter().enumerate() {
            if done % ENTRIES_AHEAD == 0 {
                for (ahead, _) in losers[done..].iter().take(ENTRIES_AHEAD) {
                    self.memory.prefetch_entry(entries[*ahead as usize].found);
                }
            }
            if let Some(flash) = &self.flash {
                self.find_place(flash, background, device);
            }
            let entry = &mut entries[*loser as usize];
            entry.gone = self.lose_entry(background, entry) != Loser::Kept;
        }
    }

    /// Sees to it that records find a place on flash: the background thread, which has the device, by writing and recycling; another that
    /// helps it by waiting for that. The device sets the pace. Whoever takes the last place meanwhile leaves its object in DRAM for this time.
    fn find_place(&self, flash: &FlashStore, background: &mut Background, device: Option<&dyn Device>) {
        let began = Instant::now();
        for tries in 0.. {
            if !flash.wants_service() {
                return;
            }
            match device {
                Some(device) if tries < SERVICES_MAX => {
                    self.flush_step(flash, device, background);
                    self.recycle_step(flash, device, background, 0);
                }
                None if began.elapsed() < SERVICE_MAX => std::thread::sleep(SERVICE_LOOK),
                _ => return,
            }
        }
    }

    fn lose_entry(&self, background: &mut Background, entry: &Entry) -> Loser {
        let worker = &mut background.worker;
        let guard = worker.participant.enter();
        self.lose(&guard, &worker.hands, entry)
    }

    /// Moves what is still published of a segment's entries. Returns the bytes that were moved.
    fn move_survivors(&self, background: &mut Background, entries: &[Entry], patience: &mut Duration) -> usize {
        let (mut moved, mut waits) = (0, 0);
        let mut survivors = Vec::with_capacity(ENTRIES_AHEAD);
        for group in entries.chunks(ENTRIES_AHEAD) {
            survivors.clear();
            survivors.extend(group.iter().filter(|entry| !entry.gone).map(|entry| entry.found));
            let mut left = survivors.as_slice();
            while !left.is_empty() {
                let done = self.move_while_there_is_room(background, left);
                moved += done.bytes;
                left = &left[done.entries..];
                let Some(next) = left.first() else { break };
                // retired segments come free when the readers of this moment are done; no turn of this thread must hold them back
                waits += 1;
                if waits < YIELDS_MAX {
                    std::thread::yield_now();
                } else if self.memory.has_retired() && !patience.is_zero() {
                    let began = Instant::now();
                    std::thread::sleep(NAP);
                    *patience = patience.saturating_sub(began.elapsed());
                } else {
                    self.give_up(background, *next);
                    left = &left[1..];
                }
            }
        }
        moved
    }

    /// Moves survivors within one turn, since a turn costs as much to begin as an entry to look up, until no segment is free for the next of them.
    fn move_while_there_is_room(&self, background: &mut Background, survivors: &[Found]) -> Relocated {
        let worker = &mut background.worker;
        let guard = worker.participant.enter();
        self.memory.relocate(&guard, &mut worker.hands.writer, survivors)
    }

    /// Drops a survivor for which no room came free.
    fn give_up(&self, background: &mut Background, found: Found) {
        let worker = &mut background.worker;
        let guard = worker.participant.enter();
        let lock = self.memory.lock(found.hash);
        if let Some(part) = self.memory.part_of(&guard, found)
            && self.hide(&lock, part.owner)
        {
            worker.hands.count_eviction(part.owner.tenant(), part.owner.access().reads > 0);
            self.holders.note_gave_up();
        }
    }
}
