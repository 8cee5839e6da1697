//! Time as this process lives it. A device has not failed because the machine was moved, or the process stopped and sent on, while it was asked.

use std::time::{Duration, Instant};

/// What counts of the time between two looks, at most. Whoever waits looks more often than that.
const BETWEEN_LOOKS_MAX: Duration = Duration::from_millis(500);

/// A clock that stands still while the process does.
pub(crate) struct Awake {
    looked: Instant,
    passed: Duration,
}

impl Awake {
    pub(crate) fn new() -> Awake {
        Awake { looked: Instant::now(), passed: Duration::ZERO }
    }

    /// What has passed since it began.
    pub(crate) fn look(&mut self) -> Duration {
        self.look_at(Instant::now())
    }

    fn look_at(&mut self, now: Instant) -> Duration {
        self.passed += (now - self.looked).min(BETWEEN_LOOKS_MAX);
        self.looked = now;
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pause_counts_little() {
        let mut awake = Awake::new();
        let begun = awake.looked;
        let at = |millis| begun + Duration::from_millis(millis);
        assert_eq!(awake.look_at(at(250)), Duration::from_millis(250));
        assert_eq!(awake.look_at(at(60_000)), Duration::from_millis(750));
        assert_eq!(awake.look_at(at(60_100)), Duration::from_millis(850));
    }
}
