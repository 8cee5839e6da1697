//! One request of a trace, whatever format it came from.

/// What is done to a key, as the trace names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read; a miss is filled with a value of the stated size.
    Get,
    /// Read, with the unique.
    Gets,
    /// Store.
    Set,
    /// Store if unknown.
    Add,
    /// Store if known.
    Replace,
    /// Store if unchanged.
    Cas,
    /// Put behind the value.
    Append,
    /// Put before the value.
    Prepend,
    /// Count up.
    Incr,
    /// Count down.
    Decr,
    /// Delete.
    Delete,
}

/// What an operation does to a cache. Conditions are taken as met: the trace is of requests that were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It reads, and fills a miss.
    Get,
    /// It changes the value.
    Set,
    /// It removes it.
    Delete,
}

/// Every operation and its name in traces.
const OPS: [(Op, &str); 11] = [
    (Op::Get, "get"),
    (Op::Gets, "gets"),
    (Op::Set, "set"),
    (Op::Add, "add"),
    (Op::Replace, "replace"),
    (Op::Cas, "cas"),
    (Op::Append, "append"),
    (Op::Prepend, "prepend"),
    (Op::Incr, "incr"),
    (Op::Decr, "decr"),
    (Op::Delete, "delete"),
];

/// Reads `xN`: so many times a trace's own speed.
pub(crate) fn parse_speed(text: &str) -> Option<f64> {
    let factor = text.strip_prefix('x')?.parse::<f64>().ok()?;
    (factor > 0.0 && factor.is_finite()).then_some(factor)
}

impl Op {
    /// Its name in traces.
    pub fn name(self) -> &'static str {
        OPS[self as usize].1
    }

    /// The operation of this name.
    pub fn of(name: &[u8]) -> Option<Op> {
        OPS.iter().find(|(_, known)| known.as_bytes() == name).map(|(op, _)| *op)
    }

    /// What it does to a cache.
    pub fn kind(self) -> Kind {
        match self {
            Op::Get | Op::Gets => Kind::Get,
            Op::Delete => Kind::Delete,
            _ => Kind::Set,
        }
    }
}

/// Every operation.
pub(crate) fn all_ops() -> impl Iterator<Item = Op> {
    OPS.iter().map(|(op, _)| *op)
}

/// One request.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Seconds, as the trace counts them.
    pub time: f64,
    /// Key, unique within its tenant.
    pub key: Vec<u8>,
    /// Bytes of the original key.
    pub key_size: u32,
    /// Bytes of the value.
    pub value_size: u32,
    /// Number of its tenant in [`crate::format::Reader::tenants`].
    pub tenant: u32,
    /// What is done.
    pub op: Op,
    /// Seconds to live; 0 for ever.
    pub ttl: u32,
}

impl Default for Event {
    fn default() -> Event {
        Event { time: 0.0, key: Vec::new(), key_size: 0, value_size: 0, tenant: 0, op: Op::Get, ttl: 0 }
    }
}

/// The key as it is sent: `TENANT:KEY`, padded to the original key's size. A key that would be too long is hashed.
pub fn wire_key(tenant: &str, event: &Event, out: &mut Vec<u8>) {
    const KEY_BYTES_MAX: usize = 250;
    out.clear();
    out.extend_from_slice(tenant.as_bytes());
    out.push(b':');
    // without a branch for each byte
    let is_sendable = || event.key.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
    if tenant.len() + 1 + event.key.len() > KEY_BYTES_MAX || !is_sendable() {
        let hash = xxhash_rust::xxh3::xxh3_128(&event.key);
        out.extend_from_slice(format!("{hash:032x}").as_bytes());
    } else {
        out.extend_from_slice(&event.key);
    }
    let size = (event.key_size as usize).min(KEY_BYTES_MAX);
    out.resize(out.len().max(size), b'.');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_operations_are_one_to_one() {
        for (number, (op, name)) in OPS.iter().enumerate() {
            assert_eq!((*op as usize, op.name(), Op::of(name.as_bytes())), (number, *name, Some(*op)));
        }
        assert_eq!(Op::of(b"fetch"), None);
    }
}
