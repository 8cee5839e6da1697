//! Drivers: what moves bytes between sockets, flash and sessions.

mod flash_reads;
mod tokio;
mod udp;
mod uring;
mod wire;

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use ::tokio::sync::mpsc::UnboundedSender;
use ::tokio::sync::watch;
use cache::{Cache, Device};
use crossbeam_channel::Sender;
use nix::sys::eventfd::EventFd;
use rustls::ServerConnection;

use crate::session::Arrival;
use crate::shared::Server;

pub(crate) use flash_reads::FlashReads;
pub(crate) use udp::UdpListener;
pub(crate) use uring::Accepts;
pub(crate) use wire::Accepted;

/// The drivers, by the names that --io and stats know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// io_uring where it can be had, else tokio.
    Auto,
    /// Portable: epoll, by tokio, and threads that read flash.
    Tokio,
    /// Linux's io_uring for sockets and flash.
    Uring,
}

impl Driver {
    /// As --io names it.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Auto => "auto",
            Driver::Tokio => "tokio",
            Driver::Uring => "uring",
        }
    }

    /// Which one a server is to use with this device. Fails if what was asked for cannot be had; says so in a line if another
    /// one is taken for that reason.
    pub(crate) fn choose(self, device: Option<&dyn Device>) -> io::Result<Driver> {
        if self == Driver::Tokio {
            return Ok(Driver::Tokio);
        }
        let has_descriptor = device.is_none_or(|device| device.descriptor(0).is_some());
        let usable =
            if has_descriptor { uring::probe() } else { Err(io::Error::other("the flash device has no file")) };
        match usable {
            Ok(()) => Ok(Driver::Uring),
            Err(error) if self == Driver::Auto => {
                eprintln!("flashare: --io tokio, since io_uring cannot be used here: {error}");
                Ok(Driver::Tokio)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn start(self, number: usize, parts: WorkerParts) -> io::Result<Worker> {
        match self {
            Driver::Auto | Driver::Tokio => tokio::start(number, parts),
            Driver::Uring => uring::start(number, parts),
        }
    }
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(name: &str) -> Result<Driver, String> {
        let all = [Driver::Auto, Driver::Tokio, Driver::Uring];
        all.into_iter()
            .find(|driver| driver.name() == name)
            .ok_or_else(|| format!("'{name}': take auto, uring or tokio"))
    }
}

/// A connection on its way to its worker.
pub(crate) struct Incoming {
    pub(crate) socket: Accepted,
    pub(crate) arrival: Arrival,
    pub(crate) tls: Option<ServerConnection>,
}

/// Longest time that a request waits for flash: it is answered as if the object were not there after that.
pub(crate) const READ_MAX: Duration = Duration::from_secs(2);
/// How often reads that are under way are looked at.
pub(crate) const READS_LOOK: Duration = Duration::from_millis(250);

/// What a worker works with.
pub(crate) struct WorkerParts {
    pub(crate) server: Arc<Server>,
    pub(crate) cache: Arc<Cache>,
    /// Who reads flash for the tokio driver.
    pub(crate) reads: Option<Arc<FlashReads>>,
    /// Where the io_uring driver reads flash from: it has a descriptor.
    pub(crate) device: Option<Arc<dyn Device>>,
    pub(crate) cleaner: Thread,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) udp: Option<UdpListener>,
}

/// A worker thread and the way to hand it connections.
pub(crate) struct Worker {
    pub(crate) handover: Handover,
    pub(crate) thread: JoinHandle<()>,
}

/// The way to a worker.
#[derive(Clone)]
pub(crate) enum Handover {
    Tokio(UnboundedSender<Incoming>),
    Uring(Sender<Incoming>, Arc<EventFd>),
}

impl Handover {
    /// Hands a connection over. False: the worker is gone.
    pub(crate) fn give(&self, incoming: Incoming) -> bool {
        let taken = match self {
            Handover::Tokio(sender) => sender.send(incoming).is_ok(),
            Handover::Uring(sender, _) => sender.send(incoming).is_ok(),
        };
        self.wake();
        taken
    }

    /// Has it look at what has changed.
    pub(crate) fn wake(&self) {
        if let Handover::Uring(_, wake) = self {
            let _ = wake.write(1); // it can only fail when it is full of wakes
        }
    }
}
