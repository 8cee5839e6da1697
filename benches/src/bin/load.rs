//! A light load generator for side-by-side measurements: one thread, many connections, values that are checked.
//!
//! Every connection draws keys of its own, Zipf-like, from a table that is made before the run, so that drawing costs nothing
//! that the server would be blamed for. A value is its key five times over: a reply of another key, or a torn one, is counted.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde_json::json;

const KEY_BYTES: usize = 20;
/// Draws that are made before the run; each connection walks them from a place of its own.
const DRAWS: usize = 1 << 21;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Mode {
    Get,
    Mg,
    Multiget,
    Mixed,
    Set,
}

#[derive(Parser)]
struct Flags {
    /// HOST:PORT or a Unix socket's path
    #[arg(long)]
    server: String,
    /// The server's process, whose CPU time is told a request
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, value_enum, default_value = "get")]
    mode: Mode,
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Requests that a connection has under way
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Send the next request as soon as one is answered, instead of a whole pipeline when all of the last one is
    #[arg(long)]
    window: bool,
    /// Keys of a multiget
    #[arg(long, default_value_t = 50)]
    keys_a_request: usize,
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Exponent of the Zipf distribution; 0 for uniform
    #[arg(long, default_value_t = 0.99)]
    skew: f64,
    /// All requests for one key
    #[arg(long)]
    one_key: bool,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Requests a second over all connections; 0 for as many as are answered
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not check values: the server answers fixed ones
    #[arg(long)]
    unchecked: bool,
    /// Store every key first, and measure nothing
    #[arg(long)]
    fill: bool,
}

enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    fn connect(server: &str) -> Result<Socket> {
        if server.contains('/') {
            let stream = UnixStream::connect(server)?;
            stream.set_nonblocking(true)?;
            return Ok(Socket::Unix(mio::net::UnixStream::from_std(stream)));
        }
        let stream = TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Socket::Tcp(mio::net::TcpStream::from_std(stream)))
    }

    fn register(&mut self, poll: &Poll, token: Token) -> Result<()> {
        match self {
            Socket::Tcp(stream) => poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?,
            Socket::Unix(stream) => poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?,
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }
}

fn key_of(number: u32) -> [u8; KEY_BYTES] {
    let mut key = *b"key:0000000000000000";
    let mut rest = number;
    for digit in key.iter_mut().rev().take(10) {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// One request under way.
struct Asked {
    key: u32,
    /// Keys of a multiget that follow `key` in the draws.
    more: usize,
    is_set: bool,
    due: Instant,
}

struct Client {
    socket: Socket,
    at: usize,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    used: usize,
    asked: std::collections::VecDeque<Asked>,
    next_due: Instant,
}

struct Run<'f> {
    flags: &'f Flags,
    draws: Vec<u32>,
    value: Vec<u8>,
    dice: SmallRng,
    answered: u64,
    misses: u64,
    wrong: u64,
    latency: Histogram<u64>,
    measuring: bool,
}

impl Run<'_> {
    fn draw(&self, at: usize) -> u32 {
        if self.flags.one_key { 7 } else { self.draws[at % DRAWS] }
    }

    fn value_of(&mut self, key: &[u8; KEY_BYTES]) -> &[u8] {
        self.value.chunks_mut(KEY_BYTES).for_each(|piece| piece.copy_from_slice(&key[..piece.len()]));
        &self.value
    }

    /// Puts one request into the output.
    fn ask(&mut self, client: &mut Client, due: Instant) {
        let number = self.draw(client.at);
        client.at += 1;
        let key = key_of(number);
        let is_set = match self.flags.mode {
            Mode::Set => true,
            Mode::Mixed => self.dice.random_range(0..10) == 0,
            _ => false,
        };
        let mut more = 0;
        if is_set {
            let bytes = self.flags.value_bytes;
            client.out.extend_from_slice(b"set ");
            client.out.extend_from_slice(&key);
            client.out.extend_from_slice(format!(" 0 0 {bytes}\r\n").as_bytes());
            let value = self.value_of(&key);
            client.out.extend_from_slice(value);
            client.out.extend_from_slice(b"\r\n");
        } else if self.flags.mode == Mode::Mg {
            client.out.extend_from_slice(b"mg ");
            client.out.extend_from_slice(&key);
            client.out.extend_from_slice(b" v\r\n");
        } else {
            client.out.extend_from_slice(b"get ");
            client.out.extend_from_slice(&key);
            if self.flags.mode == Mode::Multiget {
                more = self.flags.keys_a_request - 1;
                for n in 0..more {
                    client.out.push(b' ');
                    client.out.extend_from_slice(&key_of(self.draw(client.at + n)));
                }
                client.at += more;
            }
            client.out.extend_from_slice(b"\r\n");
        }
        client.asked.push_back(Asked { key: number, more, is_set, due });
    }

    /// Takes complete replies from the input.
    fn take(&mut self, client: &mut Client) -> Result<()> {
        while let Some(asked) = client.asked.front() {
            let rest = &client.input[client.used..];
            let Some(taken) = self.taken(asked, rest, client.at)? else { break };
            client.used += taken;
            if self.measuring {
                let micros = asked.due.elapsed().as_nanos() as u64;
                self.latency.saturating_record(micros);
                self.answered += 1;
            }
            client.asked.pop_front();
        }
        if client.used == client.input.len() {
            client.input.clear();
            client.used = 0;
        }
        Ok(())
    }

    /// Bytes of a whole reply; None if it has not all come.
    fn taken(&mut self, asked: &Asked, rest: &[u8], _at: usize) -> Result<Option<usize>> {
        if asked.is_set {
            return match rest.strip_prefix(b"STORED\r\n") {
                Some(_) => Ok(Some(8)),
                None if rest.len() < 8 => Ok(None),
                None => bail!("a set was answered with {:?}", String::from_utf8_lossy(&rest[..rest.len().min(60)])),
            };
        }
        if self.flags.mode == Mode::Mg {
            let head = format!("VA {}\r\n", self.flags.value_bytes);
            if rest.len() < 4 {
                return Ok(None);
            }
            if rest.starts_with(b"EN\r\n") {
                self.misses += 1;
                return Ok(Some(4));
            }
            let whole = head.len() + self.flags.value_bytes + 2;
            if rest.len() < whole {
                return Ok(None);
            }
            self.check(&key_of(asked.key), &rest[head.len()..whole - 2]);
            return Ok(Some(whole));
        }
        // VALUE key 0 bytes\r\n value \r\n, again and again, then END\r\n
        let head = 6 + KEY_BYTES + 3 + digits(self.flags.value_bytes) + 2;
        let block = head + self.flags.value_bytes + 2;
        let (mut at, mut found) = (0, 0);
        loop {
            let here = &rest[at..];
            if here.len() < 5 {
                return Ok(None);
            }
            if here.starts_with(b"END\r\n") {
                self.misses += (1 + asked.more - found) as u64;
                return Ok(Some(at + 5));
            }
            if !here.starts_with(b"VALUE") {
                bail!("a get was answered with {:?}", String::from_utf8_lossy(&here[..here.len().min(60)]));
            }
            if here.len() < block {
                return Ok(None);
            }
            let key: [u8; KEY_BYTES] = here[6..6 + KEY_BYTES].try_into()?;
            if asked.more == 0 && key != key_of(asked.key) && !self.flags.unchecked {
                self.wrong += 1;
            }
            self.check(&key, &here[head..block - 2]);
            found += 1;
            at += block;
        }
    }

    fn check(&mut self, key: &[u8; KEY_BYTES], value: &[u8]) {
        if self.flags.unchecked {
            return;
        }
        let whole = value.len().min(KEY_BYTES);
        if value[..whole] != key[..whole] || value[value.len() - 1] != key[(value.len() - 1) % KEY_BYTES] {
            self.wrong += 1;
        }
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// CPU seconds that a process has used, from its threads' run times in nanoseconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(nanos as f64 / 1e9)
}

fn fill(flags: &Flags) -> Result<()> {
    let mut stream: Box<dyn ReadWrite> = if flags.server.contains('/') {
        Box::new(UnixStream::connect(&flags.server)?)
    } else {
        Box::new(TcpStream::connect(&flags.server)?)
    };
    let (mut out, began) = (Vec::new(), Instant::now());
    for number in 0..flags.keys as u32 {
        let key = key_of(number);
        out.extend_from_slice(b"set ");
        out.extend_from_slice(&key);
        out.extend_from_slice(format!(" 0 0 {} noreply\r\n", flags.value_bytes).as_bytes());
        out.extend((0..flags.value_bytes).map(|n| key[n % KEY_BYTES]));
        out.extend_from_slice(b"\r\n");
        if out.len() > 1 << 16 {
            stream.write_all(&out)?;
            out.clear();
            if flags.rate > 0.0 {
                let due = Duration::from_secs_f64(f64::from(number) / flags.rate);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
    }
    out.extend_from_slice(b"mn\r\n");
    stream.write_all(&out)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer != *b"MN\r\n" {
        bail!("filling was answered with {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn main() -> Result<()> {
    let flags = Flags::parse();
    if flags.fill {
        return fill(&flags);
    }
    let mut dice = SmallRng::seed_from_u64(flags.seed);
    let zipf = (flags.skew > 0.0).then(|| Zipf::new(flags.keys as f64, flags.skew)).transpose()?;
    let mut scatter: Vec<u32> = (0..flags.keys as u32).collect();
    for n in (1..scatter.len()).rev() {
        scatter.swap(n, dice.random_range(0..=n)); // popular keys were not stored side by side
    }
    let draws = (0..DRAWS)
        .map(|_| match &zipf {
            Some(zipf) => scatter[zipf.sample(&mut dice) as usize - 1],
            None => dice.random_range(0..flags.keys as u32),
        })
        .collect();
    let mut poll = Poll::new()?;
    let now = Instant::now();
    let gap = (flags.rate > 0.0).then(|| Duration::from_secs_f64(flags.connections as f64 / flags.rate));
    let mut clients = Vec::new();
    for number in 0..flags.connections {
        let mut socket = Socket::connect(&flags.server)?;
        socket.register(&poll, Token(number))?;
        let next_due = now + gap.map_or(Duration::ZERO, |gap| gap.mul_f64(dice.random::<f64>()));
        let at = dice.random_range(0..DRAWS);
        let asked = std::collections::VecDeque::new();
        clients.push(Client { socket, at, out: Vec::new(), sent: 0, input: Vec::new(), used: 0, asked, next_due });
    }
    let value = vec![0; flags.value_bytes];
    let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let (answered, misses, wrong, measuring) = (0, 0, 0, false);
    let mut run = Run { flags: &flags, draws, value, dice, answered, misses, wrong, latency, measuring };
    let (mut cpu_before, mut began) = (0.0, now);
    let (warm, end) = (Duration::from_secs_f64(flags.warm_up), Duration::from_secs_f64(flags.warm_up + flags.seconds));
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 << 10];
    let mut todo: Vec<usize> = (0..clients.len()).collect();
    loop {
        let elapsed = now.elapsed();
        if elapsed >= end {
            break;
        }
        if !run.measuring && elapsed >= warm {
            (run.measuring, began) = (true, Instant::now());
            (run.misses, run.wrong) = (0, 0);
            cpu_before = flags.pid.map(cpu_seconds).transpose()?.unwrap_or(0.0);
        }
        for number in todo.drain(..) {
            let client = &mut clients[number];
            loop {
                match client.socket.read(&mut buffer) {
                    Ok(0) => bail!("the server has closed a connection"),
                    Ok(count) => client.input.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            run.take(client)?;
            match gap {
                None if flags.window || client.asked.is_empty() => {
                    let due = Instant::now();
                    (client.asked.len()..flags.pipeline).for_each(|_| run.ask(client, due));
                }
                None => {}
                Some(gap) => {
                    let time = Instant::now();
                    while client.next_due <= time && client.asked.len() < 4096 {
                        let due = client.next_due;
                        run.ask(client, due);
                        client.next_due += gap;
                    }
                }
            }
            while client.sent < client.out.len() {
                match client.socket.write(&client.out[client.sent..]) {
                    Ok(count) => client.sent += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if client.sent == client.out.len() {
                client.out.clear();
                client.sent = 0;
            }
        }
        let timeout = if gap.is_some() { Duration::from_micros(50) } else { Duration::from_millis(100) };
        if let Err(error) = poll.poll(&mut events, Some(timeout))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        todo.extend(events.iter().map(|event| event.token().0));
        if gap.is_some() {
            let time = Instant::now();
            let due = clients.iter().enumerate().filter(|(_, client)| client.next_due <= time);
            let due: Vec<usize> = due.map(|(number, _)| number).filter(|number| !todo.contains(number)).collect();
            todo.extend(due);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = flags.pid.map(cpu_seconds).transpose()?.unwrap_or(0.0) - cpu_before;
    let keys = match flags.mode {
        Mode::Multiget => flags.keys_a_request as u64,
        _ => 1,
    };
    let micros = |quantile| run.latency.value_at_quantile(quantile) as f64 / 1e3;
    let figures = json!({
        "requests": run.answered, "keys": run.answered * keys, "seconds": seconds,
        "requests_per_second": run.answered as f64 / seconds,
        "cpu_us_a_request": cpu * 1e6 / run.answered.max(1) as f64, "cpu_share": cpu / seconds,
        "p50_us": micros(0.5), "p99_us": micros(0.99), "p999_us": micros(0.999),
        "misses": run.misses, "wrong_values": run.wrong,
    });
    println!("{figures}");
    if run.wrong > 0 {
        bail!("{} values were wrong", run.wrong);
    }
    Ok(())
}
