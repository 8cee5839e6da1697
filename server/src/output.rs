//! Bytes on their way out: what is under way stays at its place in memory while more is put behind it.
//!
//! Most of it is spelled into a buffer. Large values are *lent*: they are sent from where the cache has them, and pinned there until they are
//! gone.

use std::cell::RefCell;
use std::io::IoSlice;

use cache::Pinned;

/// Capacity beyond which an empty buffer is not the connection's any longer.
const KEPT_BYTES: usize = 24 << 10;
/// Bytes of such buffers that a worker keeps for whoever has much to say next: memory from the kernel costs more than what is spelled into it.
const SPARE_BYTES_MAX: usize = 4 << 20;
/// Most slices that are sent together.
pub(crate) const SLICES_MAX: usize = 16;

/// Buffers that are nobody's, and their bytes.
#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spare {
    fn keep(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= SPARE_BYTES_MAX {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }
}

thread_local! {
    /// The worker's own.
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// Spelled bytes, with lent ones in between.
#[derive(Default)]
struct Stretch {
    spelled: Vec<u8>,
    /// What is lent, with the place in `spelled` that it goes before.
    lent: Vec<(usize, Pinned)>,
    lent_bytes: usize,
}

impl Stretch {
    fn len(&self) -> usize {
        self.spelled.len() + self.lent_bytes
    }

    fn clear(&mut self) {
        self.spelled.clear();
        self.lent.clear();
        self.lent_bytes = 0;
        if self.spelled.capacity() > KEPT_BYTES {
            SPARE.with_borrow_mut(|spare| spare.keep(std::mem::take(&mut self.spelled)));
        }
    }

    /// All of it in order, in slices, behind the first `skipped` bytes.
    fn slices(&self, mut skipped: usize) -> impl Iterator<Item = &[u8]> {
        let ends = self.lent.iter().map(|(at, _)| *at).chain([self.spelled.len()]);
        let lent = self.lent.iter().map(|(_, bytes)| &bytes[..]).chain([&[][..]]);
        let mut from = 0;
        let both =
            ends.zip(lent).flat_map(move |(end, lent)| [&self.spelled[std::mem::replace(&mut from, end)..end], lent]);
        both.filter_map(move |slice| {
            let skip = skipped.min(slice.len());
            skipped -= skip;
            Some(&slice[skip..]).filter(|rest| !rest.is_empty())
        })
    }
}

#[derive(Default)]
pub(crate) struct Output {
    /// Behind what is under way.
    ready: Stretch,
    /// Under way: unchanged until all of it is sent.
    leaving: Stretch,
    /// Bytes of it that are sent.
    sent: usize,
}

impl Output {
    /// Where more is spelled.
    #[inline]
    pub(crate) fn ready(&mut self) -> &mut Vec<u8> {
        if self.ready.spelled.capacity() == 0 {
            self.begin_anew();
        }
        &mut self.ready.spelled
    }

    #[cold]
    fn begin_anew(&mut self) {
        self.ready.spelled = SPARE.with_borrow_mut(Spare::take);
    }

    /// Puts a value behind what is spelled, without a copy.
    pub(crate) fn lend(&mut self, pieces: Vec<Pinned>) {
        let at = self.ready.spelled.len();
        self.ready.lent_bytes += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        self.ready.lent.extend(pieces.into_iter().map(|piece| (at, piece)));
    }

    /// Forgets what has not begun to leave.
    pub(crate) fn forget(&mut self) {
        self.ready.clear();
    }

    /// Whether there is anything that has not even begun to leave.
    pub(crate) fn has_more(&self) -> bool {
        self.ready.len() > 0
    }

    fn begin(&mut self) {
        if self.leaving.len() == 0 {
            std::mem::swap(&mut self.leaving, &mut self.ready);
        }
    }

    /// Bytes to send now. They stay where they are, unchanged, until [`Output::note_sent`] was told of all of them.
    pub(crate) fn leaving(&mut self) -> &[u8] {
        self.begin();
        if self.leaving.lent.is_empty() {
            return &self.leaving.spelled[self.sent..];
        }
        self.leaving.slices(self.sent).next().unwrap_or_default()
    }

    /// The same, with what comes behind it, in up to [`SLICES_MAX`] slices; returns how many there are.
    pub(crate) fn leaving_slices<'o>(&'o mut self, slices: &mut [IoSlice<'o>; SLICES_MAX]) -> usize {
        self.begin();
        self.leaving.slices(self.sent).zip(slices).map(|(bytes, slice)| *slice = IoSlice::new(bytes)).count()
    }

    /// Whether what leaves comes in more than one slice.
    pub(crate) fn is_sliced(&mut self) -> bool {
        self.begin();
        !self.leaving.lent.is_empty()
    }

    /// Bytes that are not sent yet.
    pub(crate) fn unsent(&self) -> usize {
        self.ready.len() + self.leaving.len() - self.sent
    }

    /// Bytes of memory that are spelled into, until all that leaves is sent.
    #[inline]
    pub(crate) fn owned(&self) -> usize {
        self.ready.spelled.len() + self.leaving.spelled.len()
    }

    /// Bytes that are the cache's, until all that leaves is sent.
    #[inline]
    pub(crate) fn lent(&self) -> usize {
        self.ready.lent_bytes + self.leaving.lent_bytes
    }

    /// So many of the bytes that are leaving were sent.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.leaving.len() {
            self.sent = 0;
            self.leaving.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_leaving_stays_where_it_is() {
        let mut output = Output::default();
        output.ready().extend_from_slice(b"first");
        let at = output.leaving().as_ptr();
        output.ready().extend_from_slice(&[b'x'; 10_000]);
        assert_eq!(output.leaving().as_ptr(), at);
        assert_eq!(output.leaving(), b"first");
        output.note_sent(2);
        assert_eq!(output.unsent(), 10_003);
        assert_eq!(output.leaving(), b"rst");
        output.note_sent(3);
        assert_eq!(output.leaving().len(), 10_000);
        assert!(!output.has_more());
    }

    #[test]
    fn large_buffers_go_from_one_connection_to_the_next() {
        let mut first = Output::default();
        first.ready().resize(3 * KEPT_BYTES, b'x');
        let at = first.leaving().as_ptr();
        first.note_sent(3 * KEPT_BYTES);
        assert_eq!(
            first.leaving.spelled.capacity() + first.ready.spelled.capacity(),
            0,
            "an idle connection holds nothing"
        );
        let mut second = Output::default();
        second.ready().push(b'y');
        assert_eq!(second.leaving().as_ptr(), at);
        // and no more of them are kept than so many bytes
        let mut many: Vec<Output> = (0..64).map(|_| Output::default()).collect();
        for output in &mut many {
            output.ready().resize(2 * KEPT_BYTES, b'x');
            output.begin();
        }
        many.iter_mut().for_each(|output| output.note_sent(2 * KEPT_BYTES));
        let (bytes, count) = SPARE.with_borrow(|spare| (spare.bytes, spare.buffers.len()));
        assert!(
            bytes <= SPARE_BYTES_MAX && count >= SPARE_BYTES_MAX / (4 * KEPT_BYTES),
            "{count} buffers, {bytes} bytes"
        );
    }

    #[test]
    fn lent_values_leave_between_what_is_spelled() {
        let cache = cache::Cache::new(cache::CacheSettings::for_memory(32 << 20)).unwrap();
        let mut worker = cache.worker();
        let mut turn = cache.turn(&mut worker);
        let value = vec![b'v'; 100_000]; // in several pieces
        let storing = cache::Storing::new(cache::Mode::Set, b"key", &value);
        assert!(matches!(turn.store(0, &storing), Ok(cache::Stored::Yes(_))));
        let cache::Lookup::Hit(object) = turn.get(0, b"key") else { panic!("it was stored") };
        let mut output = Output::default();
        output.ready().extend_from_slice(b"before ");
        output.lend(cache.pin(&object).expect("nothing is pinned"));
        output.ready().extend_from_slice(b" behind");
        let whole = [b"before ", value.as_slice(), b" behind"].concat();
        assert_eq!(output.unsent(), whole.len());
        let mut sent = Vec::new();
        for step in [3usize, 4, 1, 60_000, 39_999, 1] {
            // what is sent may end anywhere
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = output.leaving_slices(&mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(all, whole[sent.len()..]);
            let first = output.leaving().to_vec();
            assert!(all.starts_with(&first) && !first.is_empty());
            sent.extend_from_slice(&all[..step]);
            output.note_sent(step);
        }
        assert!(output.is_sliced());
        assert_eq!(output.leaving(), &whole[sent.len()..]);
        output.note_sent(whole.len() - sent.len());
        assert!(output.unsent() == 0 && !output.is_sliced());
    }
}
