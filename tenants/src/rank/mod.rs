//! Ranks: a tenant's order of worth inside its own objects. The higher, the longer it stays.

mod lfu;
mod lru;

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
}

/// A tenant's policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rank {
    /// Least recently used goes first.
    #[default]
    Lru,
    /// Least frequently used goes first, frequency fading with time.
    Lfu,
}

/// Every rank by its name in the configuration.
pub const RANKS: [(&str, Rank); 2] = [("lru", Rank::Lru), ("lfu", Rank::Lfu)];

impl Rank {
    /// Worth of an object: compared within one tenant only.
    pub fn worth(self, standing: &Standing) -> u64 {
        match self {
            Rank::Lru => lru::worth(standing),
            Rank::Lfu => lfu::worth(standing),
        }
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        RANKS.iter().find(|(_, rank)| *rank == self).expect("every rank has a name").0
    }
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Rank, String> {
        let found = RANKS.iter().find(|(name, _)| *name == text);
        let names: Vec<&str> = RANKS.iter().map(|(name, _)| *name).collect();
        found.map(|(_, rank)| *rank).ok_or_else(|| format!("'{text}' is no rank: take {}", names.join(" or ")))
    }
}
