//! Sizes and budgets, as operators write them.

use anyhow::{Context, Result, bail};
use cache::{Admission, WriteBudget};

/// Bytes written to flash for each byte stored that the predictor may spend where nothing else is said: what Flashield promises.
const BUDGET_USUAL: WriteBudget = WriteBudget::Amplification(0.5);

/// Parses `64` (MiB, as memcached's -m), `64m`, `16MiB`, `1GiB`, `500kB`.
pub fn parse_size(text: &str, plain_unit: u64) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits]
        .parse()
        .ok()
        .with_context(|| format!("'{text}' is no size: write a number with a unit, such as 16MiB or 1GiB"))?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" => plain_unit,
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        unit => bail!("'{unit}' is no unit of size: take KiB, MiB, GiB or TiB"),
    };
    Ok((number * unit as f64) as u64)
}

/// The budget for flash writes that goes with a rule: as stated, or the usual one for a predictor that has no threshold to go by.
pub fn write_budget(rule: Admission, threshold: Option<f32>, stated: Option<&str>) -> Result<WriteBudget> {
    match stated {
        Some(text) => parse_write_budget(text).context("--flash-write-budget"),
        None if rule == Admission::Svm && threshold.is_none() => Ok(BUDGET_USUAL),
        None => Ok(WriteBudget::Unlimited),
    }
}

/// Parses a budget for flash writes: `200GB/day`, `0.5dwpd` (drive writes a day), `0.3x` (bytes for each byte stored), `none`.
pub(crate) fn parse_write_budget(text: &str) -> Result<WriteBudget> {
    let number = |digits: &str| {
        let number = digits.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
        number
            .with_context(|| format!("'{text}' is no budget: write a number before its unit, such as 0.5dwpd or 0.3x"))
    };
    match text
        .strip_suffix("dwpd")
        .map(|digits| (digits, true))
        .or(text.strip_suffix('x').map(|digits| (digits, false)))
    {
        Some((digits, true)) => number(digits).map(WriteBudget::DriveWrites),
        Some((digits, false)) => number(digits).map(WriteBudget::Amplification),
        None if text == "none" => Ok(WriteBudget::Unlimited),
        None if !text.contains('/') => {
            bail!(
                "'{text}' is no budget: write bytes for a time (200GB/day), drive writes a day (0.5dwpd), or bytes for each byte stored (0.3x)"
            )
        }
        None => parse_rate(text).map(WriteBudget::Rate),
    }
}

/// Parses `200GB/day`, `10MiB/s`: bytes a second.
fn parse_rate(text: &str) -> Result<u64> {
    let (size, time) = text.split_once('/').unwrap_or((text, "s"));
    let secs = match time.trim() {
        "s" | "sec" | "second" => 1,
        "min" | "minute" => 60,
        "h" | "hour" => 60 * 60,
        "d" | "day" => 24 * 60 * 60,
        _ => bail!("'{text}' is no budget: write bytes for a time, such as 200GB/day or 5MiB/s"),
    };
    Ok((parse_size(size.trim(), 1)? / secs).max(u64::from(size.trim() != "0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_operators_write_them() {
        let size = |text: &str| parse_size(text, 1 << 20).unwrap();
        assert_eq!((size("64"), size("16MiB"), size("1GiB"), size("1g")), (64 << 20, 16 << 20, 1 << 30, 1 << 30));
        assert_eq!((size("500kB"), size("1.5m")), (500_000, 3 << 19));
        assert!(parse_size("x", 1).is_err() && parse_size("5 parsecs", 1).is_err());
    }

    #[test]
    fn write_budgets_read_as_operators_write_them() {
        let read = |text: &str| parse_write_budget(text).unwrap();
        assert_eq!(read("5MiB/s"), WriteBudget::Rate(5 << 20));
        assert_eq!(read("86400MB/day"), WriteBudget::Rate(1_000_000));
        assert_eq!((read("0.5dwpd"), read("0.3x")), (WriteBudget::DriveWrites(0.5), WriteBudget::Amplification(0.3)));
        assert_eq!(read("none"), WriteBudget::Unlimited);
        for bad in ["", "x", "-1x", "200GB", "1GB/fortnight", "dwpd", "infx"] {
            assert!(parse_write_budget(bad).unwrap_err().to_string().contains("write "), "{bad}");
        }
    }
}
