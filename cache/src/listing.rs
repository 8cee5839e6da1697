//! Looking through everything in DRAM, in bounded pieces, while the cache serves.

use std::collections::BTreeMap;

use log_memory::{Cursor, Object};

use crate::Cache;

/// Buckets that one piece of a listing looks at.
const BUCKETS_A_PIECE: usize = 128;
/// Objects that a sample needs: more say no more.
const OBJECTS_SAMPLED: usize = 20_000;
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
    /// Whether a connection reaches this tenant's keys: its own tenant's; None: those of all tenants that are told by their keys.
    pub(crate) fn reaches(&self, connection: Option<u16>, owner: u16) -> bool {
        match connection {
            Some(tenant) => tenant == owner,
            None => self.registry.tenant(owner).recognised.is_by_key(),
        }
    }

    /// The tenants whose keys a connection reaches.
    pub(crate) fn reach(&self, connection: Option<u16>) -> Vec<u16> {
        let all = self.registry.all().map(|tenant| tenant.id);
        all.filter(|owner| self.reaches(connection, *owner)).collect()
    }

    /// Begins a listing of a tenant's keys; None: of those of all tenants that are told by their keys.
    pub fn list_keys(&self, tenant: Option<u16>) -> Listing {
        Listing { tenant, cursor: Cursor::default(), over: false }
    }

    /// Objects by size, in classes of 32 bytes (the class's upper end, how many): all if they are few, else scaled up from a
    /// sample.
    pub fn size_histogram(&self) -> BTreeMap<usize, u64> {
        let mut classes = BTreeMap::new();
        let share = self.sample(|object| {
            *classes.entry(object.charged_bytes().next_multiple_of(SIZE_CLASS_BYTES)).or_default() += 1;
        });
        classes.values_mut().for_each(|count| *count = (*count as f64 / share) as u64);
        classes
    }

    /// Seconds since the longest unused object of a sample was used.
    pub fn oldest_secs(&self) -> u64 {
        let mut oldest = 0;
        self.sample(|object| oldest = oldest.max(self.clock.secs_since(object.access().last)));
        u64::from(oldest)
    }

    /// Visits objects until they are many. Returns which share of the index that was.
    fn sample(&self, mut visit: impl FnMut(Object<'_>)) -> f64 {
        let participant = self.memory.join();
        let (mut cursor, mut seen, mut pieces) = (Cursor::default(), 0, 0);
        let all = self.memory.index_buckets().div_ceil(BUCKETS_A_PIECE).max(1);
        loop {
            let turn = participant.enter();
            let more = self.memory.visit(&turn, &mut cursor, BUCKETS_A_PIECE, |object| {
                seen += 1;
                visit(object);
            });
            pieces += 1;
            if !more || seen >= OBJECTS_SAMPLED {
                return if more { pieces as f64 / all as f64 } else { 1.0 };
            }
        }
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
                let wanted = cache.reaches(self.tenant, object.tenant());
                if wanted && cache.is_dead(object.tenant(), object.key(), object.version(), object.expiry()).is_none() {
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
