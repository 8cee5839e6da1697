//! What the machine gives this process.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

/// Memory in bytes that this process may have: of the machine, or of the control groups that it is in, whichever is least. None where the
/// kernel does not say.
pub(crate) fn memory_bytes() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total_of(&text));
    let group = read(Path::new("/proc/self/cgroup")).and_then(|text| Some(group_of(&text)?.to_owned()));
    let limits = group.into_iter().flat_map(|group| {
        let folder = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
        let limits = folder.ancestors().filter_map(|folder| read(&folder.join("memory.max"))?.trim().parse().ok());
        limits.collect::<Vec<u64>>()
    });
    machine.into_iter().chain(limits).min()
}

/// Why a file of so many bytes could not be written to a folder now, if it could not.
pub(crate) fn why_not_written(folder: &Path, bytes: u64) -> Option<String> {
    if let Err(error) = access(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Some(format!("{}, for this user", error.desc()));
    }
    let found = statvfs(folder).ok()?;
    let free = found.blocks_available() * found.fragment_size();
    (free < bytes).then(|| format!("{} MiB are free, and it may take {}", free >> 20, bytes.div_ceil(1 << 20)))
}

/// Of `/proc/meminfo`.
fn total_of(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? << 10)
}

/// The group of `/proc/self/cgroup`, in the hierarchy of version 2.
fn group_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(total_of("MemTotal:       24576000 kB\nMemFree:  1 kB\n"), Some(24_576_000 << 10));
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
        assert_eq!(group_of("12:cpu:/a\n0::/system.slice/flashare.service\n"), Some("/system.slice/flashare.service"));
        assert_eq!(group_of("12:cpu:/a\n"), None);
        assert!(memory_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn a_folder_takes_what_it_has_room_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(why_not_written(folder.path(), 1), None);
        let why = why_not_written(folder.path(), 1 << 60).unwrap();
        assert!(why.ends_with(" MiB are free, and it may take 1099511627776"), "{why}");
        assert!(why_not_written(&folder.path().join("none"), 1).is_some());
    }
}
