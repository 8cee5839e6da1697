//! UDP: a datagram is a request with a header of eight bytes (request id, sequence number, datagrams in all, reserved), and
//! is answered in as many as its answer takes. A request that does not fit one datagram is refused, as in memcached.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::unbounded_channel;

use super::tokio::Context;
use crate::config::Dialect;
use crate::session::{Arrival, Connection};

const HEADER_BYTES: usize = 8;
/// Largest payload of an answer's datagram, as in memcached.
const PAYLOAD_BYTES_MAX: usize = 1400 - HEADER_BYTES;
/// Datagrams that are served at once; more are dropped, as the network may drop them.
const SERVED_MAX: usize = 64;
/// Longest answer: clients that want more use TCP.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// A bound socket, with what is spoken there.
pub(crate) struct UdpListener {
    pub(crate) socket: StdUdpSocket,
    pub(crate) dialect: Dialect,
}

pub(super) async fn listen(context: Rc<Context>, listener: UdpListener) {
    if listener.socket.set_nonblocking(true).is_err() {
        return;
    }
    let Ok(socket) = UdpSocket::from_std(listener.socket) else { return };
    let socket = Rc::new(socket);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((bytes, from)) = socket.recv_from(&mut buffer).await else { continue };
        context.parts.server.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes <= HEADER_BYTES || Rc::strong_count(&socket) > SERVED_MAX {
            continue;
        }
        let (head, body) = buffer[..bytes].split_at(HEADER_BYTES);
        let whole = head[4..6] == [0, 1]; // one datagram in all
        let request = [head[0], head[1]];
        let body = if whole { body.to_vec() } else { Vec::new() };
        let (context, socket, dialect) = (Rc::clone(&context), Rc::clone(&socket), listener.dialect);
        tokio::task::spawn_local(async move {
            let answer = if whole {
                serve(&context, dialect, &body).await
            } else {
                b"SERVER_ERROR multi-packet request not supported\r\n".to_vec()
            };
            reply(&context, &socket, from, request, &answer).await;
        });
    }
}

async fn serve(context: &Context, dialect: Dialect, request: &[u8]) -> Vec<u8> {
    let arrival = Arrival { tenant: None, counted: false, dialect, peer: None };
    let mut connection = Connection::new(Arc::clone(&context.parts.server), arrival);
    let (arrived, mut arrivals) = unbounded_channel();
    connection.receive(request);
    let mut answer = Vec::new();
    loop {
        context.serve(&mut connection, &arrived);
        while connection.unsent() > 0 {
            let output = connection.output();
            let sent = output.len();
            answer.extend_from_slice(output);
            connection.note_sent(sent);
        }
        if answer.len() > ANSWER_BYTES_MAX {
            answer = b"SERVER_ERROR response too large for UDP\r\n".to_vec();
            break;
        }
        if connection.can_go_on() {
            tokio::task::yield_now().await;
        } else if connection.reads() > 0 {
            let Some(arrival) = arrivals.recv().await else { break };
            context.complete(&mut connection, arrival);
        } else if connection.is_stalled() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        } else {
            break;
        }
    }
    connection.end(&context.parts.cache);
    context.parts.cache.settle();
    answer
}

async fn reply(context: &Context, socket: &UdpSocket, to: SocketAddr, request: [u8; 2], answer: &[u8]) {
    let count = answer.len().div_ceil(PAYLOAD_BYTES_MAX) as u16;
    for (number, payload) in answer.chunks(PAYLOAD_BYTES_MAX).enumerate() {
        let mut datagram = Vec::with_capacity(HEADER_BYTES + payload.len());
        datagram.extend_from_slice(&request);
        datagram.extend_from_slice(&(number as u16).to_be_bytes());
        datagram.extend_from_slice(&count.to_be_bytes());
        datagram.extend_from_slice(&[0, 0]);
        datagram.extend_from_slice(payload);
        // what is lost is lost: that is the bargain of UDP
        if let Ok(bytes) = socket.send_to(&datagram, to).await {
            context.parts.server.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}
