//! Start, serve, stop.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use cache::{Cache, Device, FileDevice};
use tokio::sync::watch;

use crate::background::{Background, unix_secs};
use crate::config::{Config, FlashPath};
use crate::driver::{FlashReads, Worker, WorkerParts};
use crate::stats::Server;

/// A running server.
pub struct Running {
    /// The port that it listens on.
    pub port: u16,
    /// What it serves from.
    pub cache: Arc<Cache>,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    acceptors: Vec<(JoinHandle<()>, std::net::SocketAddr)>,
    workers: Vec<Worker>,
    background: Background,
}

/// Opens the flash, or says why the server goes on without.
fn open_flash(config: &mut Config) -> Result<Option<Arc<dyn Device>>> {
    let Some(flash) = config.flash.clone() else { return Ok(None) };
    let opened = prepare(&flash);
    match opened {
        Ok(device) => Ok(Some(device)),
        Err(error) if flash.asked_for => Err(error.context("--flash")),
        Err(error) => {
            eprintln!(
                "flashare: serving from DRAM only: {error:#}; name a place with --flash PATH:SIZE, or say --no-flash"
            );
            config.flash = None;
            config.cache.flash = None;
            Ok(None)
        }
    }
}

fn prepare(flash: &FlashPath) -> Result<Arc<dyn Device>> {
    if !flash.asked_for
        && let Some(folder) = flash.path.parent()
    {
        std::fs::create_dir_all(folder).with_context(|| format!("state folder {}", folder.display()))?;
    }
    let device = FileDevice::open(&flash.path, flash.bytes)?;
    if !device.is_direct() {
        eprintln!("flashare: {} has no direct I/O: its pages are cached twice", flash.path.display());
    }
    Ok(Arc::new(device))
}

/// Starts a server. It serves when this returns.
pub fn start(mut config: Config) -> Result<Running> {
    let device = open_flash(&mut config)?;
    let cache = Arc::new(Cache::new(config.cache.clone())?);
    if let (Some(device), Some(flash)) = (&device, config.cache.flash) {
        let segment_bytes = cache.figures().flash.map_or(0, |flash| flash.segment_bytes);
        let segments = (flash.bytes / segment_bytes.max(1) as u64) as u32;
        device.write(0, &[cache::superblock(segment_bytes, segments)]).context("writing to flash")?;
    }
    cache.advance(unix_secs());
    let background = Background::start(&cache, device.clone())?;
    let reads = device.as_ref().map(FlashReads::start).transpose()?.map(Arc::new);
    let server = Arc::new(Server::new(config));
    let (stop, stopped) = watch::channel(false);
    let parts = || WorkerParts {
        server: Arc::clone(&server),
        cache: Arc::clone(&cache),
        reads: reads.clone(),
        cleaner: background.waker(),
        stop: stopped.clone(),
    };
    let workers =
        (0..server.config.threads).map(|number| Worker::start(number, parts())).collect::<std::io::Result<Vec<_>>>()?;
    let mut running = Running {
        port: 0,
        cache: Arc::clone(&cache),
        stop,
        stopping: Arc::new(AtomicBool::new(false)),
        acceptors: Vec::new(),
        workers,
        background,
    };
    running.port = running.listen(&server, server.config.port, None)?;
    for port in cache.registry().ports().collect::<Vec<_>>() {
        running.listen(&server, port, cache.registry().by_port(port))?;
    }
    Ok(running)
}

impl Running {
    fn listen(&mut self, server: &Arc<Server>, port: u16, tenant: Option<u16>) -> Result<u16> {
        let listener = bind(&server.config.listen, port)
            .with_context(|| format!("cannot listen on {}:{port}", server.config.listen))?;
        let at = listener.local_addr()?;
        let acceptor = Acceptor {
            server: Arc::clone(server),
            stopping: Arc::clone(&self.stopping),
            workers: self.workers.iter().map(|worker| worker.accepted.clone()).collect(),
            next: AtomicUsize::new(0),
            tenant,
        };
        let thread = std::thread::Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run(&listener))?;
        self.acceptors.push((thread, at));
        Ok(at.port())
    }

    /// Stops it: no new connections, what was begun is finished, threads end.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::SeqCst);
        for (thread, at) in self.acceptors {
            // wakes the acceptor from its wait
            let _ = TcpStream::connect(at);
            let _ = thread.join();
        }
        let _ = self.stop.send(true);
        for worker in self.workers {
            drop(worker.accepted);
            let _ = worker.thread.join();
        }
        self.background.stop();
    }
}

fn bind(listen: &str, port: u16) -> Result<TcpListener> {
    let at = (listen, port).to_socket_addrs()?.next().context("the address names no host")?;
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Accepts on one port and deals the connections out to the workers in turn.
struct Acceptor {
    server: Arc<Server>,
    stopping: Arc<AtomicBool>,
    workers: Vec<tokio::sync::mpsc::UnboundedSender<(TcpStream, Option<u16>)>>,
    next: AtomicUsize,
    tenant: Option<u16>,
}

impl Acceptor {
    fn run(&self, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                // out of descriptors, or the client has gone: the next one may do better, a little later
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    }

    fn admit(&self, mut stream: TcpStream) {
        let server = &self.server;
        if server.connections.fetch_add(1, Ordering::Relaxed) >= server.config.connections_max {
            server.connections.fetch_sub(1, Ordering::Relaxed);
            server.connections_rejected.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"ERROR Too many open connections\r\n");
            return;
        }
        server.connections_total.fetch_add(1, Ordering::Relaxed);
        let worker = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        if self.workers[worker].send((stream, self.tenant)).is_err() {
            server.connections.fetch_sub(1, Ordering::Relaxed); // stopping
        }
    }
}
