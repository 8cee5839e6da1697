//! What a tenant's clients may ask for: looked at before a request is served, and only where some tenant has limits.

use std::time::Duration;

use cache::{Cache, Meter};
use protocol::{KEY_BYTES_MAX, Keys, Meta, Request};

use crate::session::Connection;

/// Time between two fillings of what tenants may ask for.
pub(crate) const LIMITS_FILLED: Duration = Duration::from_millis(10);

/// Why a request is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The object is larger than the tenant's may be.
    TooLarge,
    /// The tenant has asked for too much lately.
    TooMany,
    /// It has moved too many bytes lately: the request is not refused, since its bytes would come all the same, but waits.
    NotYet,
}

impl Refusal {
    /// The line that the client gets; None if it waits.
    pub(crate) fn line(self) -> Option<&'static str> {
        match self {
            Refusal::TooLarge => Some("SERVER_ERROR object too large for cache"),
            Refusal::TooMany => Some("SERVER_ERROR limit of requests exceeded, try again later"),
            Refusal::NotYet => None,
        }
    }
}

/// Calls `visit` with every key that a request names, as the cache knows it.
fn each_key<'b>(request: &Request<'b>, mut visit: impl FnMut(&[u8])) {
    let mut meta = |key: &'b [u8], words: Keys<'b>| {
        let mut decoded = [0; KEY_BYTES_MAX];
        if let Ok(meta) = Meta::parse(key, words)
            && let Some(key) = meta.key_in(&mut decoded)
        {
            visit(key);
        }
    };
    match *request {
        Request::Meta(_, key, words) => meta(key, words),
        Request::MetaStore(key, _, words) => meta(key, words),
        Request::Get { keys, .. } => keys.for_each(visit),
        Request::Store(store) => visit(store.key),
        Request::Arithmetic { key, .. } | Request::Touch { key, .. } | Request::Delete(key, _) => visit(key),
        _ => {}
    }
}

impl Connection {
    /// Whether a request is refused, or has to wait, of `bytes` bytes with its value. Takes what it asks for from the limits of its keys'
    /// tenants. Returns the tenant that its reply is charged to, too: that of its last key.
    pub(crate) fn ask_for_all(
        &self,
        cache: &Cache,
        request: &Request<'_>,
        bytes: usize,
    ) -> Result<Option<u16>, Refusal> {
        let stored = match request {
            Request::Store(store) => {
                return self.ask_for_one(cache, store.key, Some(store.bytes), bytes).map(Some);
            }
            Request::MetaStore(_, bytes, _) => Some(*bytes),
            _ => None,
        };
        let mut may_move = true;
        each_key(request, |key| may_move = may_move && self.meter_of(cache, key).1.may_move());
        if !may_move {
            return Err(Refusal::NotYet);
        }
        let (mut outcome, mut bytes) = (Ok(None), bytes);
        each_key(request, |key| {
            if outcome.is_ok() {
                let (tenant, meter) = self.meter_of(cache, key);
                outcome = take(meter, key, stored, std::mem::take(&mut bytes)).map(|()| Some(tenant));
            }
        });
        outcome
    }

    /// The same for a request with one key.
    pub(crate) fn ask_for_one(
        &self,
        cache: &Cache,
        key: &[u8],
        stored: Option<usize>,
        bytes: usize,
    ) -> Result<u16, Refusal> {
        let (tenant, meter) = self.meter_of(cache, key);
        if !meter.may_move() {
            return Err(Refusal::NotYet);
        }
        take(meter, key, stored, bytes).map(|()| tenant)
    }

    fn meter_of<'c>(&self, cache: &'c Cache, key: &[u8]) -> (u16, &'c Meter) {
        let tenant = self.tenant_of(cache, key);
        (tenant, &cache.registry().tenant(tenant).meter)
    }
}

/// Takes a request for a key from what may be asked for.
fn take(meter: &Meter, key: &[u8], stored: Option<usize>, bytes: usize) -> Result<(), Refusal> {
    if stored.is_some_and(|value| meter.is_too_large(key.len() + value)) {
        return Err(Refusal::TooLarge);
    }
    if meter.is_limited() {
        if !meter.ask(1) {
            return Err(Refusal::TooMany);
        }
        meter.moved(bytes);
    }
    Ok(())
}
