//! A preallocated file, opened for direct I/O where the file system has it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::device::Device;
use crate::format::{Owner, owner};
use crate::journal::JournalFile;
use crate::{FORMAT_VERSION, PAGE_BYTES, Page};

/// Why a path cannot serve as flash.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path names something that is neither a file nor a block device.
    #[error("{0} is a directory: name a file in it, such as {0}/flashare.flash")]
    Directory(String),
    /// The file holds something else.
    #[error(
        "{0} holds data that is not flashare's: name another file, or say --flash-format if what it holds is not needed"
    )]
    Foreign(String),
    /// The file holds flash of another version of ours.
    #[error(
        "{0} holds flash of format {1}, and this version writes {FORMAT_VERSION}: say --flash-format to begin anew, or name another file"
    )]
    OtherVersion(String, u32),
    /// A block device cannot grow.
    #[error("{0} has {1} bytes, not {2}: state at most that")]
    TooSmall(String, u64, u64),
    /// Path, bytes wanted, and bytes that could be had.
    #[error("{0}: there is no room for {1} bytes, only for {2}: state at most that, or name a file elsewhere")]
    NoSpace(String, u64, u64),
    /// Another process has it.
    #[error("{0} is in use by another server: give each server a file of its own")]
    InUse(String),
    /// The file system said no.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// What a path was opened as.
struct Opened {
    file: File,
    direct: bool,
    is_block: bool,
    /// Device and inode.
    name: (u64, u64),
    /// Keeps the lock.
    _plain: File,
}

/// A file or a block device.
pub struct FileDevice {
    path: PathBuf,
    bytes: u64,
    opened: RwLock<Arc<Opened>>,
    /// What was opened before: readers may hold the numbers of their descriptors.
    former: Mutex<Vec<Arc<Opened>>>,
}

impl FileDevice {
    /// Opens or creates `path` and allocates `bytes` for it. A file that holds anything but flash of this version is left alone, unless
    /// `overwrite` says that it may go.
    pub fn open(path: &Path, bytes: u64, overwrite: bool) -> Result<FileDevice, OpenError> {
        let opened = RwLock::new(Arc::new(Opened::new(path, bytes, overwrite)?));
        Ok(FileDevice { path: path.to_owned(), bytes, opened, former: Mutex::default() })
    }

    fn opened(&self) -> Arc<Opened> {
        Arc::clone(&self.opened.read())
    }

    /// Whether reads and writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.opened().direct
    }
}

impl Opened {
    fn new(path: &Path, bytes: u64, overwrite: bool) -> Result<Opened, OpenError> {
        let name = path.display().to_string();
        let io_error = |error| OpenError::Io(name.clone(), error);
        if path.is_dir() {
            return Err(OpenError::Directory(name));
        }
        let is_new = !path.exists();
        let mut plain = open(path, 0).map_err(io_error)?;
        if plain.try_lock().is_err() {
            return Err(OpenError::InUse(name));
        }
        let kind = plain.metadata().map_err(io_error)?;
        match owner(&first_page(&plain).map_err(io_error)?) {
            Owner::Nobody | Owner::Us => {}
            Owner::Version(_) | Owner::Other if overwrite => plain.write_all_at(&Page::ZERO.0, 0).map_err(io_error)?,
            Owner::Version(version) => return Err(OpenError::OtherVersion(name, version)),
            Owner::Other => return Err(OpenError::Foreign(name)),
        }
        let is_block = kind.file_type().is_block_device();
        if is_block {
            let has = plain.seek(io::SeekFrom::End(0)).map_err(io_error)?;
            if has < bytes {
                return Err(OpenError::TooSmall(name, has, bytes));
            }
        } else {
            let had = kind.len();
            if let Err(error) = resize(&plain, &kind, bytes) {
                // no disk is to be full of what was asked for in vain
                let _ = if is_new { std::fs::remove_file(path) } else { plain.set_len(had) };
                return Err(match error {
                    Unsized::NoSpace(room) => OpenError::NoSpace(name, bytes, room),
                    Unsized::Io(error) => io_error(error),
                });
            }
        }
        let direct = open(path, libc::O_DIRECT).ok().filter(|file| {
            let mut page = [Page::ZERO];
            file.read_exact_at(bytemuck::cast_slice_mut(&mut page), 0).is_ok()
        });
        let (file, direct) = match direct {
            Some(file) => (file, true),
            None => (plain.try_clone().map_err(io_error)?, false),
        };
        Ok(Opened { file, direct, is_block, name: (kind.dev(), kind.ino()), _plain: plain })
    }
}

fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

fn first_page(file: &File) -> io::Result<Page> {
    let mut page = Page::ZERO;
    let mut read = 0;
    while read < PAGE_BYTES {
        match file.read_at(&mut page.0[read..], read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    Ok(page)
}

/// Why a file has not got its size.
enum Unsized {
    /// There is room for so many bytes.
    NoSpace(u64),
    Io(io::Error),
}

/// Gives a file its size.
fn resize(file: &File, kind: &Metadata, bytes: u64) -> Result<(), Unsized> {
    const BLOCK_BYTES: u64 = 512; // of which the metadata counts, whatever the file system's are
    let system = rustix::fs::fstatvfs(file).map_err(|error| Unsized::Io(error.into()))?;
    let room = (system.f_bavail * system.f_frsize).saturating_add(kind.blocks() * BLOCK_BYTES);
    if bytes > room && bytes > kind.len() {
        return Err(Unsized::NoSpace(room));
    }
    let resized = file.set_len(bytes).and_then(|()| allocate(file, bytes));
    resized.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => Unsized::NoSpace(room),
        _ => Unsized::Io(error),
    })
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
        self.opened().file.read_exact_at(bytemuck::cast_slice_mut(pages), at)
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        self.opened().file.write_all_at(bytemuck::cast_slice(pages), at)
    }

    fn sync(&self) -> io::Result<()> {
        self.opened().file.sync_data()
    }

    fn discard(&self, at: u64, bytes: u64) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        let opened = self.opened();
        if opened.is_block {
            // a block device takes that for a discard; a file keeps its space
            fallocate(&opened.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, bytes)?;
        }
        Ok(opened.is_block)
    }

    fn descriptor(&self, at: u64) -> Option<(RawFd, u64)> {
        Some((self.opened.read().file.as_raw_fd(), at))
    }

    fn reopen(&self, _part: usize) -> io::Result<bool> {
        let found = std::fs::metadata(&self.path)?;
        if self.opened().name == (found.dev(), found.ino()) {
            return Ok(false); // it is what we have open
        }
        let opened = Opened::new(&self.path, self.bytes, false).map_err(io::Error::other)?;
        let former = std::mem::replace(&mut *self.opened.write(), Arc::new(opened));
        self.former.lock().push(former);
        Ok(true)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A journal in a file of its own.
pub struct JournalInFile(File);

impl JournalInFile {
    /// Opens the file, if it is there.
    pub fn open(path: &Path) -> io::Result<Option<JournalInFile>> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Some(JournalInFile(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, of so many bytes.
    pub fn create(path: &Path, bytes: u64) -> io::Result<JournalInFile> {
        let file = open(path, 0)?;
        file.set_len(bytes)?;
        allocate(&file, bytes)?;
        Ok(JournalInFile(file))
    }
}

impl JournalFile for JournalInFile {
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn void(&self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.sync_all()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_on_the_disk_takes_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        FileDevice::open(&old, 1 << 20, false).unwrap().write(4096, &[Page([7; PAGE_BYTES])]).unwrap();
        for path in [&new, &old] {
            let Err(OpenError::NoSpace(_, wanted, room)) = FileDevice::open(path, 1 << 60, false) else {
                panic!("there is room for an exbibyte")
            };
            assert!(wanted == 1 << 60 && room < wanted);
        }
        assert!(!new.exists());
        let mut page = [Page::ZERO];
        assert_eq!(std::fs::metadata(&old).unwrap().len(), 1 << 20);
        FileDevice::open(&old, 1 << 20, false).unwrap().read(4096, &mut page).unwrap();
        assert_eq!(page[0].0[0], 7);
    }
}
