//! Who of a pass's entries gets a place in DRAM, and who loses.

use tenants::{Arbiter, Balance, Contestant, contest};

use super::fate::Entry;
use crate::Cache;

/// An entry's place in its tenant's order, worst first, as one number, which sorts twice as fast as three do: tenant, worth, and the entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u128);

impl Ranked {
    fn new(tenant: u16, worth: u64, entry: u32) -> Ranked {
        Ranked(u128::from(tenant) << 96 | u128::from(worth) << 32 | u128::from(entry))
    }

    fn tenant(self) -> u16 {
        (self.0 >> 96) as u16
    }

    fn entry(self) -> u32 {
        self.0 as u32
    }
}

/// What a tenant's object must be worth at least to keep its place, as a contest over a sample has shown it. A tenant that lost nothing there
/// keeps all.
pub(super) struct Floors {
    /// By the tenant's number, as far as tenants lost something.
    by_tenant: Vec<u64>,
    arbiter: Arbiter,
}

impl Floors {
    /// What the losers were worth, and no more, does not suffice.
    pub(super) fn above<'e>(losers: impl Iterator<Item = &'e Entry>, arbiter: Arbiter) -> Floors {
        let mut floors = Floors { by_tenant: Vec::new(), arbiter };
        for loser in losers {
            let number = usize::from(whose(loser, arbiter));
            if number >= floors.by_tenant.len() {
                floors.by_tenant.resize(number + 1, 0);
            }
            floors.by_tenant[number] = floors.by_tenant[number].max(loser.worth.saturating_add(1));
        }
        floors
    }

    /// Bytes of the entries that keep their place.
    pub(super) fn kept_bytes(&self, entries: &[Entry]) -> usize {
        entries.iter().filter(|entry| self.keep(entry)).map(|entry| entry.found.bytes as usize).sum()
    }

    fn keep(&self, entry: &Entry) -> bool {
        entry.worth >= self.by_tenant.get(usize::from(whose(entry, self.arbiter))).copied().unwrap_or_default()
    }
}

/// In whose order an entry stands. Without shares there is one order for all, as if they were one tenant's.
fn whose(entry: &Entry, arbiter: Arbiter) -> u16 {
    if arbiter == Arbiter::Global { 0 } else { entry.tenant }
}

impl Cache {
    /// Gives `places` bytes away among entries; returns the numbers and bytes of those that get none. A tenant is expected to keep as much of what it
    /// has there as lies above its floor; without floors, the same part as everybody, more or less by what it is owed.
    pub(super) fn losers(&self, entries: &[Entry], places: usize, floors: Option<&Floors>) -> Vec<(u32, usize)> {
        let bytes_of = |entry: &Entry| f64::from(entry.found.bytes);
        let live: f64 = entries.iter().map(bytes_of).sum();
        let all: i64 = self.registry.all().map(|tenant| tenant.account.balance().in_use).sum();
        // these are a part of each tenant's objects: were they to make up for all that a tenant holds too much, good ones would go
        let seen = (live / all.max(1) as f64).min(1.0);
        let is_kept = |entry: &&Entry| floors.is_none_or(|floors| floors.keep(entry));
        let kept = places as f64 / entries.iter().filter(is_kept).map(bytes_of).sum::<f64>().max(1.0);
        let expected = |own: &[Ranked], balance: &Balance| {
            let entries = own.iter().map(|own| &entries[own.entry() as usize]);
            let owed = if floors.is_some() { 0.0 } else { (balance.target - balance.in_use) as f64 * seen };
            entries.filter(is_kept).map(bytes_of).sum::<f64>() * kept + owed
        };
        let arbiter = self.registry.arbiter();
        let rank = |(n, entry): (usize, &Entry)| Ranked::new(whose(entry, arbiter), entry.worth, n as u32);
        let mut ranked: Vec<Ranked> = entries.iter().enumerate().map(rank).collect();
        ranked.sort_unstable();
        let mut contestants: Vec<Contestant<u32>> = ranked
            .chunk_by(|a, b| a.tenant() == b.tenant())
            .map(|own| {
                let candidates: Vec<_> =
                    own.iter().map(|own| (own.entry(), entries[own.entry() as usize].found.bytes as usize)).collect();
                let first = &entries[own[0].entry() as usize];
                let mut balance = self.registry.tenant(first.tenant).account.balance();
                let bytes = candidates.iter().map(|(_, bytes)| *bytes as i64).sum::<i64>();
                balance.target = balance.in_use - bytes + expected(own, &balance) as i64;
                balance.in_use -= bytes;
                Contestant { balance, candidates }
            })
            .collect();
        let claim = |balance: &Balance, n: &u32| match arbiter {
            Arbiter::Worth => entries[*n as usize].worth as f64,
            _ => balance.need(),
        };
        contest(&mut contestants, places, claim, |_| {});
        contestants.into_iter().flat_map(|contestant| contestant.candidates).collect()
    }
}
