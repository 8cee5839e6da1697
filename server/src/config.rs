//! Flags and file to one checked [`Config`]; nothing is validated again after it.

mod amounts;
mod tenants_file;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cache::{Admission, CacheSettings, FlashSettings, SyncPolicy};

#[cfg(test)]
pub(crate) use amounts::parse_write_budget;
pub use amounts::{parse_size, write_budget};
pub(crate) use tenants_file::{TenantTable, check_name};
pub use tenants_file::{TenantsFile, parse_tenants, read_tenants};

use crate::admin::AdminConfig;
use crate::driver::Driver;
use crate::flags::Flags;
use crate::options::Options;
use crate::restart::Restart;

/// TCP port unless another is stated, as memcached.
const PORT: i32 = 11211;
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

/// Which protocol a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// As its first byte says.
    Auto,
    /// Text: classic and meta commands.
    Ascii,
    /// Binary frames.
    Binary,
}

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAt {
    /// Host name, for each of its addresses; an address; or `*`.
    pub host: String,
    /// Port; None for that of -p.
    pub port: Option<u16>,
    /// What is spoken there.
    pub dialect: Dialect,
    /// What is asked of clients there, if TLS is on.
    pub security: Security,
}

/// What a listener asks of its clients under -Z.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// Nothing: they speak in the clear.
    Clear,
    /// TLS, and a certificate as -o ssl_verify_mode says.
    Stated,
    /// TLS, and no certificate.
    Basic,
    /// TLS, and a certificate that -o ssl_ca_cert vouches for.
    Mutual,
}

/// A port as flags state it: 0 is none, -1 one that the system picks.
fn port(stated: i32) -> Option<u16> {
    (stated != 0).then(|| u16::try_from(stated).unwrap_or(0))
}

/// Everything that a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<ListenAt>,
    /// TCP port to listen on; 0 for one that the system picks.
    pub port: Option<u16>,
    /// UDP port; 0 for one that the system picks.
    pub udp_port: Option<u16>,
    /// Unix socket to listen on, with its mode, instead of the network.
    pub unix_socket: Option<(PathBuf, u32)>,
    /// What a start believes of the flash's content.
    pub restart: Restart,
    /// When the journal is synced.
    pub journal_sync: SyncPolicy,
    /// Bytes of the journal.
    pub journal_bytes: Option<u64>,
    /// Longest time that a clean stop takes to move what is in memory to flash.
    pub stop: Duration,
    /// Flash that holds something else may be overwritten.
    pub flash_format: bool,
    /// Folder for what belongs to flash and cannot lie beside it.
    pub state_dir: Option<PathBuf>,
    /// What moves bytes.
    pub driver: Driver,
    /// Threads that clean.
    pub cleaners: usize,
    /// Connections that may wait to be accepted.
    pub backlog: i32,
    /// What is spoken where an address does not say.
    pub dialect: Dialect,
    /// File that DRAM's content is kept in over a clean stop.
    pub memory_file: Option<PathBuf>,
    /// Requests that a connection may have served before others get their turn.
    pub requests_a_turn: usize,
    /// Whether the command shutdown works.
    pub shutdown: bool,
    /// Whether CAS uniques are given.
    pub cas: bool,
    /// Whether flush_all works.
    pub flush: bool,
    /// Whether keys may be listed.
    pub dump: bool,
    /// Whether watch works.
    pub watch: bool,
    /// What ends the prefix of a key in stats by prefix.
    pub prefix_end: u8,
    /// Whether stats by prefix are kept from the start.
    pub detail: bool,
    /// File of users and passwords, if clients must authenticate.
    pub auth_file: Option<PathBuf>,
    /// Whether binary clients authenticate by SASL.
    pub sasl: bool,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// What -o says.
    pub options: Options,
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
    /// The file that names the tenants.
    pub tenants_file: Option<PathBuf>,
    /// Whether the arbiter was named as a flag, so that the file has no say in it.
    pub is_arbiter_a_flag: bool,
    /// The admin socket, if any.
    pub admin: Option<AdminConfig>,
    /// Flash, if any.
    pub flash: Vec<FlashPath>,
    /// Settings of the cache.
    pub cache: CacheSettings,
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
        let options = Options::parse(&flags.extended)?;
        let dialect = match (flags.protocol.as_deref(), flags.sasl) {
            (None, false) => Dialect::Auto,
            (None | Some("binary"), true) => Dialect::Binary,
            (Some(name), true) => {
                bail!("-S -B {name}: SASL is spoken in the binary protocol only: take -B binary, or leave it out")
            }
            (Some(name), false) => dialect(name).context("-B")?,
        };
        check_item_size(item_bytes_max, memory_bytes)?;
        let threads = threads(flags)?;
        if flags.connections == 0 {
            bail!("-c 0: take 1 connection or more");
        }
        if flags.requests_a_turn == 0 {
            bail!("-R 0: take 1 request or more");
        }
        if flags.sasl && flags.auth_file.is_none() {
            bail!("-S: name the file of users and passwords with -Y FILE");
        }
        let mode = u32::from_str_radix(&flags.unix_mask, 8).ok().filter(|mode| *mode <= 0o777);
        let mode = mode.with_context(|| format!("-a {}: take an octal mode up to 777", flags.unix_mask))?;
        let prefix_end = flags.prefix_end.map_or(Ok(b':'), u8::try_from).context("-D: take one ASCII character")?;
        let tenants = flags.config.as_deref().map(read_tenants).transpose()?.unwrap_or_default();
        let flash = flash_paths(flags, &options)?;
        let mut cache = CacheSettings::for_memory(memory_bytes);
        cache.item_bytes_max = item_bytes_max;
        cache.tenants = tenants.tenants;
        cache.arbiter = match &flags.arbiter {
            Some(name) => name.parse().map_err(anyhow::Error::msg).context("--arbiter")?,
            None => tenants.arbiter.unwrap_or_default(),
        };
        let is_arbiter_a_flag = flags.arbiter.is_some();
        cache.evict = !flags.no_evict;
        cache.idle_secs = flags.idle_tax;
        cache.admission = flags.admission.parse::<Admission>().map_err(anyhow::Error::msg).context("--admission")?;
        if cache.admission == Admission::Oracle {
            bail!("--admission oracle: only `flashare-trace simulate` knows what will be asked for");
        }
        cache.threshold = flags.threshold;
        cache.flash_write_budget = write_budget(cache.admission, flags.threshold, flags.flash_write_budget.as_deref())?;
        cache.seed = flags.seed.unwrap_or_else(seed);
        if !flash.is_empty() {
            let bytes = flash.iter().map(|flash| flash.bytes).sum();
            let mut settings = flash_settings(bytes, memory_bytes, flags.flash_object_size);
            settings.segment_bytes = flags.flash_segment.as_deref().map(segment_size).transpose()?;
            cache.flash = Some(settings);
            cache.flash_devices = flash.iter().map(|flash| flash.bytes).collect();
            let rate = |text: &Option<String>| text.as_deref().map_or(Ok(0), |text| parse_size(text, 1));
            cache.flash_write_rate = rate(&flags.flash_write_rate).context("--flash-write-rate")?;
            cache.flash_read_rate = rate(&flags.flash_read_rate).context("--flash-read-rate")?;
        }
        Ok(Config {
            listen: listen_at(&flags.listen, dialect)?,
            port: port(flags.port.unwrap_or(if flags.udp_port != 0 { flags.udp_port } else { PORT })),
            udp_port: port(flags.udp_port),
            unix_socket: flags.unix_socket.clone().map(|path| (path, mode)),
            backlog: flags.backlog,
            restart: flags.restart.parse().map_err(anyhow::Error::msg).context("--restart")?,
            journal_sync: journal_sync(&flags.journal_sync)?,
            stop: Duration::from_secs(flags.stop_secs.into()),
            journal_bytes: flags.flash_journal.as_deref().map(journal_size).transpose()?,
            flash_format: flags.flash_format,
            state_dir: state_dir(flags),
            cleaners: cleaners(flags, threads)?,
            driver: flags.io.parse().map_err(anyhow::Error::msg).context("--io")?,
            dialect,
            memory_file: flags.memory_file.clone(),
            requests_a_turn: flags.requests_a_turn,
            shutdown: flags.shutdown,
            cas: !flags.no_cas,
            flush: !flags.no_flush,
            dump: !flags.no_dump,
            watch: !flags.no_watch,
            prefix_end,
            detail: flags.prefix_end.is_some(),
            auth_file: flags.auth_file.clone(),
            sasl: flags.sasl,
            tls: flags.tls,
            options,
            threads,
            connections_max: flags.connections,
            memory_bytes,
            item_bytes_max,
            evict: !flags.no_evict,
            verbosity: flags.verbose,
            tenants_file: flags.config.clone(),
            is_arbiter_a_flag,
            admin: flags.admin.as_deref().map(|at| AdminConfig::new(at, flags.admin_token.as_deref())).transpose()?,
            flash,
            cache,
        })
    }
}

/// Most workers.
const THREADS_MAX: usize = 128;
/// Workers where nothing is said, as memcached has them: more than cores cost each other time (a replay of mt-a on two cores takes 8 % less
/// processor time with two than with four).
const THREADS_USUAL_MAX: usize = 4;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn threads(flags: &Flags) -> Result<usize> {
    let stated = flags.threads.unwrap_or_else(|| cores().min(THREADS_USUAL_MAX));
    if stated == 0 || stated > THREADS_MAX {
        bail!("-t {stated}: take 1 to {THREADS_MAX} threads");
    }
    Ok(stated)
}

/// Most threads that clean.
const CLEANERS_MAX: usize = 16;
/// The same where nothing is said.
const CLEANERS_USUAL_MAX: usize = 4;

fn cleaners(flags: &Flags, threads: usize) -> Result<usize> {
    if let Some(stated) = flags.cleaners {
        if stated == 0 || stated > CLEANERS_MAX {
            bail!("--cleaners {stated}: take 1 to {CLEANERS_MAX} threads");
        }
        return Ok(stated);
    }
    Ok((1 + threads.min(cores()) / 2).min(CLEANERS_USUAL_MAX))
}

fn journal_sync(text: &str) -> Result<SyncPolicy> {
    match (text, text.parse::<u64>()) {
        ("os", _) => Ok(SyncPolicy::Os),
        ("always", _) => Ok(SyncPolicy::Always),
        (_, Ok(millis @ 1..=60_000)) => Ok(SyncPolicy::Every(Duration::from_millis(millis))),
        _ => bail!("--journal-sync {text}: take os, always, or 1 to 60000 milliseconds"),
    }
}

fn journal_size(text: &str) -> Result<u64> {
    /// Smallest journal: some 4,000 changes.
    const LEAST: u64 = 128 << 10;
    let bytes = parse_size(text, 1).context("--flash-journal")?;
    if bytes < LEAST {
        bail!("--flash-journal {text}: take 128KiB or more");
    }
    Ok(bytes)
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

fn dialect(name: &str) -> Result<Dialect> {
    match name {
        "auto" | "auto-negotiate" | "negotiating" => Ok(Dialect::Auto),
        "ascii" => Ok(Dialect::Ascii),
        "binary" => Ok(Dialect::Binary),
        _ => bail!("'{name}' is no protocol: take ascii, binary or auto"),
    }
}

/// Reads what -l names: parts in front of the address say protocol, tag (without meaning here) and whether TLS is spoken.
fn listen_at(texts: &[String], dialect_else: Dialect) -> Result<Vec<ListenAt>> {
    let mut all = Vec::new();
    for text in texts.iter().flat_map(|list| list.split([',', ';'])).filter(|text| !text.is_empty()) {
        let mut at = ListenAt { host: String::new(), port: None, dialect: dialect_else, security: Security::Stated };
        let mut rest = text;
        loop {
            if let Some((name, after)) = rest.strip_prefix("proto[").and_then(|rest| rest.split_once("]:")) {
                at.dialect = dialect(name).with_context(|| format!("-l {text}"))?;
                rest = after;
            } else if let Some((_, after)) = rest.strip_prefix("tag[").and_then(|rest| rest.split_once("]:")) {
                rest = after;
            } else if let Some((_, after)) = rest.strip_prefix("tag_").and_then(|rest| rest.split_once("_:")) {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("notls:") {
                (at.security, rest) = (Security::Clear, after);
            } else if let Some(after) = rest.strip_prefix("btls:") {
                (at.security, rest) = (Security::Basic, after);
            } else if let Some(after) = rest.strip_prefix("mtls:") {
                (at.security, rest) = (Security::Mutual, after);
            } else {
                break;
            }
        }
        let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None if rest.matches(':').count() == 1 => {
                let (host, port) = rest.split_once(':').expect("there is one");
                (host, Some(port))
            }
            None => (rest, None),
        };
        let port = port.map(|port| port.parse().ok().with_context(|| format!("-l {text}: '{port}' is no port")));
        (at.host, at.port) = (host.to_owned(), port.transpose()?);
        all.push(at);
    }
    Ok(all)
}

fn flash_paths(flags: &Flags, options: &Options) -> Result<Vec<FlashPath>> {
    if flags.no_flash && options.ext_path.is_none() {
        return Ok(Vec::new());
    }
    if let (true, Some((path, size))) = (flags.flash.is_empty(), &options.ext_path) {
        let bytes = parse_size(size, 1 << 30).with_context(|| format!("-o ext_path={path}:{size}"))?;
        return Ok(vec![FlashPath { path: path.into(), bytes, asked_for: true }]);
    }
    if flags.flash.is_empty() {
        let name = format!("flashare-{}.flash", flags.port.unwrap_or(PORT));
        let path = state_dir(flags).map(|dir| dir.join(name));
        return Ok(path
            .map(|path| FlashPath { path, bytes: FLASH_BYTES_DEFAULT, asked_for: false })
            .into_iter()
            .collect());
    }
    let paths = flags.flash.iter().map(|text| flash_path(text)).collect::<Result<Vec<_>>>()?;
    for (n, path) in paths.iter().enumerate() {
        if paths[..n].iter().any(|other| other.path == path.path) {
            bail!("--flash {}: it is named twice", path.path.display());
        }
    }
    Ok(paths)
}

fn flash_path(text: &str) -> Result<FlashPath> {
    let (path, size) = text
        .rsplit_once(':')
        .with_context(|| format!("--flash {text}: write PATH:SIZE, such as /var/lib/flashare/cache.flash:10GiB"))?;
    let bytes = parse_size(size, 1).context("--flash")?;
    Ok(FlashPath { path: path.into(), bytes, asked_for: true })
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
    fn addresses_read_as_in_memcached() {
        let read = |text: &str| listen_at(&[text.to_owned()], Dialect::Auto).unwrap();
        let at = |host: &str, port| ListenAt {
            host: host.to_owned(),
            port,
            dialect: Dialect::Auto,
            security: Security::Stated,
        };
        assert_eq!(read("127.0.0.1,0.0.0.0:11300"), [at("127.0.0.1", None), at("0.0.0.0", Some(11300))]);
        assert_eq!(read("127.0.0.1;proto[negotiating]:[::1]"), [at("127.0.0.1", None), at("::1", None)]);
        assert_eq!(read("::1"), [at("::1", None)]);
        assert_eq!(read("[::1]:5"), [at("::1", Some(5))]);
        let ascii = ListenAt { dialect: Dialect::Ascii, ..at("h", Some(1)) };
        assert_eq!(read("proto[ascii]:tag[x]:h:1"), [ascii]);
        assert_eq!(read("notls:h:1"), [ListenAt { security: Security::Clear, ..at("h", Some(1)) }]);
        assert_eq!(read("mtls:tag_x_:h:1"), [ListenAt { security: Security::Mutual, ..at("h", Some(1)) }]);
        assert!(listen_at(&["h:x".to_owned()], Dialect::Auto).is_err());
    }
}
