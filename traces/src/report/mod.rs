//! `report`: one HTML file, whole in itself, with tables and plots of what other commands wrote with --json; the plots also as SVG and
//! PNG.

mod endurance;
mod page;
mod runs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::compare::{COLUMNS, Comparison};
use crate::figures::Report;
use crate::stat::Description;
use endurance::Drive;
use page::Page;
use runs::Run;

/// Makes a report of what other commands measured.
#[derive(Args, Clone, Debug)]
pub struct MakeReport {
    /// Files that stat, simulate, replay and compare wrote with --json
    #[arg(required = true, value_name = "JSON")]
    pub inputs: Vec<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// Draw the plots into this folder too, as SVG and PNG
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    /// What stands above it
    #[arg(long, value_name = "TEXT", default_value = "Cache report")]
    pub title: String,
    /// Size of the drive whose endurance is told, such as 960GB
    #[arg(long, value_name = "SIZE", requires = "dwpd")]
    pub drive: Option<String>,
    /// Drive writes a day that it is rated for
    #[arg(long, value_name = "N", requires = "drive")]
    pub dwpd: Option<f64>,
    /// Years of its rating
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    pub years: f64,
    /// Write amplification inside the drive: 1 for large sequential writes, 2 to 4 for small random ones
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub device_amplification: f64,
}

/// What a file holds.
enum Input {
    Runs(Vec<Run>),
    Comparison(Box<Comparison>),
    Description(Box<Description>),
}

fn read(path: &Path) -> Result<Input> {
    #[derive(Deserialize)]
    struct Sweep {
        runs: Vec<Report>,
    }
    let place = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(place)?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(place)?;
    let has = |key: &str| value.get(key).is_some();
    let stem = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if has("servers") {
        let comparison: Comparison = serde_json::from_value(value).with_context(place)?;
        return Ok(Input::Comparison(Box::new(comparison)));
    }
    if has("runs") {
        let sweep: Sweep = serde_json::from_value(value).with_context(place)?;
        return Ok(Input::Runs(sweep.runs.into_iter().map(Run::of_settings).collect()));
    }
    if has("miss_ratio_curve") {
        return Ok(Input::Description(Box::new(serde_json::from_value(value).with_context(place)?)));
    }
    if has("hit_ratio") {
        let report = serde_json::from_value(value).with_context(place)?;
        return Ok(Input::Runs(vec![Run { name: stem, report }]));
    }
    bail!("{}: this is nothing that stat, simulate, replay or compare writes with --json", path.display());
}

impl MakeReport {
    /// Writes the report.
    pub fn run(&self) -> Result<()> {
        let drive = self.drive()?;
        let inputs = self.inputs.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        let mut page = Page::new(&self.title);
        let mut runs = Vec::new();
        for input in inputs {
            match input {
                Input::Runs(more) => runs.extend(more),
                Input::Description(description) => page.describe(&description)?,
                Input::Comparison(comparison) => runs.extend(compare(&mut page, &comparison)),
            }
        }
        tell_runs(&mut page, &runs)?;
        if let Some(drive) = drive {
            page.endurance(&drive, &runs);
        }
        page.write(&self.out)?;
        if let Some(folder) = &self.plots {
            page.write_plots(folder)?;
        }
        Ok(())
    }

    fn drive(&self) -> Result<Option<Drive>> {
        let Some((size, dwpd)) = self.drive.as_deref().zip(self.dwpd) else { return Ok(None) };
        let bytes = ::server::parse_size(size, 1).context("--drive")?;
        if dwpd <= 0.0 || self.years <= 0.0 || self.device_amplification < 1.0 || bytes == 0 {
            bail!("--drive, --dwpd and --years are above 0, --device-amplification is 1 or more");
        }
        Ok(Some(Drive { bytes, dwpd, years: self.years, amplification: self.device_amplification }))
    }
}

/// Adds the table of a comparison; returns its runs.
fn compare(page: &mut Page, comparison: &Comparison) -> Vec<Run> {
    let run = |server: &crate::compare::Compared| {
        server.typical().map(|report| Run { name: server.name.clone(), report: report.clone() })
    };
    let runs: Vec<Run> = comparison.servers.iter().filter_map(run).collect();
    page.comparison(comparison, &runs, &COLUMNS);
    runs
}

fn tell_runs(page: &mut Page, runs: &[Run]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    page.summary(runs);
    runs::plots(runs).into_iter().try_for_each(|(name, plot)| page.plot(&name, plot))
}

/// The report of a comparison by itself.
pub(crate) fn write_comparison(path: &Path, comparison: &Comparison) -> Result<()> {
    let mut page = Page::new(&format!("Comparison: {}", comparison.trace));
    let runs = compare(&mut page, comparison);
    tell_runs(&mut page, &runs)?;
    page.write(path)
}

#[cfg(test)]
mod tests;
