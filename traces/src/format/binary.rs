//! Formats of fixed records: libCacheSim's oracleGeneral, VSCSI, bare keys.

use anyhow::anyhow;

use super::{Format, Parsed};
use crate::event::{Event, Op};

/// `u32` time, `u64` object, `u32` size, `i64` next access (in requests; -1: none), little endian.
pub(super) const ORACLE_BYTES: usize = 24;
/// `u32` serial, length, segments; `u16` command, version; `u64` block, microseconds, little endian.
pub(super) const VSCSI_BYTES: usize = 32;
/// SCSI commands that read and write.
const READS: [u16; 4] = [0x08, 0x28, 0x88, 0xa8];
const WRITES: [u16; 4] = [0x0a, 0x2a, 0x8a, 0xaa];
/// Records that detection looks at.
const RECORDS_SEEN: usize = 64;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn set_key(event: &mut Event, id: u64) {
    use std::io::Write;
    event.key.clear();
    write!(event.key, "{id}").expect("writing to memory");
    event.key_size = event.key.len() as u32;
}

pub(super) fn parse(format: Format, record: &[u8], event: &mut Event) -> Parsed {
    (event.ttl, event.op) = (0, Op::Get);
    match format {
        Format::OracleGeneral => {
            event.time = f64::from(word(record, 0));
            set_key(event, double(record, 4));
            event.value_size = word(record, 12);
        }
        Format::Vscsi => {
            event.op = match half(record, 12) {
                command if READS.contains(&command) => Op::Get,
                command if WRITES.contains(&command) => Op::Set,
                command => {
                    return Parsed::Bad(anyhow!("column command: expected a read or a write, found {command:#x}"));
                }
            };
            event.value_size = word(record, 4);
            set_key(event, double(record, 16));
            event.time = double(record, 24) as f64 / 1e6;
        }
        _ => {
            set_key(event, u64::from_be_bytes(record.try_into().expect("eight bytes")));
            event.time += 1e-3; // no time is in it: a thousand a second
            event.value_size = 0;
        }
    }
    Parsed::One
}

/// Tells records apart by what their fields can be. Bare keys can be anything: they are named by a flag.
pub(super) fn detect(head: &[u8]) -> Option<Format> {
    let are_oracle = || {
        let mut time = 0;
        head.chunks_exact(ORACLE_BYTES).take(RECORDS_SEEN).enumerate().all(|(number, record)| {
            let (before, next) = (time, double(record, 16).cast_signed());
            time = word(record, 0);
            time >= before && word(record, 12) < 1 << 31 && (next < 0 || (next > number as i64 && next < 1 << 40))
        })
    };
    let are_vscsi = || {
        head.chunks_exact(VSCSI_BYTES).take(RECORDS_SEEN).all(|record| {
            let command = half(record, 12);
            command < 0x100 && word(record, 4) < 1 << 28 && double(record, 16) < 1 << 48
        })
    };
    match () {
        () if head.len() >= ORACLE_BYTES && are_oracle() => Some(Format::OracleGeneral),
        () if head.len() >= VSCSI_BYTES && are_vscsi() => Some(Format::Vscsi),
        () => None,
    }
}
