//! `time_s,key,key_size,value_size,tenant,op,ttl`: Twitter's columns; what is the client there is the tenant.

use anyhow::{Context, Result};

use super::{Parsed, Tenants, field};
use crate::event::{Event, Op};

const COLUMNS: [&str; 7] = ["time_s", "key", "key_size", "value_size", "tenant", "op", "ttl"];
/// The first column behind the key, and that of the tenant.
const BEHIND_KEY: usize = 2;
const TENANT: usize = 4;

pub(super) fn parse(line: &[u8], tenants: &mut Tenants, event: &mut Event) -> Result<Parsed> {
    let [time, key, key_size, value_size, tenant, op, ttl] = split(line).with_context(|| missing(line))?;
    event.time = field::seconds(time, "time_s")?;
    event.key_size = field::bytes(key_size, "key_size")?;
    event.value_size = field::bytes(value_size, "value_size")?;
    event.op = Op::of(op).with_context(|| {
        format!("column op: expected get, set, delete or the like, found '{}'", String::from_utf8_lossy(op))
    })?;
    event.ttl = field::ttl(ttl, "ttl")?;
    let key = field::key(key, "key")?;
    // last: a bad line names no tenant
    event.tenant = tenants.number(field::text(tenant, "tenant")?);
    event.key.clear();
    event.key.extend_from_slice(key);
    Ok(Parsed::One)
}

/// The tenant of a line, if it has all columns behind its key.
pub(super) fn tenant(line: &[u8]) -> Option<&[u8]> {
    behind_key(line).map(|(_, columns)| columns[TENANT - BEHIND_KEY])
}

/// The columns of a line; None if some are missing.
fn split(line: &[u8]) -> Option<[&[u8]; COLUMNS.len()]> {
    let (front, [key_size, value_size, tenant, op, ttl]) = behind_key(line)?;
    let comma = memchr::memchr(b',', front)?;
    Some([&front[..comma], &front[comma + 1..], key_size, value_size, tenant, op, ttl])
}

/// What is in front of the key's end, and the columns behind it: keys of Twitter's traces may hold commas, so those columns are counted from
/// the end of the line. They are short, so going through them byte by byte takes less than a search for each.
fn behind_key(line: &[u8]) -> Option<(&[u8], [&[u8]; COLUMNS.len() - BEHIND_KEY])> {
    let mut columns = [&b""[..]; COLUMNS.len() - BEHIND_KEY];
    let mut end = line.len();
    for column in columns.iter_mut().rev() {
        let comma = line[..end].iter().rposition(|byte| *byte == b',')?;
        *column = &line[comma + 1..end];
        end = comma;
    }
    Some((&line[..end], columns))
}

/// Which column is missing: those at the end are.
fn missing(line: &[u8]) -> String {
    let there = line.iter().filter(|byte| **byte == b',').count() + 1;
    format!("column {} is missing: expected {}", COLUMNS[there.min(COLUMNS.len() - 1)], COLUMNS.join(","))
}
