//! Flags and file to one checked [`Config`]; nothing is validated again after it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cache::{Admission, CacheSettings, FlashSettings, Rank, Recognition, TenantSpec};
use serde::Deserialize;

use crate::flags::Flags;

/// Flash that is used when nothing is said.
const FLASH_BYTES_DEFAULT: u64 = 1 << 30;
/// Mean object size that a flash index is made for when nothing is said.
const OBJECT_BYTES_DEFAULT: usize = 320;

/// Where flash is, and how much.
#[derive(Clone, Debug)]
pub struct FlashPath {
    /// File or block device.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Whether the operator named it: then it must work.
    pub asked_for: bool,
}

/// Everything that a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on.
    pub listen: String,
    /// Port to listen on; 0 for one that the system picks.
    pub port: u16,
    /// Worker threads.
    pub threads: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// Memory in bytes.
    pub memory_bytes: usize,
    /// Largest object in bytes.
    pub item_bytes_max: usize,
    /// Whether to evict when memory runs out.
    pub evict: bool,
    /// How much to log.
    pub verbosity: u8,
    /// Flash, if any.
    pub flash: Option<FlashPath>,
    /// Settings of the cache.
    pub cache: CacheSettings,
}

/// Parses `64` (MiB, as memcached's -m), `64m`, `16MiB`, `1GiB`, `500kB`.
pub fn parse_size(text: &str, plain_unit: u64) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits]
        .parse()
        .ok()
        .with_context(|| format!("'{text}' is no size: write a number with a unit, such as 16MiB or 1GiB"))?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" => plain_unit,
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        unit => bail!("'{unit}' is no unit of size: take KiB, MiB, GiB or TiB"),
    };
    Ok((number * unit as f64) as u64)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tenant: Vec<TenantTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantTable {
    name: String,
    prefix: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    reserved: Size,
    #[serde(default)]
    rank: RankName,
}

/// A size in the file.
#[derive(Default)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_size(&text, 1).map(Size).map_err(serde::de::Error::custom)
    }
}

#[derive(Default)]
struct RankName(Rank);

impl<'de> Deserialize<'de> for RankName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<RankName, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(RankName).map_err(serde::de::Error::custom)
    }
}

/// Reads tenants from the text of a configuration file. Errors name line and key.
pub fn parse_tenants(text: &str) -> Result<Vec<TenantSpec>> {
    let file: File = toml::from_str(text)?;
    file.tenant
        .into_iter()
        .map(|table| {
            let name = table.name;
            let recognised = match (table.prefix, table.port) {
                (Some(prefix), None) if prefix.is_empty() => bail!("tenant '{name}': prefix is empty"),
                (Some(prefix), None) => Recognition::Prefix(prefix),
                (None, Some(port)) => Recognition::Port(port),
                (None, None) if name == cache::DEFAULT_TENANT => Recognition::Rest,
                (None, None) => bail!("tenant '{name}': state how it is recognised, by prefix or by port"),
                (Some(_), Some(_)) => bail!("tenant '{name}': state prefix or port, not both"),
            };
            if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ':') {
                bail!("tenant '{name}': a name is not empty and has no spaces or colons");
            }
            Ok(TenantSpec { name, recognised, reserved_bytes: table.reserved.0 as i64, rank: table.rank.0 })
        })
        .collect()
}

/// Reads tenants from a file.
pub fn read_tenants(path: &Path) -> Result<Vec<TenantSpec>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("configuration {}", path.display()))?;
    parse_tenants(&text).with_context(|| format!("configuration {}", path.display()))
}

/// The flash settings of so much flash beside so much memory: the index takes at most a sixth of it unless its mean object
/// size is stated.
pub fn flash_settings(bytes: u64, memory_bytes: usize, object_bytes: Option<usize>) -> FlashSettings {
    let affordable = (bytes as f64 * 4.5 / (memory_bytes as f64 / 6.0)) as usize;
    let object_bytes = object_bytes.unwrap_or_else(|| OBJECT_BYTES_DEFAULT.max(affordable));
    FlashSettings { object_bytes, ..FlashSettings::for_bytes(bytes) }
}

impl Config {
    /// Checks flags and reads the file they name.
    pub fn new(flags: &Flags) -> Result<Config> {
        let memory_bytes = parse_size(&flags.memory, 1 << 20).context("-m")? as usize;
        let item_bytes_max = parse_size(&flags.item_size, 1).context("-I")? as usize;
        check_item_size(item_bytes_max, memory_bytes)?;
        if flags.threads == 0 || flags.threads > 128 {
            bail!("-t {}: take 1 to 128 threads", flags.threads);
        }
        if flags.connections == 0 {
            bail!("-c 0: take 1 connection or more");
        }
        let tenants = flags.config.as_deref().map(read_tenants).transpose()?.unwrap_or_default();
        let flash = flash_path(flags)?;
        let mut cache = CacheSettings::for_memory(memory_bytes);
        cache.item_bytes_max = item_bytes_max;
        cache.tenants = tenants;
        cache.evict = !flags.no_evict;
        cache.threshold = flags.threshold;
        cache.admission = flags.admission.parse::<Admission>().map_err(anyhow::Error::msg).context("--admission")?;
        cache.seed = seed();
        if let Some(flash) = &flash {
            let mut settings = flash_settings(flash.bytes, memory_bytes, flags.flash_object_size);
            settings.segment_bytes = flags.flash_segment.as_deref().map(segment_size).transpose()?;
            cache.flash = Some(settings);
        }
        Ok(Config {
            listen: flags.listen.clone(),
            port: flags.port,
            threads: flags.threads,
            connections_max: flags.connections,
            memory_bytes,
            item_bytes_max,
            evict: !flags.no_evict,
            verbosity: flags.verbose,
            flash,
            cache,
        })
    }
}

fn segment_size(text: &str) -> Result<usize> {
    let bytes = parse_size(text, 1).context("--flash-segment")? as usize;
    if bytes < 64 << 10 || !bytes.is_multiple_of(cache::PAGE_BYTES) {
        bail!("--flash-segment {text}: take 64KiB or more, in whole pages of 4KiB");
    }
    Ok(bytes)
}

fn check_item_size(item: usize, memory: usize) -> Result<()> {
    if item < 1024 {
        bail!("-I {item}: an item size limit of less than 1024 bytes is too small");
    }
    if item > 128 << 20 {
        bail!("-I {item}: objects can be at most 128m");
    }
    if item > memory / 2 {
        bail!("-I {item}: an object can take at most half of -m ({memory} bytes): lower -I or raise -m");
    }
    Ok(())
}

/// A seed that clients cannot guess.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn flash_path(flags: &Flags) -> Result<Option<FlashPath>> {
    if flags.no_flash {
        return Ok(None);
    }
    let Some(text) = &flags.flash else {
        let name = format!("flashare-{}.flash", flags.port);
        let path = state_dir(flags).map(|dir| dir.join(name));
        return Ok(path.map(|path| FlashPath { path, bytes: FLASH_BYTES_DEFAULT, asked_for: false }));
    };
    let (path, size) = text
        .rsplit_once(':')
        .with_context(|| format!("--flash {text}: write PATH:SIZE, such as /var/lib/flashare/cache.flash:10GiB"))?;
    let bytes = parse_size(size, 1).context("--flash")?;
    Ok(Some(FlashPath { path: path.into(), bytes, asked_for: true }))
}

/// Where the embedded flash file lives: `--state-dir`, what systemd gives, or the user's state folder.
fn state_dir(flags: &Flags) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    flags
        .state_dir
        .clone()
        .or_else(|| from("STATE_DIRECTORY"))
        .or_else(|| from("XDG_STATE_HOME").map(|dir| dir.join("flashare")))
        .or_else(|| from("HOME").map(|dir| dir.join(".local/state/flashare")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_operators_write_them() {
        let size = |text: &str| parse_size(text, 1 << 20).unwrap();
        assert_eq!((size("64"), size("16MiB"), size("1GiB"), size("1g")), (64 << 20, 16 << 20, 1 << 30, 1 << 30));
        assert_eq!((size("500kB"), size("1.5m")), (500_000, 3 << 19));
        assert!(parse_size("x", 1).is_err() && parse_size("5 parsecs", 1).is_err());
    }

    #[test]
    fn a_malformed_file_names_line_and_key() {
        let error = |text: &str| format!("{:#}", parse_tenants(text).unwrap_err());
        let unknown = error("[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreservd = \"1MiB\"\n");
        assert!(unknown.contains("line 4") && unknown.contains("reservd"), "{unknown}");
        let size = error("[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreserved = \"lots\"\n");
        assert!(size.contains("line 4") && size.contains("lots"), "{size}");
        assert!(error("[[tenant]]\nname = \"a\"\n").contains("prefix or by port"));
        assert!(error("[[tenant]]\nname = \"a\"\nprefix=\"a\"\nrank=\"best\"").contains("lru or lfu"));
    }
}
