//! The meta commands: one request, one answer whose fields the client chose.

use cache::{
    Cache, Counted, Counting, Delta, Expected, FlashObject, Mode, Needs, Removed, Removing, Seen, Stored, Storing, Turn,
};
use cache::{Fetched, Fetching};
use protocol::{KEY_BYTES_MAX, Keys, Meta, MetaVerb, Reply, text};

use crate::serve::{Served, absolute, refuse_too_large};
use crate::session::{Arrived, Connection, Spelling};
use crate::watch::Topic;

/// Serves mg, md, ma and me.
pub(crate) fn request(
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    verb: MetaVerb,
    key: &[u8],
    words: Keys<'_>,
) -> Served {
    let meta = match Meta::parse(key, words) {
        Ok(meta) => meta,
        Err(_) if verb == MetaVerb::Arithmetic => {
            connection.reply(Reply::Wanted, "CLIENT_ERROR invalid or duplicate flag");
            return Served::Done;
        }
        Err(line) => {
            connection.reply(Reply::Wanted, line);
            return Served::Done;
        }
    };
    serve(turn, connection, verb, &meta)
}

/// Serves an mg whose key, as it is on the line, was looked at ahead.
pub(crate) fn get_expected(
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    key: &[u8],
    words: Keys<'_>,
    seen: (u16, Expected),
) -> Served {
    match Meta::parse(key, words) {
        // what was looked at was not the key
        Ok(meta) if meta.base64 => serve(turn, connection, MetaVerb::Get, &meta),
        Ok(meta) => {
            connection.count_meta_command();
            get(turn, connection, &meta, key, seen)
        }
        Err(line) => {
            connection.reply(Reply::Wanted, line);
            Served::Done
        }
    }
}

fn serve(turn: &mut Turn<'_>, connection: &mut Connection, verb: MetaVerb, meta: &Meta<'_>) -> Served {
    let mut decoded = [0; KEY_BYTES_MAX];
    let key = meta.key_in(&mut decoded).expect("it was decoded when the flags were read");
    connection.count_meta_command();
    match verb {
        MetaVerb::Get => {
            let tenant = connection.tenant_of(turn.cache(), key);
            get(turn, connection, meta, key, (tenant, turn.expect_alone(tenant, key)))
        }
        MetaVerb::Delete => delete(turn, connection, meta, key),
        MetaVerb::Arithmetic => arithmetic(turn, connection, meta, key),
        MetaVerb::Debug => debug(turn, connection, meta, key),
    }
}

fn expiry_of(cache: &Cache, ttl: Option<i32>) -> Option<u32> {
    ttl.map(|ttl| absolute(i64::from(ttl), cache.now()))
}

/// What an mg answer can tell of an object, wherever it was found.
struct Facts {
    client_flags: u32,
    unique: u64,
    value_bytes: usize,
    seen: Seen,
}

impl Facts {
    fn of_flash(object: &FlashObject<'_>, now: u32) -> Facts {
        let seen = Seen {
            was_read: object.was_read,
            idle_secs: now.saturating_sub(object.accessed),
            expiry: object.expiry,
            stale: false,
            taken: object.won,
            won: false,
        };
        let (client_flags, unique) = (object.client_flags, object.unique);
        Facts { client_flags, unique, value_bytes: object.value.len(), seen }
    }

    /// Whether the value belongs behind the first line.
    fn shows_value(&self, meta: &Meta<'_>) -> bool {
        meta.value && meta.compare != Some(self.unique)
    }

    /// Spells the first line.
    fn spell(&self, meta: &Meta<'_>, now: u32, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        if self.shows_value(meta) {
            out.extend_from_slice(b"VA ");
            out.extend_from_slice(digits.format(self.value_bytes).as_bytes());
        } else {
            out.extend_from_slice(b"HD");
        }
        for word in meta.words {
            let flag = word[0];
            let number = match flag {
                b's' => self.value_bytes as u64,
                b'f' => u64::from(self.client_flags),
                b'c' => self.unique,
                b'l' => u64::from(self.seen.idle_secs),
                b'h' => u64::from(self.seen.was_read),
                b't' if self.seen.expiry == 0 => {
                    out.extend_from_slice(b" t-1");
                    continue;
                }
                b't' => u64::from(self.seen.expiry.saturating_sub(now)),
                _ => {
                    meta.echo(word, out);
                    continue;
                }
            };
            out.extend_from_slice(&[b' ', flag]);
            out.extend_from_slice(digits.format(number).as_bytes());
        }
        for (said, flag) in [(self.seen.taken, b" Z"), (self.seen.stale, b" X"), (self.seen.won, b" W")] {
            if said {
                out.extend_from_slice(flag);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Spells a hit on flash; `line` is the key and the flags as they were asked for.
pub(crate) fn spell_flash_hit(line: &[u8], object: &FlashObject<'_>, now: u32, out: &mut Vec<u8>) {
    let Some(meta) = reparsed(line) else { return };
    spell_flash_object(&meta, object, now, out);
}

fn spell_flash_object(meta: &Meta<'_>, object: &FlashObject<'_>, now: u32, out: &mut Vec<u8>) {
    let facts = Facts::of_flash(object, now);
    facts.spell(meta, now, out);
    if facts.shows_value(meta) {
        out.extend_from_slice(&object.value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Spells a miss that flash had to be read for.
pub(crate) fn spell_flash_miss(line: &[u8], out: &mut Vec<u8>) {
    if let Some(meta) = reparsed(line).filter(|meta| !meta.quiet) {
        meta.status_line("EN", out);
    }
}

fn reparsed(line: &[u8]) -> Option<Meta<'_>> {
    let mut words = Keys::of_line(line);
    let key = words.next()?;
    Meta::parse(key, words).ok()
}

fn get(
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    meta: &Meta<'_>,
    key: &[u8],
    (tenant, expected): (u16, Expected),
) -> Served {
    let cache = turn.cache();
    let now = cache.now();
    let fetching = Fetching {
        unnoted: meta.unnoted,
        expiry: expiry_of(cache, meta.ttl),
        create: expiry_of(cache, meta.create).map(|expiry| (expiry, meta.unique)),
        recache_before: expiry_of(cache, meta.recache),
    };
    match turn.fetch_expected(tenant, key, expected, &fetching) {
        Err(needs) => return Served::Needs(needs),
        Ok(Fetched::Hit(object, seen)) => {
            let (client_flags, unique) = (object.client_flags(), connection.shown(object.unique()));
            let facts = Facts { client_flags, unique, value_bytes: object.value_bytes(), seen };
            let head = |out: &mut Vec<u8>| facts.spell(meta, now, out);
            match facts.shows_value(meta) {
                false => head(connection.out()),
                true if connection.spell_object(cache, &object, head, b"\r\n") => {}
                true if !seen.won => return Served::Needs(Needs::Room),
                // what the fetch has changed cannot be asked for twice: then the answer is spelled, memory or not
                true => {
                    let out = connection.out();
                    head(out);
                    object.value().for_each(|piece| out.extend_from_slice(piece));
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        Ok(Fetched::FlashHit(object)) => {
            if !connection.hold_output(cache, object.value.len()) {
                return Served::Needs(Needs::Room);
            }
            spell_flash_object(meta, &object, now, connection.out());
        }
        Ok(Fetched::Flash(read)) => {
            if !connection.hold_output(cache, read.pages() * cache::PAGE_BYTES) {
                return Served::Needs(Needs::Room);
            }
            connection.leave_hole(read, Spelling::Meta([meta.key, meta.words.as_bytes()].concat().into()));
        }
        Ok(Fetched::Miss) if meta.quiet => {}
        Ok(Fetched::Miss) => meta.status_line("EN", connection.out()),
    }
    Served::Done
}

fn delete(turn: &mut Turn<'_>, connection: &mut Connection, meta: &Meta<'_>, key: &[u8]) -> Served {
    let cache = turn.cache();
    let tenant = connection.tenant_of(cache, key);
    let expiry = expiry_of(cache, meta.ttl);
    let plain = meta.compare.is_none() && !meta.invalidate && !meta.blank;
    let bytes = connection.bytes_for_watchers(turn, Topic::Deletions, key).filter(|_| !meta.invalidate);
    let removed = if plain {
        Ok(if turn.delete(tenant, key) { Removed::Yes } else { Removed::Unknown })
    } else {
        turn.remove(
            tenant,
            &Removing {
                key,
                compare: meta.compare,
                stale: meta.invalidate,
                blank: meta.blank.then(|| (meta.client_flags, expiry.unwrap_or(0))),
                unique: meta.unique,
                expiry,
            },
        )
    };
    if matches!(removed, Ok(Removed::Yes)) {
        connection.tell_deleted(key, "md", bytes);
    }
    match removed {
        Ok(Removed::Yes) if meta.quiet => {}
        Ok(Removed::Yes) => meta.status_line("HD", connection.out()),
        Ok(Removed::Changed) => meta.status_line("EX", connection.out()),
        Ok(Removed::Unknown) => meta.status_line("NF", connection.out()),
        Err(needs) => return Served::Needs(needs),
    }
    Served::Done
}

fn arithmetic(turn: &mut Turn<'_>, connection: &mut Connection, meta: &Meta<'_>, key: &[u8]) -> Served {
    let cache = turn.cache();
    let delta = match meta.mode {
        0 | b'I' | b'+' => Delta::Increment(meta.delta),
        b'D' | b'-' => Delta::Decrement(meta.delta),
        _ => {
            connection.reply(Reply::Wanted, "CLIENT_ERROR invalid mode for ma M token");
            return Served::Done;
        }
    };
    let counting = Counting {
        key,
        delta,
        compare: meta.compare,
        unique: meta.unique,
        expiry: expiry_of(cache, meta.ttl),
        create: expiry_of(cache, meta.create).map(|expiry| (meta.initial, expiry)),
    };
    match turn.arithmetic(connection.tenant_of(cache, key), &counting) {
        Err(needs) => return Served::Needs(needs),
        Ok(Counted::Is { .. }) if meta.quiet => {}
        Ok(Counted::Is { number, unique, expiry }) => {
            let now = cache.now();
            let seen = Seen { was_read: false, idle_secs: 0, expiry, stale: false, taken: false, won: false };
            let mut digits = itoa::Buffer::new();
            let number = digits.format(number);
            let facts = Facts { client_flags: 0, unique, value_bytes: number.len(), seen };
            // what is compared is the unique before the change
            let meta = Meta { compare: None, ..*meta };
            facts.spell(&meta, now, connection.out());
            if facts.shows_value(&meta) {
                text::line(connection.out(), number);
            }
        }
        Ok(Counted::NotANumber) => {
            let line = "CLIENT_ERROR cannot increment or decrement non-numeric value";
            connection.reply(Reply::Wanted, line);
        }
        Ok(Counted::Changed) => meta.status_line("EX", connection.out()),
        Ok(Counted::Unknown) => meta.status_line("NF", connection.out()),
    }
    Served::Done
}

fn debug(turn: &mut Turn<'_>, connection: &mut Connection, meta: &Meta<'_>, key: &[u8]) -> Served {
    let cache = turn.cache();
    let now = cache.now();
    match turn.peek(connection.tenant_of(cache, key), key) {
        Err(needs) => return Served::Needs(needs),
        Ok(None) => connection.reply(Reply::Wanted, "EN"),
        Ok(Some((object, seen))) => {
            let expiry = if seen.expiry == 0 { -1 } else { i64::from(seen.expiry) - i64::from(now) };
            let fetch = if seen.was_read { "yes" } else { "no" };
            let (unique, bytes) = (object.unique(), object.charged_bytes());
            let out = connection.out();
            out.extend_from_slice(b"ME ");
            out.extend_from_slice(meta.key);
            text::line(
                out,
                &format!(" exp={expiry} la={} cas={unique} fetch={fetch} cls=1 size={bytes}", seen.idle_secs),
            );
        }
    }
    Served::Done
}

/// Serves ms, whose value has arrived.
pub(crate) fn store(turn: &mut Turn<'_>, connection: &mut Connection, meta: &Meta<'_>, value: Arrived<'_>) -> Served {
    let (cache, value_bytes) = (turn.cache(), value.len());
    let mut decoded = [0; KEY_BYTES_MAX];
    let key = meta.key_in(&mut decoded).expect("it was decoded when the flags were read");
    let mode = mode_of(meta).expect("it was checked before the value arrived");
    let extends = extends(meta);
    let created = expiry_of(cache, meta.create).filter(|_| extends);
    let storing = Storing {
        key,
        value: &[],
        mode,
        client_flags: meta.client_flags,
        expiry: created.or_else(|| expiry_of(cache, meta.ttl)).unwrap_or(0),
        compare: meta.compare.filter(|unique| *unique != 0 || !extends),
        unique: meta.unique,
        stale_if_lower: meta.invalidate,
        create: created.is_some(),
    };
    let before = connection.known_to_watchers(turn, key);
    let outcome = value.store(turn, connection.tenant_of(cache, key), &storing);
    if let Ok(outcome) = &outcome {
        let status = if matches!(outcome, Stored::Yes(_)) { "STORED" } else { "NOT_STORED" };
        connection.tell_stored(key, "ms", before, status, storing.expiry, value_bytes);
    }
    let (status, unique, bytes) = match outcome {
        Ok(Stored::Yes(_)) if meta.quiet => return Served::Done,
        Ok(Stored::Yes(written)) => ("HD", connection.shown(written.unique), written.value_bytes),
        Ok(Stored::No) => ("NS", 0, value_bytes),
        Ok(Stored::Changed) => ("EX", 0, value_bytes),
        Ok(Stored::Unknown) => ("NF", 0, value_bytes),
        Ok(Stored::TooLarge) => {
            connection.reply(Reply::Wanted, "SERVER_ERROR object too large for cache");
            return Served::Done;
        }
        Err(Needs::Full) => {
            connection.refuse_for_memory(Reply::Wanted, "SERVER_ERROR out of memory storing object");
            return Served::Done;
        }
        Err(needs) => return Served::Needs(needs),
    };
    let out = connection.out();
    out.extend_from_slice(status.as_bytes());
    let mut digits = itoa::Buffer::new();
    for word in meta.words {
        match word[0] {
            b'c' => {
                out.extend_from_slice(b" c");
                out.extend_from_slice(digits.format(unique).as_bytes());
            }
            b's' => {
                out.extend_from_slice(b" s");
                out.extend_from_slice(digits.format(bytes).as_bytes());
            }
            _ => meta.echo(word, out),
        }
    }
    out.extend_from_slice(b"\r\n");
    Served::Done
}

fn mode_of(meta: &Meta<'_>) -> Option<Mode> {
    match meta.mode {
        0 | b'S' => Some(Mode::Set),
        b'E' => Some(Mode::Add),
        b'A' => Some(Mode::Append),
        b'P' => Some(Mode::Prepend),
        b'R' => Some(Mode::Replace),
        _ => None,
    }
}

/// Whether an ms adds to what is there.
pub(crate) fn extends(meta: &Meta<'_>) -> bool {
    matches!(mode_of(meta), Some(Mode::Append | Mode::Prepend))
}

/// Checks an ms line before its value is waited for.
pub(crate) fn check_store<'b>(key: &'b [u8], words: Keys<'b>) -> Result<Meta<'b>, &'static str> {
    let meta = Meta::parse(key, words)?;
    mode_of(&meta).map(|_| meta).ok_or("CLIENT_ERROR invalid mode for ms M token")
}

/// Refuses a value that does not fit; what was stored before goes too, as in memcached.
pub(crate) fn refuse_store(turn: &mut Turn<'_>, connection: &mut Connection, meta: &Meta<'_>) {
    let mut decoded = [0; KEY_BYTES_MAX];
    let key = meta.key_in(&mut decoded).expect("it was decoded when the flags were read");
    refuse_too_large(turn, connection, key, true, Reply::Wanted);
}
