//! What is in DRAM, as a stream: written at a clean stop, read by the start after it (memcached's -e).
//!
//! A head (versions and flushes, so that what was flushed stays so), then one row an object, then a checksum. Numbers are little
//! endian. Rows: marks (1: stale, 2: won, 4: client-chosen unique, 8: another row; 0: the end), reads, updates, history, tenant (2
//! bytes), key bytes (2), client flags (4), expiry (4), tick of the last access (4), value bytes (4), version (8), unique (8),
//! key, value.

use std::io::{self, Read, Write};

use flash_store::Device;
use log_memory::{Access, Cursor, NewObject, Object};

use crate::restart::{Summed, invalid, word};
use crate::step::Background;
use crate::{Cache, Worker};

const MAGIC: &[u8; 16] = b"flashare DRAM  3";
/// Bytes of a row before its key.
const HEAD_BYTES: usize = 40;
/// Buckets of the index that are walked at a time.
const BUCKETS_A_PIECE: usize = 256;
const STALE: u8 = 1;
const WON: u8 = 2;
const CHOSEN: u8 = 4;
const ROW: u8 = 8;
/// Steps that are taken to make room for an object, at most.
const STEPS_MAX: u32 = 1_000;

/// One object as it stands in the stream, behind its marks.
struct Row {
    marks: u8,
    head: [u8; HEAD_BYTES - 1],
    bytes: Vec<u8>,
}

impl Row {
    fn read(marks: u8, input: &mut impl Read) -> io::Result<Row> {
        let mut row = Row { marks, head: [0; HEAD_BYTES - 1], bytes: Vec::new() };
        input.read_exact(&mut row.head)?;
        let wanted = row.key_bytes() + row.word(19) as usize;
        // not reserved beforehand: the number is believed as far as bytes follow
        if input.take(wanted as u64).read_to_end(&mut row.bytes)? != wanted {
            return Err(invalid("it is cut off"));
        }
        Ok(row)
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.head[at], self.head[at + 1]])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.head[at..at + 4].try_into().expect("four bytes"))
    }

    fn double(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.head[at..at + 8].try_into().expect("eight bytes"))
    }

    fn tenant(&self) -> u16 {
        self.half(3)
    }

    fn key_bytes(&self) -> usize {
        usize::from(self.half(5))
    }

    fn client_flags(&self) -> u32 {
        self.word(7)
    }

    fn expiry(&self) -> u32 {
        self.word(11)
    }

    fn version(&self) -> u64 {
        self.double(23)
    }

    fn unique(&self) -> Option<u64> {
        (self.marks & CHOSEN != 0).then(|| self.double(31))
    }

    fn access(&self) -> Access {
        Access {
            last: self.word(15),
            reads: self.head[0],
            updates: self.head[1],
            stale: self.marks & STALE != 0,
            won: self.marks & WON != 0,
        }
    }
}

impl Cache {
    /// Writes what is in DRAM. Nobody else may use the cache. Returns how many objects that were.
    pub fn save_content(&self, out: impl Write) -> io::Result<u64> {
        let mut out = Summed::new(out);
        out.write_all(MAGIC)?;
        self.save_versions(&mut out)?;
        let participant = self.memory.join();
        let (mut cursor, mut more, mut count) = (Cursor::default(), true, 0);
        while more {
            let turn = participant.enter();
            let mut outcome = Ok(());
            more = self.memory.visit(&turn, &mut cursor, BUCKETS_A_PIECE, |object| {
                if outcome.is_ok()
                    && self.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_none()
                {
                    count += 1;
                    outcome = self.save_row(&mut out, &object);
                }
            });
            outcome?;
        }
        out.write_all(&[0])?;
        out.end()?;
        Ok(count)
    }

    fn save_row(&self, out: &mut impl Write, object: &Object<'_>) -> io::Result<()> {
        let access = object.access();
        let chosen = object.chosen_unique();
        let marks = [(access.stale, STALE), (access.won, WON), (chosen.is_some(), CHOSEN)];
        let marks = marks.iter().filter(|(is, _)| *is).fold(ROW, |marks, (_, mark)| marks | mark);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(&[marks, access.reads, access.updates, object.history()]);
        head.extend_from_slice(&object.tenant().to_le_bytes());
        head.extend_from_slice(&(object.key().len() as u16).to_le_bytes());
        for word in [object.client_flags(), object.expiry(), access.last, object.value_bytes() as u32] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        for word in [object.version(), chosen.unwrap_or(0)] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        out.write_all(&head)?;
        out.write_all(object.key())?;
        object.value().try_for_each(|piece| out.write_all(piece))
    }

    /// Takes in what [`Cache::save_content`] wrote, before anybody is served; where memory is less than it was, the cleaner chooses.
    /// Returns how many came.
    ///
    /// # Errors
    /// The stream is cut off, of another version, or of other tenants. What had come by then stays: each of it was whole.
    pub fn load_content(
        &self,
        background: &mut Background,
        device: Option<&dyn Device>,
        input: impl Read,
    ) -> io::Result<u64> {
        let mut input = Summed::new(input);
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(invalid("it is no content of a flashare, or of another version"));
        }
        self.load_versions(&mut input)?;
        let mut worker = self.worker();
        let mut count = 0;
        loop {
            let mut marks = [0];
            input.read_exact(&mut marks)?;
            if marks[0] & ROW == 0 {
                break;
            }
            let row = Row::read(marks[0], &mut input)?;
            count += u64::from(self.load_row(&mut worker, background, device, &row)?);
        }
        input.check()?;
        Ok(count)
    }

    /// Takes in one object. False if there is no place for it.
    fn load_row(
        &self,
        worker: &mut Worker,
        background: &mut Background,
        device: Option<&dyn Device>,
        row: &Row,
    ) -> io::Result<bool> {
        let (key, value) = row.bytes.split_at(row.key_bytes());
        if !self.is_known(row.tenant()) {
            return Err(invalid("an object is of an unknown tenant"));
        }
        if row.bytes.len() > self.settings.item_bytes_max
            || key.is_empty()
            || self.is_dead(row.tenant(), key, row.version(), row.expiry()).is_some()
        {
            return Ok(false);
        }
        let object = NewObject {
            tenant: row.tenant(),
            key,
            value: &[value],
            client_flags: row.client_flags(),
            expiry: row.expiry(),
            version: row.version(),
            unique: row.unique(),
            birth: self.clock.tick(),
            access: row.access(),
            history: row.head[2],
            rescued: true,
        };
        let hash = self.memory.hash(object.tenant, object.key);
        for _ in 0..STEPS_MAX {
            if self.take_in(worker, hash, &object) {
                if self.wants_cleaning() {
                    self.step(background, device);
                }
                return Ok(true);
            }
            self.step(background, device);
        }
        Ok(false)
    }

    fn take_in(&self, worker: &mut Worker, hash: u64, object: &NewObject<'_>) -> bool {
        let turn = self.turn(worker);
        let lock = self.memory.lock(hash);
        let old = self.published(&turn.guard, object.tenant, object.key, hash);
        let Ok(at) = self.append(turn.hands, hash, object) else { return false };
        self.publish(&turn.guard, &lock, at, old);
        if let Some(flash) = &self.flash {
            flash.hide(hash, object.tenant, object.key);
        }
        true
    }

    /// Versions and flushes: what tells old from new.
    pub(crate) fn save_versions(&self, out: &mut impl Write) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let (tick, now) = (u64::from(self.clock.tick()), u64::from(self.now()));
        let identity = self.registry.numbering().identity;
        for word in [
            identity,
            self.version.load(Relaxed),
            self.timed_out.load(Relaxed),
            tick,
            now,
            self.registry.count() as u64,
        ] {
            out.write_all(&word.to_le_bytes())?;
        }
        for tenant in self.registry.all() {
            let flushed = self.standing(tenant.id).flushed.load(Relaxed);
            let due = self.standing(tenant.id).flush_due.load(Relaxed);
            for word in [tenant.name.len() as u64, flushed, u64::from(due)] {
                out.write_all(&word.to_le_bytes())?;
            }
            out.write_all(tenant.name.as_bytes())?;
        }
        Ok(())
    }

    /// Goes on from what [`Cache::save_versions`] wrote.
    pub(crate) fn load_versions(&self, input: &mut impl Read) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        /// Longest name of a tenant that is believed.
        const NAME_BYTES_MAX: u64 = 4096;
        if word(input)? != self.registry.numbering().identity {
            return Err(invalid("which number is whose tenant has changed"));
        }
        let (version, timed_out) = (word(input)?, word(input)?);
        let (tick, now, tenants) = (word(input)?, word(input)?, word(input)?);
        if tenants > self.registry.count() as u64 {
            return Err(invalid("the tenants have changed"));
        }
        for tenant in self.registry.all().take(tenants as usize) {
            let (bytes, flushed, due) = (word(input)?, word(input)?, word(input)?);
            let mut name = vec![0; bytes.min(NAME_BYTES_MAX) as usize];
            input.read_exact(&mut name)?;
            if name != tenant.name.as_bytes() {
                return Err(invalid("the tenants have changed"));
            }
            self.standing(tenant.id).flushed.fetch_max(flushed, Relaxed);
            self.standing(tenant.id).flush_due.store(due as u32, Relaxed);
        }
        self.version.fetch_max(version, Relaxed);
        self.timed_out.fetch_max(timed_out, Relaxed);
        self.clock.resume(tick as u32);
        self.clock.advance((now as u32).max(self.now()), 0);
        Ok(())
    }
}
