//! Write budgets: every few ticks those who have one are told what they may write, and move their bar.

use flash_store::FlashStore;
use parking_lot::Mutex;
use predictor::{Bid, Budget};
use tenants::WriteBudget;

use super::Background;
use crate::clock::ticks_since;
use crate::{Cache, Count};

/// Ticks between two looks; more where there are many tenants.
const PAUSE_TICKS: u32 = 8;
const TENANTS_A_TICK: u32 = 64;
/// What was allowed is kept for later up to this part of what is allowed in an hour, and a segment at least: flash is not written in smaller pieces.
const SAVED_PART: f64 = 0.05;
const SECS_AN_HOUR: f64 = 3600.0;
/// Offers that a budget looks back over: this part of the memory, and of flash if that is more. From few offers the bar would jump.
const WINDOW_OF_MEMORY: u64 = 4;
const WINDOW_OF_FLASH: u64 = 32;

/// What the segments before count when another is written.
const KEPT: f64 = 0.95;

/// A budget, and what it was told last.
pub(crate) struct Paced {
    pub(crate) budget: Budget,
    pub(crate) terms: WriteBudget,
    stored: u64,
    /// Allowed in the last hour, about.
    hour: f64,
}

/// When budgets were looked at last, and what written records have cost.
#[derive(Default)]
pub(super) struct Accounts {
    tick: u32,
    secs: u32,
    written: u64,
    record_bytes: u64,
    /// Bytes written lately, and bytes of records for which.
    lately: (f64, f64),
}

impl Paced {
    fn new(terms: WriteBudget, stored: u64, window_bytes: u64) -> Paced {
        Paced { budget: Budget::new(window_bytes), terms, stored, hour: 0.0 }
    }

    fn allow(&mut self, secs: u32, stored: u64, flash_bytes: u64, segment_bytes: usize) {
        let fresh = stored.saturating_sub(std::mem::replace(&mut self.stored, stored));
        let Some(bytes) = self.terms.allows(secs, fresh, flash_bytes) else { return };
        self.hour = self.hour * (1.0 - f64::from(secs) / SECS_AN_HOUR).max(0.0) + bytes;
        self.budget.allow(bytes, secs, (self.hour * SAVED_PART).max(segment_bytes as f64));
    }
}

impl Cache {
    pub(super) fn budget_step(&self, flash: &FlashStore, background: &mut Background) {
        let (tick, now) = (self.clock.tick(), self.now());
        let accounts = &mut background.accounts;
        let pause = PAUSE_TICKS.max(self.registry.count() as u32 / TENANTS_A_TICK);
        if ticks_since(tick, accounts.tick) < pause {
            return;
        }
        accounts.tick = tick;
        let before = std::mem::replace(&mut accounts.secs, now);
        let secs = if before == 0 { 0 } else { now.saturating_sub(before) };
        self.learn_overhead(flash, accounts);
        let flash_bytes = (flash.segments() * flash.segment_bytes()) as u64;
        let window_bytes = (self.settings.memory_bytes as u64 / WINDOW_OF_MEMORY).max(flash_bytes / WINDOW_OF_FLASH);
        for tenant in self.registry.tenants() {
            let terms = tenant.terms().flash_write_budget;
            let mut paced = self.standing(tenant.id).paced.lock();
            if !terms.is_limited() {
                *paced = None;
                continue;
            }
            let stored = self.totals(tenant.id).get(Count::StoredBytes);
            let paced = paced.get_or_insert_with(|| Box::new(Paced::new(terms, stored, window_bytes)));
            paced.terms = terms;
            paced.allow(secs, stored, flash_bytes, flash.segment_bytes());
        }
        let terms = self.settings.flash_write_budget;
        if terms.is_limited() {
            let by_bytes = matches!(terms, WriteBudget::Amplification(_));
            let stored = if by_bytes { self.totals_of_all().get(Count::StoredBytes) } else { 0 };
            let mut paced = self.paced.lock();
            let paced = paced.get_or_insert_with(|| Box::new(Paced::new(terms, stored, window_bytes)));
            paced.allow(secs, stored, flash_bytes, flash.segment_bytes());
        }
    }

    /// Bytes that the device takes for each byte of a record: pages are not quite full, and segments have headers.
    fn learn_overhead(&self, flash: &FlashStore, accounts: &mut Accounts) {
        let ledger = flash.ledger();
        if ledger.written == accounts.written {
            return;
        }
        let written = ledger.written - std::mem::replace(&mut accounts.written, ledger.written);
        let records = ledger.record_bytes - std::mem::replace(&mut accounts.record_bytes, ledger.record_bytes);
        let (all_written, all_records) = &mut accounts.lately;
        *all_written = *all_written * KEPT + written as f64;
        *all_records = *all_records * KEPT + records as f64;
        *self.write_overhead.lock() = (*all_written / all_records.max(1.0)).clamp(1.0, 2.0);
    }

    /// Whether a tenant's writes fall under a budget, its own or that of the whole cache.
    pub(super) fn has_budget(&self, tenant: u16) -> bool {
        self.standing(tenant).paced.lock().is_some() || self.paced.lock().is_some()
    }

    /// The merit that has to be passed of all budgets that a tenant's objects fall under; None if there is none.
    pub(super) fn bar(&self, tenant: u16) -> Option<f32> {
        let bar_of = |paced: &Mutex<Option<Box<Paced>>>| paced.lock().as_ref().map(|paced| paced.budget.bar());
        match (bar_of(&self.standing(tenant).paced), bar_of(&self.paced)) {
            (Some(own), Some(whole)) => Some(own.max(whole)),
            (own, whole) => own.or(whole),
        }
    }

    /// Whether the budgets that an object falls under, if any, have it written.
    pub(super) fn is_within_budgets(&self, tenant: u16, bytes: usize, bid: impl FnOnce() -> Bid) -> bool {
        let (mut own, mut whole) = (self.standing(tenant).paced.lock(), self.paced.lock());
        if own.is_none() && whole.is_none() {
            return true;
        }
        let bid = bid();
        let passes =
            |paced: &mut Option<Box<Paced>>| paced.as_mut().is_none_or(|paced| paced.budget.offers(&bid, bytes));
        passes(&mut own) && passes(&mut whole)
    }

    /// A tenant's record was placed in the open segment.
    pub(super) fn charge_budgets(&self, tenant: u16, record_bytes: u64) {
        for paced in [&self.standing(tenant).paced, &self.paced] {
            if let Some(paced) = paced.lock().as_mut() {
                paced.budget.charge(record_bytes as f64 * *self.write_overhead.lock());
            }
        }
    }

    /// A write budget, a tenant's or (None) that of the whole cache, if it has one: what it is, the merit that has to be passed, and the bytes
    /// that may be written now.
    pub fn write_budget(&self, tenant: Option<u16>) -> Option<(WriteBudget, f32, f64)> {
        let paced = tenant.map_or(&self.paced, |tenant| &self.standing(tenant).paced).lock();
        paced.as_ref().map(|paced| (paced.terms, paced.budget.bar(), paced.budget.balance()))
    }
}
