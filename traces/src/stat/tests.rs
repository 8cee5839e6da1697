//! Golden figures of small traces.

use super::*;
use crate::Synth;

fn described(text: &str, limit: Option<u64>) -> Description {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    std::fs::write(&trace, text).unwrap();
    let stat = Stat { trace, reading: Reading::default(), limit, json: None, plots: None };
    measure(&stat).unwrap().0
}

#[test]
fn a_small_trace_is_described_exactly() {
    // keys of 2 bytes; a: 98 + 2 = 100 bytes, b: 200, c: 300
    let trace = "0.0,aa,2,98,x,get,0\n0.5,bb,2,198,x,set,60\n1.0,aa,2,98,x,get,0\n1.5,cc,2,298,y,get,60\n\
         2.0,aa,2,98,x,get,0\n9.0,bb,2,198,x,get,60\n9.5,bb,2,198,x,delete,0\n9.9,bb,2,198,x,get,60\n";
    let all = described(trace, None);
    assert_eq!((all.requests, all.gets, all.sets, all.deletes), (8, 6, 1, 1));
    assert_eq!((all.objects, all.working_set_bytes), (3, 600));
    assert_eq!((all.value_size.p50, all.value_size.max, all.value_size_mean), (198, 298, 173.0));
    assert_eq!(all.one_hit_share, 1.0 / 3.0);
    assert_eq!((all.seconds, all.complete, all.sample_rate), (9.9, true, 1.0));
    assert_eq!(all.ttls, [(60, 4.0 / 7.0), (0, 3.0 / 7.0)]);
    // reads: aa cold, aa at 300, cc cold, aa at 400, bb at 600, bb cold behind its delete
    let misses = |bytes: u64| {
        let point = all.miss_ratio_curve.iter().rev().find(|point| point.bytes <= bytes);
        point.map_or(1.0, |point| point.miss_ratio)
    };
    assert_eq!([299, 310, 410, 620].map(|bytes| (misses(bytes) * 6.0).round()), [6.0, 5.0, 4.0, 3.0]);
    assert_eq!(all.over_time.len(), 10);
    assert_eq!((all.over_time[0].objects, all.over_time[1].objects, all.over_time[9].objects), (2, 3, 3));
    assert_eq!(all.over_time.iter().map(|window| window.requests).sum::<u64>(), 8);
    assert_eq!((all.tenants["x"].objects, all.tenants["y"].objects), (2, 1));
    let first = described(trace, Some(3));
    assert_eq!((first.requests, first.objects, first.tenants.len(), first.complete), (3, 2, 1, true));
}

#[test]
fn the_exponent_of_zipf_is_found_again() {
    for alpha in [0.7, 1.0, 1.3] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("trace.csv");
        let law = format!("a,alpha={alpha},objects=20000,one-hit=0,sets=0");
        Synth::of(out.clone(), 300_000, 3, &[&law]).run().unwrap();
        let stat = Stat { trace: out, reading: Reading::default(), limit: None, json: None, plots: None };
        let found = measure(&stat).unwrap().0.zipf_alpha;
        assert!((found - alpha).abs() < 0.08, "{alpha}: {found}");
    }
}

#[test]
fn many_windows_are_merged_and_nothing_is_lost() {
    let lines: Vec<String> = (0..3_000).map(|n| format!("{}.0,k{},3,10,t,get,0", n * 7, n % 100)).collect();
    let all = described(&(lines.join("\n") + "\n"), None);
    assert!(all.over_time.len() <= 256);
    assert_eq!(all.over_time.iter().map(|window| window.requests).sum::<u64>(), 3_000);
    assert_eq!(all.over_time.last().unwrap().objects, 100);
    assert!(all.over_time.windows(2).all(|pair| pair[0].objects <= pair[1].objects));
}

#[test]
fn the_window_that_a_trace_ends_in_is_no_rate_unless_there_is_no_other() {
    let window = |seconds: f64, requests: u64| Window { seconds, requests, ..Window::default() };
    let windows = [window(4.0, 400), window(8.0, 800), window(12.0, 3)];
    assert_eq!(tell::rates(&windows, 8.1), [(4.0, 100.0), (8.0, 200.0)]);
    assert_eq!(tell::rates(&windows, 12.0), [(4.0, 100.0), (8.0, 200.0), (12.0, 0.75)]);
    assert_eq!(tell::rates(&windows[..1], 0.5), [(4.0, 100.0)]);
}
