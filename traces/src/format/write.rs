//! Writers. What a format cannot carry is left out: see the table in docs/traces.md.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xxhash_rust::xxh3::xxh3_64;

use super::spread::LIS_BLOCK_BYTES;
use super::{Format, binary};
use crate::event::{Event, Kind, Op};

/// Bytes of records that are gone over at a time when next accesses are filled in.
const PIECE_BYTES: usize = binary::ORACLE_BYTES << 14;

/// Writes a trace; compressed if the name ends in `.zst`, `.gz` or `.xz`.
pub struct Writer {
    format: Format,
    out: Compressed,
    /// Where oracleGeneral's records wait for their next accesses, and what the file is to be called.
    spool: Option<PathBuf>,
    line: Vec<u8>,
}

enum Compressed {
    Plain(BufWriter<Box<dyn Write>>),
    Zstd(zstd::Encoder<'static, BufWriter<Box<dyn Write>>>),
    Gzip(flate2::write::GzEncoder<BufWriter<Box<dyn Write>>>),
    Xz(liblzma::write::XzEncoder<BufWriter<Box<dyn Write>>>),
    /// Records that are gone over once more before they go out through what is boxed here.
    Spooled(BufWriter<File>, Box<Compressed>),
}

impl Compressed {
    fn create(path: &Path) -> Result<Compressed> {
        let raw: Box<dyn Write> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(File::create(path).with_context(|| format!("creating {}", path.display()))?)
        };
        let raw = BufWriter::with_capacity(1 << 16, raw);
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("zst") => Compressed::Zstd(zstd::Encoder::new(raw, 3)?),
            Some("gz") => Compressed::Gzip(flate2::write::GzEncoder::new(raw, flate2::Compression::default())),
            Some("xz") => Compressed::Xz(liblzma::write::XzEncoder::new(raw, 3)),
            _ => Compressed::Plain(raw),
        })
    }

    fn stream(&mut self) -> &mut dyn Write {
        match self {
            Compressed::Plain(out) => out,
            Compressed::Zstd(out) => out,
            Compressed::Gzip(out) => out,
            Compressed::Xz(out) => out,
            Compressed::Spooled(out, _) => out,
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Compressed::Plain(mut out) => out.flush()?,
            Compressed::Zstd(out) => out.finish()?.flush()?,
            Compressed::Gzip(out) => out.finish()?.flush()?,
            Compressed::Xz(out) => out.finish()?.flush()?,
            Compressed::Spooled(records, mut out) => {
                let mut records = records.into_inner().map_err(|error| error.into_error())?;
                fill_next_accesses(&mut records)?;
                records.seek(SeekFrom::Start(0))?;
                std::io::copy(&mut records, out.stream())?;
                out.finish()?;
            }
        }
        Ok(())
    }
}

/// Goes over records from the last to the first and writes into each when its object is asked for next. Memory: an entry an
/// object.
fn fill_next_accesses(records: &mut File) -> Result<()> {
    let bytes = records.seek(SeekFrom::End(0))?;
    let mut next: HashMap<u64, u64> = HashMap::new();
    let mut end = bytes;
    let mut piece = vec![0; PIECE_BYTES];
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES as u64);
        let piece = &mut piece[..(end - start) as usize];
        records.seek(SeekFrom::Start(start))?;
        records.read_exact(piece)?;
        for (n, record) in piece.chunks_exact_mut(binary::ORACLE_BYTES).enumerate().rev() {
            let number = start / binary::ORACLE_BYTES as u64 + n as u64;
            let object = u64::from_le_bytes(record[4..12].try_into().expect("eight bytes"));
            let then = next.insert(object, number).map_or(-1, u64::cast_signed);
            record[16..].copy_from_slice(&then.to_le_bytes());
        }
        records.seek(SeekFrom::Start(start))?;
        records.write_all(piece)?;
        end = start;
    }
    Ok(())
}

/// The number that a key is in formats of numbers: itself, if it is one.
fn number_of(tenant: &str, key: &[u8]) -> u64 {
    super::field::whole(key).unwrap_or_else(|| xxh3_64(&[tenant.as_bytes(), b":", key].concat()))
}

/// Seconds to the microsecond, without zeros at the end but three digits at least.
fn put_time(line: &mut Vec<u8>, time: f64) {
    let micros = (time * 1e6).round() as u64;
    let (whole, part) = (micros / 1_000_000, micros % 1_000_000);
    put_number(line, whole);
    line.push(b'.');
    let (digits, width) = if part.is_multiple_of(1_000) { (part / 1_000, 3) } else { (part, 6) };
    let start = line.len();
    put_number(line, digits + 10u64.pow(width));
    line.remove(start); // the leading one that kept the zeros
}

fn put_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

impl Writer {
    /// Creates a trace file; `-` is standard output.
    ///
    /// # Errors
    /// The file cannot be created, or traces of this format are read only.
    pub fn create(path: &Path, format: Format) -> Result<Writer> {
        let mut spool = None;
        let mut out = Compressed::create(path)?;
        match format {
            Format::Csv | Format::Memcachier | Format::Plain | Format::Keys | Format::Lis => {}
            Format::Kvcache => writeln!(out.stream(), "{KVCACHE_HEADER}")?,
            Format::OracleGeneral => {
                let own = std::env::temp_dir().join(format!("flashare-trace-{}.records", std::process::id()));
                let place = if path == Path::new("-") { own } else { path.with_extension("records") };
                let records = File::options().read(true).write(true).create(true).truncate(true).open(&place);
                let records = records.with_context(|| format!("creating {}", place.display()))?;
                out = Compressed::Spooled(BufWriter::with_capacity(1 << 16, records), Box::new(out));
                spool = Some(place);
            }
            _ => bail!(
                "traces of this format are read, not written: take csv, oracle-general, kvcache, memcachier, plain, keys or lis"
            ),
        }
        Ok(Writer { format, out, spool, line: Vec::new() })
    }

    /// Writes one event.
    pub fn write(&mut self, tenant: &str, event: &Event) -> Result<()> {
        let line = &mut self.line;
        line.clear();
        match self.format {
            Format::OracleGeneral => {
                line.extend_from_slice(&(event.time as u32).to_le_bytes());
                line.extend_from_slice(&number_of(tenant, &event.key).to_le_bytes());
                line.extend_from_slice(&event.value_size.to_le_bytes());
                line.extend_from_slice(&(-1i64).to_le_bytes());
            }
            Format::Kvcache => {
                let op = match event.op.kind() {
                    Kind::Get => "GET",
                    Kind::Set => "SET",
                    Kind::Delete => "DELETE",
                };
                put_time(line, event.time);
                line.push(b',');
                line.extend_from_slice(&event.key);
                let (key_size, size, ttl) = (event.key_size, event.value_size, event.ttl);
                writeln!(line, ",{key_size},{op},1,{size},0,{ttl},{tenant},0")?;
            }
            Format::Memcachier => {
                let kind = match event.op {
                    Op::Incr | Op::Decr => 5,
                    Op::Add => 4,
                    op => match op.kind() {
                        Kind::Get => 1,
                        Kind::Set => 2,
                        Kind::Delete => 3,
                    },
                };
                put_time(line, event.time);
                write!(line, ",{tenant},{kind},{},{},", event.key_size, event.value_size)?;
                line.extend_from_slice(&event.key);
                line.extend_from_slice(b",0\n");
            }
            Format::Plain => {
                put_time(line, event.time);
                line.push(b',');
                line.extend_from_slice(&event.key);
                line.push(b',');
                put_number(line, u64::from(event.value_size));
                line.push(b'\n');
            }
            Format::Keys => {
                line.extend_from_slice(&event.key);
                line.push(b'\n');
            }
            Format::Lis => {
                let blocks = event.value_size.div_ceil(LIS_BLOCK_BYTES).max(1);
                writeln!(line, "{} {blocks} 0 0", number_of(tenant, &event.key))?;
            }
            _ => {
                put_time(line, event.time);
                line.push(b',');
                line.extend_from_slice(&event.key);
                line.push(b',');
                put_number(line, u64::from(event.key_size));
                line.push(b',');
                put_number(line, u64::from(event.value_size));
                line.push(b',');
                line.extend_from_slice(tenant.as_bytes());
                line.push(b',');
                line.extend_from_slice(event.op.name().as_bytes());
                line.push(b',');
                put_number(line, u64::from(event.ttl));
                line.push(b'\n');
            }
        }
        Ok(self.out.stream().write_all(line)?)
    }

    /// Writes what is left.
    pub fn finish(self) -> Result<()> {
        let finished = self.out.finish();
        if let Some(spool) = self.spool {
            let _ = std::fs::remove_file(spool);
        }
        finished
    }
}

const KVCACHE_HEADER: &str = "op_time,key,key_size,op,op_count,size,cache_hits,ttl,usecase,sub_usecase";
