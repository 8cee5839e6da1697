//! Requests of the binary protocol, as they arrive.

use std::sync::atomic::Ordering;

use cache::{Cache, Needs, Turn};
use protocol::binary::{Command, Frame, HEADER_BYTES, Header, Status};

use super::login::LOGIN_BYTES_MAX;
use super::{Connection, FREE_BYTES, Pause, hold};
use crate::binary;
use crate::serve::{self, Served};

impl Connection {
    pub(super) fn serve_frame(&mut self, cache: &Cache, turn: &mut Turn<'_>, input: &[u8], stored: &mut bool) -> bool {
        let rest = &input[self.used..];
        let Some(head) = rest.first_chunk::<HEADER_BYTES>() else { return false };
        let Some(header) = Header::read(head) else { return self.give_up() };
        let (command, _) = header.command();
        let is_store =
            matches!(command, Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend);
        let largest = cache.settings().item_bytes_max;
        if !header.is_sound() || (!is_store && header.body_bytes > largest.min(LOGIN_BYTES_MAX)) {
            binary::refuse(self, &header, Status::Invalid);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        if is_store && !self.authenticated {
            binary::refuse(self, &header, Status::AuthFailed);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        if is_store && !serve::fits(cache, header.key_bytes, header.value_bytes()) {
            // the key stands at the front of what is skipped: it has to be here, so that a set takes the old value away
            let body = &rest[HEADER_BYTES..];
            let ahead = header.extras_bytes + header.key_bytes;
            if body.len() < ahead {
                return false;
            }
            if command == Command::Set {
                let key = &body[header.extras_bytes..ahead];
                turn.delete(self.tenant_of(cache, key), key);
            }
            self.server.too_large.fetch_add(1, Ordering::Relaxed);
            binary::refuse(self, &header, Status::TooLarge);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        let total = HEADER_BYTES + header.body_bytes;
        if rest.len() < total {
            if !hold(cache, &mut self.held_in, total.saturating_sub(FREE_BYTES / 2)) {
                binary::refuse(self, &header, Status::OutOfMemory);
                return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
            }
            self.expected = self.used + total;
            return false;
        }
        *stored |= is_store;
        let frame = Frame::new(header, &rest[HEADER_BYTES..total]);
        let mut served = binary::request(cache, turn, self, &frame);
        if let Served::Needs(Needs::Full) = served {
            self.server.no_memory.fetch_add(1, Ordering::Relaxed);
            binary::refuse(self, &frame.header, Status::OutOfMemory);
            served = Served::Done;
        }
        self.finish(served, total) && self.pause == Pause::None
    }
}
