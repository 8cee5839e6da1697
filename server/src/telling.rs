//! What a connection tells watchers and `stats detail` of its requests. All of it costs a load while nobody listens.

use std::fmt::Write as _;

use cache::{Eviction, Turn};

use crate::detail::Done;
use crate::session::Connection;
use crate::watch::{Topic, Watchers, escaped};

impl Connection {
    fn peer_id(&self) -> u64 {
        self.peer.as_ref().map_or(0, |peer| peer.id)
    }

    /// Tells of a get: what it found is so many bytes.
    pub(crate) fn tell_got(&self, key: &[u8], found: Option<usize>) {
        self.server().details.note(key, Done::Get { hit: found.is_some() });
        self.tell_fetched(key, if found.is_some() { "found" } else { "not_found" }, found.unwrap_or(0));
    }

    fn tell_fetched(&self, key: &[u8], status: &str, bytes: usize) {
        self.server().watchers.tell(Topic::Fetchers, |line| {
            let _ = write!(
                line,
                "item_get key={} status={status} clsid=1 cfd={} size={bytes}",
                escaped(key),
                self.peer_id()
            );
        });
    }

    /// Whether a key is known before it is stored: looked up only for those who watch.
    pub(crate) fn known_to_watchers(&self, turn: &mut Turn<'_>, key: &[u8]) -> bool {
        let watched = self.server().watchers.wants(Topic::Fetchers);
        watched && turn.whereabouts(self.tenant_of(turn.cache(), key), key) != (false, false)
    }

    /// Bytes of a key's value, looked up only for those who watch `topic`.
    pub(crate) fn bytes_for_watchers(&self, turn: &mut Turn<'_>, topic: Topic, key: &[u8]) -> Option<usize> {
        if !self.server().watchers.wants(topic) {
            return None;
        }
        let tenant = self.tenant_of(turn.cache(), key);
        Some(turn.peek(tenant, key).ok().flatten().map_or(0, |(object, _)| object.value_bytes()))
    }

    /// Tells of a deletion; None: there was none, or nobody watches.
    pub(crate) fn tell_deleted(&self, key: &[u8], command: &str, bytes: Option<usize>) {
        let Some(bytes) = bytes else { return };
        self.server().watchers.tell(Topic::Deletions, |line| {
            let _ = write!(line, "deleted key={} cmd={command} clsid=1 size={bytes}", escaped(key));
        });
    }

    /// Tells of a store, which looks before it stores.
    pub(crate) fn tell_stored(&self, key: &[u8], command: &str, before: bool, answer: &str, ttl: u32, bytes: usize) {
        self.tell_fetched(key, if before { "found" } else { "not_found" }, 0);
        self.server().watchers.tell(Topic::Mutations, |line| {
            let status = match answer {
                "STORED" => "stored",
                "EXISTS" => "exists",
                "NOT_FOUND" => "not_found",
                "NOT_STORED" => "not_stored",
                _ => "no_memory",
            };
            let _ = write!(
                line,
                "item_store key={} status={status} cmd={command} ttl={ttl} clsid=1 cfd={} size={bytes}",
                escaped(key),
                self.peer_id()
            );
        });
    }

    /// Tells that the connection has come.
    pub(crate) fn tell_new(&self) {
        let Some(peer) = &self.peer else { return };
        self.server().watchers.tell(Topic::Connections, |line| {
            let (rip, rport) = remote(&peer.address);
            let _ = write!(line, "conn_new rip={rip} rport={rport} transport={} cfd={}", peer.transport(), peer.id);
        });
    }

    /// Tells that the connection goes, and why.
    pub(crate) fn tell_closed(&self, reason: &str) {
        let Some(peer) = &self.peer else { return };
        self.server().watchers.tell(Topic::Connections, |line| {
            let (rip, rport) = remote(&peer.address);
            let transport = peer.transport();
            let _ = write!(
                line,
                "conn_close rip={rip} rport={rport} transport={transport} reason={reason} cfd={}",
                peer.id
            );
        });
    }
}

/// Host and port of an address such as `tcp:127.0.0.1:5`.
fn remote(address: &str) -> (&str, &str) {
    let host_port = address.split_once(':').map_or(address, |(_, rest)| rest);
    host_port.rsplit_once(':').unwrap_or((host_port, "0"))
}

/// Tells of evictions.
pub(crate) fn tell_evicted(watchers: &Watchers, evictions: &[Eviction], now: u32) {
    for eviction in evictions {
        watchers.tell(Topic::Evictions, |line| {
            let fetch = if eviction.was_read { "yes" } else { "no" };
            let ttl = if eviction.expiry == 0 { -1 } else { i64::from(eviction.expiry) - i64::from(now) };
            let (key, la, size) = (escaped(&eviction.key), eviction.idle_secs, eviction.value_bytes);
            let _ = write!(line, "eviction key={key} fetch={fetch} ttl={ttl} la={la} clsid=1 size={size}");
        });
    }
}
