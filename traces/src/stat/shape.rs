//! What is counted, and what it comes to.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind};
use crate::values::KeyId;
use cache::{Point, ReuseDistances};

/// Different TTLs that are counted one by one.
const TTLS_MAX: usize = 4096;
/// TTLs that are told.
const TTLS_TOLD: usize = 8;
/// Windows of the working set over time.
const WINDOWS_MAX: usize = 256;
/// Sizes at which the misses of an LRU are told, as shares of the working set.
const SHARES: [f64; 7] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
/// Objects with fewer requests tell nothing of popularity.
const RANKED_REQUESTS_MIN: u32 = 4;

/// A distribution of sizes, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Sizes {
    /// Mean.
    pub mean: f64,
    /// 10th percentile.
    pub p10: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// A stretch of trace time, and what had been seen at its end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Window {
    /// Seconds since the first request, at its end.
    pub seconds: f64,
    /// Requests in it.
    pub requests: u64,
    /// Different objects so far.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a trace, or one of its tenants, is like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Description {
    /// Format that it was read in; empty for a tenant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// Whether it could be read to its end.
    pub complete: bool,
    /// Lines that were left out.
    pub bad_lines: u64,
    /// Requests.
    pub requests: u64,
    /// Of them reads.
    pub gets: u64,
    /// Of them stores of every kind.
    pub sets: u64,
    /// Of them deletes.
    pub deletes: u64,
    /// Requests by the name of their operation.
    pub operations: BTreeMap<String, u64>,
    /// Different keys.
    pub objects: u64,
    /// Bytes of keys and values of all objects.
    pub working_set_bytes: u64,
    /// Mean key size, over requests.
    pub key_size_mean: f64,
    /// Mean value size, over requests.
    pub value_size_mean: f64,
    /// Key sizes, over requests.
    pub key_size: Sizes,
    /// Value sizes, over requests.
    pub value_size: Sizes,
    /// The most common times to live: seconds (0 for ever), share of the stores and fills.
    pub ttls: Vec<(u32, f64)>,
    /// Share of the objects that are asked for once.
    pub one_hit_share: f64,
    /// Exponent of Zipf's law: the slope of requests by rank, both as logarithms.
    pub zipf_alpha: f64,
    /// Seconds from the first to the last request.
    pub seconds: f64,
    /// Share of the keys that objects, working set, popularity and curve come from.
    pub sample_rate: f64,
    /// Reads by reuse distance: bytes, up to which; how many.
    pub reuse_distances: Vec<(u64, f64)>,
    /// The miss-ratio curve of an LRU.
    pub miss_ratio_curve: Vec<Point>,
    /// Misses for each read in an LRU of a share of the working set: share, miss ratio.
    pub lru_miss_ratios: Vec<(f64, f64)>,
    /// The working set as it grows.
    pub over_time: Vec<Window>,
    /// Each tenant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, Description>,
}

/// Counts what passes.
pub(super) struct Measure {
    operations: [u64; 11],
    distances: ReuseDistances,
    key_sizes: Histogram<u64>,
    value_sizes: Histogram<u64>,
    key_bytes: u64,
    value_bytes: u64,
    ttls: BTreeMap<u32, u64>,
    first: Option<f64>,
    last: f64,
    windows: Vec<Window>,
    window_secs: f64,
    requests: u64,
}

fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are possible");
    histogram.auto(true);
    histogram
}

fn sizes(histogram: &Histogram<u64>, sum: u64) -> Sizes {
    let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
    Sizes {
        mean: sum as f64 / histogram.len().max(1) as f64,
        p10: at(0.1),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: histogram.max(),
    }
}

impl Measure {
    pub(super) fn new(objects_max: usize) -> Measure {
        Measure {
            operations: [0; 11],
            distances: ReuseDistances::new(objects_max),
            key_sizes: histogram(),
            value_sizes: histogram(),
            key_bytes: 0,
            value_bytes: 0,
            ttls: BTreeMap::new(),
            first: None,
            last: 0.0,
            windows: Vec::new(),
            window_secs: 1.0,
            requests: 0,
        }
    }

    pub(super) fn take(&mut self, id: KeyId, event: &Event) {
        self.requests += 1;
        self.operations[event.op as usize] += 1;
        let recorded = self.key_sizes.record(event.key_size.into());
        recorded.and_then(|()| self.value_sizes.record(event.value_size.into())).expect("they grow by themselves");
        self.key_bytes += u64::from(event.key_size);
        self.value_bytes += u64::from(event.value_size);
        let bytes = event.key_size.saturating_add(event.value_size);
        match event.op.kind() {
            Kind::Delete => self.distances.deleted(id),
            kind => {
                self.distances.used(id, bytes, kind == Kind::Get);
                let counted = self.ttls.len() < TTLS_MAX || self.ttls.contains_key(&event.ttl);
                if counted {
                    *self.ttls.entry(event.ttl).or_default() += 1;
                }
            }
        }
        self.follow_time(event.time);
    }

    fn follow_time(&mut self, time: f64) {
        let first = *self.first.get_or_insert(time);
        self.last = self.last.max(time);
        let mut window = ((time - first).max(0.0) / self.window_secs) as usize;
        while window >= WINDOWS_MAX {
            // half as many windows, each twice as long: what had been seen is that of the later one
            let pairs: Vec<Window> = self
                .windows
                .chunks(2)
                .map(|pair| Window { requests: pair.iter().map(|one| one.requests).sum(), ..pair[pair.len() - 1] })
                .collect();
            self.windows = pairs;
            self.window_secs *= 2.0;
            window /= 2;
        }
        if self.windows.len() <= window {
            self.close_window();
            self.windows.resize(window + 1, Window::default());
        }
        let at = window.min(self.windows.len() - 1);
        self.windows[at].requests += 1;
    }

    /// Notes what had been seen by now at the window that ends.
    fn close_window(&mut self) {
        let rate = self.distances.rate();
        let (objects, bytes) = self.distances.seen();
        if let Some(window) = self.windows.last_mut() {
            window.objects = (objects as f64 / rate) as u64;
            window.bytes = (bytes as f64 / rate) as u64;
        }
    }

    pub(super) fn describe(mut self) -> Description {
        self.close_window();
        let kind_sum = |wanted: Kind| {
            let all = crate::event::all_ops();
            all.filter(|op| op.kind() == wanted).map(|op| self.operations[op as usize]).sum::<u64>()
        };
        let rate = self.distances.rate();
        let scaled = |number: u64| (number as f64 / rate).round() as u64;
        let (objects, bytes) = self.distances.seen();
        let once = self.distances.objects().filter(|one| one.requests == 1).count();
        let mut ttls: Vec<(u32, u64)> = self.ttls.iter().map(|(ttl, count)| (*ttl, *count)).collect();
        let stores: u64 = ttls.iter().map(|(_, count)| count).sum();
        ttls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let (mut seen_objects, mut seen_bytes) = (0, 0);
        let mut windows = std::mem::take(&mut self.windows);
        for (number, window) in windows.iter_mut().enumerate() {
            // nothing came in a window: all is as it was
            window.objects = window.objects.max(seen_objects);
            window.bytes = window.bytes.max(seen_bytes);
            (seen_objects, seen_bytes) = (window.objects, window.bytes);
            window.seconds = (number + 1) as f64 * self.window_secs;
        }
        Description {
            complete: true,
            requests: self.requests,
            gets: kind_sum(Kind::Get),
            sets: kind_sum(Kind::Set),
            deletes: kind_sum(Kind::Delete),
            operations: crate::event::all_ops()
                .map(|op| (op.name().to_owned(), self.operations[op as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            objects: scaled(objects),
            working_set_bytes: scaled(bytes),
            key_size_mean: self.key_bytes as f64 / self.requests.max(1) as f64,
            value_size_mean: self.value_bytes as f64 / self.requests.max(1) as f64,
            key_size: sizes(&self.key_sizes, self.key_bytes),
            value_size: sizes(&self.value_sizes, self.value_bytes),
            ttls: ttls.iter().take(TTLS_TOLD).map(|(ttl, n)| (*ttl, *n as f64 / stores.max(1) as f64)).collect(),
            one_hit_share: once as f64 / objects.max(1) as f64,
            zipf_alpha: zipf_alpha(self.distances.objects().map(|one| one.requests)),
            seconds: self.last - self.first.unwrap_or(self.last),
            sample_rate: rate,
            reuse_distances: self.distances.histogram(),
            lru_miss_ratios: SHARES
                .iter()
                .map(|share| (*share, self.distances.miss_ratio((bytes as f64 / rate * share) as u64)))
                .collect(),
            miss_ratio_curve: self.distances.curve(),
            over_time: windows,
            ..Description::default()
        }
    }
}

/// The slope of requests by rank, both as logarithms, over ranks in equal proportions; 0 if there are too few.
fn zipf_alpha(requests: impl Iterator<Item = u32>) -> f64 {
    let mut counts: Vec<u32> = requests.filter(|count| *count >= RANKED_REQUESTS_MIN).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut points = Vec::new();
    let mut rank = 1.0f64;
    while (rank as usize) <= counts.len() {
        points.push((rank.floor().ln(), f64::from(counts[rank as usize - 1]).ln()));
        rank = (rank * 1.1).max(rank + 1.0);
    }
    if points.len() < 8 {
        return 0.0;
    }
    let n = points.len() as f64;
    let (sx, sy) = points.iter().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in &points {
        above += (x - sx / n) * (y - sy / n);
        below += (x - sx / n).powi(2);
    }
    -above / below
}
