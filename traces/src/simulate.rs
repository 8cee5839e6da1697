//! `simulate`: the engine itself, driven by a trace in virtual time, in one thread, its flash in memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use cache::{
    Admission, Background, Cache, CacheSettings, Completed, Count, Lookup, MemoryDevice, Mode, Needs, Page, Rank,
    Recognition, Stored, Storing, TenantSpec, Worker,
};
use clap::Args;

use crate::event::{Event, Kind, wire_key};
use crate::figures::{Figures, Report, write_json};
use crate::format::{Reader, Reading, tenants_of};
use crate::progress::Progress;
use crate::values::{KeyId, Values, Verdict, key_id};

/// Requests between looks at the background work.
const REQUESTS_A_STEP: u64 = 512;
/// Of the keys whose values are not all checked, those are whose hash has these bits clear: one in sixteen.
const VERIFIED_MASK: u64 = 15;
/// Requests between trainings.
const REQUESTS_A_TRAINING: u64 = 10_000;

/// Drives the cache engine with a trace, in process, in virtual time.
#[derive(Args, Clone, Debug)]
pub struct Simulate {
    /// Trace to run: CSV, plain, gzip or zstd; - for standard input (with --config)
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
    /// What is admitted to flash: svm, all, none
    #[arg(long, value_name = "RULE", default_value = "svm")]
    pub admission: String,
    /// Score that a model's verdict must exceed
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub threshold: f32,
    /// Size of a flash segment
    #[arg(long, value_name = "SIZE")]
    pub flash_segment: Option<String>,
    /// Mean object size that the flash index is made for
    #[arg(long, value_name = "BYTES")]
    pub flash_object_size: Option<usize>,
    /// Check the values of all keys, not of one in sixteen
    #[arg(long)]
    pub verify_all: bool,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Equal reservations of half the memory.
pub fn equal_tenants(names: &[String], memory: usize) -> Vec<TenantSpec> {
    let reserved_bytes = (memory / 2 / names.len().max(1)) as i64;
    let spec = |name: &String| TenantSpec {
        name: name.clone(),
        recognised: Recognition::Prefix(format!("{name}:")),
        reserved_bytes,
        rank: Rank::Lru,
    };
    names.iter().map(spec).collect()
}

impl Simulate {
    fn settings(&self) -> Result<CacheSettings> {
        let memory = server::parse_size(&self.dram, 1 << 20).context("--dram")? as usize;
        let flash = server::parse_size(&self.flash, 1 << 20).context("--flash")?;
        let mut settings = CacheSettings::for_memory(memory);
        settings.item_bytes_max = (1 << 20).min(memory / 2);
        settings.tenants = match &self.config {
            Some(path) => server::read_tenants(path)?,
            None => equal_tenants(&tenants_of(&self.trace, &self.reading)?, memory),
        };
        settings.admission = self.admission.parse::<Admission>().map_err(anyhow::Error::msg)?;
        settings.threshold = self.threshold;
        if flash > 0 {
            let mut flash = server::flash_settings(flash, memory, self.flash_object_size);
            let segment = self.flash_segment.as_deref().map(|text| server::parse_size(text, 1)).transpose()?;
            flash.segment_bytes = segment.map(|bytes| bytes as usize);
            settings.flash = Some(flash);
        }
        Ok(settings)
    }

    /// Runs the trace.
    pub fn run(&self) -> Result<Report> {
        let settings = self.settings()?;
        let flash_bytes = settings.flash.map_or(0, |flash| flash.bytes);
        let cache = Cache::new(settings)?;
        let device = MemoryDevice::new(flash_bytes);
        let mut simulation = Simulation::new(&cache, &device, self.verify_all);
        let mut reader = Reader::with(&self.trace, &self.reading)?;
        let progress = Progress::new(self.limit);
        let began = Instant::now();
        let mut event = Event::default();
        while reader.read(&mut event)? {
            if self.limit.is_some_and(|limit| simulation.requests >= limit) {
                break;
            }
            simulation.serve(&reader.tenants()[event.tenant as usize], &event)?;
            progress.at(simulation.requests);
        }
        progress.finish();
        let report = simulation.report(began.elapsed().as_secs_f64());
        report.print();
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        Ok(report)
    }
}

struct Simulation<'c> {
    cache: &'c Cache,
    device: &'c MemoryDevice,
    worker: Worker,
    background: Background,
    values: Values,
    versions: HashMap<KeyId, u64>,
    key: Vec<u8>,
    value: Vec<u8>,
    requests: u64,
    requests_of: Vec<u64>,
    wrong: u64,
    stale: u64,
    refused: u64,
    /// A key whose hash has these bits clear has its values checked.
    verified_mask: u64,
    /// What other keys hold: as many bytes as are wanted of it.
    filler: Vec<u8>,
}

/// What a get came to.
enum Got {
    Hit(Verdict),
    Miss,
}

impl<'c> Simulation<'c> {
    fn new(cache: &'c Cache, device: &'c MemoryDevice, verify_all: bool) -> Simulation<'c> {
        Simulation {
            cache,
            device,
            worker: cache.worker(),
            background: cache.background(),
            values: Values::default(),
            versions: HashMap::new(),
            key: Vec::new(),
            value: Vec::new(),
            requests: 0,
            requests_of: vec![0; cache.registry().tenants().len()],
            wrong: 0,
            stale: 0,
            refused: 0,
            verified_mask: if verify_all { 0 } else { VERIFIED_MASK },
            filler: Vec::new(),
        }
    }

    fn serve(&mut self, tenant_name: &str, event: &Event) -> Result<()> {
        self.cache.advance(event.time as u32 + 1);
        let mut key = std::mem::take(&mut self.key);
        wire_key(tenant_name, event, &mut key);
        let tenant = self.cache.tenant_of(&key);
        let id = key_id(&key);
        match event.op.kind() {
            Kind::Get => match self.get(tenant, &key, id) {
                Got::Hit(Verdict::Right) => {}
                Got::Hit(Verdict::Stale) => self.stale += 1,
                Got::Hit(Verdict::Wrong) => self.wrong += 1,
                Got::Miss => self.store(tenant, &key, id, event)?,
            },
            Kind::Set => self.store(tenant, &key, id, event)?,
            Kind::Delete => {
                self.cache.turn(&mut self.worker).delete(tenant, &key);
                if self.is_verified(id) {
                    *self.versions.entry(id).or_default() += 1;
                }
            }
        }
        self.key = key;
        self.requests += 1;
        self.requests_of[usize::from(tenant)] += 1;
        if self.requests.is_multiple_of(REQUESTS_A_STEP) {
            self.step();
        }
        if self.requests.is_multiple_of(REQUESTS_A_TRAINING) {
            self.cache.train_step();
        }
        Ok(())
    }

    fn is_verified(&self, id: KeyId) -> bool {
        id & self.verified_mask == 0
    }

    fn step(&mut self) {
        while self.cache.step(&mut self.background, Some(self.device)) {}
    }

    fn get(&mut self, tenant: u16, key: &[u8], id: KeyId) -> Got {
        let is_verified = self.is_verified(id);
        let version = if is_verified { self.versions.get(&id).copied().unwrap_or(0) } else { 0 };
        let mut turn = self.cache.turn(&mut self.worker);
        let mut read = match turn.get(tenant, key) {
            Lookup::Miss => return Got::Miss,
            Lookup::Hit(_) | Lookup::FlashHit(_) if !is_verified => return Got::Hit(Verdict::Right),
            Lookup::Hit(object) => return Got::Hit(self.values.judge_object(id, version, &object)),
            Lookup::FlashHit(object) => {
                return Got::Hit(self.values.judge(id, version, std::iter::once(object.value.as_slice())));
            }
            Lookup::Flash(read) => read,
        };
        loop {
            let pages = read_pages(self.device, &read);
            match turn.complete(read, pages.as_deref()) {
                Completed::Hit(_) if !is_verified => return Got::Hit(Verdict::Right),
                Completed::Hit(object) => {
                    return Got::Hit(self.values.judge(id, version, std::iter::once(object.value.as_slice())));
                }
                Completed::Again(next) => read = next,
                Completed::Miss => return Got::Miss,
            }
        }
    }

    fn store(&mut self, tenant: u16, key: &[u8], id: KeyId, event: &Event) -> Result<()> {
        let size = event.value_size as usize;
        if size + key.len() + 64 > self.cache.settings().item_bytes_max {
            self.refused += 1;
            return Ok(());
        }
        let is_verified = self.is_verified(id);
        if is_verified {
            let version = self.versions.entry(id).or_default();
            *version += 1;
            self.value.clear();
            self.values.make(id, *version, size, &mut self.value);
        } else if self.filler.len() < size {
            self.filler.resize(size, b'x');
        }
        let expiry = if event.ttl == 0 { 0 } else { self.cache.now().saturating_add(event.ttl) };
        for _ in 0..1000 {
            let value = if is_verified { self.value.as_slice() } else { &self.filler[..size] };
            let storing = Storing { expiry, ..Storing::new(Mode::Set, key, value) };
            let stored = self.cache.turn(&mut self.worker).store(tenant, &storing);
            match stored {
                Ok(Stored::Yes(_)) => {
                    if self.cache.wants_cleaning() {
                        self.step();
                    }
                    return Ok(());
                }
                Err(Needs::Room) => self.step(),
                other => anyhow::bail!("a set was answered with {other:?}"),
            }
        }
        anyhow::bail!("the cleaner frees no memory: {} bytes of DRAM are too few", self.cache.settings().memory_bytes)
    }

    fn report(&self, seconds: f64) -> Report {
        let figures_of = |totals: &cache::Totals, requests: u64| Figures {
            requests,
            gets: totals.get(Count::Gets),
            hits: totals.hits(),
            dram_hits: totals.get(Count::DramHits),
            flash_hits: totals.get(Count::FlashHits),
            app_bytes_written: totals.get(Count::StoredBytes),
            flash_bytes_written: totals.get(Count::DemotedBytes),
            rescue_bytes_written: totals.get(Count::RescueBytes),
            ..Figures::default()
        };
        let tenants = self.cache.registry().tenants().iter();
        let tenants = tenants
            .filter(|tenant| self.requests_of[usize::from(tenant.id)] > 0)
            .map(|tenant| {
                let totals = self.cache.totals(tenant.id);
                let figures = figures_of(&totals, self.requests_of[usize::from(tenant.id)]);
                (tenant.name.clone(), figures.with_ratios())
            })
            .collect();
        let ledger = self.cache.figures().flash.map(|flash| flash.ledger).unwrap_or_default();
        let total = Figures {
            flash_bytes_written: ledger.written,
            rescue_bytes_written: ledger.rescue,
            ..figures_of(&self.cache.totals_of_all(), self.requests)
        };
        let trained = self.cache.registry().tenants().iter().filter(|t| self.cache.model(t.id).0.is_some()).count();
        Report {
            total: total.with_ratios(),
            wrong_values: self.wrong,
            stale_values: self.stale,
            errors: self.refused,
            models_trained: trained as u64,
            seconds,
            ops_per_second: self.requests as f64 / seconds.max(1e-9),
            latency_us: None,
            tenants,
        }
    }
}

fn read_pages(device: &MemoryDevice, read: &cache::FlashRead) -> Option<Vec<Page>> {
    let mut pages = vec![Page::ZERO; read.pages()];
    cache::Device::read(device, read.at(), &mut pages).ok().map(|()| pages)
}

impl Values {
    fn judge_object(&mut self, key: KeyId, version: u64, object: &cache::Object<'_>) -> Verdict {
        let pieces: Vec<&[u8]> = object.value().collect();
        self.judge(key, version, pieces.into_iter())
    }
}
