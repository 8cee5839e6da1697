//! A store's value as it arrives: large ones land in the log, the others are collected in the input.

use cache::{Cache, Landing, Needs, Stored, Storing, Turn};
use protocol::{KEY_BYTES_MAX, Meta, Reply, Store, StoreVerb};

use super::{Connection, FREE_BYTES, hold};
use crate::meta;
use crate::serve::{self, Served};

/// Values of this size and more land in the log as they arrive, unless all but little has come with their line. Through the connection's input
/// they would be copied once more, all of them at once, while everybody else waits; and would be held twice, there and in the log.
const LANDED_BYTES_MIN: usize = 32 << 10;
const MISSING_BYTES_MIN: usize = 16 << 10;

/// A store whose line has arrived.
pub(super) enum Storable<'b> {
    Classic(Store<'b>),
    Meta(Meta<'b>, usize),
}

impl Storable<'_> {
    fn key_bytes(&self) -> usize {
        match self {
            Storable::Classic(store) => store.key.len(),
            Storable::Meta(meta, _) => meta.key.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Storable::Classic(store) => store.bytes,
            Storable::Meta(_, bytes) => *bytes,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Storable::Classic(store) => store.reply,
            Storable::Meta(..) => Reply::Wanted,
        }
    }

    /// Its key, if the value is stored as it comes.
    fn key_of_whole<'k>(&'k self, decoded: &'k mut [u8; KEY_BYTES_MAX]) -> Option<&'k [u8]> {
        match self {
            Storable::Classic(store) => {
                (!matches!(store.verb, StoreVerb::Append | StoreVerb::Prepend)).then_some(store.key)
            }
            Storable::Meta(meta, _) => meta.key_in(decoded).filter(|_| !meta::extends(meta)),
        }
    }
}

/// A store's value that has come.
pub(crate) enum Arrived<'a> {
    /// It lies in the input.
    Here(&'a [u8]),
    /// It lies in the log.
    Landed(&'a mut Landing),
}

impl Arrived<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Arrived::Here(value) => value.len(),
            Arrived::Landed(landing) => landing.bytes(),
        }
    }

    /// Stores it as `storing` says, whose own value is left out of account.
    pub(crate) fn store(self, turn: &mut Turn<'_>, tenant: u16, storing: &Storing<'_>) -> Result<Stored, Needs> {
        match self {
            Arrived::Here(value) => turn.store(tenant, &Storing { value, ..*storing }),
            Arrived::Landed(landing) => turn.store_landed(tenant, storing, landing),
        }
    }
}

impl Connection {
    /// Whether a value is landing: what comes next belongs to its [rooms](Connection::lend_rooms).
    pub(crate) fn awaits_value(&self) -> bool {
        self.landing.as_ref().is_some_and(|landing| landing.missing() > 0)
    }

    /// Lends rooms for the next bytes of the value that is landing, and tells how many are missing. Nothing is served until they are
    /// [taken back](Connection::take_back_rooms).
    pub(crate) fn lend_rooms(&mut self) -> (usize, impl Iterator<Item = &mut [u8]>) {
        self.lent = true;
        let missing = self.landing.as_ref().map_or(0, Landing::missing);
        (missing, self.landing.iter_mut().flat_map(Landing::rooms))
    }

    /// Takes back what was lent: `filled` bytes were put there, and these have come behind the value.
    pub(crate) fn take_back_rooms(&mut self, filled: usize, behind: &[u8]) {
        self.lent = false;
        if let Some(landing) = &mut self.landing {
            landing.note_filled(filled);
        }
        self.receive(behind);
    }

    /// Whether a value that could land was stored since that was [forgotten](Connection::forget_stored_large).
    pub(crate) fn has_stored_large(&self) -> bool {
        self.stored_large
    }

    pub(crate) fn forget_stored_large(&mut self) {
        self.stored_large = false;
    }

    /// Serves a store whose line has come, if its value has. Returns whether the next request can be served.
    pub(super) fn serve_store(
        &mut self,
        cache: &Cache,
        turn: &mut Turn<'_>,
        input: &[u8],
        line: usize,
        store: &Storable<'_>,
    ) -> bool {
        let (body, bytes) = (&input[self.used + line..], store.bytes());
        if let Some(landing) = &self.landing {
            if landing.missing() > 0 || body.len() < 2 {
                return false;
            }
        } else if !serve::fits(cache, store.key_bytes(), bytes) {
            match store {
                Storable::Classic(store) => {
                    serve::refuse_too_large(turn, self, store.key, store.verb == StoreVerb::Set, store.reply);
                }
                Storable::Meta(meta, _) => meta::refuse_store(turn, self, meta),
            }
            return self.finish(Served::Skip(bytes + 2), line);
        } else if body.len() < bytes + 2 {
            return self.await_value(cache, turn, body, line, store);
        }
        self.stored_large |= bytes >= LANDED_BYTES_MIN;
        let mut landing = self.landing.take();
        let (value, behind) = match &mut landing {
            Some(landing) => (Arrived::Landed(landing), 0),
            None => (Arrived::Here(&body[..bytes]), bytes),
        };
        let served = match store {
            _ if body[behind..behind + 2] != *b"\r\n" => {
                self.reply(store.reply(), "CLIENT_ERROR bad data chunk");
                Served::Done
            }
            Storable::Classic(store) => serve::store(turn, self, store, value),
            Storable::Meta(meta, _) => meta::store(turn, self, meta, value),
        };
        if matches!(served, Served::Needs(_)) {
            self.landing = landing;
        }
        self.finish(served, line + behind + 2)
    }

    /// Makes room for a value that has not come to its end: in the log if it is large, else in the input. Returns whether the next request
    /// can be served.
    fn await_value(
        &mut self,
        cache: &Cache,
        turn: &mut Turn<'_>,
        body: &[u8],
        line: usize,
        store: &Storable<'_>,
    ) -> bool {
        let (bytes, total) = (store.bytes(), line + store.bytes() + 2);
        if bytes >= LANDED_BYTES_MIN.max(body.len() + MISSING_BYTES_MIN)
            && let Some(key) = store.key_of_whole(&mut [0; KEY_BYTES_MAX])
        {
            match turn.land(self.tenant_of(cache, key), key, bytes) {
                Ok(Some(mut landing)) => {
                    landing.fill(body);
                    self.expected = 0;
                    (self.landing, self.landed_from) = (Some(landing), Some(self.used + line));
                    return false;
                }
                Ok(None) => {}
                Err(needs) => return self.finish(Served::Needs(needs), 0),
            }
        }
        if !hold(cache, &mut self.held_in, total.saturating_sub(FREE_BYTES / 2)) {
            self.reply(store.reply(), "SERVER_ERROR out of memory storing object");
            return self.finish(Served::Skip(bytes + 2), line);
        }
        self.expected = self.used + total;
        false
    }
}
