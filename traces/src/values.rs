//! Self-verifying values: every byte follows from tenant, key, version and size, so whoever knows those can tell a right
//! answer from an old one and from a wrong one.
//!
//! A value begins with its version and a seed (16 bytes, as far as it is long); the rest is a stretch of fixed noise that the
//! seed picks.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const NOISE_BYTES: usize = 1 << 16;
const HEAD_BYTES: usize = 16;
/// Versions back to which a short value is recognised as old.
const OLD_VERSIONS: u64 = 16;

/// Identifies a key across tenants.
pub type KeyId = u64;

/// The identity of the key `TENANT:KEY` as it is sent.
pub fn key_id(wire_key: &[u8]) -> KeyId {
    xxh3_64(wire_key)
}

/// What a value that was read turns out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// What was stored last.
    Right,
    /// What was stored before that.
    Stale,
    /// Neither.
    Wrong,
}

/// The first bytes of a value, and where in the noise the others begin.
fn head_of(key: KeyId, version: u64, size: usize) -> ([u8; HEAD_BYTES], usize) {
    let seed = xxh3_64_with_seed(&key.to_le_bytes(), version ^ (size as u64) << 40);
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&seed.to_le_bytes());
    head[8..].copy_from_slice(&version.to_le_bytes());
    (head, seed as usize % NOISE_BYTES)
}

/// Makes and judges values.
pub struct Values {
    noise: Vec<u8>,
}

impl Default for Values {
    fn default() -> Values {
        let noise = (0..NOISE_BYTES as u64 / 8).flat_map(|n| xxh3_64(&n.to_le_bytes()).to_le_bytes()).collect();
        Values { noise }
    }
}

impl Values {
    /// Appends the value of a key's version to `out`.
    pub fn make(&self, key: KeyId, version: u64, size: usize, out: &mut Vec<u8>) {
        let (head, mut at) = head_of(key, version, size);
        out.extend_from_slice(&head[..size.min(HEAD_BYTES)]);
        let mut left = size.saturating_sub(HEAD_BYTES);
        while left > 0 {
            let len = left.min(NOISE_BYTES - at);
            out.extend_from_slice(&self.noise[at..at + len]);
            left -= len;
            at = 0;
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "an iterator is handed over")]
    /// Judges a value, given in pieces, that should be `version` of its key.
    pub fn judge<'a>(&self, key: KeyId, version: u64, pieces: impl Iterator<Item = &'a [u8]> + Clone) -> Verdict {
        let size = pieces.clone().map(<[u8]>::len).sum();
        if self.is_version(key, version, size, pieces.clone()) {
            return Verdict::Right;
        }
        let old = (version.saturating_sub(OLD_VERSIONS)..version).chain(self.stated_version(pieces.clone(), size));
        let is_old = |old: u64| old < version && self.is_version(key, old, size, pieces.clone());
        if old.into_iter().any(is_old) { Verdict::Stale } else { Verdict::Wrong }
    }

    /// Compares with what would be made, without making it.
    fn is_version<'a>(&self, key: KeyId, version: u64, size: usize, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        let (head, mut noise_at) = head_of(key, version, size);
        let mut head = &head[..size.min(HEAD_BYTES)];
        pieces.into_iter().all(|mut piece| {
            let (own, rest) = head.split_at(head.len().min(piece.len()));
            head = rest;
            let mut same = piece[..own.len()] == *own;
            piece = &piece[own.len()..];
            while same && !piece.is_empty() {
                let len = piece.len().min(NOISE_BYTES - noise_at);
                same = piece[..len] == self.noise[noise_at..noise_at + len];
                piece = &piece[len..];
                noise_at = (noise_at + len) % NOISE_BYTES;
            }
            same
        })
    }

    fn stated_version<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>, size: usize) -> Option<u64> {
        let head: Vec<u8> = pieces.flatten().take(16).copied().collect();
        (size >= 16).then(|| u64::from_le_bytes(head[8..16].try_into().expect("eight bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_stale_and_wrong_are_told_apart_at_every_size() {
        let values = Values::default();
        for size in [4, 10, 16, 17, 100, 70_000, 200_000] {
            let mut value = Vec::new();
            values.make(7, 100, size, &mut value);
            assert_eq!(value.len(), size);
            let (a, b) = value.split_at(size / 3);
            let judge = |key, version| values.judge(key, version, [a, b].into_iter());
            assert_eq!(judge(7, 100), Verdict::Right);
            assert_eq!(judge(7, 101), Verdict::Stale);
            assert_eq!(judge(8, 100), Verdict::Wrong);
            assert_eq!(judge(7, 99), Verdict::Wrong, "from the future");
            if size >= 16 {
                assert_eq!(judge(7, 5_000), Verdict::Stale, "however old");
            }
            *value.last_mut().unwrap() ^= 1;
            assert_eq!(values.judge(7, 100, [&value[..]].into_iter()), Verdict::Wrong);
        }
    }
}
