//! How far sessions on two threads go beyond one, without a network: each thread serves pipelines of gets from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use cache::Cache;
use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use server::{Arrival, Config, Connection, Dialect, Driver, Flags, Server};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 200_000)]
    keys: u32,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 16)]
    pipeline: usize,
}

fn key(number: u32) -> String {
    format!("key:{number:016}")
}

fn open(server: &Arc<Server>) -> Connection {
    Connection::new(Arc::clone(server), Arrival { tenant: None, counted: false, dialect: Dialect::Auto, peer: None })
}

/// A server with its values.
struct Filled {
    server: Arc<Server>,
    cache: Arc<Cache>,
}

impl Filled {
    fn new(keys: u32) -> Result<Filled> {
        let config = Config::new(&Flags::parse_from(["flashare", "-m", "256", "--no-flash", "-R", "1000"]))?;
        let cache = Arc::new(Cache::new(config.cache.clone())?);
        cache.advance(1_000_000);
        let server = Arc::new(Server::new(config, Driver::Tokio)?);
        let (mut connection, mut worker) = (open(&server), cache.worker());
        for number in 0..keys {
            connection.receive(format!("set {} 0 0 100 noreply\r\n{}\r\n", key(number), "v".repeat(100)).as_bytes());
            connection.serve(&cache, &mut worker);
        }
        cache.advance(1_000_001); // as each second in a server: from here on a tick is as many accesses as befit so many objects
        Ok(Filled { server, cache })
    }
}

/// Requests a second of a thread for each of `servers`, all for one key or each for random keys of its own.
fn measure(arguments: &Arguments, servers: &[&Filled], one_key: bool) -> f64 {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let served: u64 = std::thread::scope(|scope| {
        let stop = &stop;
        let all: Vec<_> = (0u64..)
            .zip(servers)
            .map(|(seed, Filled { server, cache })| {
                scope.spawn(move || {
                    let mut dice = SmallRng::seed_from_u64(seed);
                    let batches: Vec<String> = (0..4096)
                        .map(|_| {
                            let number =
                                |dice: &mut SmallRng| if one_key { 7 } else { dice.random_range(0..arguments.keys) };
                            (0..arguments.pipeline).map(|_| format!("get {}\r\n", key(number(&mut dice)))).collect()
                        })
                        .collect();
                    let (mut connection, mut worker, mut served) = (open(server), cache.worker(), 0);
                    for batch in batches.iter().cycle() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        connection.serve_received(cache, &mut worker, batch.as_bytes());
                        let sent = connection.output().len();
                        assert!(sent > arguments.pipeline * 100, "every get is a hit");
                        connection.note_sent(sent);
                        served += arguments.pipeline as u64;
                    }
                    served
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(arguments.seconds));
        stop.store(true, Ordering::Relaxed);
        all.into_iter().map(|thread| thread.join().expect("no thread panics")).sum()
    });
    served as f64 / began.elapsed().as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (first, second) = (Filled::new(arguments.keys)?, Filled::new(arguments.keys)?);
    let mut figures = serde_json::Map::new();
    for (name, one_key) in [("random_keys", false), ("one_key", true)] {
        let (mut one, mut two, mut ratio, mut apart) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            one.push(measure(&arguments, &[&first], one_key));
            two.push(measure(&arguments, &[&first, &first], one_key));
            // what the machine gives two that share nothing
            apart.push(measure(&arguments, &[&first, &second], one_key) / one[one.len() - 1]);
            ratio.push(two[two.len() - 1] / one[one.len() - 1]);
        }
        let figure =
            json!({ "one": median(one), "two": median(two), "ratio": median(ratio), "ratio_apart": median(apart) });
        figures.insert(name.to_owned(), figure);
    }
    println!("{}", serde_json::Value::Object(figures));
    Ok(())
}
