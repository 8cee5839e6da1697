//! Round trips, detection, what is said of bad input.

use std::io::Write;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::event::Op;

fn read_all(path: &Path, reading: &Reading) -> Result<(Vec<(String, Event)>, Format)> {
    let mut reader = Reader::with(path, reading)?;
    let (mut event, mut all) = (Event::default(), Vec::new());
    while reader.read(&mut event)? {
        all.push((reader.tenants()[event.tenant as usize].clone(), Event { tenant: 0, ..event.clone() }));
    }
    Ok((all, reader.format()))
}

/// Events with numbers for keys, as every format can carry them.
fn some_events(seed: u64) -> Vec<(String, Event)> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut time = 0u64;
    (0..2_000)
        .map(|_| {
            time += dice.random_range(0..3_000_000u64);
            let key = dice.random_range(0..500u64).to_string().into_bytes();
            let op = [Op::Get, Op::Get, Op::Get, Op::Set, Op::Delete, Op::Add, Op::Incr][dice.random_range(0..7)];
            let event = Event {
                time: time as f64 / 1e6,
                key_size: dice.random_range(key.len() as u32..200),
                key,
                value_size: dice.random_range(0..2_000_000),
                tenant: 0,
                op,
                ttl: if dice.random() { 0 } else { dice.random_range(1..1_000_000) },
            };
            (format!("app{}", dice.random_range(0..4)), event)
        })
        .collect()
}

/// What is left of an event in a format.
fn carried(format: Format, (tenant, event): &(String, Event)) -> (String, Event) {
    let mut event = event.clone();
    let mut tenant = tenant.clone();
    if matches!(format, Format::OracleGeneral | Format::Plain | Format::Keys) {
        tenant = ONLY_TENANT.to_owned();
        (event.op, event.ttl, event.key_size) = (Op::Get, 0, event.key.len() as u32);
    }
    match format {
        Format::OracleGeneral => event.time = event.time.trunc(),
        Format::Keys => (event.time, event.value_size) = (0.0, 0),
        Format::Memcachier => event.ttl = 0,
        Format::Kvcache if event.op.kind() == crate::event::Kind::Set => event.op = Op::Set,
        _ => {}
    }
    (tenant, event)
}

#[test]
fn round_trips_lose_nothing_that_both_can_carry() {
    let folder = tempfile::tempdir().unwrap();
    let formats =
        [Format::Csv, Format::OracleGeneral, Format::Kvcache, Format::Memcachier, Format::Plain, Format::Keys];
    for (seed, ending) in [(1, "a"), (2, "a.zst"), (3, "a.gz"), (4, "a.xz")] {
        let events = some_events(seed);
        for format in formats {
            let path = folder.path().join(ending);
            let mut writer = Writer::create(&path, format).unwrap();
            events.iter().for_each(|(tenant, event)| writer.write(tenant, event).unwrap());
            writer.finish().unwrap();
            let (read, found) = read_all(&path, &Reading::default()).unwrap();
            assert_eq!(found, format, "it is detected");
            let expected: Vec<_> = events.iter().map(|event| carried(format, event)).collect();
            for (number, (got, wanted)) in read.iter().zip(&expected).enumerate() {
                let mut got = got.clone();
                if format == Format::Keys {
                    got.1.time = 0.0; // made up
                }
                assert!((got.1.time - wanted.1.time).abs() < 1e-6);
                got.1.time = wanted.1.time;
                assert_eq!(got, *wanted, "{format:?}, event {number}");
            }
            assert_eq!(read.len(), expected.len());
        }
    }
    assert!(!folder.path().join("a.records").exists());
}

#[test]
fn next_accesses_are_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let mut writer = Writer::create(&path, Format::OracleGeneral).unwrap();
    for key in ["7", "8", "7", "7", "9"] {
        writer.write("t", &Event { key: key.into(), value_size: 5, ..Event::default() }).unwrap();
    }
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let next = |n: usize| i64::from_le_bytes(bytes[n * 24 + 16..n * 24 + 24].try_into().unwrap());
    assert_eq!((0..5).map(next).collect::<Vec<_>>(), [2, -1, 3, -1, -1]);
}

#[test]
fn formats_of_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (events, format) = read_all(&path, &Reading::default()).unwrap();
        let shown = |(tenant, event): (String, Event)| {
            format!(
                "{tenant} {} {} {} {} {}",
                event.op.name(),
                String::from_utf8(event.key).unwrap(),
                event.key_size,
                event.value_size,
                event.ttl
            )
        };
        (format, events.into_iter().map(shown).collect::<Vec<_>>())
    };
    let kvcache = "op_time,key,key_size,op,op_count,size,cache_hits,ttl,usecase,sub_usecase\n1,ab,48,GET,2,87,1,0,36,3\n2,cd,10,SET,1,5,0,60,69,6\n";
    assert_eq!(
        read("kvcache", kvcache.as_bytes()),
        (Format::Kvcache, vec!["36 get ab 48 87 0".into(), "36 get ab 48 87 0".into(), "69 set cd 10 5 60".into()])
    );
    let older = "key,op,size,op_count,key_size\nab,GET_LEASE,10,1,20\n";
    assert_eq!(read("older", older.as_bytes()), (Format::Kvcache, vec!["trace get ab 20 10 0".into()]));
    let tectonic = "op_time,block_id,block_id_size,io_size,io_offset,user_name,user_namespace,op_name,op_count,host_name,rs_shard_id\n17,12ce-9,40,838,4096,423,348,getChunkData.NotInitialized,1,51,4\n18,12ce-9,40,838,0,423,348,putChunk.Permanent,1,51,4\n";
    assert_eq!(
        read("tectonic", tectonic.as_bytes()),
        (Format::Tectonic, vec!["423 get 12ce-9:4096 40 838 0".into(), "423 set 12ce-9:0 40 838 0".into()])
    );
    assert_eq!(
        read("memcachier", b"0.5,19,1,20,-1,77,0\n0.6,19,2,20,100,77,1\n"),
        (Format::Memcachier, vec!["19 get 77 20 0 0".into(), "19 set 77 20 100 0".into()])
    );
    assert_eq!(
        read("lis", b"230 3 0 0\n9 1 0 1\n"),
        (Format::Lis, ["230", "231", "232", "9"].map(|key| format!("trace get {key} {} 512 0", key.len())).to_vec())
    );
    assert_eq!(
        read("mooncake", b"{\"timestamp\": 5, \"input_length\": 9, \"hash_ids\": [3, 4]}\n"),
        (Format::Mooncake, vec!["trace get 3 1 65536 0".into(), "trace get 4 1 65536 0".into()])
    );
    assert_eq!(
        read("wiki", b"relative_unix\thashed_host_path_query\tresponse_size\ttime_firstbyte\n3\t-80\t20\t1.7E-4\n"),
        (Format::Wikimedia, vec!["trace get -80 3 20 0".into()])
    );
    assert_eq!(
        read("cos", b"1219008 REST.PUT.OBJECT 8d4f 1056\n1221974 REST.HEAD.OBJECT 39d1 528\n"),
        (Format::IbmCos, vec!["trace set 8d4f 4 1056 0".into(), "trace get 39d1 4 528 0".into()])
    );
    let mut vscsi = Vec::new();
    for (command, block) in [(0x28u16, 50u64), (0x2a, 51)] {
        vscsi.extend_from_slice(&[1, 0, 0, 0]);
        vscsi.extend_from_slice(&512u32.to_le_bytes());
        vscsi.extend_from_slice(&1u32.to_le_bytes());
        vscsi.extend_from_slice(&command.to_le_bytes());
        vscsi.extend_from_slice(&[0, 1]);
        vscsi.extend_from_slice(&block.to_le_bytes());
        vscsi.extend_from_slice(&5_633_898_611_441u64.to_le_bytes());
    }
    assert_eq!(
        read("vscsi", &vscsi),
        (Format::Vscsi, vec!["trace get 50 2 512 0".into(), "trace set 51 2 512 0".into()])
    );
    let watch = "OK\r\n\
        ts=100.5 gid=1 type=item_get key=shop%3A1 status=not_found clsid=0 cfd=9 size=0\r\n\
        ts=100.7 gid=2 type=item_get key=shop%3A1 status=not_found clsid=0 cfd=8 size=0\r\n\
        ts=100.899999 gid=3 type=item_get key=shop%3A1 status=not_found clsid=0 cfd=9 size=0\r\n\
        ts=100.900000 gid=4 type=item_store key=shop%3A1 status=stored cmd=set ttl=60 clsid=3 cfd=9 size=21\r\n\
        ts=101.0 gid=5 type=eviction key=old fetch=no ttl=-1 la=3 clsid=1 size=5\r\n\
        skipped=12\r\n\
        ts=101.1 gid=6 type=item_get key=shop%3A1 status=found clsid=3 cfd=9 size=21\r\n\
        ts=101.2 gid=7 type=item_get key=shop%3A1 status=found clsid=3 cfd=9 size=21\r\n\
        ts=101.3 gid=8 type=item_get key=shop%3A2 status=found clsid=3 cfd=8 size=5\r\n\
        ts=101.4 gid=9 type=item_store key=shop%3A1 status=stored cmd=cas ttl=0 clsid=3 cfd=9 size=22\r\n\
        ts=101.5 gid=10 type=item_get key=b status=found clsid=3 cfd=9 size=22\r\n\
        ts=101.6 gid=11 type=item_store key=b status=not_stored cmd=add ttl=0 clsid=3 cfd=9 size=2\r\n\
        ts=101.7 gid=12 type=item_get key=never status=not_found clsid=0 cfd=9 size=0\r\n\
        ts=111.8 gid=13 type=item_store key=never status=stored cmd=set ttl=4294967290 clsid=1 cfd=9 size=7\r\n\
        ts=111.9 gid=14 type=item_get key=a%20b status=found clsid=1 cfd=9 size=7\r\n\
        ts=112.0 gid=15 type=deleted key=a%20b cmd=delete clsid=1 size=7\r\n\
        ts=112.1 gid=16 type=item_get key=shop%3A2 status=found clsid=3 cfd=8 size=5\r\n";
    let expected = [
        "get shop:1 6 21 60",
        "get shop:1 6 21 60",
        "get shop:1 6 21 0",
        "get shop:2 6 5 0",
        "cas shop:1 6 22 0",
        "set never 5 7 1",
        "delete a%20b 5 7 0",
        "get shop:2 6 5 0",
    ];
    assert_eq!(read("watch", watch.as_bytes()), (Format::Watch, expected.map(|line| format!("trace {line}")).to_vec()));
    let twitter = "0,q:q:1:8WTfjZU14ee,17,213,4,get,0\n0,a,b,3,1,5,cas,9\n";
    assert_eq!(
        read("twitter", twitter.as_bytes()),
        (Format::Csv, vec!["4 get q:q:1:8WTfjZU14ee 17 213 0".into(), "5 cas a,b 3 1 9".into()])
    );
}

#[test]
fn bad_lines_are_named_and_borne_up_to_one_in_a_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    let write = |bad: usize| {
        let mut file = File::create(&path).unwrap();
        for n in 0..5_000 {
            let op = if n % 1_000 == 999 && n / 1_000 < bad { "fetch" } else { "get" };
            writeln!(file, "{n}.5,k{n},3,4,t,{op},0").unwrap();
        }
    };
    write(5);
    assert_eq!(read_all(&path, &Reading::default()).unwrap().0.len(), 4_995);
    let error = read_all(&path, &Reading { strict: true, format: None }).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("trace.csv, line 1000") && error.contains("column op") && error.contains("'fetch'"),
        "{error}"
    );
    let mut file = File::options().append(true).open(&path).unwrap();
    writeln!(file, "1.0,k").unwrap();
    let error = format!("{:#}", read_all(&path, &Reading::default()).unwrap_err());
    assert!(error.contains("6 of 5001 lines are bad"), "{error}");
}

/// The pass that only looks for names parses no line of a tenant that is known; it must find what a whole reading finds.
#[test]
fn names_of_tenants_are_those_that_a_whole_reading_finds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    let lines = "0,a,1,1,shop,get,0\n0,b,c,3,1,feed,get,0\n0,k,1,1,bad op,fetch,0\nno columns\n0,k,1,1,bad size,get,\n0,,1,1,no key,get,0\n\
                 0,k,one,1,shop,get,0\n0,k,1,1,shop,get,0\n0,k,1,1,feed,get,0\n0,k,1,1,last,set,0\n";
    std::fs::write(&path, lines).unwrap();
    let mut whole = Reader::open(&path).unwrap();
    while let Ok(true) = whole.read(&mut Event::default()) {}
    assert_eq!(tenants_of(&path, &Reading::default()).unwrap(), whole.tenants());
    assert_eq!(whole.tenants(), ["shop", "feed", "last"]);
    let blocks = folder.path().join("blocks.lis");
    std::fs::write(&blocks, "1 2 0 0\n7 1 0 1\n").unwrap();
    assert_eq!(tenants_of(&blocks, &Reading::default()).unwrap(), [ONLY_TENANT]);
}

#[test]
fn what_is_cut_off_is_an_error_behind_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    for ending in ["a.zst", "a.gz", "a.xz", "a.bin"] {
        let path = folder.path().join(ending);
        let format = if ending == "a.bin" { Format::OracleGeneral } else { Format::Csv };
        let mut writer = Writer::create(&path, format).unwrap();
        (0..10).flat_map(some_events).for_each(|(tenant, event)| writer.write(&tenant, &event).unwrap());
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let (mut event, mut count) = (Event::default(), 0);
        let error = loop {
            match reader.read(&mut event) {
                Ok(true) => count += 1,
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        assert!(count > 0 && error.is_some(), "{ending}: {count} events, {error:?}");
    }
}

#[test]
fn what_is_missing_or_unexpected_is_said() {
    let parse = |line: &str| match csv::parse(line.as_bytes(), &mut Tenants::default(), &mut Event::default()) {
        Ok(_) => panic!("{line} was taken"),
        Err(error) => format!("{error:#}"),
    };
    assert!(parse("0.1,k,x,24,c,get,0").contains("key_size"));
    assert!(parse("0.1,k,1,24,c,fetch,0").contains("expected get, set, delete"));
    assert!(parse("0.1,k,1").contains("column value_size is missing"));
    assert!(parse("zero,k,1,2,c,get,0").contains("column time_s: expected seconds, found 'zero'"));
    assert!(parse("0.1,k,1,2,c,get,-1").contains("column ttl: expected seconds to live, or 0, found '-1'"));
}

#[test]
fn what_stands_in_front_of_the_first_line_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let strict = Reading { strict: true, format: None };
    for front in ["", "\n\r\n", "\u{feff}", "\u{feff}\n"] {
        std::fs::write(&path, format!("{front}0.5,k,1,2,c,get,0\n\n1.5,k,1,2,c,set,9\n")).unwrap();
        let (events, format) = read_all(&path, &strict).unwrap();
        assert_eq!((events.len(), events[0].1.time, format), (2, 0.5, Format::Csv), "{front:?}");
    }
    std::fs::write(&path, "\n\n").unwrap();
    let error = format!("{:#}", read_all(&path, &strict).unwrap_err());
    assert!(error.contains("only empty lines"), "{error}");
}

#[test]
fn a_line_without_end_is_not_read_to_its_end() {
    let reading = Reading { format: Some(Format::Csv), strict: false };
    let error = format!("{:#}", read_all(Path::new("/dev/zero"), &reading).unwrap_err());
    assert!(error.contains("zero, line 1: 16777216 bytes and no end"), "{error}");
}

#[test]
fn each_of_thousands_of_tenants_keeps_its_number() {
    let mut tenants = Tenants::default();
    let name = |n: usize| format!("client-{n}");
    for round in 0..2 {
        for n in 0..3_000 {
            assert_eq!(tenants.knows(name(n).as_bytes()), round > 0);
            assert_eq!(tenants.number(&name(n)), n as u32);
            assert_eq!(tenants.number(&name(n)), n as u32);
        }
    }
    assert_eq!(tenants.names.len(), 3_000);
}

#[test]
fn the_shared_originals_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces/originals");
    for (name, format, requests) in [
        ("arc-p3.lis.zst", Format::Lis, 3_912_296),
        ("cloudphysics-w92.oracleGeneral.bin.zst", Format::OracleGeneral, 0),
        ("cloudphysics-w92.vscsi.zst", Format::Vscsi, 0),
        ("ibm-cos.txt.zst", Format::IbmCos, 0),
        ("lirs-multi1.trace.zst", Format::Keys, 15_858),
        ("meta-kvcache-202401.csv", Format::Kvcache, 691),
        ("meta-tectonic-202312.csv.zst", Format::Tectonic, 1_023),
        ("mooncake-conversation.jsonl.zst", Format::Mooncake, 0),
        ("twitter-cluster52.head.csv", Format::Csv, 7),
        ("wikimedia-text-2019.tsv.zst", Format::Wikimedia, 0),
    ] {
        let path = folder.join(name);
        if !path.exists() {
            continue; // they are not shipped with the project
        }
        let (events, found) = read_all(&path, &Reading { strict: true, format: None }).unwrap();
        assert_eq!(found, format, "{name}");
        assert!(!events.is_empty() && (requests == 0 || events.len() == requests), "{name}: {}", events.len());
    }
}

#[test]
fn a_watched_server_says_what_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watch.log");
    let line = |at: &str, rest: &str| format!("ts={at} gid=1 type=item_{rest} clsid=1 cfd=9 size=7\n");
    let miss =
        |at: &str, key: &str| format!("ts={at} gid=1 type=item_get key={key} status=not_found clsid=0 cfd=8 size=0\n");
    let text = [
        miss("5.999999", "a"),
        miss("6.1", "b"),
        miss("6.2", "b"),
        // filled, and missed anew: the first miss is no reason to give the second up
        line("7.0", "store key=a status=stored cmd=set ttl=0"),
        miss("15.0", "a"),
        "skipped=4\nskipped=6\n".to_owned(),
        line("17.0", "store key=a status=stored cmd=add ttl=0"),
        // microseconds are written without leading zeros
        line("17.25", "store key=b status=stored cmd=set ttl=0"),
        miss("18.0", "c"),
        "ts=19.0 gid=5 type=item_store key=%4 status=stored cmd=set ttl=0 clsid=1 cfd=9 size=1\n".to_owned(),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let (mut event, mut all) = (Event::default(), Vec::new());
    while reader.read(&mut event).is_ok_and(|more| more) {
        all.push((event.time, String::from_utf8(event.key.clone()).unwrap(), event.op));
    }
    let expected = [(7.0, "a", Op::Get), (17.0, "a", Op::Get), (17.000_025, "b", Op::Set)];
    assert_eq!(all, expected.map(|(time, key, op)| (time, key.to_owned(), op)));
    assert_eq!((reader.bad_lines(), reader.watch.skipped, reader.watch.unfilled), (1, 10, 3));
}
