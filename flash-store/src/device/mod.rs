//! What the flash tier writes to and reads from. All transfers are whole pages at page-aligned offsets.

mod file;
mod memory;

use std::io;
use std::os::fd::RawFd;

pub use file::{FileDevice, JournalInFile, OpenError};
pub use memory::MemoryDevice;

use crate::Page;

/// A block of storage. Calls block; whoever must not wait calls from a thread of its own.
pub trait Device: Send + Sync {
    /// Fills `pages` from byte offset `at`.
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()>;
    /// Writes `pages` at byte offset `at`.
    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()>;
    /// Makes what was written outlive a loss of power.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    /// The descriptor that it reads from, for drivers that read by themselves; None if it has none.
    fn descriptor(&self) -> Option<RawFd> {
        None
    }
    /// Bytes that it holds.
    fn bytes(&self) -> u64;
}
