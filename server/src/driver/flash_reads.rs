//! Threads that read flash for the tokio driver, which has no asynchronous reads of its own.

use std::sync::Arc;
use std::thread::JoinHandle;

use cache::{Device, FlashRead, Page};
use crossbeam_channel::{Sender, unbounded};
use tokio::sync::mpsc::UnboundedSender;

use crate::session::{Slot, Wanted};

/// Reads under way at once: enough to keep an SSD busy, few enough to cost nothing when idle.
const THREADS: usize = 16;

/// A read that has come back.
pub(crate) struct Arrived {
    pub(crate) slot: Slot,
    pub(crate) read: FlashRead,
    pub(crate) pages: Option<Vec<Page>>,
}

struct Job {
    wanted: Wanted,
    to: UnboundedSender<Arrived>,
}

/// A pool of reading threads. They end when it is dropped.
pub(crate) struct FlashReads {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl FlashReads {
    pub(crate) fn start(device: &Arc<dyn Device>) -> std::io::Result<FlashReads> {
        let (jobs, queue) = unbounded::<Job>();
        let threads = (0..THREADS)
            .map(|n| {
                let (queue, device) = (queue.clone(), Arc::clone(device));
                std::thread::Builder::new().name(format!("flash-{n}")).spawn(move || {
                    for job in queue {
                        perform(&*device, job);
                    }
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(FlashReads { jobs: Some(jobs), threads })
    }

    /// Reads what is wanted and sends it to `to`. How many reads wait is bounded by the connections.
    pub(crate) fn submit(&self, wanted: Wanted, to: UnboundedSender<Arrived>) {
        let jobs = self.jobs.as_ref().expect("the pool lives until it is dropped");
        // the threads end only with the pool, so the job is always taken
        let _ = jobs.send(Job { wanted, to });
    }
}

fn perform(device: &dyn Device, job: Job) {
    let Wanted { slot, read } = job.wanted;
    let mut pages = vec![Page::ZERO; read.pages()];
    let pages = device.read(read.at(), &mut pages).is_ok().then_some(pages);
    // the connection may be gone by now
    let _ = job.to.send(Arrived { slot, read, pages });
}

impl Drop for FlashReads {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
