//! What goes back to the client, in the order of its requests.
//!
//! A value that has to come from flash is a *hole* in the queue of output; what is answered meanwhile waits behind it.

use std::collections::VecDeque;
use std::io::IoSlice;

use cache::{Cache, Completed, FlashObject, FlashRead, Object, Page, Worker};
use protocol::binary::Header;
use protocol::{Reply, text};

use super::{Connection, FREE_BYTES, Pause, hold, release};
use crate::output::{Output, SLICES_MAX};
use crate::{binary, meta};

/// Output beyond which no further request is begun. With a value behind it that is copied, a buffer of 64 KiB is enough.
const OUTPUT_BYTES_HIGH: usize = 56 << 10;
/// What is lent takes no memory, but keeps segments from being used again: so many bytes of it count as one.
const LENT_PART: usize = 8;
/// Flash reads that a connection has under way at most.
const READS_MAX: usize = 32;
/// Values of this size and more are sent from where they lie in DRAM; here that saves a tenth of a GET's CPU, at 64 KiB most of it
/// (docs/data-plane.md).
const LENT_BYTES_MIN: usize = 6 << 10;
/// What a value's key, flags and numbers take, and what ends it.
const HEAD_BYTES_MAX: usize = 320;

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
    /// A binary get.
    Binary(Header),
}

/// Replies on their way, and the flash reads that some of them wait for.
#[derive(Default)]
pub(super) struct Replies {
    /// Output that is complete.
    output: Output,
    /// From the first hole on.
    behind: VecDeque<Chunk>,
    last_slot: Slot,
    /// Reads under way, and the bytes that they bring.
    reads: usize,
    read_bytes: usize,
    /// Reads that the driver has not begun.
    wanted: Vec<Wanted>,
    /// Bytes of the cache's memory that are held for all of this.
    held: usize,
}

impl Replies {
    /// Asks for a flash read.
    pub(super) fn want(&mut self, read: FlashRead) -> Slot {
        self.last_slot += 1;
        self.ask(self.last_slot, read);
        self.last_slot
    }

    fn ask(&mut self, slot: Slot, read: FlashRead) {
        self.reads += 1;
        self.read_bytes += read.pages() * cache::PAGE_BYTES;
        self.wanted.push(Wanted { slot, read });
    }

    fn note_read(&mut self, read: &FlashRead) {
        self.reads -= 1;
        self.read_bytes -= read.pages() * cache::PAGE_BYTES;
    }

    /// Fills a hole with what `spell` spells, about so many bytes.
    fn fill(&mut self, slot: Slot, bytes: usize, spell: impl FnOnce(&Spelling, &mut Vec<u8>)) {
        let is_slot = |chunk: &Chunk| matches!(chunk, Chunk::Hole { slot: own, .. } if *own == slot);
        let Some(at) = self.behind.iter().position(is_slot) else { return };
        let hole = std::mem::replace(&mut self.behind[at], Chunk::Ready(Vec::new()));
        let Chunk::Hole { spelling, .. } = hole else { unreachable!("it was found as a hole") };
        if at > 0 {
            let mut filling = Vec::with_capacity(bytes);
            spell(&spelling, &mut filling);
            self.behind[at] = Chunk::Ready(filling);
            return;
        }
        spell(&spelling, self.output.ready());
        // and what waited behind it alone
        while let Some(Chunk::Ready(_)) = self.behind.front() {
            let Some(Chunk::Ready(bytes)) = self.behind.pop_front() else { unreachable!("looked at above") };
            self.output.ready().extend_from_slice(&bytes);
        }
    }

    #[inline]
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
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

    /// Bytes that wait to be sent.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.output.unsent() + self.behind_bytes()
    }

    /// Bytes of memory that all of it takes.
    #[inline]
    fn owned(&self) -> usize {
        self.output.owned() + self.behind_bytes()
    }

    #[inline]
    fn behind_bytes(&self) -> usize {
        self.behind.iter().map(|chunk| if let Chunk::Ready(bytes) = chunk { bytes.len() } else { 0 }).sum()
    }

    /// Whether some wait for flash.
    pub(super) fn has_holes(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Drops all that has not begun to leave.
    pub(super) fn forget(&mut self) {
        self.behind.clear();
        self.output.forget();
    }

    /// Gives memory back that is not needed any more; all of it, when the connection ends.
    pub(super) fn tidy(&mut self, cache: &Cache, is_over: bool) {
        let needed = (self.owned() + self.read_bytes).saturating_sub(FREE_BYTES / 2);
        release(cache, &mut self.held, if is_over { 0 } else { needed });
    }
}

/// Spells what was found on flash, or that nothing was.
fn spell_flash(
    out: &mut Vec<u8>,
    spelling: &Spelling,
    key: &[u8],
    found: Option<&FlashObject<'_>>,
    now: u32,
    shows_uniques: bool,
) {
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

impl Connection {
    /// Leaves a hole in the output for a value that has to be read from flash.
    pub(crate) fn leave_hole(&mut self, read: FlashRead, spelling: Spelling) {
        let slot = self.replies.want(read);
        self.replies.behind.push_back(Chunk::Hole { slot, spelling });
    }

    /// A read has come back (None: the device did not answer).
    pub fn complete(
        &mut self,
        cache: &Cache,
        worker: &mut Worker,
        slot: Slot,
        mut read: FlashRead,
        pages: Option<&[Page]>,
    ) {
        let mut turn = cache.turn(worker);
        self.replies.note_read(&read);
        if self.pause == Pause::Change(slot) {
            self.pause = Pause::None;
            match turn.promote(read, pages) {
                Ok(()) | Err(cache::Needs::Full) => {} // the request is served again, and answered
                Err(cache::Needs::Room) => self.pause = Pause::Room,
                Err(cache::Needs::Flash(next)) => {
                    self.replies.ask(slot, next);
                    self.pause = Pause::Change(slot);
                }
            }
            return;
        }
        let filled = match turn.complete(&mut read, pages) {
            Completed::Again => {
                self.replies.ask(slot, read);
                return;
            }
            Completed::Hit(object) => Some(object),
            Completed::Miss => None,
        };
        if let Some(object) = &filled
            && cache.registry().has_limits()
        {
            cache.registry().tenant(self.tenant_of(cache, read.key())).meter.moved(object.value.len());
        }
        let (now, shows_uniques) = (cache.now(), self.server.config.cas);
        let bytes = filled.as_ref().map_or(0, |object| object.value.len() + HEAD_BYTES_MAX);
        self.replies.fill(slot, bytes, |spelling, out| {
            spell_flash(out, spelling, read.key(), filled.as_ref(), now, shows_uniques);
        });
    }

    /// Where replies are spelled: behind everything that was answered before.
    #[inline]
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        self.replies.out()
    }

    /// Spells a value of DRAM: `head` goes before it, and `tail` behind it. Large ones are lent rather than copied. False if there is no
    /// memory for a copy: nothing is spelled then.
    #[inline]
    pub(crate) fn spell_object(
        &mut self,
        cache: &Cache,
        object: &Object<'_>,
        head: impl FnOnce(&mut Vec<u8>),
        tail: &[u8],
    ) -> bool {
        let bytes = object.value_bytes();
        // behind a hole it waits in a buffer of its own
        let lent = if bytes >= LENT_BYTES_MIN && !self.replies.has_holes() { cache.pin(object) } else { None };
        if lent.is_none() && !self.hold_output(cache, bytes) {
            return false;
        }
        let out = self.out();
        head(out);
        match lent {
            Some(pieces) => self.replies.output.lend(pieces),
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

    /// Whether replies to earlier requests have not even begun to leave.
    pub(crate) fn has_output(&self) -> bool {
        self.replies.output.has_more() || self.replies.has_holes()
    }

    /// Whether another value may be put into the output.
    #[inline]
    pub(crate) fn has_room_for_output(&self) -> bool {
        self.replies.owned() + self.replies.output.lent() / LENT_PART < OUTPUT_BYTES_HIGH
            && self.replies.reads < READS_MAX
    }

    /// Asks for memory for `bytes` more of output. False: memory is short, try again later.
    #[inline]
    pub(crate) fn hold_output(&mut self, cache: &Cache, bytes: usize) -> bool {
        let total = self.replies.owned() + self.replies.read_bytes + bytes;
        total <= FREE_BYTES || hold(cache, &mut self.replies.held, total - FREE_BYTES / 2)
    }

    /// Bytes that can be sent now. They stay at their place in memory, unchanged, until all of them are
    /// [sent](Connection::note_sent), whatever is served meanwhile.
    pub fn output(&mut self) -> &[u8] {
        self.replies.output.leaving()
    }

    /// The same, in slices: how many there are.
    pub(crate) fn output_slices<'c>(&'c mut self, slices: &mut [IoSlice<'c>; SLICES_MAX]) -> usize {
        self.replies.output.leaving_slices(slices)
    }

    /// Whether there are several slices.
    pub(crate) fn is_sliced(&mut self) -> bool {
        self.replies.output.is_sliced()
    }

    /// How many bytes can be sent now, or are being sent.
    pub fn unsent(&self) -> usize {
        self.replies.output.unsent()
    }

    /// So many of the bytes that [`Connection::output`] returned were sent.
    pub fn note_sent(&mut self, bytes: usize) {
        self.replies.output.note_sent(bytes);
    }

    /// Reads to perform.
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.replies.wanted)
    }

    /// Flash reads under way.
    pub fn reads(&self) -> usize {
        self.replies.reads
    }
}
