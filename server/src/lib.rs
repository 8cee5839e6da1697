//! The server: flags, configuration, sessions, drivers, stats. Glue: nothing here decides what stays in the cache.

#![forbid(unsafe_code)]

mod background;
mod config;
mod driver;
mod flags;
mod lifecycle;
mod meta;
mod operator;
mod serve;
mod session;
mod stats;

pub use config::{Config, FlashPath, flash_settings, parse_size, parse_tenants, read_tenants};
pub use flags::Flags;
pub use lifecycle::{Running, start};
pub use session::{Connection, Slot, Wanted};
pub use stats::{COUNT_KEYS, Server};

/// What `version` answers: memcached's version whose protocol is spoken, then ours.
pub const VERSION: &str = concat!("1.6.45-flashare-", env!("CARGO_PKG_VERSION"));
