//! What threads share: the standard library's atomics and parking_lot's mutexes; under the feature `model`, shuttle's, so that a
//! model checker decides who runs when (`model_checked.rs`).

#[cfg(not(feature = "model"))]
mod chosen {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};

    pub(crate) use parking_lot::{Mutex, MutexGuard};

    pub(crate) use crate::region::Region as Words;

    /// Locks of an index.
    pub(crate) const LOCKS: usize = 1024;
    /// Threads that may take part in reclamation at once.
    pub(crate) const PARTICIPANTS_MAX: usize = 256;
}

#[cfg(feature = "model")]
mod chosen {
    use std::io;

    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    pub(crate) const LOCKS: usize = 4;
    pub(crate) const PARTICIPANTS_MAX: usize = 3;

    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(inner: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(inner))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics with a lock")
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    /// Words that the model checker sees, in the place of a mapping.
    pub(crate) struct Words(Box<[AtomicU64]>);

    impl Words {
        pub(crate) fn map(len: usize) -> io::Result<Words> {
            Ok(Words((0..len / 8).map(|_| AtomicU64::new(0)).collect()))
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len() * 8
        }

        pub(crate) fn words(&self) -> &[AtomicU64] {
            &self.0
        }

        pub(crate) fn prefetch(&self, _at: usize) {}

        pub(crate) fn discard(&self, at: usize, len: usize) {
            self.0[at / 8..(at + len) / 8].iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
    }
}

pub(crate) use chosen::*;
