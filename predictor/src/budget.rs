//! A budget for writes: the bar that merits must pass so that as much is written as may be.
//!
//! What comes to the gate is noted by merit, in a histogram weighted by bytes that forgets. Each time that bytes are allowed, the bar moves to where
//! as much lies above it as may be written: what was allowed for such an amount of offers, and the balance of what was allowed and what was
//! written. So the bar follows the offers at once, and the balance makes up for what it got wrong: as much may be overdrawn as saved, or else
//! what deserves most would be refused for as long as it takes to pay for what was written before it.

/// Bins of the histogram; merits lie between these two, what is beyond counts as one of them.
const BINS: usize = 256;
const MERIT_MIN: f32 = -28.0;
const MERIT_MAX: f32 = 4.0;
const BIN: f32 = (MERIT_MAX - MERIT_MIN) / BINS as f32;
/// Offers are forgotten so that the last of this size of window count most, in seconds.
const WINDOW_SECS: f64 = 300.0;
/// What lies on flash unread must be among the best of what is offered, this share, to be kept: a budget with more room than there are offers would
/// keep everything, and let nothing new in for that.
const KEPT_OF_OFFERED: f32 = 0.5;

/// What is said for a write.
#[derive(Clone, Copy, Debug)]
pub struct Bid {
    /// How much it deserves one ([`merit`](crate::merit)).
    pub merit: f32,
    /// From 0 to 1: decides between equal ones.
    pub dice: f32,
    /// It lies on flash already, and was not read there.
    pub is_kept: bool,
}

/// Keeps what is written to what may be.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes that may be written now; below 0, what was written too much.
    balance: f64,
    bar: f32,
    /// What is kept has to pass this as well.
    middle: f32,
    /// Bytes offered, by merit.
    offered: Box<[f32; BINS]>,
    /// Of all offers, and what was allowed for them.
    offered_bytes: f64,
    allowed_bytes: f64,
    /// Offered since bytes were allowed last.
    offered_since: f64,
    window_bytes: f64,
    /// What may be saved, and overdrawn.
    savings_max: f64,
}

impl Budget {
    /// A budget that looks back over so many bytes of offers at most.
    pub fn new(window_bytes: u64) -> Budget {
        Budget {
            balance: 0.0,
            bar: f32::NEG_INFINITY,
            middle: f32::NEG_INFINITY,
            offered: Box::new([0.0; BINS]),
            offered_bytes: 0.0,
            allowed_bytes: 0.0,
            offered_since: 0.0,
            window_bytes: window_bytes.max(1) as f64,
            savings_max: 0.0,
        }
    }

    /// Whether something may be written that takes so many bytes.
    pub fn offers(&mut self, bid: &Bid, bytes: usize) -> bool {
        let Bid { merit, dice, is_kept } = *bid;
        let merit = merit.clamp(MERIT_MIN, MERIT_MAX) + (dice - 0.5) * BIN;
        let bin = (merit - MERIT_MIN) / BIN;
        self.offered[(bin.max(0.0) as usize).min(BINS - 1)] += bytes as f32;
        self.offered_since += bytes as f64;
        let bar = if is_kept { self.bar.max(self.middle) } else { self.bar };
        merit > bar && self.balance > -self.savings_max
    }

    /// So many bytes were written.
    pub fn charge(&mut self, bytes: f64) {
        self.balance -= bytes;
    }

    /// So many bytes more may be written, after `secs` seconds; what is not written is kept up to `savings_max` bytes, and as
    /// much may be written too much for the while.
    pub fn allow(&mut self, bytes: f64, secs: u32, savings_max: f64) {
        self.savings_max = savings_max;
        self.balance = (self.balance + bytes).min(savings_max.max(bytes));
        self.offered_bytes += self.offered_since;
        self.allowed_bytes += bytes;
        self.bar = self.merit_above((self.allowed_bytes + self.balance).max(0.0) as f32);
        self.middle = self.merit_above(self.offered.iter().sum::<f32>() * KEPT_OF_OFFERED);
        let forget = (self.offered_since / self.window_bytes + f64::from(secs) / WINDOW_SECS).min(1.0);
        let keep = 1.0 - forget;
        self.offered.iter_mut().for_each(|bytes| *bytes *= keep as f32);
        (self.offered_bytes, self.allowed_bytes) = (self.offered_bytes * keep, self.allowed_bytes * keep);
        self.offered_since = 0.0;
    }

    /// The merit above which as many bytes are offered as are wanted; minus infinity, if not so many are.
    fn merit_above(&self, mut wanted: f32) -> f32 {
        for (bin, bytes) in self.offered.iter().enumerate().rev() {
            if *bytes > wanted {
                return (bin + 1) as f32 * BIN + MERIT_MIN - wanted / bytes * BIN;
            }
            wanted -= bytes;
        }
        f32::NEG_INFINITY
    }

    /// The merit that has to be passed now; minus infinity: everything may be written.
    pub fn bar(&self) -> f32 {
        self.bar
    }

    /// Bytes that were allowed and not written; below 0, what was written too much.
    pub fn balance(&self) -> f64 {
        self.balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers objects for `secs` seconds at so many bytes a second, each as good as `merit` says of its number; returns what was written
    /// and the mean merit of that.
    fn run(budget: &mut Budget, secs: u32, offered: u64, allowed: f64, merit: impl Fn(u64) -> f32) -> (f64, f32) {
        let (mut written, mut merits, mut count) = (0.0, 0.0, 0);
        for second in 0..u64::from(secs) {
            budget.allow(allowed, 1, allowed * 60.0);
            for n in 0..offered / 100 {
                let number = second * offered / 100 + n;
                let dice = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u32 << 24) as f32;
                if budget.offers(&Bid { merit: merit(number), dice, is_kept: false }, 100) {
                    // a tenth more is written than was offered: pages are not quite full
                    budget.charge(110.0);
                    (written, merits, count) = (written + 110.0, merits + merit(number), count + 1);
                }
            }
        }
        (written, merits / count.max(1) as f32)
    }

    #[test]
    fn as_much_is_written_as_may_be_and_the_best_of_it() {
        let mut budget = Budget::new(1 << 20);
        let merit = |n: u64| (n * 7919 % 1000) as f32 / 250.0 - 2.0;
        run(&mut budget, 600, 20_000, 5_000.0, merit);
        let (written, mean) = run(&mut budget, 3600, 20_000, 5_000.0, merit);
        assert!((written / 18e6 - 1.0).abs() < 0.02, "{written}");
        assert!(mean > 1.4, "the best quarter has 1.5 on the mean: {mean}");
        // offers that are worth less, and twice as many: the bar goes down and up again
        let (written, _) = run(&mut budget, 3600, 40_000, 5_000.0, |n| merit(n) - 1.5);
        assert!((written / 18e6 - 1.0).abs() < 0.02, "{written}");
    }

    #[test]
    fn who_looks_back_over_more_than_a_burst_waits_for_better() {
        // for some seconds all offers are good, and for as many all are bad; half of all may be written
        let merit = |n: u64| if (n / 1_000).is_multiple_of(2) { 1.0 } else { -2.0 };
        let mean = |window_bytes: u64| {
            let mut budget = Budget::new(window_bytes);
            run(&mut budget, 600, 20_000, 11_000.0, merit);
            run(&mut budget, 3600, 20_000, 11_000.0, merit).1
        };
        assert!(mean(1 << 20) > 0.9 && mean(40 << 10) < 0.0, "{} and {}", mean(1 << 20), mean(40 << 10));
    }

    #[test]
    fn equal_merits_are_told_apart_by_dice() {
        let mut budget = Budget::new(1 << 20);
        run(&mut budget, 600, 20_000, 5_000.0, |_| 0.3);
        let (written, _) = run(&mut budget, 3600, 20_000, 5_000.0, |_| 0.3);
        assert!((written / 18e6 - 1.0).abs() < 0.05, "{written}");
    }

    #[test]
    fn what_was_saved_is_bounded_and_nothing_is_refused_for_nothing() {
        let mut budget = Budget::new(1 << 20);
        (0..1000).for_each(|_| budget.allow(1_000.0, 1, 60_000.0));
        assert!(budget.balance() <= 60_000.0);
        let (written, _) = run(&mut budget, 600, 500, 1_000.0, |_| -3.0);
        assert!(written > 0.99 * 600.0 * 550.0, "less is offered than allowed, so all is taken: {written}");
    }

    #[test]
    fn with_room_to_spare_all_that_is_new_goes_and_the_better_half_stays() {
        let mut budget = Budget::new(1 << 20);
        run(&mut budget, 600, 20_000, 40_000.0, |n| (n % 8) as f32);
        assert_eq!(budget.bar(), f32::NEG_INFINITY);
        let passes = |budget: &mut Budget, merit: f32, is_kept| budget.offers(&Bid { merit, dice: 0.5, is_kept }, 100);
        assert!(passes(&mut budget, 1.0, false) && !passes(&mut budget, 1.0, true) && passes(&mut budget, 6.0, true));
    }

    #[test]
    fn without_an_allowance_nothing_is_written() {
        let mut budget = Budget::new(1 << 20);
        assert_eq!(run(&mut budget, 100, 20_000, 0.0, |_| 4.0).0, 0.0);
    }
}
