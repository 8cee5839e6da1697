//! What connections count, together.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hdrhistogram::Histogram;

use super::server::Stats;
use crate::figures::{Figures, Latency, Moment};

/// What one connection has counted, since it handed that in last.
#[derive(Default, Clone)]
pub(super) struct Tally {
    pub(super) tenants: Vec<Figures>,
    pub(super) wrong: u64,
    pub(super) stale: u64,
    pub(super) errors: u64,
    pub(super) sent: u64,
    /// Closed loop: batches, each sent whole before its answers are read. Those of fills alone are not counted.
    pub(super) batches: u64,
}

impl Tally {
    pub(super) fn of(&mut self, tenant: u32) -> &mut Figures {
        let tenant = tenant as usize;
        if self.tenants.len() <= tenant {
            self.tenants.resize_with(tenant + 1, Figures::default);
        }
        &mut self.tenants[tenant]
    }

    fn add(&mut self, other: &Tally) {
        for (tenant, part) in other.tenants.iter().enumerate() {
            let sum = self.of(tenant as u32);
            sum.requests += part.requests;
            sum.gets += part.gets;
            sum.hits += part.hits;
            sum.app_bytes_written += part.app_bytes_written;
        }
        self.wrong += other.wrong;
        self.stale += other.stale;
        self.errors += other.errors;
        self.sent += other.sent;
        self.batches += other.batches;
    }

    /// The figures as they are now, with what the server says of itself.
    pub(super) fn moment(&self, seconds: f64, names: &[String], before: &Stats, after: &Stats) -> Moment {
        let mut total = Figures::default();
        let mut tenants = BTreeMap::new();
        for (name, figures) in names.iter().zip(&self.tenants) {
            let mut figures = *figures;
            let of_tenant = |key: &str| after.tenant(name, key).saturating_sub(before.tenant(name, key));
            figures.dram_hits = of_tenant("get_dram_hits");
            figures.flash_hits = of_tenant("get_flash_hits");
            figures.flash_bytes_written = of_tenant("demoted_bytes");
            figures.rescue_bytes_written = of_tenant("rescue_bytes");
            figures.dram_bytes = after.tenant(name, "bytes");
            total.requests += figures.requests;
            total.gets += figures.gets;
            total.hits += figures.hits;
            total.app_bytes_written += figures.app_bytes_written;
            tenants.insert(name.clone(), figures.with_ratios());
        }
        let of_run = |keys: &[&str]| after.first(keys).saturating_sub(before.first(keys));
        // memcached's extstore counts the same things under names of its own
        total.flash_hits = of_run(&["get_flash_hits", "get_extstore"]);
        total.dram_hits = total.hits.saturating_sub(total.flash_hits);
        total.flash_bytes_written = of_run(&["flash_bytes_written", "extstore_bytes_written"]);
        total.rescue_bytes_written = of_run(&["rescue_bytes_written", "extstore_compact_rescues"]);
        total.dram_bytes = after.first(&["bytes"]);
        Moment { seconds, total: total.with_ratios(), tenants }
    }
}

/// Where connections hand in what they counted.
pub(super) struct Sum(Mutex<(Tally, Histogram<u64>)>);

impl Sum {
    pub(super) fn new() -> Sum {
        Sum(Mutex::new((Tally::default(), tenths())))
    }

    pub(super) fn take(&self, tally: &mut Tally) {
        let part = std::mem::take(tally);
        self.0.lock().expect("nobody panics with it").0.add(&part);
    }

    pub(super) fn take_latencies(&self, latencies: &Histogram<u64>) {
        self.0.lock().expect("nobody panics with it").1.add(latencies).expect("all histograms are alike");
    }

    pub(super) fn tally(&self) -> Tally {
        self.0.lock().expect("nobody panics with it").0.clone()
    }

    pub(super) fn latency(&self) -> Latency {
        let latencies = &self.0.lock().expect("nobody panics with it").1;
        let micros = |tenths: u64| tenths as f64 / 10.0;
        let at = |quantile| micros(latencies.value_at_quantile(quantile));
        let quantiles = latencies.iter_quantiles(4).map(|step| (step.quantile(), micros(step.value_iterated_to())));
        Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(latencies.max()),
            quantiles: quantiles.take_while(|(quantile, _)| *quantile < 1.0).collect(),
        }
    }
}

/// Latencies in tenths of a microsecond, up to a hundred seconds.
pub(super) fn tenths() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("three digits are possible")
}
