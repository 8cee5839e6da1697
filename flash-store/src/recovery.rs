//! Finding again what segments hold: the index is made anew from the segments themselves, and a witness says which of their records
//! count. After a crash that is the journal of what had become invalid; where sizes have changed over a clean stop it is the index
//! of before.
//!
//! It goes on beside requests, a segment at a time, the newest first. Until it has ended, whatever is hidden is noted as *touched*,
//! whether the index knew it or not: what is found later of a touched class is older than that, and stays where it is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::format::{self, Claimed, PageSeed};
use crate::image::Former;
use crate::index::{ClassName, FlashIndex};
use crate::journal::{Note, Remembered};
use crate::packing::position;
use crate::segment::FlashSegmentId;
use crate::{CHOICES, CLOCK_PLACED, CLOCK_RUNNING, FlashStore, PAGE_BYTES, Page, RecycleIntent};

/// What the first page of a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It was written whole, as far as this page can tell.
    Sealed {
        /// Its sequence number.
        sequence: u64,
        /// Records in it.
        records: u32,
    },
    /// Nothing was ever written there.
    Blank,
    /// It cannot be read, or is no segment's.
    Unknown,
}

impl Found {
    /// What a page says.
    pub fn of(page: &Page) -> Found {
        match format::read_segment_header(page) {
            Some((sequence, records)) => Found::Sealed { sequence, records },
            None if page.0.iter().all(|byte| *byte == 0) => Found::Blank,
            None => Found::Unknown,
        }
    }
}

fn highest(found: &[Found]) -> u64 {
    let sequence = |found: &Found| match found {
        Found::Sealed { sequence, .. } => *sequence,
        _ => 0,
    };
    found.iter().map(sequence).max().unwrap_or(0)
}

/// Classes that were hidden since recovery began, by chance together with others: a bit for each slot of the index.
struct Touched(Box<[AtomicU64]>);

impl Touched {
    fn new(index: &FlashIndex) -> Touched {
        Touched((0..index.slots().div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn bit(&self, name: ClassName) -> (&AtomicU64, u64) {
        let word = u64::from(name.bucket) << 32 | u64::from(name.tag);
        let spread = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let bit = spread % (self.0.len() as u64 * 64);
        (&self.0[(bit / 64) as usize], 1 << (bit % 64))
    }

    fn set(&self, name: ClassName) {
        let (word, bit) = self.bit(name);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    fn has(&self, name: ClassName) -> bool {
        let (word, bit) = self.bit(name);
        word.load(Ordering::Relaxed) & bit != 0
    }
}

/// Who says which records count.
pub(crate) enum Witness {
    /// The journal: all but what it says is invalid.
    Journal(Remembered),
    /// The index in the image of a clean stop: what it led to.
    Image(Former),
}

/// A recovery that is under way.
struct Search {
    witness: Witness,
    touched: Touched,
    left: Mutex<Left>,
}

/// Segments that have not been looked at.
struct Left {
    /// Those that nobody looks at yet, oldest first.
    waiting: Vec<FlashSegmentId>,
    /// The one that is being looked at.
    in_hand: Option<FlashSegmentId>,
}

/// What a tier knows of its recovery.
#[derive(Default)]
pub(crate) struct Recovery(RwLock<Option<Search>>);

impl Recovery {
    pub(crate) fn touch(&self, name: ClassName) {
        if let Some(search) = &*self.0.read() {
            search.touched.set(name);
        }
    }

    /// These segments are not to be looked at any more. Returns those that still were to be.
    pub(crate) fn forget(&self, are_these: impl Fn(FlashSegmentId) -> bool) -> Vec<FlashSegmentId> {
        let search = self.0.read();
        let Some(search) = &*search else { return Vec::new() };
        search.left.lock().waiting.extract_if(.., |id| are_these(*id)).collect()
    }
}

impl FlashStore {
    /// Begins to recover, before anybody uses the tier: takes over the segments that can be trusted. `found` is what the first page of
    /// each segment says. [`FlashStore::to_recover`] then says what to read.
    pub fn begin_recovery(&self, found: &[Found], remembered: Remembered) {
        let mut lives = self.lives.lock();
        // one more than any that was used: notes about what cannot be read name it, and no segment has it
        let highest = highest(found).max(remembered.sequence) + 1;
        lives.next_sequence = highest + 1;
        self.sequence.store(highest, Ordering::Release);
        let mut claims: HashMap<u64, u32> = HashMap::new();
        for found in found {
            if let Found::Sealed { sequence, .. } = found {
                *claims.entry(*sequence).or_default() += 1;
            }
        }
        lives.free.clear();
        let mut trusted = Vec::new();
        for (number, found) in (0u32..).zip(found) {
            match *found {
                // a sequence is given once: of two segments that claim it, one lies where it should not
                Found::Sealed { sequence, records }
                    if remembered.trusts(number, sequence) && claims[&sequence] == 1 =>
                {
                    let meta = &self.metas[number as usize];
                    meta.begin(sequence);
                    meta.records.store(records, Ordering::Relaxed);
                    trusted.push((sequence, FlashSegmentId(number)));
                }
                Found::Blank => lives.free.push_back(FlashSegmentId(number)),
                _ => {
                    // if it turns out to be readable next time, it must not come back
                    self.note(Note::Dead { segment: number, sequence: highest });
                    lives.free.push_back(FlashSegmentId(number));
                }
            }
        }
        trusted.sort_unstable();
        lives.readable = trusted.iter().map(|(_, id)| *id).collect();
        drop(lives);
        self.look_through_readable(Witness::Journal(remembered));
    }

    /// Begins to look through all readable segments.
    pub(crate) fn look_through_readable(&self, witness: Witness) {
        let waiting: Vec<_> = self.lives.lock().readable.iter().copied().collect();
        if !waiting.is_empty() {
            let (touched, left) = (Touched::new(&self.index), Mutex::new(Left { waiting, in_hand: None }));
            *self.recovery.0.write() = Some(Search { witness, touched, left });
            self.is_recovering.store(true, Ordering::Release);
        }
    }

    /// Whether another start can go on with what has not been looked through by then: a journal outlives this one, an image does not.
    pub fn resumes_recovery(&self) -> bool {
        matches!(&*self.recovery.0.read(), Some(Search { witness: Witness::Journal(_), .. }))
    }

    /// Begins empty over segments that hold something: sequence numbers go on above theirs.
    pub fn pass_over(&self, found: &[Found]) {
        let mut lives = self.lives.lock();
        lives.next_sequence = lives.next_sequence.max(highest(found) + 1);
        self.sequence.store(lives.next_sequence - 1, Ordering::Release);
    }

    /// Whether segments are still to be looked at.
    pub fn is_recovering(&self) -> bool {
        self.is_recovering.load(Ordering::Acquire)
    }

    /// Segments that are still to be looked at.
    pub fn segments_to_recover(&self) -> usize {
        self.recovery.0.read().as_ref().map_or(0, |search| {
            let left = search.left.lock();
            left.waiting.len() + usize::from(left.in_hand.is_some())
        })
    }

    /// The segment to read next, and to give to [`FlashStore::recover`].
    pub fn to_recover(&self) -> Option<RecycleIntent> {
        if !self.is_recovering() {
            return None;
        }
        let next = self.recovery.0.read().as_ref().and_then(|search| {
            let mut left = search.left.lock();
            left.in_hand = left.waiting.pop();
            left.in_hand
        });
        if next.is_none() {
            self.is_recovering.store(false, Ordering::Release);
            *self.recovery.0.write() = None;
        }
        next.map(|segment| self.intent(segment))
    }

    /// The segment after that, as far as is known now.
    pub fn next_to_recover(&self) -> Option<RecycleIntent> {
        let search = self.recovery.0.read();
        let next = search.as_ref()?.left.lock().waiting.last().copied();
        next.map(|segment| self.intent(segment))
    }

    /// The read of a whole segment.
    pub(crate) fn intent(&self, segment: FlashSegmentId) -> RecycleIntent {
        RecycleIntent { segment, at: self.device_offset(segment, 0), pages: self.segment_pages }
    }

    /// Takes over what a segment holds. `admit` is called with each record that may be valid as far as the journal knows, and with its
    /// hash; where it is alive, it calls what it was given while it holds the key's lock. Returns how many were taken over.
    pub fn recover(
        &self,
        intent: &RecycleIntent,
        pages: Option<&[Page]>,
        hash_of: impl Fn(u16, &[u8]) -> u64,
        mut admit: impl FnMut(&format::RecordHead<'_>, u64, &mut dyn FnMut() -> bool),
    ) -> usize {
        let sequence = self.meta(intent.segment).sequence.load(Ordering::Acquire);
        let Some(pages) = pages.filter(|pages| format::is_whole_segment(pages, sequence)) else {
            self.note_read(intent.segment, false);
            self.give_up(intent.segment, sequence);
            return 0;
        };
        let search = self.recovery.0.read();
        let Some(search) = &*search else { return 0 };
        let mut taken = 0;
        for claimed in format::walk(pages, |page| PageSeed::new(self.secret, sequence, page as u32)) {
            let head = &claimed.record.head;
            if head.tenant == format::TENANT_NOBODY {
                continue;
            }
            let hash = hash_of(head.tenant, head.key);
            let name = self.index.name(self.index.class(&self.layout, hash));
            let clock = match &search.witness {
                Witness::Journal(remembered) if remembered.hides(name.bucket, name.tag, sequence) => None,
                Witness::Journal(_) => Some(CLOCK_PLACED),
                Witness::Image(former) => {
                    former.entry_of(hash, intent.segment, &claimed).map(|entry| entry.clock().max(CLOCK_RUNNING))
                }
            };
            let Some(clock) = clock else { continue };
            admit(head, hash, &mut || {
                if search.touched.has(name) {
                    // another key's change may have touched it: from now on it is as good as hidden
                    self.note(Note::Hidden { bucket: name.bucket, tag: name.tag, sequence });
                    return false;
                }
                let placed = self.publish_found(hash, intent.segment, &claimed, clock);
                taken += usize::from(placed);
                placed
            });
        }
        taken
    }

    /// Makes the entry of a record that lies in a segment already.
    fn publish_found(&self, hash: u64, segment: FlashSegmentId, claimed: &Claimed<'_>, clock: u32) -> bool {
        let (first, end) = (claimed.at / PAGE_BYTES, claimed.end().div_ceil(PAGE_BYTES));
        let classes = (0..CHOICES).filter_map(|choice| {
            let named = position(hash, choice, self.segment_pages as u32) as usize;
            let reaches = self.layout.class_that_holds(end.checked_sub(named)? as u32)?;
            (named <= first).then_some((reaches, choice))
        });
        let Some((class, choice)) = classes.min() else { return false };
        self.publish(hash, segment, class, choice, clock);
        true
    }

    fn give_up(&self, segment: FlashSegmentId, sequence: u64) {
        self.note(Note::Dead { segment: segment.0, sequence });
        let mut lives = self.lives.lock();
        lives.readable.retain(|id| *id != segment);
        self.set_free(&mut lives, segment);
    }
}
