//! Flash in the background: write what is sealed, recycle the oldest, turn the clock.

use std::sync::atomic::Ordering;

use flash_store::{Clock, Device, FlashStore, Place, Record};

use super::{Background, SWEEP_A_STEP};
use crate::counters::Count;
use crate::intent::blank;
use crate::{Cache, Worker};

impl Cache {
    /// Seals the open flash segment if it is full, and writes it.
    pub(super) fn flush_step(&self, flash: &FlashStore, device: &dyn Device, _background: &mut Background) {
        if flash.wants_to_seal() {
            self.flush(flash, device);
        }
    }

    fn flush(&self, flash: &FlashStore, device: &dyn Device) {
        if let Some(intent) = flash.seal(self.clock.tick()) {
            let synced = flash.journal().is_some_and(|journal| journal.settle_segment());
            let mut written = device.write(intent.at, &intent.pages);
            if synced {
                written = written.and_then(|()| device.sync()); // what was worth a journal is worth keeping
            }
            flash.written(intent.segment, written.is_ok());
        }
    }

    /// Recycles the oldest flash segment if none is free: what was hit lately is rescued to DRAM, the rest is gone.
    pub(crate) fn recycle_step(&self, flash: &FlashStore, device: &dyn Device, background: &mut Background) {
        let Some(intent) = flash.wants_to_recycle() else { return };
        background.buffer.resize(intent.pages, blank(1)[0]);
        let read = device.read(intent.at, &mut background.buffer);
        let Background { worker, buffer, .. } = background;
        let hash_of = |tenant: u16, key: &[u8]| self.memory.hash(tenant, key);
        let pages = read.is_ok().then_some(buffer.as_slice());
        let sealed = flash.recycle(&intent, pages, hash_of, |place, record, clock| {
            let known = usize::from(record.head.tenant) < self.judges.len();
            if known && self.is_dead(record.head.tenant, record.head.version, record.head.expiry).is_none() {
                self.leave_flash(flash, worker, place, &record, clock);
            }
        });
        let residence = self.clock.tick().wrapping_sub(sealed).max(1);
        let horizon = (self.horizon.load(Ordering::Relaxed) * 3 + residence.min(1 << 19)) / 4;
        self.horizon.store(horizon, Ordering::Relaxed);
        self.judges.iter().for_each(|judge| judge.sampler.lock().set_horizon(horizon));
    }

    fn leave_flash(&self, flash: &FlashStore, worker: &mut Worker, place: &Place, record: &Record<'_>, clock: Clock) {
        let tenant = record.head.tenant;
        let hash = self.memory.hash(tenant, record.head.key);
        let guard = worker.participant.enter();
        let lock = self.memory.lock(hash);
        if !flash.still_holds(place) {
            return;
        }
        if clock == Clock::Wound
            && self.memory.segments_free() > 1
            && let Ok(at) = self.memory.append(&mut worker.hands.writer, hash, &self.object_of(record))
        {
            self.publish(&guard, &lock, at, None);
            flash.hide_place(place);
            worker.hands.count(tenant, Count::Rescued);
            return;
        }
        flash.hide_place(place);
        worker.hands.count_eviction(tenant, record.head.reads > 0);
        self.registry.tenant(tenant).shadow.lost(hash, record.bytes() as u64);
        self.remember(hash, record.head.history);
        self.note_eviction(|| crate::Eviction {
            key: record.head.key.into(),
            was_read: record.head.reads > 0,
            expiry: record.head.expiry,
            idle_secs: self.now().saturating_sub(record.head.accessed),
            value_bytes: record.value.len(),
        });
    }

    /// Keeps the live share of flash within its bound, once flash is in full use.
    pub(super) fn sweep_step(&self, flash: &FlashStore) {
        if flash.segments_free() > 1 {
            return;
        }
        let percent = self.settings.flash.map_or(100, |flash| flash.live_percent);
        flash.sweep(flash.records() * percent / 100, SWEEP_A_STEP);
    }

    /// Seals and writes what is in the open flash segment, full or not. For a clean stop and for tests.
    pub fn flush_now(&self, device: &dyn Device) {
        if let Some(flash) = &self.flash {
            self.flush(flash, device);
        }
    }
}
