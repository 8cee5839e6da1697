//! Buffers that the kernel takes as bytes arrive: a ring of descriptions that both sides see, and the buffers behind it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Bytes of a buffer: a pipeline of small requests, or a piece of a value.
pub(super) const BUFFER_BYTES: usize = 16 << 10;
/// Buffers. A power of two. They are given back as soon as they are read, so more would only wait in memory.
pub(super) const BUFFERS: u16 = 64;
/// What receives name as their source of buffers.
pub(super) const GROUP: u16 = 0;

/// The ring and its buffers. It must outlive the ring of requests that it is registered with.
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    bytes: Box<[u8]>,
    tail: u16,
}

impl Buffers {
    const LAYOUT: Layout = match Layout::from_size_align(BUFFERS as usize * size_of::<BufRingEntry>(), 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("the ring has a layout"),
    };

    /// Allocates, registers and offers all buffers.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Buffers> {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(Buffers::LAYOUT) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(Buffers::LAYOUT) };
        let bytes = vec![0; usize::from(BUFFERS) * BUFFER_BYTES].into_boxed_slice();
        let mut buffers = Buffers { entries, bytes, tail: 0 };
        // SAFETY: the ring is page-aligned, of the length that is stated, and lives as long as `Buffers`, which its owner
        // drops after the ring of requests.
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        (0..BUFFERS).for_each(|number| buffers.offer(number));
        Ok(buffers)
    }

    /// What the kernel wrote into a buffer. It is the caller's until it is [offered](Buffers::offer) again.
    pub(super) fn filled(&self, number: u16, len: usize) -> &[u8] {
        let at = usize::from(number) * BUFFER_BYTES;
        &self.bytes[at..at + len.min(BUFFER_BYTES)]
    }

    /// Gives a buffer to the kernel.
    pub(super) fn offer(&mut self, number: u16) {
        let address = self.bytes[usize::from(number) * BUFFER_BYTES..].as_mut_ptr() as u64;
        let slot = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: `slot` is within the ring; the kernel does not read an entry before the tail has passed it, and it is not
        // more than a ring behind, since every buffer is offered once at a time.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(slot);
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(number);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is a word of the ring that both sides see, aligned, and written here only.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the kernel's side ended with the ring of requests.
        unsafe { dealloc(self.entries.as_ptr().cast(), Buffers::LAYOUT) }
    }
}
