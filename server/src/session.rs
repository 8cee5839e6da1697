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

mod ahead;
mod arriving;
mod dues;
mod frames;
mod listing;
mod login;
#[cfg(feature = "null")]
mod null;
mod replies;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cache::{Cache, Expected, Landing, Listing, Turn, Worker};
use protocol::{Keys, Reply, Request, text};

pub(crate) use ahead::AHEAD;
use ahead::Ahead;
pub(crate) use arriving::Arrived;
use arriving::Storable;
pub(crate) use listing::ListingStyle;
use replies::Replies;
pub(crate) use replies::Spelling;
pub use replies::{Slot, Wanted};

use crate::config::Dialect;
use crate::meta;
use crate::serve::{self, Served, Short};
use crate::shared::{Doing, Peer, Server};
use crate::watch::Watcher;

/// Requests that have come and wait for their turn, in bytes, beyond which no more is received.
const INPUT_BYTES_HIGH: usize = 64 << 10;
/// Bytes that a connection may hold without asking.
const FREE_BYTES: usize = 24 << 10;

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
    replies: Replies,
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
    /// A value that could land was stored, whether it has or not.
    stored_large: bool,
    /// Where the input ends that was not taken to a landing.
    landed_from: Option<usize>,
    held_in: usize,
    /// The tenant among whose connections this one counts.
    counted: Option<u16>,
    /// The request that comes next has been taken from its tenant's limits.
    paid: bool,
    /// The tenant to whose bandwidth the reply goes.
    payer: Option<u16>,
    /// Meta commands that were not reported yet.
    meta_commands: u64,
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
            replies: Replies::default(),
            pause: Pause::None,
            limited: false,
            closing: false,
            hopeless: false,
            expected: 0,
            landing: None,
            lent: false,
            stored_large: false,
            landed_from: None,
            held_in: 0,
            counted: tenant.filter(|_| counted),
            paid: false,
            payer: None,
            meta_commands: 0,
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
        let mut input = std::mem::take(&mut self.input);
        let stored = self.serve_input(cache, worker, &input);
        input.truncate(self.landed_from.take().unwrap_or(input.len()));
        self.input = input;
        self.make_room_for_expected();
        self.tidy(cache);
        stored
    }

    /// The same of bytes that have just come. They are served where they lie, if nothing is left of those before them, and what is left of them is
    /// copied.
    pub fn serve_received(&mut self, cache: &Cache, worker: &mut Worker, bytes: &[u8]) -> bool {
        if !self.is_input_empty() || self.landing.is_some() {
            self.receive(bytes);
            return self.serve(cache, worker);
        }
        self.forget_served();
        let stored = self.serve_input(cache, worker, bytes);
        let end = self.landed_from.take().unwrap_or(bytes.len());
        let left = &bytes[self.used..end];
        self.expected = self.expected.saturating_sub(self.used);
        (self.used, self.expected_to) = (0, 0);
        self.make_room_for_expected();
        self.input.extend_from_slice(left);
        self.tidy(cache);
        stored
    }

    /// A value that is arriving comes to its end without the input being moved.
    fn make_room_for_expected(&mut self) {
        if self.expected > self.input.capacity() {
            self.input.reserve_exact(self.expected - self.input.len());
        }
    }

    fn serve_input(&mut self, cache: &Cache, worker: &mut Worker, input: &[u8]) -> bool {
        if matches!(self.pause, Pause::Change(_) | Pause::Held(_)) || self.lent {
            return false;
        }
        #[cfg(feature = "null")]
        if self.dialect != Dialect::Binary {
            self.answer_fixed(input);
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
            if left == end && end > 0 && self.used < input.len() {
                self.refuse_replies();
                break;
            }
            left -= 1;
            if !self.serve_one(cache, &mut turn, input, &mut stored) {
                break;
            }
        }
        drop(turn);
        self.report();
        if let Some(peer) = &self.peer {
            let doing = match () {
                () if self.watcher.is_some() => Doing::Watching,
                () if self.expected > 0 || self.landing.is_some() => Doing::Reading,
                () => Doing::Waiting,
            };
            peer.note(doing, (self.used != before).then(|| cache.now()));
        }
        stored
    }

    /// Serves one request. False if nothing (more) can be served now.
    fn serve_one(&mut self, cache: &Cache, turn: &mut Turn<'_>, input: &[u8], stored: &mut bool) -> bool {
        if self.listing.is_some() {
            self.list_on(cache);
            return true;
        }
        let skipped = self.skip.min(input.len() - self.used);
        self.skip -= skipped;
        self.used += skipped;
        if self.used == input.len() {
            return false;
        }
        if self.watcher.is_some() {
            self.used = input.len(); // a watcher has nothing more to say
            return false;
        }
        if self.dialect == Dialect::Auto {
            let is_binary = input[self.used] == protocol::binary::REQUEST_MAGIC;
            self.dialect = if is_binary { Dialect::Binary } else { Dialect::Ascii };
        }
        let before = if cache.registry().has_limits() { self.replies.bytes() } else { 0 };
        let goes_on = match self.dialect {
            Dialect::Binary => self.serve_frame(cache, turn, input, stored),
            _ if !self.authenticated => self.serve_login(cache, input),
            _ => self.serve_line(cache, turn, input, stored),
        };
        self.charge(cache, before);
        goes_on
    }

    /// What was counted here goes to where others see it: once a turn, not once a request.
    fn report(&mut self) {
        if self.meta_commands > 0 {
            self.server.meta_commands.fetch_add(std::mem::take(&mut self.meta_commands), Ordering::Relaxed);
        }
    }

    pub(crate) fn count_meta_command(&mut self) {
        self.meta_commands += 1;
    }

    /// More replies wait than -o read_buf_mem_limit has room for: as memcached, nothing of them is sent, and it is over.
    fn refuse_replies(&mut self) {
        self.server.replies_refused.fetch_add(1, Ordering::Relaxed);
        self.replies.forget();
        self.give_up();
    }

    fn serve_line(&mut self, cache: &Cache, turn: &mut Turn<'_>, input: &[u8], stored: &mut bool) -> bool {
        if self.used >= self.expected_to {
            self.look_ahead(cache, turn, input);
        }
        if self.answered == 0
            && let Some(Ahead { begin, next, key_bytes, tenant, expected }) = self.next_known()
            && (!cache.registry().has_limits() || is_let_in(cache, tenant, input[begin]))
        {
            const VERB: usize = "get ".len();
            // told by its first byte: as a field of what was looked at, it cost each get fifty instructions more
            if input[begin] == b'm' {
                let served = self.serve_meta_get(turn, &input[begin..next], key_bytes, (tenant, expected));
                return self.finish(served, next - begin);
            }
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
                if let Request::Stats(_) = request {
                    self.report();
                    if let Some(peer) = &self.peer {
                        peer.note(Doing::Serving, Some(cache.now()));
                    }
                }
                let served = serve::request(cache, turn, self, &request);
                self.finish(served, line)
            }
        }
    }

    /// Serves an mg whose line was looked at ahead. Not inlined: gets of the classic dialect do not pass here.
    #[inline(never)]
    fn serve_meta_get(
        &mut self,
        turn: &mut Turn<'_>,
        line: &[u8],
        key_bytes: usize,
        expected: (u16, Expected),
    ) -> Served {
        let (key, flags) = line["mg ".len()..].split_at(key_bytes);
        let flags = flags.strip_suffix(b"\n").unwrap_or(flags);
        let flags = flags.strip_suffix(b"\r").unwrap_or(flags);
        meta::get_expected(turn, self, key, Keys::of_line(flags), expected)
    }

    /// What it sent makes no sense: nothing more is served.
    fn give_up(&mut self) -> bool {
        (self.closing, self.hopeless) = (true, true);
        false
    }

    /// A request is refused, since there is no memory for it and nothing may be dropped.
    pub(crate) fn refuse_for_memory(&mut self, reply: Reply, line: &str) {
        self.server.no_memory.fetch_add(1, Ordering::Relaxed);
        self.reply(reply, line);
    }

    /// A unique as clients are told it: none, where -C turns them off.
    pub(crate) fn shown(&self, unique: u64) -> u64 {
        if self.server.config.cas { unique } else { 0 }
    }

    /// What follows from a request of `bytes` bytes. Returns whether the next one can be served.
    #[inline]
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
            Served::Needs(cache::Needs::Full) => {
                self.refuse_for_memory(Reply::Wanted, "SERVER_ERROR out of memory");
                self.finish(Served::Done, bytes)
            }
            Served::Needs(cache::Needs::Flash(read)) => {
                let slot = self.replies.want(read);
                self.pause = Pause::Change(slot);
                false
            }
        }
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
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
        self.replies.tidy(cache, false);
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
        self.replies.tidy(cache, true);
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

    /// Whether there is input that could be served now that output was sent.
    pub fn can_go_on(&self) -> bool {
        self.limited && !self.closing && self.pause == Pause::None && self.has_room_for_output()
    }

    /// Nothing more is served: what came was no TLS, or the like.
    pub(crate) fn close(&mut self) {
        self.give_up();
    }

    /// Whether nothing that has come is left to serve.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.limited && self.reads() == 0 && self.pause == Pause::None
    }

    /// Whether it is over: close it once the output is sent.
    pub fn is_closing(&self) -> bool {
        self.closing && !self.replies.has_holes()
    }
}

/// Whether a get or an mg that was looked at ahead needs to be asked from no limits. The key of an mg may be another than it seems to be.
#[inline(never)]
fn is_let_in(cache: &Cache, tenant: u16, verb: u8) -> bool {
    verb == b'g' && !cache.registry().tenant(tenant).meter.is_limited()
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
