//! The client side of the text protocol: enough for a replayer to pipeline requests and read every answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// A connection to a server.
pub struct Client {
    input: BufReader<TcpStream>,
    output: TcpStream,
    line: Vec<u8>,
    /// Requests that are not sent yet.
    pub batch: Vec<u8>,
}

impl Client {
    /// Connects to `HOST:PORT`.
    pub fn connect(server: &str) -> Result<Client> {
        let stream = TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let output = stream.try_clone()?;
        Ok(Client { input: BufReader::with_capacity(1 << 16, stream), output, line: Vec::new(), batch: Vec::new() })
    }

    /// Adds a get to the batch.
    pub fn get(&mut self, key: &[u8]) {
        self.batch.extend_from_slice(b"get ");
        self.batch.extend_from_slice(key);
        self.batch.extend_from_slice(b"\r\n");
    }

    /// Adds a delete to the batch.
    pub fn delete(&mut self, key: &[u8]) {
        self.batch.extend_from_slice(b"delete ");
        self.batch.extend_from_slice(key);
        self.batch.extend_from_slice(b"\r\n");
    }

    /// Adds a set to the batch; `value` appends the value's bytes.
    pub fn set(&mut self, key: &[u8], ttl: u32, size: usize, value: impl FnOnce(&mut Vec<u8>)) {
        self.batch.extend_from_slice(b"set ");
        self.batch.extend_from_slice(key);
        write!(self.batch, " 0 {ttl} {size}\r\n").expect("writing to memory");
        value(&mut self.batch);
        self.batch.extend_from_slice(b"\r\n");
    }

    /// Sends the batch.
    pub fn send(&mut self) -> Result<()> {
        self.output.write_all(&self.batch).context("sending to the server")?;
        self.batch.clear();
        Ok(())
    }

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
        value.clear();
        let line = self.read_line()?;
        if line == b"END" {
            return Ok(Got::Miss);
        }
        if line.starts_with(b"SERVER_ERROR") {
            return Ok(Got::Error);
        }
        let size = line.strip_prefix(b"VALUE ").and_then(|rest| rest.rsplit(|byte| *byte == b' ').next());
        let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok());
        let Some(size) = size else { bail!("a get was answered with '{}'", String::from_utf8_lossy(line)) };
        value.resize(size + 2, 0);
        self.input.read_exact(value).context("waiting for a value")?;
        value.truncate(size);
        match self.read_line()? {
            b"END" => Ok(Got::Hit),
            other => bail!("a value was followed by '{}'", String::from_utf8_lossy(other)),
        }
    }

    /// Reads a line of an answer; returns whether it is `expected`.
    pub fn read_status(&mut self, expected: &[&str]) -> Result<bool> {
        let line = self.read_line()?;
        Ok(expected.iter().any(|text| text.as_bytes() == line))
    }

    /// Asks for stats: pairs of key and value. Empty if the server does not know them.
    pub fn stats(&mut self, arguments: &str) -> Result<Vec<(String, String)>> {
        self.batch.extend_from_slice(format!("stats {arguments}").trim_end().as_bytes());
        self.batch.extend_from_slice(b"\r\n");
        self.send()?;
        let mut pairs = Vec::new();
        loop {
            let line = String::from_utf8_lossy(self.read_line()?).into_owned();
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("STAT"), Some(key), value) => pairs.push((key.to_owned(), value.unwrap_or("").to_owned())),
                _ => return Ok(pairs),
            }
        }
    }
}
