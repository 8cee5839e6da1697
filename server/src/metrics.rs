//! The stats as Prometheus' text (version 0.0.4): every number that docs/stats.md gives a meaning, which is its HELP.
//!
//! A key of general stats is `flashare_KEY`; one of `stats flash`, `predictor` and `cleaner` has the command's name before it, unless it begins
//! with it or is a sum over tenants; a tenant's is `flashare_tenant_KEY{tenant="NAME"}`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::LazyLock;

use cache::Cache;

use crate::VERSION;
use crate::shared::Server;
use crate::stats;

/// The page that explains the stats to people.
const PAGE: &str = include_str!("../../docs/stats.md");

/// Numbers that only grow, but for `stats reset` and a new start, beside those that [`cache::COUNTS`] and [`stats::COUNT_KEYS`] name.
const COUNTERS: &[&str] = &[
    "rusage_user",
    "rusage_system",
    "total_connections",
    "rejected_connections",
    "cmd_meta",
    "get_hits",
    "response_obj_oom",
    "store_too_large",
    "store_no_memory",
    "auth_cmds",
    "auth_errors",
    "bytes_read",
    "bytes_written",
    "idle_kicks",
    "listen_disabled_num",
    "conn_yields",
    "crawler_reclaimed",
    "moves_to_cold",
    "moves_to_warm",
    "log_worker_written",
    "log_watcher_sent",
    "log_watcher_skipped",
    "ssl_handshake_errors",
    "get_extstore",
    "recache_from_extstore",
    "badcrc_from_extstore",
    "extstore_compact_rescues",
    "extstore_page_allocs",
    "extstore_page_evictions",
    "extstore_objects_read",
    "extstore_objects_written",
    "extstore_objects_evicted",
    "extstore_bytes_written",
    "extstore_bytes_read",
    "flash_bytes_written",
    "record_bytes_written",
    "rescue_bytes_written",
    "fill_bytes_written",
    "segments_written",
    "segments_recycled",
    "index_evicted",
    "write_errors",
    "read_errors",
    "discarded_bytes",
    "drive_bytes_written",
    "nvme_host_bytes_written",
    "nvme_media_bytes_written",
    "recovered_objects",
    "journal_notes",
    "requests_refused",
    "bandwidth_waits",
    "model_trained",
    "cleaned_segments",
    "relocated_bytes",
    "freed_bytes",
    "helped_passes",
    "gave_up",
];

/// What the page says of a key, by the command that tells it.
static MEANINGS: LazyLock<HashMap<&str, HashMap<&str, String>>> = LazyLock::new(|| {
    let mut meanings: HashMap<&str, HashMap<&str, String>> = HashMap::new();
    let mut command = "";
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## stats") {
            command = heading.trim();
        } else if let Some((keys, meaning)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | ")) {
            let meaning = meaning.trim_end_matches(" |").replace('`', "");
            let own = meanings.entry(command).or_default();
            own.extend(keys.split("`, `").map(|key| (key, meaning.clone())));
        }
    }
    meanings
});

/// One metric: its samples stand together, as the format asks for.
struct Metric {
    is_counter: bool,
    help: &'static str,
    /// Label, and value.
    samples: BTreeMap<String, String>,
}

#[derive(Default)]
struct Exposition(BTreeMap<String, Metric>);

impl Exposition {
    /// Takes a stat that is a number with a meaning.
    fn add(&mut self, name: String, label: String, key: &str, commands: &[&str], value: &str) {
        if !value.parse::<f64>().is_ok_and(f64::is_finite) {
            return;
        }
        let Some(help) = commands.iter().find_map(|command| MEANINGS.get(*command)?.get(key)) else { return };
        let metric = self.0.entry(name).or_insert_with(|| Metric {
            is_counter: is_sum(key) || COUNTERS.contains(&key),
            help,
            samples: BTreeMap::new(),
        });
        metric.samples.insert(label, value.to_owned());
    }

    fn spell(&self) -> String {
        let mut text = String::new();
        for (name, Metric { is_counter, help, samples }) in &self.0 {
            let kind = if *is_counter { "counter" } else { "gauge" };
            // a String takes all that is written to it
            let _ = writeln!(text, "# HELP flashare_{name} {help}\n# TYPE flashare_{name} {kind}");
            for (label, value) in samples {
                let _ = writeln!(text, "flashare_{name}{label} {value}");
            }
        }
        text
    }
}

/// Whether a key counts over tenants.
fn is_sum(key: &str) -> bool {
    cache::COUNTS.iter().any(|(_, own)| *own == key) || stats::COUNT_KEYS.iter().any(|(own, ..)| *own == key)
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{name}=\"{value}\"}}")
}

/// All of it.
pub(crate) fn spell(server: &Server, cache: &Cache) -> String {
    let rows = |arguments: &str| stats::rows(server, cache, arguments.as_bytes());
    let mut all = Exposition::default();
    for (key, value) in rows("") {
        // while there is flash, general stats have the rows of extstore too
        all.add(key.clone(), String::new(), &key, &["", "extstore"], &value);
    }
    for command in ["flash", "cleaner"] {
        for (key, value) in rows(command) {
            let name = if key.starts_with(command) || is_sum(&key) { key.clone() } else { format!("{command}_{key}") };
            all.add(name, String::new(), &key, &[command, "tenants"], &value);
        }
    }
    for command in ["predictor", "tenants"] {
        for (key, value) in rows(command) {
            match key.split_once(':') {
                Some((tenant, key)) => {
                    let label = label("tenant", tenant);
                    all.add(format!("tenant_{key}"), label, key, &[command, "tenants"], &value);
                }
                None => all.add(format!("predictor_{key}"), String::new(), &key, &[command], &value),
            }
        }
    }
    let version = label("version", VERSION);
    let info =
        "# HELP flashare_build_info always 1; its label says which version runs\n# TYPE flashare_build_info gauge";
    format!("{info}\nflashare_build_info{version} 1\n{}", all.spell())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_every_counter_counts() {
        for key in COUNTERS {
            assert!(MEANINGS.values().any(|own| own.contains_key(key)), "docs/stats.md has no row for {key}");
        }
        assert_eq!(MEANINGS["flash"]["devices_out"], MEANINGS["flash"]["devices"], "a row of two keys");
    }

    #[test]
    fn a_label_is_told_from_what_surrounds_it() {
        assert_eq!(label("tenant", "a\"b\\c\nd"), r#"{tenant="a\"b\\c\nd"}"#);
    }
}
