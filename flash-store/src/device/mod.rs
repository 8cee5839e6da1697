//! What the flash tier writes to and reads from. All transfers are whole pages at page-aligned offsets.

mod file;
mod joined;
mod memory;

use std::io;
use std::os::fd::RawFd;

pub use file::{FileDevice, JournalInFile, OpenError};
pub use joined::{JoinedDevice, segments_of};
pub use memory::MemoryDevice;

use crate::Page;

/// A block of storage. Calls block; whoever must not wait calls from a thread of its own.
pub trait Device: Send + Sync {
    /// Fills `pages` from byte offset `at`.
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()>;
    /// The same into pages that are handed over and come back; they are lost if the device does not answer.
    fn read_into(&self, at: u64, mut pages: Vec<Page>) -> io::Result<Vec<Page>> {
        self.read(at, &mut pages).map(|()| pages)
    }
    /// So many pages will be read from `at` next ([`Device::read_into`]): whoever can reads them already.
    fn will_read(&self, _at: u64, _pages: usize) {}
    /// Writes `pages` at byte offset `at`.
    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()>;
    /// Makes what was written outlive a loss of power.
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    /// Tells the device that what lies there is not needed any more. Returns whether it cares.
    fn discard(&self, _at: u64, _bytes: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// The descriptor that byte offset `at` is read from, and the offset there, for drivers that read by themselves; None if it has
    /// none.
    fn descriptor(&self, _at: u64) -> Option<(RawFd, u64)> {
        None
    }
    /// Where the superblock of each device that it is made of lies.
    fn first_pages(&self) -> Vec<u64> {
        vec![0]
    }
    /// Looks whether one of the devices that it is made of is there again, after it failed. Returns whether it is another one.
    fn reopen(&self, _part: usize) -> io::Result<bool> {
        Ok(false)
    }
    /// Bytes that it holds.
    fn bytes(&self) -> u64;
}
