//! The echo service over TCP and UDP (RFC 862).

use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::IpListenEndpoint;

use super::listener::{Buffers, Goes, Listener};
use crate::config::host_stack::ECHO_PORT;

const CONNECTIONS_MAX: usize = 8;
const BUFFERS: Buffers = Buffers { receive: 64 << 10, send: 64 << 10 };
/// A connection on which nothing is said for so long is cut.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Datagrams and bytes of them that wait.
const DATAGRAMS: usize = 64;
const DATAGRAM_BYTES: usize = 64 << 10;
/// Datagrams that are echoed in a turn.
const DATAGRAMS_AT_ONCE: usize = 64;
/// Datagrams from ports below may be another service's, which would answer the echo for ever.
const SOURCE_PORT_MIN: u16 = 1_024;

/// The service.
pub(super) struct Echo {
    tcp: Listener<()>,
    udp: SocketHandle,
    chunk: Box<[u8]>,
}

impl Echo {
    pub(super) fn new(sockets: &mut SocketSet<'static>) -> Self {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        if let Err(error) = socket.bind(IpListenEndpoint { addr: None, port: ECHO_PORT }) {
            tracing::error!(%error, "no echo over UDP");
        }
        let tcp = Listener::new(ECHO_PORT, CONNECTIONS_MAX, IDLE_MAX, BUFFERS, sockets);
        Self { tcp, udp: sockets.add(socket), chunk: vec![0; BUFFERS.receive].into() }
    }

    pub(super) fn make_room(&mut self, sockets: &mut SocketSet<'static>) {
        self.tcp.make_room(sockets);
    }

    pub(super) fn serve(&mut self, sockets: &mut SocketSet<'static>, now: Instant) {
        let chunk = &mut self.chunk;
        self.tcp.serve(sockets, now, |socket, ()| echo(socket, chunk));
        let socket = sockets.get_mut::<udp::Socket>(self.udp);
        for _ in 0..DATAGRAMS_AT_ONCE {
            if !socket.can_send() {
                return;
            }
            let Ok((bytes, from)) = socket.recv_slice(chunk) else { return };
            if from.endpoint.port >= SOURCE_PORT_MIN {
                // What finds no room is lost, as datagrams are.
                let _ = socket.send_slice(&chunk[..bytes], from);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.tcp.next_deadline()
    }
}

/// Sends back what has come, as far as there is room.
fn echo(socket: &mut tcp::Socket<'static>, chunk: &mut [u8]) -> Goes {
    let mut moved = false;
    loop {
        let room = socket.send_capacity() - socket.send_queue();
        let most = socket.recv_queue().min(room).min(chunk.len());
        if most == 0 || !socket.can_send() {
            break;
        }
        let Ok(taken) = socket.recv_slice(&mut chunk[..most]) else { break };
        // There is room for all of it.
        let _ = socket.send_slice(&chunk[..taken]);
        moved |= taken > 0;
        if taken == 0 {
            break;
        }
    }
    if !socket.may_recv() && socket.recv_queue() == 0 {
        socket.close();
    }
    if moved { Goes::On(IDLE_MAX) } else { Goes::OnAsBefore }
}
