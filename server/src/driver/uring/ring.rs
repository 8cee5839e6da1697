//! The ring of requests to the kernel, as this driver uses it. Every pointer that is handed to the kernel passes through here.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::{Buffers, GROUP};
use crate::output::SLICES_MAX;

/// Requests that can be prepared between two submissions; more are submitted in between.
const ENTRIES: u32 = 1024;
/// Everything is sent before the answer, and nobody is told of a broken pipe but by it.
const SENDING: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// What is received where the line of a large value is expected: enough for that, and little of the value, which would have to be copied.
const LINE_BYTES: u32 = 1 << 10;
/// Answers that can wait. What does not fit is kept by the kernel (NODROP).
const ANSWERS: u32 = 4096;

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// What was asked with.
    pub(super) token: u64,
    /// Bytes, or a negative error number.
    pub(super) result: i32,
    /// The buffer that was filled.
    pub(super) buffer: Option<u16>,
    /// Whether more answers to the same request will come.
    pub(super) more: bool,
}

/// Sockets and files that the kernel knows by a place in the ring's table, which spares it a look at the process's for every request. More are named
/// by their descriptors.
const FILES: u32 = 4096;

/// What requests name a socket or a file by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    /// Its place in the ring's table of files.
    Place(u32),
    /// Its descriptor.
    Descriptor(RawFd),
}

/// Builds an operation on a socket or a file, whichever way that is named.
macro_rules! on_file {
    ($named:expr, $socket:ident => $operation:expr) => {
        match $named {
            Named::Place(place) => {
                let $socket = Fixed(place);
                $operation
            }
            Named::Descriptor(descriptor) => {
                let $socket = Fd(descriptor);
                $operation
            }
        }
    };
}

/// A slice that is not used.
const NOWHERE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// A description that names nothing yet.
fn no_message() -> libc::msghdr {
    // SAFETY: zeros are a valid header, with no slices and no address.
    unsafe { std::mem::zeroed() }
}

/// What is sent in several slices, as the kernel wants it described. It stays in place until the answer.
pub(super) struct Message {
    header: libc::msghdr,
    slices: [libc::iovec; SLICES_MAX],
}

impl Message {
    /// Describes the slices.
    pub(super) fn of(slices: &[IoSlice<'_>]) -> Box<Message> {
        let mut message = Box::new(Message { header: no_message(), slices: [NOWHERE; SLICES_MAX] });
        for (own, slice) in message.slices.iter_mut().zip(slices) {
            *own = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = slices.len().min(SLICES_MAX) as _;
        message
    }
}

/// Bytes of a value that are asked for at a time, if they lie in several pieces: the others wait for that long.
const REST_BYTES: usize = 128 << 10;
/// Pieces that are.
const REST_PIECES: usize = 4;

/// Where the rest of a value goes, and the line end behind it, as the kernel wants it described. It stays in place until the answer.
pub(super) struct Rest {
    header: libc::msghdr,
    slices: [libc::iovec; REST_PIECES + 1],
    /// Bytes of the rooms.
    room: usize,
    line_end: [u8; 2],
}

impl Rest {
    /// Describes the first of `rooms`, which have `missing` bytes in all, and, if those are all, what comes behind them.
    pub(super) fn of<'r>(missing: usize, rooms: impl Iterator<Item = &'r mut [u8]>) -> Box<Rest> {
        let mut rest =
            Box::new(Rest { header: no_message(), slices: [NOWHERE; REST_PIECES + 1], room: 0, line_end: [0; 2] });
        let mut count = 0;
        for room in rooms.take(REST_PIECES) {
            if count > 0 && rest.room + room.len() > REST_BYTES {
                break;
            }
            rest.slices[count] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            rest.room += room.len();
            count += 1;
        }
        if rest.room == missing {
            let line_end = libc::iovec { iov_base: rest.line_end.as_mut_ptr().cast(), iov_len: rest.line_end.len() };
            rest.slices[count] = line_end;
            count += 1;
        }
        rest.header.msg_iov = rest.slices.as_mut_ptr();
        rest.header.msg_iovlen = count as _;
        rest
    }

    /// Of so many bytes that came: how many of them are in the rooms, and those behind them.
    pub(super) fn filled(&self, bytes: usize) -> (usize, &[u8]) {
        let filled = bytes.min(self.room);
        (filled, &self.line_end[..bytes - filled])
    }
}

/// A ring with its receive buffers.
pub(super) struct Ring {
    // dropped before the buffers: the kernel writes to them until then
    ring: IoUring,
    pub(super) buffers: Buffers,
    /// Places in the table of files that are free.
    places: Vec<u32>,
    /// Files that are read, and what they are named by. They stay open as long as the process lives: no descriptor comes to mean another file.
    files: Vec<(RawFd, Named)>,
}

impl Ring {
    /// Sets one up; an error says that this kernel, or a rule about system calls, does not allow what we need.
    pub(super) fn new() -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(ANSWERS).setup_clamp().setup_single_issuer();
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_defer_taskrun();
        let ring: IoUring = builder.build(ENTRIES)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old"));
        }
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::RecvMulti::CODE,
            opcode::Recv::CODE,
            opcode::RecvMsg::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::Read::CODE,
            opcode::AsyncCancel::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring lacks an operation"));
        }
        let buffers = Buffers::register(&ring.submitter())?;
        // a table may not be larger than the limit of open files; without one descriptors do
        let mut files = FILES;
        while files > 0 && ring.submitter().register_files_sparse(files).is_err() {
            files /= 2;
        }
        Ok(Ring { ring, buffers, places: (0..files).rev().collect(), files: Vec::new() })
    }

    /// Takes a socket, or a file, into the table of files, if that has room.
    pub(super) fn name(&mut self, socket: RawFd) -> Named {
        let Some(place) = self.places.pop() else { return Named::Descriptor(socket) };
        match self.ring.submitter().register_files_update(place, &[socket]) {
            Ok(_) => Named::Place(place),
            Err(_) => {
                self.places.push(place);
                Named::Descriptor(socket)
            }
        }
    }

    /// Takes a socket out again: the table keeps it open otherwise. Nothing of it is under way.
    pub(super) fn forget(&mut self, named: Named) {
        if let Named::Place(place) = named
            && self.ring.submitter().register_files_update(place, &[-1]).is_ok()
        {
            self.places.push(place);
        }
    }

    /// # Safety
    /// What the entry points to stays where it is, and is touched by nobody else, until its last answer.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Receives a little into one of the provided buffers once, or into all of them again and again, until an answer says that no more comes.
    pub(super) fn receive(&mut self, socket: Named, once: bool, token: u64) -> io::Result<()> {
        let entry = if once {
            let receive = on_file!(socket, socket => {
                opcode::Recv::new(socket, std::ptr::null_mut(), LINE_BYTES).buf_group(GROUP).build()
            });
            receive.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            on_file!(socket, socket => opcode::RecvMulti::new(socket, GROUP).build())
        };
        let entry = entry.user_data(token);
        // SAFETY: it points to nothing of ours: the buffers are registered and live as long as the ring.
        unsafe { self.push(&entry) }
    }

    /// Receives once, into what `rest` describes: what there is, or until that is full.
    ///
    /// # Safety
    /// It, and the rooms that it describes, stay where they are and are touched by nobody until the answer.
    pub(super) unsafe fn receive_rest(
        &mut self,
        socket: Named,
        rest: &mut Rest,
        until_full: bool,
        token: u64,
    ) -> io::Result<()> {
        let header = &raw mut rest.header;
        let flags = if until_full { libc::MSG_WAITALL as u32 } else { 0 };
        let entry = on_file!(socket, socket => opcode::RecvMsg::new(socket, header).flags(flags).build());
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry.user_data(token)) }
    }

    /// Asks for one more answer to what was asked with `other`, its last.
    pub(super) fn cancel(&mut self, other: u64, token: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(other).build().user_data(token);
        // SAFETY: it points to nothing.
        unsafe { self.push(&entry) }
    }

    /// Sends all of `bytes`, in as many pieces as it takes.
    ///
    /// # Safety
    /// `bytes` stay where they are, unchanged, until the answer.
    pub(super) unsafe fn send(&mut self, socket: Named, bytes: &[u8], token: u64) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = on_file!(socket, socket => opcode::Send::new(socket, bytes.as_ptr(), len).flags(SENDING).build());
        // SAFETY: the caller's promise.
        unsafe { self.push(&send.user_data(token)) }
    }

    /// Sends what the message describes.
    ///
    /// # Safety
    /// The message, and the bytes that it describes, stay where they are, unchanged, until the answer.
    pub(super) unsafe fn send_message(&mut self, socket: Named, message: &Message, token: u64) -> io::Result<()> {
        let header = &raw const message.header;
        let send = on_file!(socket, socket => opcode::SendMsg::new(socket, header).flags(SENDING as u32).build());
        // SAFETY: the caller's promise.
        unsafe { self.push(&send.user_data(token)) }
    }

    /// Fills `bytes` from a file that stays open as long as the process lives.
    ///
    /// # Safety
    /// `bytes` stay where they are and are touched by nobody until the answer.
    pub(super) unsafe fn read(&mut self, file: RawFd, at: u64, bytes: &mut [u8], token: u64) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).expect("a read is smaller than 4 GiB");
        let named = match self.files.iter().find(|(known, _)| *known == file) {
            Some((_, named)) => *named,
            None => {
                let named = self.name(file);
                self.files.push((file, named));
                named
            }
        };
        let read = on_file!(named, file => opcode::Read::new(file, bytes.as_mut_ptr(), len).offset(at).build());
        let entry = read.user_data(token);
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// Submits what was prepared, and waits for an answer: not at all, for so long, or until there is one.
    pub(super) fn submit(&mut self, wait: Wait) -> io::Result<()> {
        let submitter = self.ring.submitter();
        let submitted = match wait {
            Wait::No => submitter.submit(),
            Wait::Ever => submitter.submit_and_wait(1),
            Wait::For(time) => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match submitted {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // time is over, a signal came, or answers have to be taken first
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes the answers that are there.
    pub(super) fn take_answers(&mut self, answers: &mut Vec<Answer>) {
        answers.extend(self.ring.completion().map(|entry| Answer {
            token: entry.user_data(),
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }));
    }
}

/// How long a submission waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// Not at all.
    No,
    /// At most so long.
    For(Duration),
    /// Until there is one.
    Ever,
}
