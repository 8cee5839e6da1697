//! Drivers: what moves bytes between sockets, flash and sessions.

mod flash_reads;
mod tokio;
mod udp;
mod wire;

pub(crate) use flash_reads::FlashReads;
pub(crate) use tokio::{Incoming, Worker, WorkerParts};
pub(crate) use udp::UdpListener;
pub(crate) use wire::Accepted;
