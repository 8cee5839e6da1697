//! Every so many ticks: how tenants fare, and what curves say of who should have more.

use tenants::{Aim, Arbiter, Claim, Demand, share};

use super::Background;
use crate::clock::ticks_since;
use crate::{ARBITRATION_TICKS, Cache, Count};

/// Tenants that are looked at in a tick, where there are many.
const TENANTS_A_TICK: u32 = 4;

impl Cache {
    pub(super) fn arbitrate_step(&self, background: &mut Background) {
        let tick = self.clock.tick();
        // the more tenants there are, the seldomer each is looked at: a look costs the same for all
        let pause = ARBITRATION_TICKS.max(self.registry.count() as u32 / TENANTS_A_TICK);
        if ticks_since(tick, background.arbitrated) < pause {
            return;
        }
        background.arbitrated = tick;
        for tenant in self.registry.tenants() {
            let totals = self.totals(tenant.id);
            let now = [totals.hits(), totals.get(Count::DramHits), totals.get(Count::Gets)];
            let before = std::mem::replace(&mut *self.standing(tenant.id).looked_at.lock(), now);
            let [hits, dram_hits, reads] = std::array::from_fn(|n| now[n].saturating_sub(before[n]));
            self.registry.note_hits(tenant.id, hits, dram_hits, reads);
        }
        if self.registry.arbiter() == Arbiter::Curve {
            self.registry.follow_curves(|tenant| self.totals(tenant).get(Count::Gets));
        }
    }

    /// What every tenant would do with DRAM, by its curve.
    pub fn claims(&self) -> Vec<(u16, Claim)> {
        self.registry.claims(|tenant| self.totals(tenant).get(Count::Gets))
    }

    /// A tenant's curve over DRAM as its rank uses it, and over DRAM and flash together, where an LRU is what is known.
    pub fn curves(&self, tenant: u16) -> (Demand, Demand) {
        let both = self.registry.tenant(tenant).curve.demand(self.totals(tenant).get(Count::Gets));
        let claim = self.claims().into_iter().find(|(id, _)| *id == tenant);
        (claim.map_or_else(|| both.clone(), |(_, claim)| claim.demand), both)
    }

    /// How DRAM would best be shared out between tenants if nobody had a reservation: a claim and the bytes for it, each.
    pub fn advise(&self, aim: Aim) -> Vec<(u16, Claim, f64)> {
        let (ids, mut claims): (Vec<u16>, Vec<Claim>) = self.claims().into_iter().unzip();
        claims.iter_mut().for_each(|claim| claim.floor = 0.0);
        let memory = self.registry.targets_sum().max(0) as f64;
        let shares = share(&claims, memory, aim);
        ids.into_iter().zip(claims).zip(shares).map(|((id, claim), share)| (id, claim, share)).collect()
    }
}
