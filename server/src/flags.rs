//! Flags: memcached's letters as they are, and long options of our own.

use std::path::PathBuf;

use clap::Parser;

const OURS: &str = "flashare's own";
const UNUSED: &str = "memcached's, without effect here";

/// A memcached replacement that keeps hot data in DRAM and warm data on an SSD, shared between tenants.
#[derive(Parser, Clone, Debug)]
#[command(name = "flashare", version = crate::VERSION, disable_version_flag = true, args_override_self = true)]
#[command(next_help_heading = "memcached's")]
pub struct Flags {
    /// TCP port to listen on (0: none, -1: one that the system picks) [default: that of -U, else 11211]
    #[arg(short = 'p', long = "port", value_name = "NUM", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub port: Option<i32>,
    /// UDP port to listen on (0: none, -1: one that the system picks)
    #[arg(short = 'U', long = "udp-port", value_name = "NUM", default_value_t = 0, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub udp_port: i32,
    /// Unix socket to listen on, instead of the network
    #[arg(short = 's', long = "unix-socket", value_name = "FILE")]
    pub unix_socket: Option<PathBuf>,
    /// Access mask of the Unix socket, in octal
    #[arg(short = 'a', long = "unix-mask", value_name = "MASK", default_value = "700")]
    pub unix_mask: String,
    /// Enable the command "shutdown"
    #[arg(short = 'A', long = "enable-shutdown")]
    pub shutdown: bool,
    /// Addresses to listen on: comma separated, HOST or HOST:PORT, after prefixes such as
    /// `proto[ascii]`:, notls:, btls: (no client certificate) and mtls: (client certificate); repeat for more
    #[arg(short = 'l', long = "listen", value_name = "ADDR", default_value = "127.0.0.1")]
    pub listen: Vec<String>,
    /// Run in the background
    #[arg(short = 'd', long = "daemon")]
    pub daemon: bool,
    /// Maximise the core file limit
    #[arg(short = 'r', long = "enable-coredumps")]
    pub coredumps: bool,
    /// Become this user when started as root
    #[arg(short = 'u', long = "user", value_name = "USER")]
    pub user: Option<String>,
    /// Memory for everything that grows with the content, in MiB or with a unit
    #[arg(short = 'm', long = "memory-limit", value_name = "SIZE", default_value = "64")]
    pub memory: String,
    /// Return an error when memory runs out, rather than evict
    #[arg(short = 'M', long = "disable-evictions")]
    pub no_evict: bool,
    /// Connections at once
    #[arg(short = 'c', long = "conn-limit", value_name = "NUM", default_value_t = 1024)]
    pub connections: usize,
    /// Lock all memory into RAM
    #[arg(short = 'k', long = "lock-memory")]
    pub lock_memory: bool,
    /// Log more; repeat for more still
    #[arg(short = 'v', long = "verbose", action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print version and exit
    #[arg(short = 'V', long = "version", action = clap::ArgAction::Version)]
    pub print_version: Option<bool>,
    /// Print the licence and exit
    #[arg(short = 'i', long = "license")]
    pub license: bool,
    /// Write the process id to this file
    #[arg(short = 'P', long = "pidfile", value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Character that ends the prefix of a key, for stats by prefix; turns them on
    #[arg(short = 'D', value_name = "CHAR")]
    pub prefix_end: Option<char>,
    /// Worker threads; 4, or as many as there are cores if those are fewer
    #[arg(short = 't', long = "threads", value_name = "NUM")]
    pub threads: Option<usize>,
    /// Requests that a connection may have served before others get their turn
    #[arg(short = 'R', long = "max-reqs-per-event", value_name = "NUM", default_value_t = 20)]
    pub requests_a_turn: usize,
    /// Give no CAS uniques
    #[arg(short = 'C', long = "disable-cas")]
    pub no_cas: bool,
    /// Connections that may wait to be accepted
    #[arg(short = 'b', long = "listen-backlog", value_name = "NUM", default_value_t = 1024)]
    pub backlog: i32,
    /// Protocol: ascii, binary or auto
    #[arg(short = 'B', long = "protocol", value_name = "NAME")]
    pub protocol: Option<String>,
    /// Largest object: 1024 bytes to 128m
    #[arg(short = 'I', long = "max-item-size", value_name = "SIZE", default_value = "1m")]
    pub item_size: String,
    /// Disable flush_all
    #[arg(short = 'F', long = "disable-flush-all")]
    pub no_flush: bool,
    /// Disable stats cachedump, stats detail and key listing
    #[arg(short = 'X', long = "disable-dumping")]
    pub no_dump: bool,
    /// Disable watch
    #[arg(short = 'W', long = "disable-watch")]
    pub no_watch: bool,
    /// Require authentication: ASCII protocol, against this file of lines user:password
    #[arg(short = 'Y', long = "auth-file", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Require SASL authentication (PLAIN), against the file that -Y names
    #[arg(short = 'S', long = "enable-sasl")]
    pub sasl: bool,
    /// File that keeps what is in memory over a clean stop. Remove FILE.meta after a run without -e
    #[arg(short = 'e', long = "memory-file", value_name = "FILE")]
    pub memory_file: Option<PathBuf>,
    /// Serve TLS; see the ssl_ options of -o
    #[arg(short = 'Z', long = "enable-ssl")]
    pub tls: bool,
    /// Extended options, comma separated; those that tune slabs or the LRU are accepted and have no effect
    #[arg(short = 'o', long = "extended", value_name = "NAME[=VALUE],...")]
    pub extended: Vec<String>,

    /// Huge pages: memory asks for them anyhow
    #[arg(short = 'L', long = "enable-largepages", help_heading = UNUSED)]
    pub large_pages: bool,
    /// Growth factor of slabs
    #[arg(short = 'f', long = "slab-growth-factor", value_name = "NUM", help_heading = UNUSED)]
    pub growth_factor: Option<f64>,
    /// Smallest slab chunk
    #[arg(short = 'n', long = "slab-min-size", value_name = "BYTES", help_heading = UNUSED)]
    pub slab_min_size: Option<u64>,
    /// Number of NAPI ids
    #[arg(short = 'N', long = "napi_ids", value_name = "NUM", help_heading = UNUSED)]
    pub napi_ids: Option<u32>,

    /// TOML file that names the tenants
    #[arg(long, value_name = "FILE", help_heading = OURS)]
    pub config: Option<PathBuf>,
    /// Who moves memory between tenants: curve (hit-rate curves), shadow (hits in shadow queues), worth (objects compete by what a byte of them
    /// earns), fixed (nobody), global (one order for all objects, no reservations) [default: what --config says, else curve]
    #[arg(long, value_name = "NAME", help_heading = OURS)]
    pub arbiter: Option<String>,
    /// Answer admin requests (JSON over HTTP) at ADDRESS:PORT or on this Unix socket: /healthz, /metrics, /tenants,
    /// /curves, /advice
    #[arg(long, value_name = "WHERE", help_heading = OURS)]
    pub admin: Option<String>,
    /// Seed of hashes and dice, for comparisons with simulate [default: a secret one; clients who know it can make keys collide]
    #[arg(long, value_name = "N", help_heading = OURS)]
    pub seed: Option<u64>,
    /// File with the token that admin requests have to show; a must beyond loopback
    #[arg(long, value_name = "FILE", help_heading = OURS, requires = "admin")]
    pub admin_token: Option<PathBuf>,
    /// File or block device to keep warm data on, and how much of it to use; again for more of them
    #[arg(long, value_name = "PATH:SIZE", help_heading = OURS)]
    pub flash: Vec<String>,
    /// Bytes a second that may be written to flash; what is beyond is not admitted [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub flash_write_rate: Option<String>,
    /// What may be written to flash: bytes for a time (200GB/day), drive writes a day (0.5dwpd), bytes for each byte that clients store
    /// (0.3x), or none for no budget. It is spent on the best of what there is [default: 0.5x for the rule svm without a --threshold, else
    /// none]
    #[arg(long, value_name = "BUDGET", help_heading = OURS)]
    pub flash_write_budget: Option<String>,
    /// Bytes a second that may be read from flash to recycle segments and to recover [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub flash_read_rate: Option<String>,
    /// How bytes are moved: uring, tokio, or auto, which is uring where the kernel allows it
    #[arg(long, value_name = "DRIVER", default_value = "auto", help_heading = OURS)]
    pub io: String,
    /// DRAM only
    #[arg(long, conflicts_with = "flash", help_heading = OURS)]
    pub no_flash: bool,
    /// Folder for the embedded flash file of 1 GiB that is used when --flash is not given
    #[arg(long, value_name = "DIR", help_heading = OURS)]
    pub state_dir: Option<PathBuf>,
    /// Size of a flash segment [default: by flash and memory size]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub flash_segment: Option<String>,
    /// Mean object size that the flash index is made for, in bytes [default: 320, more where the index would outgrow -m]
    #[arg(long, value_name = "BYTES", help_heading = OURS)]
    pub flash_object_size: Option<usize>,
    /// What a start believes of the flash's content: clean (that of a clean stop), crash (also what a journal vouches for after a
    /// crash), or never (nothing)
    #[arg(long, value_name = "WHEN", default_value = "clean", help_heading = OURS)]
    pub restart: String,
    /// When the journal of --restart crash is synced: os (outlives kill -9, not a loss of power), every so many milliseconds (a loss of
    /// power forgets that much), or always (before every change is answered)
    #[arg(long, value_name = "WHEN", default_value = "os", help_heading = OURS)]
    pub journal_sync: String,
    /// Size of the journal of --restart crash [default: a 256th of the flash, 1MiB to 32MiB]
    #[arg(long, value_name = "SIZE", help_heading = OURS)]
    pub flash_journal: Option<String>,
    /// Seconds that a clean stop may take to move what is in memory to flash; what was read goes first
    #[arg(long, value_name = "SECS", default_value_t = 10, help_heading = OURS)]
    pub stop_secs: u32,
    /// Overwrite what the flash file or device holds, if it is not this version's
    #[arg(long, help_heading = OURS)]
    pub flash_format: bool,
    /// What is admitted to flash: svm (a model a tenant), all, none, random:P, second-hit, small-fifo
    #[arg(long, value_name = "RULE", default_value = "svm", help_heading = OURS)]
    pub admission: String,
    /// Score that a model's verdict must exceed: higher writes less [default: whatever the write budget has room for; 0 without one]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = OURS)]
    pub threshold: Option<f32>,
    /// Threads that clean memory when one cannot keep up with what is stored, that one counted in [default: 1, and one for each two of the
    /// workers, as far as there are cores; 4 at most]
    #[arg(long, value_name = "NUM", help_heading = OURS)]
    pub cleaners: Option<usize>,
    /// Seconds after which memory that nobody used is idle, and its tenant's reservation is taxed for it (0: no tax)
    #[arg(long, value_name = "SECS", default_value_t = cache::IDLE_SECS, help_heading = OURS)]
    pub idle_tax: u32,
}
