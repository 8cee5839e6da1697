//! `replay`: a trace against any memcached-protocol server over the network, every answer checked; in a closed loop, or in an open one
//! at the trace's times or a rate.
//!
//! A key always goes over the same connection, so the order of its requests is known and each answer can be judged exactly:
//! the version stored last, an older one (stale), or none of them (wrong).

mod lane;
mod server;
mod tally;
mod wire;

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::event::{Event, parse_speed, wire_key};
use crate::figures::{Course, Moment, Report, ServerCost, write_json, write_windows};
use crate::format::{Reader, Reading};
use crate::progress::Progress;
use crate::values::key_id;
use lane::{Chunk, Manner, Request, run_closed, run_open};
use server::{Control, Stats};
use tally::Sum;

pub use wire::{Answers, Got, Protocol, Sender, connect};

/// Requests handed to a connection at once.
const CHUNK: usize = 512;
/// Chunks that wait for a connection.
const CHUNKS_WAITING: usize = 8;
/// Between moments that are noted.
const MOMENT: Duration = Duration::from_millis(500);
/// Time in which a server finishes what it has begun, before it is asked what it has written.
const SETTLES: Duration = Duration::from_millis(100);

/// What is done about a miss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// A get that misses is filled with a value of the size that the trace states
    ReadThrough,
    /// Only the trace's own stores store
    WriteThrough,
}

/// Replays a trace against a server over the network.
#[derive(Args, Clone, Debug)]
pub struct Replay {
    /// Trace to run; - for standard input
    pub trace: PathBuf,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// Server to run it against
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11211")]
    pub server: String,
    /// What to speak
    #[arg(long, value_name = "NAME", value_enum, default_value = "text")]
    pub protocol: Protocol,
    /// What is done about a miss
    #[arg(long, value_name = "NAME", value_enum, default_value = "read-through")]
    pub mode: Mode,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,
    /// Closed loop: threads that share the connections (in an open loop each connection has two of its own)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Closed loop: requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub pipeline: usize,
    /// max: closed loop, as fast as the server answers; xN: open loop, N times the trace's own speed
    #[arg(long, value_name = "SPEED", default_value = "max")]
    pub speed: String,
    /// Open loop: so many requests a second, in the trace's order
    #[arg(long, value_name = "N", conflicts_with = "speed")]
    pub rate: Option<f64>,
    /// Largest value that is stored; larger ones are not
    #[arg(long, value_name = "SIZE", default_value = "1000KiB")]
    pub value_max: String,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Do not ask the server for stats: it knows none
    #[arg(long)]
    pub no_stats: bool,
    /// Process of the server, on this machine: its CPU time, memory and writes are told too
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write figures over time to this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub windows: Option<PathBuf>,
}

/// When requests are due.
#[derive(Clone, Copy)]
enum Pace {
    Closed,
    /// So many times the trace's speed.
    Trace(f64),
    /// So many a second.
    Rate(f64),
}

/// What may be behind wrong values where the server was not empty when the replay began.
fn hint_of_leftovers(items_before: u64, wrong: u64) -> Option<String> {
    (items_before > 0 && wrong > 0).then(|| {
        format!(
            "the server held {items_before} items before: values that another replay has left count as wrong. Empty it \
             (flush_all, or a restart) and replay again"
        )
    })
}

impl Replay {
    fn pace(&self) -> Result<Pace> {
        match (self.rate, self.speed.as_str()) {
            (Some(rate), _) if rate > 0.0 => Ok(Pace::Rate(rate)),
            (Some(rate), _) => bail!("--rate {rate}: take a rate above 0"),
            (None, "max") => Ok(Pace::Closed),
            (None, text) => {
                let speed = parse_speed(text).map(Pace::Trace);
                speed.with_context(|| format!("--speed {text}: take max, or xN such as x10"))
            }
        }
    }

    /// Runs the trace, prints and writes the figures.
    pub fn run(&self) -> Result<()> {
        let (report, failed) = self.replay()?;
        report.print();
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        if let Some(path) = &self.windows {
            write_windows(path, &report.over_time)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Runs the trace. What was measured before an error is in the report, which is incomplete then.
    pub fn replay(&self) -> Result<(Report, Option<anyhow::Error>)> {
        if self.connections == 0 || self.pipeline == 0 {
            bail!("--connections and --pipeline take 1 or more");
        }
        let pace = self.pace()?;
        let value_max = ::server::parse_size(&self.value_max, 1).context("--value-max")? as usize;
        let manner = Manner { pipeline: self.pipeline, value_max, fills: self.mode == Mode::ReadThrough };
        let mut control = Control::connect(&self.server, self.no_stats)?;
        let before = control.read()?;
        let cost_before = self.pid.map(server::cost).transpose().context("--pid")?;
        let mut reader = Reader::with(&self.trace, &self.reading)?;
        let sum = Sum::new();
        let mut run = Run {
            replay: self,
            pace,
            before: &before,
            sum: &sum,
            course: Course::default(),
            began: Instant::now(),
            trace_seconds: 0.0,
        };
        let failed = run.go(&mut reader, &mut control, manner).err();
        let seconds = run.began.elapsed().as_secs_f64();
        if !self.no_stats {
            std::thread::sleep(SETTLES); // writes that are under way
        }
        // a server that is gone says nothing more
        let after = control.read().unwrap_or_default();
        let tally = sum.tally();
        let end = tally.moment(seconds, reader.tenants(), &before, &after);
        let models = reader.tenants().iter().filter(|name| after.tenant(name, "model_trained") > 0).count();
        if let Some(hint) = hint_of_leftovers(before.first(&["curr_items"]), tally.wrong) {
            eprintln!("flashare-trace: {hint}");
        }
        let requests = end.total.requests.max(1) as f64;
        let cost = self.pid.and_then(|pid| server::cost(pid).ok()).zip(cost_before).map(|(after, before)| {
            let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
            ServerCost {
                cpu_seconds,
                cpu_seconds_per_million: cpu_seconds * 1e6 / requests,
                rss_bytes: after.rss_bytes,
                device_bytes_written: after.device_bytes_written.saturating_sub(before.device_bytes_written),
                block_bytes_written: None,
            }
        });
        let report = Report {
            settings: [("server".to_owned(), self.server.clone())].into(),
            complete: failed.is_none(),
            total: end.total,
            wrong_values: tally.wrong,
            stale_values: tally.stale,
            errors: tally.errors,
            models_trained: models as u64,
            seconds,
            trace_seconds: run.trace_seconds,
            ops_per_second: tally.sent as f64 / seconds.max(1e-9),
            in_flight: (tally.batches > 0)
                .then(|| end.total.requests as f64 / tally.batches as f64 * self.connections as f64),
            latency_us: Some(sum.latency()),
            server: cost,
            tenants: end.tenants.clone(),
            over_time: run.course.windows(Moment::default(), &end),
            ..Report::default()
        };
        Ok((report, failed.map(|error| error.context("the replay ended before the trace did"))))
    }
}

/// A replay on its way.
struct Run<'r> {
    replay: &'r Replay,
    pace: Pace,
    before: &'r Stats,
    sum: &'r Sum,
    course: Course,
    began: Instant,
    trace_seconds: f64,
}

impl Run<'_> {
    fn go(&mut self, reader: &mut Reader, control: &mut Control, manner: Manner) -> Result<()> {
        let (server, protocol) = (&self.replay.server, self.replay.protocol);
        let ends = (0..self.replay.connections).map(|_| connect(server, protocol)).collect::<Result<Vec<_>>>()?;
        self.began = Instant::now();
        let (began, sum, is_open) = (self.began, self.sum, !matches!(self.pace, Pace::Closed));
        let count = ends.len();
        // a closed loop's thread has several connections; an open loop's connection has threads of its own
        let parts = if is_open { count } else { self.replay.threads.clamp(1, count) };
        let mut groups: Vec<Vec<(Sender, Answers)>> = (0..parts).map(|_| Vec::new()).collect();
        ends.into_iter().enumerate().for_each(|(number, end)| groups[number % parts].push(end));
        std::thread::scope(|threads| {
            let lanes = groups.into_iter().map(|mut group| {
                let (to, from) = sync_channel(CHUNKS_WAITING * group.len());
                let lane = threads.spawn(move || match (is_open, group.pop()) {
                    (true, Some(end)) => run_open(end, manner, began, &from, sum),
                    (_, last) => {
                        group.extend(last);
                        run_closed(group, manner, &from, sum)
                    }
                });
                (to, lane)
            });
            let (senders, lanes): (Vec<_>, Vec<_>) = lanes.unzip();
            let lanes_to = Lanes { threads: senders, count };
            let dealt = self.deal(reader, control, &lanes_to);
            drop(lanes_to);
            let outcomes: Vec<Result<()>> =
                lanes.into_iter().map(|lane| lane.join().expect("a connection's thread does not panic")).collect();
            outcomes.into_iter().collect::<Result<()>>().and(dealt)
        })
    }

    /// Reads the trace and deals each request to its key's connection.
    fn deal(&mut self, reader: &mut Reader, control: &mut Control, lanes: &Lanes) -> Result<()> {
        let progress = Progress::new(self.replay.limit);
        let mut chunks: Vec<Chunk> = (0..lanes.count).map(|_| Chunk::default()).collect();
        let (mut key, mut event, mut count, mut first) = (Vec::new(), Event::default(), 0u64, None);
        let mut noted = self.began;
        let mut flushed = 0.0;
        loop {
            if self.replay.limit.is_some_and(|limit| count >= limit) || !reader.read(&mut event)? {
                break;
            }
            self.trace_seconds = event.time - *first.get_or_insert(event.time);
            let due = match self.pace {
                Pace::Closed => 0.0,
                Pace::Trace(factor) => self.trace_seconds.max(0.0) / factor,
                Pace::Rate(rate) => count as f64 / rate,
            };
            wire_key(&reader.tenants()[event.tenant as usize], &event, &mut key);
            let id = key_id(&key);
            let lane = (id >> 32) as usize % lanes.count;
            let chunk = &mut chunks[lane];
            chunk.requests.push(Request {
                at: count,
                key_at: chunk.keys.len() as u32,
                key_bytes: key.len() as u16,
                kind: event.op.kind(),
                id,
                tenant: event.tenant,
                value_bytes: event.value_size,
                ttl: event.ttl,
                due,
            });
            chunk.keys.extend_from_slice(&key);
            // all of them, so that each connection knows what comes before
            if chunk.requests.len() == CHUNK && !lanes.send_all(&mut chunks) {
                return Ok(()); // a thread says why it ended
            }
            // a quiet connection does not wait for a whole chunk beyond the time at which its requests are due
            if due > flushed + 0.01 {
                flushed = due;
                self.wait_until_near(due);
                if !lanes.send_all(&mut chunks) {
                    return Ok(());
                }
            }
            count += 1;
            progress.at(count);
            if count.is_multiple_of(CHUNK as u64) && noted.elapsed() >= MOMENT {
                noted = Instant::now();
                if self.course.wants() {
                    let seconds = self.began.elapsed().as_secs_f64();
                    let tally = self.sum.tally();
                    self.course.note(tally.moment(seconds, reader.tenants(), self.before, &control.read()?));
                }
            }
        }
        lanes.send_all(&mut chunks);
        progress.finish();
        Ok(())
    }

    /// Does not run ahead of the trace further than connections need.
    fn wait_until_near(&self, due: f64) {
        const AHEAD: Duration = Duration::from_millis(200);
        let near = self.began + Duration::from_secs_f64(due);
        std::thread::sleep(near.saturating_duration_since(Instant::now() + AHEAD));
    }
}

/// The way to the connections' threads.
struct Lanes {
    threads: Vec<SyncSender<(usize, Chunk)>>,
    /// Connections.
    count: usize,
}

impl Lanes {
    /// Hands a chunk to a connection. False if its thread has ended: it says why.
    fn send(&self, lane: usize, chunk: Chunk) -> bool {
        let (thread, own) = (lane % self.threads.len(), lane / self.threads.len());
        self.threads[thread].send((own, chunk)).is_ok()
    }

    fn send_all(&self, chunks: &mut [Chunk]) -> bool {
        let mut waiting = chunks.iter_mut().enumerate().filter(|(_, chunk)| !chunk.requests.is_empty());
        waiting.all(|(lane, chunk)| self.send(lane, std::mem::take(chunk)))
    }
}

#[cfg(test)]
mod tests;
