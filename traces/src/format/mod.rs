//! Readers and writers of traces: the format by what the bytes say or by a flag; plain, gzip, xz or zstd; streamed, so that a long
//! trace takes no more memory than a short one.

mod binary;
mod csv;
mod field;
mod spread;
mod watch;
mod write;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use rustc_hash::FxHashMap;

use crate::event::Event;
use spread::{Columns, Pending};
use watch::Watch;

pub use write::Writer;

/// Bytes that detection looks at.
const HEAD_BYTES: usize = 1 << 14;
/// One bad line in so many is borne.
const BAD_LINES_ONE_IN: u64 = 1_000;
/// Bad lines that are told one by one.
const BAD_LINES_TOLD: u64 = 5;
/// No line of any format is as long.
const LINE_BYTES_MAX: usize = 16 << 20;
/// What some programs put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The tenant of traces that name none.
const ONLY_TENANT: &str = "trace";

/// A format of traces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// time_s,key,key_size,value_size,tenant,op,ttl: Twitter's cache-trace, and ours
    #[value(alias = "twitter")]
    Csv,
    /// libCacheSim oracleGeneral: 24-byte records
    OracleGeneral,
    /// Meta CacheLib kvcache, with its header
    Kvcache,
    /// Meta Tectonic, with its header
    Tectonic,
    /// Memcachier: time,app,type,key_size,value_size,key_id,hit
    Memcachier,
    /// ARC .lis: start count ignored request
    Lis,
    /// time,key,size
    Plain,
    /// A key a line
    Keys,
    /// VSCSI disk traces: 32-byte records
    Vscsi,
    /// Wikimedia's page views, tab separated, with their header
    Wikimedia,
    /// IBM Object Store: time REST.OP.OBJECT object size start end
    IbmCos,
    /// Mooncake: JSON lines of prompts, a get for each of their blocks
    Mooncake,
    /// Lines of memcached's `watch fetchers mutations deletions`
    Watch,
    /// Big-endian 64-bit keys
    U64be,
}

impl Format {
    /// Its name, as flags take it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether its requests may be of several tenants.
    fn names_tenants(self) -> bool {
        matches!(self, Format::Csv | Format::Kvcache | Format::Tectonic | Format::Memcachier)
    }

    /// Whether it is of records, not of lines.
    fn record_bytes(self) -> Option<usize> {
        match self {
            Format::OracleGeneral => Some(binary::ORACLE_BYTES),
            Format::Vscsi => Some(binary::VSCSI_BYTES),
            Format::U64be => Some(8),
            _ => None,
        }
    }
}

/// Names of a trace's tenants, numbered as they appear: thousands, where each client is one.
#[derive(Default)]
struct Tenants {
    names: Vec<String>,
    numbers: FxHashMap<String, u32>,
    /// The one before is often the next.
    last: u32,
}

impl Tenants {
    fn is_last(&self, name: &[u8]) -> bool {
        self.names.get(self.last as usize).is_some_and(|last| last.as_bytes() == name)
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.is_last(name) || std::str::from_utf8(name).is_ok_and(|name| self.numbers.contains_key(name))
    }

    fn number(&mut self, name: &str) -> u32 {
        if !self.is_last(name.as_bytes()) {
            self.last = match self.numbers.get(name) {
                Some(number) => *number,
                None => {
                    let number = self.names.len() as u32;
                    self.names.push(name.to_owned());
                    self.numbers.insert(name.to_owned(), number);
                    number
                }
            };
        }
        self.last
    }
}

/// How a trace is read.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Reading {
    /// Format of the trace [default: by what its bytes say]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<Format>,
    /// Stop at the first bad line, rather than leave out up to one in a thousand
    #[arg(long)]
    pub strict: bool,
}

/// Reads a trace, one event at a time. Tenants get numbers as they appear.
pub struct Reader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    format: Format,
    strict: bool,
    line: Vec<u8>,
    number: u64,
    bad: u64,
    columns: Columns,
    pending: Pending,
    watch: Watch,
    tenants: Tenants,
    /// Only names of tenants are wanted: a line of one that is known is passed over where that is told at a glance.
    names_only: bool,
}

impl Reader {
    /// Opens a trace of any format; `-` is standard input.
    pub fn open(path: &Path) -> Result<Reader> {
        Reader::with(path, &Reading::default())
    }

    /// Opens a trace; `-` is standard input.
    pub fn with(path: &Path, reading: &Reading) -> Result<Reader> {
        let place = || format!("trace {}", path.display());
        let raw: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(path).with_context(place)?)
        };
        let mut input = decompressed(raw).with_context(place)?;
        let mut head = peek(&mut input).with_context(place)?;
        let format = match reading.format {
            Some(format) => format,
            None => detect(&head).with_context(place)?,
        };
        if format.record_bytes().is_none() && head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
        }
        let input: Box<dyn BufRead + Send> =
            Box::new(BufReader::with_capacity(1 << 16, std::io::Cursor::new(head).chain(input)));
        Ok(Reader {
            path: path.into(),
            input,
            format,
            strict: reading.strict,
            line: Vec::new(),
            number: 0,
            bad: 0,
            columns: Columns::default(),
            pending: Pending::None,
            watch: Watch::default(),
            tenants: Tenants::default(),
            names_only: false,
        })
    }

    /// Names of the tenants seen so far, by number.
    pub fn tenants(&self) -> &[String] {
        &self.tenants.names
    }

    /// The format that it reads.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Lines, or records, that were left out since they could not be read.
    pub fn bad_lines(&self) -> u64 {
        self.bad
    }

    /// Reads the next event. False at the end.
    ///
    /// # Errors
    /// A bad line under `strict`, too many bad lines, an archive that is cut off. What was read before is sound.
    pub fn read(&mut self, event: &mut Event) -> Result<bool> {
        loop {
            if self.pending.next(event) || self.watch.next(&mut self.tenants, event, &mut self.pending) {
                return Ok(true);
            }
            let parsed = match self.format.record_bytes() {
                Some(bytes) => self.read_record(bytes, event)?,
                None => self.read_line(event)?,
            };
            match parsed {
                Parsed::End if self.watch.finish() => {}
                Parsed::End => return self.end().map(|()| false),
                Parsed::Nothing => {}
                Parsed::One => return Ok(true),
                Parsed::Bad(error) => self.bear(error)?,
            }
        }
    }

    fn read_record(&mut self, bytes: usize, event: &mut Event) -> Result<Parsed> {
        self.line.clear();
        let read = (&mut self.input).take(bytes as u64).read_to_end(&mut self.line);
        let read = read.with_context(|| format!("{}, record {}", self.path.display(), self.number + 1))?;
        if read == 0 {
            return Ok(Parsed::End);
        }
        self.number += 1;
        if read < bytes {
            bail!("{}, record {}: {read} bytes of {bytes}: the file is cut off", self.path.display(), self.number);
        }
        event.tenant = self.tenants.number(ONLY_TENANT);
        Ok(binary::parse(self.format, &self.line, event))
    }

    fn read_line(&mut self, event: &mut Event) -> Result<Parsed> {
        self.line.clear();
        let read = read_to_end_of_line(&mut self.input, &mut self.line);
        read.with_context(|| format!("{}, line {}", self.path.display(), self.number + 1))?;
        if self.line.is_empty() {
            return Ok(Parsed::End);
        }
        self.number += 1;
        let line = self.line.trim_ascii_end();
        if line.is_empty() {
            return Ok(Parsed::Nothing);
        }
        let parsed = match self.format {
            Format::Csv if self.names_only && csv::tenant(line).is_some_and(|name| self.tenants.knows(name)) => {
                Ok(Parsed::Nothing)
            }
            Format::Csv => csv::parse(line, &mut self.tenants, event),
            Format::Watch => self.watch.take(line).map(|()| Parsed::Nothing),
            _ => spread::parse(
                self.format,
                line,
                self.number == 1,
                &mut self.columns,
                &mut self.tenants,
                event,
                &mut self.pending,
            ),
        };
        Ok(parsed.unwrap_or_else(Parsed::Bad))
    }

    /// A line is bad: says so, and goes on unless there are too many.
    fn bear(&mut self, error: anyhow::Error) -> Result<()> {
        self.bad += 1;
        let unit = if self.format.record_bytes().is_some() { "record" } else { "line" };
        let error = error.context(format!("{}, {unit} {}", self.path.display(), self.number));
        if self.strict {
            return Err(error);
        }
        if self.bad <= BAD_LINES_TOLD {
            eprintln!("flashare-trace: left out: {error:#}");
        }
        // early on a few bad lines are a large share: wait a little
        if self.bad > BAD_LINES_TOLD && self.bad * BAD_LINES_ONE_IN > self.number.max(10 * BAD_LINES_ONE_IN) {
            return Err(error.context(format!("{} of {} lines are bad; the last", self.bad, self.number)));
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        let Watch { unfilled, skipped, .. } = self.watch;
        if skipped > 0 {
            eprintln!(
                "flashare-trace: {}: the server left out {skipped} lines, since its watcher did not keep up: the trace has holes",
                self.path.display()
            );
        }
        if unfilled > 0 {
            eprintln!(
                "flashare-trace: {}: left out: {unfilled} reads of keys that nobody stored after they missed",
                self.path.display()
            );
        }
        if self.bad * BAD_LINES_ONE_IN > self.number {
            bail!(
                "{}: {} of {} lines are bad, more than one in {BAD_LINES_ONE_IN}; is --format right?",
                self.path.display(),
                self.bad,
                self.number
            );
        }
        if self.bad > BAD_LINES_TOLD {
            eprintln!("flashare-trace: {} bad lines in all were left out", self.bad);
        }
        Ok(())
    }
}

/// What a line or a record came to.
enum Parsed {
    /// The trace is over.
    End,
    /// A header, an empty line, or requests that are pending.
    Nothing,
    /// One request.
    One,
    /// It makes no sense.
    Bad(anyhow::Error),
}

/// Reads the beginning of the input.
fn peek(input: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    match input.take(HEAD_BYTES as u64).read_to_end(&mut head) {
        // a short archive that is cut off says so when it is read
        Err(error) if head.is_empty() => Err(error),
        _ => Ok(head),
    }
}

/// Reads up to the next line end, and that; nothing at the end of the input.
fn read_to_end_of_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<()> {
    loop {
        let there = match input.fill_buf() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            there => there?,
        };
        let end = memchr::memchr(b'\n', there);
        let taken = end.map_or(there.len(), |end| end + 1);
        line.extend_from_slice(&there[..taken]);
        input.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok(());
        }
        ensure!(line.len() < LINE_BYTES_MAX, "{LINE_BYTES_MAX} bytes and no end of it; is --format right?");
    }
}

/// Tells the format by the beginning of a trace.
fn detect(head: &[u8]) -> Result<Format> {
    ensure!(!head.is_empty(), "it is empty");
    let is_text = !head.iter().any(|byte| *byte == 0 || (*byte < 32 && !b"\t\r\n".contains(byte)));
    if !is_text {
        return binary::detect(head).context("the format is not known by its bytes: name it with --format");
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty());
    let line = lines.next().context("there are only empty lines in it")?;
    let second = lines.next().unwrap_or(b"");
    spread::detect(line, second).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        anyhow!("no known format begins with '{shown}': name it with --format")
    })
}

fn decompressed(raw: Box<dyn Read + Send>) -> Result<Box<dyn BufRead + Send>> {
    const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
    let mut raw = BufReader::with_capacity(1 << 16, raw);
    let head = raw.fill_buf()?;
    Ok(if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::with_buffer(raw)?))
    } else if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(raw)))
    } else if head.starts_with(XZ_MAGIC) {
        Box::new(BufReader::with_capacity(1 << 18, liblzma::bufread::XzDecoder::new_multi_decoder(raw)))
    } else {
        Box::new(raw)
    })
}

/// Whether a trace is gone once it is read: standard input, a pipe.
pub fn is_read_once(path: &Path) -> bool {
    path == Path::new("-")
        || std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo() || file.file_type().is_char_device())
}

/// Names of a trace's tenants, in order of appearance.
pub fn tenants_of(path: &Path, reading: &Reading) -> Result<Vec<String>> {
    if is_read_once(path) {
        let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
        bail!("{name} can be read only once: name the tenants with --config FILE, or keep the trace in a file");
    }
    let mut reader = Reader { names_only: true, ..Reader::with(path, reading)? };
    let mut event = Event::default();
    // what is cut off or bad is told by the run itself
    while let Ok(true) = reader.read(&mut event)
        && reader.format.names_tenants()
    {}
    Ok(reader.tenants.names)
}

#[cfg(test)]
mod tests;
