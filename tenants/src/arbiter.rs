//! The arbiter: moves credit to tenants whose misses were shadow hits, and taxes idle reservations (Memshare, sections 3.2
//! and 4). It changes targets only; the cleaner makes memory follow them.
//!
//! INV-SUM: the targets of all tenants add up to the memory, before and after each step.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::adviser::{Aim, Claim, share};
use crate::registry::{Registry, Tenant};

/// Credit that one shadow hit moves, in bytes.
pub const CREDIT_BYTES: i64 = 64 << 10;
/// Tenants that are asked before a credit is given up.
const PICKS: u32 = 10;
/// Rate of the idle tax.
const TAX_RATE: f64 = 0.5;
/// Memory that was not read for so long is idle.
pub const IDLE_AFTER_SECS: u32 = 5 * 3600;

/// Who moves the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Arbiter {
    /// Shadow hits, a credit each (Memshare).
    Shadow,
    /// Hit-rate curves: the shares that promise most hits.
    #[default]
    Curve,
    /// The objects themselves: beyond reservations the one of most worth stays, whoever's it is. For tenants whose ranks are the same and
    /// say what a byte earns, as `density` and `score` do.
    Worth,
    /// Nobody: shares stay as they are. With reservations of all the memory, static partitions.
    Fixed,
    /// There are no shares: one order of worth for all objects. For comparisons.
    Global,
}

/// Every arbiter by its name.
pub const ARBITERS: [(&str, Arbiter); 5] = [
    ("shadow", Arbiter::Shadow),
    ("curve", Arbiter::Curve),
    ("worth", Arbiter::Worth),
    ("fixed", Arbiter::Fixed),
    ("global", Arbiter::Global),
];

impl Arbiter {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        ARBITERS.iter().find(|(_, known)| *known == self).expect("every arbiter has a name").0
    }
}

impl std::str::FromStr for Arbiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Arbiter, String> {
        let found = ARBITERS.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, arbiter)| *arbiter)
            .ok_or_else(|| format!("'{text}': take shadow, curve, worth, fixed or global"))
    }
}

/// Part of the way to the shares that curves promise most of that one look at them goes.
const STEP_OF_CURVE: f64 = 0.5;
/// Objects of a tenant that a curve has to be told from to be believed.
const SAMPLED_MIN: usize = 32;

fn ratio_of(lately: &AtomicU32) -> f64 {
    f64::from(lately.load(Ordering::Relaxed)) / f64::from(u32::MAX)
}

impl Registry {
    /// Whether a tenant is below the hit ratio that it is to reach.
    fn is_below_goal(&self, tenant: &Tenant) -> bool {
        let goal = f64::from(tenant.terms().goal_hit_ratio);
        goal > 0.0 && self.hit_ratio_lately(tenant.id) < goal
    }

    /// Hits of each read of a tenant lately, as [`Registry::note_hits`] was told.
    pub fn hit_ratio_lately(&self, id: u16) -> f64 {
        ratio_of(&self.tenant(id).lately)
    }

    /// Tells of a tenant's hits in all, in DRAM, and reads, since this was called last: they are mixed into what was before.
    pub fn note_hits(&self, id: u16, hits: u64, dram_hits: u64, reads: u64) {
        if reads == 0 {
            return;
        }
        let tenant = self.tenant(id);
        for (lately, hits) in [(&tenant.lately, hits), (&tenant.dram_lately, dram_hits)] {
            let (before, now) = (ratio_of(lately), hits as f64 / reads as f64);
            let mixed = if before == 0.0 { now } else { before + (now - before) / 4.0 };
            lately.store((mixed.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32, Ordering::Relaxed);
        }
    }

    /// What the tenants would do with memory, in the units of their accounts. `reads` says how many a tenant has had.
    pub fn claims(&self, reads: impl Fn(u16) -> u64) -> Vec<(u16, Claim)> {
        let claim = |tenant: &Tenant| {
            let (balance, terms) = (tenant.account.balance(), tenant.terms());
            let mut demand = tenant.curve.demand(reads(tenant.id));
            demand.calibrate(balance.in_use as f64, ratio_of(&tenant.dram_lately));
            let claim = Claim {
                demand,
                weight: terms.weight.into(),
                floor: balance.reserved.max(0) as f64,
                now: balance.target.max(0) as f64,
                goal: terms.goal_hit_ratio.into(),
            };
            (tenant.id, claim)
        };
        self.tenants().map(claim).collect()
    }

    /// Moves grants towards the shares that the curves promise most hits of: reservations first, then goals, then hits.
    pub fn follow_curves(&self, reads: impl Fn(u16) -> u64) {
        let (ids, claims): (Vec<u16>, Vec<Claim>) = self.claims(reads).into_iter().unzip();
        let known: usize = claims.iter().map(|claim| claim.demand.sampled).sum();
        if known < SAMPLED_MIN {
            return;
        }
        let _turn = self.arbitration.lock();
        let pool: i64 = ids.iter().map(|id| self.tenant(*id).account.granted()).sum();
        let floors: f64 = claims.iter().map(|claim| claim.floor).sum();
        let shares = share(&claims, floors + pool.max(0) as f64, Aim::Goals);
        let mut left = pool;
        for (n, ((id, share), claim)) in ids.iter().zip(&shares).zip(&claims).enumerate() {
            let account = &self.tenant(*id).account;
            let before = account.granted();
            let wanted = (share - claim.floor).max(0.0);
            let step = before + ((wanted - before as f64) * STEP_OF_CURVE) as i64;
            let given = if n + 1 == ids.len() { left } else { step.min(left) };
            account.grant(given - before);
            left -= given;
        }
    }

    /// Gives `winner` one credit of another tenant's grant, picked at random by `dice`. A tenant whose target would fall below
    /// its reservation is passed over. Returns whether anything moved.
    pub fn shadow_hit(&self, winner: u16, mut dice: u64) -> bool {
        let _turn = self.arbitration.lock();
        let count = self.count();
        if !self.tenant(winner).is_present() {
            return false;
        }
        for _ in 0..PICKS {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let loser = self.tenant(((dice >> 33) as usize % count) as u16);
            if loser.id != winner && loser.account.granted() >= CREDIT_BYTES && !self.is_below_goal(loser) {
                loser.account.grant(-CREDIT_BYTES);
                self.tenant(winner).account.grant(CREDIT_BYTES);
                return true;
            }
        }
        false
    }

    /// Shares `memory` bytes out: every tenant's reservation, taxed by what of it lies idle, and the rest in the proportions of
    /// the present grants. Called when the memory changes and once an idle period. `active` says which share of a tenant's
    /// memory was read lately.
    pub fn share_out(&self, memory: i64, active: impl Fn(u16) -> f64) {
        let _turn = self.arbitration.lock();
        let tenants: Vec<&Tenant> = self.tenants().collect();
        for tenant in self.all().filter(|tenant| !tenant.is_present()) {
            tenant.account.set(0, 0, 0);
        }
        self.shared_out.store(memory, Ordering::Relaxed);
        let configured: i64 = tenants.iter().map(|tenant| tenant.reserved_bytes()).sum();
        // reservations are stated in units of -m; indexes and buffers take their part of it from everyone alike
        let scale = (memory as f64 / self.memory_configured() as f64).min(1.0);
        let scale = if configured > 0 { scale.min(memory as f64 / configured as f64) } else { scale };
        let shares: Vec<(i64, i64)> = tenants
            .iter()
            .map(|tenant| {
                let reserved = (tenant.reserved_bytes() as f64 * scale) as i64;
                (reserved, reserved - (reserved as f64 / tax(active(tenant.id))) as i64)
            })
            .collect();
        let pool = memory - shares.iter().map(|(reserved, taxed)| reserved - taxed).sum::<i64>();
        let before: i64 = tenants.iter().map(|tenant| tenant.account.granted().max(0)).sum();
        let mut left = pool;
        for (n, (tenant, (reserved, taxed))) in tenants.iter().zip(&shares).enumerate() {
            let part = if before > 0 {
                (pool as f64 * (tenant.account.granted().max(0) as f64 / before as f64)) as i64
            } else {
                pool / tenants.len() as i64
            };
            let part = if n + 1 == tenants.len() { left } else { part.min(left) };
            left -= part;
            tenant.account.set(*reserved, *taxed, part);
        }
        debug_assert_eq!(self.targets_sum(), memory);
    }

    /// The memory that was shared out last: what all targets add up to.
    pub fn shared_out(&self) -> i64 {
        self.shared_out.load(Ordering::Relaxed)
    }

    /// Sum of all targets.
    pub fn targets_sum(&self) -> i64 {
        self.all().map(|tenant| tenant.account.balance().target).sum()
    }
}

/// What a reservation is divided by: 1 when all of it is active, 2 at rate 0.5 when none is.
fn tax(active: f64) -> f64 {
    (1.0 - active.clamp(0.0, 1.0) * TAX_RATE) / (1.0 - TAX_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{MEMORIES, Recognition, TenantSpec, Terms};

    fn registry(reserved: &[i64]) -> Registry {
        let specs = reserved.iter().enumerate().map(|(n, reserved)| TenantSpec {
            name: format!("t{n}"),
            recognised: Recognition::Prefix(format!("t{n}:")),
            terms: Terms { reserved_bytes: *reserved, ..Terms::default() },
        });
        Registry::new(specs.collect(), 64 << 20, 0, MEMORIES, None).unwrap()
    }

    #[test]
    fn targets_always_add_up_to_the_memory() {
        let registry = registry(&[16 << 20, 8 << 20, 0]);
        for (round, memory) in [60 << 20, 64 << 20, 33 << 20, 59 << 20].into_iter().enumerate() {
            registry.share_out(memory, |id| if id == 1 { 0.3 } else { 1.0 });
            assert_eq!(registry.targets_sum(), memory);
            for dice in 0..500 {
                registry.shadow_hit((dice % 3) as u16, dice * 7919 + round as u64);
                assert_eq!(registry.targets_sum(), memory);
            }
        }
    }

    #[test]
    fn credits_never_cut_into_a_reservation() {
        let registry = registry(&[16 << 20, 8 << 20]);
        registry.share_out(60 << 20, |_| 1.0);
        let mut moved = 0;
        for dice in 0..100_000 {
            moved += usize::from(registry.shadow_hit(1, dice));
        }
        assert!(moved > 100);
        let loser = registry.tenant(2).account.balance();
        assert!(loser.target >= loser.reserved);
        assert!(!registry.shadow_hit(1, 1), "nothing is left to give");
    }

    #[test]
    fn curves_move_the_pool_and_nothing_else() {
        let registry = registry(&[16 << 20, 0]);
        registry.share_out(40 << 20, |_| 1.0);
        let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..40_000u64 {
            // the second reads again and again what takes 20 MiB; the first never reads twice
            let (first, second) = (registry.tenant(1), registry.tenant(2));
            first.curve.read(key(n), None);
            first.curve.stored(key(n), 40_000);
            second.curve.read(key(n % 500), Some(40_000));
            if n % 1_000 == 999 {
                registry.follow_curves(|_| n);
                assert_eq!(registry.targets_sum(), 40 << 20, "INV-SUM");
                let balance = first.account.balance();
                assert!(balance.target >= balance.reserved, "{balance:?}");
            }
        }
        let targets: Vec<i64> = registry.tenants().map(|tenant| tenant.account.balance().target >> 20).collect();
        assert!(targets[2] >= 20 && targets[1] < 20, "{targets:?}");
    }

    #[test]
    fn who_is_below_its_goal_gives_nothing() {
        let registry = registry(&[0, 0]);
        registry.share_out(64 << 20, |_| 1.0);
        let mut specs: Vec<TenantSpec> = registry.tenants().map(Tenant::spec).collect();
        specs[2].terms.goal_hit_ratio = 0.9;
        registry.revise(&specs, &MEMORIES, |_, _| Ok(()), || 0, |_| {}).unwrap();
        registry.note_hits(2, 10, 10, 100);
        let before = registry.tenant(2).account.granted();
        (0..10_000).for_each(|dice| {
            registry.shadow_hit(1, dice * 7919);
        });
        assert_eq!(registry.tenant(2).account.granted(), before);
        assert!(registry.tenant(0).account.granted() < CREDIT_BYTES, "the others gave what they had");
    }

    #[test]
    fn idle_memory_is_taxed() {
        assert_eq!((tax(1.0), tax(0.0)), (1.0, 2.0));
        let registry = registry(&[16 << 20, 16 << 20]);
        registry.share_out(64 << 20, |id| if id == 1 { 0.0 } else { 1.0 });
        assert_eq!(registry.tenant(1).account.balance().reserved, 8 << 20);
        assert_eq!(registry.tenant(2).account.balance().reserved, 16 << 20);
    }
}
