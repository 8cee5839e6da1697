//! The main path as a sentence: a request, its tenant, the cache's answer, its spelling.

use std::sync::atomic::Ordering;

use cache::{
    Cache, Counted, Counting, Delta, Expected, Fetched, Fetching, Lookup, Mode, Needs, Object, Stored, Storing,
    Touched, Turn,
};
use protocol::{Keys, Reply, Request, Store, StoreVerb, text};

use crate::VERSION;
use crate::detail::Done;
use crate::session::{AHEAD, Arrived, Connection, Spelling};
use crate::watch::Topic;
use crate::{meta, operator, stats};

/// Expiries up to this many seconds are from now on; larger ones are absolute.
const RELATIVE_SECS_MAX: i64 = 60 * 60 * 24 * 30;
/// What an object takes besides key and value, as far as `-I` is concerned.
const ITEM_OVERHEAD_BYTES: usize = 56;

/// What became of a request.
pub(crate) enum Served {
    /// It is answered, or needs no answer.
    Done,
    /// It is answered; skip so many bytes behind it.
    Skip(usize),
    /// The client is done.
    Close,
    /// A get was answered as far as this byte of its keys.
    Part(usize, Short),
    /// Its tenant has moved too many bytes lately: it waits.
    NotYet,
    /// A change waits.
    Needs(Needs),
}

/// Why a get was answered in part only.
pub(crate) enum Short {
    /// There is enough output to send first.
    Output,
    /// There is no memory for more output.
    Memory,
}

/// Whether an object with this line fits `-I`.
pub(crate) fn fits(cache: &Cache, key_bytes: usize, value_bytes: usize) -> bool {
    key_bytes + value_bytes + ITEM_OVERHEAD_BYTES <= cache.settings().item_bytes_max
}

/// Refuses a value that does not fit. A set that fails so must not leave the old value behind, as in memcached.
pub(crate) fn refuse_too_large(
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    key: &[u8],
    is_set: bool,
    reply: Reply,
) {
    if is_set {
        turn.delete(connection.tenant_of(turn.cache(), key), key);
    }
    connection.server().too_large.fetch_add(1, Ordering::Relaxed);
    connection.reply(reply, "SERVER_ERROR object too large for cache");
}

/// Serves anything but a store.
pub(crate) fn request(
    cache: &Cache,
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    request: &Request<'_>,
) -> Served {
    match *request {
        Request::Get { keys, .. } if connection.server().limits_replies(keys) => {
            connection.server().replies_refused.fetch_add(1, Ordering::Relaxed);
            connection.reply(Reply::Wanted, "SERVER_ERROR out of memory writing get response");
            Served::Done
        }
        Request::Get { keys, with_cas, touch: None } => get(cache, turn, connection, keys, with_cas),
        Request::Get { keys, with_cas, touch: Some(exptime) } => {
            get_and_touch(cache, turn, connection, keys, with_cas, exptime)
        }
        Request::Arithmetic { key, up, delta, reply } => arithmetic(turn, connection, key, up, delta, reply),
        Request::Delete(key, reply) => {
            let bytes = connection.bytes_for_watchers(turn, Topic::Deletions, key);
            let found = turn.delete(connection.tenant_of(cache, key), key);
            connection.tell_deleted(key, "delete", bytes.filter(|_| found));
            connection.server().details.note(key, Done::Delete);
            connection.reply(reply, if found { "DELETED" } else { "NOT_FOUND" });
            Served::Done
        }
        Request::Touch { key, exptime, reply } => {
            let expiry = absolute(exptime, cache.now());
            match turn.touch(connection.tenant_of(cache, key), key, expiry) {
                Ok(Touched::Yes) => connection.reply(reply, "TOUCHED"),
                Ok(Touched::Unknown) => connection.reply(reply, "NOT_FOUND"),
                Err(needs) => return Served::Needs(needs),
            }
            Served::Done
        }
        Request::FlushAll(_, reply) if !connection.server().config.flush => {
            connection.reply(reply, "CLIENT_ERROR flush_all not allowed");
            Served::Done
        }
        Request::FlushAll(delay, reply) => {
            let at = (delay > 0).then(|| absolute(delay, cache.now()));
            turn.flush_all(connection.tenant, at);
            connection.reply(reply, "OK");
            Served::Done
        }
        Request::Meta(verb, key, words) => meta::request(turn, connection, verb, key, words),
        Request::MetaNoOp => {
            connection.reply(Reply::Wanted, "MN");
            Served::Done
        }
        Request::Operator(words, reply) => operator::request(cache, connection, words, reply),
        Request::Version => {
            connection.reply(Reply::Wanted, &format!("VERSION {VERSION}"));
            Served::Done
        }
        Request::Stats(arguments) => {
            let server = std::sync::Arc::clone(connection.server());
            stats::spell(&server, cache, connection.tenant, arguments, connection.out());
            Served::Done
        }
        Request::Quit => Served::Close,
        Request::Refused { line, skip, reply } => {
            connection.reply(reply, line);
            Served::Skip(skip)
        }
        Request::Store(_) | Request::MetaStore(..) => unreachable!("stores come with their value, by another way"),
    }
}

fn get(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, keys: Keys<'_>, with_cas: bool) -> Served {
    let start = connection.answered();
    let mut rest = keys.skip_bytes(start);
    let mut block = [(0, (0, &[][..], Expected::default())); AHEAD];
    loop {
        let mut count = 0;
        for place in &mut block {
            let at = keys.bytes_before(&rest);
            let Some(key) = rest.next() else { break };
            let tenant = connection.tenant_of(cache, key);
            *place = (at, (tenant, key, turn.expect(tenant, key)));
            count += 1;
        }
        let block = &mut block[..count];
        if count > 1 {
            block.iter_mut().for_each(|(_, (_, _, expected))| turn.expect_object(expected));
        }
        for (at, asked) in block {
            if *at > start && !connection.has_room_for_output() {
                return Served::Part(*at, Short::Output);
            }
            if !get_one(cache, turn, connection, *asked, with_cas) {
                return Served::Part(*at, Short::Memory);
            }
        }
        if count < AHEAD {
            break;
        }
    }
    text::line(connection.out(), "END");
    Served::Done
}

/// Looks up one key that was expected, of this tenant, and spells what it holds, if anything. False if there is no memory for that.
pub(crate) fn get_one(
    cache: &Cache,
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    (tenant, key, expected): (u16, &[u8], Expected),
    with_cas: bool,
) -> bool {
    match turn.get_expected(tenant, key, expected) {
        Lookup::Miss => {
            connection.tell_got(key, None);
            true
        }
        Lookup::Hit(object) => {
            let unique = with_cas.then(|| connection.shown(object.unique()));
            let header = |out: &mut Vec<u8>| {
                text::value_header(out, key, object.client_flags(), object.value_bytes(), unique);
            };
            let held = connection.spell_object(cache, &object, header, b"\r\n");
            if held {
                connection.tell_got(key, Some(object.value_bytes()));
            }
            held
        }
        Lookup::FlashHit(object) => {
            let held = connection.hold_output(cache, object.value.len());
            if held {
                connection.tell_got(key, Some(object.value.len()));
                let unique = with_cas.then(|| connection.shown(object.unique));
                let out = connection.out();
                text::value_header(out, key, object.client_flags, object.value.len(), unique);
                out.extend_from_slice(&object.value);
                out.extend_from_slice(b"\r\n");
            }
            held
        }
        Lookup::Flash(read) => {
            let held = connection.hold_output(cache, read.pages() * cache::PAGE_BYTES);
            if held {
                connection.tell_got(key, Some(read.pages() * cache::PAGE_BYTES));
                connection.leave_hole(read, Spelling::Text { with_cas });
            }
            held
        }
    }
}

/// Spells an object of DRAM in a copy, and tells those who watch.
fn spell_value(connection: &mut Connection, key: &[u8], object: &Object<'_>, with_cas: bool) {
    connection.tell_got(key, Some(object.value_bytes()));
    let unique = with_cas.then(|| connection.shown(object.unique()));
    let out = connection.out();
    text::value_header(out, key, object.client_flags(), object.value_bytes(), unique);
    object.value().for_each(|piece| out.extend_from_slice(piece));
    out.extend_from_slice(b"\r\n");
}

/// gat and gats: what is on flash comes to DRAM first, then the whole request is answered at once, each value as it was
/// found, even if the new expiry is past already.
fn get_and_touch(
    cache: &Cache,
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    keys: Keys<'_>,
    with_cas: bool,
    exptime: i64,
) -> Served {
    let fetching = Fetching { expiry: Some(absolute(exptime, cache.now())), ..Fetching::default() };
    let mut bytes = 0;
    for key in keys {
        match turn.peek(connection.tenant_of(cache, key), key) {
            Ok(found) => bytes += found.map_or(0, |(object, _)| object.value_bytes()),
            Err(needs) => return Served::Needs(needs),
        }
    }
    if !connection.hold_output(cache, bytes) {
        return Served::Needs(Needs::Room);
    }
    let start = connection.out().len();
    for key in keys {
        match turn.fetch(connection.tenant_of(cache, key), key, &fetching) {
            Ok(Fetched::Hit(object, _)) => spell_value(connection, key, &object, with_cas),
            // it was demoted since the first look: all of it again
            Err(needs) => {
                connection.out().truncate(start);
                return Served::Needs(needs);
            }
            Ok(_) => connection.tell_got(key, None),
        }
    }
    text::line(connection.out(), "END");
    Served::Done
}

/// Serves a store whose value has arrived.
pub(crate) fn store(turn: &mut Turn<'_>, connection: &mut Connection, store: &Store<'_>, value: Arrived<'_>) -> Served {
    let (cache, bytes) = (turn.cache(), value.len());
    let (mode, compare) = match store.verb {
        StoreVerb::Set => (Mode::Set, None),
        StoreVerb::Add => (Mode::Add, None),
        StoreVerb::Replace => (Mode::Replace, None),
        StoreVerb::Append => (Mode::Append, None),
        StoreVerb::Prepend => (Mode::Prepend, None),
        StoreVerb::Cas(unique) => (Mode::Set, Some(unique)),
    };
    let tenant = connection.tenant_of(cache, store.key);
    let expiry = absolute(store.exptime, cache.now());
    let storing = Storing { client_flags: store.client_flags, expiry, compare, ..Storing::new(mode, store.key, &[]) };
    let before = connection.known_to_watchers(turn, store.key);
    let line = match value.store(turn, tenant, &storing) {
        Ok(Stored::Yes(_)) => "STORED",
        Ok(Stored::No) => "NOT_STORED",
        Ok(Stored::Changed) => "EXISTS",
        Ok(Stored::Unknown) => "NOT_FOUND",
        Ok(Stored::TooLarge) => "SERVER_ERROR object too large for cache",
        Err(Needs::Full) => {
            connection.server().no_memory.fetch_add(1, Ordering::Relaxed);
            "SERVER_ERROR out of memory storing object"
        }
        Err(needs) => return Served::Needs(needs),
    };
    let verb = match store.verb {
        StoreVerb::Set => "set",
        StoreVerb::Add => "add",
        StoreVerb::Replace => "replace",
        StoreVerb::Append => "append",
        StoreVerb::Prepend => "prepend",
        StoreVerb::Cas(_) => "cas",
    };
    connection.tell_stored(store.key, verb, before, line, expiry, bytes);
    connection.server().details.note(store.key, Done::Set);
    connection.reply(store.reply, line);
    Served::Done
}

fn arithmetic(
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    key: &[u8],
    up: bool,
    delta: u64,
    reply: Reply,
) -> Served {
    let cache = turn.cache();
    let delta = if up { Delta::Increment(delta) } else { Delta::Decrement(delta) };
    match turn.arithmetic(connection.tenant_of(cache, key), &Counting::new(key, delta)) {
        Ok(Counted::Is { number, .. }) if reply == Reply::Wanted => text::number_line(connection.out(), number),
        Ok(Counted::Is { .. } | Counted::Changed) => {}
        Ok(Counted::NotANumber) => {
            connection.reply(reply, "CLIENT_ERROR cannot increment or decrement non-numeric value");
        }
        Ok(Counted::Unknown) => connection.reply(reply, "NOT_FOUND"),
        Err(Needs::Full) => connection.refuse_for_memory(reply, "SERVER_ERROR out of memory"),
        Err(needs) => return Served::Needs(needs),
    }
    Served::Done
}

/// The absolute second of an expiry as clients state it: 0 is never, up to 30 days is from now on, negative is gone already.
pub(crate) fn absolute(exptime: i64, now: u32) -> u32 {
    match exptime {
        0 => 0,
        ..0 => 1,
        1..=RELATIVE_SECS_MAX => now.saturating_add(exptime as u32),
        _ => u32::try_from(exptime).unwrap_or(u32::MAX),
    }
}

impl Connection {
    /// Whose key it is: the port's tenant's, or whoever's prefix it has.
    pub(crate) fn tenant_of(&self, cache: &Cache, key: &[u8]) -> u16 {
        self.tenant.unwrap_or_else(|| cache.tenant_of(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_are_read_as_memcached_does() {
        assert_eq!(absolute(0, 1000), 0);
        assert_eq!(absolute(-1, 1000), 1);
        assert_eq!(absolute(60, 1000), 1060);
        assert_eq!(absolute(RELATIVE_SECS_MAX, 1000), 1000 + 2_592_000);
        assert_eq!(absolute(RELATIVE_SECS_MAX + 1, 1000), 2_592_001);
    }
}
