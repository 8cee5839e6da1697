//! What a request takes from its tenant's limits, and what becomes of one beyond them.

use std::time::Duration;

use cache::{Cache, Turn};
use protocol::{Meta, Reply, Request, StoreVerb};

use super::{Connection, Pause};
use crate::limits::Refusal;
use crate::serve::Served;

impl Connection {
    /// Takes a request from its tenant's limits, once. Returns why it is refused, if it is.
    pub(crate) fn pay(
        &mut self,
        cache: &Cache,
        ask: impl FnOnce(&Connection) -> Result<Option<u16>, Refusal>,
    ) -> Option<Refusal> {
        if std::mem::replace(&mut self.paid, true) {
            return None;
        }
        match ask(self) {
            Ok(payer) => {
                self.payer = payer.filter(|tenant| cache.registry().tenant(*tenant).meter.is_limited());
                None
            }
            Err(refusal) => {
                self.paid = refusal != Refusal::NotYet;
                Some(refusal)
            }
        }
    }

    /// Who asks for more than it may is not heard for a while, whatever else comes: refusing costs as much as serving. What it sends waits in
    /// the socket.
    pub(crate) fn hold_back(&mut self) {
        self.pause = Pause::Held(self.server.next_hold());
    }

    /// Charges what was spelled to who asked for it.
    pub(super) fn charge(&mut self, cache: &Cache, before: usize) {
        if let Some(tenant) = self.payer.take() {
            cache.registry().tenant(tenant).meter.moved(self.replies.bytes().saturating_sub(before));
        }
    }

    /// Refuses a request beyond its tenant's limits, and what comes with it, or has it wait. A set that is refused takes the old value away, as one
    /// that fails in memcached does. None: it is to be served.
    pub(super) fn refuse(
        &mut self,
        cache: &Cache,
        turn: &mut Turn<'_>,
        request: &Request<'_>,
        line: usize,
    ) -> Option<bool> {
        let body = match request {
            Request::Store(store) => store.bytes + 2,
            Request::MetaStore(_, bytes, _) => bytes + 2,
            _ => 0,
        };
        let refusal = self.pay(cache, |own| own.ask_for_all(cache, request, line + body))?;
        let Some(told) = refusal.line() else {
            self.hold_back();
            return Some(false);
        };
        match request {
            Request::Store(store) if store.verb == StoreVerb::Set => {
                turn.delete(self.tenant_of(cache, store.key), store.key);
            }
            Request::MetaStore(key, _, words) => {
                let mut decoded = [0; protocol::KEY_BYTES_MAX];
                let meta = Meta::parse(key, *words).ok();
                if let Some(key) = meta.as_ref().and_then(|meta| meta.key_in(&mut decoded)) {
                    turn.delete(self.tenant_of(cache, key), key);
                }
            }
            _ => {}
        }
        let reply = match request {
            Request::Store(store) => store.reply,
            Request::Arithmetic { reply, .. } | Request::Touch { reply, .. } | Request::Delete(_, reply) => *reply,
            _ => Reply::Wanted,
        };
        self.reply(reply, told);
        let goes_on = self.finish(if body > 0 { Served::Skip(body) } else { Served::Done }, line);
        if refusal == Refusal::TooMany {
            self.hold_back();
        }
        Some(goes_on && self.pause == Pause::None)
    }

    /// How long it is not to be heard, if its tenant has asked for too much: [`Connection::serve`] does nothing until the driver, which knows
    /// the time, calls [`Connection::hear_again`].
    pub fn held_for(&self) -> Option<Duration> {
        match self.pause {
            Pause::Held(time) => Some(time),
            _ => None,
        }
    }

    /// The time for which it was not heard is over.
    pub fn hear_again(&mut self) {
        if self.held_for().is_some() {
            self.pause = Pause::None;
        }
    }
}
