//! The io_uring driver: one ring a worker for its sockets and its flash reads.
//!
//! A round is one system call: it hands over the sends and reads that the last round prepared and takes what has come back.
//! Then every connection that something came for is served once. Receives are *multishot*: asked for once, answered for as
//! long as bytes come, into buffers that all connections share. A connection that wants no more input has its receive
//! cancelled, so what it holds is bounded (INV-BOUNDED).
//!
//! What is handed to the kernel must stay in place until it is answered: output by [`Connection::output`]'s promise, pages in
//! the table of reads, buffers in their ring. A connection is forgotten only when nothing of it is under way.

#![allow(unsafe_code, reason = "memory is lent to the kernel")]

mod accepts;
mod buffers;
mod ring;
mod table;
mod tls;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cache::{FlashRead, Page};
use crossbeam_channel::{Receiver, unbounded};
use nix::sys::eventfd::EventFd;

use super::wire::Accepted;
use super::{Handover, Incoming, READ_MAX, READS_LOOK, Worker, WorkerParts};
use crate::awake::Awake;
use crate::background::AbortOnPanic;
use crate::output::SLICES_MAX;
use crate::priority;
use crate::session::{Connection, Slot};
use crate::shared::Peer;
pub(crate) use accepts::Accepts;
use buffers::{BUFFER_BYTES, BUFFERS};
use ring::{Answer, Message, Named, Rest, Ring, Wait};
use table::Table;
use tls::Tls;

/// Output that is sent before the next requests of a long pipeline are begun.
const SEND_BYTES: usize = 16 << 10;
/// How long a connection that found no memory waits before it tries again.
const STALL: Duration = Duration::from_micros(500);
/// How often watching connections look for lines.
const WATCH: Duration = Duration::from_millis(10);
/// Pages that are kept for further reads.
const SPARE_PAGES: usize = 128;
/// Reads of flash that keep a device busy. While fewer are under way, what has been read is answered so many at a time, and what comes in meanwhile
/// gets to the device: it tends to tell of many reads at once, and would be idle until all of them are answered (docs/data-plane.md).
const READS_ENOUGH: usize = 32;
const READS_A_ROUND: usize = 8;
/// How often idle connections are looked for.
const IDLE: Duration = Duration::from_secs(1);

/// New connections that a round takes: many at once would keep the others waiting.
const ADMITTED_A_ROUND: usize = 8;

/// What a request to the kernel was about: the lowest bits of its token; the rest names whose it is.
const WAKE: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const READ: u64 = 3;
const CANCEL: u64 = 4;
const RECEIVE_VALUE: u64 = 5;
const KINDS: u64 = 8;

/// Whether this machine lets us use a ring as we need it.
pub(crate) fn probe() -> io::Result<()> {
    // an own thread: a ring belongs to the thread that has made it
    std::thread::spawn(|| Ring::new().map(drop)).join().map_err(|_| io::Error::other("the probe has failed"))?
}

struct Client {
    socket: Accepted,
    named: Named,
    /// What describes the slices that are being sent.
    message: Option<Box<Message>>,
    connection: Connection,
    /// The buffer with what has come, and how many bytes that is: it is served from there.
    received: Option<(u16, usize)>,
    tls: Option<Box<Tls>>,
    peer: Option<Arc<Peer>>,
    active: Instant,
    /// A receive is under way: what its token ends with.
    receiving: Option<u64>,
    /// Its cancellation is.
    cancelling: bool,
    /// It found no buffer, and waits until others have been given back.
    starved: bool,
    /// It is a multishot one, or was.
    receives_on: bool,
    /// Where the rest of a value that is landing is received.
    rest: Option<Box<Rest>>,
    /// A send is under way.
    sending: bool,
    /// It is in the list of those to serve.
    listed: bool,
    /// It is among those that are held back.
    held: bool,
    /// The other side sends no more: what has come is served to the end.
    ended: bool,
    /// The connection broke, or has to go: nothing more is served, received or sent.
    over: bool,
}

impl Client {
    /// What goes to the socket next.
    fn leaving(&mut self) -> &[u8] {
        match &mut self.tls {
            Some(tls) => tls.sealed.leaving(),
            None => self.connection.output(),
        }
    }

    /// A receive brought nothing.
    fn note_none_received(&mut self, result: i32) {
        match -result {
            // it is asked for again if it is wanted
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            0 => self.ended = true,
            _ => self.over = true,
        }
    }

    /// Whether what comes next belongs to a value that lands in the log: that is received there, not in the shared buffers.
    fn awaits_value(&self) -> bool {
        self.tls.is_none() && self.connection.awaits_value()
    }

    fn unsent(&self) -> usize {
        self.connection.unsent() + self.tls.as_ref().map_or(0, |tls| tls.sealed.unsent())
    }

    fn note_sent(&mut self, bytes: usize) {
        match &mut self.tls {
            Some(tls) => tls.sealed.note_sent(bytes),
            None => self.connection.note_sent(bytes),
        }
    }
}

struct Reading {
    client: u64,
    slot: Slot,
    /// None if it was given up: the kernel may still write to the pages.
    read: Option<FlashRead>,
    pages: Vec<Page>,
    /// By the worker's clock of what it lives through.
    begun: Duration,
}

struct Uring {
    ring: Ring,
    parts: WorkerParts,
    incoming: Receiver<Incoming>,
    wake: Arc<EventFd>,
    woken: Box<[u8; 8]>,
    /// There may be more new connections.
    admitting: bool,
    worker: cache::Worker,
    clients: Table<Client>,
    reads: Table<Reading>,
    reads_asked: u64,
    /// Reads that are over and not answered yet, with what came of them.
    reads_over: VecDeque<(u64, i32)>,
    /// Pages of reads that are over, for the next ones: memory for direct I/O is slow to get.
    spare_pages: Vec<Vec<Page>>,
    /// Clients to serve in this round.
    ready: Vec<u64>,
    /// Clients that wait for memory.
    stalled: Vec<u64>,
    /// Clients for which no buffer was free.
    starved: VecDeque<u64>,
    /// Clients whose tenants have asked for too much, and until when they are not heard.
    held: BinaryHeap<Reverse<(Instant, u64)>>,
    watching: Vec<u64>,
    looked_for_idle: Instant,
    looked_at_reads: Instant,
    awake: Awake,
    bytes_read: u64,
    bytes_written: u64,
}

/// Starts a worker.
pub(crate) fn start(number: usize, parts: WorkerParts) -> io::Result<Worker> {
    let (sender, incoming) = unbounded();
    let wake = Arc::new(EventFd::new()?);
    let waker = Arc::clone(&wake);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        priority::of_worker();
        let worked = Ring::new().and_then(|ring| {
            let worker = parts.cache.worker();
            let mut uring = Uring {
                ring,
                parts,
                incoming,
                wake,
                woken: Box::new([0; 8]),
                admitting: false,
                worker,
                clients: Table::default(),
                reads: Table::default(),
                reads_asked: 0,
                reads_over: VecDeque::new(),
                spare_pages: Vec::new(),
                ready: Vec::new(),
                stalled: Vec::new(),
                starved: VecDeque::new(),
                held: BinaryHeap::new(),
                watching: Vec::new(),
                looked_for_idle: Instant::now(),
                looked_at_reads: Instant::now(),
                awake: Awake::new(),
                bytes_read: 0,
                bytes_written: 0,
            };
            // what is lent to the kernel cannot be dropped in an unwinding
            let on_panic = AbortOnPanic;
            let worked = uring.run();
            drop(on_panic);
            if worked.is_err() {
                std::mem::forget(uring); // the kernel may still write to what it was lent
            }
            worked
        });
        if let Err(error) = worked {
            eprintln!("flashare: worker {number} has ended: io_uring: {error}");
        }
    })?;
    Ok(Worker { handover: Handover::Uring(sender, waker), thread })
}

impl Uring {
    fn run(&mut self) -> io::Result<()> {
        let mut answers = Vec::new();
        self.listen_for_wakes()?;
        loop {
            self.ring.submit(self.wait())?;
            self.ring.take_answers(&mut answers);
            // before whoever comes now: they would find the memory gone again
            for id in std::mem::take(&mut self.stalled) {
                self.list(id);
            }
            for answer in answers.drain(..) {
                self.take(answer)?;
            }
            self.complete_some();
            if *self.parts.stop.borrow() {
                return self.stop();
            }
            self.look_after_waiting()?;
            self.admit_some()?;
            self.serve_ready()?;
            self.report();
        }
    }

    fn wait(&self) -> Wait {
        let idle_secs = self.parts.server.config.options.idle_secs;
        let wait = match () {
            () if !self.ready.is_empty() || !self.reads_over.is_empty() || self.admitting => Wait::No,
            () if !self.starved.is_empty() => Wait::No,
            () if !self.stalled.is_empty() => Wait::For(STALL),
            () if !self.watching.is_empty() => Wait::For(WATCH),
            () if !self.reads.is_empty() => Wait::For(READS_LOOK),
            () if idle_secs > 0 && !self.clients.is_empty() => Wait::For(IDLE),
            () => Wait::Ever,
        };
        match (self.held.peek(), wait) {
            (Some(Reverse((until, _))), Wait::For(_) | Wait::Ever) => {
                let left = until.saturating_duration_since(Instant::now());
                Wait::For(if let Wait::For(wait) = wait { wait.min(left) } else { left })
            }
            (_, wait) => wait,
        }
    }

    fn listen_for_wakes(&mut self) -> io::Result<()> {
        // SAFETY: the word is boxed, belongs to this worker, and is read by nobody.
        unsafe { self.ring.read(self.wake.as_raw_fd(), 0, &mut self.woken[..], WAKE) }
    }

    /// What bytes counters saw goes to where others see it once a round, not once a request.
    fn report(&mut self) {
        let server = &self.parts.server;
        server.bytes_read.fetch_add(std::mem::take(&mut self.bytes_read), Ordering::Relaxed);
        server.bytes_written.fetch_add(std::mem::take(&mut self.bytes_written), Ordering::Relaxed);
    }

    fn take(&mut self, answer: Answer) -> io::Result<()> {
        let id = answer.token / KINDS;
        match answer.token % KINDS {
            WAKE => {
                self.admitting = true;
                self.listen_for_wakes()
            }
            RECEIVE => self.received(id, answer),
            RECEIVE_VALUE => {
                self.received_value(id, answer.result);
                Ok(())
            }
            SEND => {
                self.sent(id, answer.result);
                Ok(())
            }
            READ => {
                self.reads_over.push_back((id, answer.result));
                Ok(())
            }
            _ => {
                if let Some(client) = self.clients.get_mut(id) {
                    client.cancelling = false;
                    self.list(id);
                }
                Ok(())
            }
        }
    }

    fn list(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(id)
            && !std::mem::replace(&mut client.listed, true)
        {
            self.ready.push(id);
        }
    }

    fn admit_some(&mut self) -> io::Result<()> {
        for _ in 0..if self.admitting { ADMITTED_A_ROUND } else { 0 } {
            match self.incoming.try_recv() {
                Ok(incoming) => self.admit(incoming)?,
                Err(_) => {
                    self.admitting = false;
                    break;
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, Incoming { socket, arrival, tls }: Incoming) -> io::Result<()> {
        let peer = arrival.peer.clone();
        let connection = Connection::new(Arc::clone(&self.parts.server), arrival);
        connection.tell_new();
        let named = self.ring.name(socket.as_raw_fd());
        let id = self.clients.insert(Client {
            socket,
            named,
            message: None,
            connection,
            received: None,
            tls: tls.map(|session| Box::new(Tls::new(session))),
            peer,
            active: Instant::now(),
            receiving: None,
            starved: false,
            receives_on: false,
            rest: None,
            cancelling: false,
            sending: false,
            listed: false,
            held: false,
            ended: false,
            over: false,
        });
        self.list(id);
        Ok(())
    }

    fn received(&mut self, id: u64, answer: Answer) -> io::Result<()> {
        let bytes = usize::try_from(answer.result).unwrap_or(0);
        let mut free = answer.buffer;
        if let Some(client) = self.clients.get_mut(id) {
            client.receiving = answer.more.then_some(RECEIVE);
            client.active = Instant::now();
            let begins = client.connection.is_input_empty() && client.received.is_none();
            match (answer.buffer, &mut client.tls) {
                _ if client.over => {}
                (None, _) if answer.result == -libc::ENOBUFS => {
                    client.starved = true;
                    self.starved.push_back(id);
                }
                (None, _) => client.note_none_received(answer.result),
                (Some(number), None) => {
                    self.bytes_read += bytes as u64;
                    let before = client.received.replace((number, bytes));
                    if let Some((number, bytes)) = before {
                        client.connection.receive(self.ring.buffers.filled(number, bytes));
                    }
                    free = before.map(|(number, _)| number);
                }
                (Some(number), Some(tls)) => {
                    self.bytes_read += bytes as u64;
                    match tls.receive(self.ring.buffers.filled(number, bytes), &mut client.connection) {
                        Ok(goes_on) => client.ended |= !goes_on,
                        Err(_) => {
                            let failed = u64::from(tls.is_handshaking());
                            self.parts.server.tls_errors.fetch_add(failed, Ordering::Relaxed);
                            client.connection.close();
                        }
                    }
                }
            }
            // more has come than a buffer holds: if it belongs to a large value, that can land before it is copied any further
            if begins && bytes == BUFFER_BYTES && client.tls.is_none() {
                self.serve(id)?;
            }
            self.list(id);
        }
        if let Some(number) = free {
            self.ring.buffers.offer(number);
        }
        Ok(())
    }

    fn received_value(&mut self, id: u64, result: i32) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.receiving = None;
        client.active = Instant::now();
        let bytes = usize::try_from(result).unwrap_or(0);
        let (filled, behind) = client.rest.as_ref().map_or((0, &[][..]), |rest| rest.filled(bytes));
        client.connection.take_back_rooms(filled, behind);
        self.bytes_read += bytes as u64;
        if bytes == 0 {
            client.note_none_received(result);
        }
        self.list(id);
    }

    fn sent(&mut self, id: u64, result: i32) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.sending = false;
        match usize::try_from(result) {
            Ok(bytes) if bytes > 0 => {
                client.note_sent(bytes);
                self.bytes_written += bytes as u64;
            }
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            _ => client.over = true,
        }
        // a reply that went out whole needs nothing more, unless somebody waits for that
        let client = self.clients.get_mut(id).expect("it was found above");
        let rests = client.unsent() == 0 && client.receiving.is_some() && !client.over && !client.cancelling;
        if !rests || client.connection.can_go_on() || client.connection.is_closing() {
            self.list(id);
        }
    }

    /// Answers reads that are over: all, or a few where the device waits for more.
    fn complete_some(&mut self) {
        let under_way = self.reads.len() - self.reads_over.len();
        let count = if under_way < READS_ENOUGH { READS_A_ROUND } else { usize::MAX };
        self.complete(count);
    }

    fn complete(&mut self, count: usize) {
        for _ in 0..count.min(self.reads_over.len()) {
            let (id, result) = self.reads_over.pop_front().expect("no more than there are");
            self.read(id, result);
        }
    }

    fn read(&mut self, id: u64, result: i32) {
        let Some(Reading { client: client_id, slot, read, pages, .. }) = self.reads.remove(id) else { return };
        let whole = result >= 0 && result as usize == size_of_val(&pages[..]);
        if let (Some(read), Some(client)) = (read, self.clients.get_mut(client_id)) {
            let pages = whole.then_some(&pages[..]);
            client.connection.complete(&self.parts.cache, &mut self.worker, slot, read, pages);
            self.list(client_id);
        }
        if pages.len() == 1 && self.spare_pages.len() < SPARE_PAGES {
            self.spare_pages.push(pages);
        }
    }

    /// Gives up reads that the device does not answer.
    fn give_up_reads(&mut self) {
        self.looked_at_reads = Instant::now();
        let now = self.awake.look();
        for id in self.reads.ids() {
            let reading = self.reads.get_mut(id).expect("its id was listed");
            if now - reading.begun < READ_MAX {
                continue;
            }
            let (client_id, slot, read) = (reading.client, reading.slot, reading.read.take());
            if let (Some(read), Some(client)) = (read, self.clients.get_mut(client_id)) {
                client.connection.complete(&self.parts.cache, &mut self.worker, slot, read, None);
                self.list(client_id);
            }
        }
    }

    /// Lists those who wait for time to pass.
    fn look_after_waiting(&mut self) -> io::Result<()> {
        // if all who found no buffer asked again at once, most would ask in vain again
        for _ in 0..BUFFERS / 2 {
            let Some(id) = self.starved.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(id) {
                client.starved = false;
                self.list(id);
            }
        }
        while let Some(&Reverse((until, id))) = self.held.peek()
            && until <= Instant::now()
        {
            self.held.pop();
            if let Some(client) = self.clients.get_mut(id) {
                client.held = false;
                client.connection.hear_again();
            }
            self.list(id);
        }
        for id in std::mem::take(&mut self.watching) {
            if let Some(client) = self.clients.get_mut(id) {
                client.connection.pump();
                self.list(id);
            }
        }
        if !self.reads.is_empty() && self.looked_at_reads.elapsed() >= READS_LOOK {
            self.give_up_reads();
        }
        let idle = Duration::from_secs(u64::from(self.parts.server.config.options.idle_secs));
        if !idle.is_zero() && self.looked_for_idle.elapsed() >= IDLE {
            self.looked_for_idle = Instant::now();
            for id in self.clients.ids() {
                let client = self.clients.get_mut(id).expect("its id was listed");
                if client.active.elapsed() >= idle && !client.connection.is_watching() && !client.over {
                    client.over = true;
                    self.parts.server.idle_kicks.fetch_add(1, Ordering::Relaxed);
                    self.list(id);
                }
            }
        }
        Ok(())
    }

    /// Serves whoever something came for, and asks the kernel for what they need next. Flash is asked first: the kernel holds reads back
    /// until all that it is handed with them is done, and a send takes as long as a request does.
    fn serve_ready(&mut self) -> io::Result<()> {
        let ready = std::mem::take(&mut self.ready);
        let before = self.reads_asked;
        for id in &ready {
            self.serve(*id)?;
        }
        if self.reads_asked != before {
            self.ring.submit(Wait::No)?;
        }
        for id in ready {
            self.move_on(id)?;
        }
        Ok(())
    }

    /// Serves a client as far as it goes, and asks for what it wants of flash.
    fn serve(&mut self, id: u64) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(id) else { return Ok(()) };
        client.listed = false;
        let (parts, connection, received) = (&self.parts, &mut client.connection, client.received.take());
        if !client.over {
            let stored = match received {
                None => connection.serve(&parts.cache, &mut self.worker),
                Some((number, bytes)) => {
                    let bytes = self.ring.buffers.filled(number, bytes);
                    connection.serve_received(&parts.cache, &mut self.worker, bytes)
                }
            };
            if (stored || connection.is_stalled()) && parts.cache.wants_step() {
                parts.cleaner.unpark();
            }
            for wanted in connection.take_wanted() {
                let mut pages = self.spare_pages.pop().unwrap_or_default();
                pages.resize(wanted.read.pages(), Page::ZERO);
                let file = parts.device.as_ref().and_then(|device| device.descriptor(wanted.read.at()));
                let (file, at) = file.expect("a flash tier with a file was asked for");
                let (slot, read) = (wanted.slot, Some(wanted.read));
                let begun = self.awake.look();
                let read = self.reads.insert(Reading { client: id, slot, read, pages, begun });
                let pages = &mut self.reads.get_mut(read).expect("it was just put there").pages;
                // SAFETY: the pages are in the table of reads, untouched and in place, until the answer takes them out.
                unsafe { self.ring.read(file, at, bytemuck::cast_slice_mut(pages), read * KINDS + READ)? };
                self.reads_asked += 1;
            }
        }
        if let Some((number, _)) = received {
            self.ring.buffers.offer(number);
        }
        Ok(())
    }

    /// Sends, receives, waits or ends.
    fn move_on(&mut self, id: u64) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(id) else { return Ok(()) };
        let connection = &mut client.connection;
        // a long pipeline goes on before it is answered, as far as that is little
        let gathers = connection.can_go_on() && connection.unsent() < SEND_BYTES;
        if let Some(tls) = &mut client.tls
            && !client.over
        {
            client.over |= tls.seal(connection).is_err();
        }
        let socket = client.named;
        let connection = &client.connection;
        let is_done = connection.is_closing() || client.ended && connection.is_at_rest();
        if is_done && client.unsent() == 0 && !client.sending {
            client.over = true;
        }
        if client.over {
            return self.end(id);
        }
        if !client.sending && client.unsent() > 0 && !gathers {
            self.parts.cache.settle();
            client.sending = true;
            if client.tls.is_none() && client.connection.is_sliced() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = client.connection.output_slices(&mut slices);
                let message = client.message.insert(Message::of(&slices[..count]));
                // SAFETY: as below; the message is the client's until the next one, which is not made before the answer.
                unsafe { self.ring.send_message(socket, message, id * KINDS + SEND)? };
            } else {
                let bytes = client.leaving();
                // SAFETY: bytes that leave stay where they are until they are noted as sent, which the answer does; the client
                // is kept until then.
                unsafe { self.ring.send(socket, bytes, id * KINDS + SEND)? };
            }
        }
        let (wants_input, awaits_value) = (client.connection.wants_input(), client.awaits_value());
        // another large value may follow: its line is received with little of it, and the rest where it belongs
        let awaits_line = client.tls.is_none() && client.connection.has_stored_large();
        match client.receiving {
            _ if client.cancelling => {}
            None if !wants_input || client.ended || client.starved => {}
            None if awaits_value => {
                client.receiving = Some(RECEIVE_VALUE);
                // where idle clients are ended, whoever sends a value slowly has to be seen sending
                let until_full = self.parts.server.config.options.idle_secs == 0;
                let (missing, rooms) = client.connection.lend_rooms();
                let rest = client.rest.insert(Rest::of(missing, rooms));
                // SAFETY: the rooms are lent until the answer, and the client, whose it is as the rest is, is kept until then.
                unsafe { self.ring.receive_rest(socket, rest, until_full, id * KINDS + RECEIVE_VALUE)? };
            }
            None => {
                (client.receiving, client.receives_on) = (Some(RECEIVE), !awaits_line);
                client.connection.forget_stored_large();
                self.ring.receive(socket, awaits_line, id * KINDS + RECEIVE)?;
            }
            Some(kind) if !wants_input || (awaits_value || awaits_line && client.receives_on) && kind == RECEIVE => {
                client.cancelling = true;
                self.ring.cancel(id * KINDS + kind, id * KINDS + CANCEL)?;
            }
            Some(_) => {}
        }
        let connection = &client.connection;
        if connection.is_stalled() {
            self.stalled.push(id);
        }
        if let Some(time) = connection.held_for()
            && !std::mem::replace(&mut client.held, true)
        {
            self.held.push(Reverse((Instant::now() + time, id)));
        }
        if connection.is_watching() {
            self.watching.push(id);
        }
        if connection.can_go_on() {
            self.list(id);
        }
        Ok(())
    }

    /// Ends a client, once nothing of it is under way.
    fn end(&mut self, id: u64) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(id) else { return Ok(()) };
        if client.sending || client.receiving.is_some() || client.cancelling {
            client.socket.shut_down(); // answers what is under way
            return Ok(());
        }
        let Some(mut client) = self.clients.remove(id) else { return Ok(()) };
        self.ring.forget(client.named);
        if let Some(tls) = &mut client.tls {
            tls.close();
            client.socket.send_at_once(tls.sealed.leaving());
        }
        client.connection.tell_closed(client.connection.end_reason());
        client.connection.end(&self.parts.cache);
        if let Some(peer) = &client.peer {
            self.parts.server.peers.lock().remove(&peer.id);
        }
        self.parts.server.connections.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Ends all clients. What is under way is waited for: it points into our memory.
    fn stop(&mut self) -> io::Result<()> {
        self.stalled.clear();
        self.watching.clear();
        let mut answers = Vec::new();
        for id in self.clients.ids() {
            let client = self.clients.get_mut(id).expect("its id was listed");
            client.over = true;
            self.end(id)?;
        }
        self.complete(usize::MAX);
        let began = Instant::now();
        while !self.clients.is_empty() || !self.reads.is_empty() {
            if began.elapsed() >= 2 * READ_MAX {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the flash device does not answer"));
            }
            self.ring.submit(Wait::For(IDLE))?;
            self.ring.take_answers(&mut answers);
            for answer in answers.drain(..).filter(|answer| answer.token % KINDS != WAKE) {
                self.take(answer)?;
            }
            self.complete(usize::MAX);
            self.serve_ready()?;
        }
        Ok(())
    }
}
