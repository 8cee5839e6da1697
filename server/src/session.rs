//! One connection, without I/O: bytes go in, replies come out, flash reads are asked for in between.
//!
//! A reply that waits for flash is a *hole* in the queue of output; requests behind it go on, their output waits behind the
//! hole, so replies keep the order of requests (INV-ORDER). A change that waits for flash stops its connection: it is not
//! taken from the input, and is parsed again when it can be decided.
//!
//! Bounded (INV-BOUNDED): output, flash reads under way and the bytes of an arriving value; beyond a little, what a
//! connection holds is asked from the cache's memory first.

use std::collections::VecDeque;
use std::sync::Arc;

use cache::{Cache, Completed, FlashRead, Page, Turn, Worker};
use protocol::{Meta, Reply, Request, Store, StoreVerb, text};

use crate::meta;
use crate::serve::{self, Served, Short};
use crate::stats::Server;

/// Output beyond which no further request is begun.
const OUTPUT_BYTES_HIGH: usize = 64 << 10;
/// Flash reads that a connection has under way at most.
const READS_MAX: usize = 32;
/// Bytes that a connection may hold without asking.
const FREE_BYTES: usize = 24 << 10;

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

/// How a value that comes from flash is told.
pub(crate) enum Spelling {
    /// get and gets.
    Text {
        /// Whether its unique is wanted.
        with_cas: bool,
    },
    /// mg, with its key and flags as they were on the line.
    Meta(Box<[u8]>),
}

/// A store whose line has arrived.
enum Storable<'b> {
    Classic(Store<'b>),
    Meta(Meta<'b>, usize),
}

impl Storable<'_> {
    fn key_bytes(&self) -> usize {
        match self {
            Storable::Classic(store) => store.key.len(),
            Storable::Meta(meta, _) => meta.key.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Storable::Classic(store) => store.bytes,
            Storable::Meta(_, bytes) => *bytes,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Storable::Classic(store) => store.reply,
            Storable::Meta(..) => Reply::Wanted,
        }
    }
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
}

/// A connection's protocol state.
pub struct Connection {
    server: Arc<Server>,
    /// The tenant of the port that the client came to, if that is one's own.
    pub(crate) tenant: Option<u16>,
    input: Vec<u8>,
    used: usize,
    skip: usize,
    /// Bytes of a get's keys that are answered already: long multigets are answered in parts.
    answered: usize,
    ready: Vec<u8>,
    sent: usize,
    behind: VecDeque<Chunk>,
    next_slot: Slot,
    reads: usize,
    wanted: Vec<Wanted>,
    read_bytes: usize,
    pause: Pause,
    /// Whether serving stopped because there was enough output.
    limited: bool,
    closing: bool,
    /// Bytes of a value that is arriving, as its line stated.
    expected: usize,
    held_in: usize,
    held_out: usize,
}

impl Connection {
    /// A fresh connection to a port that belongs to `tenant`, or to everyone.
    pub fn new(server: Arc<Server>, tenant: Option<u16>) -> Connection {
        Connection {
            server,
            tenant,
            input: Vec::new(),
            used: 0,
            skip: 0,
            answered: 0,
            ready: Vec::new(),
            sent: 0,
            behind: VecDeque::new(),
            next_slot: 1,
            reads: 0,
            wanted: Vec::new(),
            read_bytes: 0,
            pause: Pause::None,
            limited: false,
            closing: false,
            expected: 0,
            held_in: 0,
            held_out: 0,
        }
    }

    /// Takes received bytes.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        // a refused value is dropped as it comes, not collected
        let skipped = if self.input.is_empty() { self.skip.min(bytes.len()) } else { 0 };
        self.skip -= skipped;
        self.input.extend_from_slice(&bytes[skipped..]);
    }

    /// Serves what has arrived, as far as limits and flash allow. Returns whether memory was stored, so that the cleaner may
    /// be wanted.
    pub fn serve(&mut self, cache: &Cache, worker: &mut Worker) -> bool {
        if matches!(self.pause, Pause::Change(_)) {
            return false;
        }
        self.pause = Pause::None;
        let mut stored = false;
        let mut turn = cache.turn(worker);
        self.limited = false;
        while !self.closing {
            if !self.has_room_for_output() {
                self.limited = true;
                break;
            }
            if !self.serve_one(cache, &mut turn, &mut stored) {
                break;
            }
        }
        drop(turn);
        self.tidy(cache);
        stored
    }

    /// Serves one request. False if nothing (more) can be served now.
    fn serve_one(&mut self, cache: &Cache, turn: &mut Turn<'_>, stored: &mut bool) -> bool {
        let skipped = self.skip.min(self.input.len() - self.used);
        self.skip -= skipped;
        self.used += skipped;
        if self.used == self.input.len() {
            return false;
        }
        let input = std::mem::take(&mut self.input);
        let parsed = text::parse(&input[self.used..]);
        let goes_on = match parsed {
            text::Parsed::Incomplete => false,
            text::Parsed::Hopeless => {
                self.closing = true;
                false
            }
            text::Parsed::Line(Request::Store(store), line) => {
                *stored = true;
                self.serve_store(cache, turn, &input, line, &Storable::Classic(store))
            }
            text::Parsed::Line(Request::MetaStore(key, bytes, words), line) => {
                *stored = true;
                match meta::check_store(key, words) {
                    Ok(meta) => self.serve_store(cache, turn, &input, line, &Storable::Meta(meta, bytes)),
                    Err(error) => {
                        self.reply(Reply::Wanted, error);
                        self.finish(Served::Skip(bytes + 2), line)
                    }
                }
            }
            text::Parsed::Line(request, line) => {
                let served = serve::request(cache, turn, self, &request);
                self.finish(served, line)
            }
        };
        self.input = input;
        if self.expected > self.input.capacity() {
            self.input.reserve_exact(self.expected - self.input.len());
        }
        goes_on
    }

    fn serve_store(
        &mut self,
        cache: &Cache,
        turn: &mut Turn<'_>,
        input: &[u8],
        line: usize,
        store: &Storable<'_>,
    ) -> bool {
        let (body, bytes) = (&input[self.used + line..], store.bytes());
        if !serve::fits(cache, store.key_bytes(), bytes) {
            match store {
                Storable::Classic(store) => {
                    serve::refuse_too_large(turn, self, store.key, store.verb == StoreVerb::Set, store.reply);
                }
                Storable::Meta(meta, _) => meta::refuse_store(turn, self, meta),
            }
            return self.finish(Served::Skip(bytes + 2), line);
        }
        if body.len() < bytes + 2 {
            let total = line + bytes + 2;
            if !hold(cache, &mut self.held_in, total.saturating_sub(FREE_BYTES / 2)) {
                self.reply(store.reply(), "SERVER_ERROR out of memory storing object");
                return self.finish(Served::Skip(bytes + 2), line);
            }
            self.expected = self.used + total;
            return false;
        }
        let (value, end) = body[..bytes + 2].split_at(bytes);
        let served = match store {
            _ if end != b"\r\n" => {
                self.reply(store.reply(), "CLIENT_ERROR bad data chunk");
                Served::Done
            }
            Storable::Classic(store) => serve::store(turn, self, store, value),
            Storable::Meta(meta, _) => meta::store(turn, self, meta, value),
        };
        self.expected = 0;
        self.finish(served, line + bytes + 2)
    }

    /// What follows from a request of `bytes` bytes. Returns whether the next one can be served.
    fn finish(&mut self, served: Served, bytes: usize) -> bool {
        match served {
            Served::Done => {
                self.used += bytes;
                self.answered = 0;
                true
            }
            Served::Skip(more) => {
                self.used += bytes;
                self.skip = more;
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
        let hole = self.behind.iter_mut().find(|chunk| matches!(chunk, Chunk::Hole { slot: own, .. } if *own == slot));
        if let Some(chunk) = hole {
            let mut out = Vec::new();
            let Chunk::Hole { spelling, .. } = &*chunk else { unreachable!("it was found as a hole") };
            match (spelling, filled) {
                (Spelling::Text { with_cas }, Some(object)) => {
                    let unique = with_cas.then_some(object.unique);
                    text::value_header(&mut out, &key, object.client_flags, object.value.len(), unique);
                    out.extend_from_slice(&object.value);
                    out.extend_from_slice(b"\r\n");
                }
                (Spelling::Text { .. }, None) => {}
                (Spelling::Meta(line), Some(object)) => meta::spell_flash_hit(line, &object, cache.now(), &mut out),
                (Spelling::Meta(line), None) => meta::spell_flash_miss(line, &mut out),
            }
            *chunk = Chunk::Ready(out);
        }
        self.advance_output();
    }

    /// Moves what is complete at the head of the queue to where it can be sent.
    fn advance_output(&mut self) {
        while let Some(Chunk::Ready(_)) = self.behind.front() {
            let Some(Chunk::Ready(bytes)) = self.behind.pop_front() else { unreachable!("looked at above") };
            self.ready.extend_from_slice(&bytes);
        }
    }

    /// Where replies are spelled: behind everything that was answered before.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        if self.behind.is_empty() {
            return &mut self.ready;
        }
        if !matches!(self.behind.back(), Some(Chunk::Ready(_))) {
            self.behind.push_back(Chunk::Ready(Vec::new()));
        }
        match self.behind.back_mut() {
            Some(Chunk::Ready(bytes)) => bytes,
            _ => unreachable!("pushed above"),
        }
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
        self.ready.len() - self.sent + behind.sum::<usize>()
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
            self.used = 0;
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
        release(cache, &mut self.held_in, 0);
        release(cache, &mut self.held_out, 0);
    }

    /// Bytes that can be sent now.
    pub fn output(&self) -> &[u8] {
        &self.ready[self.sent..]
    }

    /// So many of them were sent.
    pub fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.ready.len() {
            self.sent = 0;
            self.ready.clear();
            if self.ready.capacity() > FREE_BYTES {
                self.ready = Vec::new();
            }
        }
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
        !self.closing && self.pause == Pause::None && self.has_room_for_output()
    }

    /// Whether it waits for memory: try [`Connection::serve`] again in a moment.
    pub fn is_stalled(&self) -> bool {
        self.pause == Pause::Room
    }

    /// Whether there is input that could be served now that output was sent.
    pub fn can_go_on(&self) -> bool {
        self.limited && self.wants_input()
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
