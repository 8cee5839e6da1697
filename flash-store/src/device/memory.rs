//! A device in memory, for the simulator and for tests. Pages that were never written take no memory.

use std::io;

use parking_lot::RwLock;

use crate::device::Device;
use crate::{PAGE_BYTES, Page};

const CHUNK_PAGES: usize = 64;

/// Storage in memory, zero until written.
pub struct MemoryDevice {
    chunks: Box<[RwLock<Vec<Page>>]>,
}

impl MemoryDevice {
    /// A blank device of so many bytes, rounded up.
    pub fn new(bytes: u64) -> MemoryDevice {
        let chunks = bytes.div_ceil((CHUNK_PAGES * PAGE_BYTES) as u64);
        MemoryDevice { chunks: (0..chunks).map(|_| RwLock::default()).collect() }
    }

    fn chunk_of(&self, page: u64) -> io::Result<(&RwLock<Vec<Page>>, usize)> {
        let chunk = self.chunks.get((page / CHUNK_PAGES as u64) as usize);
        let chunk =
            chunk.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the device"))?;
        Ok((chunk, (page % CHUNK_PAGES as u64) as usize))
    }
}

impl Device for MemoryDevice {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        for (n, page) in pages.iter_mut().enumerate() {
            let (chunk, slot) = self.chunk_of(at / PAGE_BYTES as u64 + n as u64)?;
            *page = chunk.read().get(slot).copied().unwrap_or(Page::ZERO);
        }
        Ok(())
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        for (n, page) in pages.iter().enumerate() {
            let (chunk, slot) = self.chunk_of(at / PAGE_BYTES as u64 + n as u64)?;
            let mut chunk = chunk.write();
            if chunk.is_empty() {
                chunk.resize(CHUNK_PAGES, Page::ZERO);
            }
            chunk[slot] = *page;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK_PAGES * PAGE_BYTES) as u64
    }
}
