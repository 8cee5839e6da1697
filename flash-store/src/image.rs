//! What of the tier lies in DRAM, as bytes. With the segments on the device it is the whole tier: a clean stop writes it, the
//! next start reads it. Words are little-endian. Whoever calls guards the bytes with a checksum.

use std::collections::VecDeque;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;

use crate::segment::FlashSegmentId;
use crate::{FlashStore, Meta};

impl FlashStore {
    /// Writes the image. Nothing may be open or on its way to the device: what is there would be lost.
    pub fn save(&self, out: &mut impl Write) -> io::Result<()> {
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

    /// Reads an image into a tier that is empty and has the shape of the one that wrote it.
    pub fn load(&self, input: &mut impl Read) -> io::Result<()> {
        let invalid = |what| Error::new(ErrorKind::InvalidData, what);
        for expected in [self.metas.len(), self.segment_pages, self.index.slots()] {
            if read_u64(input)? != expected as u64 {
                return Err(invalid("the sizes of flash, of its segments or of its index have changed"));
            }
        }
        let mut lives = self.lives.lock();
        lives.next_sequence = read_u64(input)?;
        self.sequence.store(lives.next_sequence.saturating_sub(1), Ordering::Relaxed);
        let mut seen = vec![false; self.metas.len()];
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
        // those of a device that was out have no content
        lives.free.extend((0u32..).zip(&seen).filter(|(_, seen)| !**seen).map(|(id, _)| FlashSegmentId(id)));
        let mut live = 0;
        for meta in &self.metas {
            let Meta { sequence, records, live: alive, sealed_tick } = meta;
            sequence.store(read_u64(input)?, Ordering::Relaxed);
            for word in [records, alive, sealed_tick] {
                word.store(read_u32(input)?, Ordering::Relaxed);
            }
            live += alive.load(Ordering::Relaxed) as usize;
        }
        self.live.store(live, Ordering::Relaxed);
        self.index.load(input)
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
