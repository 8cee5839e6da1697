//! Every byte that counts against `-m`, by holder (INV-MEMORY): what indexes, buffers and samples take, the log does not get.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use tenants::{Numbering, RegistryError, Revised, Tenant, TenantSpec};

use crate::counters::Counters;
use crate::portion::Portion;
use crate::{Cache, OBJECTS_PART, Standing};

/// Buckets of an index that grows that a store sees to: at four a store it has grown long before what is stored meanwhile fills it.
const BUCKETS_A_STORE: usize = 4;
/// Share of the memory that received values may take while they arrive, in percent.
const RECEIVING_PERCENT_MAX: i64 = 25;

/// Numbers of tenants that are not counted: of the 32 MiB that the process may take beyond its memory they take four.
const NUMBERS_FREE: usize = 1000;
/// Threads that count what they do for each tenant, about.
const COUNTING_THREADS: usize = 8;
/// Bytes that a tenant's name and rule take in tables of who is who, about.
const NAME_BYTES: usize = 256;

pub(crate) struct Memory {
    total: AtomicUsize,
    /// Shadow queues, samplers and the memory of keys that left.
    fixed: AtomicUsize,
    /// Values on their way in, held by connections.
    receiving: AtomicI64,
    cleaned: AtomicU64,
    relocated: AtomicU64,
    freed: AtomicU64,
    /// Passes of threads that helped.
    helped: AtomicU64,
    /// Survivors of passes that were dropped: no segment came free for them.
    gave_up: AtomicU64,
}

impl Memory {
    pub(crate) fn new(total: usize) -> Memory {
        Memory {
            total: AtomicUsize::new(total),
            fixed: AtomicUsize::new(0),
            receiving: AtomicI64::new(0),
            cleaned: AtomicU64::new(0),
            relocated: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            helped: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
        }
    }

    pub(crate) fn note_pass(&self, segments: usize, relocated: usize, freed: usize) {
        self.cleaned.fetch_add(segments as u64, Ordering::Relaxed);
        self.relocated.fetch_add(relocated as u64, Ordering::Relaxed);
        self.freed.fetch_add(freed as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_helped(&self) {
        self.helped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn helped_passes(&self) -> u64 {
        self.helped.load(Ordering::Relaxed)
    }

    pub(crate) fn note_gave_up(&self) {
        self.gave_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn gave_up(&self) -> u64 {
        self.gave_up.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    pub(crate) fn cleaned_segments(&self) -> u64 {
        self.cleaned.load(Ordering::Relaxed)
    }

    pub(crate) fn relocated_bytes(&self) -> u64 {
        self.relocated.load(Ordering::Relaxed)
    }

    pub(crate) fn freed_bytes(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }
}

impl Cache {
    /// Lets a connection hold `bytes` for a value that is arriving. False if too much is held already: the value is to be
    /// refused. Give them back with [`Cache::received`].
    pub fn receive(&self, bytes: usize) -> bool {
        let most =
            (self.holders.total() as i64 * RECEIVING_PERCENT_MAX / 100).max(2 * self.settings.item_bytes_max as i64);
        let now = self.holders.receiving.fetch_add(bytes as i64, Ordering::Relaxed) + bytes as i64;
        if now > most {
            self.received(bytes);
            return false;
        }
        true
    }

    /// Changes how much memory may be used, up or down; what is too much is freed as the cleaner gets to it. False if that is
    /// less than works, or more than was mapped at the start.
    pub fn resize(&self, bytes: usize) -> bool {
        let most = self.memory.shape().mapped_bytes + self.held_bytes();
        if bytes < crate::MEMORY_BYTES_MIN.max(self.held_bytes() + 8 * self.memory.shape().segment_bytes)
            || bytes > most
        {
            return false;
        }
        self.holders.total.store(bytes, Ordering::Relaxed);
        self.share_memory();
        true
    }

    /// Bytes of values on their way in or out, held by connections.
    pub fn received_bytes(&self) -> usize {
        self.holders.receiving.load(Ordering::Relaxed).max(0) as usize
    }

    /// The memory that may be used now.
    pub fn memory_bytes(&self) -> usize {
        self.holders.total()
    }

    /// A value that was held has been stored or given up.
    pub fn received(&self, bytes: usize) {
        self.holders.receiving.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// Bytes that all holders but the log take.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_by_all() + self.received_bytes()
    }

    /// The same without what connections hold: that comes and goes.
    pub(crate) fn held_by_all(&self) -> usize {
        let flash = self.flash.as_ref().map_or(0, |flash| flash.memory_bytes() + flash.segment_bytes());
        self.memory.index_bytes() + self.holders.fixed.load(Ordering::Relaxed) + flash
    }

    /// Segments that the log may have where others hold so many bytes.
    pub(crate) fn segments_without(&self, held: usize) -> usize {
        (self.holders.total().saturating_sub(held) / self.memory.shape().segment_bytes).max(8)
    }

    /// Gives the log what the other holders leave, and shares it out between the tenants (INV-SUM).
    pub(crate) fn share_memory(&self) {
        let segment = self.memory.shape().segment_bytes;
        let segments = self.segments_without(self.held_bytes());
        if segments != self.memory.segments_allowed() || self.registry.shared_out() != (segments * segment) as i64 {
            self.memory.allow_segments(segments);
            self.share_out();
        }
    }

    /// Makes the tenants be those of the specs while they are served; all of it or, on an error, nothing. `keep` is told which number is
    /// whose before anything changes, where flash outlives the process. What a tenant that goes has stored is over, and its memory is
    /// the others' as the cleaner gets to it. Returns what has changed.
    ///
    /// # Errors
    /// The specs contradict each other, or `keep` fails.
    pub fn revise_tenants(
        &self,
        specs: &[TenantSpec],
        keep: impl FnOnce(&Numbering) -> Result<(), String>,
    ) -> Result<Vec<Revised>, RegistryError> {
        let portion = Portion::of(&self.settings, specs.len() + 1);
        let prepare = |planned: &Numbering, back: &[u16]| {
            let numbers = planned.numbers.len();
            let again: usize = back.iter().map(|tenant| self.standing(*tenant).portion.bytes()).sum();
            let more = (numbers - self.registry.count()) * portion.bytes() + again;
            let most = self.holders.total() - self.holders.total() / OBJECTS_PART;
            if more > 0 && self.held_by_all() + more > most {
                return Err(RegistryError::TooLittleMemory(numbers, portion.bytes()));
            }
            keep(planned).map_err(RegistryError::Unwritten)?;
            self.make_room_for(numbers, portion);
            Ok(())
        };
        let version = || self.version.load(Ordering::SeqCst);
        let release = |tenant| {
            self.flush_tenant(tenant);
            self.forget_tenant(tenant);
        };
        let revised = self.registry.revise(specs, &portion.memories, prepare, version, release)?;
        self.charge_tenants();
        self.share_memory();
        self.share_out();
        Ok(revised)
    }

    /// Counts what is kept of tenants, and of keys that left, against the memory.
    pub(crate) fn charge_tenants(&self) {
        const A_NUMBER: usize =
            size_of::<Tenant>() + size_of::<Standing>() + COUNTING_THREADS * size_of::<Counters>() + NAME_BYTES;
        let portions = self.registry.tenants().map(|tenant| self.standing(tenant.id).portion.bytes());
        let numbers = self.registry.count().saturating_sub(NUMBERS_FREE) * A_NUMBER;
        self.holders.fixed.store(portions.sum::<usize>() + numbers + self.history.bytes(), Ordering::Relaxed);
    }

    /// Lets tenants with limits ask for what this time is worth.
    pub fn pass_limits(&self, millis: u32) {
        if self.registry.has_limits() {
            self.registry.tenants().for_each(|tenant| tenant.meter.pass(millis));
        }
    }

    /// Ends what tenants stored that were there in a process before and are not now. Called before anybody is served.
    pub fn settle_tenants(&self) {
        let version = self.version.load(Ordering::SeqCst);
        self.registry.settle(version, |tenant| self.flush_tenant(tenant));
    }

    /// Shares what the log may take out between the tenants.
    pub(crate) fn share_out(&self) {
        let bytes = self.memory.segments_allowed() * self.memory.shape().segment_bytes;
        self.registry.share_out(bytes as i64, |tenant| self.activity(tenant));
    }

    /// Whether the index is nearly full and there is memory for a larger one.
    pub(crate) fn wants_larger_index(&self) -> bool {
        self.memory.wanted_index_growth().is_some_and(|more| more < self.holders.total() / 8)
    }

    /// A store's part in that, where the background thread may be late: a few buckets.
    #[cold]
    pub(crate) fn help_index(&self, guard: &log_memory::Turn<'_>) {
        self.grow_index();
        self.memory.grow_index_step(guard, BUCKETS_A_STORE);
    }

    /// Makes the index larger if that is wanted.
    pub(crate) fn grow_index(&self) {
        if self.wants_larger_index() {
            // without the mapping the index stays as it is: entries make room for each other
            let _ = self.memory.grow_index();
        }
    }
}
