//! Appending: a writer owns one open segment, so appending needs no lock and no atomic read-modify-write. All bytes of an open segment count
//! as live, also those that nothing lies in yet, which are taken back when it is sealed.

use std::sync::atomic::Ordering;

use crate::location::Location;
use crate::object::{self, Fragment, HEADER_BYTES, NewObject};
use crate::region::Region;
use crate::segment::{SegmentId, Segments};

/// No free segment is left for the writer: the cleaner is behind. Nothing was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSpace;

/// One thread's place to append.
pub struct Writer {
    open: Option<Open>,
    /// Free segments that this writer leaves to others (the cleaner leaves none).
    spare: usize,
    /// By tenant: where in the open segment's shares its own is, if that is whose it says.
    share_at: Vec<u16>,
}

struct Open {
    id: SegmentId,
    used: usize,
    /// Each tenant's bytes. At most as many as there are tenants, whose numbers have 16 bits.
    shares: Vec<(u16, u32)>,
}

/// A reserved range of the writer's open segment.
pub(crate) struct Reserved {
    pub(crate) at: usize,
    len: usize,
}

impl Writer {
    pub(crate) fn new(spare: usize) -> Writer {
        Writer { open: None, spare, share_at: Vec::new() }
    }

    /// Appends an object, cut into fragments if it is above `fragment_max` bytes. It is not published yet.
    pub(crate) fn append(
        &mut self,
        segments: &Segments,
        region: &Region,
        fragment_max: usize,
        hash: u64,
        object: &NewObject<'_>,
    ) -> Result<Location, NoSpace> {
        let len = object.whole_bytes();
        if len <= fragment_max {
            let at = self.reserve(segments, region, object.tenant, len, len)?.at;
            let at = Location::from_byte(at);
            // SAFETY: just reserved for this object in this writer's open segment.
            unsafe { object::write_whole(region, at, object) };
            return Ok(at);
        }
        self.append_in_pieces(segments, region, fragment_max, hash, object, Vec::new())
    }

    /// Appends an object whose value begins with these fragments, which are in the log already; what is behind them is cut into others.
    pub(crate) fn append_in_pieces(
        &mut self,
        segments: &Segments,
        region: &Region,
        fragment_max: usize,
        hash: u64,
        object: &NewObject<'_>,
        mut fragments: Vec<Fragment>,
    ) -> Result<Location, NoSpace> {
        let kept = fragments.len();
        let mut done = value_bytes(&fragments);
        let missing = object.value_bytes() - done;
        self.reserve_fragments(segments, region, fragment_max, (object.tenant, hash), missing, &mut fragments)?;
        for fragment in &fragments[kept..] {
            let mut at = fragment.piece_at();
            for piece in cut(object.value, done, fragment.len) {
                // SAFETY: just reserved for this fragment in this writer's open segment.
                unsafe { region.write(at, piece) };
                at += piece.len();
            }
            done += fragment.len;
        }
        let head = self.append_head(segments, region, object, &fragments);
        if head.is_err() {
            discharge_all(segments, fragments.drain(kept..));
        }
        head
    }

    /// Appends the head of an object whose fragments are in the log.
    pub(crate) fn append_head(
        &mut self,
        segments: &Segments,
        region: &Region,
        object: &NewObject<'_>,
        fragments: &[Fragment],
    ) -> Result<Location, NoSpace> {
        let len = object.head_bytes(fragments.len());
        let at = Location::from_byte(self.reserve(segments, region, object.tenant, len, len)?.at);
        // SAFETY: just reserved for this head in this writer's open segment.
        unsafe { object::write_head(region, at, object, fragments) };
        Ok(at)
    }

    /// Makes room for `total` bytes of a value of `owner` (tenant, hash of the key), behind the fragments that it has: more of them, which have
    /// their headers, and nothing behind them yet. Each is of at most `fragment_max` bytes; smaller where that fills up a segment.
    pub(crate) fn reserve_fragments(
        &mut self,
        segments: &Segments,
        region: &Region,
        fragment_max: usize,
        owner: (u16, u64),
        total: usize,
        fragments: &mut Vec<Fragment>,
    ) -> Result<(), NoSpace> {
        let before = fragments.len();
        fragments.reserve(total / fragment_max + 2);
        let mut done = 0;
        while done < total {
            let rest = (total - done).min(fragment_max - HEADER_BYTES);
            let least = rest.min(fragment_max / 8);
            let full = HEADER_BYTES + rest.next_multiple_of(8);
            let Ok(reserved) = self.reserve(segments, region, owner.0, HEADER_BYTES + least.next_multiple_of(8), full)
            else {
                discharge_all(segments, fragments.drain(before..));
                return Err(NoSpace);
            };
            let fragment =
                Fragment { at: Location::from_byte(reserved.at), len: (reserved.len - HEADER_BYTES).min(rest) };
            object::write_fragment_header(region, fragment.at, owner.1, fragments.len(), fragment.len);
            fragments.push(fragment);
            done += fragment.len;
        }
        Ok(())
    }

    /// Takes between `least` and `most` bytes, as much as the open segment has, or opens another.
    pub(crate) fn reserve(
        &mut self,
        segments: &Segments,
        region: &Region,
        tenant: u16,
        least: usize,
        most: usize,
    ) -> Result<Reserved, NoSpace> {
        debug_assert!(least <= most && most <= segments.segment_bytes);
        if self.open.as_ref().is_none_or(|open| open.used + least > segments.segment_bytes) {
            let id = segments.open(self.spare, region).ok_or(NoSpace)?;
            self.seal(segments);
            self.open = Some(Open { id, used: 0, shares: Vec::new() });
        }
        let open = self.open.as_mut().expect("opened above");
        let len = most.min(segments.segment_bytes - open.used) & !7;
        let reserved = Reserved { at: segments.start(open.id) + open.used, len };
        open.used += len;
        // where the next entry will lie: no cache has these lines, and whoever writes them would soon wait for that at a lock
        region.prefetch_range(reserved.at + len, len);
        open.charge(&mut self.share_at, tenant, len as u32);
        Ok(reserved)
    }

    /// Seals the open segment, if there is one: the cleaner may choose it from now on.
    pub(crate) fn seal(&mut self, segments: &Segments) {
        if let Some(open) = self.open.take() {
            segments.seal(open.id, open.used, open.shares.into_boxed_slice());
        }
    }
}

impl Open {
    fn charge(&mut self, share_at: &mut Vec<u16>, tenant: u16, len: u32) {
        let number = usize::from(tenant);
        if number >= share_at.len() {
            share_at.resize(number + 1, 0);
        }
        match self.shares.get_mut(usize::from(share_at[number])) {
            Some(share) if share.0 == tenant => share.1 += len,
            _ => {
                share_at[number] = self.shares.len() as u16;
                self.shares.push((tenant, len));
            }
        }
    }
}

/// Counts `len` bytes at `at` as dead.
pub(crate) fn discharge(segments: &Segments, at: usize, len: usize) {
    let before = segments.meta(segments.of_byte(at)).live.fetch_sub(len as u32, Ordering::Release);
    debug_assert!(before >= len as u32, "more bytes die in a segment than were written");
}

/// Bytes of the value that these fragments are.
pub(crate) fn value_bytes(fragments: &[Fragment]) -> usize {
    fragments.iter().map(|fragment| fragment.len).sum()
}

/// Counts fragments as dead.
pub(crate) fn discharge_all(segments: &Segments, fragments: impl IntoIterator<Item = Fragment>) {
    fragments.into_iter().for_each(|fragment| discharge(segments, fragment.at.byte(), fragment.log_bytes()));
}

/// `len` bytes at `from` of the pieces' concatenation.
fn cut<'a>(pieces: &[&'a [u8]], from: usize, len: usize) -> Vec<&'a [u8]> {
    let (mut skip, mut left, mut out) = (from, len, Vec::new());
    for piece in pieces {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        let piece = &piece[skipped..];
        let taken = left.min(piece.len());
        if taken > 0 {
            out.push(&piece[..taken]);
        }
        left -= taken;
    }
    debug_assert_eq!(left, 0);
    out
}
