//! The arbiter: moves credit to tenants whose misses were shadow hits, and taxes idle reservations (Memshare, sections 3.2
//! and 4). It changes targets only; the cleaner makes memory follow them.
//!
//! INV-SUM: the targets of all tenants add up to the memory, before and after each step.

use crate::registry::{Registry, Tenant};

/// Credit that one shadow hit moves, in bytes.
pub const CREDIT_BYTES: i64 = 64 << 10;
/// Tenants that are asked before a credit is given up.
const PICKS: u32 = 10;
/// Rate of the idle tax.
const TAX_RATE: f64 = 0.5;
/// Memory that was not read for so long is idle.
pub const IDLE_AFTER_SECS: u32 = 5 * 3600;

impl Registry {
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
            if loser.id != winner && loser.account.granted() >= CREDIT_BYTES {
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
    use crate::registry::{Recognition, TenantSpec, Terms};

    fn registry(reserved: &[i64]) -> Registry {
        let specs = reserved.iter().enumerate().map(|(n, reserved)| TenantSpec {
            name: format!("t{n}"),
            recognised: Recognition::Prefix(format!("t{n}:")),
            terms: Terms { reserved_bytes: *reserved, ..Terms::default() },
        });
        Registry::new(specs.collect(), 64 << 20, 0, 1 << 20, None).unwrap()
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
    fn idle_memory_is_taxed() {
        assert_eq!((tax(1.0), tax(0.0)), (1.0, 2.0));
        let registry = registry(&[16 << 20, 16 << 20]);
        registry.share_out(64 << 20, |id| if id == 1 { 0.0 } else { 1.0 });
        assert_eq!(registry.tenant(1).account.balance().reserved, 8 << 20);
        assert_eq!(registry.tenant(2).account.balance().reserved, 16 << 20);
    }
}
