//! The client side of the text and meta protocols: enough for a replayer to pipeline requests and read every answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    /// get, set, delete
    Text,
    /// mg, ms, md
    Meta,
}

impl Protocol {
    /// Connects to `HOST:PORT`.
    pub fn connect(self, server: &str) -> Result<(Sender, Answers)> {
        connect(server, self)
    }
}

/// What a get was answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Got {
    /// A value.
    Hit,
    /// Nothing.
    Miss,
    /// An error line of the server's: out of memory, for one.
    Error,
}

/// Spells requests into a batch, and sends it.
pub struct Sender {
    output: TcpStream,
    protocol: Protocol,
    batch: Vec<u8>,
}

/// Reads answers, in the order of the requests.
pub struct Answers {
    input: BufReader<TcpStream>,
    protocol: Protocol,
    line: Vec<u8>,
}

/// Connects to `HOST:PORT`.
pub fn connect(server: &str, protocol: Protocol) -> Result<(Sender, Answers)> {
    let stream = TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let output = stream.try_clone()?;
    let answers = Answers { input: BufReader::with_capacity(1 << 16, stream), protocol, line: Vec::new() };
    Ok((Sender { output, protocol, batch: Vec::new() }, answers))
}

impl Sender {
    /// Adds a get to the batch.
    pub fn get(&mut self, key: &[u8]) {
        match self.protocol {
            Protocol::Text => self.words(&[b"get ", key, b"\r\n"]),
            Protocol::Meta => self.words(&[b"mg ", key, b" v\r\n"]),
        }
    }

    /// Adds a delete to the batch.
    pub fn delete(&mut self, key: &[u8]) {
        match self.protocol {
            Protocol::Text => self.words(&[b"delete ", key, b"\r\n"]),
            Protocol::Meta => self.words(&[b"md ", key, b"\r\n"]),
        }
    }

    /// Adds a set to the batch; `value` appends the value's bytes.
    pub fn set(&mut self, key: &[u8], ttl: u32, size: usize, value: impl FnOnce(&mut Vec<u8>)) {
        let (mut ttl_text, mut size_text) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (ttl, size) = (ttl_text.format(ttl).as_bytes(), size_text.format(size).as_bytes());
        match self.protocol {
            Protocol::Text => self.words(&[b"set ", key, b" 0 ", ttl, b" ", size, b"\r\n"]),
            Protocol::Meta => self.words(&[b"ms ", key, b" ", size, b" T", ttl, b"\r\n"]),
        }
        value(&mut self.batch);
        self.batch.extend_from_slice(b"\r\n");
    }

    fn words(&mut self, words: &[&[u8]]) {
        words.iter().for_each(|word| self.batch.extend_from_slice(word));
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Sends the batch.
    pub fn send(&mut self) -> Result<()> {
        let sent = self.output.write_all(&self.batch);
        self.batch.clear();
        sent.context("sending to the server")
    }

    /// Nothing more will be sent.
    pub fn finish(&self) {
        // the server may have gone before: then there is nothing to tell it
        let _ = self.output.shutdown(std::net::Shutdown::Write);
    }
}

impl Answers {
    /// Reads a line. No answer has an empty one; memcached 1.6.45 sends one behind an error that it found late.
    fn read_line(&mut self) -> Result<&[u8]> {
        loop {
            self.line.clear();
            let read = self.input.read_until(b'\n', &mut self.line).context("waiting for an answer")?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            if !self.line.trim_ascii_end().is_empty() {
                return Ok(self.line.trim_ascii_end());
            }
        }
    }

    /// Reads the answer to a get; a hit's value into `value`.
    pub fn read_value(&mut self, value: &mut Vec<u8>) -> Result<Got> {
        let protocol = self.protocol;
        value.clear();
        let line = self.read_line()?;
        if line == b"END" || line == b"EN" {
            return Ok(Got::Miss);
        }
        if line.starts_with(b"SERVER_ERROR") {
            return Ok(Got::Error);
        }
        let size = match protocol {
            Protocol::Text => line.strip_prefix(b"VALUE ").and_then(|rest| rest.rsplit(|byte| *byte == b' ').next()),
            Protocol::Meta => line.strip_prefix(b"VA ").and_then(|rest| rest.split(|byte| *byte == b' ').next()),
        };
        let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok());
        let Some(size) = size else { bail!("a get was answered with '{}'", String::from_utf8_lossy(line)) };
        value.resize(size + 2, 0);
        self.input.read_exact(value).context("waiting for a value")?;
        value.truncate(size);
        if protocol == Protocol::Meta {
            return Ok(Got::Hit);
        }
        match self.read_line()? {
            b"END" => Ok(Got::Hit),
            other => bail!("a value was followed by '{}'", String::from_utf8_lossy(other)),
        }
    }

    /// Reads the answer to a set; returns whether it was stored.
    pub fn read_stored(&mut self) -> Result<bool> {
        let line = self.read_line()?;
        Ok(line == b"STORED" || line == b"HD")
    }

    /// Reads the answer to a delete; returns whether it is one.
    pub fn read_deleted(&mut self) -> Result<bool> {
        let line = self.read_line()?;
        Ok([b"DELETED".as_slice(), b"NOT_FOUND", b"HD", b"NF"].contains(&line))
    }
}

/// Asks for stats: pairs of key and value. Empty if the server does not know them.
pub(super) fn stats(sender: &mut Sender, answers: &mut Answers, arguments: &str) -> Result<Vec<(String, String)>> {
    sender.words(&[format!("stats {arguments}").trim_end().as_bytes(), b"\r\n"]);
    sender.send()?;
    let mut pairs = Vec::new();
    loop {
        let line = String::from_utf8_lossy(answers.read_line()?).into_owned();
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("STAT"), Some(key), value) => pairs.push((key.to_owned(), value.unwrap_or("").to_owned())),
            _ => return Ok(pairs),
        }
    }
}
