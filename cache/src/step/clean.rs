//! A cleaner pass: several segments in, their survivors out into fewer.
//!
//! What is published in them is ranked a tenant apart; the contest says who keeps a place; losers are demoted or dropped. Then the
//! survivors move, a segment at a time, and each emptied segment is retired.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flash_store::{Device, FlashStore};
use log_memory::{Found, Relocated, SegmentId};

use super::Background;
use super::appraise::Appraisal;
use super::choose::{Choice, Stays};
use super::fate::{Entry, Loser};
use crate::Cache;

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

impl Cache {
    pub(super) fn clean_pass(&self, background: &mut Background, device: Option<&dyn Device>) {
        let mut appraisal = Appraisal::new(self);
        let for_somebody = self.somebody_waits_for_room();
        let choice = self.choose_segments(background, &mut appraisal, for_somebody);
        let chosen = &choice.segments;
        if chosen.is_empty() && self.settings.evict {
            return;
        }
        let segment_bytes = self.memory.shape().segment_bytes;
        let mut census = self.take_census(background, &mut appraisal, chosen);
        if !self.settings.evict && census.live_bytes + segment_bytes > chosen.len() * segment_bytes {
            // too little is dead to make room of it; what has expired was not looked for unless somebody waits
            let found_nothing = if for_somebody { &self.barren } else { &self.at_rest };
            found_nothing.store(self.clock.tick(), Ordering::Relaxed);
            chosen.iter().for_each(|id| self.memory.put_back(*id));
            return;
        }
        if let Some(places) = self.places(&choice, &census)
            && census.live_bytes > places
        {
            let losers = self.losers(&census.entries, places, choice.stays.floors());
            self.lose_places(background, device, &mut census.entries, losers);
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

    /// Bytes that survivors may take, if not all survive: as many of the chosen segments come free as those that lose make room for, and a part of
    /// them at least.
    fn places(&self, choice: &Choice, census: &Census) -> Option<usize> {
        let (chosen, segment_bytes) = (choice.segments.len(), self.memory.shape().segment_bytes);
        let least = self.freed_at_least(chosen);
        let freed = match &choice.stays {
            Stays::All => return None,
            Stays::Above(floors) => {
                let needed = floors.kept_bytes(&census.entries).div_ceil(segment_bytes * FILL_PERCENT / 100);
                chosen.saturating_sub(needed).max(least)
            }
            Stays::Best => least,
        };
        Some((chosen - freed) * segment_bytes * FILL_PERCENT / 100)
    }

    /// Lists what is published in the chosen segments; hides what has expired.
    fn take_census(&self, background: &mut Background, appraisal: &mut Appraisal<'_>, chosen: &[SegmentId]) -> Census {
        let Background { worker, .. } = background;
        let guard = worker.participant.enter();
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

    /// Has those lose that got no place. Of the entries, those are marked that are gone.
    fn lose_places(
        &self,
        background: &mut Background,
        device: Option<&dyn Device>,
        entries: &mut [Entry],
        mut losers: Vec<(u32, usize)>,
    ) {
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
                } else if self.settings.evict {
                    self.give_up(background, *next);
                    left = &left[1..];
                } else {
                    return moved; // the segment goes back as it is
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
