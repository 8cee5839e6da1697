//! What a tenant has and what it is owed.

use std::sync::atomic::{AtomicI64, Ordering};

/// Memory of one tenant, in bytes. Changed by many threads; each figure is exact, together they are a snapshot.
#[derive(Default)]
pub struct Account {
    in_use: AtomicI64,
    reserved: AtomicI64,
    /// What the arbiter has granted from the pool: the target less the reservation (less the tax on it).
    granted: AtomicI64,
    /// What the idle tax takes from the reservation.
    taxed: AtomicI64,
}

/// An account at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// Bytes of its published objects in DRAM.
    pub in_use: i64,
    /// Bytes that it is guaranteed, after idle tax.
    pub reserved: i64,
    /// Bytes that it should have.
    pub target: i64,
}

impl Balance {
    /// `target / in use`: above 1 the tenant is owed memory, below 1 it holds more than its target.
    pub fn need(&self) -> f64 {
        self.target.max(0) as f64 / self.in_use.max(1) as f64
    }

    /// Whether it is within what it is guaranteed.
    pub fn is_within_reservation(&self) -> bool {
        self.in_use <= self.reserved
    }
}

impl Account {
    /// Its figures now.
    pub fn balance(&self) -> Balance {
        let reserved = self.reserved.load(Ordering::Relaxed) - self.taxed.load(Ordering::Relaxed);
        Balance {
            in_use: self.in_use.load(Ordering::Relaxed),
            reserved,
            target: reserved + self.granted.load(Ordering::Relaxed),
        }
    }

    /// Bytes came into DRAM, or left it.
    pub fn charge(&self, bytes: i64) {
        self.in_use.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, reserved: i64, taxed: i64, granted: i64) {
        self.reserved.store(reserved, Ordering::Relaxed);
        self.taxed.store(taxed, Ordering::Relaxed);
        self.granted.store(granted, Ordering::Relaxed);
    }

    pub(crate) fn grant(&self, bytes: i64) {
        self.granted.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn granted(&self) -> i64 {
        self.granted.load(Ordering::Relaxed)
    }
}
