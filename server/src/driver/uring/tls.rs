//! TLS between bytes that a ring moves: what comes is opened, what goes is sealed, all in memory.

use std::io::{self, ErrorKind, Read, Write};

use rustls::ServerConnection;

use crate::output::Output;
use crate::session::Connection;

/// One connection's TLS.
pub(super) struct Tls {
    session: ServerConnection,
    /// Records for the socket.
    pub(super) sealed: Output,
}

impl Tls {
    pub(super) fn new(session: ServerConnection) -> Tls {
        Tls { session, sealed: Output::default() }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Opens what came, for the connection. False: the other side has ended.
    pub(super) fn receive(&mut self, mut bytes: &[u8], connection: &mut Connection) -> io::Result<bool> {
        let mut open = [0; 4096];
        while !bytes.is_empty() {
            self.session.read_tls(&mut bytes)?;
            let processed = self.session.process_new_packets();
            self.collect()?; // also the alert, if that is what it made
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            loop {
                match self.session.reader().read(&mut open) {
                    Ok(0) => return Ok(false),
                    Ok(count) => connection.receive(&open[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    /// Seals what the connection has to say.
    pub(super) fn seal(&mut self, connection: &mut Connection) -> io::Result<()> {
        while connection.unsent() > 0 {
            let count = self.session.writer().write(connection.output())?;
            connection.note_sent(count);
            self.collect()?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self) {
        self.session.send_close_notify();
        let _ = self.collect(); // memory takes everything
    }

    fn collect(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(self.sealed.ready())?;
        }
        Ok(())
    }
}
