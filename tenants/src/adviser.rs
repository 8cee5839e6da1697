//! What memory would be worth to whom: shares it out by hit-rate curves. Used by the arbiter that follows curves, and told to operators.
//!
//! A curve of an LRU may have flat parts before steep ones, so what counts is its upper hull: from each point, the steepest way on.
//! Along hulls the greedy choice is the best one: each step goes to whoever gains most hits for a byte.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::curve::Demand;

/// What is best.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// Most hits in all, by weight.
    Hits,
    /// The worst loss of hit ratio against now is as small as can be; then most hits.
    Fairness,
    /// As many goals as can be are met, the cheapest first; then most hits.
    Goals,
}

impl Aim {
    /// As it is named in requests.
    pub const ALL: [(&str, Aim); 3] = [("hits", Aim::Hits), ("fairness", Aim::Fairness), ("goals", Aim::Goals)];
}

/// A tenant that asks for memory.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What it would do with it.
    pub demand: Demand,
    /// What its hits count.
    pub weight: f64,
    /// Bytes that it has in any case.
    pub floor: f64,
    /// Bytes that it has now.
    pub now: f64,
    /// Hit ratio that it is to reach; 0 for none.
    pub goal: f64,
}

/// Halvings in the search for the smallest loss.
const SEARCH_STEPS: usize = 40;

/// Shares `memory` bytes out; what nobody has a use for is shared evenly. The shares add up to `memory`, unless the floors are more.
pub fn share(claims: &[Claim], memory: f64, aim: Aim) -> Vec<f64> {
    let floors: Vec<f64> = claims.iter().map(|claim| claim.floor).collect();
    let floors = match aim {
        Aim::Hits => floors,
        Aim::Goals => with_goals(claims, floors, memory),
        Aim::Fairness => with_least_loss(claims, &floors, memory),
    };
    spend(claims, floors, memory)
}

/// Raises floors to what goals take, the cheapest first, as long as there is memory.
fn with_goals(claims: &[Claim], mut floors: Vec<f64>, memory: f64) -> Vec<f64> {
    let mut left = memory - floors.iter().sum::<f64>();
    let price = |n: usize| {
        let claim = &claims[n];
        let bytes = (claim.goal > 0.0).then(|| claim.demand.bytes_for(claim.goal)).flatten()?;
        Some((bytes - floors[n], n)).filter(|(bytes, _)| *bytes > 0.0)
    };
    let mut prices: Vec<(f64, usize)> = (0..claims.len()).filter_map(price).collect();
    prices.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (bytes, n) in prices {
        // what is short of its goal comes as near as it can
        let given = bytes.min(left.max(0.0));
        floors[n] += given;
        left -= given;
    }
    floors
}

/// Raises floors to the hit ratios of now less the smallest loss that memory allows for all.
fn with_least_loss(claims: &[Claim], floors: &[f64], memory: f64) -> Vec<f64> {
    let raised = |loss: f64| -> Vec<f64> {
        let wanted = |claim: &Claim| {
            let ratio = claim.demand.hit_ratio(claim.now) - loss;
            if ratio <= 0.0 { 0.0 } else { claim.demand.bytes_for(ratio).unwrap_or(claim.now) }
        };
        claims.iter().zip(floors).map(|(claim, floor)| wanted(claim).max(*floor)).collect()
    };
    // below zero is a gain for everybody
    let (mut low, mut high) = (-1.0, 1.0);
    for _ in 0..SEARCH_STEPS {
        let middle = (low + high) / 2.0;
        let fits = claims.iter().all(|claim| {
            let ratio = claim.demand.hit_ratio(claim.now) - middle;
            ratio <= 0.0 || claim.demand.bytes_for(ratio).is_some()
        }) && raised(middle).iter().sum::<f64>() <= memory;
        if fits { high = middle } else { low = middle }
    }
    raised(high)
}

/// A step along a hull: hits for each byte, and how far it goes.
struct Step {
    slope: f64,
    claim: usize,
    to: usize,
}

impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Step) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Step) -> Ordering {
        self.slope.total_cmp(&other.slope).then(other.claim.cmp(&self.claim))
    }
}

/// The corners of a curve's upper hull, from `from` bytes on.
fn hull(demand: &Demand, from: f64) -> Vec<(f64, f64)> {
    let mut corners: Vec<(f64, f64)> = vec![(from, demand.hits(from))];
    for point in demand.points.iter().filter(|(bytes, _)| *bytes > from) {
        while let [.., a, b] = corners[..]
            && (b.1 - a.1) * (point.0 - b.0) <= (point.1 - b.1) * (b.0 - a.0)
        {
            corners.pop();
        }
        corners.push(*point);
    }
    corners
}

fn spend(claims: &[Claim], mut shares: Vec<f64>, memory: f64) -> Vec<f64> {
    let hulls: Vec<Vec<(f64, f64)>> =
        claims.iter().zip(&shares).map(|(claim, floor)| hull(&claim.demand, *floor)).collect();
    let step = |claim: usize, to: usize| {
        let (a, b) = (hulls[claim].get(to - 1)?, hulls[claim].get(to)?);
        let slope = (b.1 - a.1) * claims[claim].weight / (b.0 - a.0).max(1.0);
        (slope > 0.0).then_some(Step { slope, claim, to })
    };
    let mut steps: BinaryHeap<Step> = (0..claims.len()).filter_map(|claim| step(claim, 1)).collect();
    let mut left = memory - shares.iter().sum::<f64>();
    while left > 0.0
        && let Some(Step { claim, to, .. }) = steps.pop()
    {
        let bytes = (hulls[claim][to].0 - shares[claim]).clamp(0.0, left);
        shares[claim] += bytes;
        left -= bytes;
        steps.extend(step(claim, to + 1));
    }
    let rest = left.max(0.0) / claims.len().max(1) as f64;
    shares.iter_mut().for_each(|share| *share += rest);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(points: &[(f64, f64)], floor: f64, now: f64, goal: f64) -> Claim {
        let points = std::iter::once((0.0, 0.0)).chain(points.iter().copied()).collect();
        Claim { demand: Demand { reads: 100.0, points, sampled: 1 }, weight: 1.0, floor, now, goal }
    }

    fn hits(claims: &[Claim], shares: &[f64]) -> f64 {
        claims.iter().zip(shares).map(|(claim, share)| claim.demand.hits(*share)).sum()
    }

    #[test]
    fn memory_goes_where_it_earns_most() {
        // a cliff behind a flat part, a concave curve, and one that nothing helps
        let claims = [
            claim(&[(50.0, 2.0), (60.0, 80.0)], 0.0, 20.0, 0.0),
            claim(&[(20.0, 40.0), (80.0, 50.0)], 0.0, 20.0, 0.0),
            claim(&[], 10.0, 60.0, 0.0),
        ];
        let shares = share(&claims, 100.0, Aim::Hits);
        assert_eq!((shares[0].round(), shares[1].round(), shares[2].round()), (60.0, 30.0, 10.0), "{shares:?}");
        assert!((shares.iter().sum::<f64>() - 100.0).abs() < 1e-6);
        // nothing that can be tried is better
        let best = hits(&claims, &shares);
        for a in 0..=90 {
            let tried = [f64::from(a), f64::from(90 - a), 10.0];
            assert!(hits(&claims, &tried) <= best + 1e-6, "{tried:?}");
        }
        let mut heavy = claims;
        heavy[1].weight = 1000.0;
        assert_eq!(share(&heavy, 100.0, Aim::Hits)[1].round(), 80.0);
    }

    #[test]
    fn floors_and_goals_come_first() {
        let claims = [
            claim(&[(100.0, 90.0)], 0.0, 50.0, 0.0),
            claim(&[(100.0, 40.0)], 30.0, 50.0, 0.2),
            claim(&[(10.0, 10.0)], 0.0, 0.0, 0.9),
        ];
        assert_eq!(share(&claims, 100.0, Aim::Hits)[1].round(), 30.0);
        let shares = share(&claims, 100.0, Aim::Goals);
        assert!((shares[1] - 50.0).abs() < 1.0, "its goal takes 50: {shares:?}");
        assert!(shares[2] <= 10.0, "no memory meets a goal of 0.9 there: {shares:?}");
    }

    #[test]
    fn the_worst_loss_is_as_small_as_can_be() {
        let claims = [claim(&[(100.0, 90.0)], 0.0, 50.0, 0.0), claim(&[(100.0, 10.0)], 0.0, 50.0, 0.0)];
        let loss = |shares: &[f64]| {
            let of = |n: usize| claims[n].demand.hit_ratio(50.0) - claims[n].demand.hit_ratio(shares[n]);
            of(0).max(of(1))
        };
        // with less memory than before
        let fair = share(&claims, 80.0, Aim::Fairness);
        assert!(loss(&fair) < loss(&share(&claims, 80.0, Aim::Hits)) && loss(&fair) < loss(&[40.0, 40.0]), "{fair:?}");
        for a in 0..=80 {
            assert!(loss(&[f64::from(a), f64::from(80 - a)]) >= loss(&fair) - 1e-3);
        }
    }
}
