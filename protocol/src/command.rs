//! What clients ask for, whatever dialect they speak.

/// The largest value length that a line may state, as in memcached.
pub const VALUE_BYTES_STATED_MAX: i64 = i32::MAX as i64 - 2;
/// Longest key.
pub const KEY_BYTES_MAX: usize = 250;

/// Whether the client waits for a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It does.
    Wanted,
    /// It sent `noreply`.
    Silent,
}

/// When a store is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreVerb {
    /// Always.
    Set,
    /// If the key is unknown.
    Add,
    /// If it is known.
    Replace,
    /// Behind the value that is there.
    Append,
    /// Before the value that is there.
    Prepend,
    /// If the value is still the one with this unique.
    Cas(u64),
}

/// A store's line; its value follows, in `bytes` bytes and a line end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store<'b> {
    /// When it is carried out.
    pub verb: StoreVerb,
    /// The key.
    pub key: &'b [u8],
    /// The client's opaque 32 bits.
    pub client_flags: u32,
    /// Expiry as the client states it.
    pub exptime: i64,
    /// Bytes of the value.
    pub bytes: usize,
    /// Whether the client waits.
    pub reply: Reply,
}

/// Keys of a get, checked one by one as they are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'b>(pub(crate) &'b [u8]);

impl<'b> Keys<'b> {
    /// The words of a line.
    pub fn of_line(line: &'b [u8]) -> Keys<'b> {
        Keys(line)
    }

    /// The words as they are, spaces and all.
    pub fn as_bytes(&self) -> &'b [u8] {
        self.0
    }

    /// The keys from byte `at` on.
    pub fn skip_bytes(mut self, at: usize) -> Self {
        self.0 = &self.0[at.min(self.0.len())..];
        self
    }

    /// Bytes of `self` that `rest`, taken from it, has left behind.
    pub fn bytes_before(&self, rest: &Self) -> usize {
        self.0.len() - rest.0.len()
    }
}

impl<'b> Iterator for Keys<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let from = self.0.iter().position(|byte| *byte != b' ')?;
        let rest = &self.0[from..];
        // keys are short: what a vector search takes to begin is longer than most of them. A control character does not end a key.
        let mut len = word_end(rest).unwrap_or(rest.len());
        if rest.get(len).is_some_and(|byte| *byte != b' ') {
            len += memchr::memchr(b' ', &rest[len..]).unwrap_or(rest.len() - len);
        }
        self.0 = &rest[len..];
        Some(&rest[..len])
    }
}

/// Where the first space or control character stands.
#[inline]
pub(crate) fn word_end(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::MAX / 255;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // the high bit of each byte below 0x21; a borrow can only mark bytes behind the first such one
        let low = word.wrapping_sub(EACH * 0x21) & !word & (EACH * 0x80);
        if low != 0 {
            return Some(at + low.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|byte| *byte <= b' ').map(|more| at + more)
}

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'b> {
    /// get, gets; with `touch` gat, gats.
    Get {
        /// What is asked for.
        keys: Keys<'b>,
        /// Whether uniques are wanted.
        with_cas: bool,
        /// New expiry for what is found.
        touch: Option<i64>,
    },
    /// set, add, replace, append, prepend, cas.
    Store(Store<'b>),
    /// mg, md, ma, me: the key, and its flags, which are read by [`crate::Meta::parse`].
    Meta(crate::MetaVerb, &'b [u8], Keys<'b>),
    /// ms: the key, bytes of the value that follows, and the flags.
    MetaStore(&'b [u8], usize, Keys<'b>),
    /// mn.
    MetaNoOp,
    /// A command of the operator's: its words, the verb first.
    Operator(Keys<'b>, Reply),
    /// incr, decr.
    Arithmetic {
        /// The key.
        key: &'b [u8],
        /// Up or down.
        up: bool,
        /// By how much.
        delta: u64,
        /// Whether the client waits.
        reply: Reply,
    },
    /// delete.
    Delete(&'b [u8], Reply),
    /// touch.
    Touch {
        /// The key.
        key: &'b [u8],
        /// New expiry as the client states it.
        exptime: i64,
        /// Whether the client waits.
        reply: Reply,
    },
    /// flush_all, after so many seconds.
    FlushAll(i64, Reply),
    /// version.
    Version,
    /// quit.
    Quit,
    /// stats with its arguments.
    Stats(&'b [u8]),
    /// No request: answer with this line (unless the client does not wait), and skip so many bytes behind the line.
    Refused {
        /// The error line, without its end.
        line: &'static str,
        /// Bytes to skip: the value that came with the refused line.
        skip: usize,
        /// Whether the client waits.
        reply: Reply,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_word_ends_at_its_first_space_or_control_character(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            assert_eq!(word_end(&bytes), bytes.iter().position(|byte| *byte <= b' '));
            let words: Vec<&[u8]> = bytes.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
            assert_eq!(Keys(&bytes).collect::<Vec<_>>(), words);
        }
    }
}
