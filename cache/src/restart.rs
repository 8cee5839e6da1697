//! A clean stop and the start after it: what is in DRAM goes to flash, and what says where things lie on flash is written as an
//! *image*. The next start reads it and serves the same content: same values, uniques and expiries, and nothing that had been
//! changed, deleted or flushed.
//!
//! The image is guarded by a checksum at its end. It holds the seed of the hashes and of flash's checksums: keep it from others.

use std::io::{self, Error, ErrorKind, Read, Write};

use flash_store::Device;
use log_memory::Cursor;
use xxhash_rust::xxh3::Xxh3;

use crate::step::{Background, Loser};
use crate::{Cache, CacheSettings};

const MAGIC: &[u8; 16] = b"flashare image 2";
/// Buckets of the DRAM index that are emptied at a time.
const BUCKETS_A_PIECE: usize = 256;
/// Times that an object which found no place is offered to further segments.
const OFFERS_MAX: usize = 3;

/// Sums up what passes.
pub(crate) struct Summed<S> {
    stream: S,
    sum: Xxh3,
}

impl<S> Summed<S> {
    pub(crate) fn new(stream: S) -> Summed<S> {
        Summed { stream, sum: Xxh3::new() }
    }
}

impl<S: Write> Summed<S> {
    /// Writes the checksum of what has passed behind it.
    pub(crate) fn end(mut self) -> io::Result<()> {
        let sum = self.sum.digest();
        self.stream.write_all(&sum.to_le_bytes())?;
        self.stream.flush()
    }
}

impl<S: Read> Summed<S> {
    /// Reads the checksum and compares it.
    pub(crate) fn check(mut self) -> io::Result<()> {
        let sum = self.sum.digest();
        if word(&mut self.stream)? == sum { Ok(()) } else { Err(invalid("its checksum is wrong")) }
    }
}

impl<S: Write> Write for Summed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.stream.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<S: Read> Read for Summed<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }
}

pub(crate) fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

pub(crate) fn word(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Cache {
    /// Moves what lies in DRAM to flash, whatever the predictor says, until all has gone or `is_over` says that there is no
    /// more time. Nobody else may use the cache. Returns how many objects went.
    pub fn leave(&self, background: &mut Background, device: &dyn Device, mut is_over: impl FnMut() -> bool) -> usize {
        if self.flash.as_ref().is_none_or(|flash| !flash.is_enabled()) {
            return 0;
        }
        let (mut cursor, mut at_end, mut gone) = (Cursor::default(), false, 0);
        let mut waiting: Vec<(u16, Box<[u8]>, usize)> = Vec::new();
        while !(is_over() || at_end && waiting.is_empty()) {
            if !at_end {
                let guard = background.worker.participant.enter();
                at_end = !self.memory.visit(&guard, &mut cursor, BUCKETS_A_PIECE, |object| {
                    waiting.push((object.tenant(), object.key().into(), 0));
                });
            }
            let written = self.offer(background, device, &mut waiting, &mut gone);
            if at_end && !written && !waiting.is_empty() {
                self.make_place(background, device);
            }
        }
        self.flush_now(device);
        gone
    }

    /// Offers each that waits to the open segment; keeps those that found no place. Returns whether a segment was written.
    fn offer(
        &self,
        background: &mut Background,
        device: &dyn Device,
        waiting: &mut Vec<(u16, Box<[u8]>, usize)>,
        gone: &mut usize,
    ) -> bool {
        let mut written = false;
        let mut refused = Vec::new();
        for (tenant, key, offers) in waiting.drain(..) {
            match self.leave_one(background, tenant, &key) {
                Loser::Demoted => *gone += 1,
                Loser::Kept if offers < OFFERS_MAX => refused.push((tenant, key, offers + 1)),
                _ => {}
            }
            if self.flash_tier().wants_to_seal() {
                self.make_place(background, device);
                written = true;
            }
        }
        *waiting = refused;
        written
    }

    fn make_place(&self, background: &mut Background, device: &dyn Device) {
        self.flush_now(device);
        self.recycle_step(self.flash_tier(), device, background);
    }

    fn leave_one(&self, background: &mut Background, tenant: u16, key: &[u8]) -> Loser {
        let worker = &mut background.worker;
        let hash = self.memory.hash(tenant, key);
        let guard = worker.participant.enter();
        let lock = self.memory.lock(hash);
        let Some(object) = self.live(&guard, tenant, key, hash) else { return Loser::Gone };
        if object.access().stale || object.chosen_unique().is_some() {
            return Loser::Dropped; // it has no place on flash
        }
        let loser = self.demote(self.flash_tier(), &worker.hands, hash, &object);
        if loser == Loser::Demoted {
            self.hide(&lock, object);
        }
        loser
    }

    /// Writes the image. Nobody else may use the cache, and nothing may be in the open flash segment.
    pub fn save(&self, out: impl Write) -> io::Result<()> {
        let mut out = Summed::new(out);
        out.write_all(MAGIC)?;
        out.write_all(&self.settings.seed.to_le_bytes())?;
        self.save_versions(&mut out)?;
        self.flash_tier().save(&mut out)?;
        out.end()
    }

    /// A cache as it was when it wrote this image, with these settings but for the seed. An error says what does not fit.
    pub fn restore(mut settings: CacheSettings, input: impl Read) -> io::Result<Cache> {
        let mut input = Summed::new(input);
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(invalid("it is no image, or one of another version"));
        }
        settings.seed = word(&mut input)?;
        let cache = Cache::new(settings).map_err(|error| invalid(&error.to_string()))?;
        cache.load_versions(&mut input)?;
        let flash = cache.flash.as_ref().ok_or_else(|| invalid("there is no flash now"))?;
        flash.load(&mut input)?;
        input.check()?;
        Ok(cache)
    }
}
