//! Replays against servers of the tests' own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::Synth;

/// A server in a thread: `serve` is called with each connection.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Answers requests, by default with a miss; `answer` may say otherwise of a get, or end the connection.
fn answer_all(stream: TcpStream, answer: &dyn Fn(&str, &mut TcpStream) -> bool) {
    let mut out = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap_or(0) > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ok = match words[..] {
            ["stats", ..] => out.write_all(b"END\r\n").is_ok(),
            ["get", key] => answer(key, &mut out),
            ["set", .., size] => {
                let mut value = vec![0; size.parse::<usize>().unwrap() + 2];
                lines.read_exact(&mut value).is_ok() && out.write_all(b"STORED\r\n").is_ok()
            }
            _ => out.write_all(b"NOT_FOUND\r\n").is_ok(),
        };
        if !ok {
            return;
        }
        line.clear();
    }
}

fn replay_of(server: &str, flags: &[&str]) -> (Report, Option<anyhow::Error>, tempfile::TempDir) {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        replay: Replay,
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    Synth::of(trace.clone(), 4_000, 1, &["a,sets=0,size=50"]).run().unwrap();
    let all = [&["replay", trace.to_str().unwrap(), "--server", server], flags].concat();
    let command: Command = clap::Parser::parse_from(all);
    let (report, failed) = command.replay.replay().unwrap();
    (report, failed, folder)
}

#[test]
fn a_server_that_lies_is_found_out() {
    let address = server(|stream| {
        answer_all(stream, &|key, out| write!(out, "VALUE {key} 0 20\r\nxxxxxxxxxxxxxxxxxxxx\r\nEND\r\n").is_ok());
    });
    let (report, failed, _) = replay_of(&address, &[]);
    assert!(failed.is_none() && report.complete);
    assert_eq!((report.total.gets, report.total.hits, report.wrong_values), (4_000, 4_000, 4_000));
    let in_flight = report.in_flight.unwrap();
    assert!((1.0..=32.0).contains(&in_flight), "four connections with eight each: {in_flight}");
}

#[test]
fn leftovers_of_another_replay_are_hinted_at() {
    assert_eq!(super::hint_of_leftovers(0, 7), None);
    assert_eq!(super::hint_of_leftovers(7, 0), None);
    assert!(super::hint_of_leftovers(12, 3).unwrap().contains("held 12 items"));
}

#[test]
fn a_server_that_dies_leaves_what_was_measured() {
    for flags in [[].as_slice(), &["--rate", "100000"]] {
        let left = AtomicU64::new(1_000);
        let address = server(move |stream| {
            let alive = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            answer_all(stream, &|_, out| alive() && out.write_all(b"END\r\n").is_ok());
        });
        let (report, failed, _) = replay_of(&address, flags);
        let why = format!("{:#}", failed.expect("it ends with an error"));
        assert!(why.contains("ended before the trace did"), "{why}");
        assert!(!report.complete);
        // answers that were on their way when the connection broke are lost, more of them on a busy machine
        assert!((500..=1_000).contains(&report.total.gets), "{flags:?}: {}", report.total.gets);
    }
}

#[test]
fn an_open_loop_counts_from_when_a_request_was_due() {
    // the server sleeps once for 300 ms: a closed loop would show that in a batch or two, of 4,000 requests
    let slept = AtomicU64::new(0);
    let address = server(move |stream| {
        answer_all(stream, &|_, out| {
            if slept.fetch_add(1, Ordering::Relaxed) == 2_000 {
                std::thread::sleep(Duration::from_millis(300));
            }
            out.write_all(b"END\r\n").is_ok()
        });
    });
    let (report, failed, _) = replay_of(&address, &["--rate", "4000", "--connections", "1", "--mode", "write-through"]);
    assert!(failed.is_none());
    assert_eq!(report.in_flight, None, "nothing says how many wait");
    let latency = report.latency_us.unwrap();
    let within = |share: f64| latency.quantiles.iter().find(|(quantile, _)| *quantile >= share).unwrap().1;
    // 1,200 of 4,000 requests were due while it slept, and some behind it
    assert!(within(0.8) > 60_000.0, "80 % within {} us", within(0.8));
    assert!(report.seconds > 0.95, "it keeps to the rate: {}", report.seconds);
    assert_eq!(report.total.app_bytes_written, 0, "write-through fills nothing");
}
