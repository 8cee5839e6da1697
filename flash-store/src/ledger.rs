//! What was written to flash and why: the figures behind the amplifications.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals, in bytes unless named otherwise.
#[derive(Default)]
pub struct Ledger {
    pub(crate) written: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) record_bytes: AtomicU64,
    pub(crate) rescue: AtomicU64,
    pub(crate) segments_written: AtomicU64,
    pub(crate) segments_recycled: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) fill_bytes: AtomicU64,
    pub(crate) discarded: AtomicU64,
}

/// A ledger at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerFigures {
    /// Bytes handed to the device: whole segments (INV-WHOLE).
    pub written: u64,
    /// Records placed into segments.
    pub records: u64,
    /// Bytes of those records.
    pub record_bytes: u64,
    /// Of those, bytes of records that had been on flash before.
    pub rescue: u64,
    /// Segments written.
    pub segments_written: u64,
    /// Segments recycled.
    pub segments_recycled: u64,
    /// Objects that lost their index entry for want of a slot.
    pub evicted: u64,
    /// Segments that could not be written.
    pub write_errors: u64,
    /// Reads that failed, or brought a segment that is not whole.
    pub read_errors: u64,
    /// Bytes of the written segments that held records when sealed.
    pub fill_bytes: u64,
    /// Bytes that the device was told it need not keep.
    pub discarded: u64,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Ledger {
    /// The totals now.
    pub fn figures(&self) -> LedgerFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LedgerFigures {
            written: get(&self.written),
            records: get(&self.records),
            record_bytes: get(&self.record_bytes),
            rescue: get(&self.rescue),
            segments_written: get(&self.segments_written),
            segments_recycled: get(&self.segments_recycled),
            evicted: get(&self.evicted),
            write_errors: get(&self.write_errors),
            read_errors: get(&self.read_errors),
            fill_bytes: get(&self.fill_bytes),
            discarded: get(&self.discarded),
        }
    }
}
