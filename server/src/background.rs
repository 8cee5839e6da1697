//! Threads that serve no client: one takes the cache's steps and hands the time in, one trains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::{Cache, Device, Trained};

/// Longest sleep of the cleaner: it is woken when it is wanted.
const CLEANER_SLEEP: Duration = Duration::from_millis(20);
/// Sleep of the trainer between looks.
const TRAINER_SLEEP: Duration = Duration::from_millis(50);

/// The background threads of a server.
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    cleaner: JoinHandle<()>,
    trainer: JoinHandle<()>,
}

/// Seconds since the epoch.
pub(crate) fn unix_secs() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

impl Background {
    pub(crate) fn start(cache: &Arc<Cache>, device: Option<Arc<dyn Device>>) -> std::io::Result<Background> {
        let stop = Arc::new(AtomicBool::new(false));
        let (for_cleaner, for_trainer) = (Arc::clone(cache), Arc::clone(cache));
        let (stop_cleaner, stop_trainer) = (Arc::clone(&stop), Arc::clone(&stop));
        let cleaner = std::thread::Builder::new().name("cleaner".to_owned());
        let cleaner = cleaner.spawn(move || clean(&for_cleaner, device.as_deref(), &stop_cleaner))?;
        let trainer = std::thread::Builder::new().name("trainer".to_owned());
        let trainer = trainer.spawn(move || train(&for_trainer, &stop_trainer))?;
        Ok(Background { stop, cleaner, trainer })
    }

    /// Wakes the cleaner.
    pub(crate) fn waker(&self) -> Thread {
        self.cleaner.thread().clone()
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in [self.cleaner, self.trainer] {
            thread.thread().unpark();
            // a panic there was reported when it happened
            let _ = thread.join();
        }
    }
}

fn clean(cache: &Cache, device: Option<&dyn Device>, stop: &AtomicBool) {
    let mut background = cache.background();
    while !stop.load(Ordering::Relaxed) {
        cache.advance(unix_secs());
        if !cache.step(&mut background, device) {
            std::thread::park_timeout(CLEANER_SLEEP);
        }
    }
}

fn train(cache: &Cache, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if cache.train_step() == Trained::Nothing {
            std::thread::park_timeout(TRAINER_SLEEP);
        }
    }
}
