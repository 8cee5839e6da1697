//! Background work in bounded pieces. The server calls these from a thread of its own, the simulator between requests.

mod appraise;
mod arbitrate;
mod budget;
mod choose;
mod clean;
mod fate;
mod flush;
mod idle;
mod keep;
mod places;
mod train;

use std::sync::atomic::Ordering;

use flash_store::{Device, FlashSegmentId, WriteIntent};

pub(crate) use budget::Paced;
pub(crate) use fate::Loser;
pub(crate) use idle::Activity;
pub use train::Trained;

use crate::{Cache, Worker};

/// Buckets of an index that one step looks at.
const BUCKETS_A_STEP: usize = 4096;
/// Clock buckets that one step turns.
const SWEEP_A_STEP: usize = 256;
/// Flash segments that are free besides the open one: one is recycled before it is needed, when DRAM has room for what is rescued.
const RECYCLED_AHEAD: usize = 1;
/// Free segments below which the cleaner is wanted.
const SEGMENTS_LOW: usize = log_memory::SEGMENTS_SPARE + 2;

/// The background thread's part in a cache. There is one: the steps of a cache are taken by one thread at a time.
pub struct Background {
    pub(crate) worker: Worker,
    pub(crate) buffer: Vec<flash_store::Page>,
    pub(crate) writer: Option<Box<dyn SegmentWriter>>,
    period: idle::Period,
    arbitrated: u32,
    accounts: budget::Accounts,
    /// How far it has looked through memory for what has expired, where nothing that lives may be dropped.
    searched: usize,
}

/// Another thread's part in cleaning, where one cannot keep up. It makes passes and nothing else: flash is written and recycled by the
/// background thread alone.
pub struct Helper(Background);

/// Writes segments beside the background's other steps. Without one they are written within a step.
pub trait SegmentWriter: Send {
    /// Begins to write a segment. It is called only when it is known how the last one went.
    fn begin(&mut self, intent: WriteIntent);
    /// How the write went that was begun last, once it is known: told once. A write that takes too long has failed.
    fn finished(&mut self) -> Option<(FlashSegmentId, bool)>;
    /// Waits until the write that was begun last is finished, or has taken too long.
    fn wait(&mut self);
}

impl Background {
    /// Has segments written by somebody else from here on.
    pub fn write_with(&mut self, writer: Box<dyn SegmentWriter>) {
        self.writer = Some(writer);
    }
}

/// Of so many segments, those that are freed for what somebody waits for at most.
fn most_freed(segments: usize) -> usize {
    segments * 3 / 4
}

impl Cache {
    /// The background thread's place.
    pub fn background(&self) -> Background {
        Background {
            worker: self.worker_with(self.memory.cleaner_writer()),
            buffer: Vec::new(),
            writer: None,
            period: idle::Period::default(),
            arbitrated: 0,
            accounts: budget::Accounts::default(),
            searched: 0,
        }
    }

    /// A place for one more thread that helps to clean.
    pub fn helper(&self) -> Helper {
        Helper(self.background())
    }

    /// Makes one cleaner pass beside [`Cache::step`], if segments are still few. Returns whether there is more to do at once: not while the
    /// background thread has to write or recycle a flash segment first, since what should go there would find no place. Within a pass it
    /// waits for that, for a second at most.
    pub fn help(&self, helper: &mut Helper) -> bool {
        let waits = self.flash.as_ref().is_some_and(flash_store::FlashStore::wants_service);
        if waits || !self.is_short() {
            return false;
        }
        self.clean_pass(&mut helper.0, None);
        self.holders.note_helped();
        self.is_short()
    }

    /// Whether [`Cache::step`] should be called at once: free segments are few, or the index is nearly full.
    pub fn wants_cleaning(&self) -> bool {
        self.is_short() || self.wants_larger_index()
    }

    /// Whether whoever takes the steps should be woken for one: [`Cache::wants_cleaning`], or fresh memory will be written to soon.
    pub fn wants_step(&self) -> bool {
        self.wants_cleaning() || self.memory.wants_pages()
    }

    fn is_short(&self) -> bool {
        self.memory.segments_free() < self.segments_low()
            && self.can_make_room()
            && (self.settings.evict
                || self.somebody_waits_for_room()
                || self.at_rest.load(Ordering::Relaxed) != self.clock.tick())
    }

    /// Whether a cleaner pass frees anything: always, where it may drop what lives; else unless one of this tick has searched in vain.
    pub(crate) fn can_make_room(&self) -> bool {
        self.settings.evict || self.barren.load(Ordering::Relaxed) != self.clock.tick()
    }

    fn somebody_waits_for_room(&self) -> bool {
        self.room_wanted.load(Ordering::Relaxed) > 0
    }

    /// Free segments that are enough: a few, and as many as a large object is waiting for.
    fn segments_low(&self) -> usize {
        let wanted = self.room_wanted.load(Ordering::Relaxed) + SEGMENTS_LOW;
        wanted.min(most_freed(self.memory.segments_allowed()))
    }

    /// Segments that may come free for somebody who holds so many bytes meanwhile, once nobody else holds any: there is no use in waiting for more.
    pub(crate) fn segments_freed_ever(&self, held: usize) -> usize {
        most_freed(self.segments_without(self.held_by_all() + held))
    }

    /// Takes the steps that are due: makes the indexes larger, frees memory, writes and recycles flash. Bounded: at most one
    /// cleaner pass, one flash write and one recycled segment. Returns whether there is more to do at once.
    pub fn step(&self, background: &mut Background, device: Option<&dyn Device>) -> bool {
        self.memory.populate_step();
        self.share_memory();
        self.grow_index();
        let growing = {
            let guard = background.worker.participant.enter();
            self.memory.grow_index_step(&guard, BUCKETS_A_STEP)
        };
        self.account_for_victims(background);
        self.idle_step(background);
        self.arbitrate_step(background);
        let mut recovers = false;
        if let (Some(flash), Some(device)) = (&self.flash, device) {
            flash.take_out_failing();
            self.budget_step(flash, background);
            recovers = self.recover_step(flash, device, background);
            self.flush_step(flash, device, background);
            self.sweep_step(flash);
        }
        if self.is_short() {
            self.clean_pass(background, device);
        } else {
            self.room_wanted.store(0, Ordering::Relaxed); // who waited can go on, or will ask again
        }
        if let (Some(flash), Some(device)) = (&self.flash, device)
            && !self.is_short()
        {
            // now, and not within a pass: what is rescued needs room in DRAM
            self.recycle_step(flash, device, background, RECYCLED_AHEAD);
        }
        growing || self.is_short() || recovers || self.memory.wants_pages()
    }

    /// Waits for the segment that is being written beside the steps, if one is. Before the background thread ends.
    pub fn finish_writing(&self, background: &mut Background) {
        if let (Some(flash), Some(writer)) = (&self.flash, &mut background.writer) {
            writer.wait();
            if let Some((segment, ok)) = writer.finished() {
                flash.written(segment, ok);
            }
        }
    }

    fn account_for_victims(&self, background: &Background) {
        for (tenant, bytes) in self.memory.take_victims() {
            self.registry.tenant(tenant).account.charge(-(bytes as i64));
            background.worker.hands.count(tenant, crate::Count::Evictions);
        }
    }
}
