//! The server: flags, configuration, sessions, drivers, stats. Glue: nothing here decides what stays in the cache.

#![deny(unsafe_code)]

mod admin;
mod auth;
mod awake;
mod background;
mod binary;
mod config;
mod detail;
mod driver;
mod flags;
mod lifecycle;
mod limits;
mod listen;
mod machine;
mod meta;
mod metrics;
mod operator;
mod options;
mod output;
mod patient;
mod priority;
mod restart;
mod rewrite;
mod serve;
mod session;
mod shared;
mod stats;
mod telling;
mod tenancy;
mod tls;
mod watch;
mod wear;

pub use admin::{AdminAt, AdminConfig};
pub use config::{
    Config, Dialect, FlashPath, Security, TenantsFile, flash_settings, parse_size, parse_tenants, read_tenants,
    write_budget,
};
pub use driver::Driver;
pub use flags::Flags;
pub use lifecycle::{Running, start, start_on};
pub use restart::Restart;
pub use session::{Arrival, Connection, Slot, Wanted};
pub use shared::{Peer, Server};
pub use stats::COUNT_KEYS;

/// What `version` answers: memcached's version whose protocol is spoken, then ours.
pub const VERSION: &str = concat!("1.6.45-flashare-", env!("CARGO_PKG_VERSION"));
