//! What of the tier lies in DRAM, as bytes. With the segments on the device it is the whole tier: a clean stop writes it, the
//! next start reads it. Words are little-endian. Whoever calls guards the bytes with a checksum.
//!
//! A tier of another size cannot take over an index: 4 bytes do not tell where an entry lies among more buckets, or fewer. Its
//! segments can be taken over all the same, if they are of the same size. So the table of segments is, and what they hold is found
//! by looking through them, as after a crash; what says which records count is the former index, which is looked up in the image
//! ([`Former`]).

use std::collections::VecDeque;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;

use crate::entry::{Entry, EntryLayout};
use crate::format::Claimed;
use crate::index::{Class, SLOTS};
use crate::recovery::Witness;
use crate::segment::FlashSegmentId;
use crate::{FlashStore, Meta, PAGE_BYTES, leads_to};

/// An image that is at hand as long as it is needed.
pub trait Image: Send + Sync {
    /// Reads from offset `at`, as many bytes as there are room and content for. Returns how many; 0 at its end.
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize>;
}

impl Image for Vec<u8> {
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(at).map_or(self.len(), |at| at.min(self.len()));
        (&self[from..]).read(bytes)
    }
}

/// Sizes of the tier that wrote an image, where they are not those of the tier that reads it.
#[derive(Clone, Debug)]
pub struct FormerSizes {
    layout: EntryLayout,
    slots: usize,
}

impl FormerSizes {
    /// Bytes of its index, which is the last of the image.
    pub fn index_bytes(&self) -> u64 {
        self.slots as u64 * 4
    }
}

/// The index of the tier that wrote an image, looked up there: it takes no memory.
pub(crate) struct Former {
    image: Box<dyn Image>,
    /// Where its first bucket lies in the image.
    at: u64,
    buckets: usize,
    layout: EntryLayout,
    segment_pages: usize,
}

impl Former {
    /// The entry that led to this record of a segment. None if none did, and where the image cannot be read.
    pub(crate) fn entry_of(&self, hash: u64, segment: FlashSegmentId, claimed: &Claimed<'_>) -> Option<Entry> {
        let class = Class::of(hash, &self.layout, self.buckets);
        let leads_there = |entry: &Entry| {
            !entry.is_empty()
                && self.layout.tag_of(*entry) == class.tag()
                && self.layout.segment_of(*entry) == segment.0
                && leads_to(&self.layout, self.segment_pages, hash, *entry, claimed)
        };
        class.buckets().find_map(|bucket| {
            let mut bytes = [0; 4 * SLOTS];
            let read = self.image.read_at(self.at + (bucket * bytes.len()) as u64, &mut bytes).ok()?;
            let words = bytes[..read].as_chunks().0.iter().map(|word| Entry(u32::from_le_bytes(*word)));
            words.into_iter().find(leads_there)
        })
    }
}

impl FlashStore {
    /// Writes the image. Nothing may be open or on its way to the device: what is there would be lost.
    pub fn save(&self, out: &mut impl Write) -> io::Result<()> {
        self.empty_those_out(); // the image does not tell which are
        let lives = self.lives.lock();
        if lives.open.is_some() || lives.recycling.is_some() || !self.writing.lock().is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a segment is open or being written"));
        }
        for word in [self.metas.len(), self.segment_pages, self.index.slots()] {
            out.write_all(&(word as u64).to_le_bytes())?;
        }
        out.write_all(&lives.next_sequence.to_le_bytes())?;
        for ids in [&lives.free, &lives.readable] {
            out.write_all(&(ids.len() as u64).to_le_bytes())?;
            ids.iter().try_for_each(|id| out.write_all(&id.0.to_le_bytes()))?;
        }
        for meta in &self.metas {
            out.write_all(&meta.sequence.load(Ordering::Relaxed).to_le_bytes())?;
            for word in [&meta.records, &meta.live, &meta.sealed_tick] {
                out.write_all(&word.load(Ordering::Relaxed).to_le_bytes())?;
            }
        }
        self.index.save(out)
    }

    /// Reads an image into a tier that is empty. Where the one that wrote it had other sizes its index is passed over, and they are
    /// returned: [`FlashStore::look_through_former`] goes on with them.
    ///
    /// # Errors
    /// It makes no sense, or segments are of another size or lie elsewhere. Then the tier must not be used.
    pub fn load(&self, input: &mut impl Read) -> io::Result<Option<FormerSizes>> {
        let invalid = |what: &str| Error::new(ErrorKind::InvalidData, what);
        let [segments, segment_pages, slots] = [read_u64(input)?, read_u64(input)?, read_u64(input)?];
        let is_resized = segments != self.metas.len() as u64;
        if segment_pages != self.segment_pages as u64 {
            let (then, now) = (segment_pages.saturating_mul(PAGE_BYTES as u64), self.segment_bytes());
            return Err(invalid(&format!("the size of segments has changed: it was {then} bytes, and is {now} now")));
        }
        if is_resized && self.parts.len() > 1 {
            return Err(invalid("flash lies on several devices, and their sizes have changed"));
        }
        let layout = u32::try_from(segments).ok().and_then(|count| EntryLayout::new(count, self.segment_bytes() / 2));
        let layout = layout.ok_or_else(|| invalid("segments that no entry can name"))?;
        let mut lives = self.lives.lock();
        lives.next_sequence = read_u64(input)?;
        self.sequence.store(lives.next_sequence.saturating_sub(1), Ordering::Relaxed);
        let mut seen = vec![false; segments as usize];
        let mut ids = || -> io::Result<VecDeque<FlashSegmentId>> {
            let count = read_u64(input)?;
            (0..count)
                .map(|_| {
                    let id = read_u32(input)?;
                    let seen = seen.get_mut(id as usize).ok_or_else(|| invalid("a segment that is not there"))?;
                    if std::mem::replace(seen, true) {
                        return Err(invalid("a segment that is there twice"));
                    }
                    Ok(FlashSegmentId(id))
                })
                .collect()
        };
        (lives.free, lives.readable) = (ids()?, ids()?);
        if is_resized {
            lives.readable.retain(|id| (id.0 as usize) < self.metas.len());
            let all = (0..self.metas.len() as u32).map(FlashSegmentId);
            lives.free = all.filter(|id| !lives.readable.contains(id)).collect();
        } else {
            // those of a device that was out have no content
            lives.free.extend((0u32..).zip(&seen).filter(|(_, seen)| !**seen).map(|(id, _)| FlashSegmentId(id)));
        }
        let none = Meta::default();
        let mut live = 0;
        for id in 0..segments as usize {
            let Meta { sequence, records, live: alive, sealed_tick } = self.metas.get(id).unwrap_or(&none);
            sequence.store(read_u64(input)?, Ordering::Relaxed);
            for word in [records, alive, sealed_tick] {
                word.store(read_u32(input)?, Ordering::Relaxed);
            }
            live += alive.load(Ordering::Relaxed) as usize;
        }
        if !is_resized && slots == self.index.slots() as u64 {
            self.live.store(live, Ordering::Relaxed);
            return self.index.load(input).map(|()| None);
        }
        self.metas.iter().for_each(|meta| meta.live.store(0, Ordering::Relaxed));
        let former = FormerSizes { layout, slots: slots as usize };
        let passed = io::copy(&mut input.take(former.index_bytes()), &mut io::sink())?;
        if passed != former.index_bytes() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(former))
    }

    /// Begins to find what a tier of other sizes left, before anybody uses this one. `at` is where the index of that tier lies in the image.
    /// [`FlashStore::to_recover`] then says what to read.
    pub fn look_through_former(&self, former: FormerSizes, image: Box<dyn Image>, at: u64) {
        let FormerSizes { layout, slots } = former;
        let (buckets, segment_pages) = (slots / SLOTS, self.segment_pages);
        self.look_through_readable(Witness::Image(Former { image, at, buckets, layout, segment_pages }));
    }
}

pub(crate) fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

pub(crate) fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
