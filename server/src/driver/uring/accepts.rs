//! Accepting many connections with one request: the kernel answers it for as long as connections come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};

/// Requests that are handed over together: an accept, and its end.
const ENTRIES: u32 = 4;
/// Connections that can wait to be taken; the kernel keeps what does not fit (NODROP).
const ANSWERS: u32 = 256;
/// What the request, and the one that ends it, are known by.
const ACCEPT: u64 = 0;
const END: u64 = 1;

/// Connections as they come to a listening socket, for the thread that deals them out.
pub(crate) struct Accepts {
    ring: IoUring,
    listening: RawFd,
    /// An accept is under way.
    asked: bool,
    accepted: VecDeque<OwnedFd>,
    failed: Option<io::Error>,
}

impl Accepts {
    /// Accepts on a socket that outlives it.
    pub(crate) fn on(listening: RawFd) -> io::Result<Accepts> {
        let ring: IoUring = IoUring::builder().setup_cqsize(ANSWERS).setup_clamp().build(ENTRIES)?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old"));
        }
        Ok(Accepts { ring, listening, asked: false, accepted: VecDeque::new(), failed: None })
    }

    /// Waits for a connection.
    pub(crate) fn next(&mut self) -> io::Result<OwnedFd> {
        loop {
            if let Some(socket) = self.accepted.pop_front() {
                return Ok(socket);
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if !std::mem::replace(&mut self.asked, true) {
                self.push(&opcode::AcceptMulti::new(Fd(self.listening)).build().user_data(ACCEPT))?;
            }
            self.wait()?;
        }
    }

    /// Accepts nobody until [`Accepts::next`] is called again: what has come meanwhile is kept for then, the rest waits with the kernel.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        if self.asked {
            self.push(&opcode::AsyncCancel::new(ACCEPT).build().user_data(END))?;
        }
        while self.asked {
            self.wait()?;
        }
        Ok(())
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: neither an accept without an address nor a cancellation points to anything.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            waited => drop(waited?),
        }
        self.take();
        Ok(())
    }

    fn take(&mut self) {
        let answers: Vec<_> = self.ring.completion().filter(|answer| answer.user_data() == ACCEPT).collect();
        for answer in answers {
            self.asked = cqueue::more(answer.flags());
            match answer.result() {
                // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
                socket @ 0.. => self.accepted.push_back(unsafe { OwnedFd::from_raw_fd(socket) }),
                error if -error == libc::ECANCELED => {}
                error => self.failed = Some(io::Error::from_raw_os_error(-error)),
            }
        }
    }
}

impl Drop for Accepts {
    fn drop(&mut self) {
        // what was accepted and not taken is closed with the list
        let _ = self.pause();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn connections_come_in_any_number_and_wait_through_a_pause() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        // where the kernel forbids rings the server takes the other driver
        let Ok(mut accepts) = Accepts::on(listener.as_raw_fd()) else { return };
        let port_of = |stream: &TcpStream| stream.local_addr().unwrap().port();
        let ports = |count: usize, accepts: &mut Accepts| -> Vec<u16> {
            (0..count).map(|_| TcpStream::from(accepts.next().unwrap()).peer_addr().unwrap().port()).collect()
        };
        let first: Vec<_> = (0..20).map(|_| TcpStream::connect(at).unwrap()).collect();
        assert_eq!(ports(20, &mut accepts), first.iter().map(port_of).collect::<Vec<_>>());
        accepts.pause().unwrap();
        let second: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
        accepts.pause().unwrap();
        assert!(accepts.accepted.is_empty(), "nobody is accepted in a pause");
        assert_eq!(ports(5, &mut accepts), second.iter().map(port_of).collect::<Vec<_>>());
    }
}
