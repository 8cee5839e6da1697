//! What leaves flash: rescued to DRAM, written again past DRAM as a budget has it, or gone.

use std::sync::atomic::Ordering;

use flash_store::{Clock, FlashStore, Place, Record, RecordHead};
use predictor::Observation;

use super::fate::Offer;
use crate::clock::ticks_since;
use crate::counters::Count;
use crate::{Cache, Worker};

impl Cache {
    /// Decides on a record of a segment that is recycled, and carries the decision out.
    pub(super) fn leave_flash(
        &self,
        flash: &FlashStore,
        worker: &mut Worker,
        place: &Place,
        record: &Record<'_>,
        clock: Clock,
    ) {
        let tenant = record.head.tenant;
        let hash = self.memory.hash(tenant, record.head.key);
        let guard = worker.participant.enter();
        let lock = self.memory.lock(hash);
        if !flash.still_holds(place) {
            return;
        }
        let was_hit = clock == Clock::Wound;
        let is_rescued = self.deserves_rescue(record, clock);
        // what was hit goes on past DRAM too if its budget has it: in DRAM it would soon have to be written all the same
        let again =
            Record { head: if was_hit { self.head_after_hit(hash, &record.head) } else { record.head }, ..*record };
        let is_kept = (was_hit || !is_rescued) && self.is_worth_keeping(hash, &again, was_hit);
        let stays = is_kept && self.demote_again(flash, &worker.hands, hash, &again)
            || (is_rescued || is_kept)
                && self.return_to_dram(&guard, &lock, &mut worker.hands, hash, &self.object_of(hash, record, was_hit));
        flash.hide_place(place);
        if stays {
            worker.hands.count(tenant, Count::Rescued);
            return;
        }
        worker.hands.count_eviction(tenant, record.head.reads > 0);
        self.registry.tenant(tenant).shadow.lost(hash, record.bytes() as u64);
        self.remember(hash, record.head.history, record.head.reads);
        self.note_eviction(|| crate::Eviction {
            key: record.head.key.into(),
            was_read: record.head.reads > 0,
            expiry: record.head.expiry,
            idle_secs: self.now().saturating_sub(record.head.accessed),
            value_bytes: record.value.len(),
        });
    }

    /// What was hit lately is kept; of the rest that the clock has not given up, what its tenant has within its reservation, of DRAM or of flash. What the model
    /// would admit again is not, unless a budget bounds it: that was measured to cost more writes than it gives hits (docs/flash.md).
    fn deserves_rescue(&self, record: &Record<'_>, clock: Clock) -> bool {
        match clock {
            Clock::Wound => true,
            Clock::Running => {
                let tenant = self.registry.tenant(record.head.tenant);
                let promised = tenant.terms().flash_reserved_bytes;
                tenant.account.balance().is_within_reservation()
                    || promised > 0 && self.flash_bytes_of(tenant.id) <= promised
            }
            Clock::Ghost => false,
        }
    }

    /// Whether a record that is to leave flash should be written again, as its budget has it: who has one spends it on the best, be that new
    /// to flash or not. Without a budget there is no end to what could be written again.
    fn is_worth_keeping(&self, hash: u64, record: &Record<'_>, was_hit: bool) -> bool {
        let head = &record.head;
        if !self.has_budget(head.tenant) {
            return false;
        }
        let idle = if was_hit { 0 } else { self.idle_ticks(head) };
        let horizon = self.horizon.load(Ordering::Relaxed).max(1);
        let faded = (!was_hit).then(|| (1.0 + idle as f32 / horizon as f32).log2());
        let offer = Offer { hash, tenant: head.tenant, key: head.key, bytes: record.bytes(), faded };
        self.is_written(&offer, &self.observe_record(record, idle))
    }

    /// The head of a record that was hit: a stay ends and another begins, as if it had gone through DRAM.
    fn head_after_hit<'r>(&self, hash: u64, head: &RecordHead<'r>) -> RecordHead<'r> {
        let history = self.record_history_after(hash, head, true);
        RecordHead { history, reads: 0, accessed: self.now(), ..*head }
    }

    /// Ticks since the last access to a record, those on flash not counted: it knows of none.
    fn idle_ticks(&self, head: &RecordHead<'_>) -> u32 {
        ticks_since(self.clock.tick(), self.clock.tick_at(head.accessed))
    }

    fn observe_record(&self, record: &Record<'_>, idle: u32) -> Observation {
        let head = &record.head;
        Observation {
            reads: log_memory::reads_estimate(head.reads),
            updates: u32::from(head.updates),
            age: idle,
            idle,
            bytes: (head.key.len() + record.value.len()) as u32,
            history: predictor::accesses_at(head.history),
            ttl_left: (head.expiry != 0).then(|| head.expiry.saturating_sub(self.clock.secs())),
        }
    }
}
