//! `time_s,key,key_size,value_size,tenant,op,ttl`: Twitter's columns; what is the client there is the tenant.

use anyhow::{Context, Result};

use super::{Parsed, Tenants, field};
use crate::event::{Event, Op};

const COLUMNS: [&str; 7] = ["time_s", "key", "key_size", "value_size", "tenant", "op", "ttl"];

pub(super) fn parse(line: &[u8], tenants: &mut Tenants, event: &mut Event) -> Result<Parsed> {
    // keys of Twitter's traces may hold commas: the other columns are counted from both ends
    let mut behind: [&[u8]; 5] = [b""; 5];
    let mut rest = line;
    for (place, name) in behind.iter_mut().zip(&COLUMNS[2..]).rev() {
        let comma = memchr::memrchr(b',', rest).with_context(|| missing(line, name))?;
        *place = &rest[comma + 1..];
        rest = &rest[..comma];
    }
    let comma = memchr::memchr(b',', rest).with_context(|| missing(line, "key"))?;
    let (time, key) = (&rest[..comma], field::key(&rest[comma + 1..], "key")?);
    let [key_size, value_size, tenant, op, ttl] = behind;
    event.time = field::seconds(time, "time_s")?;
    event.key_size = field::bytes(key_size, "key_size")?;
    event.value_size = field::bytes(value_size, "value_size")?;
    event.op = Op::of(op).with_context(|| {
        format!("column op: expected get, set, delete or the like, found '{}'", String::from_utf8_lossy(op))
    })?;
    event.ttl = field::bytes(ttl, "ttl")?;
    event.tenant = tenants.number(field::text(tenant, "tenant")?);
    event.key.clear();
    event.key.extend_from_slice(key);
    Ok(Parsed::One)
}

/// Which column is missing: those at the end are, whichever we looked for first.
fn missing(line: &[u8], looked_for: &str) -> String {
    let there = line.iter().filter(|byte| **byte == b',').count() + 1;
    let name = COLUMNS.get(there).copied().unwrap_or(looked_for);
    format!("column {name} is missing: expected {}", COLUMNS.join(","))
}
