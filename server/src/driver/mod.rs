//! Drivers perform what sessions ask for: receive, send, read flash. One trait's worth of duties, one file a driver.

mod flash_reads;
mod tokio;

pub(crate) use flash_reads::FlashReads;
pub(crate) use tokio::{Worker, WorkerParts};
