//! What is measured is in the report, and nothing that a browser would fetch.

use super::*;

fn report_of(inputs: &[(&str, &str)], flags: &[&str]) -> (Result<()>, tempfile::TempDir) {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        report: MakeReport,
    }
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    inputs.iter().for_each(|(name, text)| fs::write(place(name), text).unwrap());
    let (out, plots) = (place("out.html"), place("plots"));
    let mut all = vec!["report".to_owned(), "--out".to_owned(), out, "--plots".to_owned(), plots];
    all.extend(inputs.iter().map(|(name, _)| place(name)));
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let command: Command = clap::Parser::parse_from(all);
    (command.report.run(), folder)
}

/// A report as a run of two tenants writes it.
fn run(name: &str, hits: u64, flash_bytes: u64) -> String {
    let figures = |hits: u64| crate::Figures {
        requests: 100,
        gets: 100,
        hits,
        flash_bytes_written: flash_bytes,
        app_bytes_written: 1_000,
        dram_bytes: 5_000,
        ..crate::Figures::default()
    };
    let tenants =
        || [("a<b".to_owned(), figures(hits).with_ratios()), ("c".to_owned(), figures(3).with_ratios())].into();
    let moment = |seconds| crate::Moment { seconds, total: figures(hits).with_ratios(), tenants: tenants() };
    let report = Report {
        settings: [("dram".to_owned(), name.to_owned())].into(),
        complete: true,
        trace_seconds: 86_400.0,
        total: figures(hits).with_ratios(),
        tenants: tenants(),
        over_time: vec![moment(1.0), moment(2.0), moment(3.0)],
        latency_us: Some(crate::Latency { quantiles: vec![(0.5, 10.0), (0.99, 200.0)], ..crate::Latency::default() }),
        ..Report::default()
    };
    serde_json::to_string(&report).unwrap()
}

#[test]
fn runs_that_differ_in_how_much_they_write_are_one_line() {
    let of = |settings: &[(&str, &str)], bytes: u64| {
        let mut report: Report = serde_json::from_str(&run("8MiB", 71, bytes)).unwrap();
        report.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Run::of_settings(report)
    };
    let svm = ("admission", "svm");
    let runs = [
        of(&[svm, ("threshold", "1")], 300),
        of(&[svm], 200),
        of(&[svm, ("flash-write-budget", "0.1x")], 100),
        of(&[("admission", "all")], 900),
        of(&[svm, ("threshold", "-9"), ("flash-write-budget", "0.1x")], 100),
    ];
    let plots = runs::plots(&runs);
    let (_, plot) = plots.iter().find(|(name, _)| name == "hits-by-writes").unwrap();
    let told: Vec<_> = plot.lines.iter().map(|line| (line.name.as_str(), line.points.len(), line.dots)).collect();
    assert_eq!(
        told,
        [
            ("admission svm, by threshold", 1, true),
            ("admission svm", 2, false),
            ("admission all", 1, true),
            ("admission svm, threshold -9", 1, true)
        ]
    );
    assert_eq!(plot.lines[1].points[0].0, 100.0, "in the order of what was written");
}

#[test]
fn runs_are_told_in_tables_and_plots_without_a_network() {
    let sweep = format!("{{\"trace\": \"t\", \"runs\": [{}, {}]}}", run("8MiB", 71, 500), run("16MiB", 83, 250));
    let (outcome, folder) = report_of(&[("sweep.json", &sweep)], &["--drive", "1000b", "--dwpd", "1"]);
    outcome.unwrap();
    let html = fs::read_to_string(folder.path().join("out.html")).unwrap();
    for part in [
        "dram 8MiB",
        "71.00 %",
        "83.00 %",
        "0.250",
        "a&lt;b",
        "Endurance",
        "DRAM by tenant",
        "Latency",
        "Tenant a&lt;b: hit ratio by bytes",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    // 500 bytes a day on a drive of 1000 bytes rated for one write a day over five years
    assert!(html.contains("<td>10.0</td>") && html.contains("<td>20.0</td>"), "years");
    let outside = ["src=", "<script", "@import", "url("];
    assert!(outside.iter().all(|fetch| !html.contains(fetch)), "it fetches something");
    for plot in
        ["hit-ratio", "write-amplification", "hits-by-writes", "latency", "tenants-memory-1", "tenants-hit-ratio-2"]
    {
        for ending in ["svg", "png"] {
            let path = folder.path().join("plots").join(format!("{plot}.{ending}"));
            assert!(fs::metadata(&path).is_ok_and(|file| file.len() > 3_000), "{}", path.display());
        }
    }
}

#[test]
fn what_is_no_figures_is_refused() {
    let error = |text: &str| format!("{:#}", report_of(&[("x.json", text)], &[]).0.unwrap_err());
    assert!(error("{}").contains("nothing that stat, simulate"));
    assert!(error("hello").contains("x.json"));
    let (outcome, _folder) = report_of(&[("x.json", &run("a", 1, 1))], &["--drive", "1GB", "--dwpd", "0"]);
    assert!(format!("{:#}", outcome.unwrap_err()).contains("above 0"));
}
