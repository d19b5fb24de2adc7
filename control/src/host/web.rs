//! The status page over HTTP/1.1: one request a connection, of at most 8 KiB, within deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp;

use super::listener::{Buffers, Goes, Listener};
use super::page::{Asked, Pages};
use crate::metrics::http::{self, REQUEST_BYTES_MAX, Request, Response};

/// Connections at a time, those that are being opened or have just ended included.
const CONNECTIONS_MAX: usize = 32;
const BUFFERS: Buffers = Buffers { receive: 4 << 10, send: 16 << 10 };
/// Longest time for a request to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Longest time for a client to take its answer, and to end the connection.
const RESPONSE_TIME: Duration = Duration::from_secs(10);

/// Where a connection is.
enum State {
    /// The request arrives.
    Reading(Vec<u8>),
    /// The page is being made.
    Waiting { asked: Asked, head: bool },
    /// The answer leaves, from this byte on.
    Writing { answer: Arc<[u8]>, from: usize },
}

impl Default for State {
    fn default() -> Self {
        Self::Reading(Vec::new())
    }
}

/// The service.
pub(super) struct Web {
    connections: Listener<State>,
}

impl Web {
    pub(super) fn new(port: u16, sockets: &mut SocketSet<'static>) -> Self {
        Self { connections: Listener::new(port, CONNECTIONS_MAX, REQUEST_TIME, BUFFERS, sockets) }
    }

    pub(super) fn make_room(&mut self, sockets: &mut SocketSet<'static>) {
        self.connections.make_room(sockets);
    }

    pub(super) fn serve(&mut self, sockets: &mut SocketSet<'static>, now: Instant, pages: &Pages) {
        self.connections.serve(sockets, now, |socket, state| serve(socket, state, now, pages));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.connections.next_deadline()
    }
}

fn serve(socket: &mut tcp::Socket<'static>, state: &mut State, now: Instant, pages: &Pages) -> Goes {
    let mut goes = Goes::OnAsBefore;
    if let State::Reading(bytes) = state {
        let Some(next) = read(socket, bytes) else { return goes };
        *state = next;
        goes = Goes::On(RESPONSE_TIME);
    }
    if let State::Waiting { asked, head } = state
        && let Some(response) = pages.answer(*asked, now)
    {
        *state = writing(&response, *head);
        goes = Goes::On(RESPONSE_TIME);
    }
    if let State::Writing { answer, from } = state {
        write(socket, answer, from);
    }
    goes
}

/// Takes what has come of a request. What to do, when that is all of it.
fn read(socket: &mut tcp::Socket<'static>, bytes: &mut Vec<u8>) -> Option<State> {
    while socket.can_recv() && bytes.len() < REQUEST_BYTES_MAX {
        let room = REQUEST_BYTES_MAX - bytes.len();
        let taken = socket.recv(|data| {
            let take = data.len().min(room);
            bytes.extend_from_slice(&data[..take]);
            (take, take)
        });
        if taken.is_err() {
            break;
        }
    }
    match http::parse(bytes) {
        Some(Ok(request)) => Some(respond(&request)),
        Some(Err(response)) => Some(writing(&response, false)),
        None if bytes.len() >= REQUEST_BYTES_MAX => {
            let status = "431 Request Header Fields Too Large";
            Some(writing(&Response::plain(status, "the request is too large"), false))
        }
        None => {
            if !socket.may_recv() {
                socket.close();
            }
            None
        }
    }
}

fn respond(request: &Request) -> State {
    let head = request.method == "HEAD";
    if !head && request.method != "GET" {
        return writing(&Response::plain("405 Method Not Allowed", "the status can only be read"), false);
    }
    match Asked::by_path(&request.path) {
        Some(asked) => State::Waiting { asked, head },
        None => {
            let why = "the status is at / for people, and at /status.json for programs";
            writing(&Response::plain("404 Not Found", why), head)
        }
    }
}

fn writing(response: &Response, head: bool) -> State {
    let mut answer = Vec::new();
    // A vector takes all.
    let _ = response.write(head, &mut answer);
    State::Writing { answer: answer.into(), from: 0 }
}

/// Sends what there is room for, and ends the connection behind the last byte.
fn write(socket: &mut tcp::Socket<'static>, answer: &[u8], from: &mut usize) {
    // What a client still says is not looked at, so that its segments are acknowledged.
    while socket.can_recv() {
        if socket.recv(|data| (data.len(), ())).is_err() {
            break;
        }
    }
    while let Some(rest) = answer.get(*from..).filter(|rest| !rest.is_empty())
        && socket.can_send()
    {
        match socket.send_slice(rest) {
            Ok(sent) if sent > 0 => *from += sent,
            _ => return,
        }
    }
    if *from >= answer.len() {
        socket.close();
    }
}
