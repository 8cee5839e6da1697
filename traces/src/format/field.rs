//! Fields of lines: numbers and what is said when they are none.

use anyhow::{Context, Result};

/// A whole number; None if it is anything else.
pub(super) fn whole(field: &[u8]) -> Option<u64> {
    if field.is_empty() || field.len() > 19 {
        return None;
    }
    field.iter().try_fold(0u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

const POWERS_OF_TEN: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// A number with or without a point.
pub(super) fn real(field: &[u8]) -> Option<f64> {
    // the usual: digits, maybe a point and up to nine digits
    let point = memchr::memchr(b'.', field).unwrap_or(field.len());
    let (front, behind) = (&field[..point], field.get(point + 1..).unwrap_or(b""));
    if behind.is_empty() && point == field.len() {
        return whole(front).map(|number| number as f64).or_else(|| general(field));
    }
    match (whole(front), whole(behind)) {
        (Some(front), Some(part)) if behind.len() < POWERS_OF_TEN.len() => {
            Some(front as f64 + part as f64 / POWERS_OF_TEN[behind.len()])
        }
        _ => general(field),
    }
}

fn general(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

fn shown(field: &[u8]) -> String {
    String::from_utf8_lossy(&field[..field.len().min(40)]).into_owned()
}

/// A time in seconds.
pub(super) fn seconds(field: &[u8], column: &str) -> Result<f64> {
    real(field).with_context(|| format!("column {column}: expected seconds, found '{}'", shown(field)))
}

/// A whole number of anything.
pub(super) fn count(field: &[u8], column: &str) -> Result<u64> {
    whole(field).with_context(|| format!("column {column}: expected a whole number, found '{}'", shown(field)))
}

/// A number of bytes.
pub(super) fn bytes(field: &[u8], column: &str) -> Result<u32> {
    carried(field, column, "a number of bytes")
}

/// Whole seconds that something lives.
pub(super) fn ttl(field: &[u8], column: &str) -> Result<u32> {
    carried(field, column, "seconds to live, or 0")
}

/// A whole number; 4 Gi and beyond are brought down to what an event can carry.
fn carried(field: &[u8], column: &str, expected: &str) -> Result<u32> {
    let number =
        whole(field).with_context(|| format!("column {column}: expected {expected}, found '{}'", shown(field)))?;
    Ok(number.min(u64::from(u32::MAX)) as u32)
}

/// A key.
pub(super) fn key<'f>(field: &'f [u8], column: &str) -> Result<&'f [u8]> {
    Some(field).filter(|key| !key.is_empty()).with_context(|| format!("column {column}: expected a key, found nothing"))
}

/// Text.
pub(super) fn text<'f>(field: &'f [u8], column: &str) -> Result<&'f str> {
    std::str::from_utf8(field).ok().with_context(|| format!("column {column}: expected text, found '{}'", shown(field)))
}
