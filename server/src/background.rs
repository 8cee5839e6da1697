//! Threads that serve no client: one takes the cache's steps and hands the time in, some help it to clean when it cannot keep up, one trains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use cache::{Cache, Device, PartState, Trained};

use crate::limits::LIMITS_FILLED;
use crate::patient::{PatientDevice, PatientWriter};
use crate::priority;
use crate::restart;
use crate::shared::Server;
use crate::telling::tell_evicted;
use crate::watch::Topic;

/// Longest sleep of the cleaner: it is woken when it is wanted.
const CLEANER_SLEEP: Duration = Duration::from_millis(20);
/// Steps in a row after which memory was still short, before others are called to help.
const BEHIND_STEPS: u32 = 2;
/// The part of a core that the trainer may take for long, and what it may take at first, when there is everything to learn.
const TRAINER_PART: u32 = 40;
const TRAINER_SAVED: Duration = Duration::from_secs(10);
/// Sleep of the trainer between looks.
const TRAINER_SLEEP: Duration = Duration::from_millis(50);

/// How often the state of flash devices is looked at.
const PROBE_LOOK: Duration = Duration::from_millis(100);
/// Shortest and longest time between two tries of a device that has failed.
const PROBE_MIN: Duration = Duration::from_millis(500);
const PROBE_MAX: Duration = Duration::from_secs(30);
/// Time between two lines about a search after a crash.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// The background threads of a server.
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    /// The cleaner ends after its helpers, which may be waiting for it.
    stop_cleaner: Arc<AtomicBool>,
    cleaner: JoinHandle<()>,
    helpers: Vec<JoinHandle<()>>,
    trainer: JoinHandle<()>,
    /// Makes the journal outlive the machine every so often, if that was asked for.
    syncer: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(
        server: &Arc<Server>,
        cache: &Arc<Cache>,
        device: Option<Arc<dyn Device>>,
    ) -> std::io::Result<Background> {
        let server = Arc::clone(server);
        let stop = Arc::new(AtomicBool::new(false));
        let (for_cleaner, for_trainer) = (Arc::clone(cache), Arc::clone(cache));
        let stop_trainer = Arc::clone(&stop);
        let stop_cleaner = Arc::new(AtomicBool::new(false));
        let cleaner_stop = Arc::clone(&stop_cleaner);
        let cleaner = std::thread::Builder::new().name("cleaner".to_owned());
        let patient = device.clone().map(PatientDevice::new).transpose()?;
        let writer = device.clone().map(|device| PatientWriter::new(cache, device));
        let help = |number| {
            let (cache, stop) = (Arc::clone(cache), Arc::clone(&stop));
            std::thread::Builder::new().name(format!("cleaner-{number}")).spawn(move || help(&cache, &stop))
        };
        let helpers = (1..server.config.cleaners).map(help).collect::<std::io::Result<Vec<_>>>()?;
        let called: Vec<Thread> = helpers.iter().map(|helper| helper.thread().clone()).collect();
        let for_cleaner = (for_cleaner, patient, writer, called);
        let cleaner = cleaner.spawn(move || {
            let (cache, device, writer, helpers) = for_cleaner;
            let device = device.as_ref().map(|device| device as &dyn Device);
            clean(&server, &cache, device, writer, &helpers, &cleaner_stop);
        })?;
        if let Some(device) = device {
            let (cache, device, stop) = (Arc::downgrade(cache), Arc::downgrade(&device), Arc::clone(&stop));
            // it may hang with a device, so nobody waits for its end
            std::thread::Builder::new()
                .name("flash-probe".to_owned())
                .spawn(move || look_after(&cache, &device, &stop))?;
        }
        let trainer = std::thread::Builder::new().name("trainer".to_owned());
        let trainer = trainer.spawn(move || train(&for_trainer, &stop_trainer))?;
        let every = cache.journal().and_then(cache::Journal::sync_every);
        let syncer = every.map(|every| {
            let (cache, stop) = (Arc::clone(cache), Arc::clone(&stop));
            std::thread::Builder::new().name("syncer".to_owned()).spawn(move || sync(&cache, every, &stop))
        });
        Ok(Background { stop, stop_cleaner, cleaner, helpers, trainer, syncer: syncer.transpose()? })
    }

    /// Wakes the cleaner.
    pub(crate) fn waker(&self) -> Thread {
        self.cleaner.thread().clone()
    }

    pub(crate) fn stop(self) {
        let end = |stop: &AtomicBool, threads: &mut dyn Iterator<Item = JoinHandle<()>>| {
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.thread().unpark();
                // a panic there was reported when it happened
                let _ = thread.join();
            }
        };
        end(&self.stop, &mut self.helpers.into_iter().chain([self.trainer]).chain(self.syncer));
        end(&self.stop_cleaner, &mut [self.cleaner].into_iter());
    }
}

/// Ends the process if its thread panics: a server without a worker or without its cleaner looks alive and is not. Whoever watches over it
/// starts it again.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn clean(
    server: &Server,
    cache: &Cache,
    device: Option<&dyn Device>,
    writer: Option<PatientWriter>,
    helpers: &[Thread],
    stop: &AtomicBool,
) {
    priority::of_background();
    let _on_panic = AbortOnPanic;
    let mut background = cache.background();
    if let Some(writer) = writer {
        background.write_with(Box::new(writer));
    }
    let mut recovery = Recovery::of(cache);
    let mut journal_works = true;
    let mut metered = Instant::now();
    let mut behind = 0;
    while !stop.load(Ordering::Relaxed) {
        cache.advance(server.now());
        let passed = metered.elapsed();
        if passed >= LIMITS_FILLED {
            metered += passed;
            cache.pass_limits(u32::try_from(passed.as_millis()).unwrap_or(u32::MAX));
        }
        let watched = server.watchers.wants(Topic::Evictions);
        cache.watch_evictions(watched);
        if watched {
            tell_evicted(&server.watchers, &cache.take_evictions(), cache.now());
        }
        let more = cache.step(&mut background, device);
        behind = if more && cache.wants_cleaning() { behind + 1 } else { 0 };
        if behind >= BEHIND_STEPS {
            helpers.iter().for_each(Thread::unpark);
        }
        recovery.tell(cache);
        if let Some(device) = device
            && std::mem::replace(&mut journal_works, cache.journal().is_none_or(cache::Journal::works))
            && !journal_works
        {
            restart::disown_journal(cache, device);
        }
        if !more {
            std::thread::park_timeout(CLEANER_SLEEP);
        }
    }
    cache.finish_writing(&mut background);
}

/// Makes cleaner passes when it is called, as long as memory is short.
fn help(cache: &Cache, stop: &AtomicBool) {
    priority::of_background();
    let _on_panic = AbortOnPanic;
    let mut helper = cache.helper();
    while !stop.load(Ordering::Relaxed) {
        if !cache.help(&mut helper) {
            std::thread::park();
        }
    }
}

/// Says which flash devices fail, looks whether they answer again, and has them used again when they do.
fn look_after(cache: &Weak<Cache>, device: &Weak<dyn Device>, stop: &AtomicBool) {
    let mut known = cache.upgrade().map(|cache| cache.flash_parts()).unwrap_or_default();
    let mut pauses = vec![PROBE_MIN; known.len()];
    let mut due = vec![Instant::now(); known.len()];
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(PROBE_LOOK);
        let (Some(cache), Some(device)) = (cache.upgrade(), device.upgrade()) else { return };
        for (number, state) in cache.flash_parts().into_iter().enumerate() {
            let name = if known.len() == 1 { "flash".to_owned() } else { format!("flash device {}", number + 1) };
            if known[number] == PartState::In && state != PartState::In {
                eprintln!("flashare: {name} fails: it is taken out, and looked at until it answers");
                (pauses[number], due[number]) = (PROBE_MIN, Instant::now() + PROBE_MIN);
            }
            known[number] = state;
            if state != PartState::Out || Instant::now() < due[number] {
                continue;
            }
            let answer = device.reopen(number).map_err(anyhow::Error::from);
            match answer.and_then(|is_another| restart::probe(&cache, &*device, number).map(|()| is_another)) {
                Ok(is_another) => {
                    cache.bring_back(number, is_another);
                    known[number] = PartState::In;
                    let with = if is_another { "empty: it is another one" } else { "with what it had" };
                    eprintln!("flashare: {name} answers again, and is used again, {with}");
                }
                Err(_) => {
                    pauses[number] = (pauses[number] * 2).min(PROBE_MAX);
                    due[number] = Instant::now() + pauses[number];
                }
            }
        }
    }
}

/// How far the search after a crash has come, for the log.
struct Recovery {
    began: Instant,
    told: Instant,
    segments: usize,
}

impl Recovery {
    fn of(cache: &Cache) -> Recovery {
        let segments = cache.figures().flash.map_or(0, |flash| flash.to_recover);
        Recovery { began: Instant::now(), told: Instant::now(), segments }
    }

    fn tell(&mut self, cache: &Cache) {
        if self.segments == 0 || cache.is_recovering() && self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let (objects, left) = cache.figures().flash.map_or((0, 0), |flash| (flash.recovered, flash.to_recover));
        let (segments, passed) = (self.segments, self.began.elapsed().as_secs_f64());
        if cache.is_recovering() {
            let done = segments.saturating_sub(left);
            eprintln!("flashare: {done} of {segments} segments looked through, {objects} objects found");
        } else {
            eprintln!("flashare: {segments} segments looked through in {passed:.1} s: {objects} objects serve again");
            self.segments = 0;
        }
    }
}

fn sync(cache: &Cache, every: Duration, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(every);
        if let Some(journal) = cache.journal() {
            journal.sync();
        }
    }
}

/// Trains what is to be trained, in a bounded share of a core: what it may work is saved up, to [`TRAINER_SAVED`], and spent by working.
fn train(cache: &Cache, stop: &AtomicBool) {
    priority::of_background();
    let (begun, mut worked) = (Instant::now(), Duration::ZERO);
    let mut forgone = Duration::ZERO; // what was not saved, because enough was
    while !stop.load(Ordering::Relaxed) {
        let allowed = TRAINER_SAVED + begun.elapsed() / TRAINER_PART - forgone;
        let left = allowed.saturating_sub(worked);
        forgone += left.saturating_sub(TRAINER_SAVED);
        let began = Instant::now();
        if left.is_zero() || cache.train_step() == Trained::Nothing {
            std::thread::park_timeout(TRAINER_SLEEP);
        } else {
            worked += began.elapsed();
        }
    }
}
