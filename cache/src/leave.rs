//! The first part of a clean stop: what is in DRAM goes to flash.

use flash_store::{Device, FlashStore};
use log_memory::Cursor;

use crate::Cache;
use crate::step::{Background, Loser};

/// Buckets of the DRAM index that are emptied at a time.
const BUCKETS_A_PIECE: usize = 256;
/// Segments that an object is offered to. The last records of a segment find no place in it long before it is full.
const OFFERS_MAX: usize = 4;

/// What became of DRAM's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Objects that went to flash.
    pub moved: usize,
    /// Objects that time did not suffice for.
    pub stayed: usize,
}

struct Offered {
    tenant: u16,
    key: Box<[u8]>,
    /// Segments that had no place for it.
    refused: usize,
}

/// How far it has come.
#[derive(Default)]
struct Leaving {
    moved: usize,
    /// What found no place in the open segment.
    waiting: Vec<Offered>,
}

impl Cache {
    /// Moves what lies in DRAM to flash, whatever the predictor says, until all has gone or `is_over` says that there is no
    /// more time: what was read first, then the rest. What is in the open segment then is [written](Cache::flush_now) by the caller. Nobody
    /// else may use the cache.
    pub fn leave(&self, background: &mut Background, device: &dyn Device, is_over: impl Fn() -> bool) -> Left {
        let mut leaving = Leaving::default();
        if self.flash.as_ref().is_some_and(FlashStore::is_enabled) {
            for were_read in [true, false] {
                let (mut cursor, mut more) = (Cursor::default(), true);
                while more && !is_over() {
                    let mut offered = Vec::new();
                    let guard = background.worker.participant.enter();
                    more = self.memory.visit(&guard, &mut cursor, BUCKETS_A_PIECE, |object| {
                        if (object.access().reads > 0) == were_read {
                            offered.push(Offered { tenant: object.tenant(), key: object.key().into(), refused: 0 });
                        }
                    });
                    drop(guard);
                    self.offer(background, device, offered, &mut leaving);
                }
            }
            while !leaving.waiting.is_empty() && !is_over() {
                self.make_place(background, device);
                let offered = std::mem::take(&mut leaving.waiting);
                self.offer(background, device, offered, &mut leaving);
            }
        }
        Left { moved: leaving.moved, stayed: if is_over() { self.memory.objects() } else { 0 } }
    }

    /// Offers objects to the open segment, and to the next what found no place there.
    fn offer(
        &self,
        background: &mut Background,
        device: &dyn Device,
        mut offered: Vec<Offered>,
        leaving: &mut Leaving,
    ) {
        while !offered.is_empty() {
            let mut is_another = false;
            for object in offered {
                match self.leave_one(background, object.tenant, &object.key) {
                    Loser::Demoted => leaving.moved += 1,
                    Loser::Kept if object.refused + 1 < OFFERS_MAX => {
                        leaving.waiting.push(Offered { refused: object.refused + 1, ..object });
                    }
                    _ => {}
                }
                if self.flash_tier().wants_to_seal() {
                    self.make_place(background, device);
                    is_another = true;
                }
            }
            offered = if is_another { std::mem::take(&mut leaving.waiting) } else { Vec::new() };
        }
    }

    fn make_place(&self, background: &mut Background, device: &dyn Device) {
        self.flush_now(device);
        self.recycle_step(self.flash_tier(), device, background, 0);
    }

    fn leave_one(&self, background: &mut Background, tenant: u16, key: &[u8]) -> Loser {
        let worker = &mut background.worker;
        let hash = self.memory.hash(tenant, key);
        let guard = worker.participant.enter();
        let lock = self.memory.lock(hash);
        let Some(object) = self.live(&guard, tenant, key, hash) else { return Loser::Gone };
        if object.access().stale || object.chosen_unique().is_some() {
            return Loser::Dropped; // it has no place on flash
        }
        let loser = self.demote(self.flash_tier(), &worker.hands, hash, &object);
        if loser == Loser::Demoted {
            self.hide(&lock, object);
        }
        loser
    }
}
