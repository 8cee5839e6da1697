//! What the machine lends to a comparison: memory limits, and the kernel's figures of block devices. Each is done without where the
//! machine does not allow it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where control groups are mounted: version 1's memory controller, version 2.
const MEMORY_V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";
/// Bytes of a sector in the kernel's figures, whatever the device's.
const SECTOR_BYTES: u64 = 512;

/// A control group that limits memory, page cache counted. It goes when this is dropped.
pub(super) struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    pub(super) fn new(name: &str, bytes: u64) -> Result<MemoryLimit> {
        let (root, file) = match Path::new(MEMORY_V1).is_dir() {
            true => (MEMORY_V1, "memory.limit_in_bytes"),
            false => (V2, "memory.max"),
        };
        let folder = Path::new(root).join(format!("flashare-compare-{}-{name}", std::process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let limit = MemoryLimit { folder };
        let place = limit.folder.join(file);
        fs::write(&place, bytes.to_string()).with_context(|| place.display().to_string())?;
        Ok(limit)
    }

    /// The file that a process writes its number to in order to be limited.
    pub(super) fn entry(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // the kernel lets it go when its last process is through: a moment later, maybe
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Bytes that were written to the block device that holds a folder, since the machine started. None where the kernel does not say:
/// a file system in memory, or on the network.
pub(super) fn block_bytes_written(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}
