//! memcached's protocol without I/O: bytes to [`Request`]s, outcomes to bytes. Nothing here reads a socket or a clock, or
//! allocates while it parses.

#![forbid(unsafe_code)]

pub mod binary;
mod command;
pub mod meta;
pub mod text;

pub use command::{KEY_BYTES_MAX, Keys, Reply, Request, Store, StoreVerb, VALUE_BYTES_STATED_MAX};
pub use meta::{Meta, MetaVerb};
