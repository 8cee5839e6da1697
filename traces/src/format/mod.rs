//! Readers and writers of traces: plain, gzip or zstd by what the bytes say, streamed.

mod csv;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::event::Event;

/// Reads a trace, one event at a time. Tenants get numbers as they appear.
pub struct Reader {
    path: PathBuf,
    lines: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: u64,
    tenants: Vec<String>,
    last_tenant: usize,
}

impl Reader {
    /// Opens a trace; `-` is standard input.
    pub fn open(path: &Path) -> Result<Reader> {
        let raw: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(path).with_context(|| format!("trace {}", path.display()))?)
        };
        let lines = decompressed(raw).with_context(|| format!("trace {}", path.display()))?;
        Ok(Reader { path: path.into(), lines, line: Vec::new(), number: 0, tenants: Vec::new(), last_tenant: 0 })
    }

    /// Names of the tenants seen so far, by number.
    pub fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// The next event; None at the end. A line that cannot be read is an error with its place.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            self.line.clear();
            let place = || format!("{}, line {}", self.path.display(), self.number + 1);
            let read = self.lines.read_until(b'\n', &mut self.line).with_context(place)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let line = self.line.trim_ascii_end();
            if !line.is_empty() {
                let number = self.number;
                let parsed = csv::parse(line, &mut self.tenants, &mut self.last_tenant);
                return parsed.with_context(|| format!("{}, line {number}", self.path.display())).map(Some);
            }
        }
    }
}

fn decompressed(raw: Box<dyn Read + Send>) -> Result<Box<dyn BufRead + Send>> {
    let mut raw = BufReader::with_capacity(1 << 16, raw);
    let head = raw.fill_buf()?;
    Ok(if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::with_buffer(raw)?))
    } else if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(raw)))
    } else {
        Box::new(raw)
    })
}

/// Names of a trace's tenants, in order of appearance.
pub fn tenants_of(path: &Path) -> Result<Vec<String>> {
    let mut reader = Reader::open(path)?;
    while reader.next_event()?.is_some() {}
    Ok(reader.tenants)
}

/// Writes a trace; compressed if the name ends in `.zst` or `.gz`.
pub struct Writer {
    out: Compressed,
}

enum Compressed {
    Plain(BufWriter<Box<dyn Write>>),
    Zstd(zstd::Encoder<'static, BufWriter<Box<dyn Write>>>),
    Gzip(flate2::write::GzEncoder<BufWriter<Box<dyn Write>>>),
}

impl Writer {
    /// Creates a trace file; `-` is standard output.
    pub fn create(path: &Path) -> Result<Writer> {
        let raw: Box<dyn Write> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(File::create(path).with_context(|| format!("creating {}", path.display()))?)
        };
        let raw = BufWriter::with_capacity(1 << 16, raw);
        let out = match path.extension().and_then(|extension| extension.to_str()) {
            Some("zst") => Compressed::Zstd(zstd::Encoder::new(raw, 3)?),
            Some("gz") => Compressed::Gzip(flate2::write::GzEncoder::new(raw, flate2::Compression::default())),
            _ => Compressed::Plain(raw),
        };
        Ok(Writer { out })
    }

    /// Writes one event.
    pub fn write(&mut self, tenant: &str, event: &Event) -> Result<()> {
        let out: &mut dyn Write = match &mut self.out {
            Compressed::Plain(out) => out,
            Compressed::Zstd(out) => out,
            Compressed::Gzip(out) => out,
        };
        csv::write(out, tenant, event)?;
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(self) -> Result<()> {
        match self.out {
            Compressed::Plain(mut out) => out.flush()?,
            Compressed::Zstd(out) => out.finish()?.flush()?,
            Compressed::Gzip(out) => out.finish()?.flush()?,
        }
        Ok(())
    }
}
