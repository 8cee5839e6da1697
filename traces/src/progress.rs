//! A progress bar on a terminal; nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Requests between updates.
const EVERY: u64 = 4096;

/// How far a run is.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar towards `total`, or a counter if that is unknown.
    pub(crate) fn new(total: Option<u64>) -> Progress {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match total {
            Some(_) => "{wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
            None => "{spinner} {human_pos} requests {per_sec} {elapsed}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is fixed"));
        Progress(bar)
    }

    /// So many requests are done.
    pub(crate) fn at(&self, requests: u64) {
        if requests.is_multiple_of(EVERY) {
            self.0.set_position(requests);
        }
    }

    /// All are done.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
