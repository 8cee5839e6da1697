//! Start, serve, stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cache::{Cache, CacheSettings, Device, FileDevice, JoinedDevice};
use tokio::sync::watch;

use crate::admin::{Admin, AdminSocket};
use crate::background::Background;
use crate::config::{Config, FlashPath, ListenAt, read_tenants};
use crate::driver::{Driver, FlashReads, Worker, WorkerParts};
use crate::listen::{Bound, Ports, bind_tcp, bind_udp, bind_unix};
use crate::machine;
use crate::restart::{self, Companions, MemoryFile, Opening, Restart};
use crate::shared::{Server, wall_secs};
use crate::tenancy::Tenancy;

/// A running server.
pub struct Running {
    /// The port that it listens on; 0 if it listens on a Unix socket.
    pub port: u16,
    /// What it serves from.
    pub cache: Arc<Cache>,
    server: Arc<Server>,
    stop: watch::Sender<bool>,
    ports: Arc<Ports>,
    tenancy: Arc<Tenancy>,
    socket_file: Option<PathBuf>,
    workers: Vec<Worker>,
    datagrams: Vec<Worker>,
    background: Background,
    /// Where what a clean stop leaves goes.
    left: Option<(Arc<dyn Device>, Companions)>,
    admin: Option<Admin>,
    /// Where DRAM's content goes at a clean stop.
    memory_file: Option<MemoryFile>,
}

/// Opens the flash, or says why the server goes on without.
fn open_flash(config: &mut Config) -> Result<Option<Arc<dyn Device>>> {
    if config.flash.is_empty() {
        return Ok(None);
    }
    let opened = config.flash.iter().map(|flash| prepare(flash, config.flash_format)).collect::<Result<Vec<_>>>();
    if let Ok(devices) = &opened
        && config.restart != Restart::Never
    {
        keep_segment_size(&mut config.cache, &*devices[0]);
    }
    match opened {
        Ok(mut devices) if devices.len() == 1 => Ok(devices.pop().map(Arc::from)),
        Ok(devices) => Ok(Some(Arc::new(JoinedDevice::new(devices, config.cache.segment_bytes())))),
        Err(error) if config.flash[0].asked_for => Err(error.context("--flash")),
        Err(error) => {
            eprintln!(
                "flashare: serving from DRAM only: {error:#}; name a place with --flash PATH:SIZE, or say --no-flash"
            );
            config.flash.clear();
            config.cache.flash = None;
            Ok(None)
        }
    }
}

/// Segments that hold something keep their size, unless another is asked for or they would be too large for the memory, or too small for the
/// flash, that there is now: with another size nothing of what they hold could be taken over.
fn keep_segment_size(cache: &mut CacheSettings, device: &dyn Device) {
    let former = restart::segment_bytes_of(device).filter(|bytes| cache.takes_segments_of(*bytes));
    if let Some(flash) = &mut cache.flash {
        flash.segment_bytes = flash.segment_bytes.or(former);
    }
}

fn prepare(flash: &FlashPath, overwrite: bool) -> Result<Box<dyn Device>> {
    if !flash.asked_for
        && let Some(folder) = flash.path.parent()
    {
        std::fs::create_dir_all(folder).with_context(|| format!("state folder {}", folder.display()))?;
    }
    let device = FileDevice::open(&flash.path, flash.bytes, overwrite)?;
    if !device.is_direct() {
        eprintln!("flashare: {} has no direct I/O: its pages are cached twice", flash.path.display());
    }
    Ok(Box::new(device))
}

/// Starts a server. It serves when this returns.
pub fn start(mut config: Config) -> Result<Running> {
    cache::give_back_large_buffers();
    let memory_bytes = config.cache.memory_bytes as u64;
    if let Some(most) = machine::memory_bytes().filter(|most| *most < memory_bytes) {
        let [asked, most] = [memory_bytes, most].map(|bytes| bytes >> 20);
        eprintln!(
            "flashare: -m is {asked} MiB, and this process may have {most} MiB: it will be killed or swapped when it fills up"
        );
    }
    let device = open_flash(&mut config)?;
    start_on(config, device)
}

/// Starts a server on a device that is open already. `config` still says what its files are called.
///
/// What may be in the way of a start (a port that is taken, a certificate that cannot be read) is found before it takes over what the last
/// stop left: that is believed once.
pub fn start_on(config: Config, device: Option<Arc<dyn Device>>) -> Result<Running> {
    let driver = config.driver.choose(device.as_deref()).context("--io uring")?;
    let mut server = Server::new(config, driver)?;
    let config = &server.config;
    let bound = bind_everywhere(config)?;
    let udp = bind_udp(&server)?;
    let admin = config.admin.as_ref().map(AdminSocket::bind).transpose()?;
    let companions = config.flash.first().and_then(|flash| Companions::of(&flash.path, config.state_dir.as_deref()));
    let companions = companions.filter(|_| config.restart != Restart::Never);
    let opening = device.as_deref().map(|device| Opening {
        device,
        companions: companions.as_ref(),
        restart: config.restart,
        sync: config.journal_sync,
        journal_bytes: config.journal_bytes,
    });
    let cache = Arc::new(restart::begin(&config.cache, opening.as_ref())?);
    let memory_file = config.memory_file.clone().map(MemoryFile);
    if let Some(file) = &memory_file
        && let Err(error) = file.load(&cache, device.as_deref())
    {
        if let Some((device, companions)) = device.as_deref().zip(companions.as_ref()) {
            leave_flash(&cache, device, companions, None);
        }
        return Err(error.context("-e"));
    }
    let wall = wall_secs();
    server.go_on_from(cache.begin_at(wall), wall);
    let server = Arc::new(server);
    cache.advance(server.now());
    let background = Background::start(&server, &cache, device.clone())?;
    let (stop, stopped) = watch::channel(false);
    let has_tokio = driver == Driver::Tokio || !udp.is_empty();
    let reads = device.as_ref().filter(|_| has_tokio).map(FlashReads::start).transpose()?.map(Arc::new);
    let parts = |udp| WorkerParts {
        server: Arc::clone(&server),
        cache: Arc::clone(&cache),
        reads: reads.clone(),
        device: device.clone(),
        cleaner: background.waker(),
        stop: stopped.clone(),
        udp,
    };
    let start = |number| driver.start(number, parts(None));
    let workers = (0..server.config.threads).map(start).collect::<std::io::Result<Vec<_>>>()?;
    // datagrams have workers of their own, with the portable driver
    let numbered = (server.config.threads..).zip(udp);
    let datagrams = numbered.map(|(number, udp)| Driver::Tokio.start(number, parts(Some(udp))));
    let datagrams = datagrams.collect::<std::io::Result<Vec<_>>>()?;
    let socket_file = server.config.unix_socket.as_ref().map(|(path, _)| path.clone());
    let ports = Arc::new(Ports::new(&server, &cache, workers.iter().map(|worker| worker.handover.clone()).collect()));
    let numbers = companions.as_ref().filter(|_| device.is_some()).map(|companions| companions.numbers.clone());
    let tenancy = Arc::new(Tenancy::new(&cache, &ports, numbers));
    let mut running = Running {
        port: 0,
        cache: Arc::clone(&cache),
        server: Arc::clone(&server),
        stop,
        ports,
        tenancy,
        socket_file,
        workers,
        datagrams,
        background,
        left: device.zip(companions),
        memory_file,
        admin: None,
    };
    running.listen(bound)?;
    if let Some(socket) = admin {
        running.admin = Some(Admin::start(socket, &server, &running.tenancy, &cache, running.stop.subscribe())?);
    }
    Ok(running)
}

/// Takes every address that the settings name.
fn bind_everywhere(config: &Config) -> Result<Vec<Bound>> {
    if let Some((path, mode)) = &config.unix_socket {
        return Ok(vec![(bind_unix(path, *mode)?, ListenAt::unix(config.dialect))]);
    }
    ensure!(!config.listen.is_empty(), "-l: name an address to listen on");
    let mut bound = Vec::new();
    for at in &config.listen {
        if let Some(port) = at.port.or(config.port) {
            bound.extend(bind_tcp(at, port)?);
        }
        for port in config.cache.tenants.iter().filter_map(|tenant| tenant.recognised.port()) {
            bound.extend(bind_tcp(at, port)?);
        }
    }
    Ok(bound)
}

/// Leaves flash so that the next start can serve what it holds, or says why not.
fn leave_flash(cache: &Cache, device: &dyn Device, companions: &Companions, moving: Option<Duration>) {
    if let Err(error) = restart::end(cache, device, companions, moving) {
        eprintln!("flashare: the next start will be empty: {error:#}");
    }
}

impl Running {
    fn listen(&mut self, bound: Vec<Bound>) -> Result<()> {
        for (socket, at) in bound {
            let port = socket.port();
            let tenant = self.cache.registry().by_port(port);
            if tenant.is_none() && self.port == 0 {
                self.port = port;
            }
            self.ports.listen(socket, tenant, &at)?;
        }
        Ok(())
    }

    /// Where it listens: `tcp:127.0.0.1:11211`, `udp:…`, `unix:/path`.
    pub fn listeners(&self) -> Vec<String> {
        let peers = self.server.peers.lock();
        peers.values().filter(|peer| peer.listener.is_none()).map(|peer| peer.address.clone()).collect()
    }

    /// Why a stop could not leave what is to outlive it, as far as that is known beforehand.
    pub fn doubts(&self) -> Vec<String> {
        let figures = self.cache.figures();
        let image = self.left.as_ref().zip(figures.flash).map(|((_, files), flash)| (&files.image, flash.memory_bytes));
        let memory = self.memory_file.as_ref().map(|file| (&file.0, self.cache.memory_bytes()));
        let doubt = |(file, bytes): (&PathBuf, usize)| {
            let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            let why = machine::why_not_written(folder, bytes as u64)?;
            Some(format!("a stop could not write {}, and what it is to keep would be lost: {why}", file.display()))
        };
        image.into_iter().chain(memory).filter_map(doubt).collect()
    }

    /// Where admin requests are answered.
    pub fn admin_address(&self) -> Option<&str> {
        self.admin.as_ref().map(|admin| admin.address.as_str())
    }

    /// Reads reservations and ranks of tenants again; all of it or nothing.
    fn reload_tenants(&self) -> Result<()> {
        if let Some(path) = &self.server.config.tenants_file {
            let specs = read_tenants(path)?;
            self.tenancy.replace(&specs.tenants).with_context(|| format!("configuration {}", path.display()))?;
            if !self.server.config.is_arbiter_a_flag {
                let now = specs.arbiter.unwrap_or_default();
                let before = self.cache.registry().appoint(now);
                if before != now {
                    eprintln!("flashare: arbiter: {} instead of {}", now.name(), before.name());
                }
            }
        }
        Ok(())
    }

    /// Reads certificates, users and tenants again; what is in use stays where a file is bad.
    pub fn reload(&self) {
        if let Err(error) = self.reload_tenants() {
            eprintln!("flashare: reload: {error:#}; tenants stay as they are");
        }
        let tls = self.server.tls.as_ref().map_or(Ok(()), crate::tls::Tls::refresh);
        if let Err(error) = tls.and_then(|()| self.server.reload_credentials()) {
            eprintln!("flashare: reload: {error:#}");
        }
    }

    /// Stops it: no new connections, what was begun is finished, threads end.
    pub fn stop(self) {
        self.ports.stop();
        let _ = self.stop.send(true);
        if let Some(admin) = self.admin {
            admin.stop();
        }
        for worker in self.workers.into_iter().chain(self.datagrams) {
            worker.handover.wake();
            drop(worker.handover);
            let _ = worker.thread.join();
        }
        self.background.stop();
        if let Some(file) = &self.memory_file
            && let Err(error) = file.save(&self.cache)
        {
            eprintln!("flashare: -e {}: what was in memory is lost: {error:#}", file.0.display());
        }
        if let Some((device, companions)) = self.left {
            let moving = self.memory_file.is_none().then_some(self.server.config.stop);
            leave_flash(&self.cache, &*device, &companions, moving);
        }
        if let Some(path) = self.socket_file {
            let _ = std::fs::remove_file(path);
        }
    }
}
