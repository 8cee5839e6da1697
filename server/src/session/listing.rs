//! Connections that are told things they did not ask for one by one: watchers, and listings of keys.

use cache::Cache;
use protocol::text;

use super::Connection;
use crate::watch::escaped;

/// How keys are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ListingStyle {
    /// Everything that is known of a key.
    Metadump,
    /// The key, as an mg command.
    Mgdump,
}

impl Connection {
    /// Turns the connection into one that is told what happens.
    pub(crate) fn watch(&mut self, topics: u16) {
        self.watcher = Some(self.server.watchers.add(topics, self.server.config.options.watcher_bytes));
    }

    /// Whether [`Connection::pump`] should be called every few milliseconds.
    pub fn is_watching(&self) -> bool {
        self.watcher.is_some()
    }

    /// Takes what a watcher is told into the output.
    pub fn pump(&mut self) {
        if let Some(watcher) = &self.watcher
            && self.unsent() == 0
        {
            let lines = watcher.take();
            self.out().extend_from_slice(lines.as_bytes());
        }
    }

    pub(crate) fn begin_listing(&mut self, cache: &Cache, style: ListingStyle) {
        self.listing = Some((cache.list_keys(self.tenant), style));
    }

    /// Lists some more keys.
    pub(super) fn list_on(&mut self, cache: &Cache) {
        let Some((mut listing, style)) = self.listing.take() else { return };
        let keys = listing.next(cache);
        let now = cache.now();
        let out = self.out();
        for key in &keys {
            match style {
                ListingStyle::Mgdump => {
                    out.extend_from_slice(b"mg ");
                    if key.key.iter().all(|byte| byte.is_ascii_graphic()) {
                        out.extend_from_slice(&key.key);
                        out.extend_from_slice(b"\r\n");
                    } else {
                        out.extend_from_slice(protocol::meta::encoded(&key.key).as_bytes());
                        out.extend_from_slice(b" b\r\n");
                    }
                }
                ListingStyle::Metadump => {
                    let exp = if key.expiry == 0 { -1 } else { i64::from(key.expiry) };
                    let (la, fetch) = (now.saturating_sub(key.idle_secs), if key.was_read { "yes" } else { "no" });
                    let (name, cas, size, flags) = (escaped(&key.key), key.unique, key.bytes, key.client_flags);
                    let line = format!(
                        "key={name} exp={exp} la={la} cas={cas} fetch={fetch} cls=1 size={size} flags={flags}\n"
                    );
                    out.extend_from_slice(line.as_bytes());
                }
            }
        }
        match (keys.is_empty(), style) {
            (true, ListingStyle::Metadump) => text::line(out, "END"),
            (true, ListingStyle::Mgdump) => text::line(out, "EN"),
            (false, style) => self.listing = Some((listing, style)),
        }
    }
}
