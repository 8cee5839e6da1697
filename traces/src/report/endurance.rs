//! How long a drive lasts under what was measured.

use crate::figures::Report;

const SECONDS_A_DAY: f64 = 86_400.0;
const DAYS_A_YEAR: f64 = 365.25;

/// A drive as its data sheet states it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drive {
    pub(super) bytes: u64,
    /// Drive writes a day, over the years of its rating.
    pub(super) dwpd: f64,
    pub(super) years: f64,
    /// Bytes that the drive writes inside for each byte that it is given.
    pub(super) amplification: f64,
}

impl Drive {
    /// Bytes that it can take in its life.
    pub(super) fn rated_bytes(&self) -> f64 {
        self.bytes as f64 * self.dwpd * self.years * DAYS_A_YEAR
    }

    /// Bytes a day that a run gives it, at the trace's own speed. None if the trace has no time.
    pub(super) fn bytes_a_day(&self, report: &Report) -> Option<f64> {
        let seconds = report.trace_seconds;
        (seconds > 0.0).then(|| report.total.flash_bytes_written as f64 / seconds * SECONDS_A_DAY * self.amplification)
    }

    /// Years until the rating is used up.
    pub(super) fn lasts(&self, report: &Report) -> Option<f64> {
        let bytes = self.bytes_a_day(report).filter(|bytes| *bytes > 0.0)?;
        Some(self.rated_bytes() / bytes / DAYS_A_YEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;

    #[test]
    fn a_drive_at_its_rating_lasts_as_long_as_it_says() {
        let drive = Drive { bytes: 960_000_000_000, dwpd: 1.0, years: 5.0, amplification: 1.0 };
        let half_a_day = Report {
            trace_seconds: 43_200.0,
            total: Figures { flash_bytes_written: 480_000_000_000, ..Figures::default() },
            ..Report::default()
        };
        assert!((drive.lasts(&half_a_day).unwrap() - 5.0).abs() < 1e-9);
        let amplified = Drive { amplification: 2.0, ..drive };
        assert!((amplified.lasts(&half_a_day).unwrap() - 2.5).abs() < 1e-9);
        assert_eq!(drive.lasts(&Report { trace_seconds: 5.0, ..Report::default() }), None, "nothing is written");
        assert_eq!(drive.bytes_a_day(&Report::default()), None);
    }
}
