//! Bytes a second that may be moved: a bucket that time fills. Time is handed in, in whole seconds.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A limit on bytes a second; none until one is set.
#[derive(Default)]
pub(crate) struct Rate {
    bytes_a_sec: AtomicU64,
    allowance: AtomicI64,
}

impl Rate {
    /// Sets the limit; 0 for none.
    pub(crate) fn limit(&self, bytes_a_sec: u64) {
        self.bytes_a_sec.store(bytes_a_sec, Ordering::Relaxed);
        self.allowance.store(bytes_a_sec as i64, Ordering::Relaxed);
    }

    /// Seconds have passed. What was not used of more than a second is forfeited.
    pub(crate) fn pass(&self, secs: u32) {
        let most = self.bytes_a_sec.load(Ordering::Relaxed) as i64;
        let more = most.saturating_mul(i64::from(secs));
        let _ = self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some((now + more).min(most)));
    }

    /// Whether bytes may be moved now: the last may go beyond the limit, the next then waits longer.
    pub(crate) fn allows(&self) -> bool {
        self.bytes_a_sec.load(Ordering::Relaxed) == 0 || self.allowance.load(Ordering::Relaxed) > 0
    }

    /// So many bytes are moved.
    pub(crate) fn take(&self, bytes: u64) {
        self.allowance.fetch_sub(bytes as i64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_moved_than_the_limit() {
        let rate = Rate::default();
        assert!(rate.allows(), "there is no limit yet");
        rate.limit(1000);
        let mut moved = 0;
        for _ in 0..100 {
            while rate.allows() {
                rate.take(700);
                moved += 700;
            }
            rate.pass(1);
        }
        assert!((95_000..=103_000).contains(&moved), "{moved}");
    }
}
