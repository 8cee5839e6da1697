//! What all connections of a server share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use cache::{Cache, Totals};
use parking_lot::{Mutex, RwLock};
use protocol::Keys;

use crate::auth::Credentials;
use crate::config::Config;
use crate::detail::Details;
use crate::driver::Driver;
use crate::limits::LIMITS_FILLED;
use crate::options::REPLY_BYTES;
use crate::tls::Tls;
use crate::watch::Watchers;

/// Of so many seconds a clock that is ahead of the wall's leaves out one.
const CATCH_UP_SECS: i64 = 8;

/// What a connection is about, for stats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Doing {
    Listening,
    Waiting,
    Reading,
    Serving,
    Watching,
}

const DOINGS: [(Doing, &str); 5] = [
    (Doing::Listening, "conn_listening"),
    (Doing::Waiting, "conn_waiting"),
    (Doing::Reading, "conn_nread"),
    (Doing::Serving, "conn_parse_cmd"),
    (Doing::Watching, "conn_watch"),
];

/// A connection or listener as `stats conns` tells of it.
#[derive(Debug)]
pub struct Peer {
    /// Its descriptor's number.
    pub id: u64,
    /// Its own address (the listener's, for a listener): `tcp:127.0.0.1:11211`, `unix:/path`.
    pub address: String,
    /// The listener's that it came to; None for a listener.
    pub listener: Option<String>,
    doing: AtomicU8,
    last_command: AtomicU32,
}

impl Peer {
    /// A connection, or a listener if it came to none, as of this second.
    pub fn new(id: u64, address: String, listener: Option<String>, now: u32) -> Peer {
        let doing = if listener.is_some() { Doing::Waiting } else { Doing::Listening };
        Peer { id, address, listener, doing: AtomicU8::new(doing as u8), last_command: AtomicU32::new(now) }
    }

    pub(crate) fn note(&self, doing: Doing, now: Option<u32>) {
        self.doing.store(doing as u8, Ordering::Relaxed);
        if let Some(now) = now {
            self.last_command.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn doing(&self) -> &'static str {
        DOINGS[usize::from(self.doing.load(Ordering::Relaxed))].1
    }

    pub(crate) fn last_command(&self) -> u32 {
        self.last_command.load(Ordering::Relaxed)
    }

    /// tcp, unix or udp.
    pub(crate) fn transport(&self) -> &str {
        match self.address.split(':').next() {
            Some("unix") => "local",
            Some(transport) => transport,
            None => "tcp",
        }
    }
}

/// What is shared by all connections of a server.
pub struct Server {
    /// Its settings.
    pub config: Config,
    pub(crate) started: Instant,
    verbosity: AtomicU32,
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connections_rejected: AtomicU64,
    pub(crate) listen_disabled: AtomicU64,
    pub(crate) idle_kicks: AtomicU64,
    pub(crate) yields: AtomicU64,
    holds: AtomicU32,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) too_large: AtomicU64,
    /// Replies that -o read_buf_mem_limit had no room for.
    pub(crate) replies_refused: AtomicU64,
    pub(crate) no_memory: AtomicU64,
    pub(crate) meta_commands: AtomicU64,
    pub(crate) auth_commands: AtomicU64,
    pub(crate) auth_errors: AtomicU64,
    pub(crate) peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    pub(crate) watchers: Watchers,
    pub(crate) details: Details,
    credentials: Option<RwLock<Credentials>>,
    pub(crate) tls: Option<Tls>,
    pub(crate) tls_errors: AtomicU64,
    /// What the driver is called in stats.
    pub(crate) driver: &'static str,
    time: Time,
    /// Totals at the last `stats reset`, a tenant each.
    baseline: Mutex<Vec<Totals>>,
}

impl Server {
    /// How long a connection is not heard whose tenant has asked for too much: about as long as it takes for limits to be filled again. No two
    /// in a row are alike, so that those who are held back do not come back all at once.
    pub(crate) fn next_hold(&self) -> Duration {
        const GOLDEN: u32 = 0x9e37_79b9;
        let spread = self.holds.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN);
        LIMITS_FILLED.mul_f64(0.5 + f64::from(spread) / f64::from(u32::MAX))
    }

    /// Replies that may wait at once on a worker.
    pub(crate) fn replies_max(&self) -> usize {
        match self.config.options.reply_bytes {
            0 => usize::MAX,
            bytes => (bytes / self.config.threads / REPLY_BYTES).max(1),
        }
    }

    /// Whether a get of these keys would have more replies wait than may.
    pub(crate) fn limits_replies(&self, keys: Keys<'_>) -> bool {
        self.config.options.reply_bytes > 0 && keys.count() > self.replies_max()
    }

    /// A server that has just been started. Reads the files of users and certificates that its settings name.
    pub fn new(config: Config, driver: Driver) -> Result<Server> {
        let credentials = config.auth_file.as_deref().map(Credentials::read).transpose()?.map(RwLock::new);
        let tls = config.tls.then(|| Tls::load(&config.options)).transpose()?;
        Ok(Server {
            verbosity: AtomicU32::new(u32::from(config.verbosity)),
            details: Details::new(config.detail, config.prefix_end),
            config,
            started: Instant::now(),
            connections: AtomicUsize::new(0),
            connections_total: AtomicU64::new(0),
            connections_rejected: AtomicU64::new(0),
            listen_disabled: AtomicU64::new(0),
            idle_kicks: AtomicU64::new(0),
            yields: AtomicU64::new(0),
            holds: AtomicU32::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            replies_refused: AtomicU64::new(0),
            no_memory: AtomicU64::new(0),
            meta_commands: AtomicU64::new(0),
            auth_commands: AtomicU64::new(0),
            auth_errors: AtomicU64::new(0),
            peers: Mutex::default(),
            watchers: Watchers::default(),
            credentials,
            tls,
            tls_errors: AtomicU64::new(0),
            driver: driver.name(),
            time: Time::from(wall_secs(), wall_secs()),
            baseline: Mutex::default(),
        })
    }

    pub(crate) fn set_verbosity(&self, level: u32) {
        self.verbosity.store(level, Ordering::Relaxed);
    }

    pub(crate) fn verbosity(&self) -> u32 {
        self.verbosity.load(Ordering::Relaxed)
    }

    /// A tenant's totals since the last reset.
    pub(crate) fn totals(&self, cache: &Cache, tenant: u16) -> Totals {
        let totals = cache.totals(tenant);
        self.baseline.lock().get(usize::from(tenant)).map_or(totals, |before| totals.since(before))
    }

    /// All tenants' totals since the last reset.
    pub(crate) fn sum(&self, cache: &Cache) -> Totals {
        let mut sum = Totals::default();
        cache.registry().all().for_each(|tenant| sum.add(&self.totals(cache, tenant.id)));
        sum
    }

    pub(crate) fn reset(&self, cache: &Cache) {
        let now = cache.registry().all().map(|tenant| cache.totals(tenant.id)).collect();
        *self.baseline.lock() = now;
        for counter in [
            &self.connections_total,
            &self.connections_rejected,
            &self.too_large,
            &self.no_memory,
            &self.replies_refused,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        for counter in [&self.bytes_read, &self.bytes_written, &self.idle_kicks, &self.yields, &self.meta_commands] {
            counter.store(0, Ordering::Relaxed);
        }
        self.details.clear();
    }

    /// Whether clients have to say who they are.
    pub(crate) fn wants_auth(&self) -> bool {
        self.credentials.is_some()
    }

    pub(crate) fn accepts(&self, user: &[u8], password: &[u8]) -> bool {
        self.auth_commands.fetch_add(1, Ordering::Relaxed);
        let accepted = self.credentials.as_ref().is_some_and(|known| known.read().accept(user, password));
        if !accepted {
            self.auth_errors.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    /// Counts a login that says nothing that could be checked. Always false: it is refused.
    pub(crate) fn refuse_login(&self) -> bool {
        self.auth_commands.fetch_add(1, Ordering::Relaxed);
        self.auth_errors.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Reads the file of users again; what is there stays if the file is bad.
    pub(crate) fn reload_credentials(&self) -> Result<()> {
        if let (Some(known), Some(path)) = (&self.credentials, &self.config.auth_file) {
            *known.write() = Credentials::read(path)?;
        }
        Ok(())
    }

    /// Lets its clock go on from this second, where the wall's clock shows that.
    pub(crate) fn go_on_from(&mut self, second: u32, wall: u32) {
        self.time = Time::from(second, wall);
    }

    /// Seconds since the epoch, as the cache is to see them.
    pub(crate) fn now(&self) -> u32 {
        self.time.now()
    }

    /// Where time is moved for tests.
    #[cfg(feature = "debugtime")]
    pub(crate) fn time(&self) -> &Time {
        &self.time
    }
}

/// The clock: the wall's time at the start, and what has passed since. So nothing expires early or late when the wall's clock is set. Where it began
/// ahead of the wall's, as after a crash, it goes slower until that has caught up.
pub(crate) struct Time {
    begun: Instant,
    /// The second at which it began; tests move it.
    base: AtomicI64,
    /// Seconds that this was ahead of the wall's clock.
    ahead: i64,
    /// The second at which it stands still; 0 while it goes.
    stopped: AtomicI64,
}

impl Time {
    fn from(second: u32, wall: u32) -> Time {
        let ahead = second.saturating_sub(wall).into();
        Time { begun: Instant::now(), base: AtomicI64::new(second.into()), ahead, stopped: AtomicI64::new(0) }
    }

    fn now(&self) -> u32 {
        let stopped = self.stopped.load(Ordering::Relaxed);
        let passed = if stopped == 0 { self.begun.elapsed().as_secs() as i64 } else { stopped };
        (self.base.load(Ordering::Relaxed) + shown(passed, self.ahead)) as u32
    }

    #[cfg(feature = "debugtime")]
    pub(crate) fn move_by(&self, secs: i64) {
        self.base.fetch_add(secs, Ordering::Relaxed);
    }

    #[cfg(feature = "debugtime")]
    pub(crate) fn stop(&self, stop: bool) {
        let passed = self.begun.elapsed().as_secs().max(1) as i64;
        self.stopped.store(if stop { passed } else { 0 }, Ordering::Relaxed);
    }
}

/// What a clock that was so many seconds ahead shows of those that have passed.
fn shown(passed: i64, ahead: i64) -> i64 {
    passed - ahead.min(passed / CATCH_UP_SECS)
}

/// The wall clock's second.
pub(crate) fn wall_secs() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_is_caught_up_with_and_never_goes_back() {
        assert!((0..1000).all(|passed| shown(passed + 1, 5) >= shown(passed, 5)));
        assert_eq!((shown(7, 5), shown(100, 5), shown(100, 0)), (7, 95, 100));
    }
}
