//! Flags: memcached's letters as they are, and long options of our own.

use std::path::PathBuf;

use clap::Parser;

/// A memcached replacement that keeps hot data in DRAM and warm data on an SSD, shared between tenants.
#[derive(Parser, Clone, Debug)]
#[command(name = "flashare", version = crate::VERSION)]
pub struct Flags {
    /// TCP port to listen on (0: one that the system picks)
    #[arg(short = 'p', long = "port", value_name = "NUM", default_value_t = 11211)]
    pub port: u16,
    /// Address to listen on
    #[arg(short = 'l', long = "listen", value_name = "ADDR", default_value = "127.0.0.1")]
    pub listen: String,
    /// Memory for everything that grows with the content, in MiB or with a unit
    #[arg(short = 'm', long = "memory-limit", value_name = "SIZE", default_value = "64")]
    pub memory: String,
    /// Connections at once
    #[arg(short = 'c', long = "conn-limit", value_name = "NUM", default_value_t = 1024)]
    pub connections: usize,
    /// Worker threads
    #[arg(short = 't', long = "threads", value_name = "NUM", default_value_t = 4)]
    pub threads: usize,
    /// Largest object: 1024 bytes to 128m
    #[arg(short = 'I', long = "max-item-size", value_name = "SIZE", default_value = "1m")]
    pub item_size: String,
    /// Return an error when memory runs out, rather than evict
    #[arg(short = 'M', long = "disable-evictions")]
    pub no_evict: bool,
    /// Log more; repeat for more still
    #[arg(short = 'v', long = "verbose", action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// TOML file that names the tenants
    #[arg(long, value_name = "FILE", help_heading = "flashare")]
    pub config: Option<PathBuf>,
    /// File or block device to keep warm data on, and how much of it to use
    #[arg(long, value_name = "PATH:SIZE", help_heading = "flashare")]
    pub flash: Option<String>,
    /// DRAM only
    #[arg(long, conflicts_with = "flash", help_heading = "flashare")]
    pub no_flash: bool,
    /// Folder for the embedded flash file of 1 GiB that is used when --flash is not given
    #[arg(long, value_name = "DIR", help_heading = "flashare")]
    pub state_dir: Option<PathBuf>,
    /// Size of a flash segment [default: by flash and memory size]
    #[arg(long, value_name = "SIZE", help_heading = "flashare")]
    pub flash_segment: Option<String>,
    /// Mean object size that the flash index is made for, in bytes [default: 320, more where the index would outgrow -m]
    #[arg(long, value_name = "BYTES", help_heading = "flashare")]
    pub flash_object_size: Option<usize>,
    /// What is admitted to flash: svm (a model a tenant), all, none
    #[arg(long, value_name = "RULE", default_value = "svm", help_heading = "flashare")]
    pub admission: String,
    /// Score that a model's verdict must exceed: higher writes less
    #[arg(long, value_name = "SCORE", default_value_t = 0.0, allow_negative_numbers = true, help_heading = "flashare")]
    pub threshold: f32,
}
