//! How much may be written to flash.

use std::fmt;

/// A budget for flash writes, as an operator states it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum WriteBudget {
    /// None: what is admitted is written.
    #[default]
    Unlimited,
    /// Bytes a second.
    Rate(u64),
    /// Times that all flash is written in a day.
    DriveWrites(f64),
    /// Bytes for each byte of key and value that clients store.
    Amplification(f64),
}

const SECS_A_DAY: f64 = 86_400.0;

impl WriteBudget {
    /// What it allows in so many seconds in which so many bytes were stored; None: anything.
    pub fn allows(self, secs: u32, stored_bytes: u64, flash_bytes: u64) -> Option<f64> {
        match self {
            WriteBudget::Unlimited => None,
            WriteBudget::Rate(bytes) => Some(bytes as f64 * f64::from(secs)),
            WriteBudget::DriveWrites(times) => Some(times * flash_bytes as f64 / SECS_A_DAY * f64::from(secs)),
            WriteBudget::Amplification(bytes) => Some(bytes * stored_bytes as f64),
        }
    }

    /// Whether it is one.
    pub fn is_limited(self) -> bool {
        self != WriteBudget::Unlimited
    }
}

impl fmt::Display for WriteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteBudget::Unlimited => write!(f, "none"),
            WriteBudget::Rate(bytes) => write!(f, "{bytes}B/s"),
            WriteBudget::DriveWrites(times) => write!(f, "{times}dwpd"),
            WriteBudget::Amplification(bytes) => write!(f, "{bytes}x"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_allows_its_own() {
        assert_eq!(WriteBudget::Unlimited.allows(10, 1000, 86_400), None);
        assert_eq!(WriteBudget::Rate(7).allows(10, 1000, 86_400), Some(70.0));
        assert_eq!(WriteBudget::DriveWrites(2.0).allows(10, 1000, 86_400), Some(20.0));
        assert_eq!(WriteBudget::Amplification(0.5).allows(10, 1000, 86_400), Some(500.0));
    }
}
