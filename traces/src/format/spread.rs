//! Text formats of others: by header, by position, and those of which a line is several requests.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Format, ONLY_TENANT, Parsed, Tenants, field};
use crate::event::{Event, Op};

/// Bytes of a disk block in ARC's traces.
pub(super) const LIS_BLOCK_BYTES: u32 = 512;
/// What a block of 512 tokens is taken for.
const MOONCAKE_BLOCK_BYTES: u32 = 64 << 10;

/// Which field of a line is which, of formats with a header. Roles: see [`ROLES`].
#[derive(Default)]
pub(super) struct Columns([Option<usize>; ROLES]);

const TIME: usize = 0;
const KEY: usize = 1;
const KEY_SIZE: usize = 2;
const OP: usize = 3;
const TIMES: usize = 4;
const SIZE: usize = 5;
const TTL: usize = 6;
const TENANT: usize = 7;
const OFFSET: usize = 8;
const ROLES: usize = 9;

/// Headers of Meta's formats: name, role. Where two name one role, the first that is there is taken.
const KVCACHE: &[(&str, usize)] = &[
    ("op_time", TIME),
    ("key", KEY),
    ("key_size", KEY_SIZE),
    ("op", OP),
    ("op_count", TIMES),
    ("size", SIZE),
    ("ttl", TTL),
    ("usecase", TENANT),
];
const TECTONIC: &[(&str, usize)] = &[
    ("op_time", TIME),
    ("block_id", KEY),
    ("block_id_size", KEY_SIZE),
    ("op_name", OP),
    ("op_count", TIMES),
    ("io_size", SIZE),
    ("user_name", TENANT),
    ("io_offset", OFFSET),
];

impl Columns {
    fn of(header: &[u8], known: &[(&str, usize)]) -> Result<Columns> {
        let mut columns = Columns::default();
        for (at, name) in header.split(|byte| *byte == b',').enumerate() {
            if let Some((_, role)) = known.iter().find(|(known, _)| known.as_bytes() == name.trim_ascii()) {
                columns.0[*role].get_or_insert(at);
            }
        }
        for role in [KEY, OP, SIZE] {
            let (name, _) = known.iter().find(|(_, own)| *own == role).expect("each role has a name");
            columns.0[role].with_context(|| format!("the header names no column {name}"))?;
        }
        Ok(columns)
    }
}

/// Requests of a line that are still to come.
#[derive(Default)]
pub(super) enum Pending {
    #[default]
    None,
    /// The same again, so many times.
    Same(u64),
    /// Blocks from this number on, so many.
    Blocks(u64, u64),
    /// These blocks.
    Ids(std::vec::IntoIter<u64>),
}

impl Pending {
    /// Makes the event the next one. False if nothing is left.
    pub(super) fn next(&mut self, event: &mut Event) -> bool {
        let more = match self {
            Pending::None => return false,
            Pending::Same(left) => {
                let more = *left > 0;
                *left = left.saturating_sub(1);
                more
            }
            Pending::Blocks(next, left) => {
                let more = *left > 0;
                if more {
                    number_key(event, *next);
                    (*next, *left) = (*next + 1, *left - 1);
                }
                more
            }
            Pending::Ids(ids) => ids.next().map(|id| number_key(event, id)).is_some(),
        };
        if !more {
            *self = Pending::None;
        }
        more
    }
}

fn number_key(event: &mut Event, id: u64) {
    use std::io::Write;
    event.key.clear();
    write!(event.key, "{id}").expect("writing to memory");
    event.key_size = event.key.len() as u32;
}

pub(super) fn set_key(event: &mut Event, key: &[u8]) {
    event.key.clear();
    event.key.extend_from_slice(key);
    event.key_size = key.len() as u32;
}

/// The fields of a line, so many exactly.
fn fields<'l, const N: usize>(line: &'l [u8], separators: &[u8], names: &[&str; N]) -> Result<[&'l [u8]; N]> {
    let mut all: [&[u8]; N] = [b""; N];
    let mut found =
        line.split(|byte| separators.contains(byte)).filter(|field| separators != b" \t" || !field.is_empty());
    for (place, name) in all.iter_mut().zip(names) {
        *place = found.next().with_context(|| format!("column {name} is missing: expected {}", names.join(" ")))?;
    }
    Ok(all)
}

pub(super) fn parse(
    format: Format,
    line: &[u8],
    is_first: bool,
    columns: &mut Columns,
    tenants: &mut Tenants,
    event: &mut Event,
    pending: &mut Pending,
) -> Result<Parsed> {
    if is_first && has_header(format, line) {
        match format {
            Format::Kvcache => *columns = Columns::of(line, KVCACHE)?,
            Format::Tectonic => *columns = Columns::of(line, TECTONIC)?,
            _ => {}
        }
        return Ok(Parsed::Nothing);
    }
    if !format.names_tenants() {
        event.tenant = tenants.number(ONLY_TENANT);
        (event.ttl, event.op) = (0, Op::Get);
    }
    match format {
        Format::Kvcache | Format::Tectonic => by_header(format, line, columns, tenants, event, pending),
        Format::Memcachier => memcachier(line, tenants, event),
        Format::Lis => {
            let [start, count, ..] = fields(line, b" \t", &["start", "count", "ignored", "request"])?;
            let (start, count) = (field::count(start, "start")?, field::count(count, "count")?);
            event.time += 1e-3; // no time is in it: a thousand lines a second
            event.value_size = LIS_BLOCK_BYTES;
            *pending = Pending::Blocks(start, count);
            Ok(Parsed::Nothing)
        }
        Format::Plain => {
            let [time, key, size] = fields(line, b",", &["time", "key", "size"])?;
            event.time = field::seconds(time, "time")?;
            event.value_size = field::bytes(size, "size")?;
            set_key(event, field::key(key, "key")?);
            Ok(Parsed::One)
        }
        Format::Wikimedia => {
            let names = ["relative_unix", "hashed_host_path_query", "response_size"];
            let [time, key, size] = fields(line, b"\t", &names)?;
            event.time = field::seconds(time, names[0])?;
            event.value_size = field::bytes(size, names[2])?;
            set_key(event, field::key(key, names[1])?);
            Ok(Parsed::One)
        }
        Format::IbmCos => ibm_cos(line, event),
        Format::Mooncake => {
            #[derive(Deserialize)]
            struct Prompt {
                timestamp: f64,
                hash_ids: Vec<u64>,
            }
            let prompt: Prompt = serde_json::from_slice(line).context("expected timestamp and hash_ids")?;
            event.time = prompt.timestamp / 1e3;
            event.value_size = MOONCAKE_BLOCK_BYTES;
            *pending = Pending::Ids(prompt.hash_ids.into_iter());
            Ok(Parsed::Nothing)
        }
        _ => {
            event.time += 1e-3;
            event.value_size = 0;
            set_key(event, field::key(line, "key")?);
            Ok(Parsed::One)
        }
    }
}

fn has_header(format: Format, line: &[u8]) -> bool {
    match format {
        Format::Kvcache | Format::Tectonic => true,
        Format::Wikimedia | Format::Plain | Format::Memcachier | Format::IbmCos => {
            !line.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-')
        }
        _ => false,
    }
}

fn by_header(
    format: Format,
    line: &[u8],
    columns: &Columns,
    tenants: &mut Tenants,
    event: &mut Event,
    pending: &mut Pending,
) -> Result<Parsed> {
    let names = if format == Format::Kvcache { KVCACHE } else { TECTONIC };
    let all: Vec<&[u8]> = line.split(|byte| *byte == b',').collect();
    let of = |role: usize| -> Result<Option<(&[u8], &str)>> {
        let Some(at) = columns.0[role] else { return Ok(None) };
        let (name, _) = names.iter().find(|(_, own)| *own == role).expect("each role has a name");
        let found = all.get(at).with_context(|| format!("column {name} is missing"))?;
        Ok(Some((found.trim_ascii(), name)))
    };
    let needed = |role: usize| of(role).map(|found| found.expect("the header was checked"));
    match of(TIME)? {
        Some((time, name)) => event.time = field::seconds(time, name)?,
        None => event.time += 1e-3,
    }
    let (key, name) = needed(KEY)?;
    set_key(event, field::key(key, name)?);
    if let Some((offset, name)) = of(OFFSET)? {
        // a read of a part of a block: each part is an object
        field::count(offset, name)?;
        event.key.push(b':');
        event.key.extend_from_slice(offset);
    }
    event.key_size = match of(KEY_SIZE)? {
        Some((size, name)) => field::bytes(size, name)?,
        None => event.key.len() as u32,
    };
    let (op, name) = needed(OP)?;
    event.op = operation(op).with_context(|| {
        format!("column {name}: expected GET, SET, DELETE or the like, found '{}'", String::from_utf8_lossy(op))
    })?;
    let (size, name) = needed(SIZE)?;
    event.value_size = field::bytes(size, name)?;
    event.ttl = match of(TTL)? {
        Some((ttl, name)) if !ttl.is_empty() => field::ttl(ttl, name)?,
        _ => 0,
    };
    event.tenant = match of(TENANT)? {
        Some((tenant, name)) => tenants.number(field::text(tenant, name)?),
        None => tenants.number(ONLY_TENANT),
    };
    if let Some((times, name)) = of(TIMES)? {
        *pending = Pending::Same(field::count(times, name)?);
        return Ok(Parsed::Nothing);
    }
    Ok(Parsed::One)
}

/// Operations of Meta's traces: GET, GET_LEASE, SET, DELETE; getChunkData…, putChunk… and the like.
fn operation(name: &[u8]) -> Option<Op> {
    let lower = name.to_ascii_lowercase();
    Op::of(&lower).or_else(|| {
        [
            ("get", Op::Get),
            ("read", Op::Get),
            ("set", Op::Set),
            ("put", Op::Set),
            ("write", Op::Set),
            ("delete", Op::Delete),
        ]
        .iter()
        .find(|(start, _)| lower.starts_with(start.as_bytes()))
        .map(|(_, op)| *op)
    })
}

fn memcachier(line: &[u8], tenants: &mut Tenants, event: &mut Event) -> Result<Parsed> {
    let names = ["time", "app", "type", "key_size", "value_size", "key_id", "hit"];
    let [time, app, kind, key_size, value_size, key, _] = fields(line, b",", &names)?;
    event.time = field::seconds(time, "time")?;
    event.op = match kind.trim_ascii() {
        b"1" => Op::Get,
        b"2" => Op::Set,
        b"3" => Op::Delete,
        b"4" => Op::Add,
        b"5" => Op::Incr,
        other => bail!("column type: expected 1 to 5, found '{}'", String::from_utf8_lossy(other)),
    };
    event.tenant = tenants.number(field::text(app.trim_ascii(), "app")?);
    event.ttl = 0;
    set_key(event, field::key(key.trim_ascii(), "key_id")?);
    event.key_size = field::bytes(key_size.trim_ascii(), "key_size")?;
    // a miss has no size to tell: -1
    event.value_size =
        if value_size.starts_with(b"-") { 0 } else { field::bytes(value_size.trim_ascii(), "value_size")? };
    Ok(Parsed::One)
}

fn ibm_cos(line: &[u8], event: &mut Event) -> Result<Parsed> {
    let [time, op, key] = fields(line, b" \t", &["time", "operation", "object"])?;
    event.time = field::real(time).context("column time: expected milliseconds")? / 1e3;
    event.op = match op {
        op if op.starts_with(b"REST.GET") || op.starts_with(b"REST.HEAD") || op.starts_with(b"REST.COPY") => Op::Get,
        op if op.starts_with(b"REST.PUT") => Op::Set,
        op if op.starts_with(b"REST.DELETE") => Op::Delete,
        other => {
            bail!("column operation: expected REST.GET.OBJECT or the like, found '{}'", String::from_utf8_lossy(other))
        }
    };
    let size = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).nth(3);
    event.value_size = size.map_or(Ok(0), |size| field::bytes(size, "size"))?;
    set_key(event, field::key(key, "object")?);
    Ok(Parsed::One)
}

/// Tells a format by its first two lines.
pub(super) fn detect(first: &[u8], second: &[u8]) -> Option<Format> {
    let has = |name: &[u8]| first.split(|byte| *byte == b',').any(|column| column.trim_ascii() == name);
    if [first, second].iter().any(|line| line.starts_with(b"ts=") && memchr::memmem::find(line, b" type=").is_some()) {
        return Some(Format::Watch);
    }
    if first.starts_with(b"{") && memchr::memmem::find(first, b"hash_ids").is_some() {
        return Some(Format::Mooncake);
    }
    if has(b"block_id") && has(b"op_name") {
        return Some(Format::Tectonic);
    }
    if has(b"key") && has(b"op") && has(b"size") {
        return Some(Format::Kvcache);
    }
    if first.starts_with(b"relative_unix\t") {
        return Some(Format::Wikimedia);
    }
    if memchr::memmem::find(first, b" REST.").is_some() || memchr::memmem::find(second, b" REST.").is_some() {
        return Some(Format::IbmCos);
    }
    let by_shape = |line: &[u8]| {
        let commas: Vec<&[u8]> = line.split(|byte| *byte == b',').collect();
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
        let is_number = |field: &&[u8]| field::real(field.trim_ascii()).is_some();
        match commas.len() {
            7.. if Op::of(commas[commas.len() - 2]).is_some() => Some(Format::Csv),
            7 if [0, 2, 3, 4].iter().all(|at| is_number(&commas[*at])) => Some(Format::Memcachier),
            3 if is_number(&commas[0]) && is_number(&commas[2]) => Some(Format::Plain),
            1 if words.len() == 4 && words.iter().all(|word| field::whole(word).is_some()) => Some(Format::Lis),
            1 if words.len() == 1 && line.iter().all(u8::is_ascii_graphic) => Some(Format::Keys),
            _ => None,
        }
    };
    // the first line may be a header that says nothing, or a bad one
    by_shape(first).filter(|format| *format != Format::Keys || !second.contains(&b',')).or_else(|| by_shape(second))
}
