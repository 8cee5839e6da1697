//! A look at the requests that have come, before they are served.

use cache::{Cache, Expected, Turn};
use protocol::text;

use super::Connection;

/// Requests, and keys of a multiget, whose objects are fetched into the processor's caches together.
pub(crate) const AHEAD: usize = 16;

/// A request that was looked at ahead.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Where it stands in the input.
    pub(super) begin: usize,
    /// Where the next one does.
    pub(super) next: usize,
    /// Bytes of its key, if it is a get or an mg of which all is known; else 0.
    pub(super) key_bytes: usize,
    pub(super) tenant: u16,
    pub(super) expected: Expected,
}

impl Connection {
    /// Looks at the requests that have come, so that what they will read is on its way from memory when they are served, and so that gets of
    /// one key need no other look, whichever of the dialects they are in.
    pub(super) fn look_ahead(&mut self, cache: &Cache, turn: &Turn<'_>, input: &[u8]) {
        self.ahead.clear();
        let mut at = self.used;
        while self.ahead.len() < AHEAD
            && let Some(glance) = input.get(at..).and_then(text::glance)
        {
            let (begin, next) = (at, at + glance.bytes);
            let is_alone = self.ahead.is_empty() && next >= input.len();
            if let Some(key) = glance.key
                && (glance.is_certain || !is_alone)
            {
                let tenant = self.tenant_of(cache, key);
                // one request alone would be fetched no sooner
                let expected = if is_alone { turn.expect_alone(tenant, key) } else { turn.expect(tenant, key) };
                let key_bytes = if glance.is_certain { key.len() } else { 0 };
                self.ahead.push(Ahead { begin, next, key_bytes, tenant, expected });
            }
            at = next;
            if is_alone {
                break;
            }
        }
        if self.ahead.len() > 1 {
            self.ahead.iter_mut().for_each(|ahead| turn.expect_object(&mut ahead.expected));
        }
        self.ahead.reverse(); // the next one is popped from the end
        self.expected_to = at;
    }

    /// The request that comes next, if it was looked at ahead and is known for what it is.
    pub(super) fn next_known(&mut self) -> Option<Ahead> {
        while self.ahead.last().is_some_and(|ahead| ahead.begin < self.used) {
            self.ahead.pop();
        }
        self.ahead.pop_if(|ahead| ahead.begin == self.used && ahead.key_bytes > 0)
    }
}
