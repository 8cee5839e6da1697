//! What leaves the cache for want of room, told to whoever watches. Costs one load while nobody does.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::Cache;

/// Evictions that wait to be taken; more are not told.
const WAITING_MAX: usize = 4096;

/// An object that left the cache alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Its key.
    pub key: Box<[u8]>,
    /// Whether it was read since it was stored.
    pub was_read: bool,
    /// Absolute second of expiry; 0 for never.
    pub expiry: u32,
    /// Seconds since it was used.
    pub idle_secs: u32,
    /// Bytes of its value.
    pub value_bytes: usize,
}

#[derive(Default)]
pub(crate) struct Evicted {
    watched: AtomicBool,
    waiting: Mutex<Vec<Eviction>>,
}

impl Cache {
    /// Whether evictions are to be noted for [`Cache::take_evictions`].
    pub fn watch_evictions(&self, watched: bool) {
        self.evicted.watched.store(watched, Ordering::Relaxed);
    }

    /// Takes the evictions since the last call.
    pub fn take_evictions(&self) -> Vec<Eviction> {
        std::mem::take(&mut *self.evicted.waiting.lock())
    }

    pub(crate) fn note_eviction(&self, eviction: impl FnOnce() -> Eviction) {
        if self.evicted.watched.load(Ordering::Relaxed) {
            let mut waiting = self.evicted.waiting.lock();
            if waiting.len() < WAITING_MAX {
                waiting.push(eviction());
            }
        }
    }
}
