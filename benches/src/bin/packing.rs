//! What the flash tier's index and packing come to on one mix of sizes: fills a tier, looks everything up, and writes the figures as
//! JSON. Sizes are values'; keys have 20 bytes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flash_store::{Device, FlashShape, FlashStore, MemoryDevice, Page, Placed, RecordHead};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

/// Segments that a record is offered to.
const OFFERS_MAX: usize = 3;

#[derive(Parser)]
struct Arguments {
    /// Bytes of every value
    #[arg(long, conflicts_with_all = ["sizes", "log_normal"])]
    fixed: Option<usize>,
    /// A cachebench file of size ranges and their weights
    #[arg(long)]
    sizes: Option<PathBuf>,
    /// Mean of log-normal sizes with sigma 1
    #[arg(long)]
    log_normal: Option<f64>,
    /// Largest value
    #[arg(long, default_value_t = (1 << 20) - 100)]
    largest: usize,
    #[arg(long, default_value_t = 512)]
    flash_mib: u64,
    #[arg(long, default_value_t = 16)]
    segment_mib: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ranges {
    val_size_range: Vec<f64>,
    val_size_range_probability: Vec<f64>,
}

/// Draws value sizes.
enum Sizes {
    Fixed(usize),
    LogNormal(f64),
    Ranges { bounds: Vec<f64>, upto: Vec<f64> },
}

impl Sizes {
    fn of(arguments: &Arguments) -> Result<Sizes> {
        if let Some(path) = &arguments.sizes {
            let ranges: Ranges = serde_json::from_reader(std::fs::File::open(path)?).context("sizes")?;
            let mut sum = 0.0;
            let upto = ranges.val_size_range_probability.iter().map(|weight| {
                sum += weight;
                sum
            });
            let upto: Vec<f64> = upto.collect();
            ensure!(ranges.val_size_range.len() > upto.len() - 1, "a range has no end");
            return Ok(Sizes::Ranges { bounds: ranges.val_size_range, upto });
        }
        Ok(arguments.log_normal.map_or_else(|| Sizes::Fixed(arguments.fixed.unwrap_or(1000)), Sizes::LogNormal))
    }

    fn draw(&self, dice: &mut SmallRng) -> usize {
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::LogNormal(mean) => {
                let (a, b): (f64, f64) = (dice.random(), dice.random());
                let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                (mean.ln() - 0.5 + normal).exp() as usize
            }
            Sizes::Ranges { bounds, upto } => {
                let point = dice.random::<f64>() * upto[upto.len() - 1];
                let range = upto.partition_point(|sum| *sum < point);
                let (from, to) = (bounds[range], bounds.get(range + 1).copied().unwrap_or(bounds[range]));
                (from + (to - from) * dice.random::<f64>()) as usize
            }
        }
    }
}

fn key(number: u64) -> [u8; 20] {
    format!("{number:020}").into_bytes().try_into().expect("twenty digits")
}

fn head(key: &[u8], version: u64) -> RecordHead<'_> {
    RecordHead {
        tenant: 0,
        key,
        client_flags: 0,
        expiry: 0,
        version,
        reads: 0,
        updates: 0,
        history: 0,
        accessed: 0,
        rescued: false,
        won: false,
    }
}

/// Looks a key up as a get does: how many reads and pages that took, and the version that was found.
fn look(store: &FlashStore, device: &MemoryDevice, key: &[u8]) -> Result<(u64, u64, Option<u64>)> {
    let (mut reads, mut pages) = (0, 0);
    for place in store.find(xxh3_64(key)) {
        let mut bytes = vec![Page::ZERO; place.pages];
        device.read(place.at, &mut bytes)?;
        (reads, pages) = (reads + 1, pages + place.pages as u64);
        if let Some(record) = store.verify(&place, 0, key, &bytes) {
            return Ok((reads, pages, Some(record.head.version)));
        }
    }
    Ok((reads, pages, None))
}

/// A tier that was filled until one segment was left.
struct Filled {
    store: FlashStore,
    device: MemoryDevice,
    stored: Vec<u64>,
    /// Bytes of records that no segment took.
    given_up: usize,
}

/// Fills a tier whose index is made for so many objects. The same records every time.
fn fill(arguments: &Arguments, sizes: &Sizes, objects: usize) -> Result<Filled> {
    let mut dice = SmallRng::seed_from_u64(1);
    let flash_bytes = (arguments.flash_mib << 20) + 4096;
    let shape = FlashShape { flash_bytes, segment_bytes: arguments.segment_mib << 20, objects, secret: 1 };
    let store = FlashStore::new(shape).context("such segments cannot be told apart")?;
    let device = MemoryDevice::new(flash_bytes);
    let value = vec![7u8; arguments.largest];
    let (mut number, mut given_up, mut stored) = (0, 0, Vec::new());
    // records that found no place are offered again to the next segments, a few times, as at a clean stop
    let (mut waiting, mut refused) = (Vec::new(), Vec::new());
    while store.segments_free() > 0 {
        let (key_number, bytes, offers) = waiting.pop().unwrap_or_else(|| {
            number += 1;
            (number, sizes.draw(&mut dice).clamp(1, arguments.largest), 1)
        });
        let key = key(key_number);
        match store.append(xxh3_64(&key), &head(&key, key_number), [&value[..bytes]].into_iter()) {
            Placed::Yes => stored.push(key_number),
            Placed::Refused if offers < OFFERS_MAX => refused.push((key_number, bytes, offers + 1)),
            Placed::Refused => given_up += bytes,
            Placed::TooLarge | Placed::NoSegment => {}
        }
        if store.wants_to_seal() {
            let intent = store.seal(0).context("a full segment can be sealed")?;
            device.write(intent.at, &intent.pages)?;
            store.written(intent.segment, true);
            waiting.append(&mut refused);
        }
    }
    Ok(Filled { store, device, stored, given_up })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let sizes = Sizes::of(&arguments)?;
    // how many objects there will be is known once they lie there: the index is made for as many
    let objects = fill(&arguments, &sizes, 1 << 20)?.stored.len();
    let Filled { store, device, stored, given_up } = fill(&arguments, &sizes, objects)?;
    let ledger = store.ledger();
    let written = ledger.segments_written * store.segment_bytes() as u64;
    let (entries, slots) = store.index_load();
    let (mut hits, mut hit_reads, mut hit_pages, mut wrong) = (0u64, 0, 0, 0u64);
    for number in &stored {
        let (reads, pages, version) = look(&store, &device, &key(*number))?;
        if let Some(version) = version {
            (hits, hit_reads, hit_pages) = (hits + 1, hit_reads + reads, hit_pages + pages);
            wrong += u64::from(version != *number);
        }
    }
    let misses = stored.len() as u64;
    let mut miss_reads = 0;
    for number in 0..misses {
        let (reads, _, version) = look(&store, &device, &key(1 << 40 | number))?;
        miss_reads += reads;
        wrong += u64::from(version.is_some());
    }
    // the open segment's objects are found in its buffer, not on the device
    let index_bytes = store.memory_bytes() - 2 * store.segment_bytes();
    let figures = json!({
        "mean_record_bytes": ledger.record_bytes / ledger.records.max(1),
        "segments": ledger.segments_written,
        "filled": ledger.record_bytes as f64 / written.max(1) as f64,
        "given_up": given_up as f64 / (given_up as f64 + ledger.record_bytes as f64),
        "index_load": entries as f64 / slots as f64,
        "dram_bytes_an_object": index_bytes as f64 / entries.max(1) as f64,
        "entries_lost": 1.0 - hits as f64 / stored.len().max(1) as f64,
        "reads_a_hit": hit_reads as f64 / hits.max(1) as f64,
        "pages_a_hit": hit_pages as f64 / hits.max(1) as f64,
        "reads_a_miss": miss_reads as f64 / misses.max(1) as f64,
        "wrong": wrong,
    });
    println!("{figures}");
    Ok(())
}
