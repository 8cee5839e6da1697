//! Threads that read flash for the tokio driver, which has no asynchronous reads of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::{Device, FlashRead, Page};
use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use super::{READ_MAX, READS_LOOK};
use crate::awake::Awake;
use crate::session::{Slot, Wanted};

/// Reads under way at once: enough to keep an SSD busy, few enough to cost nothing when idle.
const THREADS: usize = 16;

/// A read that has come back.
pub(crate) struct Arrived {
    pub(crate) slot: Slot,
    pub(crate) read: FlashRead,
    pub(crate) pages: Option<Vec<Page>>,
}

/// A read that is under way: whoever takes it answers it, the thread that reads or the one that watches.
type Pending = Arc<Mutex<Option<FlashRead>>>;

struct Job {
    slot: Slot,
    pending: Pending,
    to: UnboundedSender<Arrived>,
}

/// A job as the watcher sees it.
struct Watched {
    /// By the clock of all that is watched.
    begun: Duration,
    slot: Slot,
    pending: Pending,
    to: UnboundedSender<Arrived>,
}

/// Reads under way, the oldest first.
struct Watch {
    awake: Awake,
    reads: VecDeque<Watched>,
}

/// A pool of reading threads. They end when it is dropped; those that hang are left to themselves.
pub(crate) struct FlashReads {
    jobs: Option<Sender<Job>>,
    /// Each of the threads has one more of it.
    alive: Arc<()>,
    watch: Arc<Mutex<Watch>>,
}

impl FlashReads {
    pub(crate) fn start(device: &Arc<dyn Device>) -> std::io::Result<FlashReads> {
        let (jobs, queue) = unbounded::<Job>();
        let alive = Arc::new(());
        for n in 0..THREADS {
            let (queue, device, alive) = (queue.clone(), Arc::clone(device), Arc::clone(&alive));
            std::thread::Builder::new().name(format!("flash-{n}")).spawn(move || {
                for job in queue {
                    perform(&*device, &job);
                }
                drop((device, alive));
            })?;
        }
        let watch = Arc::new(Mutex::new(Watch { awake: Awake::new(), reads: VecDeque::new() }));
        let watching = Arc::downgrade(&watch);
        std::thread::Builder::new().name("flash-watch".to_owned()).spawn(move || {
            while let Some(watch) = watching.upgrade() {
                give_up(&watch);
                drop(watch);
                std::thread::sleep(READS_LOOK);
            }
        })?;
        Ok(FlashReads { jobs: Some(jobs), alive, watch })
    }

    /// Reads what is wanted and sends it to `to`. How many reads wait is bounded by the connections.
    pub(crate) fn submit(&self, wanted: Wanted, to: UnboundedSender<Arrived>) {
        let Wanted { slot, read } = wanted;
        let pending = Arc::new(Mutex::new(Some(read)));
        {
            let mut watch = self.watch.lock();
            while watch.reads.front().is_some_and(|oldest| oldest.pending.lock().is_none()) {
                watch.reads.pop_front();
            }
            let begun = watch.awake.look();
            watch.reads.push_back(Watched { begun, slot, pending: Arc::clone(&pending), to: to.clone() });
        }
        let jobs = self.jobs.as_ref().expect("the pool lives until it is dropped");
        // the threads end only with the pool, so the job is always taken
        let _ = jobs.send(Job { slot, pending, to });
    }
}

impl Drop for FlashReads {
    fn drop(&mut self) {
        self.jobs = None;
        let began = Instant::now();
        while Arc::strong_count(&self.alive) > 1 && began.elapsed() < READ_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Answers reads that have taken too long without what they wanted.
fn give_up(watch: &Mutex<Watch>) {
    loop {
        let overdue = {
            let mut watch = watch.lock();
            let now = watch.awake.look();
            let is_due = |oldest: &Watched| now - oldest.begun >= READ_MAX || oldest.pending.lock().is_none();
            if watch.reads.front().is_some_and(is_due) { watch.reads.pop_front() } else { None }
        };
        let Some(Watched { slot, pending, to, .. }) = overdue else { return };
        if let Some(read) = pending.lock().take() {
            let _ = to.send(Arrived { slot, read, pages: None });
        }
    }
}

fn perform(device: &dyn Device, job: &Job) {
    let Some((at, count)) = job.pending.lock().as_ref().map(|read| (read.at(), read.pages())) else { return };
    let mut pages = vec![Page::ZERO; count];
    let pages = device.read(at, &mut pages).is_ok().then_some(pages);
    if let Some(read) = job.pending.lock().take() {
        // the connection may be gone by now
        let _ = job.to.send(Arrived { slot: job.slot, read, pages });
    }
}
