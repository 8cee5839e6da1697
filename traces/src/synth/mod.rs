//! `synth`: traces from a description, seeded and streaming: popularity, one-hit keys, writes, sizes, drift, bursts, scans, day and
//! night, tenants that come and go.

mod clusters;
mod law;
mod source;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::event::Event;
use crate::format::{Format, Writer};
use crate::progress::Progress;
use source::Source;

pub use law::{TenantLaw, TenantText};

/// Requests between looks at who is how busy.
const REQUESTS_A_LOOK: u64 = 64;
/// Seconds that pass at a time while nobody is there.
const QUIET_STEP: f64 = 0.1;

/// Makes a trace.
#[derive(Args, Clone, Debug)]
pub struct Synth {
    /// File to write; compressed if it ends in .zst, .gz or .xz; - for standard output
    pub out: PathBuf,
    /// Requests to write
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    pub requests: u64,
    /// Seed: equal seeds make equal traces
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Requests a second of trace time, when every tenant is as busy as usual
    #[arg(long, value_name = "N", default_value_t = 1_000.0)]
    pub rate: f64,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "csv")]
    pub to_format: Format,
    /// One of Twitter's 54 production clusters as a tenant, by number; repeat for several
    #[arg(long = "cluster", value_name = "N")]
    pub clusters: Vec<u32>,
    /// Description of the tenants: TOML, a table "tenant" each with name and the fields of --tenant
    #[arg(long, value_name = "FILE", conflicts_with_all = ["clusters", "tenants"])]
    pub from: Option<PathBuf>,
    /// Tenants, one an option.
    #[arg(
        long = "tenant",
        value_name = "SPEC",
        help = "A tenant: NAME[,share=1][,objects=20000][,alpha=0.9][,size=300][,sigma=0.8][,sets=0.05][,deletes=0][,one-hit=0.1][,key=24][,ttl=0][,drift=0][,start=0][,stop=SECS][,swing=0][,period=86400][,burst-every=0][,burst-for=60][,burst-times=5][,scan-every=0][,scan-keys=10000][,cluster=N][,cachebench=CONFIG.json]; repeat for several [default: three tenants of different kinds]"
    )]
    pub tenants: Vec<TenantText>,
}

/// Three tenants that differ: a hot one, one that updates often, one that scans.
const DEFAULT_TENANTS: [&str; 3] = [
    "web,share=3,objects=40000,alpha=0.95,size=400,one-hit=0.1,drift=0.002",
    "sessions,share=1,objects=15000,alpha=0.7,size=250,sets=0.4,one-hit=0.05",
    "feed,share=2,objects=60000,alpha=0.8,size=900,one-hit=0.4",
];

impl Synth {
    /// A plain trace of these tenants.
    #[cfg(test)]
    pub(crate) fn of(out: PathBuf, requests: u64, seed: u64, tenants: &[&str]) -> Synth {
        let tenants = tenants.iter().map(|text| text.parse().unwrap()).collect();
        Synth { out, requests, seed, rate: 1_000.0, to_format: Format::Csv, clusters: vec![], from: None, tenants }
    }

    fn laws(&self) -> Result<Vec<TenantLaw>> {
        if let Some(path) = &self.from {
            return TenantLaw::of_file(path, self.requests);
        }
        let parts = (self.clusters.len() + self.tenants.len()).max(1) as u64;
        let clusters = self.clusters.iter().map(|number| TenantLaw::of_cluster(*number, self.requests / parts));
        let tenants = self.tenants.iter().map(|text| text.law(self.requests / parts));
        let laws: Vec<TenantLaw> = clusters.chain(tenants).collect::<Result<_>>()?;
        if laws.is_empty() {
            return DEFAULT_TENANTS.iter().map(|text| text.parse::<TenantText>()?.law(self.requests)).collect();
        }
        Ok(laws)
    }

    /// Writes the trace.
    pub fn run(&self) -> Result<()> {
        if self.rate <= 0.0 {
            bail!("--rate {}: take a rate above 0", self.rate);
        }
        let laws = self.laws()?;
        let mut sources = laws.iter().map(Source::new).collect::<Result<Vec<_>>>()?;
        let usual: f64 = laws.iter().map(|law| law.share).sum();
        let mut dice = SmallRng::seed_from_u64(self.seed);
        let mut out = Writer::create(&self.out, self.to_format)?;
        let progress = Progress::new(Some(self.requests));
        let (mut time, mut loads, mut load) = (0.0, vec![0.0; laws.len()], 0.0);
        let mut event = Event::default();
        for number in 0..self.requests {
            if number.is_multiple_of(REQUESTS_A_LOOK) {
                load = look(&laws, time, &mut loads);
                while load <= 0.0 {
                    if laws.iter().all(|law| law.stop <= time) {
                        bail!(
                            "after {time:.0} s every tenant has stopped: {number} requests of {} were written",
                            self.requests
                        );
                    }
                    time += QUIET_STEP;
                    load = look(&laws, time, &mut loads);
                }
            }
            let mut roll = dice.random::<f64>() * load;
            let picked = loads.iter().position(|load| {
                roll -= load;
                roll < 0.0
            });
            let tenant = picked.unwrap_or(laws.len() - 1);
            sources[tenant].fill(&mut event, tenant as u32, time, &mut dice);
            out.write(&laws[tenant].name, &event)?;
            time += usual / load / self.rate;
            progress.at(number);
        }
        progress.finish();
        out.finish()
    }
}

/// How busy each tenant is now; returns the sum.
fn look(laws: &[TenantLaw], time: f64, loads: &mut [f64]) -> f64 {
    for (load, law) in loads.iter_mut().zip(laws) {
        *load = law.share * law.load_at(time);
    }
    loads.iter().sum()
}

#[cfg(test)]
mod tests;
