//! `replay`: a trace against any memcached-protocol server over the network, read-through, every answer checked.
//!
//! A key always goes over the same connection, so the order of its requests is known and each answer can be judged exactly:
//! the version stored last, an older one (stale), or none of them (wrong).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;

use crate::event::{Event, Kind, wire_key};
use crate::figures::{Figures, Latency, Report, write_json};
use crate::format::{Reader, Reading};
use crate::progress::Progress;
use crate::values::{KeyId, Values, Verdict, key_id};
use crate::wire::{Client, Got};

/// Requests handed to a connection at once.
const CHUNK: usize = 256;
/// Chunks that wait for a connection.
const CHUNKS_WAITING: usize = 16;

/// Replays a trace against a server over the network.
#[derive(Args, Clone, Debug)]
pub struct Replay {
    /// Trace to run: CSV, plain, gzip or zstd; - for standard input
    pub trace: PathBuf,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// Server to run it against
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11211")]
    pub server: String,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub pipeline: usize,
    /// max, or xN for N times the trace's own speed
    #[arg(long, value_name = "SPEED", default_value = "max")]
    pub speed: String,
    /// Largest value that is stored; larger ones are not
    #[arg(long, value_name = "SIZE", default_value = "1000KiB")]
    pub value_max: String,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// One request on its way to its connection.
struct Request {
    key: Box<[u8]>,
    id: KeyId,
    event: Event,
}

/// What one connection counted.
#[derive(Default)]
struct Tally {
    tenants: Vec<Figures>,
    wrong: u64,
    stale: u64,
    errors: u64,
    sent: u64,
}

fn speed(text: &str) -> Result<Option<f64>> {
    if text == "max" {
        return Ok(None);
    }
    let factor = text.strip_prefix('x').and_then(|factor| factor.parse::<f64>().ok()).filter(|factor| *factor > 0.0);
    factor.map(Some).with_context(|| format!("--speed {text}: take max, or xN such as x10"))
}

impl Replay {
    /// Runs the trace.
    pub fn run(&self) -> Result<Report> {
        if self.connections == 0 || self.pipeline == 0 {
            bail!("--connections and --pipeline take 1 or more");
        }
        let speed = speed(&self.speed)?;
        let value_max = server::parse_size(&self.value_max, 1).context("--value-max")? as usize;
        let mut control = Client::connect(&self.server)?;
        let before = ServerFigures::read(&mut control)?;
        let mut reader = Reader::with(&self.trace, &self.reading)?;
        let began = Instant::now();
        let (tally, latency) = std::thread::scope(|threads| {
            let mut lanes = Vec::new();
            for _ in 0..self.connections {
                let client = Client::connect(&self.server)?;
                let (to, from) = sync_channel(CHUNKS_WAITING);
                let connection = Connection::new(client, self.pipeline, value_max, speed.map(|factor| (began, factor)));
                lanes.push((to, threads.spawn(move || connection.run(&from))));
            }
            let (senders, lanes): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
            let dealt = self.deal(&mut reader, &senders);
            drop(senders);
            let mut tally = Tally::default();
            let mut latency = Histogram::<u64>::new(3).expect("three digits are possible");
            for lane in lanes {
                let (part, times) = lane.join().expect("a connection's thread does not panic")?;
                tally.add(part);
                latency.add(times).expect("all histograms are alike");
            }
            dealt?;
            anyhow::Ok((tally, latency))
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let after = ServerFigures::read(&mut control)?;
        let report = tally.report(reader.tenants(), &before, &after, seconds, &latency);
        report.print();
        if let Some(path) = &self.json {
            write_json(path, &report)?;
        }
        Ok(report)
    }

    /// Reads the trace and deals each request to its key's connection.
    fn deal(&self, reader: &mut Reader, lanes: &[SyncSender<Vec<Request>>]) -> Result<()> {
        let progress = Progress::new(self.limit);
        let mut chunks: Vec<Vec<Request>> = lanes.iter().map(|_| Vec::with_capacity(CHUNK)).collect();
        let mut key = Vec::new();
        let mut count = 0;
        let mut event = Event::default();
        while reader.read(&mut event)? {
            if self.limit.is_some_and(|limit| count >= limit) {
                break;
            }
            wire_key(&reader.tenants()[event.tenant as usize], &event, &mut key);
            let id = key_id(&key);
            let lane = (id >> 32) as usize % lanes.len();
            chunks[lane].push(Request { key: key.as_slice().into(), id, event: event.clone() });
            if chunks[lane].len() == CHUNK {
                let full = std::mem::replace(&mut chunks[lane], Vec::with_capacity(CHUNK));
                if lanes[lane].send(full).is_err() {
                    return Ok(()); // its thread says why it ended
                }
            }
            count += 1;
            progress.at(count);
        }
        for (lane, chunk) in lanes.iter().zip(chunks) {
            let _ = lane.send(chunk);
        }
        progress.finish();
        Ok(())
    }
}

struct Connection {
    client: Client,
    pipeline: usize,
    value_max: usize,
    pace: Option<(Instant, f64)>,
    values: Values,
    versions: HashMap<KeyId, u64>,
    tally: Tally,
    latency: Histogram<u64>,
}

/// What an answer is expected to be.
struct Awaited {
    op: Kind,
    id: KeyId,
    version: u64,
    tenant: usize,
    /// The request, to fill a miss from.
    request: usize,
}

/// Requests that may be in flight together: a key's next request waits until its miss is filled, as in the application that
/// was traced.
fn batch_len(requests: &[Request], pipeline: usize) -> usize {
    let most = &requests[..pipeline.min(requests.len())];
    let repeats = |n: &usize| most[..*n].iter().any(|before| before.id == most[*n].id);
    (1..most.len()).find(repeats).unwrap_or(most.len())
}

impl Connection {
    fn new(client: Client, pipeline: usize, value_max: usize, pace: Option<(Instant, f64)>) -> Connection {
        Connection {
            client,
            pipeline,
            value_max,
            pace,
            values: Values::default(),
            versions: HashMap::new(),
            tally: Tally::default(),
            latency: Histogram::new(3).expect("three digits are possible"),
        }
    }

    fn run(mut self, chunks: &Receiver<Vec<Request>>) -> Result<(Tally, Histogram<u64>)> {
        for chunk in chunks {
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                let (batch, later) = rest.split_at(batch_len(rest, self.pipeline));
                self.serve(batch)?;
                rest = later;
            }
        }
        Ok((self.tally, self.latency))
    }

    /// Sends a batch, reads its answers, fills what was missed.
    fn serve(&mut self, batch: &[Request]) -> Result<()> {
        if let Some((began, factor)) = self.pace {
            let due = began + Duration::from_secs_f64(batch[0].event.time / factor);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let mut awaited = Vec::with_capacity(batch.len());
        for (number, request) in batch.iter().enumerate() {
            let tenant = request.event.tenant as usize;
            self.tally.of(tenant).requests += 1;
            match request.event.op.kind() {
                Kind::Get => self.client.get(&request.key),
                Kind::Delete => {
                    *self.versions.entry(request.id).or_default() += 1;
                    self.client.delete(&request.key);
                }
                Kind::Set => {
                    if !self.set(request) {
                        continue;
                    }
                }
            }
            let version = self.versions.get(&request.id).copied().unwrap_or(0);
            awaited.push(Awaited { op: request.event.op.kind(), id: request.id, version, tenant, request: number });
        }
        let missed = self.exchange(&awaited)?;
        let mut fills = Vec::new();
        for number in missed {
            let request = &batch[awaited[number].request];
            // only if nothing was stored or deleted since: what came later in the batch is newer
            if self.versions.get(&request.id).copied().unwrap_or(0) == awaited[number].version && self.set(request) {
                let (id, tenant) = (request.id, awaited[number].tenant);
                fills.push(Awaited { op: Kind::Set, id, version: self.versions[&id], tenant, request: number });
            }
        }
        self.exchange(&fills)?;
        Ok(())
    }

    /// Adds a set to the client's batch. False if the value is too large to be stored.
    fn set(&mut self, request: &Request) -> bool {
        let size = request.event.value_size as usize;
        if size > self.value_max {
            self.tally.errors += 1;
            return false;
        }
        let version = self.versions.entry(request.id).or_default();
        *version += 1;
        let (id, version, values) = (request.id, *version, &self.values);
        self.client.set(&request.key, request.event.ttl, size, |out| values.make(id, version, size, out));
        let figures = self.tally.of(request.event.tenant as usize);
        figures.app_bytes_written += (request.key.len() + size) as u64;
        true
    }

    /// Sends what is in the batch and reads the answers; returns which gets missed.
    fn exchange(&mut self, awaited: &[Awaited]) -> Result<Vec<usize>> {
        let mut missed = Vec::new();
        if awaited.is_empty() {
            return Ok(missed);
        }
        let sent = Instant::now();
        self.client.send()?;
        let mut value = Vec::new();
        for (number, one) in awaited.iter().enumerate() {
            self.tally.sent += 1;
            match one.op {
                Kind::Get => {
                    let got = self.client.read_value(&mut value)?;
                    self.tally.of(one.tenant).gets += 1;
                    self.tally.errors += u64::from(got == Got::Error);
                    if got == Got::Hit {
                        self.tally.of(one.tenant).hits += 1;
                        match self.values.judge(one.id, one.version, std::iter::once(value.as_slice())) {
                            Verdict::Right => {}
                            Verdict::Stale => self.tally.stale += 1,
                            Verdict::Wrong => self.tally.wrong += 1,
                        }
                    } else {
                        missed.push(number);
                    }
                }
                Kind::Set => self.tally.errors += u64::from(!self.client.read_status(&["STORED"])?),
                Kind::Delete => {
                    self.tally.errors += u64::from(!self.client.read_status(&["DELETED", "NOT_FOUND"])?);
                }
            }
            self.latency.saturating_record(sent.elapsed().as_nanos() as u64 / 100);
        }
        Ok(missed)
    }
}

impl Tally {
    fn of(&mut self, tenant: usize) -> &mut Figures {
        if self.tenants.len() <= tenant {
            self.tenants.resize_with(tenant + 1, Figures::default);
        }
        &mut self.tenants[tenant]
    }

    fn add(&mut self, other: Tally) {
        for (tenant, part) in other.tenants.into_iter().enumerate() {
            let sum = self.of(tenant);
            sum.requests += part.requests;
            sum.gets += part.gets;
            sum.hits += part.hits;
            sum.app_bytes_written += part.app_bytes_written;
        }
        self.wrong += other.wrong;
        self.stale += other.stale;
        self.errors += other.errors;
        self.sent += other.sent;
    }

    fn report(
        self,
        names: &[String],
        before: &ServerFigures,
        after: &ServerFigures,
        seconds: f64,
        latency: &Histogram<u64>,
    ) -> Report {
        let mut total = Figures::default();
        let mut tenants = std::collections::BTreeMap::new();
        let mut models = 0;
        for (name, mut figures) in names.iter().zip(self.tenants) {
            let of_tenant = |key: &str| after.tenant(name, key).saturating_sub(before.tenant(name, key));
            figures.dram_hits = of_tenant("get_dram_hits");
            figures.flash_hits = of_tenant("get_flash_hits");
            figures.flash_bytes_written = of_tenant("demoted_bytes");
            figures.rescue_bytes_written = of_tenant("rescue_bytes");
            models += u64::from(after.tenant(name, "model_trained") > 0);
            total.requests += figures.requests;
            total.gets += figures.gets;
            total.hits += figures.hits;
            total.app_bytes_written += figures.app_bytes_written;
            tenants.insert(name.clone(), figures.with_ratios());
        }
        let of_run = |keys: &[&str]| after.first(keys).saturating_sub(before.first(keys));
        // memcached's extstore counts the same things under names of its own
        total.flash_hits = of_run(&["get_flash_hits", "get_extstore"]);
        total.dram_hits = total.hits.saturating_sub(total.flash_hits);
        total.flash_bytes_written = of_run(&["flash_bytes_written", "extstore_bytes_written"]);
        total.rescue_bytes_written = of_run(&["rescue_bytes_written", "extstore_compact_rescues"]);
        let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 10.0;
        Report {
            total: total.with_ratios(),
            wrong_values: self.wrong,
            stale_values: self.stale,
            errors: self.errors,
            models_trained: models,
            seconds,
            ops_per_second: self.sent as f64 / seconds.max(1e-9),
            latency_us: Some(Latency { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999) }),
            tenants,
        }
    }
}

/// What the server says of itself.
struct ServerFigures(HashMap<String, u64>);

impl ServerFigures {
    fn read(client: &mut Client) -> Result<ServerFigures> {
        let mut all = client.stats("")?;
        // a server of another kind answers these with an error, which is no stats
        all.extend(client.stats("flash")?);
        all.extend(client.stats("tenants")?);
        Ok(ServerFigures(all.into_iter().filter_map(|(key, value)| Some((key, value.parse().ok()?))).collect()))
    }

    fn first(&self, keys: &[&str]) -> u64 {
        keys.iter().find_map(|key| self.0.get(*key)).copied().unwrap_or(0)
    }

    fn tenant(&self, name: &str, key: &str) -> u64 {
        self.0.get(&format!("{name}:{key}")).copied().unwrap_or(0)
    }
}
