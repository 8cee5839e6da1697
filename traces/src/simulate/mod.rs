//! `simulate`: the cache engine in process, in virtual time; one run, or a sweep of settings over all cores.

mod engine;
mod ftl;
mod future;
mod samples;
mod sweep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cache::{Admission, Arbiter, Cache, CacheSettings, Device, MemoryDevice, Rank, Recognition, TenantSpec, Terms};
use clap::Args;
use serde::Serialize;

use crate::event::parse_speed;
use crate::figures::{Course, Moment, Report, write_json, write_windows};
use crate::format::{Reader, Reading, tenants_of};
use crate::progress::Progress;
use engine::{REQUESTS_AHEAD, Request, Simulation};
pub(crate) use ftl::FtlFigures;
use ftl::{Drive, FtlDevice};
use future::Future;
pub use sweep::Axis;

/// Part of the DRAM that is reserved when nothing is said.
const RESERVED_SHARE: f64 = 0.5;
/// Requests between moments that are noted.
const REQUESTS_A_MOMENT: u64 = 2_000;

/// Drives the cache engine with a trace, in process, in virtual time.
#[derive(Args, Clone, Debug)]
pub struct Simulate {
    /// Trace to run; - for standard input (with --config)
    pub trace: PathBuf,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// DRAM, as the server's -m
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub dram: String,
    /// Flash; 0 for none
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub flash: String,
    /// Tenants, as the server's --config [default: each tenant of the trace with an equal part of half the DRAM reserved]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Part of the DRAM that is reserved, in equal parts, without --config
    #[arg(long, value_name = "SHARE", default_value_t = RESERVED_SHARE)]
    pub reserved_share: f64,
    /// Who moves memory between tenants: curve, shadow, worth, fixed, global [default: what --config says, else curve]
    #[arg(long, value_name = "NAME")]
    pub arbiter: Option<String>,
    /// What is admitted to flash: svm, all, none, random:P, second-hit, small-fifo, oracle
    #[arg(long, value_name = "RULE", default_value = "svm")]
    pub admission: String,
    /// Score that a model's verdict must exceed [default: whatever the write budget has room for; 0 without one]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub threshold: Option<f32>,
    /// What may be written to flash, as the server's --flash-write-budget: 200GB/day, 0.5dwpd, 0.3x, none [default: 0.5x for the rule svm
    /// without a --threshold, else none]
    #[arg(long, value_name = "BUDGET")]
    pub flash_write_budget: Option<String>,
    /// Write the samples that models are trained on to this file, as CSV: tenant, features, whether it was read again
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Order of worth inside each tenant: lru, lfu, slru, s3-fifo, hyperbolic, density, score [default: what
    /// --config says, else score]
    #[arg(long, value_name = "RANK")]
    pub rank: Option<String>,
    /// Rank all objects in every cleaner pass, not those of a few segments: slow, and what the choice of segments costs in hits
    #[arg(long)]
    pub exact_order: bool,
    /// Size of a flash segment
    #[arg(long, value_name = "SIZE")]
    pub flash_segment: Option<String>,
    /// Mean object size that the flash index is made for
    #[arg(long, value_name = "BYTES")]
    pub flash_object_size: Option<usize>,
    /// Largest object, as the server's -I
    #[arg(long, value_name = "SIZE", default_value = "1m")]
    pub item_size: String,
    /// Run once for each of these, and their combinations: dram=8MiB,16MiB or flash=, admission=, threshold=, flash-write-budget=, rank=, arbiter=, reserved-share=; repeat for
    /// more
    #[arg(long = "sweep", value_name = "SETTING=A,B,...")]
    pub sweep: Vec<Axis>,
    /// Runs of a sweep at a time [default: one a core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Count what comes after so many requests only
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup: u64,
    /// Check the values of all keys, not of one in sixteen
    #[arg(long)]
    pub verify_all: bool,
    /// As a replay that goes as fast as the server answers, with so many requests under way (its in_flight): what they miss is filled behind the
    /// last of them, what was there may be missed twice, and memory is cleaned late
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub in_flight: u64,
    /// xN: N times the trace's own speed, as of a replay: what times to live and budgets for a time see of it
    #[arg(long, value_name = "SPEED", default_value = "x1")]
    pub speed: String,
    /// Seed of hashes and dice: equal seeds make equal runs
    #[arg(long, default_value_t = 0x5eed)]
    pub seed: u64,
    /// Model the SSD beneath: what it writes to its cells for our writes, and for as many random ones
    #[arg(long)]
    pub ftl: bool,
    /// The modelled drive's spare part, in percent of what it holds
    #[arg(long, value_name = "PERCENT", default_value_t = 7.0)]
    pub ftl_spare: f64,
    /// Bytes that the modelled drive erases at a time
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub ftl_erase_block: String,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Write the figures to this file; of a sweep, a list of runs
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write figures over time to this file, as CSV: up to 200 windows, a row for each tenant
    #[arg(long, value_name = "FILE")]
    pub windows: Option<PathBuf>,
}

/// Equal reservations of a share of the memory.
pub fn equal_tenants(names: &[String], memory: usize, share: f64) -> Vec<TenantSpec> {
    let reserved_bytes = (memory as f64 * share) as i64 / names.len().max(1) as i64;
    let spec = |name: &String| TenantSpec {
        name: name.clone(),
        recognised: Recognition::Prefix(format!("{name}:")),
        terms: Terms { reserved_bytes, ..Terms::default() },
    };
    names.iter().map(spec).collect()
}

impl Simulate {
    fn settings(&self, names: &[String]) -> Result<CacheSettings> {
        let memory = server::parse_size(&self.dram, 1 << 20).context("--dram")? as usize;
        let flash = server::parse_size(&self.flash, 1 << 20).context("--flash")?;
        let item = server::parse_size(&self.item_size, 1).context("--item-size")? as usize;
        let mut settings = CacheSettings::for_memory(memory);
        settings.item_bytes_max = item.min(memory / 2);
        settings.tenants = match &self.config {
            Some(path) => {
                let file = server::read_tenants(path)?;
                settings.arbiter = file.arbiter.unwrap_or_default();
                file.tenants
            }
            None => equal_tenants(names, memory, self.reserved_share),
        };
        if let Some(arbiter) = &self.arbiter {
            settings.arbiter = arbiter.parse::<Arbiter>().map_err(anyhow::Error::msg).context("--arbiter")?;
        }
        if !(0.0..=1.0).contains(&self.reserved_share) {
            bail!("--reserved-share {}: take 0 to 1", self.reserved_share);
        }
        if let Some(rank) = &self.rank {
            let rank = rank.parse::<Rank>().map_err(anyhow::Error::msg).context("--rank")?;
            settings.tenants.iter_mut().for_each(|tenant| tenant.terms.rank = rank);
        }
        settings.admission = self.admission.parse::<Admission>().map_err(anyhow::Error::msg).context("--admission")?;
        settings.threshold = self.threshold;
        settings.flash_write_budget =
            server::write_budget(settings.admission, self.threshold, self.flash_write_budget.as_deref())?;
        settings.exact_order = self.exact_order;
        settings.seed = self.seed;
        if flash > 0 {
            let mut flash = server::flash_settings(flash, memory, self.flash_object_size);
            let segment = self.flash_segment.as_deref().map(|text| server::parse_size(text, 1)).transpose()?;
            flash.segment_bytes = segment.map(|bytes| bytes as usize);
            settings.flash = Some(flash);
        }
        Ok(settings)
    }

    /// Runs the trace, or all runs of the sweep; prints and writes what came of it.
    pub fn run(&self) -> Result<()> {
        // tenants have to be known before the cache is made
        let names = if self.config.is_some() { Vec::new() } else { tenants_of(&self.trace, &self.reading)? };
        if !self.sweep.is_empty() {
            return self.run_sweep(&names);
        }
        let (report, failed) = self.simulate(&names)?;
        report.print();
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        if let Some(path) = &self.windows {
            write_windows(path, &report.over_time)?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn run_sweep(&self, names: &[String]) -> Result<()> {
        if self.windows.is_some() {
            bail!("--windows: a sweep writes the windows of its runs with --json");
        }
        if self.samples.is_some() {
            bail!("--samples: leave out --sweep: the runs of a sweep would write to one file");
        }
        let outcome = sweep::run(self, names)?;
        if let Some(path) = &self.json {
            #[derive(Serialize)]
            struct Runs<'r> {
                trace: String,
                runs: &'r [Report],
            }
            write_json(path, &Runs { trace: self.trace.display().to_string(), runs: &outcome.reports })?;
        }
        outcome.failed.map_or(Ok(()), Err)
    }

    /// One run. What was measured before an error is in the report, which is incomplete then.
    pub fn simulate(&self, names: &[String]) -> Result<(Report, Option<anyhow::Error>)> {
        let settings = self.settings(names)?;
        let flash_bytes = settings.flash.map_or(0, |flash| flash.bytes);
        let cache = Cache::new(settings)?;
        let drive = self.drive(flash_bytes)?.map(FtlDevice::new);
        let memory = MemoryDevice::new(if drive.is_some() { 0 } else { flash_bytes });
        let device: &dyn Device = drive.as_ref().map_or(&memory as &dyn Device, |drive| drive);
        let is_oracle = cache.settings().admission == Admission::Oracle;
        let future = is_oracle.then(|| Future::read(self).map(Arc::new)).transpose()?;
        if let Some(future) = &future {
            cache.foresee(future.foresight());
        }
        let samples = self.samples.as_deref().map(|path| samples::listen(path, &cache)).transpose()?;
        let speed = parse_speed(&self.speed).with_context(|| format!("--speed {}: take xN such as x10", self.speed))?;
        let mut simulation = Simulation::new(&cache, device, self.verify_all, self.in_flight, speed);
        let mut reader = Reader::with(&self.trace, &self.reading)?;
        let progress = Progress::new(self.limit);
        let began = Instant::now();
        let (mut begin, mut course) = (Moment::default(), Course::default());
        let mut requests: [Request; REQUESTS_AHEAD] = Default::default();
        let failed = loop {
            let left = self.limit.map_or(u64::MAX, |limit| limit - simulation.requests);
            let (read, ended) = read_ahead(&mut reader, &simulation, &mut requests, left);
            let requests = &requests[..read];
            simulation.expect(requests);
            let served = requests.iter().try_for_each(|request| {
                if let Some(future) = &future {
                    future.at(simulation.requests);
                }
                simulation.serve(request)?;
                progress.at(simulation.requests);
                if simulation.requests == self.warmup {
                    begin = simulation.moment();
                } else if simulation.requests.is_multiple_of(REQUESTS_A_MOMENT)
                    && simulation.requests > self.warmup
                    && course.wants()
                {
                    course.note(simulation.moment());
                }
                Ok(())
            });
            match (served, ended) {
                (Err(error), _) => break Some(error),
                (Ok(()), Some(ended)) => break ended.err(),
                (Ok(()), None) => {}
            }
        };
        progress.finish();
        let end = simulation.moment();
        let mut report = simulation.report(&begin, &end, began.elapsed().as_secs_f64());
        report.over_time = course.windows(begin, &end);
        report.settings = self.stated();
        report.ftl = drive.as_ref().map(FtlDevice::figures);
        report.complete = failed.is_none();
        if let Some(samples) = samples {
            samples.finish()?;
        }
        let failed = failed.map(|error| error.context("the run ended before the trace did"));
        Ok((report, failed))
    }

    fn drive(&self, bytes: u64) -> Result<Option<Drive>> {
        if !self.ftl || bytes == 0 {
            return Ok(None);
        }
        let erase_block_bytes = server::parse_size(&self.ftl_erase_block, 1).context("--ftl-erase-block")?;
        if !(0.0..=1000.0).contains(&self.ftl_spare) || erase_block_bytes < 64 << 10 || erase_block_bytes > bytes {
            bail!("--ftl: take 0 to 1000 percent to spare, and erase blocks of 64KiB up to the size of the flash");
        }
        Ok(Some(Drive { bytes, spare_percent: self.ftl_spare, erase_block_bytes }))
    }

    /// The settings that a reader of the figures wants to know.
    fn stated(&self) -> std::collections::BTreeMap<String, String> {
        let mut all =
            vec![("dram", self.dram.clone()), ("flash", self.flash.clone()), ("admission", self.admission.clone())];
        all.extend(self.threshold.map(|threshold| ("threshold", threshold.to_string())));
        all.extend(self.flash_write_budget.clone().map(|budget| ("flash-write-budget", budget)));
        all.extend(self.rank.clone().map(|rank| ("rank", rank)));
        all.extend(self.arbiter.clone().map(|arbiter| ("arbiter", arbiter)));
        if self.reserved_share != RESERVED_SHARE {
            all.push(("reserved-share", self.reserved_share.to_string()));
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Reads the next requests, `left` at most. Returns how many, and how the trace ended, if it did.
fn read_ahead(
    reader: &mut Reader,
    simulation: &Simulation<'_>,
    requests: &mut [Request],
    left: u64,
) -> (usize, Option<Result<()>>) {
    for (read, request) in requests.iter_mut().enumerate() {
        if read as u64 == left {
            return (read, Some(Ok(())));
        }
        match reader.read(&mut request.event) {
            Ok(true) => simulation.prepare(&reader.tenants()[request.event.tenant as usize], request),
            Ok(false) => return (read, Some(Ok(()))),
            Err(error) => return (read, Some(Err(error))),
        }
    }
    (requests.len(), None)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        simulate: Simulate,
    }

    /// In a replay a key's next request waits for its miss to be filled, so two reads in a row are a miss and a hit however many requests
    /// are under way; a scan that comes back sooner than a fill finds it filled as well.
    #[test]
    fn a_key_is_not_asked_for_again_before_its_miss_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("pairs.csv");
        let mut lines = String::new();
        for n in 0..400 {
            writeln!(lines, "{n},key{},6,100,a,get,0", n / 2).unwrap();
        }
        std::fs::write(&trace, lines).unwrap();
        for in_flight in ["0", "1", "32"] {
            assert_eq!(gets_and_hits(&trace, in_flight), (400, 200), "{in_flight} under way");
        }
    }

    /// Who asks for what was there learns that it is gone from the answer, and others of the same batch have asked by then: they miss it too,
    /// and it is filled once.
    #[test]
    fn what_was_there_may_be_missed_again_before_it_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("expired.csv");
        // stored for a second each; a batch of eight long after asks for each twice
        let mut lines = String::new();
        (0..8).for_each(|n| writeln!(lines, "0,key{n},6,100,a,set,1").unwrap());
        (0..16).for_each(|n| writeln!(lines, "100,key{},6,100,a,get,0", n / 2).unwrap());
        std::fs::write(&trace, lines).unwrap();
        for (in_flight, hits) in [("0", 8), ("1", 8), ("2", 0), ("8", 0)] {
            assert_eq!(gets_and_hits(&trace, in_flight), (16, hits), "{in_flight} under way");
        }
    }

    fn gets_and_hits(trace: &std::path::Path, in_flight: &str) -> (u64, u64) {
        let words = ["simulate", trace.to_str().unwrap(), "--dram", "8MiB", "--in-flight", in_flight];
        let (report, failed) = Command::parse_from(words).simulate.simulate(&["a".to_owned()]).unwrap();
        assert!(failed.is_none() && report.wrong_values == 0);
        (report.total.gets, report.total.hits)
    }
}
