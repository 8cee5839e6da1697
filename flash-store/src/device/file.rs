//! A preallocated file, opened for direct I/O where the file system has it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::device::Device;
use crate::format::may_be_overwritten;
use crate::{PAGE_BYTES, Page};

/// Why a path cannot serve as flash.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path names something that is neither a file nor a block device.
    #[error("{0} is a directory: name a file in it, such as {0}/flashare.flash")]
    Directory(String),
    /// The file holds something else.
    #[error("{0} holds data that is not flashare's: name another file, or remove it if it is not needed")]
    Foreign(String),
    /// Another process has it.
    #[error("{0} is in use by another server: give each server a file of its own")]
    InUse(String),
    /// The file system said no.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// A file or a block device.
pub struct FileDevice {
    file: File,
    bytes: u64,
    direct: bool,
    /// Keeps the lock.
    _plain: File,
}

impl FileDevice {
    /// Opens or creates `path` and allocates `bytes` for it. A file that holds anything but flash of ours is left alone.
    pub fn open(path: &Path, bytes: u64) -> Result<FileDevice, OpenError> {
        let name = path.display().to_string();
        let io_error = |error| OpenError::Io(name.clone(), error);
        if path.is_dir() {
            return Err(OpenError::Directory(name));
        }
        let plain = open(path, 0).map_err(io_error)?;
        if plain.try_lock().is_err() {
            return Err(OpenError::InUse(name));
        }
        let kind = plain.metadata().map_err(io_error)?;
        if kind.len() > 0 && !holds_ours(&plain).map_err(io_error)? {
            return Err(OpenError::Foreign(name));
        }
        if !kind.file_type().is_block_device() {
            plain.set_len(bytes).map_err(io_error)?;
            allocate(&plain, bytes).map_err(io_error)?;
        }
        let direct = open(path, libc::O_DIRECT).ok().filter(|file| {
            let mut page = [Page::ZERO];
            file.read_exact_at(bytemuck::cast_slice_mut(&mut page), 0).is_ok()
        });
        let (file, direct) = match direct {
            Some(file) => (file, true),
            None => (plain.try_clone().map_err(io_error)?, false),
        };
        Ok(FileDevice { file, bytes, direct, _plain: plain })
    }

    /// Whether reads and writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

fn holds_ours(file: &File) -> io::Result<bool> {
    let mut page = Page::ZERO;
    let mut read = 0;
    while read < PAGE_BYTES {
        match file.read_at(&mut page.0[read..], read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    Ok(may_be_overwritten(&page))
}

/// Reserves the space now, so that a full disk is an error at start and not in the middle of a write. File systems that
/// cannot reserve keep a sparse file.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).map_err(io::Error::from) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other,
    }
}

impl Device for FileDevice {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        self.file.read_exact_at(bytemuck::cast_slice_mut(pages), at)
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        self.file.write_all_at(bytemuck::cast_slice(pages), at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
