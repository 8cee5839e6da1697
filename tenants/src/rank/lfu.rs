//! Least frequently used, with fading: reads for each tick since the object arrived, where time without a read counts double.

use super::Standing;

/// Reads a tick in fixed point, recency breaking ties.
pub(super) fn worth(standing: &Standing) -> u64 {
    let ticks = u64::from(standing.age) + u64::from(standing.idle) + 16;
    let frequency = ((u64::from(standing.reads) << 20) + (1 << 16)) / ticks;
    (frequency << 20) + u64::from((1u32 << 20) - 1 - standing.idle.min((1 << 20) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_beats_rare_and_fresh_beats_forgotten() {
        let often = Standing { reads: 20, age: 100, idle: 5, bytes: 1 };
        let once = Standing { reads: 1, age: 100, idle: 0, bytes: 1 };
        let long_ago = Standing { reads: 20, age: 100_000, idle: 90_000, bytes: 1 };
        assert!(worth(&often) > worth(&once));
        assert!(worth(&once) > worth(&long_ago));
    }
}
