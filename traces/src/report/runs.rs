//! Runs as plots.

use std::collections::BTreeSet;

use crate::figures::{Figures, Moment, Report};
use crate::plot::{Line, Plot, Scale};
use crate::told::told;

/// A run with the name that it goes by.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) report: Report,
}

impl Run {
    pub(super) fn of_settings(report: Report) -> Run {
        let words: Vec<String> = report.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        Run { name: words.join(", "), report }
    }
}

/// Settings that say how much is written, by the same rule.
const THRESHOLD: &str = "threshold";
const MUCH_OR_LITTLE: [&str; 2] = [THRESHOLD, "flash-write-budget"];
/// Most tenants that have a plot of their own.
const TENANTS_DRAWN: usize = 32;

fn plot(title: &str, x: (&str, Scale), y: (&str, Scale), lines: Vec<Line>) -> Plot {
    Plot { title: title.to_owned(), x: (x.0.to_owned(), x.1), y: (y.0.to_owned(), y.1), lines }
}

/// What stands below plots over time: seconds, or, where some runs were simulated and some replayed, requests.
fn time_axis(runs: &[Run]) -> (&'static str, Scale) {
    let replayed = runs.iter().filter(|run| run.report.latency_us.is_some()).count();
    match replayed {
        0 => ("seconds of trace time", Scale::Linear),
        count if count == runs.len() => ("seconds", Scale::Linear),
        _ => ("requests", Scale::Linear),
    }
}

/// Lines over time, one a run.
fn over_time(runs: &[Run], axis: (&'static str, Scale), of: impl Fn(&Moment) -> Option<f64>) -> Vec<Line> {
    let line = |run: &Run| {
        let mut requests = 0;
        let points = run.report.over_time.iter().filter_map(|window| {
            requests += window.total.requests;
            let at = if axis.0 == "requests" { requests as f64 } else { window.seconds };
            Some((at, of(window)?))
        });
        Line { name: run.name.clone(), points: points.collect(), dots: false }
    };
    runs.iter().map(line).filter(|line| line.points.len() > 1).collect()
}

/// Lines over time of one run, one a tenant.
fn by_tenant(run: &Run, of: impl Fn(&Figures) -> f64) -> Vec<Line> {
    let (tenants, _) = told(&run.report.tenants, |own| own.requests);
    let line = |(name, _): (&String, &Figures)| {
        let points =
            run.report.over_time.iter().filter_map(|window| Some((window.seconds, of(window.tenants.get(name)?))));
        Line { name: name.clone(), points: points.collect(), dots: false }
    };
    tenants.into_iter().map(line).filter(|line| line.points.len() > 1).collect()
}

/// What runs came to, a line for those that differ in nothing but how much they may write, a dot for each other. What all have in common is
/// not named.
fn hits_by_writes(runs: &[Run], of: impl Fn(&Report) -> Option<&Figures>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for run in runs {
        let Some(figures) = of(&run.report).filter(|figures| figures.gets > 0) else { continue };
        let settings = &run.report.settings;
        let varies = |name: &String| runs.iter().any(|other| other.report.settings.get(name) != settings.get(name));
        let states_both = MUCH_OR_LITTLE.iter().all(|name| settings.contains_key(*name));
        let is_axis = |name: &String| MUCH_OR_LITTLE.contains(&name.as_str()) && !(states_both && name == THRESHOLD);
        let words = settings.iter().filter(|(name, _)| varies(name) && !is_axis(name));
        let mut words: Vec<String> = words.map(|(name, value)| format!("{name} {value}")).collect();
        if settings.contains_key(THRESHOLD) && !states_both {
            words.push("by threshold".to_owned());
        }
        let name = if words.is_empty() { run.name.clone() } else { words.join(", ") };
        let point = (figures.flash_bytes_written as f64, figures.hit_ratio);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point], dots: true }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        line.dots = line.points.len() == 1;
    }
    lines
}

/// The plots of runs: name of the file, and the plot.
pub(super) fn plots(runs: &[Run]) -> Vec<(String, Plot)> {
    let axis = time_axis(runs);
    let mut all = Vec::new();
    let mut add = |name: String, plot: Plot| {
        if plot.lines.iter().any(|line| !line.points.is_empty()) {
            all.push((name, plot));
        }
    };
    let hit_ratio = |window: &Moment| (window.total.gets > 0).then_some(window.total.hit_ratio);
    add(
        "hit-ratio".into(),
        plot("Hit ratio over time", axis, ("hit ratio", Scale::Share), over_time(runs, axis, hit_ratio)),
    );
    let written = |run: &&Run| run.report.total.flash_bytes_written > 0;
    let writers: Vec<Run> = runs.iter().filter(written).cloned().collect();
    let amplification =
        |window: &Moment| (window.total.app_bytes_written > 0).then_some(window.total.write_amplification);
    add(
        "write-amplification".into(),
        plot(
            "Write amplification over time",
            axis,
            ("bytes written to flash for each byte stored", Scale::Linear),
            over_time(&writers, axis, amplification),
        ),
    );
    if runs.len() > 1 && !writers.is_empty() {
        let of = |title: &str, lines: Vec<Line>| {
            plot(title, ("bytes written to flash", Scale::Bytes), ("hit ratio", Scale::Share), lines)
        };
        let whole = hits_by_writes(runs, |report| Some(&report.total));
        add("hits-by-writes".into(), of("Hit ratio by bytes written to flash", whole));
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.report.tenants.keys()).collect();
        for (number, name) in names.iter().enumerate().filter(|_| (2..=TENANTS_DRAWN).contains(&names.len())) {
            let lines = hits_by_writes(runs, |report| report.tenants.get(*name));
            add(
                format!("hits-by-writes-tenant-{}", number + 1),
                of(&format!("Tenant {name}: hit ratio by bytes written to flash"), lines),
            );
        }
    }
    let latencies = runs.iter().filter_map(|run| {
        let latency = run.report.latency_us.as_ref()?;
        let points = latency.quantiles.iter().filter(|(quantile, micros)| *quantile > 0.0 && *micros > 0.0);
        let points = points.map(|(quantile, micros)| (1.0 / (1.0 - quantile), *micros));
        Some(Line { name: run.name.clone(), points: points.collect(), dots: false })
    });
    add(
        "latency".into(),
        plot(
            "Latency",
            ("share of the requests that were answered within", Scale::Nines),
            ("microseconds", Scale::LogNumber),
            latencies.collect(),
        ),
    );
    for (number, run) in runs.iter().enumerate().filter(|(_, run)| run.report.tenants.len() > 1) {
        let name = |what: &str| format!("{what}-{}", number + 1);
        let of = |what: &str| format!("{what}: {}", run.name);
        add(
            name("tenants-hit-ratio"),
            plot(
                &of("Hit ratio by tenant"),
                time_axis(std::slice::from_ref(run)),
                ("hit ratio", Scale::Share),
                by_tenant(run, |figures| figures.hit_ratio),
            ),
        );
        let memory = by_tenant(run, |figures| figures.dram_bytes as f64);
        // servers without tenants do not say
        if memory.iter().any(|line| line.points.iter().any(|point| point.1 > 0.0)) {
            add(
                name("tenants-memory"),
                plot(
                    &of("DRAM by tenant"),
                    time_axis(std::slice::from_ref(run)),
                    ("bytes in DRAM", Scale::Bytes),
                    memory,
                ),
            );
        }
    }
    all
}
