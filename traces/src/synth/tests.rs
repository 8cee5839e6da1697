//! What is asked for is what comes out.

use std::collections::HashSet;
use std::path::Path;

use super::*;
use crate::event::{Kind, Op};
use crate::format::{Reader, Reading};

fn events(synth: &Synth) -> Vec<(String, Event)> {
    synth.run().unwrap();
    let mut reader = Reader::with(&synth.out, &Reading { strict: true, format: None }).unwrap();
    let (mut event, mut all) = (Event::default(), Vec::new());
    while reader.read(&mut event).unwrap() {
        all.push((reader.tenants()[event.tenant as usize].clone(), event.clone()));
    }
    all
}

#[test]
fn equal_seeds_make_equal_traces() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, seed| {
        let out = folder.path().join(name);
        Synth::of(out.clone(), 5_000, seed, &[]).run().unwrap();
        std::fs::read(out).unwrap()
    };
    assert_eq!(make("a", 7), make("b", 7));
    assert_ne!(make("a", 7), make("c", 8));
}

#[test]
fn a_bad_law_says_which_part() {
    let error = |text: &str| format!("{:#}", text.parse::<TenantText>().unwrap_err());
    assert!(error("a,bogus=1").contains("bogus"));
    assert!(error("a,size=big").contains("big"));
    assert!(error("a,size").contains("FIELD=NUMBER"));
    assert!(error("a,sets=0.7,deletes=0.7").contains("more than all"));
    assert!(error("a,cluster=5").contains("no figures"));
    assert!(error("a,cluster=55").contains("1 to 54"));
}

#[test]
fn every_cluster_is_built_in_and_has_its_shares() {
    for number in (1..=54).filter(|number| *number != 5) {
        TenantLaw::of_cluster(number, 1_000_000).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut synth = Synth::of(folder.path().join("t.csv"), 40_000, 1, &[]);
    synth.clusters = vec![14];
    let all = events(&synth);
    let share = |op: Op| all.iter().filter(|(_, event)| event.op == op).count() as f64 / all.len() as f64;
    assert!((share(Op::Delete) - 0.22).abs() < 0.01 && (share(Op::Set) - 0.13).abs() < 0.01);
    assert!(all.iter().all(|(tenant, event)| tenant == "cluster14" && event.ttl == 86_400 && event.key_size == 96));
    let mean = all.iter().map(|(_, event)| f64::from(event.value_size)).sum::<f64>() / all.len() as f64;
    assert!((300.0..550.0).contains(&mean), "{mean} bytes where 414 were asked for, by request");
}

#[test]
fn tenants_come_and_go_burst_and_sleep_at_night() {
    let folder = tempfile::tempdir().unwrap();
    let tenants =
        ["late,start=10,stop=20", "steady", "burst,burst-every=10,burst-for=2,burst-times=9", "day,swing=1,period=40"];
    let all = events(&Synth::of(folder.path().join("t.csv"), 40_000, 1, &tenants));
    let count = |name: &str, from: f64, to: f64| {
        all.iter().filter(|(tenant, event)| tenant == name && event.time >= from && event.time < to).count() as f64
    };
    assert_eq!(count("late", 0.0, 9.9) + count("late", 20.2, 1e9), 0.0);
    assert!((count("late", 10.0, 20.0) / 2_500.0 - 1.0).abs() < 0.1, "{}", count("late", 10.0, 20.0));
    assert!(count("burst", 8.2, 9.8) > 6.0 * count("burst", 6.2, 7.8));
    assert!(count("day", 5.0, 15.0) > 1.5 * count("steady", 5.0, 15.0));
    assert!(count("day", 25.0, 35.0) < 0.3 * count("steady", 25.0, 35.0));
    assert!(all.windows(2).all(|pair| pair[0].1.time <= pair[1].1.time));
}

#[test]
fn a_scan_reads_its_keys_in_order_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let all = events(&Synth::of(folder.path().join("t.csv"), 10_000, 1, &["a,scan-every=3,scan-keys=500,sets=0.5"]));
    let scanned: Vec<&Event> = all.iter().map(|(_, event)| event).filter(|event| event.key[0] == b's').collect();
    assert_eq!(scanned.len(), 1_500, "at 3, 6 and 9 s");
    assert!(scanned.iter().all(|event| event.op.kind() == Kind::Get));
    let keys: Vec<String> = scanned.iter().map(|event| String::from_utf8(event.key.clone()).unwrap()).collect();
    assert_eq!(keys[..500], keys[500..1000]);
    assert_eq!(keys[..500].iter().collect::<HashSet<_>>().len(), 500);
    assert!(scanned[0].time >= 2.9 && scanned[500].time >= 5.9);
}

#[test]
fn a_description_file_names_tenants_and_cachebench_files() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let config = r#"{"test_config": {"getRatio": 0.9, "loneGetRatio": 0.1, "keySizeRange": [10, 30], "popDistFile": "pop.json", "valSizeDistFile": "sizes.json"}}"#;
    std::fs::write(place("x.config.json"), config).unwrap();
    std::fs::write(place("x.pop.json"), r#"{"popularityWeights": [90, 10], "popularityBuckets": [10, 990]}"#).unwrap();
    std::fs::write(place("x.sizes.json"), r#"{"valSizeRange": [32, 1000], "valSizeRangeProbability": [1, 3]}"#)
        .unwrap();
    let text = "[[tenant]]\nname = \"meta\"\ncachebench = \"x.config.json\"\nshare = 3\n\n[[tenant]]\nname = \"tweets\"\ncluster = 52\nobjects = 50\n";
    std::fs::write(place("all.toml"), text).unwrap();
    let mut synth = Synth::of(place("t.csv"), 20_000, 1, &[]);
    synth.from = Some(place("all.toml"));
    let all = events(&synth);
    let meta: Vec<&Event> = all.iter().filter(|(tenant, _)| tenant == "meta").map(|(_, event)| event).collect();
    assert!((meta.len() as f64 / 15_000.0 - 1.0).abs() < 0.05);
    let hot =
        |event: &&&Event| event.key[0] == b'k' && String::from_utf8_lossy(&event.key[1..]).parse::<u64>().unwrap() < 10;
    assert!((meta.iter().filter(hot).count() as f64 / meta.len() as f64 - 0.81).abs() < 0.02, "0.9 of 0.9");
    let small = meta.iter().filter(|event| event.key[0] == b'o' && event.value_size <= 32).count() as f64;
    assert!((small / (meta.len() as f64 * 0.1) - 0.25).abs() < 0.05);
    std::fs::write(place("all.toml"), "[[tenant]]\nname = \"a\"\nwings = 2\n").unwrap();
    let error = format!("{:#}", synth.run().unwrap_err());
    assert!(error.contains("all.toml") && error.contains("tenant a") && error.contains("wings"), "{error}");
}

#[test]
fn the_shared_distributions_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/workloads");
    for name in ["kvcache_reg", "graph_cache_leader_fbobj", "graph_cache_follower_assocs", "kvcache_l2_wc"] {
        let config = folder.join(format!("{name}.config.json"));
        if config.exists() {
            // they are not shipped with the project
            let law =
                format!("meta,cachebench={}", config.display()).parse::<TenantText>().unwrap().law(1_000).unwrap();
            Source::new(&law).unwrap();
        }
    }
}
