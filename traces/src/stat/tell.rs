//! A description as tables and plots.

use std::path::Path;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{Description, Window};
use crate::plot::{Line, Plot, Scale, bytes_text};
use crate::told::told;

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

pub(super) fn print(whole: &Description) {
    let (tenants, rest) = told(&whole.tenants, |one| one.requests);
    let all = tenants.into_iter().map(|(name, one)| (name.as_str(), one)).chain([("all", whole)]);
    let header =
        ["tenant", "requests", "get %", "set %", "del %", "objects", "working set", "key", "value", "one-hit", "Zipf"];
    let mut shapes = table(header);
    let mut sizes = table(["tenant", "value p10", "p50", "p90", "p99", "max", "TTLs (share of stores)"]);
    let mut misses = table(["LRU of % of the working set", "1", "2", "5", "10", "20", "50", "100"]);
    for (name, one) in all {
        let percent = |part: u64| right(format!("{:.1}", part as f64 * 100.0 / one.requests.max(1) as f64));
        shapes.add_row([
            Cell::new(name),
            right(one.requests.to_string()),
            percent(one.gets),
            percent(one.sets),
            percent(one.deletes),
            right(one.objects.to_string()),
            right(bytes_text(one.working_set_bytes as f64)),
            right(format!("{:.1}", one.key_size_mean)),
            right(format!("{:.1}", one.value_size_mean)),
            right(format!("{:.3}", one.one_hit_share)),
            right(format!("{:.2}", one.zipf_alpha)),
        ]);
        let ttls = one.ttls.iter().take(3).map(|(ttl, share)| match ttl {
            0 => format!("none {:.0} %", share * 100.0),
            ttl => format!("{ttl} s {:.0} %", share * 100.0),
        });
        let value = one.value_size;
        let quantiles = [value.p10, value.p50, value.p90, value.p99, value.max].map(|size| right(size.to_string()));
        let [p10, p50, p90, p99, max] = quantiles;
        sizes.add_row([Cell::new(name), p10, p50, p90, p99, max, Cell::new(ttls.collect::<Vec<_>>().join(", "))]);
        let misses_at = one.lru_miss_ratios.iter().map(|(_, ratio)| right(format!("{ratio:.3}")));
        misses.add_row([Cell::new(name)].into_iter().chain(misses_at));
    }
    println!("{shapes}\n{sizes}\nmiss ratio of reads\n{misses}");
    rest.inspect(|rest| println!("{rest}"));
    println!("{:.0} seconds of trace time; format {}", whole.seconds, whole.format);
    if whole.sample_rate < 1.0 {
        println!("objects, working set and curve from {:.2} % of the keys", whole.sample_rate * 100.0);
    }
    if whole.bad_lines > 0 {
        println!("{} bad lines were left out", whole.bad_lines);
    }
    if !whole.complete {
        println!("INCOMPLETE: the trace could not be read to its end");
    }
}

/// The plots of a description: name of the file, and what it shows.
pub(crate) fn plots(whole: &Description) -> Vec<(&'static str, Plot)> {
    let (tenants, _) = told(&whole.tenants, |one| one.requests);
    let all = || tenants.iter().map(|(name, one)| (name.as_str(), *one)).chain([("all", whole)]);
    let lines = |points: &dyn Fn(&Description) -> Vec<(f64, f64)>| {
        let line = |(name, one): (&str, &Description)| Line { name: name.to_owned(), points: points(one), dots: false };
        // a single tenant is the whole
        all().skip(usize::from(whole.tenants.len() == 1)).map(line).collect::<Vec<_>>()
    };
    let plot = |title: &str, x: (&str, Scale), y: (&str, Scale), lines| Plot {
        title: title.to_owned(),
        x: (x.0.to_owned(), x.1),
        y: (y.0.to_owned(), y.1),
        lines,
    };
    vec![
        (
            "miss-ratio-curve",
            plot(
                "Misses of an LRU by its size",
                ("cache size", Scale::LogBytes),
                ("miss ratio", Scale::Share),
                lines(&|one| one.miss_ratio_curve.iter().map(|point| (point.bytes as f64, point.miss_ratio)).collect()),
            ),
        ),
        (
            "reuse-distances",
            plot(
                "Reads by reuse distance",
                ("bytes used since the last request for the object", Scale::LogBytes),
                ("% of reads", Scale::Linear),
                lines(&|one| {
                    let reads = one.gets.max(1) as f64;
                    one.reuse_distances.iter().map(|(bytes, count)| (*bytes as f64, count * 100.0 / reads)).collect()
                }),
            ),
        ),
        (
            "working-set",
            plot(
                "Working set over time",
                ("seconds", Scale::Linear),
                ("bytes of all objects so far", Scale::Bytes),
                lines(&|one| one.over_time.iter().map(|window| (window.seconds, window.bytes as f64)).collect()),
            ),
        ),
        (
            "requests",
            plot(
                "Requests over time",
                ("seconds", Scale::Linear),
                ("requests a second", Scale::Linear),
                lines(&|one| rates(&one.over_time, whole.seconds)),
            ),
        ),
    ]
}

/// Requests a second by time. The window that the trace ends in is left out, unless there is no other: it is not full.
pub(super) fn rates(windows: &[Window], trace_seconds: f64) -> Vec<(f64, f64)> {
    let width = windows.first().map_or(1.0, |window| window.seconds);
    let full = windows.iter().filter(|window| window.seconds <= trace_seconds || windows.len() == 1);
    full.map(|window| (window.seconds, window.requests as f64 / width)).collect()
}

pub(super) fn plot(whole: &Description, folder: &Path) -> Result<()> {
    plots(whole).iter().try_for_each(|(name, plot)| plot.write(folder, name))
}
