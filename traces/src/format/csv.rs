//! `time_s,key,key_size,value_size,tenant,op,ttl`: Twitter's columns, with the tenant in place of the client.

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::event::{Event, Op};

const COLUMNS: &str = "time_s,key,key_size,value_size,tenant,op,ttl";

pub(super) fn parse(line: &[u8], tenants: &mut Vec<String>, last_tenant: &mut usize) -> Result<Event> {
    let mut fields = line.split(|byte| *byte == b',');
    let mut field = |name: &str| fields.next().with_context(|| format!("column {name} is missing: expected {COLUMNS}"));
    let time = number(field("time_s")?, "time_s", "seconds")?;
    let key = field("key")?;
    let key_size = number(field("key_size")?, "key_size", "a number of bytes")?;
    let value_size = number(field("value_size")?, "value_size", "a number of bytes")?;
    let tenant = std::str::from_utf8(field("tenant")?).context("column tenant: expected text")?;
    let op = match field("op")? {
        b"get" => Op::Get,
        b"set" => Op::Set,
        b"delete" => Op::Delete,
        other => bail!("column op: expected get, set or delete, found '{}'", String::from_utf8_lossy(other)),
    };
    let ttl = number(field("ttl")?, "ttl", "seconds")?;
    if key.is_empty() {
        bail!("column key: expected a key, found nothing");
    }
    Ok(Event { time, key: key.into(), key_size, value_size, tenant: intern(tenant, tenants, last_tenant), op, ttl })
}

fn number<T: std::str::FromStr>(field: &[u8], name: &str, expected: &str) -> Result<T> {
    let text = std::str::from_utf8(field).unwrap_or("");
    text.parse()
        .ok()
        .with_context(|| format!("column {name}: expected {expected}, found '{}'", String::from_utf8_lossy(field)))
}

fn intern(name: &str, tenants: &mut Vec<String>, last: &mut usize) -> u32 {
    if tenants.get(*last).is_none_or(|known| known != name) {
        *last = tenants.iter().position(|known| known == name).unwrap_or_else(|| {
            tenants.push(name.to_owned());
            tenants.len() - 1
        });
    }
    *last as u32
}

pub(super) fn write(out: &mut dyn Write, tenant: &str, event: &Event) -> std::io::Result<()> {
    write!(out, "{:.3},", event.time)?;
    out.write_all(&event.key)?;
    writeln!(out, ",{},{},{tenant},{},{}", event.key_size, event.value_size, event.op.name(), event.ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip() {
        let (mut tenants, mut last) = (Vec::new(), 0);
        for line in ["0.001,k1,26,24,c20,get,0", "12.500,abc,3,100000,other,set,86400", "13.000,x,1,0,c20,delete,0"] {
            let event = parse(line.as_bytes(), &mut tenants, &mut last).unwrap();
            let mut out = Vec::new();
            write(&mut out, &tenants[event.tenant as usize], &event).unwrap();
            assert_eq!(String::from_utf8(out).unwrap().trim_end(), line);
        }
        assert_eq!(tenants, ["c20", "other"]);
    }

    #[test]
    fn what_was_expected_is_said() {
        let error = |line: &str| format!("{:#}", parse(line.as_bytes(), &mut Vec::new(), &mut 0).unwrap_err());
        assert!(error("0.1,k,x,24,c,get,0").contains("key_size"));
        assert!(error("0.1,k,1,24,c,fetch,0").contains("expected get, set or delete"));
        assert!(error("0.1,k,1").contains("column value_size is missing"));
    }
}
