//! `synth`: traces from a description, seeded and streaming: Zipf popularity, one-hit keys, sets, deletes, sizes, drift.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal, Zipf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::event::{Event, Op};
use crate::format::{Format, Writer};
use crate::progress::Progress;

/// Makes a trace.
#[derive(Args, Clone, Debug)]
pub struct Synth {
    /// File to write; compressed if it ends in .zst or .gz; - for standard output
    pub out: PathBuf,
    /// Requests to write
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    pub requests: u64,
    /// Seed: equal seeds make equal traces
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Requests a second of trace time
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    pub rate: f64,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "csv")]
    pub to_format: Format,
    /// Tenants, one an option.
    #[arg(
        long = "tenant",
        value_name = "SPEC",
        help = "A tenant: NAME[,share=1][,objects=20000][,alpha=0.9][,size=300][,sigma=0.8][,sets=0.05][,deletes=0][,one-hit=0.1][,key=24][,ttl=0][,drift=0]; repeat for several [default: three tenants of different kinds]"
    )]
    pub tenants: Vec<TenantLaw>,
}

/// The law of one tenant's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantLaw {
    name: String,
    /// Part of all requests, as a weight.
    share: f64,
    /// Keys that are asked for again and again.
    objects: u64,
    /// Zipf exponent of their popularity.
    alpha: f64,
    /// Mean value size in bytes.
    size: f64,
    /// Deviation of the logarithm of value sizes.
    sigma: f64,
    /// Share of sets.
    sets: f64,
    /// Share of deletes.
    deletes: f64,
    /// Share of gets for keys that are asked for once.
    one_hit: f64,
    /// Key size in bytes.
    key: u32,
    /// Seconds to live.
    ttl: u32,
    /// Keys whose popularity changes, for each request.
    drift: f64,
}

impl FromStr for TenantLaw {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<TenantLaw> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or("").to_owned();
        if name.is_empty() || name.contains([':', ' ', '=']) {
            bail!("'{text}': begin with the tenant's name");
        }
        let mut law = TenantLaw {
            name,
            share: 1.0,
            objects: 20_000,
            alpha: 0.9,
            size: 300.0,
            sigma: 0.8,
            sets: 0.05,
            deletes: 0.0,
            one_hit: 0.1,
            key: 24,
            ttl: 0,
            drift: 0.0,
        };
        for part in parts {
            let (field, value) = part.split_once('=').with_context(|| format!("'{part}': write FIELD=NUMBER"))?;
            let number: f64 = value.parse().ok().with_context(|| format!("'{part}': '{value}' is no number"))?;
            match field {
                "share" => law.share = number,
                "objects" => law.objects = number.max(1.0) as u64,
                "alpha" => law.alpha = number,
                "size" => law.size = number,
                "sigma" => law.sigma = number,
                "sets" => law.sets = number,
                "deletes" => law.deletes = number,
                "one-hit" => law.one_hit = number,
                "key" => law.key = number as u32,
                "ttl" => law.ttl = number as u32,
                "drift" => law.drift = number,
                _ => bail!("'{field}' is no field of a tenant"),
            }
        }
        if law.share <= 0.0 || law.alpha < 0.0 || law.size < 1.0 || law.sigma < 0.0 {
            bail!("'{text}': share and size are above 0, alpha and sigma not below");
        }
        Ok(law)
    }
}

/// Three tenants that differ: a hot one, one that updates often, one that scans.
fn default_tenants() -> Vec<TenantLaw> {
    let specs = [
        "web,share=3,objects=40000,alpha=0.95,size=400,one-hit=0.1,drift=0.002",
        "sessions,share=1,objects=15000,alpha=0.7,size=250,sets=0.4,one-hit=0.05",
        "feed,share=2,objects=60000,alpha=0.8,size=900,one-hit=0.4",
    ];
    specs.iter().map(|spec| spec.parse().expect("the defaults parse")).collect()
}

struct Source {
    law: TenantLaw,
    zipf: Zipf<f64>,
    sizes: LogNormal<f64>,
    shifted: f64,
    once: u64,
}

impl Source {
    fn new(law: &TenantLaw) -> Result<Source> {
        let zipf = Zipf::new(law.objects as f64, law.alpha).context("popularity")?;
        let sizes = LogNormal::new(law.size.ln() - law.sigma * law.sigma / 2.0, law.sigma).context("sizes")?;
        Ok(Source { law: law.clone(), zipf, sizes, shifted: 0.0, once: 0 })
    }

    fn next(&mut self, tenant: u32, time: f64, dice: &mut SmallRng) -> Event {
        self.shifted += self.law.drift;
        let roll: f64 = dice.random();
        let key = if roll < self.law.one_hit {
            self.once += 1;
            format!("o{}", self.once)
        } else {
            // drift: the rank to key mapping slides, so the hottest keys are others after a while
            let rank = self.zipf.sample(dice) as u64 - 1;
            format!("k{}", rank + self.shifted as u64)
        };
        let roll: f64 = dice.random();
        let op = match roll {
            roll if roll < self.law.sets => Op::Set,
            roll if roll < self.law.sets + self.law.deletes => Op::Delete,
            _ => Op::Get,
        };
        // the size depends on the key alone, so a fill is as large as what was lost
        let mut own = SmallRng::seed_from_u64(xxh3_64_with_seed(key.as_bytes(), u64::from(tenant)));
        let size = self.sizes.sample(&mut own).clamp(1.0, 900_000.0) as u32;
        Event {
            time,
            key_size: self.law.key.max(key.len() as u32),
            key: key.into_bytes(),
            value_size: size,
            tenant,
            op,
            ttl: self.law.ttl,
        }
    }
}

impl Synth {
    /// A plain trace of these tenants.
    #[cfg(test)]
    pub(crate) fn of(out: PathBuf, requests: u64, seed: u64, tenants: Vec<TenantLaw>) -> Synth {
        Synth { out, requests, seed, rate: 1_000.0, to_format: Format::Csv, tenants }
    }

    /// Writes the trace.
    pub fn run(&self) -> Result<()> {
        let laws = if self.tenants.is_empty() { default_tenants() } else { self.tenants.clone() };
        let mut sources = laws.iter().map(Source::new).collect::<Result<Vec<_>>>()?;
        let shares: f64 = laws.iter().map(|law| law.share).sum();
        let mut dice = SmallRng::seed_from_u64(self.seed);
        let mut out = Writer::create(&self.out, self.to_format)?;
        let progress = Progress::new(Some(self.requests));
        for number in 0..self.requests {
            let mut roll = dice.random::<f64>() * shares;
            let picked = laws.iter().position(|law| {
                roll -= law.share;
                roll < 0.0
            });
            let tenant = picked.unwrap_or(laws.len() - 1);
            let event = sources[tenant].next(tenant as u32, number as f64 / self.rate, &mut dice);
            out.write(&laws[tenant].name, &event)?;
            progress.at(number);
        }
        progress.finish();
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_traces() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, seed| {
            let out = folder.path().join(name);
            Synth::of(out.clone(), 5_000, seed, vec![]).run().unwrap();
            std::fs::read(out).unwrap()
        };
        assert_eq!(make("a", 7), make("b", 7));
        assert_ne!(make("a", 7), make("c", 8));
    }

    #[test]
    fn a_bad_law_says_which_part() {
        let error = |text: &str| format!("{:#}", text.parse::<TenantLaw>().unwrap_err());
        assert!(error("a,bogus=1").contains("bogus"));
        assert!(error("a,size=big").contains("big"));
        assert!(error("a,size").contains("FIELD=NUMBER"));
    }
}
