//! What a run measured: a table for people, JSON for programs, one set of names for both.

use crate::simulate::FtlFigures;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::told::told;

/// Writes figures as JSON.
pub(crate) fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Figures of one tenant, or of all together. Bytes are keys and values (`app_`), or what went to the device (`flash_`).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Figures {
    /// Requests of every kind.
    pub requests: u64,
    /// Gets.
    pub gets: u64,
    /// Gets that were answered with a value.
    pub hits: u64,
    /// `hits / gets`.
    pub hit_ratio: f64,
    /// Hits from DRAM.
    pub dram_hits: u64,
    /// Hits from flash.
    pub flash_hits: u64,
    /// Bytes that were stored: sets and fills.
    pub app_bytes_written: u64,
    /// Bytes that were written to flash: a tenant's records; for the run, whole segments.
    pub flash_bytes_written: u64,
    /// Of those, bytes that had been on flash before.
    pub rescue_bytes_written: u64,
    /// `flash_bytes_written / app_bytes_written`.
    pub write_amplification: f64,
    /// Bytes in DRAM at the end.
    pub dram_bytes: u64,
}

impl Figures {
    /// Fills in the ratios.
    pub fn with_ratios(mut self) -> Figures {
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        self.hit_ratio = ratio(self.hits, self.gets);
        self.write_amplification = ratio(self.flash_bytes_written, self.app_bytes_written);
        self
    }

    /// What has come since `before`, of figures that only grow.
    fn since(&self, before: &Figures) -> Figures {
        Figures {
            requests: self.requests.saturating_sub(before.requests),
            gets: self.gets.saturating_sub(before.gets),
            hits: self.hits.saturating_sub(before.hits),
            dram_hits: self.dram_hits.saturating_sub(before.dram_hits),
            flash_hits: self.flash_hits.saturating_sub(before.flash_hits),
            app_bytes_written: self.app_bytes_written.saturating_sub(before.app_bytes_written),
            flash_bytes_written: self.flash_bytes_written.saturating_sub(before.flash_bytes_written),
            rescue_bytes_written: self.rescue_bytes_written.saturating_sub(before.rescue_bytes_written),
            ..*self
        }
        .with_ratios()
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Longest.
    #[serde(default)]
    pub max: f64,
    /// The whole distribution: share of the requests, and within how many microseconds they were answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantiles: Vec<(f64, f64)>,
}

/// Figures at a moment of a run, as they have grown since its beginning; or, in a window, since the window before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds since the beginning: of trace time when simulated, of real time when replayed.
    pub seconds: f64,
    /// The whole run.
    #[serde(flatten)]
    pub total: Figures,
    /// Each tenant.
    pub tenants: BTreeMap<String, Figures>,
}

impl Moment {
    /// What has come since `before`.
    pub(crate) fn since(&self, before: &Moment) -> Moment {
        let none = Figures::default();
        let tenants = self.tenants.iter();
        let tenants = tenants
            .map(|(name, own)| (name.clone(), own.since(before.tenants.get(name).unwrap_or(&none))))
            .filter(|(_, own)| own.requests > 0 || own.dram_bytes > 0)
            .collect();
        Moment { seconds: self.seconds, total: self.total.since(&before.total), tenants }
    }
}

/// A run as it goes: moments in about equal distances, never more than a few hundred.
#[derive(Default)]
pub(crate) struct Course {
    moments: Vec<Moment>,
    /// Every how many calls one is kept.
    stride: u64,
    calls: u64,
}

/// Moments that are kept at most.
const MOMENTS_MAX: usize = 200;

impl Course {
    /// Whether the next moment is to be noted. Call it in equal distances.
    pub(crate) fn wants(&mut self) -> bool {
        self.calls += 1;
        self.calls.is_multiple_of(self.stride.max(1))
    }

    pub(crate) fn note(&mut self, moment: Moment) {
        self.moments.push(moment);
        if self.moments.len() >= MOMENTS_MAX {
            // every other one goes: what is kept has grown since the beginning, so nothing is lost
            let mut number = 0;
            self.moments.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.stride = self.stride.max(1) * 2;
        }
    }

    /// The windows between the moments, and to the end.
    pub(crate) fn windows(self, begin: Moment, end: &Moment) -> Vec<Moment> {
        let mut before = begin;
        let later = self.moments.into_iter().filter(|moment| moment.total.requests < end.total.requests);
        let all: Vec<Moment> = later.chain([end.clone()]).collect();
        let windows = all.into_iter().map(|moment| {
            let window = moment.since(&before);
            before = moment;
            window
        });
        windows.filter(|window| window.total.requests > 0).collect()
    }
}

/// Everything that a run measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was run: settings by name.
    pub settings: BTreeMap<String, String>,
    /// Whether it ran to its end.
    pub complete: bool,
    /// Requests before those that are counted.
    pub warmup_requests: u64,
    /// The whole run.
    #[serde(flatten)]
    pub total: Figures,
    /// Answers that no version of the key explains.
    pub wrong_values: u64,
    /// Answers that an older version explains.
    pub stale_values: u64,
    /// Requests that were refused: objects too large, errors.
    pub errors: u64,
    /// Tenants that have a trained model.
    pub models_trained: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Seconds of trace time that were run.
    pub trace_seconds: f64,
    /// Requests, fills counted in, a second.
    pub ops_per_second: f64,
    /// Of a simulation in which DRAM was cleaned: bytes that the cleaner moved for each that it freed, warm-up counted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relocated_for_each_freed: Option<f64>,
    /// Of a closed loop: requests under way at a time, on the mean, as `simulate --in-flight` takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<f64>,
    /// Latencies, of a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// What the machine saw of the server, where it could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerCost>,
    /// What a modelled SSD made of its writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ftl: Option<FtlFigures>,
    /// Each tenant.
    pub tenants: BTreeMap<String, Figures>,
    /// Windows of the run.
    pub over_time: Vec<Moment>,
}

/// What a server cost the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServerCost {
    /// Seconds of CPU that the process used.
    pub cpu_seconds: f64,
    /// The same for each million of requests.
    pub cpu_seconds_per_million: f64,
    /// Largest resident memory.
    pub rss_bytes: u64,
    /// Bytes that the kernel wrote to storage for the process.
    pub device_bytes_written: u64,
    /// Bytes that were written to the block device of its files meanwhile, by whomever; where it could be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_bytes_written: Option<u64>,
}

impl Report {
    /// The table and what stands below it.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "tenant",
            "requests",
            "gets",
            "hit ratio",
            "DRAM hits",
            "flash hits",
            "stored MB",
            "flash MB",
            "rescued MB",
            "write ampl.",
        ]);
        let (tenants, rest) = told(&self.tenants, |own| own.requests);
        for (name, figures) in tenants {
            table.add_row(row(name, figures));
        }
        table.add_row(row("all", &self.total));
        println!("{table}");
        rest.inspect(|rest| println!("{rest}"));
        println!(
            "{} wrong values, {} stale values, {} requests refused, {} models trained; {:.2} s, {:.0} requests a second",
            self.wrong_values, self.stale_values, self.errors, self.models_trained, self.seconds, self.ops_per_second
        );
        if let Some(moved) = self.relocated_for_each_freed {
            println!("the cleaner moved {moved:.2} bytes for each that it freed");
        }
        if self.warmup_requests > 0 {
            println!("counted after {} requests of warm-up", self.warmup_requests);
        }
        if let Some(ftl) = &self.ftl {
            println!(
                "the SSD ({} % spare, erase blocks of {} KiB) writes {:.3} bytes to its cells for each of ours; for random 4 KiB writes {:.2}",
                ftl.spare_percent,
                ftl.erase_block_bytes >> 10,
                ftl.amplification,
                ftl.random_amplification
            );
        }
        if let Some(latency) = &self.latency_us {
            println!(
                "latency: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
                latency.p50, latency.p99, latency.p999, latency.max
            );
        }
        if !self.complete {
            println!("INCOMPLETE: the run ended before the trace did");
        }
    }
}

fn row(name: &str, figures: &Figures) -> Vec<Cell> {
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(name),
        right(figures.requests.to_string()),
        right(figures.gets.to_string()),
        right(format!("{:.2} %", figures.hit_ratio * 100.0)),
        right(figures.dram_hits.to_string()),
        right(figures.flash_hits.to_string()),
        right(mb(figures.app_bytes_written)),
        right(mb(figures.flash_bytes_written)),
        right(mb(figures.rescue_bytes_written)),
        right(format!("{:.3}", figures.write_amplification)),
    ]
}

/// Writes windows as CSV: a row for the whole and one for each tenant, a window each.
pub(crate) fn write_windows(path: &Path, windows: &[Moment]) -> Result<()> {
    let mut text = String::from(
        "seconds,tenant,requests,gets,hits,hit_ratio,dram_hits,flash_hits,app_bytes_written,flash_bytes_written,rescue_bytes_written,write_amplification,dram_bytes\n",
    );
    for window in windows {
        let tenants = window.tenants.iter().map(|(name, own)| (name.as_str(), own));
        for (name, own) in [("all", &window.total)].into_iter().chain(tenants) {
            let Figures { requests, gets, hits, hit_ratio, dram_hits, flash_hits, .. } = own;
            let Figures { app_bytes_written, flash_bytes_written, rescue_bytes_written, .. } = own;
            writeln!(
                text,
                "{:.3},{name},{requests},{gets},{hits},{hit_ratio:.6},{dram_hits},{flash_hits},{app_bytes_written},{flash_bytes_written},{rescue_bytes_written},{:.6},{}",
                window.seconds, own.write_amplification, own.dram_bytes
            )?;
        }
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_course_is_thinned_and_loses_nothing() {
        let mut course = Course::default();
        let moment = |n: u64| Moment {
            seconds: n as f64,
            total: Figures { requests: n, gets: n, hits: n / 2, ..Figures::default() },
            tenants: BTreeMap::new(),
        };
        for n in 1..=10_000 {
            if course.wants() {
                course.note(moment(n));
            }
        }
        let windows = course.windows(Moment::default(), &moment(10_001));
        assert!((80..=200).contains(&windows.len()), "{}", windows.len());
        assert_eq!(windows.iter().map(|window| window.total.requests).sum::<u64>(), 10_001);
        let lengths: Vec<u64> = windows.iter().map(|window| window.total.requests).collect();
        assert!(lengths[..lengths.len() - 1].windows(2).all(|pair| pair[0] == pair[1]), "{lengths:?}");
        assert!(windows.iter().all(|window| (window.total.hit_ratio - 0.5).abs() < 0.1));
    }
}
