//! The binary commands. They mean what their text counterparts mean; quiet ones answer only what is unusual.

use cache::{
    Cache, Counted, Counting, Delta, Fetched, Fetching, FlashObject, Lookup, Mode, Needs, Removed, Removing, Stored,
    Storing, Touched, Turn,
};
use protocol::binary::{Command, Frame, HEADER_BYTES, Header, Status, response_header};

use crate::limits::Refusal;
use crate::serve::{Served, absolute};
use crate::session::{Connection, Spelling};
use crate::{VERSION, stats};

/// Longest name of a SASL mechanism, as in memcached.
const MECHANISM_BYTES_MAX: usize = 32;
/// Expiry by which an increment says that it does not create its counter.
const NEVER_CREATE: u32 = u32::MAX;

fn answer(out: &mut Vec<u8>, header: &Header, status: Status, extras: &[u8], key: &[u8], value: &[u8], unique: u64) {
    let lengths = (extras.len(), key.len(), value.len());
    response_header(out, (header.opcode, header.opaque), status, lengths, unique);
    out.extend_from_slice(extras);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// Answers with an error and its text.
pub(crate) fn refuse(connection: &mut Connection, header: &Header, status: Status) {
    answer(connection.out(), header, status, &[], &[], status.text().as_bytes(), 0);
}

fn expiry(cache: &Cache, stated: u32) -> u32 {
    absolute(i64::from(stated as i32), cache.now())
}

/// Serves a frame.
pub(crate) fn request(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let (command, quiet) = frame.header.command();
    let is_sasl = matches!(command, Command::SaslList | Command::SaslAuth | Command::SaslStep);
    let (offers_sasl, header) = (connection.server().config.sasl, &frame.header);
    if is_sasl && !offers_sasl {
        refuse(connection, header, Status::UnknownCommand);
        return Served::Done;
    }
    if !is_sasl && command != Command::Version && !connection.is_authenticated() {
        refuse(connection, header, Status::AuthFailed);
        return Served::Done;
    }
    let is_store =
        matches!(command, Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend);
    if cache.registry().has_limits() && !frame.key.is_empty() && !is_sasl && command != Command::Stat {
        let bytes = HEADER_BYTES + header.body_bytes;
        let refusal = connection.pay(cache, |own| {
            own.ask_for_one(cache, frame.key, is_store.then_some(frame.value.len()), bytes).map(Some)
        });
        if let Some(refusal) = refusal {
            if refusal == Refusal::NotYet {
                return Served::NotYet;
            }
            if command == Command::Set {
                turn.delete(connection.tenant_of(cache, frame.key), frame.key);
            }
            let status = if refusal == Refusal::TooLarge { Status::TooLarge } else { Status::Busy };
            refuse(connection, header, status);
            if refusal == Refusal::TooMany {
                connection.hold_back();
            }
            return Served::Done;
        }
    }
    let outcome = match command {
        Command::Get { .. } => return get(cache, turn, connection, frame),
        Command::GetAndTouch { .. } => return get_and_touch(cache, turn, connection, frame),
        Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend => {
            store(cache, turn, connection, frame, command)
        }
        Command::Delete => delete(turn, connection, frame),
        Command::Increment | Command::Decrement => return count(cache, turn, connection, frame),
        Command::Touch => touch(cache, turn, connection, frame),
        Command::Quit => {
            if !quiet {
                answer(connection.out(), header, Status::Success, &[], &[], &[], 0);
            }
            return Served::Close;
        }
        Command::Flush if !connection.server().config.flush => Ok((Status::AuthFailed, 0)),
        Command::Flush => {
            let delay = if frame.extras.is_empty() { 0 } else { frame.extra(0) };
            turn.flush_all(connection.tenant, (delay > 0).then(|| expiry(cache, delay)));
            Ok((Status::Success, 0))
        }
        Command::NoOp => Ok((Status::Success, 0)),
        Command::Verbosity => {
            connection.server().set_verbosity(frame.extra(0));
            Ok((Status::Success, 0))
        }
        Command::Version => {
            answer(connection.out(), header, Status::Success, &[], &[], VERSION.as_bytes(), 0);
            return Served::Done;
        }
        Command::Stat => return stat(cache, connection, frame),
        Command::SaslList => {
            answer(connection.out(), header, Status::Success, &[], &[], b"PLAIN", 0);
            return Served::Done;
        }
        Command::SaslAuth => return authenticate(cache, connection, frame),
        Command::SaslStep => {
            connection.server().refuse_login(); // PLAIN has one step, and it was not taken
            Ok((Status::AuthFailed, 0))
        }
        Command::Unknown => Ok((Status::UnknownCommand, 0)),
    };
    match outcome {
        Ok((Status::Success, _)) if quiet => {}
        Ok((Status::Success, unique)) => answer(connection.out(), header, Status::Success, &[], &[], &[], unique),
        Ok((status, _)) => refuse(connection, header, status),
        Err(needs) => return Served::Needs(needs),
    }
    Served::Done
}

fn spell_hit(out: &mut Vec<u8>, header: &Header, key: &[u8], client_flags: u32, unique: u64, value_bytes: usize) {
    let with_key =
        matches!(header.command().0, Command::Get { with_key: true } | Command::GetAndTouch { with_key: true });
    let key = if with_key { key } else { &[] };
    response_header(out, (header.opcode, header.opaque), Status::Success, (4, key.len(), value_bytes), unique);
    out.extend_from_slice(&client_flags.to_be_bytes());
    out.extend_from_slice(key);
}

fn spell_miss(out: &mut Vec<u8>, header: &Header, key: &[u8]) {
    match header.command() {
        (_, true) => {}
        (Command::Get { with_key: true } | Command::GetAndTouch { with_key: true }, _) => {
            answer(out, header, Status::NotFound, &[], key, &[], 0);
        }
        _ => answer(out, header, Status::NotFound, &[], &[], Status::NotFound.text().as_bytes(), 0),
    }
}

/// Spells what a get that flash was read for found there.
pub(crate) fn spell_flash(out: &mut Vec<u8>, header: &Header, key: &[u8], found: Option<&FlashObject<'_>>) {
    match found {
        Some(object) => {
            spell_hit(out, header, key, object.client_flags, object.unique, object.value.len());
            out.extend_from_slice(&object.value);
        }
        None => spell_miss(out, header, key),
    }
}

fn get(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let (header, key) = (&frame.header, frame.key);
    let held = match turn.get(connection.tenant_of(cache, key), key) {
        Lookup::Miss => {
            spell_miss(connection.out(), header, key);
            true
        }
        Lookup::Hit(object) => {
            let head = |out: &mut Vec<u8>| {
                spell_hit(out, header, key, object.client_flags(), object.unique(), object.value_bytes());
            };
            connection.spell_object(cache, &object, head, b"")
        }
        Lookup::FlashHit(object) => {
            let held = connection.hold_output(cache, object.value.len());
            if held {
                spell_flash(connection.out(), header, key, Some(&object));
            }
            held
        }
        Lookup::Flash(read) => {
            let held = connection.hold_output(cache, read.pages() * cache::PAGE_BYTES);
            if held {
                connection.leave_hole(read, Spelling::Binary(*header));
            }
            held
        }
    };
    if held { Served::Done } else { Served::Needs(Needs::Room) }
}

fn get_and_touch(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let (header, key) = (&frame.header, frame.key);
    let tenant = connection.tenant_of(cache, key);
    let bytes = match turn.peek(tenant, key) {
        Ok(found) => found.map_or(0, |(object, _)| object.value_bytes()),
        Err(needs) => return Served::Needs(needs),
    };
    if !connection.hold_output(cache, bytes) {
        return Served::Needs(Needs::Room);
    }
    let fetching = Fetching { expiry: Some(expiry(cache, frame.extra(0))), ..Fetching::default() };
    match turn.fetch(tenant, key, &fetching) {
        Err(needs) => return Served::Needs(needs),
        Ok(Fetched::Hit(object, _)) => {
            let out = connection.out();
            spell_hit(out, header, key, object.client_flags(), object.unique(), object.value_bytes());
            object.value().for_each(|piece| out.extend_from_slice(piece));
        }
        Ok(_) => spell_miss(connection.out(), header, key),
    }
    Served::Done
}

/// A status, and the unique that goes with it.
type Outcome = Result<(Status, u64), Needs>;

fn store(
    cache: &Cache,
    turn: &mut Turn<'_>,
    connection: &mut Connection,
    frame: &Frame<'_>,
    command: Command,
) -> Outcome {
    let mode = match command {
        Command::Add => Mode::Add,
        Command::Replace => Mode::Replace,
        Command::Append => Mode::Append,
        Command::Prepend => Mode::Prepend,
        _ => Mode::Set,
    };
    let compare = (frame.header.unique != 0).then_some(frame.header.unique);
    let mut storing = Storing { compare, ..Storing::new(mode, frame.key, frame.value) };
    if !frame.extras.is_empty() {
        (storing.client_flags, storing.expiry) = (frame.extra(0), expiry(cache, frame.extra(4)));
    }
    let status = match turn.store(connection.tenant_of(cache, frame.key), &storing) {
        Ok(Stored::Yes(written)) => return Ok((Status::Success, written.unique)),
        Ok(Stored::No) if mode == Mode::Add => Status::Exists,
        Ok(Stored::No) if mode == Mode::Replace => Status::NotFound,
        Ok(Stored::No) => Status::NotStored,
        Ok(Stored::Changed) => Status::Exists,
        Ok(Stored::Unknown) => Status::NotFound,
        Ok(Stored::TooLarge) => Status::TooLarge,
        Err(needs) => return Err(needs),
    };
    Ok((status, 0))
}

fn delete(turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Outcome {
    let key = frame.key;
    let tenant = connection.tenant_of(turn.cache(), key);
    let removed = if frame.header.unique == 0 {
        if turn.delete(tenant, key) { Removed::Yes } else { Removed::Unknown }
    } else {
        let compare = Some(frame.header.unique);
        turn.remove(tenant, &Removing { key, compare, stale: false, blank: None, unique: None, expiry: None })?
    };
    Ok(match removed {
        Removed::Yes => (Status::Success, 0),
        Removed::Changed => (Status::Exists, 0),
        Removed::Unknown => (Status::NotFound, 0),
    })
}

fn count(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let (command, quiet) = frame.header.command();
    let (by, initial, stated) = (frame.extra_long(0), frame.extra_long(8), frame.extra(16));
    let delta = if command == Command::Increment { Delta::Increment(by) } else { Delta::Decrement(by) };
    let create = (stated != NEVER_CREATE).then(|| (initial, expiry(cache, stated)));
    let compare = (frame.header.unique != 0).then_some(frame.header.unique);
    let counting = Counting { create, compare, ..Counting::new(frame.key, delta) };
    let header = &frame.header;
    match turn.arithmetic(connection.tenant_of(cache, frame.key), &counting) {
        Err(needs) => return Served::Needs(needs),
        Ok(Counted::Is { .. }) if quiet => {}
        Ok(Counted::Is { number, unique, .. }) => {
            answer(connection.out(), header, Status::Success, &[], &[], &number.to_be_bytes(), unique);
        }
        Ok(Counted::NotANumber) => refuse(connection, header, Status::NotANumber),
        Ok(Counted::Changed) => refuse(connection, header, Status::Exists),
        Ok(Counted::Unknown) => refuse(connection, header, Status::NotFound),
    }
    Served::Done
}

fn touch(cache: &Cache, turn: &mut Turn<'_>, connection: &mut Connection, frame: &Frame<'_>) -> Outcome {
    let tenant = connection.tenant_of(cache, frame.key);
    Ok(match turn.touch(tenant, frame.key, expiry(cache, frame.extra(0)))? {
        Touched::Yes => (Status::Success, 0),
        Touched::Unknown => (Status::NotFound, 0),
    })
}

/// Turns the lines of text stats into frames, one a pair, and an empty one to end.
fn stat(cache: &Cache, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let server = std::sync::Arc::clone(connection.server());
    let mut lines = Vec::new();
    stats::spell(&server, cache, connection.tenant, frame.key, &mut lines);
    let header = &frame.header;
    if lines == b"ERROR\r\n" {
        refuse(connection, header, Status::NotFound);
        return Served::Done;
    }
    let out = connection.out();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii_end();
        let Some(pair) = line.strip_prefix(b"STAT ") else { continue };
        let at = memchr::memchr(b' ', pair).unwrap_or(pair.len());
        let value = pair.get(at + 1..).unwrap_or_default();
        answer(out, header, Status::Success, &[], &pair[..at], value, 0);
    }
    answer(out, header, Status::Success, &[], &[], &[], 0);
    Served::Done
}

/// SASL PLAIN: authorisation identity, user and password, divided by zero bytes.
fn authenticate(cache: &Cache, connection: &mut Connection, frame: &Frame<'_>) -> Served {
    let mut parts = frame.value.splitn(3, |byte| *byte == 0);
    let (_, user, password) = (parts.next(), parts.next(), parts.next());
    if frame.key.len() > MECHANISM_BYTES_MAX {
        refuse(connection, &frame.header, Status::Invalid);
        return Served::Done;
    }
    let accepted = match user.zip(password).filter(|_| frame.key == b"PLAIN") {
        Some((user, password)) => connection.log_in(cache, user, password),
        None => connection.server().refuse_login(),
    };
    if accepted {
        answer(connection.out(), &frame.header, Status::Success, &[], &[], b"Authenticated", 0);
    } else {
        refuse(connection, &frame.header, Status::AuthFailed);
    }
    Served::Done
}
