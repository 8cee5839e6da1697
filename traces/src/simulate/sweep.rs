//! A sweep: one run for each combination of settings, over all cores.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Error, Result, bail};
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::Simulate;
use crate::figures::Report;

/// What can be swept.
const SETTINGS: [&str; 8] =
    ["dram", "flash", "admission", "threshold", "flash-write-budget", "rank", "arbiter", "reserved-share"];

/// A setting and what it takes in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    name: String,
    values: Vec<String>,
}

impl FromStr for Axis {
    type Err = Error;

    fn from_str(text: &str) -> Result<Axis> {
        let (name, values) = text.split_once('=').with_context(|| format!("'{text}': write SETTING=A,B,..."))?;
        if !SETTINGS.contains(&name) {
            bail!("'{name}' is nothing to sweep: take one of {}", SETTINGS.join(", "));
        }
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if values.iter().any(String::is_empty) {
            bail!("'{text}': a value is empty");
        }
        Ok(Axis { name: name.to_owned(), values })
    }
}

/// What a sweep came to.
pub(super) struct Outcome {
    pub(super) reports: Vec<Report>,
    pub(super) failed: Option<Error>,
}

fn combinations(base: &Simulate) -> Result<Vec<Simulate>> {
    let mut all = vec![Simulate { sweep: Vec::new(), ..base.clone() }];
    for Axis { name, values } in &base.sweep {
        let mut next = Vec::new();
        for run in &all {
            for value in values {
                let mut run = run.clone();
                match name.as_str() {
                    "dram" => run.dram.clone_from(value),
                    "flash" => run.flash.clone_from(value),
                    "admission" => run.admission.clone_from(value),
                    "flash-write-budget" => run.flash_write_budget = Some(value.clone()),
                    "rank" => run.rank = Some(value.clone()),
                    "arbiter" => run.arbiter = Some(value.clone()),
                    "reserved-share" => {
                        run.reserved_share =
                            value.parse().ok().with_context(|| format!("reserved-share={value}: no number"))?;
                    }
                    _ => {
                        let threshold = value.parse().ok().with_context(|| format!("threshold={value}: no number"))?;
                        run.threshold = Some(threshold);
                    }
                }
                next.push(run);
            }
        }
        all = next;
    }
    Ok(all)
}

/// Runs all combinations; those that are done when one fails are kept.
pub(super) fn run(base: &Simulate, names: &[String]) -> Result<Outcome> {
    let runs = combinations(base)?;
    // a wrong setting is told before anything runs
    runs.iter().try_for_each(|run| run.settings(names).map(drop))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = base.jobs.unwrap_or(cores).clamp(1, runs.len());
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Report)>> = Mutex::default();
    let failed: Mutex<Option<Error>> = Mutex::default();
    std::thread::scope(|threads| {
        for _ in 0..jobs {
            threads.spawn(|| {
                while let Some((number, run)) = pick(&runs, &next) {
                    let (report, error) = match run.simulate(names) {
                        Ok((report, error)) => (Some(report), error),
                        Err(error) => (None, Some(error)),
                    };
                    done.lock().expect("nobody panics with it").extend(report.map(|report| (number, report)));
                    if let Some(error) = error {
                        failed.lock().expect("nobody panics with it").get_or_insert(error);
                        next.store(runs.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics with it");
    done.sort_by_key(|(number, _)| *number);
    let reports: Vec<Report> = done.into_iter().map(|(_, report)| report).collect();
    print(&reports);
    Ok(Outcome { reports, failed: failed.into_inner().expect("nobody panics with it") })
}

fn pick<'r>(runs: &'r [Simulate], next: &AtomicUsize) -> Option<(usize, &'r Simulate)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    runs.get(number).map(|run| (number, run))
}

fn print(reports: &[Report]) {
    let Some(first) = reports.first() else { return };
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let figures = ["hit ratio", "DRAM hits", "flash hits", "flash MB", "write ampl.", "wrong", "stale", "requests/s"];
    table.set_header(first.settings.keys().map(String::as_str).chain(figures));
    for report in reports {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let settings = report.settings.values().map(Cell::new);
        let total = &report.total;
        let figures = [
            format!("{:.2} %", total.hit_ratio * 100.0),
            total.dram_hits.to_string(),
            total.flash_hits.to_string(),
            format!("{:.1}", total.flash_bytes_written as f64 / 1e6),
            format!("{:.3}", total.write_amplification),
            report.wrong_values.to_string(),
            report.stale_values.to_string(),
            format!("{:.0}", report.ops_per_second),
        ];
        table.add_row(settings.chain(figures.map(right)));
    }
    println!("{table}");
}
