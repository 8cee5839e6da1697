//! A client's socket, TCP or Unix, in the clear or under TLS.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustls::ServerConnection;
use tokio::net::{TcpStream, UnixStream};

use crate::output::SLICES_MAX;
use crate::session::Connection;

/// A socket as it was accepted.
pub(crate) enum Accepted {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Accepted {
    /// Its descriptor's number.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Accepted::Tcp(stream) => stream.as_raw_fd() as u64,
            Accepted::Unix(stream) => stream.as_raw_fd() as u64,
        }
    }
}

impl AsRawFd for Accepted {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Accepted::Tcp(stream) => stream.as_raw_fd(),
            Accepted::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Accepted {
    /// Ends it in both directions; what waits for it is answered.
    pub(crate) fn shut_down(&self) {
        let _ = match self {
            Accepted::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Accepted::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Sends as much as goes without waiting.
    pub(crate) fn send_at_once(&mut self, bytes: &[u8]) {
        let _ = match self {
            Accepted::Tcp(stream) => stream.set_nonblocking(true).and_then(|()| stream.write(bytes)),
            Accepted::Unix(stream) => stream.set_nonblocking(true).and_then(|()| stream.write(bytes)),
        };
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read(buffer),
            Socket::Unix(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write(bytes),
            Socket::Unix(stream) => stream.try_write(bytes),
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write_vectored(slices),
            Socket::Unix(stream) => stream.try_write_vectored(slices),
        }
    }
}

/// What TLS reads from and writes to.
struct Raw<'s>(&'s Socket);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's socket on its worker.
pub(crate) struct Wire {
    socket: Socket,
    tls: Option<Box<ServerConnection>>,
}

/// What a read brought.
pub(crate) enum Received {
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The client has closed its side.
    End,
}

impl Wire {
    pub(crate) fn new(accepted: Accepted, tls: Option<ServerConnection>) -> io::Result<Wire> {
        let socket = match accepted {
            Accepted::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(stream)?)
            }
            Accepted::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(stream)?)
            }
        };
        Ok(Wire { socket, tls: tls.map(Box::new) })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.readable().await,
            Socket::Unix(stream) => stream.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.writable().await,
            Socket::Unix(stream) => stream.writable().await,
        }
    }

    /// Whether bytes wait in TLS for the socket to take them.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Whether TLS is still being agreed on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Reads once.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let Some(tls) = &mut self.tls else { return received(self.socket.try_read(buffer)) };
        match tls.reader().read(buffer) {
            Ok(0) => return Ok(Received::End),
            Ok(bytes) => return Ok(Received::Bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match tls.read_tls(&mut Raw(&self.socket)) {
            Ok(0) => return Ok(Received::End),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) => return Err(error),
        }
        if let Err(error) = tls.process_new_packets() {
            let _ = tls.write_tls(&mut Raw(&self.socket)); // the alert, if it can go out at once
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        match tls.reader().read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(bytes) => Ok(Received::Bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Sends as much of the connection's output as is taken now; returns how much that was.
    pub(crate) fn send(&mut self, connection: &mut Connection) -> io::Result<usize> {
        if self.tls.is_none() && connection.is_sliced() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = connection.output_slices(&mut slices);
            return would_block_is_zero(self.socket.try_write_vectored(&slices[..count]));
        }
        let bytes = connection.output();
        let Some(tls) = &mut self.tls else { return would_block_is_zero(self.socket.try_write(bytes)) };
        let taken = if bytes.is_empty() { 0 } else { tls.writer().write(bytes)? };
        while tls.wants_write() {
            match tls.write_tls(&mut Raw(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut Raw(&self.socket));
        }
    }
}

fn received(read: io::Result<usize>) -> io::Result<Received> {
    match read {
        Ok(0) => Ok(Received::End),
        Ok(bytes) => Ok(Received::Bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error),
    }
}

fn would_block_is_zero(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}
