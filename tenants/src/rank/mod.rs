//! Ranks: a tenant's order of worth inside its own objects. The higher, the longer it stays.
//!
//! A rank is a function of what is known of one object, so it costs nothing on the request path and no list. Policies that are
//! known as lists (segmented LRU, S3-FIFO) are told here as what their lists come to: how much faster an object ages while it has
//! not proved itself. docs/ranks.md compares them.

use std::str::FromStr;

/// What a rank may look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Ticks since the last access.
    pub idle: u32,
    /// Ticks since it arrived.
    pub age: u32,
    /// Reads since it was stored.
    pub reads: u32,
    /// Bytes that it takes.
    pub bytes: u32,
    /// Accesses to its key before it arrived, as far as they are remembered.
    pub history: u32,
    /// What the tenant's model says of it, if there is one: above 0 it will be read.
    pub score: Option<f32>,
    /// Whether flash would have it: without its place in DRAM it costs a read of flash, and no miss.
    pub is_for_flash: bool,
}

/// A tenant's policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rank {
    /// Least recently used goes first.
    Lru,
    /// Least frequently used goes first: reads for each tick since it arrived, where time without a read counts double.
    Lfu,
    /// Segmented LRU: what was never read ages four times as fast.
    Slru,
    /// As S3-FIFO: what was never read leaves with a tenth of the age; reads count up to three, and their order does not.
    S3Fifo,
    /// Hyperbolic caching: reads for each tick since it arrived, and for each byte.
    Hyperbolic,
    /// Expected hits for each byte and tick: accesses, those of earlier stays counted in, by recency and size.
    Density,
    /// What the predictor expects to be read, by recency and size (density where there is no model), and a part of that for what flash would have.
    #[default]
    Score,
}

/// Every rank by its name in the configuration.
pub const RANKS: [(&str, Rank); 7] = [
    ("lru", Rank::Lru),
    ("lfu", Rank::Lfu),
    ("slru", Rank::Slru),
    ("s3-fifo", Rank::S3Fifo),
    ("hyperbolic", Rank::Hyperbolic),
    ("density", Rank::Density),
    ("score", Rank::Score),
];

/// How much faster than what was read an object ages that never was, in a segmented LRU.
const PROBATION: f32 = 4.0;
/// The same for S3-FIFO, whose small queue has a tenth of the space.
const SMALL_QUEUE: f32 = 10.0;
/// Ticks without an access that say little yet: in 256 there are as many accesses as objects in DRAM.
const QUIET_TICKS: f32 = 256.0;
/// What a hit on flash costs of what a miss costs: so much is an object's place in DRAM worth that would be on flash without it.
const FLASH_HIT_COST: f32 = 0.25;
/// Reads that S3-FIFO counts at most.
const S3_READS_MAX: f32 = 3.0;

impl Rank {
    /// Worth of an object: compared within one tenant only, unless all have one rank.
    #[inline]
    pub fn worth(self, standing: &Standing) -> u64 {
        let (idle, age) = (standing.idle as f32 + 1.0, standing.age as f32 + 1.0);
        let reads = standing.reads as f32;
        let proved = standing.reads > 0 || standing.history > 0;
        let bytes = standing.bytes.max(1) as f32;
        let worth = match self {
            // in whole numbers: a tick more or less matters at any age; reads break ties
            Rank::Lru => {
                return (u64::from(u32::MAX - standing.idle) << 16)
                    + u64::from(standing.reads.min(u32::from(u16::MAX)));
            }
            Rank::Lfu => (reads + 1.0 / 16.0) / (age + idle + 16.0),
            Rank::Slru => 1.0 / if standing.reads > 0 { idle } else { idle * PROBATION },
            Rank::S3Fifo if proved => (1.0 + reads.min(S3_READS_MAX)) / age,
            Rank::S3Fifo => 1.0 / (age * SMALL_QUEUE),
            Rank::Hyperbolic => (reads + 1.0) / (age * bytes),
            Rank::Density => density(standing, bytes),
            Rank::Score => {
                let saved = if standing.is_for_flash { FLASH_HIT_COST } else { 1.0 };
                let reads = match standing.score {
                    Some(score) => score.clamp(-8.0, 8.0).exp2() / ((standing.idle as f32 + QUIET_TICKS) * bytes),
                    None => density(standing, bytes),
                };
                reads * saved
            }
        };
        u64::from(worth.to_bits()) // positive floats are ordered as their bits are
    }

    /// Whether it looks at [`Standing::score`] and [`Standing::is_for_flash`].
    pub fn wants_score(self) -> bool {
        self == Rank::Score
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        RANKS.iter().find(|(_, rank)| *rank == self).expect("every rank has a name").0
    }
}

fn density(standing: &Standing, bytes: f32) -> f32 {
    let times = 1.0 + standing.reads as f32 + standing.history as f32;
    times / ((standing.idle as f32 + QUIET_TICKS) * bytes)
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Rank, String> {
        let found = RANKS.iter().find(|(name, _)| *name == text);
        let names: Vec<&str> = RANKS.iter().map(|(name, _)| *name).collect();
        found.map(|(_, rank)| *rank).ok_or_else(|| format!("'{text}' is no rank: take one of {}", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(reads: u32, age: u32, idle: u32, bytes: u32) -> Standing {
        Standing { reads, age, idle, bytes, ..Standing::default() }
    }

    fn prefers(rank: Rank, better: Standing, worse: Standing) -> bool {
        rank.worth(&better) > rank.worth(&worse)
    }

    #[test]
    fn every_rank_prefers_what_was_read_lately_and_often() {
        for (name, rank) in RANKS {
            assert_eq!(name.parse(), Ok(rank));
            assert!(prefers(rank, standing(20, 100, 5, 100), standing(1, 10_000, 9_000, 100)), "{name}");
        }
        "best".parse::<Rank>().unwrap_err();
    }

    #[test]
    fn each_rank_has_its_own_order() {
        let (fresh_unread, old_read) = (standing(0, 50, 50, 100), standing(1, 300, 120, 100));
        assert!(prefers(Rank::Lru, fresh_unread, old_read));
        assert!(prefers(Rank::Slru, old_read, fresh_unread));
        assert!(prefers(Rank::S3Fifo, old_read, fresh_unread));
        assert!(prefers(Rank::Lfu, standing(20, 100, 5, 1), standing(20, 100_000, 90_000, 1)), "frequency fades");
        for rank in [Rank::Hyperbolic, Rank::Density] {
            assert!(prefers(rank, standing(3, 100, 10, 100), standing(3, 100, 10, 1000)), "bytes count");
        }
        assert!(!prefers(Rank::Lru, standing(3, 100, 10, 100), standing(3, 100, 10, 1000)));
        let known = Standing { history: 2, ..standing(0, 100, 100, 100) };
        assert!(prefers(Rank::Density, known, standing(0, 100, 100, 100)));
        let (good, bad) = (Standing { score: Some(1.0), ..known }, Standing { score: Some(-1.0), ..known });
        assert!(prefers(Rank::Score, good, bad) && !prefers(Rank::Density, good, bad));
        let (safe, lost) = (Standing { is_for_flash: true, ..good }, good);
        assert!(prefers(Rank::Score, lost, safe), "what only DRAM would keep");
        let much_better = Standing { score: Some(4.0), ..safe };
        assert!(prefers(Rank::Score, much_better, lost), "a hit on flash is not for nothing");
        assert!(!prefers(Rank::Density, lost, safe), "others know of no flash");
    }
}
