//! What the scheduler is told of our threads: workers want the processor soon and for a short time, what works beside them can wait.
//!
//! Where both share a core, a worker that has something to do would else wait until a cleaner pass has used its slice up, some
//! milliseconds. Slices of one's own are heeded from Linux 6.12 on; before, and where a sandbox forbids it, all is as it was.

#![expect(unsafe_code, reason = "system calls that no library offers")]

use std::io;

/// Time in nanoseconds that a worker wants at once, the least that the kernel takes: who wants less is preferred on waking up.
const WORKER_SLICE: u64 = 100_000;
/// Steps by which background threads are nicer than workers: a tenth of their weight.
const BACKGROUND_NICER: i32 = 10;
/// The kernel knows no nicer.
const NICEST: i32 = 19;

/// For the calling thread, a worker.
pub(crate) fn of_worker() {
    // what is refused here costs tails, and nothing else
    let _ = change(|attributes| attributes.sched_runtime = WORKER_SLICE);
}

/// For the calling thread, which works beside the workers.
pub(crate) fn of_background() {
    let _ = change(|attributes| attributes.sched_nice = (attributes.sched_nice + BACKGROUND_NICER).min(NICEST)); // as above
}

/// Changes what the scheduler knows of the calling thread. Who runs the server under a policy of another kind keeps that.
fn change(with: impl FnOnce(&mut libc::sched_attr)) -> io::Result<()> {
    const CALLER: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let bytes = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: the structure is of integers only, for which all bits clear is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most so many bytes there.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, CALLER, &raw mut attributes, bytes, NO_FLAGS) })?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    with(&mut attributes);
    attributes.size = bytes;
    // SAFETY: the kernel reads as many bytes as `size` says.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, CALLER, &raw const attributes, NO_FLAGS) })
}

fn check(status: libc::c_long) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_after(told: fn()) -> (i32, u64) {
        let seen = std::thread::spawn(move || {
            told();
            let mut seen = (0, 0);
            change(|attributes| seen = (attributes.sched_nice, attributes.sched_runtime)).map(|()| seen)
        });
        seen.join().unwrap().unwrap_or((0, 0))
    }

    #[test]
    fn background_threads_are_nicer_and_workers_are_not() {
        let (own, _) = nice_after(|| {});
        let (worker, slice) = nice_after(of_worker);
        let (background, _) = nice_after(of_background);
        if background != own {
            assert_eq!((worker, background), (own, (own + BACKGROUND_NICER).min(NICEST)));
            assert!(slice == 0 || slice == WORKER_SLICE, "older kernels tell nothing of it: {slice}");
        }
    }
}
