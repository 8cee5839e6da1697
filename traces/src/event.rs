//! One request of a trace, whatever format it came from.

/// What is done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read; a miss is filled with a value of the stated size.
    Get,
    /// Store.
    Set,
    /// Delete.
    Delete,
}

impl Op {
    /// Its name in traces.
    pub fn name(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Set => "set",
            Op::Delete => "delete",
        }
    }
}

/// One request.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Seconds since the trace began.
    pub time: f64,
    /// Key, unique within its tenant.
    pub key: Box<[u8]>,
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

/// The key as it is sent: `TENANT:KEY`, padded to the original key's size. A key that would be too long is hashed.
pub fn wire_key(tenant: &str, event: &Event, out: &mut Vec<u8>) {
    const KEY_BYTES_MAX: usize = 250;
    out.clear();
    out.extend_from_slice(tenant.as_bytes());
    out.push(b':');
    if tenant.len() + 1 + event.key.len() > KEY_BYTES_MAX {
        let hash = xxhash_rust::xxh3::xxh3_128(&event.key);
        out.extend_from_slice(format!("{hash:032x}").as_bytes());
    } else {
        out.extend_from_slice(&event.key);
    }
    let size = (event.key_size as usize).min(KEY_BYTES_MAX);
    out.resize(out.len().max(size), b'.');
}
