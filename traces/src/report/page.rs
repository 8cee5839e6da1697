//! The page: tables and plots, in one file that asks for nothing else.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::endurance::Drive;
use super::runs::Run;
use crate::compare::{Column, Comparison};
use crate::figures::{Figures, Report};
use crate::plot::{Plot, bytes_text};
use crate::stat::{Description, plots_of};
use crate::told::told;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;color:#1c1c1c}\
h1{font-size:1.6em}h2{font-size:1.25em;margin-top:2em;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto;font-size:13px}\
th,td{padding:.25em .6em;border-bottom:1px solid #e4e4e4;text-align:right;white-space:nowrap}\
th{background:#f6f6f6;font-weight:600;white-space:normal}th:first-child,td:first-child{text-align:left}\
figure{margin:1em 0}svg{max-width:100%;height:auto}.text td,.text th{text-align:left;white-space:normal}.note{color:#555}.bad{color:#a00000;font-weight:600}";

/// What a page is made of.
pub(super) struct Page {
    title: String,
    body: String,
    plots: Vec<(String, Plot)>,
}

/// Text as HTML shows it.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

impl Page {
    pub(super) fn new(title: &str) -> Page {
        Page { title: title.to_owned(), body: String::new(), plots: Vec::new() }
    }

    fn add(&mut self, text: &str) {
        self.body.push_str(text);
        self.body.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.add(&format!("<h2>{}</h2>", shown(text)));
    }

    fn note(&mut self, text: &str) {
        self.add(&format!("<p class=\"note\">{}</p>", shown(text)));
    }

    fn table(&mut self, header: &[String], rows: &[Vec<String>]) {
        self.table_of("", header, rows);
    }

    fn table_of(&mut self, class: &str, header: &[String], rows: &[Vec<String>]) {
        let cells = |tag: &str, cells: &[String]| {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", shown(cell))).collect::<String>()
        };
        let mut text = format!("<table class=\"{class}\"><thead><tr>{}</tr></thead><tbody>\n", cells("th", header));
        for row in rows {
            writeln!(text, "<tr>{}</tr>", cells("td", row)).expect("writing to memory");
        }
        self.add(&(text + "</tbody></table>"));
    }

    pub(super) fn plot(&mut self, name: &str, plot: Plot) -> Result<()> {
        let svg = plot.svg()?;
        self.add(&format!("<figure role=\"img\" aria-label=\"{}\">{svg}</figure>", shown(&plot.title)));
        self.plots.push((name.to_owned(), plot));
        Ok(())
    }

    /// What a trace is like.
    pub(super) fn describe(&mut self, whole: &Description) -> Result<()> {
        self.heading("The trace");
        let columns = [
            "tenant",
            "requests",
            "gets",
            "sets",
            "deletes",
            "objects",
            "working set",
            "mean value",
            "one-hit",
            "Zipf",
        ];
        let row = |name: &str, one: &Description| {
            let share = |part: u64| format!("{:.1} %", part as f64 * 100.0 / one.requests.max(1) as f64);
            vec![
                name.to_owned(),
                one.requests.to_string(),
                share(one.gets),
                share(one.sets),
                share(one.deletes),
                one.objects.to_string(),
                bytes_text(one.working_set_bytes as f64),
                bytes_text(one.value_size_mean),
                percent(one.one_hit_share),
                format!("{:.2}", one.zipf_alpha),
            ]
        };
        let (tenants, rest) = told(&whole.tenants, |one| one.requests);
        let mut rows: Vec<Vec<String>> = tenants.into_iter().map(|(name, one)| row(name, one)).collect();
        rows.push(row("all", whole));
        self.table(&columns.map(str::to_owned), &rows);
        rest.inspect(|rest| self.note(rest));
        self.note(&format!("{:.0} seconds of trace time.", whole.seconds));
        if !whole.complete {
            self.add("<p class=\"bad\">The trace could not be read to its end.</p>");
        }
        for (name, plot) in plots_of(whole) {
            self.plot(&format!("trace-{name}"), plot)?;
        }
        Ok(())
    }

    pub(super) fn comparison(&mut self, comparison: &Comparison, runs: &[Run], columns: &[Column]) {
        self.heading("The servers");
        let limit = comparison.memory_limit_bytes.map_or("without a memory limit".to_owned(), |bytes| {
            format!("each with {} of memory, page cache counted", bytes_text(bytes as f64))
        });
        let rounds = comparison.servers.iter().map(|server| server.rounds.len()).max().unwrap_or(0);
        self.note(&format!(
            "{} against each, {limit}; {rounds} round(s), the one of median throughput is told.",
            comparison.trace
        ));
        let header: Vec<String> =
            ["server"].iter().chain(columns.iter().map(|(name, _)| name)).map(|text| (*text).to_owned()).collect();
        let row = |run: &Run| {
            [run.name.clone()].into_iter().chain(columns.iter().map(|(_, tell)| tell(&run.report))).collect()
        };
        self.table(&header, &runs.iter().map(row).collect::<Vec<_>>());
        self.note(
            "Written: what the server says it wrote to flash; what the kernel wrote for its process; what went to the block device of its \
             files meanwhile, by anybody. Write amplification: bytes that the server wrote to flash for each byte stored.",
        );
        let commands: Vec<Vec<String>> =
            comparison.servers.iter().map(|server| vec![server.name.clone(), server.command.clone()]).collect();
        self.table_of("text", &["server".to_owned(), "command".to_owned()], &commands);
        if !comparison.complete {
            self.add("<p class=\"bad\">A replay ended before the trace did: its figures are of a part.</p>");
        }
    }

    pub(super) fn summary(&mut self, runs: &[Run]) {
        self.heading("The runs");
        let header = [
            "run",
            "requests",
            "hit ratio",
            "DRAM hits",
            "flash hits",
            "stored",
            "to flash",
            "rescued",
            "write ampl.",
            "wrong",
            "stale",
            "refused",
            "requests/s",
        ];
        let row = |run: &Run| {
            let Report { total, wrong_values, stale_values, errors, ops_per_second, .. } = &run.report;
            let mark = if run.report.complete { "" } else { " (incomplete)" };
            let bytes = |bytes: u64| bytes_text(bytes as f64);
            vec![
                format!("{}{mark}", run.name),
                total.requests.to_string(),
                percent(total.hit_ratio),
                total.dram_hits.to_string(),
                total.flash_hits.to_string(),
                bytes(total.app_bytes_written),
                bytes(total.flash_bytes_written),
                bytes(total.rescue_bytes_written),
                format!("{:.3}", total.write_amplification),
                wrong_values.to_string(),
                stale_values.to_string(),
                errors.to_string(),
                format!("{ops_per_second:.0}"),
            ]
        };
        self.table(&header.map(str::to_owned), &runs.iter().map(row).collect::<Vec<_>>());
        if runs.iter().any(|run| run.report.tenants.len() > 1) {
            let all = runs.iter().map(|run| told(&run.report.tenants, |own| own.requests));
            let (named, rests): (Vec<_>, Vec<_>) = all.unzip();
            let names: BTreeSet<&String> = named.into_iter().flatten().map(|(name, _)| name).collect();
            self.heading("Tenants");
            let header: Vec<String> =
                ["hit ratio of".to_owned()].into_iter().chain(runs.iter().map(|run| run.name.clone())).collect();
            let row = |name: &&String| {
                let ratio = |run: &Run| {
                    run.report.tenants.get(*name).map_or(String::new(), |own: &Figures| percent(own.hit_ratio))
                };
                [(*name).clone()].into_iter().chain(runs.iter().map(ratio)).collect()
            };
            let rows: Vec<Vec<String>> = names.iter().map(row).collect();
            self.table(&header, &rows);
            rests.into_iter().flatten().next().inspect(|rest| self.note(rest));
        }
        self.heading("Plots");
    }

    pub(super) fn endurance(&mut self, drive: &Drive, runs: &[Run]) {
        self.heading("Endurance");
        self.note(&format!(
            "A drive of {} rated for {} drive writes a day over {} years takes {} in its life. Bytes a day at the trace's own speed, with \
             {} bytes written inside the drive for each byte that it is given.",
            bytes_text(drive.bytes as f64),
            drive.dwpd,
            drive.years,
            bytes_text(drive.rated_bytes()),
            drive.amplification
        ));
        let row = |run: &Run| {
            let bytes = drive.bytes_a_day(&run.report);
            vec![
                run.name.clone(),
                bytes.map_or("the trace has no time".to_owned(), bytes_text),
                bytes.map_or(String::new(), |bytes| format!("{:.3}", bytes / drive.bytes as f64)),
                drive.lasts(&run.report).map_or("never wears out".to_owned(), |years| format!("{years:.1}")),
            ]
        };
        let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
        self.table(&["run", "bytes a day", "drive writes a day", "years"].map(str::to_owned), &rows);
        for row in rows {
            println!("{}: {} a day, {} drive writes a day, {} years", row[0], row[1], row[2], row[3]);
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let title = shown(&self.title);
        let text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <link rel=\"icon\" href=\"data:,\"><title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{}</body></html>\n",
            self.body
        );
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn write_plots(&self, folder: &Path) -> Result<()> {
        self.plots.iter().try_for_each(|(name, plot)| plot.write(folder, name))
    }
}
