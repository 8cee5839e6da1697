//! Which segments a cleaner pass takes.
//!
//! Where much is dead, those of which most is: what lives in them is moved, and nobody loses anything. So nothing that there is room for is dropped,
//! however often it is stored anew. What was replaced or deleted is counted; what has expired is not, and is found by looking.
//!
//! For that, and where little is dead, two to four times as many as it takes are looked into, half of them by the tenant that should shrink (the lowest need; dead bytes
//! count in), half at random. A few entries of each go through the same contest as those of a pass; the pass takes the segments of which most is dead or loses. What loses is
//! not spread evenly: what was stored and never read lies together, and so does what has survived. The better a segment's losers are known,
//! the less is moved for each byte that is freed.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use log_memory::{Candidate, SegmentId};

use super::Background;
use super::appraise::Appraisal;
use super::fate::Entry;
use super::places::Floors;
use crate::Cache;

/// Most segments that one pass takes, and most bytes of segments: what bounds its time and the memory of its lists. Who stores faster than
/// memory is freed waits as long as a pass takes: ten of 1 MiB instead of twenty halve the p99.9 of SETs, and cost no hits (docs/data-plane.md).
const TAKEN_MAX: usize = 20;
const TAKEN_BYTES_MAX: usize = 10 << 20;
/// Of so many segments that a pass takes, one comes free at least. With flash it is not all or nothing, and one less costs no hits (docs/flash.md).
const TAKEN_FOR_EACH_FREED: usize = 5;
const TAKEN_WITH_FLASH: usize = 4;
/// Segments that are looked into, if there are so many.
const LOOKED_INTO: usize = 40;
/// Part of a looked into segment's bytes, and number of its entries, that are looked at, whichever is more. By bytes alone, which are few entries where
/// objects are large, floors are so coarse that it costs hits (docs/data-plane.md).
const LOOKED_AT_PART: usize = 64;
const LOOKED_AT_ENTRIES: usize = 128;
/// Part of what is looked at that loses. The more it is, the less is moved for each byte that is freed, and the further are the losers from being the worst of all.
const LOSING: f64 = 0.175;
const LOSING_WITH_FLASH: f64 = 0.25;
/// What a dead byte counts against one of the tenant that should shrink. Freeing it costs no object; and where one tenant has everything,
/// its bytes say nothing, and dead ones are what tells segments apart.
const DEAD_WEIGHT: usize = 10;

/// Part of a segment that has to be dead, or more, to take it for that alone. A fourth, as long as hardly anybody has to lose: at most three bytes are moved then
/// for each that comes free, and what fits into memory stays there. A half, where somebody loses again and again all the same: to put that off is worth no
/// more than a byte for a byte (docs/data-plane.md).
const DEAD_PART: usize = 4;
const DEAD_PART_WHERE_CROWDED: usize = 2;
/// Of the last 32 passes, so many in which somebody lost make it crowded, until there is none among 32.
const CONTESTS_MANY: u32 = 2;
/// As much as so many segments hold is dead in those that are taken for that; or half of it, if there is no more.
const DEAD_SEGMENTS: usize = 2;

/// The segments of a pass, which it owns.
pub(super) struct Choice {
    pub(super) segments: Vec<SegmentId>,
    pub(super) stays: Stays,
}

/// What of a pass's segments stays in memory.
pub(super) enum Stays {
    /// All that lives.
    All,
    /// What is worth as much as that at least, and what else there is room for.
    Above(Floors),
    /// The best of it: the pass sees all there is, and needs no sample.
    Best,
}

impl Stays {
    pub(super) fn floors(&self) -> Option<&Floors> {
        if let Stays::Above(floors) = self { Some(floors) } else { None }
    }
}

/// What was seen of a segment that was looked into.
struct Glance {
    id: SegmentId,
    live: usize,
    /// Bytes of the entries that were looked at.
    seen: usize,
    /// Of those, what has expired or was flushed.
    expired: usize,
    /// And that with what loses.
    losing: usize,
}

impl Glance {
    /// About how many bytes of the segment come free if so much of what was seen goes.
    fn freed(&self, going: usize, segment_bytes: usize) -> usize {
        let gone = (self.live as u64 * going as u64).checked_div(self.seen as u64).unwrap_or_default() as usize;
        segment_bytes - (self.live - gone)
    }

    /// The same if it is cleaned and nobody loses.
    fn dead(&self, segment_bytes: usize) -> usize {
        self.freed(self.expired, segment_bytes)
    }
}

impl Cache {
    pub(super) fn choose_segments(
        &self,
        background: &mut Background,
        appraisal: &mut Appraisal<'_>,
        for_somebody: bool,
    ) -> Choice {
        let segment_bytes = self.memory.shape().segment_bytes;
        let candidates = self.memory.candidates();
        if self.settings.exact_order {
            return Choice { segments: self.take(&candidates), stays: Stays::Best };
        }
        let dead = self.deadest(&candidates);
        if !dead.is_empty() {
            self.note_contest(false);
            return Choice { segments: self.take(dead), stays: Stays::All };
        }
        if !self.settings.evict {
            // it is searched for as long as somebody has use for it: it may be all of memory, in vain
            let segments = if for_somebody { self.next_in_turn(background, &candidates) } else { Vec::new() };
            return Choice { segments, stays: Stays::All };
        }
        let taken = (candidates.len() / 4).clamp(TAKEN_FOR_EACH_FREED, self.taken_max()).min(candidates.len());
        let looked_into = self.choose_candidates(background, candidates);
        let (mut glances, floors) = self.look_into(background, appraisal, &looked_into);
        glances.sort_by_key(|glance| Reverse(glance.dead(segment_bytes)));
        let dead = self.enough_of(glances.iter().map(|glance| glance.dead(segment_bytes)));
        let (taken, stays) = if dead > 0 {
            (dead, Stays::All)
        } else {
            glances.sort_by_key(|glance| Reverse(glance.freed(glance.losing, segment_bytes)));
            (taken, Stays::Above(floors))
        };
        self.note_contest(dead == 0);
        for glance in glances.iter().skip(taken) {
            self.memory.put_back(glance.id);
        }
        Choice { segments: glances.into_iter().take(taken).map(|glance| glance.id).collect(), stays }
    }

    /// The segments of which most is known to be dead, if that is enough.
    fn deadest<'c>(&self, candidates: &'c [Candidate]) -> Vec<&'c Candidate> {
        let segment_bytes = self.memory.shape().segment_bytes;
        let mut deadest: Vec<_> =
            candidates.iter().filter(|candidate| segment_bytes - candidate.live >= self.dead_at_least()).collect();
        deadest.sort_unstable_by_key(|candidate| candidate.live);
        deadest.truncate(self.enough_of(deadest.iter().map(|candidate| segment_bytes - candidate.live)));
        deadest
    }

    /// How many segments of so many dead bytes, the deadest first, a pass takes for that alone. 0: somebody has to lose; where nobody may, little
    /// dead is worth more work.
    fn enough_of(&self, dead: impl Iterator<Item = usize>) -> usize {
        let wanted = DEAD_SEGMENTS * self.memory.shape().segment_bytes;
        let (mut taken, mut sum) = (0, 0);
        for bytes in dead.take(self.taken_max()).take_while(|bytes| *bytes >= self.dead_at_least()) {
            if sum >= wanted {
                break;
            }
            sum += bytes;
            taken += 1;
        }
        if sum < wanted / 2 { 0 } else { taken }
    }

    /// What has to be dead of a segment, to take it for that alone.
    fn dead_at_least(&self) -> usize {
        let is_crowded = self.is_crowded.load(Ordering::Relaxed);
        let part = if is_crowded { DEAD_PART_WHERE_CROWDED } else { DEAD_PART };
        if self.settings.evict { self.memory.shape().segment_bytes / part } else { 1 }
    }

    /// Notes whether somebody loses in this pass. It is crowded from a few such passes on until there is none among so many.
    fn note_contest(&self, is_one: bool) {
        let latest = self.contests.load(Ordering::Relaxed) << 1 | u32::from(is_one);
        self.contests.store(latest, Ordering::Relaxed);
        let many = if self.is_crowded.load(Ordering::Relaxed) { 1 } else { CONTESTS_MANY };
        self.is_crowded.store(latest.count_ones() >= many, Ordering::Relaxed);
    }

    /// Takes some of all segments, others each time: what has expired in them, or was flushed, nobody has counted as dead yet.
    fn next_in_turn(&self, background: &mut Background, candidates: &[Candidate]) -> Vec<SegmentId> {
        let from = background.searched % candidates.len().max(1);
        background.searched = from + self.taken_max();
        self.take(candidates.iter().cycle().skip(from).take(self.taken_max().min(candidates.len())))
    }

    /// Takes those of some segments that nobody else has taken meanwhile.
    fn take<'c>(&self, candidates: impl IntoIterator<Item = &'c Candidate>) -> Vec<SegmentId> {
        candidates.into_iter().map(|candidate| candidate.id).filter(|id| self.memory.choose(*id)).collect()
    }

    /// How many segments a pass frees at least of so many that it has taken.
    pub(super) fn freed_at_least(&self, taken: usize) -> usize {
        let for_each = if self.flash.is_some() { TAKEN_WITH_FLASH } else { TAKEN_FOR_EACH_FREED };
        taken.min(self.taken_max()).div_ceil(for_each)
    }

    fn taken_max(&self) -> usize {
        (TAKEN_BYTES_MAX / self.memory.shape().segment_bytes).clamp(TAKEN_FOR_EACH_FREED, TAKEN_MAX)
    }

    /// Those that are looked into. They are the caller's from here on.
    fn choose_candidates(&self, background: &mut Background, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let wanted = LOOKED_INTO.min(candidates.len());
        let shrinking = self.lowest_need();
        let score = |candidate: &Candidate| {
            let dead = candidate.written - candidate.live;
            Reverse(self.memory.bytes_of(*candidate, shrinking) + DEAD_WEIGHT * dead)
        };
        candidates.sort_by_cached_key(score);
        // the second half of the places goes to random ones among the rest
        for place in wanted.div_ceil(2)..wanted {
            let pick = place + background.worker.hands.roll() as usize % (candidates.len() - place);
            candidates.swap(place, pick);
        }
        candidates.truncate(wanted);
        candidates.retain(|candidate| self.memory.choose(candidate.id));
        candidates
    }

    /// The tenant that should give memory back first.
    fn lowest_need(&self) -> u16 {
        let balances = self.registry.all().map(|tenant| (tenant.id, tenant.account.balance()));
        let with_objects = balances.filter(|(_, balance)| balance.in_use > 0);
        with_objects.min_by(|a, b| a.1.need().total_cmp(&b.1.need())).map_or(0, |(id, _)| id)
    }

    /// Has the beginnings of segments hold a contest: what each would lose, and the floors that come out of it.
    fn look_into(
        &self,
        background: &Background,
        appraisal: &mut Appraisal<'_>,
        looked_into: &[Candidate],
    ) -> (Vec<Glance>, Floors) {
        let guard = background.worker.participant.enter();
        let mut entries: Vec<Entry> = Vec::new();
        let mut ends = Vec::new();
        let bytes = self.memory.shape().segment_bytes / LOOKED_AT_PART;
        let mut glances: Vec<Glance> = Vec::with_capacity(looked_into.len());
        for candidate in looked_into {
            let Candidate { id, live, .. } = *candidate;
            let mut glance = Glance { id, live, seen: 0, expired: 0, losing: 0 };
            self.memory.scan_beginning(&guard, id, bytes, LOOKED_AT_ENTRIES, |part| {
                let object = part.owner;
                glance.seen += part.bytes;
                if self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_some() {
                    glance.expired += part.bytes;
                } else {
                    entries.push(appraisal.entry_of(&part));
                }
            });
            glances.push(glance);
            ends.push(entries.len());
        }
        let losing = if self.flash.is_some() { LOSING_WITH_FLASH } else { LOSING };
        let live: u64 = entries.iter().map(|entry| u64::from(entry.found.bytes)).sum();
        let losers = self.losers(&entries, (live as f64 * (1.0 - losing)) as usize, None);
        for glance in &mut glances {
            glance.losing = glance.expired;
        }
        for (loser, bytes) in &losers {
            let segment = ends.partition_point(|end| *end <= *loser as usize);
            glances[segment].losing += bytes;
        }
        let lost = losers.iter().map(|(loser, _)| &entries[*loser as usize]);
        (glances, Floors::above(lost, self.registry.arbiter()))
    }
}
