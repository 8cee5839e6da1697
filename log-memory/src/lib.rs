//! The DRAM tier: one log in segments for all tenants, and the index that finds objects in it.
//!
//! ```text
//!  hash --> index bucket (64 bytes) --> location --> region [ segment | segment | segment | ... ]
//!                                                             header key value | header key value | ...
//! ```
//! This crate knows how to append, publish, hide, find, move and reclaim. It does not know what a tenant wants, what flash is,
//! or what time it is: whoever calls decides which objects live.

mod candidates;
mod grace;
mod hash;
mod index;
mod landing;
mod location;
#[cfg(all(test, feature = "model"))]
mod model_checked;
mod object;
mod open_segment;
mod pin;
mod region;
mod relocate;
mod segment;
mod sync;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use candidates::Candidate;
pub use grace::{Grace, Participant, Turn};
pub use hash::{KeyHasher, mix};
use index::Index;
pub use index::{Cursor, KeyLock, Sighting};
pub use landing::{Landing, NoLanding};
pub use location::Location;
pub use object::{
    Access, HEADER_BYTES, KEY_BYTES_MAX, Kind, NewObject, Object, TICK_BITS, VALUE_BYTES_MAX, VERSION_MAX, Value,
    reads_estimate,
};
pub use open_segment::{NoSpace, Writer};
use open_segment::{discharge, discharge_all};
pub use pin::Pinned;
pub use region::{Region, give_back_large_buffers};
pub use relocate::{Found, Part, Relocated};
use segment::Segments;
pub use segment::{SegmentId, State};
use sync::Mutex;

/// Free segments that writers leave to the cleaner, which needs them to make more.
pub const SEGMENTS_SPARE: usize = 2;

/// Segments that memory is cut into at least, as long as they are of 32 KiB or more.
const SEGMENTS_LEAST: usize = 256;

/// Bytes behind the last segment that was ever opened that are kept resident: time enough to clear the next huge page.
const RESIDENT_AHEAD: usize = 1 << 20;
/// What is made resident at a time: the rest of a huge page, whose clearing takes longer than a thousand requests.
const POPULATED_A_STEP: usize = 2 << 20;

/// A value of so many bytes that grows is cut up from then on, whether it is too large for one piece or not.
const GROWN_BYTES_MIN: usize = 16 << 10;
/// The last piece of a value that grows is copied to grow as long as it is smaller than this, and than one part in so many of the value: few bytes
/// are copied, and few pieces come of it.
const LAST_BYTES: usize = 8 << 10;
const LAST_PART: usize = 32;

/// Cache lines of an object that are fetched ahead: header, key and a small value.
const LINES_AHEAD: usize = 3;

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the region that may be used to begin with: a whole number of segments.
    pub region_bytes: usize,
    /// Bytes of address space to map: what `region_bytes` may grow to while it is in use.
    pub mapped_bytes: usize,
    /// Bytes of a segment: a power of two, 32 KiB or more.
    pub segment_bytes: usize,
    /// Entries that the index holds to begin with; it grows when it has to.
    pub index_entries: usize,
}

impl Shape {
    /// The shape for so much memory: 1 MiB segments, smaller where that would make fewer than 256 (those that are kept free, and those
    /// that are being filled, hold nothing that can be hit), and an index that fits objects of 512 bytes.
    pub fn for_memory(bytes: usize) -> Shape {
        let segment_bytes = (bytes / SEGMENTS_LEAST).next_power_of_two().clamp(32 << 10, 1 << 20);
        Shape {
            region_bytes: (bytes / segment_bytes).max(8) * segment_bytes,
            mapped_bytes: (bytes / segment_bytes).max(8) * segment_bytes,
            segment_bytes,
            index_entries: (bytes / 512).max(1024),
        }
    }

    /// The same, with room to grow: up to sixteen times as much, but no more than 4 GiB more.
    pub fn growable(self) -> Shape {
        let most = self.region_bytes.saturating_mul(16).min(self.region_bytes + (4 << 30));
        Shape { mapped_bytes: most / self.segment_bytes * self.segment_bytes, ..self }
    }

    /// Objects above this many bytes are stored in pieces of at most this size, so a segment's unused end is small.
    pub fn fragment_bytes_max(&self) -> usize {
        self.segment_bytes / 8
    }
}

/// The log and its index.
pub struct LogMemory {
    shape: Shape,
    region: Arc<Region>,
    segments: Arc<Segments>,
    index: Index,
    grace: Arc<Grace>,
    /// The stamp of the last time that the index began to grow; 0 once the turns from before are over.
    grown_at: AtomicU64,
    /// Held by who begins to grow the index or moves entries.
    growing: Mutex<()>,
    hasher: KeyHasher,
    /// How far into the region pages were made resident, in bytes.
    resident_to: AtomicUsize,
    /// Objects that lost their index slot to others, by tenant and bytes, for the owner to account for.
    victims: parking_lot::Mutex<Vec<(u16, usize)>>,
}

impl LogMemory {
    /// Maps the region. Fails only if the system refuses the mapping.
    pub fn new(shape: Shape, hasher: KeyHasher) -> io::Result<LogMemory> {
        let grace = Grace::new();
        let region = Region::map(shape.mapped_bytes)?;
        let segments = Segments::new(shape.mapped_bytes / shape.segment_bytes, shape.segment_bytes, Arc::clone(&grace));
        segments.allow(shape.region_bytes / shape.segment_bytes, &region);
        Ok(LogMemory {
            shape,
            region: Arc::new(region),
            segments: Arc::new(segments),
            index: Index::new(shape.index_entries)?,
            grace,
            grown_at: AtomicU64::new(0),
            growing: Mutex::new(()),
            hasher,
            resident_to: AtomicUsize::new(0),
            victims: parking_lot::Mutex::default(),
        })
    }

    /// A place in reclamation for a thread that reads or writes.
    pub fn join(&self) -> Participant {
        self.grace.join()
    }

    /// A place to append for a thread. It leaves [`SEGMENTS_SPARE`] free segments to the cleaner.
    pub fn writer(&self) -> Writer {
        Writer::new(SEGMENTS_SPARE)
    }

    /// The cleaner's place to append: it may take the last free segment.
    pub fn cleaner_writer(&self) -> Writer {
        Writer::new(0)
    }

    /// Seals what the writer has open, so that the cleaner can get at it.
    pub fn seal(&self, writer: &mut Writer) {
        writer.seal(&self.segments);
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, tenant: u16, key: &[u8]) -> u64 {
        self.hasher.hash(tenant, key)
    }

    /// Finds the object that is published for a key.
    pub fn find<'t>(&'t self, _turn: &'t Turn<'_>, hash: u64, tenant: u16, key: &[u8]) -> Option<Object<'t>> {
        let at = self.index.find(hash, |at| self.is_of(at, tenant, key))?;
        // SAFETY: found in the index within the turn (INV-GRACE).
        Some(unsafe { Object::at(&self.region, at) })
    }

    /// The same for a key of which something was seen before: one look at its slot instead of a search, where that is still right.
    #[inline(always)] // each get passes here, in one of two ways: the call was measured to cost 36 instructions
    pub fn find_seen<'t>(
        &'t self,
        turn: &'t Turn<'_>,
        (hash, sighting): (u64, Sighting),
        tenant: u16,
        key: &[u8],
    ) -> Option<Object<'t>> {
        match self.index.look_again(sighting).filter(|at| self.is_of(*at, tenant, key)) {
            // SAFETY: found in the index within the turn (INV-GRACE).
            Some(at) => Some(unsafe { Object::at(&self.region, at) }),
            None => self.find(turn, hash, tenant, key),
        }
    }

    /// Whether the object at `at`, which the index has told of within the caller's turn, is this key's.
    #[inline]
    fn is_of(&self, at: Location, tenant: u16, key: &[u8]) -> bool {
        // SAFETY: found in the index within the turn.
        let object = unsafe { Object::at(&self.region, at) };
        object.tenant() == tenant && object.key() == key
    }

    /// Has the processor fetch the index line of a key that will be looked for soon.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Has the processor fetch the beginning of the object of a key that will be looked for soon, if one may be it. Returns where that was seen.
    #[inline]
    pub fn prefetch_object(&self, hash: u64) -> Sighting {
        let (sighting, at) = self.index.see(hash);
        if let Some(at) = at {
            (0..LINES_AHEAD).for_each(|line| self.region.prefetch(at.byte() + line * 64));
        }
        sighting
    }

    /// Calls `visit` for each published object of the next `buckets` buckets of the index, from where `cursor` stands; false
    /// at the end.
    pub fn visit<'t>(
        &'t self,
        _turn: &'t Turn<'_>,
        cursor: &mut Cursor,
        buckets: usize,
        mut visit: impl FnMut(Object<'t>),
    ) -> bool {
        // SAFETY: found in the index within the turn (INV-GRACE).
        self.index.visit(cursor, buckets, |at| visit(unsafe { Object::at(&self.region, at) }))
    }

    /// Buckets of the index.
    pub fn index_buckets(&self) -> usize {
        self.index.buckets()
    }

    /// Locks a key (by its hash) against other writers. A thread holds one such lock at a time.
    pub fn lock(&self, hash: u64) -> KeyLock<'_> {
        self.index.lock(hash)
    }

    /// Appends an object without publishing it. It must be published or [abandoned](LogMemory::abandon).
    pub fn append(&self, writer: &mut Writer, hash: u64, object: &NewObject<'_>) -> Result<Location, NoSpace> {
        writer.append(&self.segments, &self.region, self.shape.fragment_bytes_max(), hash, object)
    }

    /// Appends an object whose value is that of `old` and more behind it, without publishing it. Pieces of a large value stay where they are
    /// and belong to both: it has to be published in the place of `old`, which is what is published for its key, under the same lock.
    pub fn extend(
        &self,
        writer: &mut Writer,
        lock: &KeyLock<'_>,
        object: &NewObject<'_>,
        old: Object<'_>,
    ) -> Result<Location, NoSpace> {
        let fragment_max = self.shape.fragment_bytes_max();
        let mut kept: Vec<_> = if old.kind() == Kind::Head { old.fragments().collect() } else { Vec::new() };
        let last_max = LAST_BYTES.max(old.value_bytes() / LAST_PART).min(fragment_max / 2);
        kept.pop_if(|last| last.len < last_max);
        let is_large = !kept.is_empty() || old.value_bytes() >= GROWN_BYTES_MIN;
        // of a table that has become long, a copy makes a short one
        if is_large && object.head_bytes(kept.len()) < fragment_max / 2 {
            return writer.append_in_pieces(&self.segments, &self.region, fragment_max, lock.hash(), object, kept);
        }
        self.append(writer, lock.hash(), object)
    }

    /// The object that was just appended at `at`.
    pub fn appended<'t>(&'t self, _turn: &'t Turn<'_>, at: Location) -> Object<'t> {
        // SAFETY: the location comes from `append`; its segment is not reused within the turn.
        unsafe { Object::at(&self.region, at) }
    }

    /// Counts an appended object that was never published as dead.
    pub fn abandon(&self, turn: &Turn<'_>, at: Location) {
        self.discharge_object(self.appended(turn, at));
    }

    /// Publishes an appended object in place of `old`, which is what is published for its key.
    pub fn publish(&self, _turn: &Turn<'_>, lock: &KeyLock<'_>, at: Location, old: Option<Object<'_>>) {
        let published = self.index.publish(lock, at, old.map(|old| old.location()), |at| self.hash_at(at));
        if let Some(old) = old.filter(|_| published.replaced) {
            // SAFETY: the caller has appended it.
            self.discharge_replaced(old, unsafe { Object::at(&self.region, at) });
        }
        self.discharge_victim(published.evicted);
    }

    /// Hides an object. False if it was not published any more.
    pub fn hide(&self, lock: &KeyLock<'_>, object: Object<'_>) -> bool {
        let hidden = self.index.hide(lock, object.location());
        if hidden {
            self.discharge_object(object);
        }
        hidden
    }

    fn discharge_object(&self, object: Object<'_>) {
        if object.kind() == Kind::Head {
            discharge_all(&self.segments, object.fragments());
        }
        self.discharge_entry(object);
    }

    /// Discharges what `new` has taken the place of, but for the pieces that are `new`'s as well.
    fn discharge_replaced(&self, old: Object<'_>, new: Object<'_>) {
        if old.kind() != Kind::Head || new.kind() != Kind::Head {
            return self.discharge_object(old);
        }
        let both = old.fragments().zip(new.fragments()).take_while(|(old, new)| old == new).count();
        discharge_all(&self.segments, old.fragments().skip(both));
        self.discharge_entry(old);
    }

    fn discharge_entry(&self, object: Object<'_>) {
        object.leave_behind();
        discharge(&self.segments, object.location().byte(), object.log_bytes());
    }

    pub(crate) fn discharge_victim(&self, victim: Option<Location>) {
        let Some(at) = victim else { return };
        // SAFETY: it was in the index a moment ago, within the caller's turn.
        let object = unsafe { Object::at(&self.region, at) };
        self.victims.lock().push((object.tenant(), object.charged_bytes()));
        self.discharge_object(object);
    }

    /// Takes the list of objects (tenant, bytes) that lost their index slot to others since the last call.
    pub fn take_victims(&self) -> Vec<(u16, usize)> {
        std::mem::take(&mut *self.victims.lock())
    }

    /// Whether segments are on their way to being free: once readers of earlier moments are done, or what is being sent from them is sent.
    pub fn has_retired(&self) -> bool {
        self.segments.has_retired()
    }

    /// Published objects.
    pub fn objects(&self) -> usize {
        self.index.entries()
    }

    /// Bytes of the index.
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Whether entries are on their way to a larger index.
    pub fn index_grows(&self) -> bool {
        self.index.is_growing()
    }

    /// Whether the index should grow, and by how many bytes.
    pub fn wanted_index_growth(&self) -> Option<usize> {
        self.index.wants_to_grow().then(|| self.index.growth_bytes())
    }

    /// Whether whoever stores should lend a hand with the index: it grows, or is nearly full and does not yet. Were that left to one
    /// thread, and it late, objects would lose their slots to each other.
    #[inline]
    pub fn index_wants_help(&self) -> bool {
        self.index.wants_help()
    }

    /// Begins to grow the index, if it wants to and nobody else is at it; [`LogMemory::grow_index_step`] does the work.
    ///
    /// # Errors
    /// The system refuses the mapping: all stays as it is.
    pub fn grow_index(&self) -> io::Result<()> {
        if let Some(_growing) = self.growing.try_lock()
            && self.index.wants_to_grow()
        {
            self.index.grow()?;
            self.grown_at.store(self.grace.retire(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether memory that was never used should be made resident before writers come to it: see [`LogMemory::populate_step`].
    #[inline]
    pub fn wants_pages(&self) -> bool {
        let wanted = match self.segments.opened_to() {
            0 => 0, // nothing was stored yet
            opened => (opened + RESIDENT_AHEAD).min(self.region.len()),
        };
        self.resident_to.load(Ordering::Relaxed) < wanted
    }

    /// Makes the next huge page behind what is in use resident, so that the first to write there does not wait for it to be cleared. One
    /// thread calls it. What a larger [allowance](LogMemory::allow_segments) brings back later comes page by page, as it is touched.
    pub fn populate_step(&self) {
        if self.wants_pages() {
            let from = self.resident_to.load(Ordering::Relaxed).max(self.segments.opened_to());
            let to = (from / POPULATED_A_STEP + 1) * POPULATED_A_STEP;
            let done = self.region.populate(from, to - from);
            self.resident_to.store(if done { to } else { usize::MAX }, Ordering::Relaxed);
        }
    }

    /// Segments that are free or will be after their grace period.
    pub fn segments_free(&self) -> usize {
        self.segments.free()
    }

    /// Segments that may be in use or free.
    pub fn segments_allowed(&self) -> usize {
        self.segments.allowed()
    }

    /// Changes how many segments may be used; those beyond are given back to the system as they come free.
    pub fn allow_segments(&self, count: usize) {
        self.segments.allow(count, &self.region);
    }

    /// The sizes it was made with.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}
