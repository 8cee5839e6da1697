//! Several devices as one: a run of whole segments on each.

use std::io;
use std::os::fd::RawFd;

use crate::device::Device;
use crate::{PAGE_BYTES, Page};

/// Where the first pages of the devices are found, one behind the other, beside the segments.
const FIRST_PAGES: u64 = 1 << 62;

/// One device's run.
struct Run {
    device: Box<dyn Device>,
    /// Where its segments begin, and where the next run's do.
    from: u64,
    to: u64,
}

/// Devices one behind the other. The first page of each is its superblock and lies apart ([`Device::first_pages`]).
pub struct JoinedDevice {
    runs: Vec<Run>,
}

impl JoinedDevice {
    /// Joins devices for segments of this size; what is left at the end of each is not used.
    pub fn new(devices: Vec<Box<dyn Device>>, segment_bytes: usize) -> JoinedDevice {
        let mut from = PAGE_BYTES as u64;
        let run = |device: Box<dyn Device>| {
            let to = from + u64::from(segments_of(device.bytes(), segment_bytes)) * segment_bytes as u64;
            let run = Run { device, from, to };
            from = to;
            run
        };
        JoinedDevice { runs: devices.into_iter().map(run).collect() }
    }

    fn run(&self, at: u64) -> io::Result<(&Run, u64)> {
        let (run, own) = match at {
            0 => (self.runs.first(), 0),
            FIRST_PAGES.. => (self.runs.get(((at - FIRST_PAGES) / PAGE_BYTES as u64) as usize), 0),
            _ => {
                let run = self.runs.iter().find(|run| (run.from..run.to).contains(&at));
                (run, run.map_or(0, |run| at - run.from + PAGE_BYTES as u64))
            }
        };
        Ok((run.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the last device"))?, own))
    }
}

/// Segments that fit a device behind its first page.
pub fn segments_of(bytes: u64, segment_bytes: usize) -> u32 {
    (bytes.saturating_sub(PAGE_BYTES as u64) / segment_bytes as u64) as u32
}

impl Device for JoinedDevice {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        let (run, own) = self.run(at)?;
        run.device.read(own, pages)
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        let (run, own) = self.run(at)?;
        run.device.write(own, pages)
    }

    fn sync(&self) -> io::Result<()> {
        // one that fails must not keep the others from it
        let synced: Vec<io::Result<()>> = self.runs.iter().map(|run| run.device.sync()).collect();
        synced.into_iter().collect()
    }

    fn discard(&self, at: u64, bytes: u64) -> io::Result<bool> {
        let (run, own) = self.run(at)?;
        run.device.discard(own, bytes)
    }

    fn descriptor(&self, at: u64) -> Option<(RawFd, u64)> {
        let (run, own) = self.run(at).ok()?;
        run.device.descriptor(own)
    }

    fn first_pages(&self) -> Vec<u64> {
        (0..self.runs.len() as u64).map(|number| FIRST_PAGES + number * PAGE_BYTES as u64).collect()
    }

    fn reopen(&self, part: usize) -> io::Result<bool> {
        self.runs[part].device.reopen(0)
    }

    fn bytes(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    #[test]
    fn segments_lie_one_behind_the_other_and_first_pages_apart() {
        const SEGMENT: usize = 64 << 10;
        let page = PAGE_BYTES as u64;
        let devices: Vec<Box<dyn Device>> =
            [3, 2].map(|count| Box::new(MemoryDevice::new(count * SEGMENT as u64 + page)) as _).into();
        let joined = JoinedDevice::new(devices, SEGMENT);
        for (number, at) in (1u8..).zip(joined.first_pages()) {
            joined.write(at, &[Page([number; PAGE_BYTES])]).unwrap();
        }
        let segments: Vec<u64> =
            (0..7).map(|n| page + n * SEGMENT as u64).take_while(|at| *at < joined.bytes()).collect();
        assert!(segments.len() >= 5);
        for (number, at) in (10u8..).zip(&segments) {
            joined.write(*at, &vec![Page([number; PAGE_BYTES]); SEGMENT / PAGE_BYTES]).unwrap();
        }
        let read = |at| {
            let mut pages = vec![Page::ZERO];
            joined.read(at, &mut pages).unwrap();
            pages[0].0[0]
        };
        let firsts: Vec<u8> = joined.first_pages().into_iter().map(read).collect();
        assert_eq!((read(0), firsts), (1, vec![1, 2]));
        for (number, at) in (10u8..).zip(&segments) {
            assert_eq!((read(*at), read(at + SEGMENT as u64 - page)), (number, number));
        }
    }
}
