//! Least recently used.

use super::Standing;

/// The nearer the last access, the more; reads break ties within a tick.
pub(super) fn worth(standing: &Standing) -> u64 {
    (u64::from(u32::MAX - standing.idle) << 16) + u64::from(standing.reads.min(u32::from(u16::MAX)))
}
