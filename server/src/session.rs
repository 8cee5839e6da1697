//! One connection, without I/O: bytes go in, replies come out, flash reads are asked for in between.
//!
//! A reply that waits for flash is a *hole* in the queue of output; requests behind it go on, their output waits behind the
//! hole, so replies keep the order of requests (INV-ORDER). A change that waits for flash stops its connection: it is not
//! taken from the input, and is parsed again when it can be decided.
//!
//! The first byte says which protocol a connection speaks, unless its listener does. Until a client has said who it is, where
//! that is asked for, nothing but that is served.
//!
//! Bounded (INV-BOUNDED): output, flash reads under way and the bytes of an arriving value; beyond a little, what a
//! connection holds is asked from the cache's memory first.

mod arriving;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) use arriving::Arrived;
use arriving::Storable;
use cache::{Cache, Completed, Expected, FlashObject, FlashRead, Landing, Listing, Object, Page, Turn, Worker};
use protocol::binary::{Command, Frame, HEADER_BYTES, Header, Status};
use protocol::{Keys, Meta, Reply, Request, StoreVerb, text};

use crate::config::Dialect;
use crate::limits::Refusal;
use crate::output::{Output, SLICES_MAX};
use crate::serve::{self, Served, Short};
use crate::shared::{Doing, Peer, Server};
use crate::watch::{Watcher, escaped};
use crate::{binary, meta};

/// Output beyond which no further request is begun.
const OUTPUT_BYTES_HIGH: usize = 64 << 10;
/// Requests that have come and wait for their turn, in bytes, beyond which no more is received.
const INPUT_BYTES_HIGH: usize = 64 << 10;
/// Flash reads that a connection has under way at most.
const READS_MAX: usize = 32;
/// Requests, and keys of a multiget, whose objects are fetched into the processor's caches together.
pub(crate) const AHEAD: usize = 16;
/// Bytes that a connection may hold without asking.
const FREE_BYTES: usize = 24 << 10;

/// Values of this size and more are sent from where they lie in DRAM; here that saves an eighth of a GET's CPU, at 64 KiB most of it
/// (docs/data-plane.md).
const LENT_BYTES_MIN: usize = 16 << 10;

/// Longest line and longest token of a client that says who it is.
const LOGIN_LINE_BYTES_MAX: usize = 2048;
const LOGIN_BYTES_MAX: usize = 65_536;

/// Names a flash read of a connection.
pub type Slot = u64;

/// Work for the driver: read, and hand the pages to [`Connection::complete`].
pub struct Wanted {
    /// Whose it is.
    pub slot: Slot,
    /// What to read.
    pub read: FlashRead,
}

enum Chunk {
    Ready(Vec<u8>),
    Hole { slot: Slot, spelling: Spelling },
}

/// A request that was looked at ahead.
#[derive(Clone, Copy)]
struct Ahead {
    /// Where it stands in the input.
    begin: usize,
    /// Where the next one does.
    next: usize,
    /// Bytes of its key, if it is a get of that key alone; else 0.
    key_bytes: usize,
    tenant: u16,
    expected: Expected,
}

/// How a value that comes from flash is told.
pub(crate) enum Spelling {
    /// get and gets.
    Text {
        /// Whether its unique is wanted.
        with_cas: bool,
    },
    /// mg, with its key and flags as they were on the line.
    Meta(Box<[u8]>),
    /// A binary get.
    Binary(Header),
}

/// How keys are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ListingStyle {
    /// Everything that is known of a key.
    Metadump,
    /// The key, as an mg command.
    Mgdump,
}

/// A new connection: where it came to, and what holds there.
pub struct Arrival {
    /// The tenant of the port, if that is one's own.
    pub tenant: Option<u16>,
    /// Whether it is counted among that tenant's connections already.
    pub counted: bool,
    /// What is spoken there.
    pub dialect: Dialect,
    /// What stats tell of it.
    pub peer: Option<Arc<Peer>>,
}

/// Why a connection does not go on by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pause {
    /// It does.
    None,
    /// It waits for this read before its next change can be decided.
    Change(Slot),
    /// Memory is short: the cleaner has to free some.
    Room,
    /// Its tenant has asked for too much: it is not heard for so long.
    Held(Duration),
}

/// A connection's protocol state.
pub struct Connection {
    server: Arc<Server>,
    /// The tenant of the port that the client came to, or of the user that it is, if that is one's own.
    pub(crate) tenant: Option<u16>,
    dialect: Dialect,
    pub(crate) peer: Option<Arc<Peer>>,
    authenticated: bool,
    watcher: Option<Arc<Watcher>>,
    listing: Option<(Listing, ListingStyle)>,
    input: Vec<u8>,
    used: usize,
    /// As far as requests were looked at ahead.
    expected_to: usize,
    /// Those that are still to be served, the next one last.
    ahead: Vec<Ahead>,
    skip: usize,
    /// Bytes of a get's keys that are answered already: long multigets are answered in parts.
    answered: usize,
    /// Output that is complete.
    output: Output,
    behind: VecDeque<Chunk>,
    next_slot: Slot,
    reads: usize,
    wanted: Vec<Wanted>,
    read_bytes: usize,
    pause: Pause,
    /// Whether serving stopped because there was enough output.
    limited: bool,
    closing: bool,
    /// Whether what it sent made no sense.
    hopeless: bool,
    /// As far as the input will go once a value that is arriving has come, as its line stated.
    expected: usize,
    /// A large value that is arriving, behind whose line the input has nothing of it.
    landing: Option<Landing>,
    /// The room in it is lent to the driver.
    lent: bool,
    /// Where the input ends that was not taken to a landing.
    landed_from: Option<usize>,
    held_in: usize,
    held_out: usize,
    /// The tenant among whose connections this one counts.
    counted: Option<u16>,
    /// The request that comes next has been taken from its tenant's limits.
    paid: bool,
    /// The tenant to whose bandwidth the reply goes.
    payer: Option<u16>,
}

impl Connection {
    /// A fresh connection.
    pub fn new(server: Arc<Server>, arrival: Arrival) -> Connection {
        let Arrival { tenant, counted, dialect, peer } = arrival;
        Connection {
            authenticated: !server.wants_auth(),
            server,
            tenant,
            dialect,
            peer,
            watcher: None,
            listing: None,
            input: Vec::new(),
            used: 0,
            expected_to: 0,
            ahead: Vec::new(),
            skip: 0,
            answered: 0,
            output: Output::default(),
            behind: VecDeque::new(),
            next_slot: 1,
            reads: 0,
            wanted: Vec::new(),
            read_bytes: 0,
            pause: Pause::None,
            limited: false,
            closing: false,
            hopeless: false,
            expected: 0,
            landing: None,
            lent: false,
            landed_from: None,
            held_in: 0,
            held_out: 0,
            counted: tenant.filter(|_| counted),
            paid: false,
            payer: None,
        }
    }

    /// Counts it among the connections of its tenant. False: it may not be one, and is over.
    fn belong(&mut self, cache: &Cache) -> bool {
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
    fn charge(&mut self, cache: &Cache, before: usize) {
        if let Some(tenant) = self.payer.take() {
            cache.registry().tenant(tenant).meter.moved(self.output_bytes().saturating_sub(before));
        }
    }

    /// Takes received bytes.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.forget_served();
        // a refused value is dropped as it comes, not collected
        let skipped = if self.input.is_empty() { self.skip.min(bytes.len()) } else { 0 };
        self.skip -= skipped;
        let bytes = &bytes[skipped..];
        let landed = self.landing.as_mut().map_or(0, |landing| landing.fill(bytes));
        self.input.extend_from_slice(&bytes[landed..]);
    }

    /// Whether it has nothing of a request.
    pub(crate) fn is_input_empty(&self) -> bool {
        self.used == self.input.len()
    }

    fn forget_served(&mut self) {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.expected = self.expected.saturating_sub(self.used);
            (self.used, self.expected_to) = (0, 0);
        }
    }

    /// Serves what has arrived, as far as limits and flash allow. Returns whether memory was stored, so that the cleaner may
    /// be wanted.
    pub fn serve(&mut self, cache: &Cache, worker: &mut Worker) -> bool {
        if matches!(self.pause, Pause::Change(_) | Pause::Held(_)) || self.lent {
            return false;
        }
        #[cfg(feature = "null")]
        if self.dialect != Dialect::Binary {
            self.answer_fixed();
            return false;
        }
        self.pause = Pause::None;
        if !self.belong(cache) {
            return false;
        }
        let mut stored = false;
        let mut turn = cache.turn(worker);
        self.limited = false;
        // whose a key is may have changed since the last turn
        self.ahead.clear();
        self.expected_to = self.used;
        let before = self.used;
        let mut left = self.server.config.requests_a_turn;
        let end = left.saturating_sub(self.server.replies_max());
        while !self.closing {
            if !self.has_room_for_output() || left == 0 {
                self.limited = true;
                self.server.yields.fetch_add(u64::from(left == 0), Ordering::Relaxed);
                break;
            }
            if left == end && end > 0 && self.used < self.input.len() {
                self.refuse_replies();
                break;
            }
            left -= 1;
            if !self.serve_one(cache, &mut turn, &mut stored) {
                break;
            }
        }
        drop(turn);
        if let Some(peer) = &self.peer {
            let doing = match () {
                () if self.watcher.is_some() => Doing::Watching,
                () if self.expected > 0 || self.landing.is_some() => Doing::Reading,
                () => Doing::Waiting,
            };
            peer.note(doing, (self.used != before).then(|| cache.now()));
        }
        self.tidy(cache);
        stored
    }

    /// Serves one request. False if nothing (more) can be served now.
    fn serve_one(&mut self, cache: &Cache, turn: &mut Turn<'_>, stored: &mut bool) -> bool {
        if self.listing.is_some() {
            self.list_on(cache);
            return true;
        }
        let skipped = self.skip.min(self.input.len() - self.used);
        self.skip -= skipped;
        self.used += skipped;
        if self.used == self.input.len() {
            return false;
        }
        if self.watcher.is_some() {
            self.used = self.input.len(); // a watcher has nothing more to say
            return false;
        }
        if self.dialect == Dialect::Auto {
            let is_binary = self.input[self.used] == protocol::binary::REQUEST_MAGIC;
            self.dialect = if is_binary { Dialect::Binary } else { Dialect::Ascii };
        }
        let input = std::mem::take(&mut self.input);
        let before = if cache.registry().has_limits() { self.output_bytes() } else { 0 };
        let goes_on = match self.dialect {
            Dialect::Binary => self.serve_frame(cache, turn, &input, stored),
            _ if !self.authenticated => self.serve_login(cache, &input),
            _ => self.serve_line(cache, turn, &input, stored),
        };
        self.input = input;
        if let Some(end) = self.landed_from.take() {
            self.input.truncate(end);
        }
        self.charge(cache, before);
        if self.expected > self.input.capacity() {
            self.input.reserve_exact(self.expected - self.input.len());
        }
        goes_on
    }

    /// More replies wait than -o read_buf_mem_limit has room for: as memcached, nothing of them is sent, and it is over.
    fn refuse_replies(&mut self) {
        self.server.replies_refused.fetch_add(1, Ordering::Relaxed);
        self.behind.clear();
        self.output.forget();
        self.give_up();
    }

    /// The null server: a value of 100 bytes for each key that a line asks for, without a look at it.
    #[cfg(feature = "null")]
    fn answer_fixed(&mut self) {
        const VALUE: [u8; 100] = [b'0'; 100];
        while let Some(end) = memchr::memchr(b'\n', &self.input[self.used..]) {
            let line = &self.input[self.used..self.used + end];
            let (first, keys) = (line[0], line.iter().filter(|byte| **byte == b' ').count());
            self.used += end + 1;
            let out = self.output.ready();
            match first {
                b'g' => {
                    for _ in 0..keys {
                        out.extend_from_slice(b"VALUE key:0000000000000000 0 100\r\n");
                        out.extend_from_slice(&VALUE);
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"END\r\n");
                }
                b'm' if keys > 0 => {
                    out.extend_from_slice(b"VA 100\r\n");
                    out.extend_from_slice(&VALUE);
                    out.extend_from_slice(b"\r\n");
                }
                b'm' => out.extend_from_slice(b"MN\r\n"),
                _ => {}
            }
        }
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
    }

    /// Looks at the requests that have come, so that what they will read is on its way from memory when they are served, and so that gets of
    /// one key need no other look.
    fn look_ahead(&mut self, cache: &Cache, turn: &Turn<'_>, input: &[u8]) {
        self.ahead.clear();
        let mut at = self.used;
        while self.ahead.len() < AHEAD
            && let Some(glance) = input.get(at..).and_then(text::glance)
        {
            let (begin, next) = (at, at + glance.bytes);
            let is_alone = self.ahead.is_empty() && next >= input.len();
            if let Some(key) = glance.key
                && (glance.is_plain_get || !is_alone)
            {
                let tenant = self.tenant_of(cache, key);
                // one request alone would be fetched no sooner
                let expected = if is_alone { turn.expect_alone(tenant, key) } else { turn.expect(tenant, key) };
                let key_bytes = if glance.is_plain_get { key.len() } else { 0 };
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

    /// The request that comes next, if it is a get of one key that was looked at ahead.
    fn next_plain_get(&mut self) -> Option<Ahead> {
        while self.ahead.last().is_some_and(|ahead| ahead.begin < self.used) {
            self.ahead.pop();
        }
        self.ahead.pop_if(|ahead| ahead.begin == self.used && ahead.key_bytes > 0)
    }

    fn serve_line(&mut self, cache: &Cache, turn: &mut Turn<'_>, input: &[u8], stored: &mut bool) -> bool {
        if self.used >= self.expected_to {
            self.look_ahead(cache, turn, input);
        }
        if !cache.registry().has_limits()
            && self.answered == 0
            && let Some(Ahead { begin, next, key_bytes, tenant, expected }) = self.next_plain_get()
        {
            const VERB: usize = "get ".len();
            let key = &input[begin + VERB..begin + VERB + key_bytes];
            let served = match serve::get_one(cache, turn, self, (tenant, key, expected), false) {
                true => {
                    text::line(self.out(), "END");
                    Served::Done
                }
                false => Served::Part(0, Short::Memory),
            };
            return self.finish(served, next - begin);
        }
        let parsed = text::parse(&input[self.used..]);
        if cache.registry().has_limits()
            && self.landing.is_none() // what lands was let in before
            && let text::Parsed::Line(request, line) = &parsed
            && let Some(goes_on) = self.refuse(cache, turn, request, *line)
        {
            return goes_on;
        }
        match parsed {
            text::Parsed::Incomplete => false,
            text::Parsed::Hopeless => self.give_up(),
            text::Parsed::Line(Request::Store(store), line) => {
                *stored = true;
                self.serve_store(cache, turn, input, line, &Storable::Classic(store))
            }
            text::Parsed::Line(Request::MetaStore(key, bytes, words), line) => {
                *stored = true;
                match meta::check_store(key, words) {
                    Ok(meta) => self.serve_store(cache, turn, input, line, &Storable::Meta(meta, bytes)),
                    Err(error) => {
                        self.reply(Reply::Wanted, error);
                        self.finish(Served::Skip(bytes + 2), line)
                    }
                }
            }
            text::Parsed::Line(request, line) => {
                if let (Request::Stats(_), Some(peer)) = (&request, &self.peer) {
                    peer.note(Doing::Serving, Some(cache.now()));
                }
                let served = serve::request(cache, turn, self, &request);
                self.finish(served, line)
            }
        }
    }

    /// Refuses a request beyond its tenant's limits, and what comes with it, or has it wait. A set that is refused takes the old value away, as one
    /// that fails in memcached does. None: it is to be served.
    fn refuse(&mut self, cache: &Cache, turn: &mut Turn<'_>, request: &Request<'_>, line: usize) -> Option<bool> {
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

    /// What it sent makes no sense: nothing more is served.
    fn give_up(&mut self) -> bool {
        (self.closing, self.hopeless) = (true, true);
        false
    }

    /// Takes `set KEY FLAGS EXPTIME BYTES` and `user password` of a client that has to say who it is first.
    fn serve_login(&mut self, cache: &Cache, input: &[u8]) -> bool {
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

    fn serve_frame(&mut self, cache: &Cache, turn: &mut Turn<'_>, input: &[u8], stored: &mut bool) -> bool {
        let rest = &input[self.used..];
        let Some(head) = rest.first_chunk::<HEADER_BYTES>() else { return false };
        let Some(header) = Header::read(head) else { return self.give_up() };
        let (command, _) = header.command();
        let is_store =
            matches!(command, Command::Set | Command::Add | Command::Replace | Command::Append | Command::Prepend);
        let largest = cache.settings().item_bytes_max;
        if !header.is_sound() || (!is_store && header.body_bytes > largest.min(LOGIN_BYTES_MAX)) {
            binary::refuse(self, &header, Status::Invalid);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        if is_store && !self.authenticated {
            binary::refuse(self, &header, Status::AuthFailed);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        if is_store && !serve::fits(cache, header.key_bytes, header.value_bytes()) {
            // the key stands at the front of what is skipped: it has to be here, so that a set takes the old value away
            let body = &rest[HEADER_BYTES..];
            let ahead = header.extras_bytes + header.key_bytes;
            if body.len() < ahead {
                return false;
            }
            if command == Command::Set {
                let key = &body[header.extras_bytes..ahead];
                turn.delete(self.tenant_of(cache, key), key);
            }
            self.server.too_large.fetch_add(1, Ordering::Relaxed);
            binary::refuse(self, &header, Status::TooLarge);
            return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
        }
        let total = HEADER_BYTES + header.body_bytes;
        if rest.len() < total {
            if !hold(cache, &mut self.held_in, total.saturating_sub(FREE_BYTES / 2)) {
                binary::refuse(self, &header, Status::OutOfMemory);
                return self.finish(Served::Skip(header.body_bytes), HEADER_BYTES);
            }
            self.expected = self.used + total;
            return false;
        }
        *stored |= is_store;
        let frame = Frame::new(header, &rest[HEADER_BYTES..total]);
        let served = binary::request(cache, turn, self, &frame);
        self.finish(served, total) && self.pause == Pause::None
    }

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
    fn list_on(&mut self, cache: &Cache) {
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

    /// A unique as clients are told it: none, where -C turns them off.
    pub(crate) fn shown(&self, unique: u64) -> u64 {
        if self.server.config.cas { unique } else { 0 }
    }

    /// Whether replies to earlier requests have not even begun to leave.
    pub(crate) fn has_output(&self) -> bool {
        self.output.has_more() || !self.behind.is_empty()
    }

    /// What follows from a request of `bytes` bytes. Returns whether the next one can be served.
    fn finish(&mut self, served: Served, bytes: usize) -> bool {
        self.expected = 0; // what was waited for has come, or is not wanted
        match served {
            Served::Done => {
                self.used += bytes;
                self.answered = 0;
                self.paid = false;
                true
            }
            Served::Skip(more) => {
                self.used += bytes;
                self.skip = more;
                self.paid = false;
                true
            }
            Served::Close => {
                self.closing = true;
                false
            }
            Served::Part(answered, why) => {
                self.answered = answered;
                match why {
                    Short::Output => self.limited = true,
                    Short::Memory => self.pause = Pause::Room,
                }
                false
            }
            Served::NotYet => {
                self.hold_back();
                false
            }
            Served::Needs(cache::Needs::Room) => {
                self.pause = Pause::Room;
                false
            }
            Served::Needs(cache::Needs::Flash(read)) => {
                let slot = self.want(read);
                self.pause = Pause::Change(slot);
                false
            }
        }
    }

    /// Asks for a flash read.
    fn want(&mut self, read: FlashRead) -> Slot {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.ask(slot, read);
        slot
    }

    fn ask(&mut self, slot: Slot, read: FlashRead) {
        self.reads += 1;
        self.read_bytes += read.pages() * cache::PAGE_BYTES;
        self.wanted.push(Wanted { slot, read });
    }

    /// Leaves a hole in the output for a value that has to be read from flash.
    pub(crate) fn leave_hole(&mut self, read: FlashRead, spelling: Spelling) {
        let slot = self.want(read);
        self.behind.push_back(Chunk::Hole { slot, spelling });
    }

    /// A read has come back (None: the device did not answer).
    pub fn complete(
        &mut self,
        cache: &Cache,
        worker: &mut Worker,
        slot: Slot,
        read: FlashRead,
        pages: Option<&[Page]>,
    ) {
        let mut turn = cache.turn(worker);
        self.reads -= 1;
        self.read_bytes -= read.pages() * cache::PAGE_BYTES;
        if self.pause == Pause::Change(slot) {
            self.pause = Pause::None;
            match turn.promote(read, pages) {
                Ok(()) => {}
                Err(cache::Needs::Room) => self.pause = Pause::Room,
                Err(cache::Needs::Flash(next)) => {
                    self.ask(slot, next);
                    self.pause = Pause::Change(slot);
                }
            }
            return;
        }
        let key: Box<[u8]> = read.key().into();
        let filled = match turn.complete(read, pages) {
            Completed::Again(next) => {
                self.ask(slot, next);
                return;
            }
            Completed::Hit(object) => Some(object),
            Completed::Miss => None,
        };
        if let Some(object) = &filled
            && cache.registry().has_limits()
        {
            cache.registry().tenant(self.tenant_of(cache, &key)).meter.moved(object.value.len());
        }
        let is_slot = |chunk: &Chunk| matches!(chunk, Chunk::Hole { slot: own, .. } if *own == slot);
        if self.behind.front().is_some_and(is_slot) {
            let Some(Chunk::Hole { spelling, .. }) = self.behind.pop_front() else { unreachable!("looked at above") };
            self.spell_flash(&spelling, &key, filled.as_ref(), cache.now(), |connection| connection.output.ready());
            self.advance_output();
        } else if let Some(at) = self.behind.iter().position(is_slot) {
            let filling =
                Chunk::Ready(Vec::with_capacity(filled.as_ref().map_or(0, |object| object.value.len() + 320)));
            let Chunk::Hole { spelling, .. } = std::mem::replace(&mut self.behind[at], filling) else {
                unreachable!("it was found as a hole")
            };
            self.spell_flash(&spelling, &key, filled.as_ref(), cache.now(), |connection| {
                match &mut connection.behind[at] {
                    Chunk::Ready(bytes) => bytes,
                    Chunk::Hole { .. } => unreachable!("it was filled above"),
                }
            });
        }
    }

    /// Spells what was found on flash, or that nothing was, where `out` says.
    fn spell_flash(
        &mut self,
        spelling: &Spelling,
        key: &[u8],
        found: Option<&FlashObject>,
        now: u32,
        out: impl FnOnce(&mut Connection) -> &mut Vec<u8>,
    ) {
        let shows_uniques = self.server.config.cas;
        let out = out(self);
        match (spelling, found) {
            (Spelling::Text { with_cas }, Some(object)) => {
                let unique = with_cas.then_some(if shows_uniques { object.unique } else { 0 });
                text::value_header(out, key, object.client_flags, object.value.len(), unique);
                out.extend_from_slice(&object.value);
                out.extend_from_slice(b"\r\n");
            }
            (Spelling::Text { .. }, None) => {}
            (Spelling::Meta(line), Some(object)) => meta::spell_flash_hit(line, object, now, out),
            (Spelling::Meta(line), None) => meta::spell_flash_miss(line, out),
            (Spelling::Binary(header), found) => binary::spell_flash(out, header, key, found),
        }
    }

    /// Moves what is complete at the head of the queue to where it can be sent.
    fn advance_output(&mut self) {
        while let Some(Chunk::Ready(_)) = self.behind.front() {
            let Some(Chunk::Ready(bytes)) = self.behind.pop_front() else { unreachable!("looked at above") };
            self.output.ready().extend_from_slice(&bytes);
        }
    }

    /// Where replies are spelled: behind everything that was answered before.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        if self.behind.is_empty() {
            return self.output.ready();
        }
        if !matches!(self.behind.back(), Some(Chunk::Ready(_))) {
            self.behind.push_back(Chunk::Ready(Vec::new()));
        }
        match self.behind.back_mut() {
            Some(Chunk::Ready(bytes)) => bytes,
            _ => unreachable!("pushed above"),
        }
    }

    /// Spells a value of DRAM: `head` goes before it, and `tail` behind it. Large ones are lent rather than copied. False if there is no
    /// memory for a copy: nothing is spelled then.
    pub(crate) fn spell_object(
        &mut self,
        cache: &Cache,
        object: &Object<'_>,
        head: impl FnOnce(&mut Vec<u8>),
        tail: &[u8],
    ) -> bool {
        let bytes = object.value_bytes();
        // behind a hole it waits in a buffer of its own
        let lent = if bytes >= LENT_BYTES_MIN && self.behind.is_empty() { cache.pin(object) } else { None };
        if lent.is_none() && !self.hold_output(cache, bytes) {
            return false;
        }
        let out = self.out();
        head(out);
        match lent {
            Some(pieces) => self.output.lend(pieces),
            None => object.value().for_each(|piece| out.extend_from_slice(piece)),
        }
        self.out().extend_from_slice(tail);
        true
    }

    /// Spells a line, unless the client does not wait for one.
    pub(crate) fn reply(&mut self, reply: Reply, line: &str) {
        if reply == Reply::Wanted {
            text::line(self.out(), line);
        }
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Whether another value may be put into the output.
    pub(crate) fn has_room_for_output(&self) -> bool {
        self.output_bytes() < OUTPUT_BYTES_HIGH && self.reads < READS_MAX
    }

    fn output_bytes(&self) -> usize {
        let behind = self.behind.iter().map(|chunk| if let Chunk::Ready(bytes) = chunk { bytes.len() } else { 0 });
        self.unsent() + behind.sum::<usize>()
    }

    /// Asks for memory for `bytes` more of output. False: memory is short, try again later.
    pub(crate) fn hold_output(&mut self, cache: &Cache, bytes: usize) -> bool {
        let total = self.output_bytes() + self.read_bytes + bytes;
        total <= FREE_BYTES || hold(cache, &mut self.held_out, total - FREE_BYTES / 2)
    }

    /// Gives memory back that is not needed any more, and what was charged for it.
    fn tidy(&mut self, cache: &Cache) {
        if self.used == self.input.len() {
            self.input.clear();
            (self.used, self.expected_to) = (0, 0);
        }
        if self.expected == 0 {
            if self.input.capacity() > FREE_BYTES && self.input.len() < FREE_BYTES / 2 {
                self.input.shrink_to(FREE_BYTES / 2);
            }
            let wanted = self.input.capacity().saturating_sub(FREE_BYTES);
            release(cache, &mut self.held_in, wanted);
        }
        let output = self.output_bytes() + self.read_bytes;
        release(cache, &mut self.held_out, output.saturating_sub(FREE_BYTES / 2));
    }

    /// Gives back what the connection holds. Call it once, when it ends.
    pub fn end(&mut self, cache: &Cache) {
        if let Some(watcher) = self.watcher.take() {
            self.server.watchers.remove(&watcher);
        }
        if let Some(tenant) = self.counted.take() {
            cache.registry().tenant(tenant).meter.disconnect();
        }
        release(cache, &mut self.held_in, 0);
        release(cache, &mut self.held_out, 0);
    }

    /// Bytes that can be sent now. They stay at their place in memory, unchanged, until all of them are
    /// [sent](Connection::note_sent), whatever is served meanwhile.
    pub fn output(&mut self) -> &[u8] {
        self.output.leaving()
    }

    /// The same, in slices: how many there are.
    pub(crate) fn output_slices<'c>(&'c mut self, slices: &mut [IoSlice<'c>; SLICES_MAX]) -> usize {
        self.output.leaving_slices(slices)
    }

    /// Whether there are several slices.
    pub(crate) fn is_sliced(&mut self) -> bool {
        self.output.is_sliced()
    }

    /// How many bytes can be sent now, or are being sent.
    pub fn unsent(&self) -> usize {
        self.output.unsent()
    }

    /// So many of the bytes that [`Connection::output`] returned were sent.
    pub fn note_sent(&mut self, bytes: usize) {
        self.output.note_sent(bytes);
    }

    /// Reads to perform.
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.wanted)
    }

    /// Flash reads under way.
    pub fn reads(&self) -> usize {
        self.reads
    }

    /// Whether it would take more bytes from the client.
    pub fn wants_input(&self) -> bool {
        let has_enough = self.limited && self.input.len() - self.used >= INPUT_BYTES_HIGH;
        !self.closing && self.pause == Pause::None && self.has_room_for_output() && !has_enough
    }

    /// Why it ended, as watchers are told.
    pub(crate) fn end_reason(&self) -> &'static str {
        if self.hopeless { "error" } else { "normal" }
    }

    /// Whether it waits for memory: try [`Connection::serve`] again in a moment.
    pub fn is_stalled(&self) -> bool {
        self.pause == Pause::Room
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

    /// Whether there is input that could be served now that output was sent.
    pub fn can_go_on(&self) -> bool {
        self.limited && !self.closing && self.pause == Pause::None && self.has_room_for_output()
    }

    /// Nothing more is served: what came was no TLS, or the like.
    pub(crate) fn close(&mut self) {
        (self.closing, self.hopeless) = (true, true);
    }

    /// Whether nothing that has come is left to serve.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.limited && self.reads == 0 && self.pause == Pause::None
    }

    /// Whether it is over: close it once the output is sent.
    pub fn is_closing(&self) -> bool {
        self.closing && self.behind.is_empty()
    }
}

/// Raises what is held to `wanted` bytes, if the cache has room.
fn hold(cache: &Cache, held: &mut usize, wanted: usize) -> bool {
    if wanted > *held {
        if !cache.receive(wanted - *held) {
            return false;
        }
        *held = wanted;
    }
    true
}

/// Lowers what is held to `wanted` bytes.
fn release(cache: &Cache, held: &mut usize, wanted: usize) {
    if wanted < *held {
        cache.received(*held - wanted);
        *held = wanted;
    }
}
