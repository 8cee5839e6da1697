//! What a run measured: a table for people, JSON for programs, one set of names for both.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// Writes figures as JSON.
pub(crate) fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Figures of one tenant, or of all together. Bytes are keys and values (`app_`), or what went to the device (`flash_`).
#[derive(Clone, Debug, Default, Serialize)]
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
}

impl Figures {
    /// Fills in the ratios.
    pub fn with_ratios(mut self) -> Figures {
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        self.hit_ratio = ratio(self.hits, self.gets);
        self.write_amplification = ratio(self.flash_bytes_written, self.app_bytes_written);
        self
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
}

/// Everything that a run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
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
    /// Requests, fills counted in, a second.
    pub ops_per_second: f64,
    /// Latencies, of a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// Each tenant.
    pub tenants: BTreeMap<String, Figures>,
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
        for (name, figures) in &self.tenants {
            table.add_row(row(name, figures));
        }
        table.add_row(row("all", &self.total));
        println!("{table}");
        println!(
            "{} wrong values, {} stale values, {} errors, {} models trained; {:.2} s, {:.0} requests a second",
            self.wrong_values, self.stale_values, self.errors, self.models_trained, self.seconds, self.ops_per_second
        );
        if let Some(latency) = &self.latency_us {
            println!("latency: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us", latency.p50, latency.p99, latency.p999);
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
