//! The configuration file brought up to date with the tenants that are served: `POST /config`. What has not changed keeps its text, comments
//! and all.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cache::{DEFAULT_TENANT, Recognition, TenantSpec, Terms};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

use crate::config::parse_tenants;

/// Brings a file up to date, in one step: whoever reads it finds it as it was or as it is now.
///
/// # Errors
/// It cannot be read or written, or is no configuration; it is as it was then.
pub(crate) fn rewrite(path: &Path, now: &[TenantSpec]) -> Result<()> {
    let told = || format!("configuration {}", path.display());
    // a link stays one
    let path = path.canonicalize().with_context(told)?;
    let text = rewritten(&fs::read_to_string(&path).with_context(told)?, now).with_context(told)?;
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    let written = || {
        let mut file = fs::File::create(&beside)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&beside))).with_context(told)
}

fn rewritten(text: &str, now: &[TenantSpec]) -> Result<String> {
    let before = parse_tenants(text)?.tenants;
    let mut document: DocumentMut = text.parse()?;
    let tables = document.entry("tenant").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let tables =
        tables.as_array_of_tables_mut().context("tenants that are not [[tenant]] tables cannot be rewritten")?;
    let name_of = |table: &Table| table.get("name").and_then(Item::as_str).unwrap_or_default().to_owned();
    tables.retain(|table| now.iter().any(|spec| spec.name == name_of(table)));
    for spec in now {
        let stated = before.iter().find(|stated| stated.name == spec.name);
        if let Some(table) = tables.iter_mut().find(|table| name_of(table) == spec.name) {
            update(table, stated, spec);
        } else if spec.name != DEFAULT_TENANT || spec.terms != Terms::default() {
            let mut table = Table::new();
            table.insert("name", Item::Value(spec.name.as_str().into()));
            update(&mut table, None, spec);
            tables.push(table);
        }
    }
    let text = document.to_string();
    let by_name = |mut specs: Vec<TenantSpec>| {
        specs.retain(|spec| spec.name != DEFAULT_TENANT || spec.terms != Terms::default());
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs
    };
    ensure!(by_name(parse_tenants(&text)?.tenants) == by_name(now.to_vec()), "it would not say what is served now");
    Ok(text)
}

/// States what differs.
fn update(table: &mut Table, before: Option<&TenantSpec>, now: &TenantSpec) {
    if before.is_none_or(|before| before.recognised != now.recognised) {
        ["prefix", "port", "user"].iter().for_each(|key| drop(table.remove(key)));
        let (key, value): (&str, Value) = match &now.recognised {
            Recognition::Prefix(prefix) => ("prefix", prefix.as_str().into()),
            Recognition::Port(port) => ("port", i64::from(*port).into()),
            Recognition::User(user) => ("user", user.as_str().into()),
            Recognition::Rest => ("", 0.into()),
        };
        if !key.is_empty() {
            table.insert(key, Item::Value(value));
        }
    }
    let before = before.map_or_else(Terms::default, |before| before.terms);
    for ((key, before), (_, value)) in stated(&before).into_iter().zip(stated(&now.terms)) {
        if before.to_string() != value.to_string() {
            table.insert(key, Item::Value(value));
        }
    }
}

/// Terms as the file states them.
fn stated(terms: &Terms) -> [(&'static str, Value); 10] {
    let limits = &terms.limits;
    let size = |bytes: u64| Value::from(spell_size(bytes));
    // by its shortest spelling: as a double it would say 0.8999999761581421
    let number = |number: f32| Value::from(number.to_string().parse::<f64>().unwrap_or(number.into()));
    [
        ("reserved", size(terms.reserved_bytes.max(0) as u64)),
        ("rank", terms.rank.name().into()),
        ("weight", number(terms.weight)),
        ("goal_hit_ratio", number(terms.goal_hit_ratio)),
        ("flash_reserved", size(terms.flash_reserved_bytes)),
        ("flash_write_budget", terms.flash_write_budget.to_string().into()),
        ("max_requests", i64::from(limits.requests).into()),
        ("max_bandwidth", size(limits.bandwidth)),
        ("max_connections", i64::from(limits.connections).into()),
        ("max_item_size", size(limits.item_bytes.into())),
    ]
}

/// A size in the largest unit of which it is a whole number.
fn spell_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or(format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"# ours
arbiter = "curve"

[[tenant]]
name = "a"   # the shop
prefix = "a:"
reserved = "1024KiB"  # asked for in May
rank = "lru"

# nobody knows
[[tenant]]
name = "b"
port = 11301
"#;

    fn served() -> Vec<TenantSpec> {
        parse_tenants(FILE).unwrap().tenants
    }

    #[test]
    fn what_is_served_as_it_is_stated_changes_no_byte() {
        assert_eq!(rewritten(FILE, &served()).unwrap(), FILE);
        assert_eq!(rewritten("", &[]).unwrap(), "");
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut now = served();
        now[0].terms.rank = "lfu".parse().unwrap();
        now[0].terms.goal_hit_ratio = 0.9;
        let text = rewritten(FILE, &now).unwrap();
        assert_eq!(text, FILE.replace("rank = \"lru\"\n", "rank = \"lfu\"\ngoal_hit_ratio = 0.9\n"));
        now.remove(1);
        let text = rewritten(&text, &now).unwrap();
        assert!(text.contains("# the shop") && text.contains("in May") && !text.contains("11301"), "{text}");
    }

    #[test]
    fn every_term_comes_back() {
        let table = "[[tenant]]\nname = \"c\"\nuser = \"carol\"\nreserved = \"1000B\"\nrank = \"slru\"\nweight = 2.5\ngoal_hit_ratio = 0.75\n\
                     flash_reserved = \"3GiB\"\nflash_write_budget = \"200GB/day\"\nmax_requests = 7\nmax_bandwidth = \"3MB\"\n\
                     max_connections = 9\nmax_item_size = \"100KiB\"\n";
        let mut now = served();
        now.extend(parse_tenants(table).unwrap().tenants);
        now.push(TenantSpec {
            name: DEFAULT_TENANT.to_owned(),
            recognised: Recognition::Rest,
            terms: Terms { reserved_bytes: 5 << 20, ..Terms::default() },
        });
        let text = rewritten(FILE, &now).unwrap();
        assert!(text.starts_with(FILE) && text.contains("name = \"default\""), "{text}");
        assert_eq!(parse_tenants(&text).unwrap().tenants, now);
        for budget in ["0.5dwpd", "0.3x", "none"] {
            now[2].terms.flash_write_budget = crate::config::parse_write_budget(budget).unwrap();
            assert_eq!(parse_tenants(&rewritten(&text, &now).unwrap()).unwrap().tenants, now);
        }
    }

    #[test]
    fn what_cannot_be_rewritten_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        fs::write(&path, "tenant = [{ name = \"a\", prefix = \"a:\" }]\n").unwrap();
        let error = rewrite(&path, &served()).unwrap_err();
        assert!(format!("{error:#}").contains("[[tenant]]"), "{error:#}");
        assert!(fs::read_to_string(&path).unwrap().starts_with("tenant = ["));
        assert!(rewrite(&folder.path().join("none.toml"), &served()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
