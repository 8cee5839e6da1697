//! Flash for the background thread, which must not hang when a device does: reads and writes are done by threads of their own, and
//! given up after a while. A thread that hangs is left to itself until its device answers.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use cache::{Cache, Device, FlashSegmentId, Page, SegmentWriter, WriteIntent};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::awake::Awake;

/// Longest time that a segment's read or write may take.
const SEGMENT_MAX: Duration = Duration::from_secs(5);
/// How often who waits for that looks how long it is.
const LOOK: Duration = Duration::from_millis(250);

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the device does not answer")
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what may hang, one thing after another. Where one hangs another takes its place. Few wait in its queue at any time: who has something
/// done waits for that, but for one read ahead.
struct Helper {
    jobs: Sender<Job>,
    _thread: JoinHandle<()>,
}

impl Helper {
    fn start() -> io::Result<Helper> {
        let (jobs, queue) = unbounded::<Job>();
        let thread =
            std::thread::Builder::new().name("flash-io".to_owned()).spawn(move || queue.iter().for_each(|job| job()));
        Ok(Helper { jobs, _thread: thread? })
    }

    /// Has something done; what it returns comes through the channel.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
        let (done, result) = bounded(1);
        let job = Box::new(move || {
            let _ = done.send(work()); // nobody may wait for it any more
        });
        self.jobs.send(job).map_err(|_| io::Error::other("the thread of the device has ended"))?;
        Ok(result)
    }
}

/// A device whose calls end in time.
pub(crate) struct PatientDevice {
    device: Arc<dyn Device>,
    helper: Mutex<Helper>,
    /// What is being read already, and from where.
    ahead: Mutex<Option<(u64, Arriving)>>,
}

/// Pages on their way.
type Arriving = Receiver<io::Result<Vec<Page>>>;

impl PatientDevice {
    pub(crate) fn new(device: Arc<dyn Device>) -> io::Result<PatientDevice> {
        Ok(PatientDevice { device, helper: Mutex::new(Helper::start()?), ahead: Mutex::default() })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Device) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let result = self.begin(work)?;
        self.wait_for(&result)
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Device) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Receiver<io::Result<T>>> {
        let device = Arc::clone(&self.device);
        self.helper.lock().run(move || work(&*device))
    }

    fn wait_for<T>(&self, result: &Receiver<io::Result<T>>) -> io::Result<T> {
        let mut awake = Awake::new();
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if awake.look() < SEGMENT_MAX => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    *self.helper.lock() = Helper::start()?; // that one hangs
                    return Err(timed_out());
                }
            }
        }
    }
}

impl Device for PatientDevice {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        pages.copy_from_slice(&self.read_into(at, pages.to_vec())?);
        Ok(())
    }

    fn read_into(&self, at: u64, mut pages: Vec<Page>) -> io::Result<Vec<Page>> {
        let ahead = self.ahead.lock().take();
        match ahead.filter(|(from, _)| *from == at) {
            Some((_, arriving)) => self.wait_for(&arriving),
            None => self.run(move |device| device.read(at, &mut pages).map(|()| pages)),
        }
    }

    fn will_read(&self, at: u64, pages: usize) {
        let arriving = self.begin(move |device| {
            let mut pages = vec![Page::ZERO; pages];
            device.read(at, &mut pages).map(|()| pages)
        });
        *self.ahead.lock() = arriving.ok().map(|arriving| (at, arriving));
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        let pages = pages.to_vec();
        self.run(move |device| device.write(at, &pages))
    }

    fn sync(&self) -> io::Result<()> {
        self.run(|device| device.sync())
    }

    fn discard(&self, at: u64, bytes: u64) -> io::Result<bool> {
        self.run(move |device| device.discard(at, bytes))
    }

    fn first_pages(&self) -> Vec<u64> {
        self.device.first_pages()
    }

    fn bytes(&self) -> u64 {
        self.device.bytes()
    }
}

/// A segment on its way.
struct Writing {
    segment: FlashSegmentId,
    awake: Awake,
    result: Option<Receiver<bool>>,
}

/// Writes one segment at a time, beside the cleaner.
pub(crate) struct PatientWriter {
    cache: Arc<Cache>,
    device: Arc<dyn Device>,
    helper: io::Result<Helper>,
    writing: Option<Writing>,
    ended: Option<(FlashSegmentId, bool)>,
}

impl PatientWriter {
    pub(crate) fn new(cache: &Arc<Cache>, device: Arc<dyn Device>) -> PatientWriter {
        PatientWriter { cache: Arc::clone(cache), device, helper: Helper::start(), writing: None, ended: None }
    }

    /// Takes what comes within `patience`; what has taken too long has failed.
    fn look(&mut self, patience: Duration) {
        let Some(Writing { segment, awake, result }) = &mut self.writing else { return };
        let arrived = match result {
            Some(result) => result.recv_timeout(patience).map_err(|error| error == RecvTimeoutError::Disconnected),
            None => Err(true), // it could not be begun
        };
        let ok = match arrived {
            Ok(ok) => ok,
            Err(broken) if broken || awake.look() >= SEGMENT_MAX => {
                self.helper = Helper::start(); // that one hangs
                false
            }
            Err(_) => return,
        };
        self.ended = Some((*segment, ok));
        self.writing = None;
    }
}

impl SegmentWriter for PatientWriter {
    fn begin(&mut self, intent: WriteIntent) {
        let (cache, device) = (Arc::clone(&self.cache), Arc::clone(&self.device));
        let segment = intent.segment;
        let result = self
            .helper
            .as_ref()
            .ok()
            .and_then(|helper| helper.run(move || cache.write_segment(&*device, &intent)).ok());
        self.writing = Some(Writing { segment, awake: Awake::new(), result });
    }

    fn finished(&mut self) -> Option<(FlashSegmentId, bool)> {
        self.look(Duration::ZERO);
        self.ended.take()
    }

    fn wait(&mut self) {
        while self.writing.is_some() {
            self.look(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use cache::{MemoryDevice, PAGE_BYTES};

    use super::*;

    /// A device that takes its time, as one does whose thread has no core.
    struct Slow(MemoryDevice);

    impl Device for Slow {
        fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
            std::thread::sleep(Duration::from_millis(20));
            self.0.read(at, pages)
        }

        fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
            self.0.write(at, pages)
        }

        fn bytes(&self) -> u64 {
            self.0.bytes()
        }
    }

    #[test]
    fn a_read_waits_for_one_that_nobody_waits_for_any_more() {
        let device = MemoryDevice::new(16 * PAGE_BYTES as u64);
        let at = |page: u8| u64::from(page) * PAGE_BYTES as u64;
        (0..16).for_each(|page| device.write(at(page), &[Page([page; PAGE_BYTES])]).unwrap());
        let patient = PatientDevice::new(Arc::new(Slow(device))).unwrap();
        let read = |page: u8| patient.read_into(at(page), vec![Page::ZERO]).unwrap()[0].0[0];
        // read ahead twice, and then something else: the search after a crash, and a segment that is recycled beside it
        (0..3).for_each(|page| patient.will_read(at(page), 1));
        assert_eq!(read(9), 9);
        patient.will_read(at(5), 1);
        assert_eq!([read(5), read(6)], [5, 6]);
    }
}
