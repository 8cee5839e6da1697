//! A clean stop and the start after it: what is in DRAM goes to flash, and what says where things lie on flash is written as an
//! *image*. The next start reads it and serves the same content: same values, uniques and expiries, and nothing that had been
//! changed, deleted or flushed.
//!
//! The image is guarded by a checksum at its end. It holds the seed of the hashes and of flash's checksums: keep it from others.
//!
//! Where flash, or its index, has another size than before, the image cannot be taken over: it says which records count while the index
//! is made anew from the segments, beside requests, one segment a step.
//!
//! After a crash there is no image. If a journal was kept, it says what of the content on flash had become invalid, and the index is
//! made anew from the segments ([`Cache::recover`]), beside requests, one segment a step.

use std::io::{self, BufReader, Error, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;

use flash_store::{
    Beat, Device, FlashStore, Found, Identity, Image, Journal, JournalFile, Note, Page, Remembered, SyncPolicy,
};
use tenants::Numbering;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::step::Background;
use crate::{Cache, CacheSettings};

const MAGIC: &[u8; 16] = b"flashare image 4";
/// Bytes of an image that are read at a time.
const IMAGE_BUFFER: usize = 1 << 20;
/// Versions that a crash may have taken: more than are made between two beats of the journal's clock.
const VERSIONS_A_CRASH: u64 = 1 << 30;
/// Seconds that may have passed since the journal's clock was written last.
const BEAT_SECS: u32 = 2;
/// Seconds that the wall clock may go back between two runs without anybody doubting it.
const BACK_SECS_MAX: u32 = 5;
/// Stands for every tenant in the journal: what has a time to live is over, because the clock cannot be trusted.
const TIMED_OUT: u16 = u16::MAX;

/// Sums up what passes.
pub(crate) struct Summed<S> {
    stream: S,
    sum: Xxh3,
    /// Bytes that were read.
    passed: u64,
}

/// An image, read from front to back.
struct Front<'i> {
    image: &'i dyn Image,
    at: u64,
}

impl Read for Front<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.image.read_at(self.at, bytes)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<S> Summed<S> {
    pub(crate) fn new(stream: S) -> Summed<S> {
        Summed { stream, sum: Xxh3::new(), passed: 0 }
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
        self.passed += count as u64;
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
    /// Looks through what is left of before the start, until all is or `is_over` says that there is no more time.
    pub fn finish_recovery(&self, background: &mut Background, device: &dyn Device, is_over: impl Fn() -> bool) {
        while self.is_recovering() && !is_over() {
            self.recover_step(self.flash_tier(), device, background);
        }
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

    /// A cache as it was when it wrote this image, with these settings but for the seed. Where they ask for more flash or less, or for
    /// another index, what was there comes by and by, with the steps of the background ([`Cache::is_recovering`]).
    ///
    /// # Errors
    /// It is damaged, or says what does not fit: segments of another size, other tenants.
    pub fn restore(mut settings: CacheSettings, image: Box<dyn Image>) -> io::Result<Cache> {
        let mut input = Summed::new(BufReader::with_capacity(IMAGE_BUFFER, Front { image: &*image, at: 0 }));
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(invalid("it is no image, or one of another version"));
        }
        settings.seed = word(&mut input)?;
        let cache = Cache::new(settings).map_err(|error| invalid(&error.to_string()))?;
        cache.load_versions(&mut input)?;
        let flash = cache.flash.as_ref().ok_or_else(|| invalid("there is no flash now"))?;
        let former = flash.load(&mut input)?;
        let end = input.passed;
        input.check()?;
        if let Some(former) = former {
            let index = end - former.index_bytes();
            flash.look_through_former(former, image, index);
        }
        Ok(cache)
    }

    /// A cache over the flash that a crash left, as far as the journal vouches for it. What is found comes by and by, with the steps
    /// of the background ([`Cache::is_recovering`]); it is served from the first moment.
    ///
    /// # Errors
    /// The journal is another tier's, damaged, or may lack what was answered. Then nothing of the flash may be believed.
    pub fn recover(
        mut settings: CacheSettings,
        device: &dyn Device,
        file: Box<dyn JournalFile>,
        policy: SyncPolicy,
        boot: u64,
    ) -> io::Result<Cache> {
        let identity = Journal::identity(&*file)?;
        settings.seed = identity.seed;
        let cache = Cache::new(settings).map_err(|error| invalid(&error.to_string()))?;
        cache.check_identity(&identity)?;
        let (remembered, journal) = Journal::resume(file, policy, boot)?;
        let flash = cache.flash.as_ref().ok_or_else(|| invalid("there is no flash now"))?;
        let Beat { now, ahead, version } = remembered.beat;
        cache.version.fetch_max(version + VERSIONS_A_CRASH, Ordering::Relaxed);
        cache.clock.advance(now + BEAT_SECS, 0);
        cache.ahead.store(ahead + BEAT_SECS, Ordering::Relaxed);
        cache.take_flushes(&remembered);
        flash.keep_journal(journal);
        flash.begin_recovery(&find_segments(flash, device), remembered);
        cache.beat();
        Ok(cache)
    }

    fn check_identity(&self, identity: &Identity) -> io::Result<()> {
        match self.journal_identity(identity.nonce) {
            Some(own) if own == *identity => Ok(()),
            _ => Err(invalid("the tenants, or the sizes of flash, of its segments or of its index have changed")),
        }
    }

    fn take_flushes(&self, remembered: &Remembered) {
        for (tenant, version) in
            remembered.flushed.iter().filter(|(tenant, _)| **tenant == TIMED_OUT || self.is_known(**tenant))
        {
            let bound = if *tenant == TIMED_OUT { &self.timed_out } else { &self.standing(*tenant).flushed };
            bound.fetch_max(*version, Ordering::Relaxed);
        }
        for (tenant, at) in remembered.due.iter().filter(|(tenant, _)| self.is_known(**tenant)) {
            self.standing(*tenant).flush_due.store(*at, Ordering::Relaxed);
        }
    }

    /// What a journal of this cache belongs to. None without flash.
    pub fn journal_identity(&self, nonce: u64) -> Option<Identity> {
        let tenants = match self.registry.numbering() {
            Numbering { identity: 0, numbers, .. } => {
                let names: Vec<&str> = numbers.iter().map(|(name, _)| name.as_str()).collect();
                xxh3_64(names.join("\n").as_bytes())
            }
            numbering => numbering.identity,
        };
        self.flash.as_ref().map(|flash| flash.identity(nonce, self.settings.seed, tenants))
    }

    /// Begins a journal in this file. Whatever segments hold now is not trusted after a crash, unless the index knows it.
    pub fn begin_journal(
        &self,
        device: &dyn Device,
        file: Box<dyn JournalFile>,
        policy: SyncPolicy,
        boot: u64,
        nonce: u64,
    ) -> io::Result<()> {
        let flash = self.flash.as_ref().ok_or_else(|| invalid("there is no flash"))?;
        let identity = self.journal_identity(nonce).expect("there is flash");
        flash.pass_over(&find_segments(flash, device));
        flash.keep_journal(Journal::create(file, identity, policy, boot, flash.newest_sequence())?);
        self.note_flushes();
        self.beat();
        Ok(())
    }

    /// Goes on with the journal of the run that left the image which this cache was restored from.
    pub fn resume_journal(&self, file: Box<dyn JournalFile>, policy: SyncPolicy, boot: u64) -> io::Result<()> {
        self.check_identity(&Journal::identity(&*file)?)?;
        let (_, journal) = Journal::resume(file, policy, boot)?;
        self.flash_tier().keep_journal(journal);
        self.beat();
        Ok(())
    }

    /// The journal, if one is kept.
    pub fn journal(&self) -> Option<&Journal> {
        self.flash.as_ref()?.journal().map(|journal| &**journal)
    }

    /// What has to happen before changes are answered: with a journal that is synced for every change, that is done here.
    #[inline]
    pub fn settle(&self) {
        if let Some(journal) = self.journal() {
            journal.settle();
        }
    }

    /// Keeps the time and the version, for a start after a crash.
    pub(crate) fn beat(&self) {
        if let Some(journal) = self.journal() {
            let (ahead, version) = (self.ahead.load(Ordering::Relaxed), self.version.load(Ordering::Relaxed));
            journal.beat(Beat { now: self.now(), ahead, version });
        }
    }

    fn note_flushes(&self) {
        let Some(journal) = self.journal() else { return };
        let versions = self.registry.all().map(|tenant| (tenant.id, &self.standing(tenant.id).flushed));
        for (tenant, version) in versions.chain([(TIMED_OUT, &self.timed_out)]) {
            let version = version.load(Ordering::Relaxed);
            if version != 0 {
                journal.note(Note::Flushed { tenant, version });
            }
        }
        for (tenant, standing) in &self.standings {
            let at = standing.flush_due.load(Ordering::Relaxed);
            if at != 0 {
                journal.note(Note::Due { tenant: tenant as u16, at });
            }
        }
    }

    /// Tells what the wall clock says, before anybody is served. Where it has gone back since the content was stored, nobody knows how
    /// much longer what has a time to live should live: that is over then. Returns the second to go on from.
    pub fn begin_at(&self, wall: u32) -> u32 {
        let last = self.now();
        let ahead = last.saturating_sub(wall);
        if ahead <= BACK_SECS_MAX + self.ahead.load(Ordering::Relaxed) {
            self.ahead.store(ahead, Ordering::Relaxed);
            return wall.max(last);
        }
        self.ahead.store(0, Ordering::Relaxed);
        let version = self.version.load(Ordering::Relaxed);
        self.timed_out.store(version, Ordering::Relaxed);
        if let Some(journal) = self.journal() {
            journal.note(Note::Flushed { tenant: TIMED_OUT, version });
        }
        for (tenant, standing) in &self.standings {
            let due = standing.flush_due.load(Ordering::Relaxed);
            if due != 0 {
                let due = due.saturating_sub(ahead).max(1);
                standing.flush_due.store(due, Ordering::Relaxed);
                self.note_due(tenant as u16, due);
            }
        }
        self.clock.advance(wall, 0);
        self.beat(); // or the next start would find the later second again
        wall
    }

    /// Whether segments of before the start are still to be looked at.
    pub fn is_recovering(&self) -> bool {
        self.flash.as_ref().is_some_and(FlashStore::is_recovering)
    }

    /// Whether another start can go on with those of them that have not been looked at by then.
    pub fn resumes_recovery(&self) -> bool {
        self.flash.as_ref().is_some_and(FlashStore::resumes_recovery)
    }

    /// Looks at one more segment of before the start. Returns whether there was one.
    pub(crate) fn recover_step(&self, flash: &FlashStore, device: &dyn Device, background: &mut Background) -> bool {
        if !flash.is_recovering() || !flash.may_read_segment() {
            return false;
        }
        let Some(intent) = flash.to_recover() else { return false };
        let mut buffer = std::mem::take(&mut background.buffer);
        buffer.resize(intent.pages, Page::ZERO);
        let pages = device.read_into(intent.at, buffer).ok();
        if pages.is_some() {
            flash.note_read(intent.segment, true);
        }
        if let Some(next) = flash.next_to_recover() {
            device.will_read(next.at, next.pages); // beside the search through this one
        }
        let hash_of = |tenant: u16, key: &[u8]| self.memory.hash(tenant, key);
        let taken = flash.recover(&intent, pages.as_deref(), hash_of, |head, hash, take| {
            let known = self.is_known(head.tenant);
            if known && self.is_dead(head.tenant, head.key, head.version, head.expiry).is_none() {
                let _lock = self.memory.lock(hash);
                take();
            }
        });
        background.buffer = pages.unwrap_or_default();
        self.recovered.fetch_add(taken as u64, Ordering::Relaxed);
        true
    }
}

/// Looks at the first page of every segment.
fn find_segments(flash: &FlashStore, device: &dyn Device) -> Vec<Found> {
    let mut page = [Page::ZERO];
    let mut look = |at| device.read(at, &mut page).map_or(Found::Unknown, |()| Found::of(&page[0]));
    flash.headers().map(&mut look).collect()
}
