//! One tenant's stream of requests.

use std::io::Write;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal, Zipf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::law::{Popularity, TenantLaw, ValueSizes};
use crate::event::{Event, Op};

/// Largest value that is made up.
const VALUE_BYTES_MAX: f64 = 900_000.0;

enum Ranks {
    Zipf(Zipf<f64>),
    Uniform,
    /// Ends of the classes on the scale of requests, and the first key and number of keys of each.
    Classes(Vec<(f64, u64, u64)>),
}

enum Sizes {
    LogNormal(LogNormal<f64>),
    /// Ends of the classes on the scale of objects; the sizes they span.
    Classes(Vec<(f64, u32, u32)>),
}

pub(super) struct Source {
    law: TenantLaw,
    ranks: Ranks,
    sizes: Sizes,
    writes: f64,
    shifted: f64,
    once: u64,
    scanned: u64,
    scans: u64,
}

impl Source {
    pub(super) fn new(law: &TenantLaw) -> Result<Source> {
        let ranks = match &law.popularity {
            Popularity::Zipf(0.0) => Ranks::Uniform,
            Popularity::Zipf(alpha) => Ranks::Zipf(
                Zipf::new(law.objects as f64, *alpha).with_context(|| format!("popularity of {}", law.name))?,
            ),
            Popularity::Classes(classes) => {
                let (mut end, mut first) = (0.0, 0);
                let rows = classes.iter().map(|(requests, keys)| {
                    end += requests;
                    let count = ((keys * law.objects as f64) as u64).max(1);
                    first += count;
                    (end, first - count, count)
                });
                Ranks::Classes(rows.collect())
            }
        };
        let sizes = match &law.sizes {
            ValueSizes::LogNormal(mean, sigma) => {
                let law = LogNormal::new(mean.ln() - sigma * sigma / 2.0, *sigma);
                Sizes::LogNormal(law.context("value sizes")?)
            }
            ValueSizes::Classes(classes) => {
                let (mut end, mut low) = (0.0, 0);
                let rows = classes.iter().map(|(high, share)| {
                    end += share;
                    let row = (end, low, (*high).max(low + 1));
                    low = *high;
                    row
                });
                Sizes::Classes(rows.collect())
            }
        };
        let writes = law.writes.iter().map(|(_, share)| share).sum();
        Ok(Source { law: law.clone(), ranks, sizes, writes, shifted: 0.0, once: 0, scanned: 0, scans: 0 })
    }

    /// Makes the next request.
    pub(super) fn fill(&mut self, event: &mut Event, tenant: u32, time: f64, dice: &mut SmallRng) {
        self.shifted += self.law.drift;
        event.key.clear();
        event.op = Op::Get;
        if self.scans_at(time) {
            put_key(&mut event.key, b's', self.scanned);
            self.scanned += 1;
        } else {
            let roll: f64 = dice.random();
            if roll < self.law.one_hit {
                self.once += 1;
                put_key(&mut event.key, b'o', self.once);
            } else {
                // drift: the rank to key mapping slides, so the hottest keys are others after a while
                let rank = self.rank(dice);
                put_key(&mut event.key, b'k', rank + self.shifted as u64);
            }
            event.op = self.operation(dice.random());
        }
        // size and TTL depend on the key alone, so a fill is as large as what was lost
        let hash = xxh3_64_with_seed(&event.key, u64::from(tenant));
        event.value_size = self.size(hash);
        event.ttl = self.ttl(hash);
        (event.time, event.tenant) = (time, tenant);
        event.key_size = self.law.key.max(event.key.len() as u32);
    }

    fn rank(&self, dice: &mut SmallRng) -> u64 {
        match &self.ranks {
            Ranks::Zipf(zipf) => zipf.sample(dice) as u64 - 1,
            Ranks::Uniform => dice.random_range(0..self.law.objects),
            Ranks::Classes(classes) => {
                let roll: f64 = dice.random();
                let class = classes.partition_point(|(end, ..)| *end <= roll).min(classes.len() - 1);
                let (_, first, count) = classes[class];
                first + dice.random_range(0..count)
            }
        }
    }

    fn operation(&self, roll: f64) -> Op {
        if roll >= self.writes {
            return Op::Get;
        }
        let mut end = 0.0;
        let found = self.law.writes.iter().find(|(_, share)| {
            end += share;
            roll < end
        });
        found.map_or(Op::Get, |(op, _)| *op)
    }

    fn size(&self, hash: u64) -> u32 {
        match &self.sizes {
            Sizes::LogNormal(law) => {
                let mut own = SmallRng::seed_from_u64(hash);
                law.sample(&mut own).clamp(1.0, VALUE_BYTES_MAX) as u32
            }
            Sizes::Classes(classes) => {
                let place = hash as f64 / 2f64.powi(64);
                let class = classes.partition_point(|(end, ..)| *end <= place).min(classes.len() - 1);
                let (_, low, high) = classes[class];
                (low + (hash.rotate_left(32) % u64::from(high - low)) as u32).clamp(1, VALUE_BYTES_MAX as u32)
            }
        }
    }

    fn ttl(&self, hash: u64) -> u32 {
        let mut place = hash.rotate_left(17) as f64 / 2f64.powi(64);
        let found = self.law.ttls.iter().find(|(_, share)| {
            place -= share;
            place < 0.0
        });
        // the shares that are published do not sum to one: what is left is as the most common
        found.or(self.law.ttls.first()).map_or(0, |(ttl, _)| *ttl)
    }

    /// Whether this request is one of a scan, which takes all of the tenant's until it is through.
    fn scans_at(&mut self, time: f64) -> bool {
        if self.law.scan_every <= 0.0 {
            return false;
        }
        let due = ((time - self.law.start).max(0.0) / self.law.scan_every) as u64;
        if due > self.scans && self.scanned >= self.law.scan_keys {
            (self.scans, self.scanned) = (due, 0);
        }
        // the first scan comes after the first interval
        self.scans > 0 && self.scanned < self.law.scan_keys || {
            let begins = due > self.scans && self.scans == 0;
            if begins {
                (self.scans, self.scanned) = (due, 0);
            }
            begins && self.law.scan_keys > 0
        }
    }
}

fn put_key(key: &mut Vec<u8>, kind: u8, number: u64) {
    key.push(kind);
    key.write_all(itoa::Buffer::new().format(number).as_bytes()).expect("writing to memory");
}
