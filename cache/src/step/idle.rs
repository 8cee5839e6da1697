//! The idle tax's measure: once an idle period, a walk over DRAM in bounded pieces finds which share of each tenant's bytes was
//! used since the period began (Memshare, section 3.3).

use std::sync::atomic::{AtomicU32, Ordering};

use log_memory::Cursor;

use super::Background;
use crate::Cache;
use crate::clock::ticks_since;

/// Buckets that one step walks.
const BUCKETS_A_STEP: usize = 512;
/// A period ends early when so many ticks have passed: an object keeps its last access in 20 bits.
const TICKS_MAX: u32 = 1 << (log_memory::TICK_BITS - 2);

/// Which share of a tenant's bytes was active in the last whole period, as bits of an f32.
pub(crate) struct Activity(AtomicU32);

impl Default for Activity {
    fn default() -> Activity {
        Activity(AtomicU32::new(1f32.to_bits()))
    }
}

/// The period that runs, and the walk that ends it.
#[derive(Default)]
pub(crate) struct Period {
    /// Second and tick at which it began; None before the first.
    began: Option<(u32, u32)>,
    walk: Option<Walk>,
}

struct Walk {
    cursor: Cursor,
    /// Bytes that were used in the period, and all, a tenant each.
    bytes: Vec<(u64, u64)>,
}

impl Cache {
    /// Which share of a tenant's memory is active, from 0 to 1.
    pub fn activity(&self, tenant: u16) -> f64 {
        f64::from(f32::from_bits(self.standing(tenant).activity.0.load(Ordering::Relaxed)))
    }

    pub(super) fn idle_step(&self, background: &mut Background) {
        if self.settings.idle_secs == 0 {
            return;
        }
        let (now, tick) = (self.now(), self.clock.tick());
        let Period { began, walk } = &mut background.period;
        let (second, first_tick) = *began.get_or_insert((now, tick));
        let is_over =
            now.saturating_sub(second) >= self.settings.idle_secs || ticks_since(tick, first_tick) >= TICKS_MAX;
        if walk.is_none() && is_over {
            *walk = Some(Walk { cursor: Cursor::default(), bytes: vec![(0, 0); self.registry.count()] });
        }
        let Some(Walk { cursor, bytes }) = walk else { return };
        let length = ticks_since(tick, first_tick);
        let guard = background.worker.participant.enter();
        let more = self.memory.visit(&guard, cursor, BUCKETS_A_STEP, |object| {
            // who came while the walk went on is looked at in the next
            let Some((active, all)) = bytes.get_mut(usize::from(object.tenant())) else { return };
            *all += object.charged_bytes() as u64;
            if ticks_since(tick, object.access().last) <= length {
                *active += object.charged_bytes() as u64;
            }
        });
        if more {
            return;
        }
        for ((_, standing), (active, all)) in self.standings.iter().zip(bytes) {
            // who holds nothing keeps nothing from others
            let fraction = if *all == 0 { 1.0 } else { *active as f32 / *all as f32 };
            standing.activity.0.store(fraction.to_bits(), Ordering::Relaxed);
        }
        *walk = None;
        *began = Some((now, tick));
        self.share_out();
    }
}
