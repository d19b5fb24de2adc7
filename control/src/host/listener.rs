//! The sockets of a TCP service: a fixed number of them, so that connections and their memory are bounded.

use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::IpListenEndpoint;

/// A peer that answers nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Bytes that a socket of a service keeps in each direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    pub(super) receive: usize,
    pub(super) send: usize,
}

/// A socket, and what the service knows of its connection.
struct Slot<T> {
    handle: SocketHandle,
    /// When the connection was opened, in the order of the SYNs; none while the socket listens.
    opened: Option<u64>,
    /// When the connection is cut, whatever it does.
    until: Option<Instant>,
    state: T,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    /// It goes on, and is cut at the end of that time from now on.
    On(Duration),
    /// It goes on until the time that was said before.
    OnAsBefore,
}

/// The sockets that listen at a port, or have a connection to it.
pub(super) struct Listener<T> {
    port: u16,
    slots: Vec<Slot<T>>,
    opened: u64,
    /// When a connection is cut that never said anything.
    first: Duration,
}

impl<T: Default> Listener<T> {
    /// `count` sockets at `port`. A connection has `first` from its beginning, unless the service says something else.
    pub(super) fn new(
        port: u16,
        count: usize,
        first: Duration,
        buffers: Buffers,
        sockets: &mut SocketSet<'static>,
    ) -> Self {
        let slots = (0..count).map(|_| {
            let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
            let mut socket = Socket::new(buffer(buffers.receive), buffer(buffers.send));
            socket.set_timeout(Some(SILENCE_MAX.into()));
            socket.set_nagle_enabled(false);
            Slot { handle: sockets.add(socket), opened: None, until: None, state: T::default() }
        });
        let mut listener = Self { port, slots: slots.collect(), opened: 0, first };
        (0..count).for_each(|at| listener.listen(at, sockets));
        listener
    }

    fn listen(&mut self, at: usize, sockets: &mut SocketSet<'static>) {
        let slot = &mut self.slots[at];
        (slot.opened, slot.until, slot.state) = (None, None, T::default());
        let socket = sockets.get_mut::<Socket>(slot.handle);
        if socket.state() != State::Closed {
            // Nobody is told: who is still there finds out by its next segment.
            socket.abort();
        }
        if let Err(error) = socket.listen(IpListenEndpoint { addr: None, port: self.port }) {
            tracing::debug!(port = self.port, %error, "a socket does not listen");
        }
    }

    /// Called after each SYN: one socket listens for the next.
    pub(super) fn make_room(&mut self, sockets: &mut SocketSet<'static>) {
        let mut room = false;
        let mut oldest: Option<(bool, u64, usize)> = None;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let state = sockets.get::<Socket>(slot.handle).state();
            if matches!(state, State::Listen | State::Closed) {
                room |= state == State::Listen;
                continue;
            }
            let opened = *slot.opened.get_or_insert_with(|| {
                self.opened += 1;
                self.opened
            });
            // Those that have ended first.
            if matches!(state, State::TimeWait | State::SynReceived) {
                let age = (state == State::SynReceived, opened, at);
                oldest = Some(oldest.map_or(age, |oldest| oldest.min(age)));
            }
        }
        if let (false, Some((_, _, at))) = (room, oldest) {
            self.listen(at, sockets);
        }
    }

    /// Serves each connection.
    pub(super) fn serve(
        &mut self,
        sockets: &mut SocketSet<'static>,
        now: Instant,
        mut serve: impl FnMut(&mut Socket<'static>, &mut T) -> Goes,
    ) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let socket = sockets.get_mut::<Socket>(slot.handle);
            match socket.state() {
                State::Closed => self.listen(at, sockets),
                State::Listen | State::SynReceived | State::TimeWait => {}
                _ => {
                    let until = slot.until.unwrap_or(now + self.first);
                    let until = match serve(socket, &mut slot.state) {
                        Goes::On(time) => now + time,
                        Goes::OnAsBefore => until,
                    };
                    slot.until = Some(until);
                    if until <= now {
                        socket.abort();
                    }
                }
            }
        }
    }

    /// When the next connection is to be cut.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| slot.until).min()
    }
}
