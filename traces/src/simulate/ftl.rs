//! What an SSD makes of writes: a page-mapped flash translation layer with greedy garbage collection, as a model.
//!
//! The host writes logical pages; each goes to the next free page of the block that is being filled, and its old place is void.
//! When free blocks run short, the block with the fewest valid pages is emptied: those are written again, and it is erased.
//! Cells are written once for each page of the host's and once for each that had to move: their ratio is the device's own write
//! amplification. Beside what the cache writes, the same number of pages is written at random to a second drive of this kind.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use cache::{Device, MemoryDevice, PAGE_BYTES, Page, mix};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const NOWHERE: u32 = u32::MAX;
/// Blocks that are kept free, for moving.
const FREE_MIN: usize = 2;
/// Times that the random writer writes the whole drive before it is measured: until then it has not come to rest.
const RANDOM_ROUNDS: u64 = 3;

/// What a drive is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drive {
    /// Bytes that the host sees.
    pub(super) bytes: u64,
    /// Bytes beyond those, in percent of them.
    pub(super) spare_percent: f64,
    /// Bytes that are erased at a time.
    pub(super) erase_block_bytes: u64,
}

/// The translation layer.
struct Ftl {
    /// Physical page of each logical one, and the other way.
    places: Vec<u32>,
    owners: Vec<u32>,
    valid: Vec<u32>,
    free: Vec<u32>,
    /// Block and page in it that the host's writes, and those of pages that move, go to next.
    fronts: [(u32, u32); 2],
    block_pages: u32,
    host_pages: u64,
    cell_pages: u64,
}

const HOST: usize = 0;
const MOVING: usize = 1;

impl Ftl {
    fn new(drive: &Drive) -> Ftl {
        let page = PAGE_BYTES as u64;
        let block_pages = (drive.erase_block_bytes / page).max(1);
        let logical = drive.bytes.div_ceil(page);
        let physical = (logical as f64 * (1.0 + drive.spare_percent / 100.0)) as u64;
        // what is being filled and what is kept free comes on top: of a real drive it is a small part
        let blocks = physical.div_ceil(block_pages) + 2 + FREE_MIN as u64;
        let mut free: Vec<u32> = (0..blocks as u32).rev().collect();
        let fronts = [(free.pop().expect("there are more"), 0), (free.pop().expect("there are more"), 0)];
        Ftl {
            places: vec![NOWHERE; logical as usize],
            owners: vec![NOWHERE; (blocks * block_pages) as usize],
            valid: vec![0; blocks as usize],
            free,
            fronts,
            block_pages: block_pages as u32,
            host_pages: 0,
            cell_pages: 0,
        }
    }

    fn write(&mut self, logical: u64) {
        self.host_pages += 1;
        self.put(logical as u32, HOST);
        while self.free.len() < FREE_MIN {
            self.collect();
        }
    }

    fn put(&mut self, logical: u32, front: usize) {
        let old = std::mem::replace(&mut self.places[logical as usize], NOWHERE);
        if old != NOWHERE {
            self.owners[old as usize] = NOWHERE;
            self.valid[(old / self.block_pages) as usize] -= 1;
        }
        if self.fronts[front].1 == self.block_pages {
            self.fronts[front] = (self.free.pop().expect("blocks are freed in time"), 0);
        }
        let (block, page) = &mut self.fronts[front];
        let place = *block * self.block_pages + *page;
        *page += 1;
        self.valid[*block as usize] += 1;
        self.owners[place as usize] = logical;
        self.places[logical as usize] = place;
        self.cell_pages += 1;
    }

    /// Empties the block that has the least to move.
    fn collect(&mut self) {
        let in_use = |block: &u32| self.fronts.iter().all(|front| front.0 != *block) && !self.free.contains(block);
        let victim = (0..self.valid.len() as u32).filter(in_use).min_by_key(|block| self.valid[*block as usize]);
        let victim = victim.expect("a drive has more blocks than fronts");
        for place in victim * self.block_pages..(victim + 1) * self.block_pages {
            let owner = self.owners[place as usize];
            if owner != NOWHERE {
                self.put(owner, MOVING);
            }
        }
        self.free.insert(0, victim);
    }

    fn begin_to_count(&mut self) {
        (self.host_pages, self.cell_pages) = (0, 0);
    }

    fn amplification(&self) -> f64 {
        self.cell_pages as f64 / self.host_pages.max(1) as f64
    }
}

/// A device in memory over a drive.
pub(super) struct FtlDevice {
    memory: MemoryDevice,
    drive: Drive,
    ours: Mutex<Ftl>,
    written: AtomicU64,
}

/// What a drive made of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FtlFigures {
    /// Bytes that the cache wrote.
    pub host_bytes: u64,
    /// Bytes that the drive wrote to its cells for each of them.
    pub amplification: f64,
    /// The same, of a writer of as many random pages.
    pub random_amplification: f64,
    /// The drive's spare part, in percent.
    pub spare_percent: f64,
    /// Bytes that it erases at a time.
    pub erase_block_bytes: u64,
}

impl FtlDevice {
    /// A drive that has been written full before.
    pub(super) fn new(drive: Drive) -> FtlDevice {
        let mut ours = Ftl::new(&drive);
        (0..ours.places.len() as u64).for_each(|page| ours.write(page));
        ours.begin_to_count();
        FtlDevice { memory: MemoryDevice::new(drive.bytes), drive, ours: Mutex::new(ours), written: AtomicU64::new(0) }
    }

    pub(super) fn figures(&self) -> FtlFigures {
        let ours = self.ours.lock();
        let mut random = Ftl::new(&self.drive);
        let pages = random.places.len() as u64;
        for n in 0..pages * RANDOM_ROUNDS {
            random.write(mix(n) % pages);
        }
        random.begin_to_count();
        for n in 0..ours.host_pages {
            random.write(mix(!n) % pages);
        }
        FtlFigures {
            host_bytes: self.written.load(Ordering::Relaxed),
            amplification: ours.amplification(),
            random_amplification: random.amplification(),
            spare_percent: self.drive.spare_percent,
            erase_block_bytes: self.drive.erase_block_bytes,
        }
    }
}

impl Device for FtlDevice {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        self.memory.read(at, pages)
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        let mut ours = self.ours.lock();
        let first = at / PAGE_BYTES as u64;
        (first..first + pages.len() as u64).for_each(|page| ours.write(page));
        self.written.fetch_add(size_of_val(pages) as u64, Ordering::Relaxed);
        self.memory.write(at, pages)
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVE: Drive = Drive { bytes: 64 << 20, spare_percent: 10.0, erase_block_bytes: 1 << 20 };

    #[test]
    fn a_sequential_writer_makes_the_drive_move_nothing() {
        let mut ftl = Ftl::new(&DRIVE);
        let pages = DRIVE.bytes / PAGE_BYTES as u64;
        (0..pages * 6).for_each(|n| ftl.write(n % pages));
        assert!(ftl.amplification() < 1.01, "{}", ftl.amplification());
    }

    /// Greedy collection under uniformly random writes, at rest: about (1 + s) / (2 s) for a small spare share s.
    #[test]
    fn a_random_writer_makes_it_move_much() {
        let mut ftl = Ftl::new(&DRIVE);
        let pages = DRIVE.bytes / PAGE_BYTES as u64;
        (0..pages * 4).for_each(|n| ftl.write(mix(n) % pages));
        ftl.begin_to_count();
        (0..pages * 4).for_each(|n| ftl.write(mix(!n) % pages));
        let found = ftl.amplification();
        assert!((3.0..6.5).contains(&found), "{found}");
    }

    #[test]
    fn every_logical_page_keeps_one_place_whatever_moves() {
        let mut ftl = Ftl::new(&DRIVE);
        let pages = DRIVE.bytes / PAGE_BYTES as u64;
        (0..pages * 2).for_each(|n| ftl.write(mix(n) % pages));
        for (logical, place) in ftl.places.iter().enumerate().filter(|(_, place)| **place != NOWHERE) {
            assert_eq!(ftl.owners[*place as usize], logical as u32);
        }
        let held = ftl.places.iter().filter(|place| **place != NOWHERE).count();
        assert_eq!(ftl.valid.iter().sum::<u32>() as usize, held);
    }
}
