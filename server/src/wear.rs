//! What the drives beneath the flash tier say they have written: by the kernel's count, and by NVMe's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `NVME_IOCTL_ADMIN_CMD` of linux/nvme_ioctl.h.
const ADMIN_COMMAND: u64 = 0xc048_4e41;
const GET_LOG_PAGE: u8 = 2;
const LOG_BYTES: usize = 512;
/// The log that every NVMe drive has (NVM Express base specification, SMART / health information).
const LOG_SMART: u32 = 0x02;
/// The log that drives after the Open Compute Project's datacenter specification have.
const LOG_OCP: u32 = 0xc0;
/// What that log ends with.
const OCP_NAME: [u8; 16] =
    [0xc5, 0xaf, 0x10, 0x28, 0xea, 0xbf, 0xf2, 0xa4, 0x9c, 0x4f, 0x6f, 0x7c, 0xc9, 0x14, 0xd5, 0xaf];
/// Bytes of one of SMART's data units.
const DATA_UNIT: u128 = 512_000;

/// What the drives have written. None where it cannot be read.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Wear {
    /// Bytes that the kernel wrote to them since the machine was started, for anybody.
    pub(crate) kernel: Option<u128>,
    /// Bytes that hosts wrote to them in their lives.
    pub(crate) host: Option<u128>,
    /// Bytes that they wrote to their cells.
    pub(crate) media: Option<u128>,
}

/// `nvme_admin_cmd` of linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    bytes: u32,
    command_words: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<AdminCommand>() == 72);

/// Looks at the drives that these files lie on, or that these devices are.
pub(crate) fn look<'p>(paths: impl Iterator<Item = &'p Path>) -> Wear {
    let number = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some(if found.file_type().is_block_device() { found.rdev() } else { found.dev() })
    };
    let drives: BTreeSet<u64> = paths.filter_map(number).collect();
    let add = |sum: Option<u128>, more: Option<u128>| sum.zip(more).map(|(sum, more)| sum + more);
    let all = Wear { kernel: Some(0), host: Some(0), media: Some(0) };
    let sum = drives.into_iter().fold(all, |sum, drive| {
        let one = look_at(drive);
        Wear { kernel: add(sum.kernel, one.kernel), host: add(sum.host, one.host), media: add(sum.media, one.media) }
    });
    if sum == all { Wear::default() } else { sum }
}

fn look_at(drive: u64) -> Wear {
    let sys = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(drive), libc::minor(drive)));
    let kernel =
        std::fs::read_to_string(sys.join("stat")).ok().and_then(|stat| sectors_written(&stat)).map(|count| count * 512);
    let Some(file) = controller(&sys).and_then(|path| File::open(path).ok()) else {
        return Wear { kernel, ..Wear::default() };
    };
    let host = log_page(&file, LOG_SMART).map(|log| units_written(&log) * DATA_UNIT);
    let media = log_page(&file, LOG_OCP).and_then(|log| media_bytes(&log));
    Wear { kernel, host, media }
}

/// The device file of the NVMe controller that a block device or a partition belongs to.
fn controller(sys: &Path) -> Option<PathBuf> {
    let whole = std::fs::canonicalize(sys).ok()?;
    let is_controller = |name: &str| {
        name.strip_prefix("nvme").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut names = whole.components().rev().filter_map(|part| part.as_os_str().to_str());
    names.find(|name| is_controller(name)).map(|name| Path::new("/dev").join(name))
}

/// Sectors written, of a block device's stat file.
fn sectors_written(stat: &str) -> Option<u128> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

fn log_page(controller: &File, log: u32) -> Option<[u8; LOG_BYTES]> {
    let mut page = [0; LOG_BYTES];
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: u32::MAX,
        address: page.as_mut_ptr() as u64,
        bytes: LOG_BYTES as u32,
        timeout_ms: 1000,
        ..AdminCommand::default()
    };
    // how many four-byte words, less one, and which log
    command.command_words[0] = (LOG_BYTES as u32 / 4 - 1) << 16 | log;
    // SAFETY: the kernel reads and writes the command and as many bytes at its address as it states; both outlive the call.
    #[expect(unsafe_code, reason = "an ioctl")]
    let status = unsafe { libc::ioctl(controller.as_raw_fd(), ADMIN_COMMAND as _, &raw mut command) };
    (status == 0).then_some(page)
}

fn number(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"))
}

/// Data units written, of the SMART log.
fn units_written(log: &[u8; LOG_BYTES]) -> u128 {
    number(&log[48..64])
}

/// Bytes written to the cells, of the OCP log.
fn media_bytes(log: &[u8; LOG_BYTES]) -> Option<u128> {
    (log[496..] == OCP_NAME).then(|| number(&log[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_stat_files_are_read_as_they_are_specified() {
        let mut log = [0; LOG_BYTES];
        log[48..50].copy_from_slice(&[2, 1]);
        assert_eq!(units_written(&log), 258);
        assert_eq!(media_bytes(&log), None, "it does not end as an OCP log");
        log[496..].copy_from_slice(&OCP_NAME);
        log[..3].copy_from_slice(&[0, 0, 1]);
        assert_eq!(media_bytes(&log), Some(65_536));
        assert_eq!(sectors_written("  10 0 80 4 7 1 4096 9 0 3 4\n"), Some(4096));
        assert_eq!(sectors_written("10 0"), None);
    }

    #[test]
    fn a_controller_is_found_from_a_namespace_and_its_partition() {
        let folder = tempfile::tempdir().unwrap();
        let partition = folder.path().join("pci0000:00/nvme/nvme3/nvme3n1/nvme3n1p2");
        std::fs::create_dir_all(&partition).unwrap();
        assert_eq!(controller(&partition), Some(PathBuf::from("/dev/nvme3")));
        assert_eq!(controller(folder.path()), None);
    }
}
