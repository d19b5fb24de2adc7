//! One check over TCP: a connection, or a request over it.

use std::net::IpAddr;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use crate::config::probe::Check;

/// Bytes that a socket keeps in each direction.
const RECEIVE_BYTES: usize = 4 << 10;
const SEND_BYTES: usize = 1 << 10;
/// Most bytes of an answer in which its status is looked for.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

/// What a check has found so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Good,
    Bad(String),
}

/// A check that is under way.
pub(super) struct Attempt {
    pub(super) handle: SocketHandle,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

impl Attempt {
    /// Begins a check of `target` from `own`; none if it can't be.
    pub(super) fn begin(
        check: &Check,
        target: IpAddr,
        own: (IpAddr, u16),
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> Option<Self> {
        let port = check.port()?;
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
        socket.set_nagle_enabled(false);
        socket.connect(interface.context(), (target, port), own).ok()?;
        let request = match check {
            Check::Http { path, host, .. } => format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: millrace-probe\r\nAccept: */*\r\n\
                 Connection: close\r\n\r\n"
            ),
            Check::Tcp { .. } | Check::Icmp => String::new(),
        };
        let (request, answer) = (request.into_bytes(), Vec::new());
        Some(Self { handle: sockets.add(socket), request, sent: 0, answer })
    }

    /// Whether a request was answered, so that the connection can end well.
    pub(super) fn is_answered(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Goes on with it.
    pub(super) fn look(&mut self, check: &Check, sockets: &mut SocketSet<'static>) -> Found {
        let socket = sockets.get_mut::<Socket>(self.handle);
        match socket.state() {
            State::SynSent | State::SynReceived => return Found::Nothing,
            State::Closed if self.sent == 0 => return Found::Bad("the connection is refused".to_owned()),
            State::Closed => return Found::Bad("the connection was reset".to_owned()),
            _ => {}
        }
        let Check::Http { statuses, .. } = check else { return Found::Good };
        while let Some(rest) = self.request.get(self.sent..).filter(|rest| !rest.is_empty())
            && socket.can_send()
        {
            match socket.send_slice(rest) {
                Ok(sent) if sent > 0 => self.sent += sent,
                _ => break,
            }
        }
        while socket.can_recv() && self.answer.len() < HEAD_BYTES_MAX {
            let room = HEAD_BYTES_MAX - self.answer.len();
            let answer = &mut self.answer;
            let taken = socket.recv(|data| {
                let take = data.len().min(room);
                answer.extend_from_slice(&data[..take]);
                (take, ())
            });
            if taken.is_err() {
                break;
            }
        }
        match status_of(&self.answer) {
            Ok(Some(status)) if statuses.contains(&status) => Found::Good,
            Ok(Some(status)) => Found::Bad(format!("the status is {status}")),
            Err(()) => Found::Bad("the answer is no HTTP".to_owned()),
            Ok(None) if self.answer.len() >= HEAD_BYTES_MAX => {
                Found::Bad(format!("the head of the answer is longer than {HEAD_BYTES_MAX} bytes"))
            }
            Ok(None) if !socket.may_recv() => Found::Bad("the answer ends early".to_owned()),
            Ok(None) => Found::Nothing,
        }
    }
}

/// The status of an answer, when its head has come.
fn status_of(answer: &[u8]) -> Result<Option<u16>, ()> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(_)) => Ok(response.code),
        Ok(httparse::Status::Partial) => Ok(None),
        // Its status line was understood.
        Err(httparse::Error::TooManyHeaders) => Ok(response.code),
        Err(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_status_is_told_when_the_head_is_there() {
        let answer = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\nbody";
        assert_eq!(status_of(answer), Ok(Some(204)));
        assert_eq!(status_of(&answer[..30]), Ok(None));
        assert_eq!(status_of(b"SSH-2.0-OpenSSH\r\n"), Err(()));
        assert_eq!(status_of(b"HTTP/1.0 503 Busy\n\n"), Ok(Some(503)));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status_of(many.as_bytes()), Ok(Some(200)));
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = status_of(&bytes);
            let _ = status_of(&[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat());
        }
    }
}
