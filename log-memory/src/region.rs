//! Anonymous mappings, seen as words. The log lives in one mapping for its whole life; each index table in one of its own.
//!
//! A mapping is an array of 8-byte atomics: headers, index entries and fragment tables are read and written as such, so a
//! race on them is a race of atomics. Keys and values are bytes between those words; [`Region::bytes`] hands them out.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is this large asks for huge pages: fewer entries of the TLB for the same memory.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Bytes of an entry that are worth fetching before somebody comes to them.
const FETCHED_MAX: usize = 512;

/// What the processor's caches hold together.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE_BYTES: usize = 64;

/// From so many bytes on a copy goes past the processor's caches. What is appended is seldom read soon, and who writes to memory through the
/// caches has them read first what is overwritten: twice the traffic (docs/data-plane.md). For less, the wait for the last line costs more than that.
const STREAMED_MIN: usize = 8 << 10;

/// Miri knows no more than the plain mapping.
const MAPPING: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };

/// Bytes from which on an allocation has a mapping of its own.
#[cfg(target_env = "gnu")]
const MAPPED_MIN: i32 = 256 << 10;

/// Has what large buffers of the process take go back to the system as soon as they are freed. Left alone, glibc raises the size from which on it does
/// that to that of what was freed last: then buffers for large values lie among small ones, and what one leaves behind is of no use to the next.
pub fn give_back_large_buffers() {
    #[cfg(all(target_env = "gnu", not(miri)))]
    // SAFETY: it changes a number of the allocator's, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_MIN);
    }
}

/// A private anonymous mapping, zero until written, returned to the system on drop. Sizes are in bytes.
pub struct Region {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping is plain memory that is reached only through atomics, or through `bytes` and `write`, whose callers
// promise that nobody writes what another reads (INV-GRACE).
unsafe impl Send for Region {}
// SAFETY: as for Send.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes, rounded up to whole pages. Pages are charged to the process only once they are touched.
    pub fn map(len: usize) -> io::Result<Region> {
        let len = len.next_multiple_of(4096).max(4096);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, MAPPING, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if len >= HUGE_PAGE_BYTES && !cfg!(miri) {
            // SAFETY: advice on a mapping of ours; without huge pages it stays as it is.
            unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        }
        let base = NonNull::new(base.cast()).expect("mmap returns no null mapping");
        Ok(Region { base, len })
    }

    /// Length of the mapping in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping is empty; it never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mapping as words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is page-aligned, `len` a multiple of 8, the mapping zeroed and alive as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len / 8) }
    }

    /// Has the processor fetch the cache line at byte offset `at`, ahead of its use.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if at < self.len {
            // SAFETY: the address lies in the mapping; a prefetch reads nothing.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().cast::<i8>().add(at));
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = at;
    }

    /// The same for an entry of `len` bytes: of what is longer than [`FETCHED_MAX`], the beginning.
    #[inline]
    pub(crate) fn prefetch_range(&self, at: usize, len: usize) {
        (0..len.min(FETCHED_MAX)).step_by(64).for_each(|n| self.prefetch(at + n));
    }

    /// `len` bytes at byte offset `at`.
    ///
    /// # Safety
    /// No byte of the range may be written while the slice lives: the object was published before, and its segment is not
    /// reused before the grace period ends (INV-GRACE).
    pub(crate) unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len, "a location points outside of the region");
        // SAFETY: in bounds (asserted), initialised (zeroed mapping), unaliased by writers (caller).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>().add(at), len) }
    }

    /// `len` bytes at byte offset `at`, to be written.
    ///
    /// # Safety
    /// The caller owns the range: it lies in an open segment or one that is not reused, and nobody else reads or writes it while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the mapping is shared, each range of it has one owner")]
    pub(crate) unsafe fn bytes_mut(&self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.len, "a location points outside of the region");
        // SAFETY: in bounds (asserted), initialised (zeroed mapping), the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast::<u8>().add(at), len) }
    }

    /// Byte offset of a slice that [`Region::bytes`] has handed out.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> usize {
        let at = (bytes.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize);
        assert!(at < self.len && bytes.len() <= self.len - at, "it is no slice of this region");
        at
    }

    /// Copies `bytes` to byte offset `at`.
    ///
    /// # Safety
    /// The caller owns the range: it lies in its open segment, behind what was published.
    pub(crate) unsafe fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len, "a write leaves the region");
        // SAFETY: in bounds (asserted), owned by the caller, and `bytes` is not in the range (it would be borrowed).
        unsafe {
            let to = self.base.as_ptr().cast::<u8>().add(at);
            if bytes.len() < STREAMED_MIN {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            } else {
                stream(bytes, to);
            }
        }
    }

    /// Makes the pages of a range resident, whatever is being written there: their next first touch costs no page fault, which for a huge
    /// page is the clearing of 2 MiB. False if the system knows no such advice (Linux before 5.14) or has no memory: then they come as ever.
    pub(crate) fn populate(&self, at: usize, len: usize) -> bool {
        let from = at.min(self.len) & !4095;
        let to = (at + len).min(self.len);
        // SAFETY: the range lies within the mapping, and the advice changes nothing that is read or written there.
        !cfg!(miri)
            && unsafe {
                let start = self.base.as_ptr().cast::<u8>().add(from).cast();
                libc::madvise(start, to - from, libc::MADV_POPULATE_WRITE) == 0
            }
    }

    /// Gives the pages of a range back to the system; they read as zero afterwards. Offsets are rounded inwards to pages.
    pub(crate) fn discard(&self, at: usize, len: usize) {
        let from = at.next_multiple_of(4096);
        let to = (at + len).min(self.len) & !4095;
        if cfg!(miri) {
            self.words()[from / 8..to.max(from) / 8].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        } else if from < to {
            // SAFETY: the range lies within the mapping. Words that turn to zero read as "empty" everywhere; a failure
            // leaves the pages as they are, which is as sound.
            unsafe {
                libc::madvise(self.base.as_ptr().cast::<u8>().add(from).cast(), to - from, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Copies `bytes` to `to`, whole cache lines past the caches. Whoever is told of it afterwards, in whichever way, sees it all.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(never)]
unsafe fn stream(bytes: &[u8], to: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: all stays within the caller's two ranges; SSE2, which every x86-64 has; `head` bytes behind `to` lies the begin of a line, as
    // `_mm_stream_si128` wants it. Such stores keep no order with others until the fence.
    unsafe {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        let head = to.align_offset(LINE_BYTES).min(bytes.len());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, head);
        let mut to = to.add(head);
        let mut lines = bytes[head..].chunks_exact(LINE_BYTES);
        for line in &mut lines {
            let from = line.as_ptr();
            let quarters = [0, 16, 32, 48].map(|n| _mm_loadu_si128(from.add(n).cast()));
            for (n, quarter) in quarters.into_iter().enumerate() {
                _mm_stream_si128(to.add(16 * n).cast(), quarter);
            }
            to = to.add(LINE_BYTES);
        }
        let tail = lines.remainder();
        std::ptr::copy_nonoverlapping(tail.as_ptr(), to, tail.len());
        _mm_sfence();
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller's word.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping, and every view borrows `self`.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.len);
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    fn resident(region: &Region, at: usize, len: usize) -> usize {
        let mut pages = vec![0u8; len / 4096];
        // SAFETY: the range lies within the mapping; there is a byte for each of its pages.
        let told = unsafe {
            let start = region.base.as_ptr().cast::<u8>().add(at).cast();
            libc::mincore(start, len, pages.as_mut_ptr())
        };
        assert_eq!(told, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn copies_of_any_length_and_place_are_whole_and_touch_nothing_else() {
        let region = Region::map(64 << 10).unwrap();
        let source: Vec<u8> = (0..STREAMED_MIN + 300).map(|n| (n % 251) as u8 + 1).collect();
        for (n, len) in [0, 1, 63, 64, 65, STREAMED_MIN - 1, STREAMED_MIN, STREAMED_MIN + 1, STREAMED_MIN + 200]
            .into_iter()
            .enumerate()
        {
            for at in 4096..4096 + 70 {
                let bytes = &source[n..n + len];
                region.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
                // SAFETY: nobody else knows the region.
                let all = unsafe {
                    region.write(at, bytes);
                    region.bytes(0, 64 << 10)
                };
                assert_eq!(&all[at..at + len], bytes);
                assert!(all[..at].iter().chain(&all[at + len..]).all(|byte| *byte == 0), "{len} bytes at {at}");
            }
        }
    }

    #[test]
    fn what_is_populated_is_resident_and_keeps_what_it_holds() {
        let region = Region::map(1 << 20).unwrap();
        region.words()[0].store(7, Ordering::Relaxed);
        if !region.populate(0, 64 << 10) {
            return; // a kernel that cannot
        }
        assert_eq!(resident(&region, 0, 64 << 10), 16);
        assert!(resident(&region, 0, 1 << 20) < 256, "the rest is left for later");
        assert_eq!(region.words()[0].load(Ordering::Relaxed), 7);
        assert!(region.populate((1 << 20) - 4096, 1 << 20), "it ends where the mapping does");
    }
}
