//! Who the client is, where that is asked for, and whose connection it is.

use cache::Cache;
use protocol::{Keys, Reply};

use super::Connection;
use crate::config::Dialect;
use crate::serve::Served;

/// Longest line and longest token of a client that says who it is.
const LOGIN_LINE_BYTES_MAX: usize = 2048;
pub(super) const LOGIN_BYTES_MAX: usize = 65_536;

impl Connection {
    /// Counts it among the connections of its tenant. False: it may not be one, and is over.
    pub(super) fn belong(&mut self, cache: &Cache) -> bool {
        let registry = cache.registry();
        if let Some(before) = self.counted.take_if(|before| Some(*before) != self.tenant) {
            registry.tenant(before).meter.disconnect();
        }
        let Some(tenant) = self.tenant else { return true };
        let line = match () {
            () if !registry.tenant(tenant).is_present() => "ERROR this tenant is gone",
            () if self.counted.is_some() => return true,
            () if registry.tenant(tenant).meter.connect() => {
                self.counted = Some(tenant);
                return true;
            }
            () => "ERROR Too many open connections",
        };
        if self.dialect != Dialect::Binary {
            self.reply(Reply::Wanted, line);
        }
        self.closing = true;
        false
    }

    /// Takes `set KEY FLAGS EXPTIME BYTES` and `user password` of a client that has to say who it is first.
    pub(super) fn serve_login(&mut self, cache: &Cache, input: &[u8]) -> bool {
        let rest = &input[self.used..];
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return if rest.len() > LOGIN_LINE_BYTES_MAX { self.give_up() } else { false };
        };
        let row: Vec<&[u8]> = Keys::of_line(rest[..end].trim_ascii_end()).take(6).collect();
        let bytes = match row[..] {
            [b"set", _, _, _, bytes, ..] => std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<u32>().ok()),
            _ => None,
        };
        let Some(bytes) = bytes.map(|bytes| bytes as usize) else {
            self.reply(Reply::Wanted, "CLIENT_ERROR unauthenticated");
            return self.finish(Served::Done, end + 1);
        };
        if bytes > LOGIN_BYTES_MAX {
            self.reply(Reply::Wanted, "CLIENT_ERROR auth token too long");
            return self.finish(Served::Done, end + 1);
        }
        let body = &rest[end + 1..];
        if body.len() < bytes + 2 {
            return false;
        }
        let mut parts = body[..bytes].splitn(2, |byte| *byte == b' ');
        let (user, password) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let accepted = body[bytes..bytes + 2] == *b"\r\n" && self.log_in(cache, user, password);
        self.reply(Reply::Wanted, if accepted { "STORED" } else { "CLIENT_ERROR authentication failure" });
        self.finish(Served::Done, end + 1 + bytes + 2)
    }

    /// Whether the client has said who it is, where that is asked for.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Checks who the client says it is; its tenant follows from that.
    pub(crate) fn log_in(&mut self, cache: &Cache, user: &[u8], password: &[u8]) -> bool {
        self.authenticated = self.server.accepts(user, password);
        if self.authenticated {
            self.tenant = cache.registry().by_user(user).or(self.tenant);
        }
        self.authenticated
    }
}
