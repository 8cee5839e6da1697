//! What is known of a key by the longest prefix of it that something is known of, as whose it is: looked up with every request.
//!
//! By first byte, then by length, the longest first: of tenants whose prefixes are nothing alike only one length is tried.

use rustc_hash::FxHashMap;

/// Prefixes of one length and first byte, and what is known of them.
type OfLength<T> = (usize, FxHashMap<Vec<u8>, T>);

/// Prefixes, none of them empty, and what is known of them.
#[derive(Clone)]
pub(crate) struct Prefixes<T> {
    /// A place for each first byte; none while there are no prefixes.
    by_first: Vec<Vec<OfLength<T>>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Prefixes<T> {
        Prefixes { by_first: Vec::new() }
    }
}

impl<T: Copy> Prefixes<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// Has this known of a prefix.
    pub(crate) fn insert(&mut self, prefix: &[u8], known: T) {
        self.by_first.resize_with(usize::from(u8::MAX) + 1, Vec::new);
        let lengths = &mut self.by_first[usize::from(prefix[0])];
        let at = lengths.partition_point(|(len, _)| *len > prefix.len());
        if lengths.get(at).is_none_or(|(len, _)| *len != prefix.len()) {
            lengths.insert(at, (prefix.len(), FxHashMap::default()));
        }
        lengths[at].1.insert(prefix.to_vec(), known);
    }

    /// What is known of a key.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<T> {
        let lengths = self.by_first.get(usize::from(*key.first()?))?;
        lengths.iter().find_map(|(len, names)| names.get(key.get(..*len)?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_longest_prefix_of_a_key_says_whose_it_is() {
        let mut dice = SmallRng::seed_from_u64(3);
        // of two letters, so that prefixes share beginnings, and one is often another's
        let mut word = |most: usize| -> Vec<u8> {
            let len = dice.random_range(1..=most);
            (0..len).map(|_| b"ab"[dice.random_range(0..2)]).collect()
        };
        for tenants in 0..40 {
            let known: Vec<Vec<u8>> = (0..tenants).map(|_| word(7)).collect();
            let mut prefixes = Prefixes::default();
            known.iter().zip(0u16..).for_each(|(prefix, tenant)| prefixes.insert(prefix, tenant));
            assert_eq!(prefixes.is_empty(), tenants == 0);
            for _ in 0..100 {
                let key = word(10);
                let longest = known.iter().filter(|prefix| key.starts_with(prefix)).max_by_key(|prefix| prefix.len());
                // one that was given again is the last one's
                let owner = longest.and_then(|longest| known.iter().rposition(|prefix| prefix == longest));
                assert_eq!(prefixes.find(&key).map(usize::from), owner, "{key:?} of {known:?}");
            }
            assert_eq!(prefixes.find(b""), None);
        }
    }
}
