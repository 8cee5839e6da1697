//! What the rest of a trace holds: the knowledge of [`cache::Admission::Oracle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use cache::Foresight;

use super::Simulate;
use crate::event::{Event, Kind, wire_key};
use crate::format::{Reader, is_read_once};
use crate::values::key_id;
use cache::IdMap;

/// Requests within which the next one has to come: what is asked for later has left flash by then.
const HORIZON: u32 = 1_000_000;

/// Requests for each key: number times two, plus one if it reads. 4 bytes a request.
pub(super) struct Future {
    requests: IdMap<Vec<u32>>,
    now: AtomicU32,
}

impl Future {
    /// Reads the trace once.
    pub(super) fn read(simulate: &Simulate) -> Result<Future> {
        if is_read_once(&simulate.trace) {
            bail!("--admission oracle reads the trace twice: keep it in a file");
        }
        let mut reader = Reader::with(&simulate.trace, &simulate.reading).context("looking ahead for the oracle")?;
        let mut requests: IdMap<Vec<u32>> = IdMap::default();
        let (mut event, mut key, mut number) = (Event::default(), Vec::new(), 0u32);
        // what is cut off or bad is told by the run itself
        while let Ok(true) = reader.read(&mut event) {
            wire_key(&reader.tenants()[event.tenant as usize], &event, &mut key);
            requests.entry(key_id(&key)).or_default().push(number << 1 | u32::from(event.op.kind() == Kind::Get));
            number += 1;
        }
        Ok(Future { requests, now: AtomicU32::new(0) })
    }

    /// So many requests have been served.
    pub(super) fn at(&self, requests: u64) {
        self.now.store(requests as u32, Ordering::Relaxed);
    }

    /// Whether the next request for the key reads, and comes in time.
    fn is_read_next(&self, key: &[u8]) -> bool {
        let now = self.now.load(Ordering::Relaxed);
        let Some(own) = self.requests.get(&key_id(key)) else { return false };
        let next = own.get(own.partition_point(|request| request >> 1 <= now));
        next.is_some_and(|request| request & 1 == 1 && (request >> 1) - now <= HORIZON)
    }

    /// The same for a cache.
    pub(super) fn foresight(self: &Arc<Future>) -> Foresight {
        let future = Arc::clone(self);
        Box::new(move |key| future.is_read_next(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_request_decides() {
        let mut requests = IdMap::default();
        requests.insert(key_id(b"a"), vec![1, 5 << 1, 9 << 1 | 1, 2_000_000 << 1 | 1]);
        let future = Future { requests, now: AtomicU32::new(0) };
        let at = |now| {
            future.at(now);
            future.is_read_next(b"a")
        };
        assert_eq!([0, 4, 5, 8, 9, 1_000_000, 2_000_000].map(at), [false, false, true, true, false, true, false]);
        assert!(!future.is_read_next(b"b"));
    }
}
