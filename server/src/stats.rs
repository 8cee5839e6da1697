//! What the server says of itself: a row a key, with its meaning, in the order of memcached's.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use cache::{Cache, Count, Totals};
use nix::sys::resource::{UsageWho, getrusage};
use parking_lot::Mutex;
use protocol::text::{line, stat};

use crate::VERSION;
use crate::config::Config;

/// What is shared by all connections of a server.
pub struct Server {
    /// Its settings.
    pub config: Config,
    started: Instant,
    verbosity: AtomicU32,
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connections_rejected: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    /// Totals at the last `stats reset`, a tenant each.
    baseline: Mutex<Vec<Totals>>,
}

impl Server {
    /// A server that has just been started.
    pub fn new(config: Config) -> Server {
        Server {
            verbosity: AtomicU32::new(u32::from(config.verbosity)),
            config,
            started: Instant::now(),
            connections: AtomicUsize::new(0),
            connections_total: AtomicU64::new(0),
            connections_rejected: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            baseline: Mutex::default(),
        }
    }

    pub(crate) fn set_verbosity(&self, level: u32) {
        self.verbosity.store(level, Ordering::Relaxed);
    }

    fn totals(&self, cache: &Cache, tenant: u16) -> Totals {
        let totals = cache.totals(tenant);
        self.baseline.lock().get(usize::from(tenant)).map_or(totals, |before| totals.since(before))
    }
}

/// The keys of general stats that are sums over tenants, with what they mean.
pub const COUNT_KEYS: &[(&str, Count, &str)] = &[
    ("cmd_set", Count::Sets, "stores asked for, of every kind"),
    ("cmd_flush", Count::Flushes, "flush_all commands"),
    ("cmd_touch", Count::Touches, "touch and gat keys"),
    ("get_misses", Count::Misses, "keys found in neither tier"),
    ("get_expired", Count::Expired, "misses that found an expired object"),
    ("get_flushed", Count::Flushed, "misses that found a flushed object"),
    ("delete_misses", Count::DeleteMisses, "deletes of unknown keys"),
    ("delete_hits", Count::DeleteHits, "deletes that found their key"),
    ("incr_misses", Count::IncrMisses, "increments of unknown keys"),
    ("incr_hits", Count::IncrHits, "increments that found their key"),
    ("decr_misses", Count::DecrMisses, "decrements of unknown keys"),
    ("decr_hits", Count::DecrHits, "decrements that found their key"),
    ("cas_misses", Count::CasMisses, "compare-and-swaps of unknown keys"),
    ("cas_hits", Count::CasHits, "compare-and-swaps that stored"),
    ("cas_badval", Count::CasBadval, "compare-and-swaps with an outdated unique"),
    ("touch_hits", Count::TouchHits, "touches that found their key"),
    ("touch_misses", Count::TouchMisses, "touches of unknown keys"),
];

/// Answers `stats ARGUMENTS`.
pub(crate) fn spell(server: &Server, cache: &Cache, arguments: &[u8], out: &mut Vec<u8>) {
    match arguments {
        b"" => general(server, cache, out),
        b"settings" => settings(server, cache, out),
        b"items" => items(server, cache, out),
        b"tenants" => tenants(server, cache, out),
        b"flash" => flash(server, cache, out),
        b"reset" => {
            let now = cache.registry().tenants().iter().map(|tenant| cache.totals(tenant.id)).collect();
            *server.baseline.lock() = now;
            line(out, "RESET");
            return;
        }
        _ => {
            line(out, "ERROR");
            return;
        }
    }
    line(out, "END");
}

fn sum(server: &Server, cache: &Cache) -> Totals {
    let mut sum = Totals::default();
    cache.registry().tenants().iter().for_each(|tenant| sum.add(&server.totals(cache, tenant.id)));
    sum
}

fn general(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let totals = sum(server, cache);
    let figures = cache.figures();
    let (user, system) = cpu_seconds();
    stat(out, "pid", std::process::id());
    stat(out, "uptime", server.started.elapsed().as_secs());
    stat(out, "time", cache.now());
    stat(out, "version", VERSION);
    stat(out, "pointer_size", usize::BITS);
    stat(out, "rusage_user", format_args!("{user:.6}"));
    stat(out, "rusage_system", format_args!("{system:.6}"));
    stat(out, "max_connections", server.config.connections_max);
    stat(out, "curr_connections", server.connections.load(Ordering::Relaxed));
    stat(out, "total_connections", server.connections_total.load(Ordering::Relaxed));
    stat(out, "rejected_connections", server.connections_rejected.load(Ordering::Relaxed));
    stat(out, "cmd_get", totals.get(Count::Gets));
    for (key, count, _) in COUNT_KEYS.iter().take(3) {
        stat(out, key, totals.get(*count));
    }
    stat(out, "get_hits", totals.hits());
    for (key, count, _) in &COUNT_KEYS[3..] {
        stat(out, key, totals.get(*count));
    }
    stat(out, "bytes_read", server.bytes_read.load(Ordering::Relaxed));
    stat(out, "bytes_written", server.bytes_written.load(Ordering::Relaxed));
    stat(out, "limit_maxbytes", server.config.memory_bytes);
    stat(out, "accepting_conns", 1);
    stat(out, "threads", server.config.threads);
    stat(out, "bytes", figures.bytes);
    stat(out, "curr_items", figures.objects + figures.flash.map_or(0, |flash| flash.live));
    stat(out, "total_items", totals.get(Count::Stored));
    stat(out, "evictions", totals.get(Count::Evictions));
    stat(out, "reclaimed", totals.get(Count::Reclaimed));
    stat(out, "get_dram_hits", totals.get(Count::DramHits));
    stat(out, "get_flash_hits", totals.get(Count::FlashHits));
    stat(out, "app_bytes_written", totals.get(Count::StoredBytes));
}

/// CPU seconds of the process: user, system.
fn cpu_seconds() -> (f64, f64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return (0.0, 0.0) };
    let secs = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    (secs(usage.user_time()), secs(usage.system_time()))
}

fn settings(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let config = &server.config;
    stat(out, "maxbytes", config.memory_bytes);
    stat(out, "maxconns", config.connections_max);
    stat(out, "tcpport", config.port);
    stat(out, "udpport", 0);
    stat(out, "inter", &config.listen);
    stat(out, "verbosity", server.verbosity.load(Ordering::Relaxed));
    stat(out, "evictions", if config.evict { "on" } else { "off" });
    stat(out, "num_threads", config.threads);
    stat(out, "item_size_max", config.item_bytes_max);
    stat(out, "cas_enabled", "yes");
    stat(out, "flush_enabled", "yes");
    stat(out, "io_driver", "tokio");
    stat(out, "tenants", cache.registry().tenants().len());
    stat(out, "flash_path", config.flash.as_ref().map_or("none".to_owned(), |flash| flash.path.display().to_string()));
    stat(out, "flash_bytes", cache.settings().flash.map_or(0, |flash| flash.bytes));
    stat(out, "admission_threshold", cache.settings().threshold);
}

/// One class, since the log has none: what monitoring reads of it is still true of all objects in DRAM.
fn items(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let totals = sum(server, cache);
    let figures = cache.figures();
    stat(out, "items:1:number", figures.objects);
    stat(out, "items:1:mem_requested", figures.bytes);
    stat(out, "items:1:evicted", totals.get(Count::Evictions));
    stat(out, "items:1:reclaimed", totals.get(Count::Reclaimed));
    stat(out, "items:1:expired_unfetched", 0);
    stat(out, "items:1:outofmemory", 0);
}

fn tenants(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    for tenant in cache.registry().tenants() {
        let totals = server.totals(cache, tenant.id);
        let balance = tenant.account.balance();
        let (model, samples, trained) = cache.model(tenant.id);
        let name = &tenant.name;
        let mut row = |key: &str, value: &dyn std::fmt::Display| stat(out, &format!("{name}:{key}"), value);
        row("rank", &tenant.rank.name());
        row("bytes", &balance.in_use);
        row("reserved", &balance.reserved);
        row("target", &balance.target);
        row("need", &format_args!("{:.3}", balance.need()));
        for (count, key) in cache::COUNTS {
            row(key, &totals.get(*count));
        }
        row("get_hits", &totals.hits());
        row("model_samples", &samples);
        row("model_trained", &trained);
        row("model_accuracy", &format_args!("{:.3}", model.map_or(0.0, |model| model.accuracy)));
    }
}

fn flash(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let figures = cache.figures();
    let Some(flash) = figures.flash else {
        stat(out, "enabled", 0);
        return;
    };
    let totals = sum(server, cache);
    let ledger = flash.ledger;
    stat(out, "enabled", u8::from(flash.enabled));
    stat(out, "objects", flash.live);
    stat(out, "records", flash.records);
    stat(out, "segments", flash.segments);
    stat(out, "segments_free", flash.segments_free);
    stat(out, "segment_bytes", flash.segment_bytes);
    stat(out, "index_entries", flash.index_entries);
    stat(out, "index_slots", flash.index_slots);
    stat(out, "memory_bytes", flash.memory_bytes);
    stat(out, "app_bytes_written", totals.get(Count::StoredBytes));
    stat(out, "flash_bytes_written", ledger.written);
    stat(out, "record_bytes_written", ledger.record_bytes);
    stat(out, "rescue_bytes_written", ledger.rescue);
    stat(out, "fill_bytes_written", ledger.fill_bytes);
    stat(out, "segments_written", ledger.segments_written);
    stat(out, "segments_recycled", ledger.segments_recycled);
    stat(out, "index_evicted", ledger.evicted);
    stat(out, "write_errors", ledger.write_errors);
    stat(out, "read_errors", ledger.read_errors);
    stat(out, "horizon_ticks", figures.horizon_ticks);
}
