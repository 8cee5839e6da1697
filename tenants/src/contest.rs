//! The contest for places in DRAM: which tenant keeps an object next (Memshare, section 4.2).
//!
//! Every tenant brings its candidates, best first. Tenants at or below their reservation are served first, by need; then the
//! others, by need (or by what else the caller goes by). The head of the chosen list gets the place and is charged for it. INV-RESERVED rests on this order.

use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::account::Balance;

/// One tenant's part in a contest.
pub struct Contestant<T> {
    /// Its figures, the candidates not counted as in use.
    pub balance: Balance,
    /// Its candidates with their bytes, worst first (the best is popped from the end).
    pub candidates: Vec<(T, usize)>,
}

#[derive(PartialEq)]
struct Turn {
    within: bool,
    claim: f64,
    contestant: usize,
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Turn) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Turn) -> std::cmp::Ordering {
        (self.within.cmp(&other.within))
            .then(self.claim.total_cmp(&other.claim))
            .then(other.contestant.cmp(&self.contestant))
    }
}

/// Gives places away until `places_bytes` are taken or nothing is left. Of tenants that are both within their reservation, or both beyond it,
/// the one with the highest claim is served: [`Balance::need`] with its best candidate, or what the candidate itself is worth. `keep` is told of each survivor; what
/// remains in the contestants' lists has lost.
pub fn contest<T>(
    contestants: &mut [Contestant<T>],
    places_bytes: usize,
    claim: impl Fn(&Balance, &T) -> f64,
    mut keep: impl FnMut(T),
) {
    let turn = |n: usize, contestant: &Contestant<T>| {
        let next = contestant.candidates.last()?;
        let with_it = Balance { in_use: contestant.balance.in_use + next.1 as i64, ..contestant.balance };
        Some(Turn { within: with_it.is_within_reservation(), claim: claim(&with_it, &next.0), contestant: n })
    };
    let mut turns: BinaryHeap<Turn> = contestants.iter().enumerate().filter_map(|(n, c)| turn(n, c)).collect();
    let mut left = places_bytes;
    while let Some(mut first) = turns.peek_mut() {
        let n = first.contestant;
        let contestant = &mut contestants[n];
        let Some((candidate, bytes)) = contestant.candidates.pop() else { return };
        if bytes > left {
            contestant.candidates.push((candidate, bytes));
            return;
        }
        left -= bytes;
        contestant.balance.in_use += bytes as i64;
        keep(candidate);
        match turn(n, contestant) {
            Some(next) => *first = next,
            None => drop(PeekMut::pop(first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(balance: &Balance, _: &u32) -> f64 {
        balance.need()
    }

    fn contestant(in_use: i64, reserved: i64, target: i64, count: usize) -> Contestant<u32> {
        let candidates = (0..count as u32).map(|n| (n, 100)).collect();
        Contestant { balance: Balance { in_use, reserved, target }, candidates }
    }

    #[test]
    fn a_tenant_within_its_reservation_keeps_its_objects() {
        let mut all = [contestant(0, 2_000, 2_000, 10), contestant(50_000, 1_000, 60_000, 50)];
        let mut kept = 0;
        contest(&mut all, 3_000, need, |_| kept += 1);
        assert_eq!(kept, 30);
        assert!(all[0].candidates.is_empty(), "all ten stay, though the other's need is higher later");
        // so it is with the lower need of the two
        let mut all = [contestant(1_500, 2_600, 2_600, 10), contestant(1_000, 500, 60_000, 50)];
        assert!(all[0].balance.need() < all[1].balance.need());
        contest(&mut all, 2_000, need, |_| {});
        assert!(all[0].candidates.is_empty());
    }

    #[test]
    fn beyond_reservations_need_decides_and_evens_out() {
        let mut all = [contestant(10_000, 0, 30_000, 100), contestant(10_000, 0, 15_000, 100)];
        contest(&mut all, 10_000, need, |_| {});
        let (first, second) = (all[0].balance, all[1].balance);
        assert!((first.need() - second.need()).abs() < 0.7, "{} {}", first.need(), second.need());
        assert!(first.in_use > second.in_use);
    }

    #[test]
    fn beyond_reservations_worth_may_decide_instead() {
        // the second tenant is owed nothing, and its objects are worth more
        let mut all = [contestant(10_000, 2_000, 30_000, 100), contestant(10_000, 2_000, 2_000, 100)];
        all[1].candidates.iter_mut().for_each(|(n, _)| *n += 50);
        all[0].balance.in_use = 1_000;
        contest(&mut all, 10_000, |_, n| f64::from(*n), |_| {});
        let kept = [100 - all[0].candidates.len(), 100 - all[1].candidates.len()];
        assert_eq!(kept, [25, 75], "ten within its reservation, of the others the ninety of most worth");
    }

    #[test]
    fn the_best_of_a_tenant_survive() {
        let mut all = [contestant(0, 0, 1000, 10)];
        let mut kept = Vec::new();
        contest(&mut all, 350, need, |n| kept.push(n));
        assert_eq!(kept, [9, 8, 7]);
    }
}
