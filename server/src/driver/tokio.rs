//! The portable driver: a worker is a thread with a tokio runtime of its own; a connection stays with its worker.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, Notify};

use super::flash_reads::Arrived;
use super::udp::{self, UdpListener};
use super::wire::{Received, Wire};
use super::{Handover, Incoming, Worker, WorkerParts};
use crate::priority;
use crate::session::Connection;

/// Bytes that are received at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// How long a connection that found no memory waits before it tries again.
const STALL: Duration = Duration::from_micros(500);
/// How often a watching connection looks for lines.
const WATCH_SLEEP: Duration = Duration::from_millis(10);
/// Output that is sent before the next requests of a long pipeline are begun.
const SEND_BYTES: usize = 16 << 10;

pub(super) struct Context {
    pub(super) parts: WorkerParts,
    worker: RefCell<cache::Worker>,
    scratch: RefCell<Vec<u8>>,
    /// Whose turn it is of those who wait for memory, in the order in which they came.
    turn: Mutex<()>,
    /// Told that somebody else comes: who has the turn goes before that.
    newcomer: Notify,
}

/// Starts a worker.
pub(crate) fn start(number: usize, mut parts: WorkerParts) -> io::Result<Worker> {
    let (accepted, incoming) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        priority::of_worker();
        let worker = RefCell::new(parts.cache.worker());
        let scratch = RefCell::new(vec![0; RECEIVE_BYTES]);
        let udp = parts.udp.take();
        let context = Rc::new(Context { parts, worker, scratch, turn: Mutex::new(()), newcomer: Notify::new() });
        runtime.block_on(tokio::task::LocalSet::new().run_until(work(context, incoming, udp)));
    })?;
    Ok(Worker { handover: Handover::Tokio(accepted), thread })
}

async fn work(context: Rc<Context>, mut incoming: UnboundedReceiver<Incoming>, udp: Option<UdpListener>) {
    if let Some(udp) = udp {
        tokio::task::spawn_local(udp::listen(Rc::clone(&context), udp));
    }
    let mut stop = context.parts.stop.clone();
    loop {
        tokio::select! {
            accepted = incoming.recv() => match accepted {
                Some(accepted) => { tokio::task::spawn_local(connect(Rc::clone(&context), accepted)); }
                None => return,
            },
            _ = stop.changed() => return,
        }
    }
}

async fn connect(context: Rc<Context>, Incoming { socket, arrival, tls }: Incoming) {
    let server = &context.parts.server;
    let peer = arrival.peer.clone();
    let mut connection = Connection::new(Arc::clone(server), arrival);
    connection.tell_new();
    if let Ok(mut wire) = Wire::new(socket, tls) {
        let conversed = converse(&context, &mut wire, &mut connection).await;
        // a connection that breaks off needs no report: clients do that
        if conversed.is_err() && wire.is_handshaking() {
            server.tls_errors.fetch_add(1, Ordering::Relaxed);
        }
        wire.close();
    }
    connection.tell_closed(connection.end_reason());
    connection.end(&context.parts.cache);
    if let Some(peer) = peer {
        server.peers.lock().remove(&peer.id);
    }
    server.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn converse(context: &Context, wire: &mut Wire, connection: &mut Connection) -> io::Result<()> {
    let (arrived, mut arrivals) = unbounded_channel::<Arrived>();
    let server = &context.parts.server;
    let idle = Duration::from_secs(u64::from(server.config.options.idle_secs));
    let mut active = Instant::now();
    let mut held = None;
    let (mut waits, mut turn) = (None, None);
    loop {
        // somebody waits for memory, and would find it gone again
        if turn.is_none() && context.turn.try_lock().is_err() {
            context.newcomer.notify_one();
            tokio::task::yield_now().await;
        }
        context.serve(connection, &arrived);
        if !connection.is_stalled() {
            (waits, turn) = (None, None);
        } else if waits.is_none() && turn.is_none() {
            waits = Some(Box::pin(context.turn.lock()));
        }
        if !connection.can_go_on() || connection.unsent() >= SEND_BYTES {
            send(context, wire, connection)?;
        }
        if connection.is_closing() && connection.unsent() == 0 && !wire.wants_write() {
            return Ok(());
        }
        if connection.can_go_on() {
            tokio::task::yield_now().await;
            continue;
        }
        held = connection.held_for().map(|time| held.unwrap_or_else(|| Instant::now() + time));
        tokio::select! {
            biased;
            Some(arrival) = arrivals.recv(), if connection.reads() > 0 => context.complete(connection, arrival),
            writable = wire.writable(), if connection.unsent() > 0 || wire.wants_write() => writable?,
            readable = wire.readable(), if connection.wants_input() => {
                readable?;
                active = Instant::now();
                if !receive(context, wire, connection)? {
                    return Ok(());
                }
            }
            taken = async { waits.as_mut().expect("asked for only then").await }, if waits.is_some() => {
                (waits, turn) = (None, Some(taken));
            }
            () = context.newcomer.notified(), if turn.is_some() => {}
            () = tokio::time::sleep(STALL), if turn.is_some() => {}
            () = tokio::time::sleep_until(held.unwrap_or(active).into()), if held.is_some() => connection.hear_again(),
            () = tokio::time::sleep(WATCH_SLEEP), if connection.is_watching() => connection.pump(),
            () = tokio::time::sleep_until((active + idle).into()), if !idle.is_zero() && !connection.is_watching() => {
                server.idle_kicks.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
    }
}

impl Context {
    /// Serves what has arrived; passes the reads that it needs on; wakes the cleaner if memory runs short.
    pub(super) fn serve(&self, connection: &mut Connection, arrived: &UnboundedSender<Arrived>) {
        let parts = &self.parts;
        let stored = connection.serve(&parts.cache, &mut self.worker.borrow_mut());
        if (stored || connection.is_stalled()) && parts.cache.wants_step() {
            parts.cleaner.unpark();
        }
        for wanted in connection.take_wanted() {
            let reads = parts.reads.as_ref().expect("flash reads come from a flash tier");
            reads.submit(wanted, arrived.clone());
        }
    }

    pub(super) fn complete(&self, connection: &mut Connection, Arrived { slot, read, pages }: Arrived) {
        let mut worker = self.worker.borrow_mut();
        connection.complete(&self.parts.cache, &mut worker, slot, read, pages.as_deref());
    }
}

/// Receives once. False: the client has closed its side.
fn receive(context: &Context, wire: &mut Wire, connection: &mut Connection) -> io::Result<bool> {
    let mut scratch = context.scratch.borrow_mut();
    match wire.receive(&mut scratch)? {
        Received::End => Ok(false),
        Received::Nothing => Ok(true),
        Received::Bytes(bytes) => {
            context.parts.server.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
            connection.receive(&scratch[..bytes]);
            Ok(true)
        }
    }
}

fn send(context: &Context, wire: &mut Wire, connection: &mut Connection) -> io::Result<()> {
    context.parts.cache.settle();
    loop {
        let bytes = wire.send(connection)?;
        context.parts.server.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        connection.note_sent(bytes);
        if bytes == 0 || connection.unsent() == 0 {
            return Ok(());
        }
    }
}
