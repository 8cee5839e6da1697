//! The hybrid cache: DRAM and flash, shared between tenants. No sockets, no threads, no files, no clock.
//!
//! ```text
//!   store ---> DRAM log ---- cleaner pass: contest (tenants), admission (predictor) ----> flash segment ---> recycled
//!     ^           | keep: relocate          | demote                  | drop                                    |
//!     |           +-----<-----              +--> open flash segment   +--> shadow queue         rescue: was hit |
//!     +--------------------------------------------------------------------------------------------<------------+
//! ```
//! An object is in one place: hidden, in the DRAM index, or in the flash index (INV-ONE-PLACE). A thread works in *turns*
//! ([`Cache::turn`]): lookups lend views that live as long as the turn. A flash hit is an [`FlashRead`] intent: the caller
//! reads the pages and hands them back. Background work is bounded steps, called from outside.

#![forbid(unsafe_code)]

mod change;
mod clock;
mod config;
mod content;
mod counters;
mod evicted;
mod history;
mod hot;
mod intent;
mod leave;
mod listing;
mod memory;
mod portion;
mod publish;
mod read;
mod restart;
mod step;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use flash_store::{FlashShape, FlashStore, LedgerFigures};
use log_memory::{KeyHasher, LogMemory, Participant, Shape, Writer};
use parking_lot::{Mutex, RwLock};
use predictor::{Deputy, History, Kernel, Model, Observation, Quality, Sampler};
use tenants::Registry;

pub use change::{Counted, Counting, Delta, Mode, Needs, Removed, Removing, Stored, Storing, Touched, Written};
use clock::Clock;
use config::SEGMENTS_MIN;
pub use config::{CacheSettings, FlashSettings, IDLE_SECS, MEMORY_BYTES_MIN, SettingsError};
use counters::Counters;
pub use counters::{COUNTS, Count, Totals};
use evicted::Evicted;
pub use evicted::Eviction;
pub use flash_store::{
    Device, FileDevice, FlashSegmentId, Image, JoinedDevice, Journal, JournalFigures, JournalFile, JournalInFile,
    MemoryDevice, OpenError, PAGE_BYTES, Page, PartState, Superblock, SyncPolicy, WriteIntent, segments_of,
};
use hot::HotOnFlash;
pub use intent::{Completed, FlashObject, FlashRead};
pub use leave::Left;
pub use listing::{Listed, Listing};
pub use log_memory::{KEY_BYTES_MAX, Landing, Object, Pinned, VALUE_BYTES_MAX, give_back_large_buffers, mix};
use memory::Memory;
use portion::Portion;
pub use predictor::{Admission, FEATURE_NAMES, Features};
pub use read::{Expected, Fetched, Fetching, Lookup, Seen};
use step::{Activity, Paced};
pub use step::{Background, Helper, SegmentWriter, Trained};
pub use tenants::{
    ARBITERS, Aim, Arbiter, Claim, DEFAULT_TENANT, Demand, IdMap, Limits, Meter, Numbering, Point, RANKS, Rank,
    Recognition, RegistryError, Released, ReuseDistances, Revised, Seen as SeenKey, TenantSpec, Terms, WriteBudget,
};

/// Horizon of a label before any flash segment has been recycled, in ticks for each part that flash is of DRAM: what objects
/// stay when a quarter of what leaves DRAM is admitted.
const HORIZON_TICKS_A_DRAM: u64 = 1_000;
/// Part of the memory that has to be left for objects, where there is flash.
const OBJECTS_PART: usize = 8;
/// Part of the memory that remembers keys that left: 3 %. What goes to flash is decided by it.
const HISTORY_PART: usize = 32;
/// The same where there is no flash: ranks alone look at it then, and what it takes earns more hits in the log (docs/tenants.md).
const HISTORY_PART_DRAM_ONLY: usize = 512;

/// Ticks between two looks at curves and hit ratios.
const ARBITRATION_TICKS: u32 = 64;

/// What the cache keeps of a tenant, at the place of its number.
struct Standing {
    /// How much is kept of it while it is there.
    portion: Portion,
    sampler: Mutex<Sampler>,
    judge: RwLock<Judge>,
    quality: Mutex<Quality>,
    trained: AtomicU32,
    /// Versions up to this are flushed.
    flushed: AtomicU64,
    /// When a flush that was asked for is due; 0 for none.
    flush_due: AtomicU32,
    /// Which share of its bytes was used in the last idle period.
    activity: Activity,
    /// Its budget for writes to flash, if it has one.
    paced: Mutex<Option<Box<Paced>>>,
    /// Bytes of its records that are left in a flash segment when it is recycled, on the mean.
    flash_left: AtomicU64,
    /// Hits, hits in DRAM, and reads when its hit ratios were looked at last.
    looked_at: Mutex<[u64; 3]>,
}

/// Who decides on a tenant's objects.
#[derive(Clone, Copy, Default)]
struct Judge {
    /// Its own models.
    linear: Option<Model>,
    quadratic: Option<Model>,
    /// Which of them decides.
    kernel: Kernel,
    /// The filter that decides in its place: it is better than the model, or there are samples, and they made none.
    deputy: Option<Deputy>,
}

impl Judge {
    fn model(&self) -> Option<Model> {
        match self.kernel {
            Kernel::Quadratic => self.quadratic.or(self.linear),
            Kernel::Linear => self.linear,
        }
    }
}

/// Is told every finished sample, with its tenant, once.
pub type SampleListener = Box<dyn Fn(u16, &[(Features, bool)]) + Send + Sync>;

/// Says of a key whether it is worth flash, by what will happen to it.
pub type Foresight = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The cache.
pub struct Cache {
    settings: CacheSettings,
    memory: LogMemory,
    flash: Option<FlashStore>,
    registry: Registry,
    standings: boxcar::Vec<Standing>,
    clock: Clock,
    version: AtomicU64,
    /// What has a time to live and a version up to this is over: the clock was not to be trusted.
    timed_out: AtomicU64,
    /// Seconds that the clock was ahead of the wall's at the start.
    ahead: AtomicU32,
    /// Objects that were found again in segments of before the start.
    recovered: AtomicU64,
    holders: Memory,
    sample_mask: u64,
    /// Segments that a large object found missing, besides the usual.
    room_wanted: AtomicUsize,
    /// Where nothing that lives may be dropped: the tick at which a pass for somebody who waited for room found none.
    barren: AtomicU32,
    /// And at which one that nobody waited for did.
    at_rest: AtomicU32,
    /// Of the last 32 cleaner passes, the latest in the lowest bit, those in which somebody had to lose.
    contests: AtomicU32,
    /// There were many of those lately.
    is_crowded: AtomicBool,
    /// Residence of objects on flash, in ticks, smoothed.
    horizon: AtomicU32,
    history: History,
    /// A model of all tenants' samples, for those that have too few.
    pooled: RwLock<Option<Model>>,
    /// The tick at which it was trained.
    pooled_at: AtomicU32,
    /// The budget for writes to flash, if there is one.
    paced: Mutex<Option<Box<Paced>>>,
    /// Bytes written for each byte of a record.
    write_overhead: Mutex<f64>,
    listener: OnceLock<SampleListener>,
    workers: Mutex<Vec<Arc<boxcar::Vec<Counters>>>>,
    evicted: Evicted,
    foresight: OnceLock<Foresight>,
}

/// A thread's part in a cache.
pub struct Worker {
    participant: Participant,
    hands: Hands,
}

struct Hands {
    writer: Writer,
    counters: Arc<boxcar::Vec<Counters>>,
    /// Accesses since the last report to the clock, and how many make one.
    accesses: u32,
    accesses_a_report: u32,
    /// The tick at which the turn began: what its reads are noted with.
    tick: u32,
    dice: u64,
    /// Whose hits on flash it answered lately.
    hot: HotOnFlash,
    /// Whose change could not be decided lately, since DRAM has no place for what flash has of it.
    unpromoted: Option<u64>,
}

impl Hands {
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.dice)
    }

    /// What a change waits for that depends on what flash has: that it is read, unless it was read and found no place.
    #[cold]
    fn needs_flash(&mut self, read: FlashRead) -> Needs {
        if self.unpromoted.take_if(|hash| *hash == read.hash).is_some() {
            return Needs::Full;
        }
        Needs::Flash(read)
    }

    fn count(&self, tenant: u16, count: Count) {
        self.counters[usize::from(tenant)].add(count, 1);
    }

    fn count_by(&self, tenant: u16, count: Count, by: u64) {
        self.counters[usize::from(tenant)].add(count, by);
    }
}

impl<'w> Turn<'w> {
    /// The cache that it works on.
    pub fn cache(&self) -> &'w Cache {
        self.cache
    }
}

/// A stretch of work during which what was looked up stays as it is. End it (drop it) before waiting for anything: memory is
/// not reclaimed while turns are open.
pub struct Turn<'w> {
    cache: &'w Cache,
    guard: log_memory::Turn<'w>,
    hands: &'w mut Hands,
}

impl Cache {
    /// Makes a cache; nothing is in it.
    pub fn new(settings: CacheSettings) -> Result<Cache, SettingsError> {
        if settings.memory_bytes < MEMORY_BYTES_MIN {
            return Err(SettingsError::MemoryTooSmall(settings.memory_bytes));
        }
        let tenants = settings.tenants.len() + 1;
        let flash_bytes = settings.flash.map_or(0, |flash| flash.bytes);
        let history_part = if flash_bytes == 0 { HISTORY_PART_DRAM_ONLY } else { HISTORY_PART };
        let portion = Portion::of(&settings, tenants);
        let registry = Registry::new(
            settings.tenants.clone(),
            settings.memory_bytes as i64,
            flash_bytes,
            portion.memories,
            settings.numbering.as_ref(),
        )?;
        registry.appoint(settings.arbiter);
        let flash = settings.flash.map(|flash| new_flash(&flash, &settings)).transpose()?;
        let history = History::new(settings.memory_bytes / history_part);
        let horizon = (flash_bytes / settings.memory_bytes as u64).clamp(2, 64) * HORIZON_TICKS_A_DRAM;
        let horizon = horizon as u32;
        let shape = Shape::for_memory(settings.memory_bytes).growable();
        let memory = LogMemory::new(shape, KeyHasher::new(mix(settings.seed)))?;
        let sample_bits = (settings.memory_bytes / 512 / 4096).max(1).ilog2();
        let cache = Cache {
            memory,
            flash,
            standings: boxcar::Vec::new(),
            registry,
            clock: Clock::new(),
            version: AtomicU64::new(1),
            timed_out: AtomicU64::new(0),
            ahead: AtomicU32::new(0),
            recovered: AtomicU64::new(0),
            holders: Memory::new(settings.memory_bytes),
            room_wanted: AtomicUsize::new(0),
            barren: AtomicU32::new(0),
            at_rest: AtomicU32::new(0),
            contests: AtomicU32::new(0),
            is_crowded: AtomicBool::new(false),
            sample_mask: (1 << sample_bits) - 1,
            horizon: AtomicU32::new(horizon),
            history,
            pooled: RwLock::default(),
            pooled_at: AtomicU32::new(0),
            paced: Mutex::default(),
            write_overhead: Mutex::new(1.0),
            listener: OnceLock::new(),
            workers: Mutex::default(),
            evicted: Evicted::default(),
            foresight: OnceLock::new(),
            settings,
        };
        cache.make_room_for(cache.registry.count(), portion);
        cache.charge_tenants();
        let (all, held) = (cache.settings.memory_bytes, cache.held_bytes());
        let left = all.saturating_sub(held);
        if cache.flash.is_some() && left < all / OBJECTS_PART {
            return Err(SettingsError::TooLittleForObjects(all, left));
        }
        cache.share_memory();
        Ok(cache)
    }

    /// Makes a place for every tenant up to this number, before anybody can be told it; who is new has such a portion.
    fn make_room_for(&self, tenants: usize, portion: Portion) {
        let workers = self.workers.lock();
        while self.standings.count() < tenants {
            workers.iter().for_each(|counters| {
                counters.push(Counters::default());
            });
            self.standings.push(Standing {
                portion,
                sampler: Mutex::new(self.new_sampler(&portion)),
                judge: RwLock::default(),
                quality: Mutex::default(),
                trained: AtomicU32::new(0),
                flushed: AtomicU64::new(0),
                flush_due: AtomicU32::new(0),
                activity: Activity::default(),
                paced: Mutex::default(),
                flash_left: AtomicU64::new(0),
                looked_at: Mutex::default(),
            });
        }
    }

    fn new_sampler(&self, portion: &Portion) -> Sampler {
        portion.sampler(self.horizon.load(Ordering::Relaxed), self.settings.flashy_above_reads)
    }

    /// Forgets what was learned of a tenant: it is not there any more, or another time begins.
    fn forget_tenant(&self, tenant: u16) {
        let standing = self.standing(tenant);
        *standing.sampler.lock() = self.new_sampler(&standing.portion);
        *standing.judge.write() = Judge::default();
        *standing.quality.lock() = Quality::default();
        standing.trained.store(0, Ordering::Relaxed);
        *standing.paced.lock() = None;
    }

    #[inline]
    fn standing(&self, tenant: u16) -> &Standing {
        &self.standings[usize::from(tenant)]
    }

    /// Whether there is a tenant of this number, or was.
    fn is_known(&self, tenant: u16) -> bool {
        usize::from(tenant) < self.standings.count()
    }

    /// Gives [`Admission::Oracle`] its knowledge of the future, once.
    pub fn foresee(&self, foresight: Foresight) {
        let _ = self.foresight.set(foresight); // who comes second changes nothing
    }

    /// Has the samples that models are trained on told to somebody, once.
    pub fn tell_samples(&self, listener: SampleListener) {
        let _ = self.listener.set(listener); // who comes second changes nothing
    }

    /// A place for one more thread.
    pub fn worker(&self) -> Worker {
        self.worker_with(self.memory.writer())
    }

    fn worker_with(&self, writer: Writer) -> Worker {
        let mut workers = self.workers.lock();
        let counters: Arc<boxcar::Vec<Counters>> =
            Arc::new(self.standings.iter().map(|_| Counters::default()).collect());
        workers.push(Arc::clone(&counters));
        let dice = mix(self.settings.seed ^ workers.len() as u64);
        Worker {
            participant: self.memory.join(),
            hands: Hands {
                writer,
                counters,
                accesses: 0,
                accesses_a_report: 0,
                tick: 0,
                dice,
                hot: HotOnFlash::new(),
                unpromoted: None,
            },
        }
    }

    /// Begins a turn.
    pub fn turn<'w>(&'w self, worker: &'w mut Worker) -> Turn<'w> {
        worker.hands.tick = self.clock.tick();
        Turn { cache: self, guard: worker.participant.enter(), hands: &mut worker.hands }
    }

    /// Hands the time in: seconds since the epoch. Call it about once a second, more often does no harm.
    pub fn advance(&self, secs: u32) {
        let before = self.now();
        let passed = self.clock.advance(secs, self.memory.objects());
        if passed {
            if let Some(flash) = &self.flash {
                flash.pass(secs.saturating_sub(before));
            }
            for (tenant, standing) in &self.standings {
                let due = &standing.flush_due;
                let at = due.load(Ordering::Relaxed);
                if at != 0 && at <= secs && due.compare_exchange(at, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    self.flush_tenant(tenant as u16);
                    self.note_due(tenant as u16, 0);
                }
            }
            self.beat();
        }
    }

    /// The time that was handed in last.
    pub fn now(&self) -> u32 {
        self.clock.secs()
    }

    /// The tenant that a key belongs to, on a connection that is no tenant's own.
    pub fn tenant_of(&self, key: &[u8]) -> u16 {
        self.registry.by_key(key)
    }

    /// Who the tenants are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What it was made with.
    pub fn settings(&self) -> &CacheSettings {
        &self.settings
    }

    /// What happened to one tenant's objects.
    pub fn totals(&self, tenant: u16) -> Totals {
        let mut totals = Totals::default();
        self.workers.lock().iter().for_each(|counters| totals.include(&counters[usize::from(tenant)]));
        totals
    }

    /// What happened in all.
    pub fn totals_of_all(&self) -> Totals {
        let mut totals = Totals::default();
        self.registry.all().for_each(|tenant| totals.add(&self.totals(tenant.id)));
        totals
    }

    /// State of the tiers.
    pub fn figures(&self) -> Figures {
        let flash = self.flash.as_ref().map(|flash| FlashFigures {
            live: flash.live(),
            records: flash.records(),
            segments: flash.segments(),
            segments_free: flash.segments_free(),
            segment_bytes: flash.segment_bytes(),
            index_entries: flash.index_load().0,
            index_slots: flash.index_load().1,
            memory_bytes: flash.memory_bytes(),
            enabled: flash.is_enabled(),
            devices: flash.parts().len(),
            devices_out: flash.parts().iter().filter(|part| **part != PartState::In).count(),
            to_recover: flash.segments_to_recover(),
            recovered: self.recovered.load(Ordering::Relaxed),
            journal: flash.journal().map(|journal| journal.figures()),
            ledger: flash.ledger(),
        });
        Figures {
            objects: self.memory.objects(),
            bytes: self.registry.all().map(|tenant| tenant.account.balance().in_use.max(0) as u64).sum(),
            index_bytes: self.memory.index_bytes(),
            index_grows: self.memory.index_grows(),
            segment_bytes: self.memory.shape().segment_bytes,
            segments: self.memory.segments_allowed(),
            segments_free: self.memory.segments_free(),
            log_bytes: (self.memory.segments_allowed() * self.memory.shape().segment_bytes) as u64,
            tick: self.clock.tick(),
            horizon_ticks: self.horizon.load(Ordering::Relaxed),
            cleaned_segments: self.holders.cleaned_segments(),
            relocated_bytes: self.holders.relocated_bytes(),
            freed_bytes: self.holders.freed_bytes(),
            helped_passes: self.holders.helped_passes(),
            gave_up: self.holders.gave_up(),
            flash,
        }
    }

    /// What each device of the flash tier is.
    pub fn flash_parts(&self) -> Vec<PartState> {
        self.flash.as_ref().map(FlashStore::parts).unwrap_or_default()
    }

    /// Uses a device again that was out and answers again, with what it had; empty, if it is another one.
    pub fn bring_back(&self, device: usize, is_another: bool) {
        self.flash_tier().bring_back(device, is_another);
    }

    /// A tenant's model, if it has one, how many samples wait, and how often it was trained.
    pub fn model(&self, tenant: u16) -> (Option<Model>, usize, u32) {
        let standing = self.standing(tenant);
        (standing.judge.read().model(), standing.sampler.lock().len(), standing.trained.load(Ordering::Relaxed))
    }

    /// How good a tenant's model is, on samples that it was not trained on.
    pub fn model_quality(&self, tenant: u16) -> Quality {
        *self.standing(tenant).quality.lock()
    }

    /// Who decides on a tenant's objects, by name: `linear` or `quadratic` (its own model), `pooled` (that of all tenants), or a plain filter.
    pub fn judge_name(&self, tenant: u16) -> &'static str {
        match (self.judge(tenant), self.settings.admission) {
            ((Some(model), _), Admission::Svm) if self.standing(tenant).judge.read().linear.is_some() => {
                if model.is_quadratic() { "quadratic" } else { "linear" }
            }
            ((Some(_), _), Admission::Svm) => "pooled",
            ((None, deputy), Admission::Svm) => deputy.filter.name(),
            _ => "rule",
        }
    }

    /// What decides on a tenant's objects: a model, its own or that of all tenants, or else a plain filter.
    pub fn judge(&self, tenant: u16) -> (Option<Model>, Deputy) {
        let judge = self.standing(tenant).judge.read();
        match judge.deputy {
            Some(deputy) => (None, deputy),
            None => (judge.model().or_else(|| *self.pooled.read()), Deputy::default()),
        }
    }

    /// Why what was stored under this key is over, if it is.
    fn is_dead(&self, tenant: u16, key: &[u8], version: u64, expiry: u32) -> Option<Count> {
        if expiry != 0 && (expiry <= self.clock.secs() || version <= self.timed_out.load(Ordering::Relaxed)) {
            Some(Count::Expired)
        } else if version <= self.standing(tenant).flushed.load(Ordering::Relaxed)
            || self.registry.is_released(tenant, key, version)
        {
            Some(Count::Flushed)
        } else {
            None
        }
    }

    /// Bytes of a tenant's records on flash, estimated from the segments that were recycled lately.
    pub fn flash_bytes_of(&self, tenant: u16) -> u64 {
        let segments = self.flash.as_ref().map_or(0, |flash| flash.segments().saturating_sub(flash.segments_free()));
        self.standing(tenant).flash_left.load(Ordering::Relaxed) * segments as u64
    }

    fn is_sampled(&self, hash: u64) -> bool {
        hash >> 24 & self.sample_mask == 0 && self.flash.is_some()
    }

    fn sampler(&self, tenant: u16) -> parking_lot::MutexGuard<'_, Sampler> {
        self.standing(tenant).sampler.lock()
    }

    #[inline]
    fn observe(&self, object: &Object<'_>) -> Observation {
        let tick = self.clock.tick();
        let access = object.access();
        Observation {
            reads: log_memory::reads_estimate(access.reads),
            updates: u32::from(access.updates),
            age: clock::ticks_since(tick, object.birth()),
            idle: clock::ticks_since(tick, access.last),
            bytes: (object.key().len() + object.value_bytes()) as u32,
            history: predictor::accesses_at(object.history()),
            ttl_left: (object.expiry() != 0).then(|| object.expiry().saturating_sub(self.clock.secs())),
        }
    }
}

fn new_flash(flash: &FlashSettings, settings: &CacheSettings) -> Result<FlashStore, SettingsError> {
    let segment_bytes = settings.segment_bytes();
    let least = u64::from(SEGMENTS_MIN) * segment_bytes as u64 + PAGE_BYTES as u64;
    if flash.bytes < least {
        return Err(SettingsError::FlashTooSmall(flash.bytes, least));
    }
    let shape = FlashShape {
        flash_bytes: flash.bytes,
        segment_bytes,
        objects: (flash.bytes / flash.object_bytes.max(1) as u64) as usize,
        secret: mix(settings.seed ^ 0xf1a5),
    };
    let one = [flash.bytes];
    let devices = if settings.flash_devices.is_empty() { &one[..] } else { &settings.flash_devices };
    let parts: Vec<u32> = devices.iter().map(|bytes| segments_of(*bytes, segment_bytes)).collect();
    if parts.contains(&0) {
        return Err(SettingsError::FlashTooSmall(devices.iter().copied().min().unwrap_or(0), least));
    }
    let bits = flash_store::EntryLayout::new(parts.iter().sum(), segment_bytes / 2);
    if bits.is_none() {
        return Err(SettingsError::SegmentsTooMany(segment_bytes, flash.bytes));
    }
    let index_bytes = shape.objects * 9 / 2;
    if index_bytes > settings.memory_bytes / 3 {
        return Err(SettingsError::FlashIndexTooLarge(flash.bytes, index_bytes));
    }
    let store = FlashStore::over(shape, &parts).expect("its layout was checked above");
    store.limit_rates(settings.flash_write_rate, settings.flash_read_rate);
    Ok(store)
}

/// State of the tiers at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Objects in DRAM.
    pub objects: usize,
    /// Bytes of them in the log.
    pub bytes: u64,
    /// Bytes of the DRAM index.
    pub index_bytes: usize,
    /// Whether its entries are on their way to a larger table.
    pub index_grows: bool,
    /// Bytes of a DRAM segment.
    pub segment_bytes: usize,
    /// Segments of the log.
    pub segments: usize,
    /// Of them free.
    pub segments_free: usize,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// The access clock.
    pub tick: u32,
    /// How far ahead labels look, in ticks.
    pub horizon_ticks: u32,
    /// Segments that the cleaner has freed.
    pub cleaned_segments: u64,
    /// Bytes that it moved.
    pub relocated_bytes: u64,
    /// Bytes that it freed.
    pub freed_bytes: u64,
    /// Passes that other threads made for it.
    pub helped_passes: u64,
    /// Objects that should have survived a pass and were dropped, since no segment came free to move them to.
    pub gave_up: u64,
    /// The flash tier, if there is one.
    pub flash: Option<FlashFigures>,
}

impl Figures {
    /// Bytes that the cleaner moved for each that it freed; 0 before it freed any.
    pub fn relocated_for_each_freed(&self) -> f64 {
        self.relocated_bytes as f64 / self.freed_bytes.max(1) as f64
    }
}

/// State of the flash tier at one moment.
#[derive(Clone, Copy, Debug)]
pub struct FlashFigures {
    /// Objects that are not ghosts.
    pub live: usize,
    /// Records in its segments.
    pub records: usize,
    /// Segments.
    pub segments: usize,
    /// Of them free.
    pub segments_free: usize,
    /// Bytes of a segment.
    pub segment_bytes: usize,
    /// Entries of its index.
    pub index_entries: usize,
    /// Slots of its index.
    pub index_slots: usize,
    /// Bytes of DRAM that it takes.
    pub memory_bytes: usize,
    /// Whether it takes records.
    pub enabled: bool,
    /// Devices that it lies on.
    pub devices: usize,
    /// Of them, those that have failed.
    pub devices_out: usize,
    /// Segments of before a crash, or of before a change of sizes, that are still to be looked at.
    pub to_recover: usize,
    /// Objects that were found again in such segments.
    pub recovered: u64,
    /// The journal, if one is kept.
    pub journal: Option<JournalFigures>,
    /// What was written and why.
    pub ledger: LedgerFigures,
}
