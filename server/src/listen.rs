//! Listeners, and the threads that accept on them and deal the connections out.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cache::Cache;
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::config::{Dialect, ListenAt, Security};
use crate::driver::{Accepted, Accepts, Driver, Handover, Incoming, UdpListener};
use crate::session::Arrival;
use crate::shared::{Peer, Server};

/// How long an acceptor that cannot take a connection waits before it looks again.
const WAIT: Duration = Duration::from_millis(10);

/// How long an address may be taken by a process that has ended: the kernel takes its rings apart after it, and with them go the sockets
/// that were accepted on. And how long between two looks.
const TAKEN_MAX: Duration = Duration::from_secs(1);
const TAKEN_LOOK: Duration = Duration::from_millis(10);

/// A socket that has its address: connections come to it once it [listens](Listening::listen).
pub(crate) enum Listening {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// A socket that does not listen yet, and how it is to.
pub(crate) type Bound = (Listening, ListenAt);

/// Binds a port at every address that the host of `at` stands for: a name may have several, `*` is all of this machine's.
pub(crate) fn bind_tcp(at: &ListenAt, port: u16) -> Result<Vec<Bound>> {
    let bound = bind_host(&at.host, port)?;
    Ok(bound.into_iter().map(|socket| (socket, at.clone())).collect())
}

fn bind_host(host: &str, port: u16) -> Result<Vec<Listening>> {
    let bind = |at: SocketAddr| {
        let socket = new_socket(at, Type::STREAM)?;
        socket.set_reuse_address(true)?;
        // for the connections, which have it from here: small replies leave at once, and a client that is gone without a word is noticed
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        once_free(|| socket.bind(&at.into()))?;
        let listener = TcpListener::from(socket);
        let at = listener.local_addr()?;
        Ok(Listening::Tcp(listener, at))
    };
    bind_each(host, port, bind).with_context(|| format!("cannot listen on {host}:{port}"))
}

/// A socket of one family alone: the other has ports of its own.
fn new_socket(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind_each<T>(host: &str, port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<Vec<T>> {
    let mut addresses: Vec<SocketAddr> = match host {
        "*" => vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()],
        host => (host, port).to_socket_addrs()?.collect(),
    };
    addresses.sort_unstable();
    addresses.dedup();
    let (mut bound, mut failed) = (Vec::new(), None);
    for at in addresses {
        match bind(at) {
            Ok(socket) => bound.push(socket),
            // a name may have addresses that are not this machine's, and a machine no IPv6
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => failed = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match failed {
        Some(error) if bound.is_empty() => Err(error.into()),
        None if bound.is_empty() => bail!("the name has no address"),
        _ => Ok(bound),
    }
}

/// Binds an address, which whoever had it may be about to give back.
fn once_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < TAKEN_MAX => {
                std::thread::sleep(TAKEN_LOOK);
            }
            bound => return bound,
        }
    }
}

pub(crate) fn bind_unix(path: &Path, mode: u32) -> Result<Listening> {
    let bind = || -> Result<Listening> {
        // a socket that a server left behind is in the way; anything else is somebody's file
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => bail!("a file that is no socket is there"),
            Ok(_) => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Listening::Unix(UnixListener::from(std::os::fd::OwnedFd::from(socket)), path.to_owned()))
    };
    bind().with_context(|| format!("cannot listen on {}", path.display()))
}

/// Binds the UDP port, if there is to be one, where the others are; where -l names a port it is that.
pub(crate) fn bind_udp(server: &Server) -> Result<Vec<UdpListener>> {
    let config = &server.config;
    let Some(port) = config.udp_port.filter(|_| config.unix_socket.is_none()) else { return Ok(Vec::new()) };
    let bind = |at: SocketAddr| {
        let socket = new_socket(at, Type::DGRAM)?;
        once_free(|| socket.bind(&at.into()))?;
        Ok(std::net::UdpSocket::from(socket))
    };
    let mut bound = Vec::new();
    for at in &config.listen {
        let port = at.port.unwrap_or(port);
        let sockets = bind_each(&at.host, port, bind);
        let sockets = sockets.with_context(|| format!("cannot listen on {}:{port} (UDP)", at.host))?;
        bound.extend(sockets.into_iter().map(|socket| UdpListener { socket, dialect: config.dialect }));
    }
    for UdpListener { socket, .. } in &bound {
        let id = socket.as_raw_fd() as u64;
        let peer = Peer::new(id, format!("udp:{}", socket.local_addr()?), None, server.now());
        server.peers.lock().insert(id, Arc::new(peer));
    }
    Ok(bound)
}

impl ListenAt {
    /// The rules of a Unix socket.
    pub(crate) fn unix(dialect: Dialect) -> ListenAt {
        ListenAt { host: String::new(), port: None, dialect, security: Security::Stated }
    }
}

impl Listening {
    /// Has the kernel take connections, as many as `backlog` before somebody accepts them.
    fn listen(&self, backlog: i32) -> Result<()> {
        let listens = match self {
            Listening::Tcp(listener, _) => SockRef::from(listener).listen(backlog),
            Listening::Unix(listener, _) => SockRef::from(listener).listen(backlog),
        };
        listens.with_context(|| format!("cannot listen on {}", self.address()))
    }

    /// Its port; 0 for a Unix socket.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Listening::Tcp(_, at) => at.port(),
            Listening::Unix(..) => 0,
        }
    }

    fn descriptor(&self) -> RawFd {
        match self {
            Listening::Tcp(listener, _) => listener.as_raw_fd(),
            Listening::Unix(listener, _) => listener.as_raw_fd(),
        }
    }

    fn id(&self) -> u64 {
        self.descriptor() as u64
    }

    fn address(&self) -> String {
        match self {
            Listening::Tcp(_, at) => format!("tcp:{at}"),
            Listening::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Accepts one connection, by a ring if there is one; also says where it comes from.
    fn accept(&self, ring: Option<&mut Accepts>) -> io::Result<(Accepted, String)> {
        match self {
            Listening::Tcp(listener, _) => {
                let stream = match ring {
                    Some(ring) => TcpStream::from(ring.next()?),
                    None => listener.accept()?.0,
                };
                let from = format!("tcp:{}", stream.peer_addr()?);
                Ok((Accepted::Tcp(stream), from))
            }
            Listening::Unix(listener, path) => {
                let stream = match ring {
                    Some(ring) => UnixStream::from(ring.next()?),
                    None => listener.accept()?.0,
                };
                Ok((Accepted::Unix(stream), format!("unix:{}", path.display())))
            }
        }
    }

    /// Wakes the acceptor from its wait.
    pub(crate) fn wake(&self) {
        match self {
            Listening::Tcp(_, at) => drop(TcpStream::connect(at)),
            Listening::Unix(_, path) => drop(UnixStream::connect(path)),
        }
    }
}

/// Accepts on one listener and deals the connections out to the workers in turn.
pub(crate) struct Acceptor {
    server: Arc<Server>,
    cache: Arc<Cache>,
    listening: Arc<Listening>,
    stopping: Arc<AtomicBool>,
    workers: Vec<Handover>,
    next: AtomicUsize,
    tenant: Option<u16>,
    dialect: Dialect,
    security: Security,
}

impl Acceptor {
    pub(crate) fn new(
        server: &Arc<Server>,
        cache: &Arc<Cache>,
        listening: &Arc<Listening>,
        stopping: Arc<AtomicBool>,
        workers: Vec<Handover>,
        tenant: Option<u16>,
        at: &ListenAt,
    ) -> Acceptor {
        let (id, address) = (listening.id(), listening.address());
        server.peers.lock().insert(id, Arc::new(Peer::new(id, address, None, server.now())));
        Acceptor {
            server: Arc::clone(server),
            cache: Arc::clone(cache),
            listening: Arc::clone(listening),
            stopping,
            workers,
            next: AtomicUsize::new(0),
            tenant,
            dialect: at.dialect,
            security: at.security,
        }
    }

    pub(crate) fn run(&self) {
        let by_ring = self.server.driver == Driver::Uring.name();
        let mut ring = by_ring.then(|| Accepts::on(self.listening.descriptor()).ok()).flatten();
        while !self.stopping.load(Ordering::SeqCst) {
            if !self.server.config.options.maxconns_fast && self.is_full() {
                self.server.listen_disabled.fetch_add(1, Ordering::Relaxed);
                pause(&mut ring);
                while self.is_full() && !self.stopping.load(Ordering::SeqCst) {
                    std::thread::sleep(WAIT);
                }
            }
            let accepted = self.listening.accept(ring.as_mut());
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((socket, from)) => {
                    if !self.admit(socket, from) {
                        // whoever comes next waits in the backlog: a crowd at one tenant's port costs the others nothing
                        pause(&mut ring);
                        std::thread::sleep(self.server.next_hold());
                    }
                }
                // out of descriptors, or the client has gone: the next one may do better, a little later
                Err(_) => std::thread::sleep(WAIT),
            }
        }
    }

    fn is_full(&self) -> bool {
        self.server.connections.load(Ordering::Relaxed) >= self.server.config.connections_max
    }

    /// Hands a connection to a worker. False: its tenant has as many as it may.
    fn admit(&self, socket: Accepted, from: String) -> bool {
        let server = &self.server;
        if server.connections.fetch_add(1, Ordering::Relaxed) >= server.config.connections_max {
            server.connections.fetch_sub(1, Ordering::Relaxed);
            server.connections_rejected.fetch_add(1, Ordering::Relaxed);
            refuse(socket);
            return true;
        }
        server.connections_total.fetch_add(1, Ordering::Relaxed);
        let meter = self.tenant.map(|tenant| &self.cache.registry().tenant(tenant).meter);
        if meter.is_some_and(|meter| !meter.connect()) {
            server.connections.fetch_sub(1, Ordering::Relaxed);
            refuse(socket);
            return false;
        }
        let forget = || {
            server.connections.fetch_sub(1, Ordering::Relaxed);
            meter.inspect(|meter| meter.disconnect());
        };
        let tls = match &server.tls {
            Some(tls) if self.security != Security::Clear => match tls.accept(self.security) {
                Ok(tls) => Some(tls),
                Err(_) => {
                    forget();
                    return true;
                }
            },
            _ => None,
        };
        let peer = Arc::new(Peer::new(socket.number(), from, Some(self.listening.address()), server.now()));
        server.peers.lock().insert(peer.id, Arc::clone(&peer));
        let (tenant, counted) = (self.tenant, self.tenant.is_some());
        let arrival = Arrival { tenant, counted, dialect: self.dialect, peer: Some(peer) };
        let worker = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        if !self.workers[worker].give(Incoming { socket, arrival, tls }) {
            forget(); // stopping
        }
        true
    }
}

/// Accepts nobody for now, if it is a ring that does so.
fn pause(ring: &mut Option<Accepts>) {
    if ring.as_mut().is_some_and(|ring| ring.pause().is_err()) {
        *ring = None;
    }
}

fn refuse(socket: Accepted) {
    const LINE: &[u8] = b"ERROR Too many open connections\r\n";
    // a client that does not take the line at once does without
    match socket {
        Accepted::Tcp(mut stream) => {
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(LINE));
            let _ = stream.shutdown(Shutdown::Both);
        }
        Accepted::Unix(mut stream) => {
            let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(LINE));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// What is accepting, and for whom.
struct Accepting {
    tenant: Option<u16>,
    thread: JoinHandle<()>,
    listening: Arc<Listening>,
    stopping: Arc<AtomicBool>,
}

/// Everything that is listened on. Ports of tenants are opened and closed while the server runs.
pub(crate) struct Ports {
    server: Arc<Server>,
    cache: Arc<Cache>,
    workers: Vec<Handover>,
    accepting: Mutex<Vec<Accepting>>,
}

impl Ports {
    pub(crate) fn new(server: &Arc<Server>, cache: &Arc<Cache>, workers: Vec<Handover>) -> Ports {
        Ports { server: Arc::clone(server), cache: Arc::clone(cache), workers, accepting: Mutex::default() }
    }

    /// Whether there are network ports at all.
    pub(crate) fn may_open(&self) -> bool {
        self.server.config.unix_socket.is_none()
    }

    /// Binds a port at every address of -l.
    pub(crate) fn bind(&self, port: u16) -> Result<Vec<Bound>> {
        let mut bound = Vec::new();
        for at in &self.server.config.listen {
            bound.extend(bind_tcp(at, port)?);
        }
        Ok(bound)
    }

    /// Accepts connections from now on.
    pub(crate) fn listen(&self, listening: Listening, tenant: Option<u16>, at: &ListenAt) -> Result<()> {
        listening.listen(self.server.config.backlog)?;
        let (listening, stopping) = (Arc::new(listening), Arc::new(AtomicBool::new(false)));
        let workers = self.workers.clone();
        let acceptor = Acceptor::new(&self.server, &self.cache, &listening, Arc::clone(&stopping), workers, tenant, at);
        let thread = std::thread::Builder::new().name("acceptor".to_owned()).spawn(move || acceptor.run())?;
        self.accepting.lock().push(Accepting { tenant, thread, listening, stopping });
        Ok(())
    }

    /// Closes the ports of a tenant.
    pub(crate) fn close(&self, tenant: u16) {
        self.end(|accepting| accepting.tenant == Some(tenant));
    }

    /// Closes everything.
    pub(crate) fn stop(&self) {
        self.end(|_| true);
    }

    fn end(&self, which: impl Fn(&Accepting) -> bool) {
        let ending: Vec<Accepting> = self.accepting.lock().extract_if(.., |accepting| which(accepting)).collect();
        for Accepting { thread, listening, stopping, .. } in ending {
            stopping.store(true, Ordering::SeqCst);
            listening.wake();
            // a panic there was reported when it happened
            let _ = thread.join();
            self.server.peers.lock().remove(&listening.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_have_what_their_listener_was_given() {
        for listening in bind_host("*", 0).unwrap() {
            listening.listen(8).unwrap();
            let client = TcpStream::connect(("localhost", listening.port()));
            let Listening::Tcp(listener, at) = &listening else { panic!("it is no TCP port") };
            if at.is_ipv4() {
                client.unwrap();
                let accepted = listener.accept().unwrap().0;
                assert!(accepted.nodelay().unwrap() && SockRef::from(&accepted).keepalive().unwrap());
            }
        }
    }

    #[test]
    fn families_are_apart_and_taken_ports_are_refused() {
        let first = bind_host("0.0.0.0", 0).unwrap().remove(0);
        first.listen(8).unwrap();
        if let Ok(other) = bind_host("::", first.port()) {
            other[0].listen(8).expect("another family has ports of its own");
        }
        assert!(bind_host("0.0.0.0", first.port()).is_err());
        assert!(bind_host("no.such.name.invalid", 0).is_err());
    }
}
