//! `compare`: servers named in a file, each started under the same memory limit, the same trace replayed against each in turn; one table,
//! one report.

mod machine;
mod setup;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::figures::{Report, write_json};
use crate::format::{Reading, tenants_of};
use crate::plot::bytes_text;
use crate::replay::{Mode, Replay};
use crate::told::told;
use machine::{MemoryLimit, block_bytes_written};
use setup::{ServerSetup, Setup};

/// Longest wait for a server to serve, for one answer of it, and for it to stop.
const START_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(1);
const STOP_MAX: Duration = Duration::from_secs(30);

/// Runs the same trace against several servers, each started by this command under the same memory limit.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// What to compare: TOML, see docs/traces.md
    pub setup: PathBuf,
    /// Trace to run [default: the one that the setup names]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// Rounds: each server once in each, one after the other [default: what the setup says, else 1]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Stop each replay after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Folder for servers' files, made if it is not there [default: one in the system's folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report to this file, as HTML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What came of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The trace that was run.
    pub trace: String,
    /// Bytes that each server had, page cache counted; None without a limit.
    pub memory_limit_bytes: Option<u64>,
    /// Whether every replay ran to its end.
    pub complete: bool,
    /// Each server, in the order of the setup.
    pub servers: Vec<Compared>,
}

/// What came of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Its name in the setup.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// The round whose throughput is the median.
    pub median: usize,
    /// Each round.
    pub rounds: Vec<Report>,
}

impl Compared {
    /// The figures that stand for it.
    pub fn typical(&self) -> Option<&Report> {
        self.rounds.get(self.median)
    }
}

/// A server that runs. It is stopped when this is dropped.
struct Running {
    child: Child,
    port: u16,
    _limit: Option<MemoryLimit>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return; // its number may be another's by now
        }
        let pid = Pid::from_raw(self.child.id() as i32);
        if kill(pid, Signal::SIGTERM).is_ok() {
            let began = Instant::now();
            while began.elapsed() < STOP_MAX {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Compare {
    /// Runs the comparison; prints and writes what came of it.
    pub fn run(&self) -> Result<()> {
        let setup = Setup::read(&self.setup)?;
        let trace = self.trace.clone().or_else(|| setup.trace.clone());
        let trace = trace.context("name a trace: trace = \"FILE\" in the setup, or --trace FILE")?;
        let scratch = tempfile::tempdir().context("a folder for temporary files")?;
        let folder = self.folder.clone().unwrap_or_else(|| scratch.path().into());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let tenants = tenants_of(&trace, &self.reading)?;
        let memory = setup.memory_bytes()?;
        let limited = memory.filter(|bytes| match MemoryLimit::new("try", *bytes) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("flashare-trace: no memory limit here, servers take what they take: {error:#}");
                false
            }
        });
        let mut comparison = Comparison {
            trace: trace.display().to_string(),
            memory_limit_bytes: limited,
            complete: true,
            servers: setup.servers.iter().map(|server| server.compared()).collect(),
        };
        let mut failed: Option<anyhow::Error> = None;
        for round in 0..self.rounds.unwrap_or(setup.rounds).max(1) {
            for (number, server) in setup.servers.iter().enumerate() {
                eprintln!("flashare-trace: round {}, {}", round + 1, server.name);
                let own = folder.join(format!("{}-{round}", server.name));
                let outcome = self.run_one(&setup, server, &trace, &own, &tenants, limited);
                let _ = fs::remove_dir_all(&own);
                // one that fails does not keep the others from being measured
                let error = match outcome {
                    Ok((report, error)) => {
                        comparison.servers[number].rounds.push(report);
                        error
                    }
                    Err(error) => Some(error),
                };
                if let Some(error) = error {
                    let error = error.context(format!("server {}", server.name));
                    eprintln!("flashare-trace: {error:#}");
                    comparison.complete = false;
                    failed.get_or_insert(error);
                }
            }
        }
        comparison.servers.iter_mut().for_each(choose_median);
        print(&comparison);
        if let Some(path) = &self.json {
            write_json(path, &comparison)?;
        }
        if let Some(path) = &self.report {
            crate::report::write_comparison(path, &comparison)?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn run_one(
        &self,
        setup: &Setup,
        server: &ServerSetup,
        trace: &Path,
        folder: &Path,
        tenants: &[String],
        limit: Option<u64>,
    ) -> Result<(Report, Option<anyhow::Error>)> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let running = start(server, folder, tenants, server.memory_bytes(limit)?)?;
        let blocks_before = block_bytes_written(folder);
        let replay = Replay {
            trace: trace.into(),
            reading: self.reading.clone(),
            server: format!("127.0.0.1:{}", running.port),
            protocol: server.protocol()?,
            mode: Mode::ReadThrough,
            connections: setup.connections,
            threads: 1,
            pipeline: setup.pipeline,
            speed: setup.speed.clone(),
            rate: setup.rate,
            value_max: server.value_max.clone().unwrap_or_else(|| setup.value_max.clone()),
            limit: self.limit,
            no_stats: false,
            pid: Some(running.child.id()),
            json: None,
            windows: None,
        };
        let (mut report, failed) = replay.replay()?;
        report.settings = [("server".to_owned(), server.name.clone())].into();
        if let (Some(cost), Some(before)) = (&mut report.server, blocks_before) {
            nix::unistd::sync();
            cost.block_bytes_written = block_bytes_written(folder).map(|after| after.saturating_sub(before));
        }
        Ok((report, failed))
    }
}

/// A port that nobody has, below those that the system gives to whoever asks for any: so nobody gets it before the server does.
fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    const TRIES: usize = 100;
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mut dice = SmallRng::seed_from_u64(nanos ^ u64::from(std::process::id()));
    let free = |_| {
        let port = dice.random_range(PORTS);
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    };
    (0..TRIES).find_map(free).context("no port from 20000 to 32000 is free")
}

fn start(server: &ServerSetup, folder: &Path, tenants: &[String], limit: Option<u64>) -> Result<Running> {
    let port = free_port()?;
    let command = server.command_line(port, folder, tenants)?;
    let limit = limit.map(|bytes| MemoryLimit::new(&server.name, bytes)).transpose()?;
    let enter = limit.as_ref().map_or(String::new(), |limit| format!("echo $$ > '{}' && ", limit.entry().display()));
    let said = fs::File::create(folder.join("said")).context("a file for what the server says")?;
    let child = Command::new("sh")
        .args(["-c", &format!("{enter}exec {command}")])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .context("sh")?;
    let mut running = Running { child, port, _limit: limit };
    let began = Instant::now();
    let said = || {
        let text = fs::read_to_string(folder.join("said")).unwrap_or_default();
        text.lines().last().unwrap_or("nothing").to_owned()
    };
    loop {
        if let Some(status) = running.child.try_wait()? {
            bail!("'{command}' ended at once ({status}); it said: {}", said());
        }
        if is_answered(port) {
            return Ok(running);
        }
        if began.elapsed() > START_MAX {
            bail!("'{command}' does not answer on port {port}; it said: {}", said());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether somebody answers there. That a connection is accepted says little: a process that was being forked while we looked for a free port
/// has our listening socket until it becomes another program.
fn is_answered(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    socket.set_read_timeout(Some(ANSWER_MAX)).is_ok()
        && socket.write_all(b"version\r\n").is_ok()
        && socket.read(&mut [0]).is_ok_and(|bytes| bytes > 0)
}

fn choose_median(server: &mut Compared) {
    let mut order: Vec<usize> = (0..server.rounds.len()).collect();
    order.sort_by(|a, b| server.rounds[*a].ops_per_second.total_cmp(&server.rounds[*b].ops_per_second));
    server.median = order.get(order.len() / 2).copied().unwrap_or(0);
}

/// The columns of the table: what they are called, and how a report is told in them.
pub(crate) type Column = (&'static str, fn(&Report) -> String);

/// The columns of a comparison.
pub(crate) const COLUMNS: [Column; 12] = [
    ("hit ratio", |run| format!("{:.2} %", run.total.hit_ratio * 100.0)),
    ("flash hits", |run| run.total.flash_hits.to_string()),
    ("written: server says", |run| bytes_text(run.total.flash_bytes_written as f64)),
    ("written: kernel, process", |run| {
        run.server.as_ref().map_or(String::new(), |server| bytes_text(server.device_bytes_written as f64))
    }),
    ("written: kernel, device", |run| {
        let bytes = run.server.as_ref().and_then(|server| server.block_bytes_written);
        bytes.map_or(String::new(), |bytes| bytes_text(bytes as f64))
    }),
    ("write ampl.", |run| format!("{:.3}", run.total.write_amplification)),
    ("requests/s", |run| format!("{:.0}", run.ops_per_second)),
    ("p50 us", |run| run.latency_us.as_ref().map_or(String::new(), |latency| format!("{:.0}", latency.p50))),
    ("p99 us", |run| run.latency_us.as_ref().map_or(String::new(), |latency| format!("{:.0}", latency.p99))),
    ("p99.9 us", |run| run.latency_us.as_ref().map_or(String::new(), |latency| format!("{:.0}", latency.p999))),
    ("CPU s/M requests", |run| {
        run.server.as_ref().map_or(String::new(), |server| format!("{:.2}", server.cpu_seconds_per_million))
    }),
    ("peak RSS", |run| run.server.as_ref().map_or(String::new(), |server| bytes_text(server.rss_bytes as f64))),
];

fn print(comparison: &Comparison) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["server"].into_iter().chain(COLUMNS.iter().map(|(name, _)| *name)));
    for server in &comparison.servers {
        let Some(run) = server.typical() else { continue };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(&server.name)].into_iter().chain(COLUMNS.iter().map(|(_, tell)| right(tell(run)))));
    }
    println!("{table}");
    let runs = || comparison.servers.iter().filter_map(|server| Some((&server.name, server.typical()?)));
    for (name, run) in runs().filter(|(_, run)| run.wrong_values + run.stale_values + run.errors > 0) {
        let Report { wrong_values, stale_values, errors, .. } = run;
        println!("{name}: {wrong_values} wrong values, {stale_values} stale values, {errors} requests refused");
    }
    let mut tenants = Table::new();
    tenants.load_style(presets::UTF8_FULL_CONDENSED);
    tenants
        .set_header(["hit ratio of"].into_iter().chain(comparison.servers.iter().map(|server| server.name.as_str())));
    let first = runs().next().map(|(_, run)| told(&run.tenants, |own| own.requests));
    if let Some((named, rest)) = first.filter(|(named, _)| named.len() > 1) {
        for (name, _) in named {
            let ratio = |server: &Compared| {
                let own = server.typical().and_then(|run| run.tenants.get(name));
                own.map_or(String::new(), |own| format!("{:.2} %", own.hit_ratio * 100.0))
            };
            tenants.add_row([name.clone()].into_iter().chain(comparison.servers.iter().map(ratio)));
        }
        println!("{tenants}");
        rest.inspect(|rest| println!("{rest}"));
    }
    if !comparison.complete {
        println!("INCOMPLETE: a replay ended before the trace did");
    }
}

#[cfg(test)]
mod tests;
