//! What a tenant's clients may ask for. Limits are buckets that time fills and requests empty; none is touched where nothing is limited.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Limits of a tenant; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Requests a second, keys of a multiget counted each.
    pub requests: u32,
    /// Bytes a second, of requests and replies.
    pub bandwidth: u64,
    /// Connections at once, of a tenant with a port or user of its own.
    pub connections: u32,
    /// Largest object: key and value.
    pub item_bytes: u32,
}

/// Seconds' worth that may be asked for at once after a rest.
const BURST_MILLIS: i64 = 1_000;

/// Counts a tenant's requests against its limits.
#[derive(Default)]
pub struct Meter {
    /// Whether rates are limited at all.
    limited: AtomicBool,
    /// The limits: requests and bytes a second, connections, bytes of an object.
    requests_limit: AtomicU32,
    bandwidth: AtomicU64,
    connections_limit: AtomicU32,
    item_bytes: AtomicU32,
    /// Thousandths of requests, and bytes, that may be asked for now.
    requests: AtomicI64,
    bytes: AtomicI64,
    connections: AtomicU32,
    refused: AtomicU64,
    waits: AtomicU64,
}

impl Meter {
    pub(crate) fn limit(&self, limits: Limits) {
        self.item_bytes.store(limits.item_bytes, Ordering::Relaxed);
        self.connections_limit.store(limits.connections, Ordering::Relaxed);
        if self.requests_limit.swap(limits.requests, Ordering::Relaxed) != limits.requests {
            self.requests.store(i64::from(limits.requests) * BURST_MILLIS, Ordering::Relaxed);
        }
        if self.bandwidth.swap(limits.bandwidth, Ordering::Relaxed) != limits.bandwidth {
            self.bytes.store((limits.bandwidth as i64).saturating_mul(BURST_MILLIS) / 1000, Ordering::Relaxed);
        }
        self.limited.store(limits.requests > 0 || limits.bandwidth > 0, Ordering::Relaxed);
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits {
            requests: self.requests_limit.load(Ordering::Relaxed),
            bandwidth: self.bandwidth.load(Ordering::Relaxed),
            connections: self.connections_limit.load(Ordering::Relaxed),
            item_bytes: self.item_bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether requests and bytes are counted.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Takes so many requests, if they may be served. False: they are refused, and nothing is taken.
    pub fn ask(&self, requests: u32) -> bool {
        let limit = self.requests_limit.load(Ordering::Relaxed);
        if limit > 0 {
            let millis = i64::from(requests) * 1000;
            // who asks for more at once than the limit gets it from a full bucket, and waits for it afterwards
            let enough = millis.min(i64::from(limit) * BURST_MILLIS);
            if self.requests.fetch_sub(millis, Ordering::Relaxed) < enough {
                self.requests.fetch_add(millis, Ordering::Relaxed);
                self.refused.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// Whether bytes may come or go. False: whoever brings or wants them waits.
    pub fn may_move(&self) -> bool {
        let may =
            !self.is_limited() || self.bytes.load(Ordering::Relaxed) > 0 || self.bandwidth.load(Ordering::Relaxed) == 0;
        if !may {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// Bytes came or go.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// Fills the buckets for the time that has passed.
    pub fn pass(&self, millis: u32) {
        if !self.is_limited() {
            return;
        }
        let limits = self.limits();
        let fill = |bucket: &AtomicI64, more: i64, most: i64| {
            let filled = |held: i64| Some(held.saturating_add(more).min(most));
            let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled); // it never says no
        };
        let requests = i64::from(limits.requests);
        fill(&self.requests, requests * i64::from(millis), requests * BURST_MILLIS);
        let bytes = limits.bandwidth as i64;
        fill(&self.bytes, bytes.saturating_mul(millis.into()) / 1000, bytes.saturating_mul(BURST_MILLIS) / 1000);
    }

    /// Requests and connections that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Times that somebody had to wait for bandwidth.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether an object of so many bytes is too large for this tenant.
    #[inline]
    pub fn is_too_large(&self, bytes: usize) -> bool {
        let most = self.item_bytes.load(Ordering::Relaxed);
        most > 0 && bytes > most as usize
    }

    /// A connection comes. False: there are as many as may be.
    pub fn connect(&self) -> bool {
        let most = self.connections_limit.load(Ordering::Relaxed);
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if most > 0 && before >= most {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// A connection that came has gone.
    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_and_a_rest_is_worth_a_second() {
        let meter = Meter::default();
        assert!(!meter.is_limited());
        meter.limit(Limits { requests: 100, ..Limits::default() });
        let served = |count: u32| (0..count).filter(|_| meter.ask(1)).count();
        assert_eq!(served(500), 100, "a second's worth at once");
        meter.pass(250);
        assert_eq!(served(500), 25);
        meter.pass(10_000);
        assert!(meter.ask(1_000), "a multiget beyond the limit is served");
        meter.pass(5_000);
        assert!(!meter.ask(1), "and paid for");
        meter.pass(5_000);
        assert_eq!((meter.ask(1), meter.refused()), (true, 400 + 475 + 1));
    }

    #[test]
    fn bytes_are_paid_for_afterwards() {
        let meter = Meter::default();
        meter.limit(Limits { bandwidth: 1_000, ..Limits::default() });
        assert!(meter.may_move());
        meter.moved(5_000);
        assert!(!meter.may_move());
        meter.pass(3_999);
        assert!(!meter.may_move() && meter.ask(1_000), "requests are not limited");
        meter.pass(2);
        assert_eq!((meter.may_move(), meter.waits(), meter.refused()), (true, 2, 0));
    }

    #[test]
    fn connections_and_sizes() {
        let meter = Meter::default();
        assert!(meter.connect() && !meter.is_too_large(1 << 30));
        meter.limit(Limits { connections: 2, item_bytes: 100, ..Limits::default() });
        assert!(meter.connect() && !meter.connect() && !meter.is_limited());
        meter.disconnect();
        assert!(meter.connect() && meter.is_too_large(101) && !meter.is_too_large(100));
    }
}
