//! What the server says of itself: memcached's keys in memcached's order, and tables of our own.
//!
//! Monitoring reads memcached's keys by name, so all of them are there; those of machinery that a log does not have (slab
//! moves, LRU juggling) stay 0. docs/stats.md explains each.

use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;

use cache::{Cache, Count};
use nix::sys::resource::{UsageWho, getrusage};
use protocol::text::{line, stat};

use crate::VERSION;
use crate::config::Config;
use crate::config::Dialect;
use crate::shared::Server;
use crate::wear;

/// The keys of general stats that are sums over tenants, with what they mean.
pub const COUNT_KEYS: &[(&str, Count, &str)] = &[
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

/// Keys of memcached's general stats that belong to machinery which is not here: always 0.
pub(crate) const ABSENT_KEYS: &[&str] = &[
    "slab_reassign_rescues",
    "slab_reassign_chunk_rescues",
    "slab_reassign_inline_reclaim",
    "slab_reassign_busy_items",
    "slab_reassign_busy_deletes",
    "slab_reassign_busy_nomem",
];

/// Settings of memcached's machinery that is not here, at its defaults: monitoring reads them by name.
const FIXED_SETTINGS: &[(&str, &str)] = &[
    ("hot_lru_pct", "0"),
    ("warm_lru_pct", "0"),
    ("hot_max_factor", "0.00"),
    ("warm_max_factor", "0.00"),
    ("temporary_ttl", "0"),
    ("lru_crawler_sleep", "0"),
    ("lru_crawler_tocrawl", "0"),
    ("slab_automove_ratio", "0.00"),
    ("slab_automove_window", "0"),
    ("slab_automove_freeratio", "0.000"),
    ("slab_chunk_max", "0"),
    ("worker_logbuf_size", "0"),
];
const FIXED_FLASH_SETTINGS: &[(&str, &str)] = &[
    ("ext_item_size", "0"),
    ("ext_item_age", "0"),
    ("ext_low_ttl", "0"),
    ("ext_recache_rate", "0"),
    ("ext_wbuf_size", "0"),
    ("ext_compact_under", "0"),
    ("ext_drop_under", "0"),
    ("ext_max_sleep", "0"),
    ("ext_max_frag", "0.00"),
    ("ext_drop_unread", "no"),
];

/// Answers `stats ARGUMENTS`, on a connection of this tenant's.
pub(crate) fn spell(server: &Server, cache: &Cache, own: Option<u16>, arguments: &[u8], out: &mut Vec<u8>) {
    let mut words = arguments.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (None, ..) => general(server, cache, out),
        (Some(b"settings"), ..) => settings(server, cache, out),
        (Some(b"items"), ..) => items(server, cache, out),
        (Some(b"slabs"), ..) => slabs(server, cache, out),
        (Some(b"sizes"), ..) => sizes(cache, out),
        (Some(b"conns"), ..) => conns(server, cache, out),
        (Some(b"tenants"), ..) => tenants(server, cache, out),
        (Some(b"flash"), ..) => flash(server, cache, out),
        (Some(b"predictor"), ..) => predictor(cache, out),
        (Some(b"cleaner"), ..) => cleaner(cache, out),
        (Some(b"extstore"), ..) => extstore(server, cache, out),
        (Some(b"reset"), ..) => {
            server.reset(cache);
            line(out, "RESET");
            return;
        }
        (Some(b"detail"), what, _) => {
            detail(server, what, out);
            return;
        }
        (Some(b"cachedump"), class, limit) => {
            cachedump(server, cache, own, (class, limit), out);
            return;
        }
        _ => {
            line(out, "ERROR");
            return;
        }
    }
    line(out, "END");
}

/// The rows that `stats ARGUMENTS` tells anybody: key and value.
pub(crate) fn rows(server: &Server, cache: &Cache, arguments: &[u8]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    spell(server, cache, None, arguments, &mut out);
    let text = String::from_utf8_lossy(&out);
    let pairs = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn general(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let totals = server.sum(cache);
    let figures = cache.figures();
    let (user, system) = cpu_seconds();
    let connections = server.connections.load(Relaxed);
    stat(out, "pid", std::process::id());
    stat(out, "uptime", server.started.elapsed().as_secs());
    stat(out, "time", cache.now());
    stat(out, "version", VERSION);
    stat(out, "libevent", server.driver);
    stat(out, "pointer_size", usize::BITS);
    stat(out, "rusage_user", format_args!("{user:.6}"));
    stat(out, "rusage_system", format_args!("{system:.6}"));
    stat(out, "max_connections", server.config.connections_max);
    stat(out, "curr_connections", connections);
    stat(out, "total_connections", server.connections_total.load(Relaxed));
    stat(out, "rejected_connections", server.connections_rejected.load(Relaxed));
    stat(out, "connection_structures", connections);
    stat(out, "response_obj_oom", server.replies_refused.load(Relaxed));
    stat(out, "response_obj_count", connections);
    stat(out, "response_obj_bytes", cache.received_bytes());
    stat(out, "read_buf_count", connections);
    stat(out, "read_buf_bytes", cache.received_bytes());
    stat(out, "read_buf_bytes_free", 0);
    stat(out, "read_buf_oom", 0);
    stat(out, "reserved_fds", 0);
    stat(out, "cmd_get", totals.get(Count::Gets));
    stat(out, "cmd_set", totals.get(Count::Sets));
    stat(out, "cmd_flush", totals.get(Count::Flushes));
    stat(out, "cmd_touch", totals.get(Count::Touches));
    stat(out, "cmd_meta", server.meta_commands.load(Relaxed));
    stat(out, "get_hits", totals.hits());
    for (key, count, _) in COUNT_KEYS {
        stat(out, key, totals.get(*count));
    }
    if server.config.options.idle_secs > 0 {
        stat(out, "idle_kicks", server.idle_kicks.load(Relaxed));
    }
    stat(out, "store_too_large", server.too_large.load(Relaxed));
    stat(out, "store_no_memory", server.no_memory.load(Relaxed));
    stat(out, "auth_cmds", server.auth_commands.load(Relaxed));
    stat(out, "auth_errors", server.auth_errors.load(Relaxed));
    stat(out, "bytes_read", server.bytes_read.load(Relaxed));
    stat(out, "bytes_written", server.bytes_written.load(Relaxed));
    stat(out, "limit_maxbytes", cache.memory_bytes());
    stat(out, "accepting_conns", u8::from(connections < server.config.connections_max));
    stat(out, "listen_disabled_num", server.listen_disabled.load(Relaxed));
    stat(out, "time_in_listen_disabled_us", 0);
    stat(out, "threads", server.config.threads);
    stat(out, "conn_yields", server.yields.load(Relaxed));
    stat(out, "hash_power_level", (figures.index_bytes / 8).max(1).ilog2());
    stat(out, "hash_bytes", figures.index_bytes);
    stat(out, "hash_is_expanding", u8::from(figures.index_grows));
    ABSENT_KEYS.iter().for_each(|key| stat(out, key, 0));
    stat(out, "slab_reassign_last_busy_status", "none");
    stat(out, "slab_reassign_running", 0);
    stat(out, "slabs_moved", 0);
    let options = &server.config.options;
    if options.tells_crawler {
        stat(out, "lru_crawler_running", 0);
        stat(out, "lru_crawler_starts", 0);
    }
    if options.tells_maintainer {
        stat(out, "lru_maintainer_juggles", 0);
    }
    stat(out, "malloc_fails", 0);
    stat(out, "log_worker_dropped", 0);
    stat(out, "log_worker_written", server.watchers.lines());
    stat(out, "log_watcher_skipped", server.watchers.skipped.load(Relaxed));
    stat(out, "log_watcher_sent", server.watchers.sent.load(Relaxed));
    stat(out, "log_watchers", server.watchers.count());
    stat(out, "unexpected_napi_ids", 0);
    stat(out, "round_robin_fallback", 0);
    if let Some(tls) = &server.tls {
        stat(out, "ssl_handshake_errors", server.tls_errors.load(Relaxed));
        stat(out, "ssl_proto_errors", 0);
        stat(out, "time_since_server_cert_refresh", tls.secs_since_refresh());
    }
    stat(out, "bytes", figures.bytes);
    stat(out, "curr_items", figures.objects + figures.flash.map_or(0, |flash| flash.live));
    stat(out, "total_items", totals.get(Count::Stored));
    stat(out, "slab_global_page_pool", figures.segments_free);
    stat(out, "expired_unfetched", totals.get(Count::ExpiredUnread));
    stat(out, "evicted_unfetched", totals.get(Count::EvictedUnread));
    if options.tells_maintainer {
        stat(out, "evicted_active", 0);
    }
    stat(out, "evictions", totals.get(Count::Evictions));
    stat(out, "reclaimed", totals.get(Count::Reclaimed));
    stat(out, "crawler_reclaimed", totals.get(Count::Reclaimed));
    stat(out, "crawler_items_checked", 0);
    stat(out, "lrutail_reflocked", 0);
    if options.tells_maintainer {
        stat(out, "moves_to_cold", totals.get(Count::Demoted));
        stat(out, "moves_to_warm", totals.get(Count::Rescued));
        stat(out, "moves_within_lru", 0);
        stat(out, "direct_reclaims", 0);
        stat(out, "lru_bumps_dropped", 0);
    }
    extstore(server, cache, out);
}

/// CPU seconds of the process: user, system.
fn cpu_seconds() -> (f64, f64) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return (0.0, 0.0) };
    let secs = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    (secs(usage.user_time()), secs(usage.system_time()))
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn settings(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let config = &server.config;
    let options = &config.options;
    let inter: Vec<&str> = config.listen.iter().map(|at| at.host.as_str()).collect();
    stat(out, "maxbytes", cache.memory_bytes());
    stat(out, "maxconns", config.connections_max);
    stat(out, "tcpport", if config.unix_socket.is_some() { 0 } else { config.port.unwrap_or(0) });
    stat(out, "udpport", config.udp_port.unwrap_or(0));
    stat(out, "inter", inter.join(","));
    stat(out, "verbosity", server.verbosity());
    stat(out, "oldest", 0);
    stat(out, "evictions", if config.evict { "on" } else { "off" });
    let socket = config.unix_socket.as_ref();
    stat(out, "domain_socket", socket.map_or("NULL".to_owned(), |(path, _)| path.display().to_string()));
    stat(out, "umask", format_args!("{:o}", socket.map_or(0o700, |(_, mode)| *mode)));
    stat(out, "shutdown_command", yes(config.shutdown));
    stat(out, "growth_factor", "1.25");
    stat(out, "chunk_size", 48);
    stat(out, "num_threads", config.threads);
    stat(out, "num_threads_per_udp", config.threads);
    stat(out, "stat_key_prefix", char::from(config.prefix_end));
    stat(out, "detail_enabled", yes(server.details.is_on()));
    stat(out, "reqs_per_event", config.requests_a_turn);
    stat(out, "cas_enabled", yes(config.cas));
    stat(out, "tcp_backlog", config.backlog);
    let protocol = match config.dialect {
        Dialect::Auto => "auto-negotiate",
        Dialect::Ascii => "ascii",
        Dialect::Binary => "binary",
    };
    stat(out, "binding_protocol", protocol);
    stat(out, "auth_enabled_sasl", yes(config.sasl));
    stat(out, "auth_enabled_ascii", yes(config.auth_file.is_some()));
    stat(out, "item_size_max", config.item_bytes_max);
    stat(out, "maxconns_fast", yes(options.maxconns_fast));
    stat(out, "hashpower_init", 0);
    stat(out, "slab_reassign", "no");
    stat(out, "slab_automove", 0);
    stat(out, "lru_crawler", "yes");
    stat(out, "tail_repair_time", 0);
    stat(out, "flush_enabled", yes(config.flush));
    stat(out, "dump_enabled", yes(config.dump));
    stat(out, "hash_algorithm", "xxh3");
    stat(out, "lru_maintainer_thread", "no");
    stat(out, "lru_segmented", "no");
    stat(out, "temp_lru", "no");
    stat(out, "idle_timeout", options.idle_secs);
    stat(out, "watcher_logbuf_size", options.watcher_bytes);
    stat(out, "track_sizes", "yes");
    stat(out, "inline_ascii_response", "no");
    stat(out, "ssl_enabled", yes(config.tls));
    stat(out, "ssl_chain_cert", options.tls_chain.as_deref().unwrap_or("NULL"));
    stat(out, "ssl_key", options.tls_key.as_deref().unwrap_or("NULL"));
    stat(out, "ssl_verify_mode", options.tls_verify);
    stat(out, "ssl_keyformat", 1);
    stat(out, "ssl_ciphers", "NULL");
    stat(out, "ssl_wbuf_size", options.tls_buffer_bytes);
    stat(out, "ssl_session_cache", "no");
    stat(out, "ssl_kernel_tls", "no");
    stat(out, "ssl_ca_cert", options.tls_ca.as_deref().unwrap_or("NULL"));
    let version = if options.tls_min_version == 3 { "tlsv1.3" } else { "tlsv1.2" };
    stat(out, "ssl_min_version", version);
    for (key, value) in FIXED_SETTINGS {
        stat(out, key, value);
    }
    if !config.flash.is_empty() {
        for (key, value) in FIXED_FLASH_SETTINGS {
            stat(out, key, value);
        }
    }
    stat(out, "num_napi_ids", 0);
    let memory_file = config.memory_file.as_ref();
    stat(out, "memory_file", memory_file.map_or("(null)".to_owned(), |path| path.display().to_string()));
    stat(out, "read_buf_mem_limit", options.reply_bytes);
    stat(out, "client_flags_size", 4);
    stat(out, "io_driver", server.driver);
    stat(out, "tenants", cache.registry().tenants().count());
    stat(out, "arbiter", cache.registry().arbiter().name());
    stat(out, "flash_path", flash_paths(config));
    stat(out, "flash_bytes", cache.settings().flash.map_or(0, |flash| flash.bytes));
    stat(out, "admission_threshold", threshold(cache));
}

/// One class, since the log has none: what monitoring reads of it is still true of all objects in DRAM.
fn items(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let totals = server.sum(cache);
    let figures = cache.figures();
    if figures.objects == 0 {
        return;
    }
    let mut row = |key: &str, value: u64| stat(out, format_args!("items:1:{key}"), value);
    row("number", figures.objects as u64);
    row("number_hot", 0);
    row("number_warm", 0);
    row("number_cold", figures.objects as u64);
    row("age_hot", 0);
    row("age_warm", 0);
    row("age", cache.oldest_secs());
    row("mem_requested", figures.bytes);
    row("evicted", totals.get(Count::Evictions));
    for key in ["evicted_nonzero", "evicted_time"] {
        row(key, 0);
    }
    row("outofmemory", server.no_memory.load(Relaxed));
    row("tailrepairs", 0);
    row("reclaimed", totals.get(Count::Reclaimed));
    row("expired_unfetched", totals.get(Count::ExpiredUnread));
    row("evicted_unfetched", totals.get(Count::EvictedUnread));
    row("evicted_active", 0);
    row("crawler_reclaimed", totals.get(Count::Reclaimed));
    row("crawler_items_checked", 0);
    row("lrutail_reflocked", 0);
    row("moves_to_cold", totals.get(Count::Demoted));
    row("moves_to_warm", totals.get(Count::Rescued));
    for key in ["moves_within_lru", "direct_reclaims", "hits_to_hot", "hits_to_warm"] {
        row(key, 0);
    }
    row("hits_to_cold", totals.get(Count::DramHits));
    row("hits_to_temp", 0);
}

/// The log as one slab class whose pages are segments.
fn slabs(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let totals = server.sum(cache);
    let figures = cache.figures();
    let used = figures.segments - figures.segments_free.min(figures.segments);
    if figures.objects > 0 {
        let mut row = |key: &str, value: u64| stat(out, format_args!("1:{key}"), value);
        row("chunk_size", figures.bytes.div_ceil(figures.objects as u64) / 8 * 8 + 8);
        row("chunks_per_page", (figures.objects / used.max(1)) as u64);
        row("total_pages", used as u64);
        row("total_chunks", figures.objects as u64);
        row("used_chunks", figures.objects as u64);
        row("free_chunks", 0);
        row("free_chunks_end", 0);
        row("mem_requested", figures.bytes);
        row("get_hits", totals.hits());
        row("cmd_set", totals.get(Count::Sets));
        row("delete_hits", totals.get(Count::DeleteHits));
        row("incr_hits", totals.get(Count::IncrHits));
        row("decr_hits", totals.get(Count::DecrHits));
        row("cas_hits", totals.get(Count::CasHits));
        row("cas_badval", totals.get(Count::CasBadval));
        row("touch_hits", totals.get(Count::TouchHits));
    }
    stat(out, "active_slabs", u8::from(figures.objects > 0));
    stat(out, "total_malloced", used * figures.segment_bytes);
}

fn sizes(cache: &Cache, out: &mut Vec<u8>) {
    for (bytes, count) in cache.size_histogram() {
        stat(out, bytes, count);
    }
}

fn conns(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let now = cache.now();
    for peer in server.peers.lock().values() {
        let id = peer.id;
        if peer.address.starts_with("udp:") {
            stat(out, format_args!("{id}:UDP"), "UDP");
        }
        stat(out, format_args!("{id}:addr"), &peer.address);
        if let Some(listener) = &peer.listener {
            stat(out, format_args!("{id}:listen_addr"), listener);
        }
        stat(out, format_args!("{id}:state"), peer.doing());
        stat(out, format_args!("{id}:secs_since_last_cmd"), now.saturating_sub(peer.last_command()));
    }
}

fn detail(server: &Server, what: Option<&[u8]>, out: &mut Vec<u8>) {
    match what {
        _ if !server.config.dump => line(out, "CLIENT_ERROR stats detail not allowed"),
        Some(b"on") => {
            server.details.turn(true);
            line(out, "OK");
        }
        Some(b"off") => {
            server.details.turn(false);
            line(out, "OK");
        }
        Some(b"dump") => out.extend_from_slice(server.details.dump().as_bytes()),
        _ => line(out, "CLIENT_ERROR usage: stats detail on|off|dump"),
    }
}

/// Keys of the newest objects in DRAM, at most 2 MiB of them, as in memcached.
fn cachedump(
    server: &Server,
    cache: &Cache,
    own: Option<u16>,
    (class, limit): (Option<&[u8]>, Option<&[u8]>),
    out: &mut Vec<u8>,
) {
    let number = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse::<u32>().ok();
    if !server.config.dump {
        return line(out, "CLIENT_ERROR stats cachedump not allowed");
    }
    let (Some(class_word), Some(limit_word)) = (class, limit) else {
        return line(out, "CLIENT_ERROR bad command line");
    };
    let (Some(class), Some(limit)) = (number(Some(class_word)), number(Some(limit_word))) else {
        return line(out, "CLIENT_ERROR bad command line format");
    };
    if class >= 64 {
        return line(out, "CLIENT_ERROR Illegal slab id");
    }
    if class == 1 {
        let mut left = if limit == 0 { u32::MAX } else { limit };
        let start = out.len();
        let mut listing = cache.list_keys(own);
        while left > 0 && out.len() - start < 2 << 20 {
            let keys = listing.next(cache);
            if keys.is_empty() {
                break;
            }
            for key in keys.iter().take(left as usize) {
                out.extend_from_slice(b"ITEM ");
                out.extend_from_slice(&key.key);
                line(out, &format!(" [{} b; {} s]", key.value_bytes, key.expiry));
            }
            left = left.saturating_sub(keys.len() as u32);
        }
    }
    line(out, "END");
}

fn tenants(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    for tenant in cache.registry().tenants() {
        let name = &tenant.name;
        of_tenant(server, cache, tenant.id, &mut |key, value| stat(out, format_args!("{name}:{key}"), value));
    }
}

/// Tells what one tenant has, is owed, and does.
pub(crate) fn of_tenant(server: &Server, cache: &Cache, id: u16, row: &mut dyn FnMut(&str, &dyn Display)) {
    let tenant = cache.registry().tenant(id);
    let totals = server.totals(cache, id);
    let balance = tenant.account.balance();
    let (model, samples, trained) = cache.model(id);
    row("rank", &tenant.rank().name());
    row("bytes", &balance.in_use);
    row("reserved", &balance.reserved);
    row("active", &format_args!("{:.3}", cache.activity(id)));
    row("target", &balance.target);
    row("need", &format_args!("{:.3}", balance.need()));
    for (count, key) in cache::COUNTS {
        row(key, &totals.get(*count));
    }
    row("get_hits", &totals.hits());
    row("hit_ratio_lately", &format_args!("{:.4}", cache.registry().hit_ratio_lately(id)));
    row("flash_bytes", &cache.flash_bytes_of(id));
    row("requests_refused", &tenant.meter.refused());
    row("bandwidth_waits", &tenant.meter.waits());
    row("connections", &tenant.meter.connections());
    row("model_samples", &samples);
    row("model_trained", &trained);
    row("model_accuracy", &format_args!("{:.3}", model.map_or(0.0, |model| model.accuracy)));
}

fn flash_paths(config: &Config) -> String {
    let paths: Vec<String> = config.flash.iter().map(|flash| flash.path.display().to_string()).collect();
    if paths.is_empty() { "none".to_owned() } else { paths.join(",") }
}

fn flash(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let figures = cache.figures();
    let totals = server.sum(cache);
    stat(out, "get_dram_hits", totals.get(Count::DramHits));
    stat(out, "get_flash_hits", totals.get(Count::FlashHits));
    stat(out, "app_bytes_written", totals.get(Count::StoredBytes));
    let Some(flash) = figures.flash else {
        stat(out, "enabled", 0);
        return;
    };
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
    stat(out, "discarded_bytes", ledger.discarded);
    let wear = wear::look(server.config.flash.iter().map(|flash| flash.path.as_path()));
    if let Some(bytes) = wear.kernel {
        stat(out, "drive_bytes_written", bytes);
    }
    if let Some(bytes) = wear.host {
        stat(out, "nvme_host_bytes_written", bytes);
    }
    if let Some(bytes) = wear.media {
        stat(out, "nvme_media_bytes_written", bytes);
    }
    stat(out, "devices", flash.devices);
    stat(out, "devices_out", flash.devices_out);
    stat(out, "recovering_segments", flash.to_recover);
    stat(out, "recovered_objects", flash.recovered);
    stat(out, "journal", u8::from(flash.journal.is_some_and(|journal| journal.works)));
    stat(out, "journal_notes", flash.journal.map_or(0, |journal| journal.notes));
    stat(out, "journal_bytes", flash.journal.map_or(0, |journal| journal.bytes));
}

/// What extstore's users watch, told of our flash tier.
fn extstore(server: &Server, cache: &Cache, out: &mut Vec<u8>) {
    let Some(flash) = cache.figures().flash else { return };
    let totals = server.sum(cache);
    let used = flash.segments - flash.segments_free.min(flash.segments);
    let used_bytes = used as u64 * flash.segment_bytes as u64;
    let record_bytes = flash.ledger.record_bytes.checked_div(flash.ledger.records).unwrap_or(0);
    let live_bytes = (flash.live as u64 * record_bytes).min(used_bytes);
    stat(out, "get_extstore", totals.get(Count::FlashHits));
    stat(out, "get_aborted_extstore", 0);
    stat(out, "get_oom_extstore", 0);
    stat(out, "recache_from_extstore", totals.get(Count::Rescued));
    stat(out, "miss_from_extstore", 0);
    stat(out, "badcrc_from_extstore", flash.ledger.read_errors);
    stat(out, "extstore_memory_pressure", "0.00");
    stat(out, "extstore_compact_lost", 0);
    stat(out, "extstore_compact_rescues", totals.get(Count::Rescued));
    stat(out, "extstore_compact_resc_cold", 0);
    stat(out, "extstore_compact_resc_old", 0);
    stat(out, "extstore_compact_skipped", 0);
    stat(out, "extstore_page_allocs", flash.ledger.segments_written);
    stat(out, "extstore_page_evictions", flash.ledger.segments_recycled);
    stat(out, "extstore_page_reclaims", 0);
    stat(out, "extstore_page_size", flash.segment_bytes);
    stat(out, "extstore_pages_free", flash.segments_free);
    stat(out, "extstore_pages_used", used);
    stat(out, "extstore_objects_evicted", flash.ledger.evicted);
    stat(out, "extstore_objects_read", totals.get(Count::FlashHits));
    stat(out, "extstore_objects_written", totals.get(Count::Demoted));
    stat(out, "extstore_objects_used", flash.live);
    stat(out, "extstore_bytes_evicted", 0);
    stat(out, "extstore_bytes_written", flash.ledger.written);
    stat(out, "extstore_bytes_read", totals.get(Count::FlashHits) * record_bytes);
    stat(out, "extstore_bytes_used", live_bytes);
    stat(out, "extstore_bytes_fragmented", used_bytes - live_bytes);
    stat(out, "extstore_limit_maxbytes", flash.segments * flash.segment_bytes);
    stat(out, "extstore_io_queue", 0);
}

fn threshold(cache: &Cache) -> String {
    cache.settings().threshold.map_or("none".to_owned(), |score| score.to_string())
}

fn predictor(cache: &Cache, out: &mut Vec<u8>) {
    stat(out, "admission", cache.settings().admission.name());
    stat(out, "threshold", threshold(cache));
    stat(out, "horizon_ticks", cache.figures().horizon_ticks);
    write_budget(cache, None, &mut |key, value| stat(out, key, value));
    for tenant in cache.registry().tenants() {
        let name = &tenant.name;
        let mut row = |key: &str, value: &dyn std::fmt::Display| stat(out, format_args!("{name}:{key}"), value);
        let (model, samples, trained) = cache.model(tenant.id);
        row("model_samples", &samples);
        row("model_trained", &trained);
        row("model_accuracy", &format_args!("{:.3}", model.map_or(0.0, |model| model.accuracy)));
        let quality = cache.model_quality(tenant.id);
        row("judge", &cache.judge_name(tenant.id));
        row("judged_samples", &quality.samples());
        row("model_precision", &format_args!("{:.3}", quality.precision()));
        row("model_recall", &format_args!("{:.3}", quality.recall()));
        row("model_area", &format_args!("{:.3}", quality.area()));
        let (own, filter) = quality.indices();
        row("model_youden", &format_args!("{own:.3}"));
        row("filter_youden", &format_args!("{filter:.3}"));
        let deputy = cache.judge(tenant.id).1;
        row("deputy_admitted", &format_args!("{:.4}", deputy.admitted));
        row("deputy_refused", &format_args!("{:.4}", deputy.refused));
        for (band, share) in ["below_m1", "m1_to_0", "0_to_1", "above_1"].iter().zip(quality.calibration()) {
            row(&format!("flashy_{band}"), &format_args!("{share:.3}"));
        }
        write_budget(cache, Some(tenant.id), &mut row);
    }
}

fn write_budget(cache: &Cache, tenant: Option<u16>, row: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
    if let Some((terms, bar, balance)) = cache.write_budget(tenant) {
        row("write_budget", &terms);
        row("write_budget_bar", &format_args!("{bar:.3}"));
        row("write_budget_balance", &format_args!("{balance:.0}"));
    }
}

fn cleaner(cache: &Cache, out: &mut Vec<u8>) {
    let figures = cache.figures();
    stat(out, "segment_bytes", figures.segment_bytes);
    stat(out, "segments", figures.segments);
    stat(out, "segments_free", figures.segments_free);
    stat(out, "cleaned_segments", figures.cleaned_segments);
    stat(out, "relocated_bytes", figures.relocated_bytes);
    stat(out, "freed_bytes", figures.freed_bytes);
    stat(out, "helped_passes", figures.helped_passes);
    stat(out, "gave_up", figures.gave_up);
    stat(out, "relocated_for_each_freed", format_args!("{:.3}", figures.relocated_for_each_freed()));
}
