//! The portable driver: a worker is a thread with a tokio runtime of its own; a connection stays with its worker.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use cache::Cache;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::FlashReads;
use super::flash_reads::Arrived;
use crate::session::Connection;
use crate::stats::Server;

/// Bytes that are received at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// How long a connection that found no memory waits before it tries again.
const STALL: Duration = Duration::from_micros(500);

/// A connection on its way to its worker, with the tenant of its port.
pub(crate) type Accepted = (StdTcpStream, Option<u16>);

/// What a worker works with.
pub(crate) struct WorkerParts {
    pub(crate) server: Arc<Server>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) reads: Option<Arc<FlashReads>>,
    pub(crate) cleaner: Thread,
    pub(crate) stop: watch::Receiver<bool>,
}

/// A worker thread and the way to hand it connections.
pub(crate) struct Worker {
    pub(crate) accepted: UnboundedSender<Accepted>,
    pub(crate) thread: JoinHandle<()>,
}

struct Context {
    parts: WorkerParts,
    worker: RefCell<cache::Worker>,
    scratch: RefCell<Vec<u8>>,
}

impl Worker {
    pub(crate) fn start(number: usize, parts: WorkerParts) -> io::Result<Worker> {
        let (accepted, incoming) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let worker = RefCell::new(parts.cache.worker());
            let scratch = RefCell::new(vec![0; RECEIVE_BYTES]);
            let context = Rc::new(Context { parts, worker, scratch });
            runtime.block_on(tokio::task::LocalSet::new().run_until(work(context, incoming)));
        })?;
        Ok(Worker { accepted, thread })
    }
}

async fn work(context: Rc<Context>, mut incoming: UnboundedReceiver<Accepted>) {
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

async fn connect(context: Rc<Context>, (stream, tenant): Accepted) {
    let server = &context.parts.server;
    let mut connection = Connection::new(Arc::clone(server), tenant);
    let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
    if let Ok(stream) = ready.and_then(|()| TcpStream::from_std(stream)) {
        // a connection that breaks off needs no report: clients do that
        let _ = converse(&context, &stream, &mut connection).await;
    }
    connection.end(&context.parts.cache);
    server.connections.fetch_sub(1, Ordering::Relaxed);
}

async fn converse(context: &Context, stream: &TcpStream, connection: &mut Connection) -> io::Result<()> {
    let (arrived, mut arrivals) = unbounded_channel::<Arrived>();
    let cache = &*context.parts.cache;
    loop {
        serve(context, connection, &arrived);
        send(context, stream, connection)?;
        if connection.is_closing() && connection.output().is_empty() {
            return Ok(());
        }
        if connection.can_go_on() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            biased;
            Some(Arrived { slot, read, pages }) = arrivals.recv(), if connection.reads() > 0 => {
                let mut worker = context.worker.borrow_mut();
                connection.complete(cache, &mut worker, slot, read, pages.as_deref());
            }
            writable = stream.writable(), if !connection.output().is_empty() => writable?,
            readable = stream.readable(), if connection.wants_input() => {
                readable?;
                if !receive(context, stream, connection)? {
                    return Ok(());
                }
            }
            () = tokio::time::sleep(STALL), if connection.is_stalled() => {}
        }
    }
}

/// Serves what has arrived; passes the reads that it needs on; wakes the cleaner if memory runs short.
fn serve(context: &Context, connection: &mut Connection, arrived: &UnboundedSender<Arrived>) {
    let parts = &context.parts;
    let stored = connection.serve(&parts.cache, &mut context.worker.borrow_mut());
    if (stored || connection.is_stalled()) && parts.cache.wants_cleaning() {
        parts.cleaner.unpark();
    }
    for wanted in connection.take_wanted() {
        let reads = parts.reads.as_ref().expect("flash reads come from a flash tier");
        reads.submit(wanted, arrived.clone());
    }
}

/// Receives once. False: the client has closed its side.
fn receive(context: &Context, stream: &TcpStream, connection: &mut Connection) -> io::Result<bool> {
    let mut scratch = context.scratch.borrow_mut();
    match stream.try_read(&mut scratch) {
        Ok(0) => Ok(false),
        Ok(bytes) => {
            context.parts.server.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
            connection.receive(&scratch[..bytes]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn send(context: &Context, stream: &TcpStream, connection: &mut Connection) -> io::Result<()> {
    while !connection.output().is_empty() {
        match stream.try_write(connection.output()) {
            Ok(bytes) => {
                context.parts.server.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
                connection.note_sent(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
