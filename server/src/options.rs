//! The options behind -o: memcached's names, what they do here, and why some do nothing.

use anyhow::{Context, Result, bail};

/// What -o turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Close connections beyond -c at once, rather than let them wait.
    pub maxconns_fast: bool,
    /// Close a connection that has been idle for so many seconds; 0 for never.
    pub idle_secs: u32,
    /// Bytes that a watcher's lines may wait in.
    pub watcher_bytes: usize,
    /// Flash, as extstore's users name it: path and size.
    pub ext_path: Option<(String, String)>,
    /// TLS: certificate chain, key, certificate authority.
    pub tls_chain: Option<String>,
    /// The key's file.
    pub tls_key: Option<String>,
    /// The file of the authorities that clients' certificates are checked against.
    pub tls_ca: Option<String>,
    /// 0: ask for no client certificate; 1: check one if there is one; 2, 3: require one.
    pub tls_verify: u8,
    /// 0, 1: refused by our library, served as 2; 2: TLS 1.2 and later; 3: TLS 1.3.
    pub tls_min_version: u8,
    /// Whether stats tell of a crawler and of an LRU maintainer. Here the cleaner is both, and always there.
    pub tells_crawler: bool,
    /// As above.
    pub tells_maintainer: bool,
    /// Bytes of output that TLS holds for a connection at most.
    pub tls_buffer_bytes: usize,
    /// Bytes of replies that wait, over all workers, in memcached's measure of [`REPLY_BYTES`] each; 0 for no limit but -m's.
    pub reply_bytes: usize,
    /// What has no effect, as written, and why.
    pub ignored: Vec<(String, &'static str)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            maxconns_fast: true,
            idle_secs: 0,
            watcher_bytes: 256 << 10,
            ext_path: None,
            tls_chain: None,
            tls_key: None,
            tls_ca: None,
            tls_verify: 0,
            tls_min_version: 2,
            tls_buffer_bytes: 16 << 10,
            reply_bytes: 0,
            tells_crawler: true,
            tells_maintainer: true,
            ignored: Vec::new(),
        }
    }
}

/// What memcached counts for a reply that waits, whatever its length.
pub(crate) const REPLY_BYTES: usize = 1024;

const NO_SLABS: &str = "memory is a log, without slabs";
const NO_SEGMENTED_LRU: &str = "the rank is chosen by tenant (--config), and the cleaner is always there";
const OWN_INDEX: &str = "the index grows by itself";
const OWN_FLASH: &str = "our flash tier has no such knob";
const OWN_BUFFERS: &str = "connections draw on -m";
const OWN_LOG: &str = "watchers' lines are made where they happen";
const NOT_HERE: &str = "not supported";

/// Names that are accepted and do nothing, and why. `no_` before a name is accepted with it.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("hashpower", OWN_INDEX),
    ("hash_algorithm", OWN_INDEX),
    ("hashexpand", OWN_INDEX),
    ("tail_repair_time", NO_SEGMENTED_LRU),
    ("lru_crawler", NO_SEGMENTED_LRU),
    ("lru_crawler_sleep", NO_SEGMENTED_LRU),
    ("lru_crawler_tocrawl", NO_SEGMENTED_LRU),
    ("lru_maintainer", NO_SEGMENTED_LRU),
    ("hot_lru_pct", NO_SEGMENTED_LRU),
    ("warm_lru_pct", NO_SEGMENTED_LRU),
    ("hot_max_factor", NO_SEGMENTED_LRU),
    ("warm_max_factor", NO_SEGMENTED_LRU),
    ("temporary_ttl", NO_SEGMENTED_LRU),
    ("slab_reassign", NO_SLABS),
    ("slab_automove", NO_SLABS),
    ("slab_automove_ratio", NO_SLABS),
    ("slab_automove_window", NO_SLABS),
    ("slab_automove_freeratio", NO_SLABS),
    ("slab_chunk_max", NO_SLABS),
    ("slab_sizes", NO_SLABS),
    ("track_sizes", "stats sizes looks when it is asked"),
    ("worker_logbuf_size", OWN_LOG),
    ("inline_ascii_resp", OWN_BUFFERS),
    ("modern", "nothing is left to turn on"),
    ("drop_privileges", NOT_HERE),
    ("relaxed_privileges", "no system calls are forbidden"),
    ("sock_cookie_id", NOT_HERE),
    ("ext_page_size", "see --flash-segment"),
    ("ext_wbuf_size", OWN_FLASH),
    ("ext_threads", OWN_FLASH),
    ("ext_io_depth", OWN_FLASH),
    ("ext_item_size", "see --admission"),
    ("ext_item_age", "see --admission"),
    ("ext_low_ttl", "see --admission"),
    ("ext_recache_rate", "what is hit on flash again and again comes back to DRAM"),
    ("ext_compact_under", OWN_FLASH),
    ("ext_drop_under", OWN_FLASH),
    ("ext_drop_unread", OWN_FLASH),
    ("ext_max_frag", OWN_FLASH),
    ("ext_max_sleep", OWN_FLASH),
    ("ssl_session_cache", "sessions are resumed by tickets"),
    ("ssl_kernel_tls", NOT_HERE),
    ("ssl_keyformat", "keys are read as PEM"),
    ("ssl_ciphers", "the library's choice of ciphers is used"),
];

impl Options {
    /// Reads the words behind every -o.
    pub fn parse(extended: &[String]) -> Result<Options> {
        let mut options = Options::default();
        for word in extended.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Result<()> {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let text = || value.map(str::to_owned).with_context(|| format!("-o {name}: write {name}=VALUE"));
        let number = || -> Result<u32> {
            let value = text()?;
            value.parse().ok().with_context(|| format!("-o {name}={value}: take a whole number"))
        };
        match name {
            "maxconns_fast" => self.maxconns_fast = true,
            "no_maxconns_fast" => self.maxconns_fast = false,
            "idle_timeout" => self.idle_secs = number()?,
            "watcher_logbuf_size" => self.watcher_bytes = number()? as usize * 1024,
            "ext_path" => {
                let value = text()?;
                let (path, size) = value.split_once(':').with_context(|| {
                    format!("-o ext_path={value}: write ext_path=PATH:SIZE, such as ext_path=/mnt/ssd/cache:10G")
                })?;
                // what follows the size names a tier of extstore's, which we have none of
                let size = size.split(':').next().unwrap_or(size);
                if self.ext_path.is_some() {
                    bail!("-o ext_path: one flash file is supported");
                }
                self.ext_path = Some((path.to_owned(), size.to_owned()));
            }
            "read_buf_mem_limit" | "resp_obj_mem_limit" => self.reply_bytes = (number()? as usize) << 20,
            "ssl_wbuf_size" => {
                let kib = Some(number()?).filter(|kib| (1..=1 << 20).contains(kib));
                self.tls_buffer_bytes =
                    kib.with_context(|| format!("-o {word}: take 1 to 1048576 (KiB)"))? as usize * 1024;
            }
            "ssl_chain_cert" => self.tls_chain = Some(text()?),
            "ssl_key" => self.tls_key = Some(text()?),
            "ssl_ca_cert" => self.tls_ca = Some(text()?),
            "ssl_verify_mode" => {
                self.tls_verify = u8::try_from(number()?)
                    .ok()
                    .filter(|mode| *mode <= 3)
                    .with_context(|| format!("-o {word}: take 0 to 3"))?;
            }
            "ssl_min_version" => {
                self.tls_min_version = u8::try_from(number()?)
                    .ok()
                    .filter(|version| *version <= 3)
                    .with_context(|| format!("-o {word}: take 0 to 3 (TLS 1.0 to 1.3)"))?;
            }
            _ => {
                let plain = name.strip_prefix("no_").unwrap_or(name);
                let known = WITHOUT_EFFECT.iter().find(|(known, _)| *known == plain);
                let (_, why) = known.with_context(|| format!("-o {name}: there is no such option"))?;
                self.ignored.push((word.to_owned(), why));
                match plain {
                    "lru_crawler" if value.is_none() => self.tells_crawler = plain == name,
                    "lru_maintainer" => self.tells_maintainer = plain == name,
                    "modern" => (self.tells_crawler, self.tells_maintainer) = (plain == name, plain == name),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(&[text.to_owned()])
    }

    #[test]
    fn options_are_read_and_those_without_effect_say_why() {
        let options = parse("idle_timeout=3,no_lru_crawler,ext_path=/mnt/x:64m:old,slab_chunk_max=16").unwrap();
        assert_eq!((options.idle_secs, options.ext_path), (3, Some(("/mnt/x".to_owned(), "64m".to_owned()))));
        let ignored: Vec<&str> = options.ignored.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(ignored, ["no_lru_crawler", "slab_chunk_max=16"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("wings", "wings"),
            ("idle_timeout=x", "whole number"),
            ("ext_path=/x", "ext_path=PATH:SIZE"),
            ("ssl_min_version=9", "0 to 3"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
