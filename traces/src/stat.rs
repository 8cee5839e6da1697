//! `stat`: what a trace is like, exactly, a tenant apart.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::event::{Event, Kind, wire_key};
use crate::format::Reader;
use crate::progress::Progress;
use crate::values::{KeyId, key_id};

/// Describes a trace.
#[derive(Args, Clone, Debug)]
pub struct Stat {
    /// Trace to read; - for standard input
    pub trace: PathBuf,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Figures of a trace or of one of its tenants.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Shape {
    /// Requests.
    pub requests: u64,
    /// Of them gets.
    pub gets: u64,
    /// Of them sets.
    pub sets: u64,
    /// Of them deletes.
    pub deletes: u64,
    /// Different keys.
    pub objects: u64,
    /// Bytes of keys and values of all objects.
    pub working_set_bytes: u64,
    /// Mean key size.
    pub key_size_mean: f64,
    /// Mean value size, over requests.
    pub value_size_mean: f64,
    /// Share of the objects that are asked for once.
    pub one_hit_share: f64,
    /// Seconds from the first to the last request.
    pub seconds: f64,
}

#[derive(Default)]
struct Counting {
    shape: Shape,
    key_bytes: u64,
    value_bytes: u64,
    objects: HashMap<KeyId, (u32, u64)>,
}

impl Counting {
    fn finish(mut self) -> Shape {
        let requests = self.shape.requests.max(1) as f64;
        self.shape.objects = self.objects.len() as u64;
        self.shape.working_set_bytes = self.objects.values().map(|(_, bytes)| bytes).sum();
        let once = self.objects.values().filter(|(times, _)| *times == 1).count();
        self.shape.one_hit_share = once as f64 / self.objects.len().max(1) as f64;
        self.shape.key_size_mean = self.key_bytes as f64 / requests;
        self.shape.value_size_mean = self.value_bytes as f64 / requests;
        self.shape
    }
}

/// Reads a trace and counts; the second part is by tenant.
pub fn measure(trace: &Path) -> Result<(Shape, BTreeMap<String, Shape>)> {
    let mut reader = Reader::open(trace)?;
    let mut tenants: Vec<Counting> = Vec::new();
    let mut key = Vec::new();
    let progress = Progress::new(None);
    let mut count = 0;
    let mut first = None;
    let mut event = Event::default();
    while reader.read(&mut event)? {
        let tenant = event.tenant as usize;
        tenants.resize_with(tenants.len().max(tenant + 1), Counting::default);
        wire_key(&reader.tenants()[tenant], &event, &mut key);
        let counting = &mut tenants[tenant];
        counting.shape.requests += 1;
        match event.op.kind() {
            Kind::Get => counting.shape.gets += 1,
            Kind::Set => counting.shape.sets += 1,
            Kind::Delete => counting.shape.deletes += 1,
        }
        counting.key_bytes += u64::from(event.key_size);
        counting.value_bytes += u64::from(event.value_size);
        let object = counting.objects.entry(key_id(&key)).or_default();
        *object = (object.0 + 1, u64::from(event.key_size) + u64::from(event.value_size));
        counting.shape.seconds = event.time - *first.get_or_insert(event.time);
        count += 1;
        progress.at(count);
    }
    progress.finish();
    let names = reader.tenants().to_vec();
    let by_tenant: BTreeMap<String, Shape> = names.into_iter().zip(tenants.into_iter().map(Counting::finish)).collect();
    Ok((whole(&by_tenant), by_tenant))
}

fn whole(tenants: &BTreeMap<String, Shape>) -> Shape {
    let mut sum = Shape::default();
    let mut once = 0.0;
    for shape in tenants.values() {
        sum.requests += shape.requests;
        sum.gets += shape.gets;
        sum.sets += shape.sets;
        sum.deletes += shape.deletes;
        sum.objects += shape.objects;
        sum.working_set_bytes += shape.working_set_bytes;
        sum.key_size_mean += shape.key_size_mean * shape.requests as f64;
        sum.value_size_mean += shape.value_size_mean * shape.requests as f64;
        once += shape.one_hit_share * shape.objects as f64;
        sum.seconds = sum.seconds.max(shape.seconds);
    }
    sum.key_size_mean /= sum.requests.max(1) as f64;
    sum.value_size_mean /= sum.requests.max(1) as f64;
    sum.one_hit_share = once / sum.objects.max(1) as f64;
    sum
}

impl Stat {
    /// Prints the table, writes the JSON.
    pub fn run(&self) -> Result<()> {
        let (whole, tenants) = measure(&self.trace)?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "tenant",
            "requests",
            "get %",
            "set %",
            "del %",
            "objects",
            "working set MB",
            "key",
            "value",
            "one-hit",
        ]);
        for (name, shape) in tenants.iter().map(|(name, shape)| (name.as_str(), shape)).chain([("all", &whole)]) {
            let percent = |part: u64| format!("{:.1}", part as f64 * 100.0 / shape.requests.max(1) as f64);
            table.add_row([
                name.to_owned(),
                shape.requests.to_string(),
                percent(shape.gets),
                percent(shape.sets),
                percent(shape.deletes),
                shape.objects.to_string(),
                format!("{:.1}", shape.working_set_bytes as f64 / 1e6),
                format!("{:.1}", shape.key_size_mean),
                format!("{:.1}", shape.value_size_mean),
                format!("{:.3}", shape.one_hit_share),
            ]);
        }
        println!("{table}");
        if let Some(path) = &self.json {
            #[derive(Serialize)]
            struct Output<'a> {
                #[serde(flatten)]
                whole: &'a Shape,
                tenants: &'a BTreeMap<String, Shape>,
            }
            let text = serde_json::to_string_pretty(&Output { whole: &whole, tenants: &tenants })?;
            std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}
