//! Threads that serve no client: one takes the cache's steps and hands the time in, one trains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use cache::{Cache, Device, Trained};

use crate::shared::Server;
use crate::telling::tell_evicted;
use crate::watch::Topic;

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

impl Background {
    pub(crate) fn start(
        server: &Arc<Server>,
        cache: &Arc<Cache>,
        device: Option<Arc<dyn Device>>,
    ) -> std::io::Result<Background> {
        let server = Arc::clone(server);
        let stop = Arc::new(AtomicBool::new(false));
        let (for_cleaner, for_trainer) = (Arc::clone(cache), Arc::clone(cache));
        let (stop_cleaner, stop_trainer) = (Arc::clone(&stop), Arc::clone(&stop));
        let cleaner = std::thread::Builder::new().name("cleaner".to_owned());
        let cleaner = cleaner.spawn(move || clean(&server, &for_cleaner, device.as_deref(), &stop_cleaner))?;
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

fn clean(server: &Server, cache: &Cache, device: Option<&dyn Device>, stop: &AtomicBool) {
    let mut background = cache.background();
    while !stop.load(Ordering::Relaxed) {
        cache.advance(server.now());
        let watched = server.watchers.wants(Topic::Evictions);
        cache.watch_evictions(watched);
        if watched {
            tell_evicted(&server.watchers, &cache.take_evictions(), cache.now());
        }
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
