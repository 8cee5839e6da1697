//! Flash in the background: write what is sealed, recycle the oldest, turn the clock.

use std::sync::atomic::Ordering;

use flash_store::{Device, FlashStore, Journal, Page, WriteIntent};

use super::{Background, SWEEP_A_STEP};
use crate::Cache;

impl Cache {
    /// Seals the open flash segment if it is full, and writes it, or has it written.
    pub(super) fn flush_step(&self, flash: &FlashStore, device: &dyn Device, background: &mut Background) {
        let Some(writer) = &mut background.writer else {
            if flash.wants_to_seal() {
                self.flush(flash, device);
            }
            return;
        };
        let full = flash.wants_to_seal();
        if full {
            writer.wait(); // two segments are full: the device sets the pace
        }
        if let Some((segment, ok)) = writer.finished() {
            flash.written(segment, ok);
        }
        if let Some(intent) = full.then(|| flash.seal(self.clock.tick())).flatten() {
            writer.begin(intent);
        }
    }

    fn flush(&self, flash: &FlashStore, device: &dyn Device) {
        if let Some(intent) = flash.seal(self.clock.tick()) {
            let written = self.write_segment(device, &intent);
            flash.written(intent.segment, written);
        }
    }

    /// Writes a segment, and what has to outlive the machine before it does. Returns whether it went well.
    pub fn write_segment(&self, device: &dyn Device, intent: &WriteIntent) -> bool {
        let syncs = self.journal().is_some_and(Journal::settle_segment);
        let written = device.write(intent.at, &intent.pages);
        // what was worth a journal is worth keeping
        written.and_then(|()| if syncs { device.sync() } else { Ok(()) }).is_ok()
    }

    /// Recycles the oldest flash segment if no more than `spare` are free: what deserves it is rescued to DRAM, the rest is gone.
    pub(crate) fn recycle_step(
        &self,
        flash: &FlashStore,
        device: &dyn Device,
        background: &mut Background,
        spare: usize,
    ) {
        let Some(intent) = flash.wants_to_recycle(spare) else { return };
        let Background { worker, buffer, .. } = background;
        let pages = flash.may_read_segment().then(|| {
            let mut pages = std::mem::take(buffer);
            pages.resize(intent.pages, Page::ZERO);
            let pages = device.read_into(intent.at, pages).ok();
            flash.note_read(intent.segment, pages.is_some());
            pages
        });
        let pages = pages.flatten();
        let hash_of = |tenant: u16, key: &[u8]| self.memory.hash(tenant, key);
        let mut left: Vec<(u16, u64)> = Vec::new();
        let sealed = flash.recycle(&intent, pages.as_deref(), hash_of, |place, record, clock| {
            let known = self.is_known(record.head.tenant);
            if known
                && self.is_dead(record.head.tenant, record.head.key, record.head.version, record.head.expiry).is_none()
            {
                match left.iter_mut().find(|(tenant, _)| *tenant == record.head.tenant) {
                    Some((_, bytes)) => *bytes += record.bytes() as u64,
                    None => left.push((record.head.tenant, record.bytes() as u64)),
                }
                self.leave_flash(flash, worker, place, &record, clock);
            }
        });
        *buffer = pages.unwrap_or_default();
        for (tenant, standing) in &self.standings {
            let now = left.iter().find(|(own, _)| usize::from(*own) == tenant).map_or(0, |(_, bytes)| *bytes);
            let before = standing.flash_left.load(Ordering::Relaxed);
            standing.flash_left.store((before * 7 + now) / 8, Ordering::Relaxed);
        }
        if device.discard(intent.at, flash.segment_bytes() as u64).is_ok_and(|cares| cares) {
            flash.note_discarded(flash.segment_bytes() as u64);
        }
        let residence = self.clock.tick().wrapping_sub(sealed).max(1);
        let horizon = (self.horizon.load(Ordering::Relaxed) * 3 + residence.min(1 << 19)) / 4;
        self.horizon.store(horizon, Ordering::Relaxed);
        self.standings.iter().for_each(|(_, standing)| standing.sampler.lock().set_horizon(horizon));
    }

    /// Keeps the live share of flash within its bound, once flash is in full use.
    pub(super) fn sweep_step(&self, flash: &FlashStore) {
        if flash.segments_free() > 1 {
            return;
        }
        let percent = self.settings.flash.map_or(100, |flash| flash.live_percent);
        flash.sweep(flash.records() * percent / 100, SWEEP_A_STEP);
    }

    /// Seals and writes what is in the open flash segment, full or not. For a clean stop and for tests; nothing else is being written.
    pub fn flush_now(&self, device: &dyn Device) {
        if let Some(flash) = &self.flash {
            self.flush(flash, device);
        }
    }
}
