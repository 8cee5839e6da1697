//! Looking through everything in DRAM, in bounded pieces, while the cache serves.

use std::collections::BTreeMap;

use log_memory::{Cursor, Object};

use crate::Cache;

/// Buckets that one piece of a listing looks at.
const BUCKETS_A_PIECE: usize = 128;
/// Buckets that a sample looks at.
const BUCKETS_SAMPLED: usize = 8192;
/// Width of the classes of the size histogram, as in memcached.
const SIZE_CLASS_BYTES: usize = 32;

/// A key in DRAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Box<[u8]>,
    /// Absolute second of expiry; 0 for never.
    pub expiry: u32,
    /// Seconds since it was used.
    pub idle_secs: u32,
    /// Its CAS unique.
    pub unique: u64,
    /// Whether it was read since it was stored.
    pub was_read: bool,
    /// Bytes of its value.
    pub value_bytes: usize,
    /// Bytes that it takes in the log.
    pub bytes: usize,
    /// The client's opaque 32 bits.
    pub client_flags: u32,
}

/// A walk over the keys in DRAM: what is there all the while is listed once (twice, if the index grows meanwhile).
#[derive(Debug)]
pub struct Listing {
    tenant: Option<u16>,
    cursor: Cursor,
    over: bool,
}

impl Cache {
    /// Begins a listing of a tenant's keys, or of all.
    pub fn list_keys(&self, tenant: Option<u16>) -> Listing {
        Listing { tenant, cursor: Cursor::default(), over: false }
    }

    /// Objects by size, in classes of 32 bytes (the class's upper end, how many): counted in a sample, scaled to all.
    pub fn size_histogram(&self) -> BTreeMap<usize, u64> {
        let mut classes = BTreeMap::new();
        self.sample(|object| {
            *classes.entry(object.charged_bytes().next_multiple_of(SIZE_CLASS_BYTES)).or_default() += 1;
        });
        let scale = self.memory.index_buckets().div_ceil(BUCKETS_SAMPLED).max(1) as u64;
        classes.values_mut().for_each(|count| *count *= scale);
        classes
    }

    /// Seconds since the longest unused object of a sample was used.
    pub fn oldest_secs(&self) -> u64 {
        let mut oldest = 0;
        self.sample(|object| oldest = oldest.max(self.clock.secs_since(object.access().last)));
        u64::from(oldest)
    }

    fn sample(&self, visit: impl FnMut(Object<'_>)) {
        let participant = self.memory.join();
        let turn = participant.enter();
        self.memory.visit(&turn, &mut Cursor::default(), BUCKETS_SAMPLED, visit);
    }
}

impl Listing {
    /// The next keys; none at the end.
    pub fn next(&mut self, cache: &Cache) -> Vec<Listed> {
        let mut found = Vec::new();
        let participant = cache.memory.join();
        while found.is_empty() && !self.over {
            let turn = participant.enter();
            self.over = !cache.memory.visit(&turn, &mut self.cursor, BUCKETS_A_PIECE, |object| {
                let wanted = self.tenant.is_none_or(|tenant| tenant == object.tenant());
                if wanted && cache.is_dead(object.tenant(), object.version(), object.expiry()).is_none() {
                    found.push(Listed {
                        key: object.key().into(),
                        expiry: object.expiry(),
                        idle_secs: cache.clock.secs_since(object.access().last),
                        unique: object.unique(),
                        was_read: object.access().reads > 0,
                        value_bytes: object.value_bytes(),
                        bytes: object.charged_bytes(),
                        client_flags: object.client_flags(),
                    });
                }
            });
        }
        found
    }
}
