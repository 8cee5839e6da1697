//! The engine itself, driven by a trace in virtual time, in one thread, its flash in memory.

use std::collections::VecDeque;

use anyhow::Result;
use cache::{
    Background, Cache, Completed, Count, Device, Expected, FlashRead, IdMap, Lookup, Mode, Needs, Page, Stored,
    Storing, Worker,
};

use crate::event::{Event, Kind, wire_key};
use crate::figures::{Figures, Moment, Report};
use crate::values::{KeyId, Values, Verdict, key_id};

/// Requests whose first cache misses overlap.
pub(super) const REQUESTS_AHEAD: usize = 16;
/// Requests between looks at the background work.
const REQUESTS_A_STEP: u64 = 512;
/// Of the keys whose values are not all checked, those are whose hash has these bits clear: one in sixteen.
const VERIFIED_MASK: u64 = 15;
/// Requests between trainings.
const REQUESTS_A_TRAINING: u64 = 4_000;

pub(super) struct Simulation<'c> {
    cache: &'c Cache,
    device: &'c dyn Device,
    worker: Worker,
    background: Background,
    values: Values,
    versions: IdMap<u64>,
    value: Vec<u8>,
    /// What is read from flash.
    pages: Vec<Page>,
    pub(super) requests: u64,
    /// Trace time at which it began.
    first: Option<f64>,
    last: f64,
    requests_of: Vec<u64>,
    wrong: u64,
    stale: u64,
    refused: u64,
    /// A key whose hash has these bits clear has its values checked.
    verified_mask: u64,
    /// What other keys hold: as many bytes as are wanted of it.
    filler: Vec<u8>,
    /// Requests that are under way together: what they miss is filled behind the last of them.
    in_flight: u64,
    /// Trace seconds in one of the cache's.
    speed: f64,
    /// Fills that are under way, in the order in which they arrive.
    fills: VecDeque<Fill>,
    /// Keys that were there when they were last used, as far as those who ask know.
    there: IdMap<()>,
}

/// A request of the trace, as the cache is asked.
#[derive(Default)]
pub(super) struct Request {
    pub(super) event: Event,
    key: Vec<u8>,
    id: KeyId,
    tenant: u16,
}

/// A missed value on its way.
struct Fill {
    /// The request behind which it arrives: the last of its batch.
    due: u64,
    id: KeyId,
    tenant: u16,
    key: Vec<u8>,
    event: Event,
    /// The key was there when it was last used: gets of the same batch do not wait for the fill, and miss as well.
    is_unexpected: bool,
}

/// What a get came to.
enum Got {
    Hit(Verdict),
    Miss,
}

impl<'c> Simulation<'c> {
    pub(super) fn new(
        cache: &'c Cache,
        device: &'c dyn Device,
        verify_all: bool,
        in_flight: u64,
        speed: f64,
    ) -> Simulation<'c> {
        Simulation {
            cache,
            device,
            worker: cache.worker(),
            background: cache.background(),
            values: Values::default(),
            versions: IdMap::default(),
            value: Vec::new(),
            pages: Vec::new(),
            requests: 0,
            first: None,
            last: 0.0,
            requests_of: vec![0; cache.registry().count()],
            wrong: 0,
            stale: 0,
            refused: 0,
            verified_mask: if verify_all { 0 } else { VERIFIED_MASK },
            filler: Vec::new(),
            in_flight,
            speed,
            fills: VecDeque::new(),
            there: IdMap::default(),
        }
    }

    /// Says under which key the cache is asked.
    pub(super) fn prepare(&self, tenant_name: &str, request: &mut Request) {
        wire_key(tenant_name, &request.event, &mut request.key);
        request.tenant = self.cache.tenant_of(&request.key);
        request.id = key_id(&request.key);
    }

    /// Has the processor fetch what requests that will be served soon look at first: their cache misses overlap, as they do in a server.
    pub(super) fn expect(&mut self, requests: &[Request]) {
        let turn = self.cache.turn(&mut self.worker);
        let mut expected = [Expected::default(); REQUESTS_AHEAD];
        for (request, expected) in requests.iter().zip(&mut expected) {
            *expected = turn.expect(request.tenant, &request.key);
        }
        expected.iter_mut().take(requests.len()).for_each(|expected| turn.expect_object(expected));
    }

    pub(super) fn serve(&mut self, request: &Request) -> Result<()> {
        let Request { event, key, id, tenant } = request;
        let (id, tenant) = (*id, *tenant);
        self.first.get_or_insert(event.time);
        self.last = event.time;
        self.cache.advance(((event.time.max(0.0) / self.speed) as u32).saturating_add(1));
        // as in a replay, a key's next request waits until its miss is filled, unless it is a get of what was there
        let on_its_way = self.fills.iter().position(|fill| fill.id == id);
        let is_missed_again = event.op.kind() == Kind::Get && on_its_way.is_some_and(|at| self.fills[at].is_unexpected);
        if !is_missed_again && let Some(fill) = on_its_way.and_then(|at| self.fills.remove(at)) {
            self.fill(&fill)?;
        }
        match event.op.kind() {
            Kind::Get => match self.get(tenant, key, id) {
                Got::Hit(Verdict::Right) => {}
                Got::Hit(Verdict::Stale) => self.stale += 1,
                Got::Hit(Verdict::Wrong) => self.wrong += 1,
                Got::Miss if self.in_flight == 0 => self.store(tenant, key, id, event)?,
                Got::Miss if is_missed_again => {}
                Got::Miss => {
                    let due = (self.requests / self.in_flight + 1) * self.in_flight - 1;
                    let is_unexpected = self.there.insert(id, ()).is_some();
                    let (key, event) = (key.clone(), event.clone());
                    self.fills.push_back(Fill { due, id, tenant, key, event, is_unexpected });
                }
            },
            Kind::Set => {
                if self.in_flight > 0 {
                    self.there.insert(id, ());
                }
                self.store(tenant, key, id, event)?;
            }
            Kind::Delete => {
                self.there.remove(&id);
                self.cache.turn(&mut self.worker).delete(tenant, key);
                if self.is_verified(id) {
                    *self.versions.entry(id).or_default() += 1;
                }
            }
        }
        let requests = self.requests;
        while self.fills.front().is_some_and(|fill| fill.due <= requests)
            && let Some(fill) = self.fills.pop_front()
        {
            self.fill(&fill)?;
        }
        self.requests += 1;
        self.requests_of[usize::from(tenant)] += 1;
        if self.requests.is_multiple_of(REQUESTS_A_STEP) {
            self.step();
        }
        if self.requests.is_multiple_of(REQUESTS_A_TRAINING) {
            self.cache.train_step();
        }
        Ok(())
    }

    fn fill(&mut self, fill: &Fill) -> Result<()> {
        self.store(fill.tenant, &fill.key, fill.id, &fill.event)
    }

    fn is_verified(&self, id: KeyId) -> bool {
        id & self.verified_mask == 0
    }

    fn step(&mut self) {
        while self.cache.step(&mut self.background, Some(self.device)) {}
    }

    fn get(&mut self, tenant: u16, key: &[u8], id: KeyId) -> Got {
        let is_verified = self.is_verified(id);
        let version = if is_verified { self.versions.get(&id).copied().unwrap_or(0) } else { 0 };
        let mut turn = self.cache.turn(&mut self.worker);
        let mut read = match turn.get(tenant, key) {
            Lookup::Miss => return Got::Miss,
            Lookup::Hit(_) | Lookup::FlashHit(_) if !is_verified => return Got::Hit(Verdict::Right),
            Lookup::Hit(object) => return Got::Hit(self.values.judge_object(id, version, &object)),
            Lookup::FlashHit(object) => {
                return Got::Hit(self.values.judge(id, version, std::iter::once(&*object.value)));
            }
            Lookup::Flash(read) => read,
        };
        loop {
            let pages = read_pages(self.device, &read, &mut self.pages);
            match turn.complete(&mut read, pages) {
                Completed::Hit(_) if !is_verified => return Got::Hit(Verdict::Right),
                Completed::Hit(object) => {
                    return Got::Hit(self.values.judge(id, version, std::iter::once(&*object.value)));
                }
                Completed::Again => {}
                Completed::Miss => return Got::Miss,
            }
        }
    }

    fn store(&mut self, tenant: u16, key: &[u8], id: KeyId, event: &Event) -> Result<()> {
        let size = event.value_size as usize;
        if size + key.len() + 64 > self.cache.settings().item_bytes_max {
            self.refused += 1;
            return Ok(());
        }
        let is_verified = self.is_verified(id);
        if is_verified {
            let version = self.versions.entry(id).or_default();
            *version += 1;
            self.value.clear();
            self.values.make(id, *version, size, &mut self.value);
        } else if self.filler.len() < size {
            self.filler.resize(size, b'x');
        }
        let expiry = if event.ttl == 0 { 0 } else { self.cache.now().saturating_add(event.ttl) };
        for _ in 0..1000 {
            let value = if is_verified { self.value.as_slice() } else { &self.filler[..size] };
            let storing = Storing { expiry, ..Storing::new(Mode::Set, key, value) };
            let stored = self.cache.turn(&mut self.worker).store(tenant, &storing);
            match stored {
                Ok(Stored::Yes(_)) => {
                    // of a server that is asked as fast as it answers, the cleaner comes later
                    if self.in_flight == 0 && self.cache.wants_cleaning() {
                        self.step();
                    }
                    return Ok(());
                }
                Err(Needs::Room) => self.step(),
                other => anyhow::bail!("a set was answered with {other:?}"),
            }
        }
        anyhow::bail!("the cleaner frees no memory: {} bytes of DRAM are too few", self.cache.settings().memory_bytes)
    }

    /// What has been counted so far.
    pub(super) fn moment(&self) -> Moment {
        let registry = self.cache.registry();
        let figures_of = |totals: &cache::Totals, requests: u64, dram_bytes: i64| Figures {
            requests,
            gets: totals.get(Count::Gets),
            hits: totals.hits(),
            dram_hits: totals.get(Count::DramHits),
            flash_hits: totals.get(Count::FlashHits),
            app_bytes_written: totals.get(Count::StoredBytes),
            flash_bytes_written: totals.get(Count::DemotedBytes),
            rescue_bytes_written: totals.get(Count::RescueBytes),
            dram_bytes: dram_bytes.max(0) as u64,
            ..Figures::default()
        };
        let tenants = registry.tenants().filter(|tenant| self.requests_of[usize::from(tenant.id)] > 0);
        let tenants = tenants.map(|tenant| {
            let (totals, requests) = (self.cache.totals(tenant.id), self.requests_of[usize::from(tenant.id)]);
            let figures = figures_of(&totals, requests, tenant.account.balance().in_use);
            (tenant.name.clone(), figures.with_ratios())
        });
        let ledger = self.cache.figures().flash.map(|flash| flash.ledger).unwrap_or_default();
        let in_use = registry.tenants().map(|tenant| tenant.account.balance().in_use).sum();
        let total = Figures {
            flash_bytes_written: ledger.written,
            rescue_bytes_written: ledger.rescue,
            ..figures_of(&self.cache.totals_of_all(), self.requests, in_use)
        };
        let seconds = self.last - self.first.unwrap_or(self.last);
        Moment { seconds, total: total.with_ratios(), tenants: tenants.collect() }
    }

    /// The report of what came since `begin`.
    pub(super) fn report(&self, begin: &Moment, end: &Moment, seconds: f64) -> Report {
        let trained = self.cache.registry().tenants().filter(|t| self.cache.model(t.id).0.is_some()).count();
        let counted = end.since(begin);
        let cleaned = self.cache.figures();
        Report {
            complete: true,
            warmup_requests: begin.total.requests,
            total: counted.total,
            wrong_values: self.wrong,
            stale_values: self.stale,
            errors: self.refused,
            models_trained: trained as u64,
            relocated_for_each_freed: (cleaned.freed_bytes > 0).then(|| cleaned.relocated_for_each_freed()),
            seconds,
            trace_seconds: end.seconds - begin.seconds,
            ops_per_second: self.requests as f64 / seconds.max(1e-9),
            tenants: counted.tenants,
            ..Report::default()
        }
    }
}

fn read_pages<'p>(device: &dyn Device, read: &FlashRead, pages: &'p mut Vec<Page>) -> Option<&'p [Page]> {
    if pages.len() < read.pages() {
        pages.resize(read.pages(), Page::ZERO);
    }
    let pages = &mut pages[..read.pages()];
    device.read(read.at(), pages).ok().map(|()| &*pages)
}

impl Values {
    fn judge_object(&self, key: KeyId, version: u64, object: &cache::Object<'_>) -> Verdict {
        let pieces: Vec<&[u8]> = object.value().collect();
        self.judge(key, version, pieces.into_iter())
    }
}
