//! The one hash of a key: its tenant is hashed with it, so equal keys of two tenants are different keys (INV-OWN-KEY).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hashes keys with a seed that clients do not know.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    seed: u64,
}

impl KeyHasher {
    /// A hasher with this seed. A server draws it at start; a simulation fixes it.
    pub fn new(seed: u64) -> KeyHasher {
        KeyHasher { seed }
    }

    /// Hash of `key` in the name space of `tenant`.
    #[inline]
    pub fn hash(&self, tenant: u16, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed ^ u64::from(tenant).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A strong 64-bit mixer (the finaliser of SplitMix64): every input bit reaches every output bit.
#[inline]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
