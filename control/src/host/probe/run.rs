//! Asks: each probe when it is due, one check of it at a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_nf::router::HOST_PORT_FIRST;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};

use super::attempt::{Attempt, Found};
use super::board::Board;
use super::echo::{self, Echo};
use crate::config::probe::{Check, Probe};
use crate::host::device::Device;

/// New probes begin so long after each other.
const APART: Duration = Duration::from_millis(10);
/// How long the other end may take to end a connection when the check is over.
const ENDING_TIME: Duration = Duration::from_secs(2);

/// A probe with the address that it asks from; none if no way leads to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::host) struct Sourced {
    pub(in crate::host) probe: Probe,
    pub(in crate::host) source: Option<IpAddr>,
}

/// A check under way.
enum Asking {
    Echo(Echo),
    Tcp(Attempt),
}

struct Running {
    probe: Sourced,
    due: Instant,
    /// Since when it is under way.
    asking: Option<(Instant, Asking)>,
}

/// The probes of a chain.
pub(in crate::host) struct Probes {
    running: Vec<Running>,
    /// Connections of checks that are over, and until when they may take to end.
    ending: Vec<(SocketHandle, Instant)>,
    identifier: u16,
    sequence: u16,
    port: u16,
}

impl Probes {
    /// None yet. Ports and identifiers begin at a place that `seed` tells.
    pub(in crate::host) fn new(seed: u64) -> Self {
        let [a, b, c, d, ..] = seed.to_be_bytes();
        let port = u16::from_be_bytes([c, d]) | HOST_PORT_FIRST;
        let identifier = u16::from_be_bytes([a, b]);
        Self { running: Vec::new(), ending: Vec::new(), identifier, sequence: 0, port }
    }

    /// These are asked from now on; those that stay as they are go on.
    pub(in crate::host) fn set(
        &mut self,
        probes: Vec<Sourced>,
        sockets: &mut SocketSet<'static>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.running);
        let mut due = now;
        for probe in probes {
            let known = before.iter().position(|running| running.probe == probe);
            let running = known.map(|at| before.swap_remove(at)).unwrap_or_else(|| {
                due += APART;
                Running { probe, due, asking: None }
            });
            self.running.push(running);
        }
        for (_, asking) in before.into_iter().filter_map(|gone| gone.asking) {
            self.end(asking, sockets, now);
        }
    }

    /// Takes answers, begins what is due, and gives up what takes too long. What was found goes to `board`.
    pub(in crate::host) fn turn(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        device: &mut Device,
        board: &Board,
        now: Instant,
    ) {
        for reply in device.take_echoes() {
            self.answered(&reply, board, now);
        }
        for at in 0..self.running.len() {
            self.look(at, sockets, board, now);
            if self.running[at].asking.is_none() && self.running[at].due <= now {
                self.begin(at, interface, sockets, device, board, now);
            }
        }
    }

    fn answered(&mut self, reply: &Echo, board: &Board, now: Instant) {
        let asked = |running: &&mut Running| matches!(&running.asking, Some((_, Asking::Echo(echo))) if echo == reply);
        if let Some(running) = self.running.iter_mut().find(asked)
            && let Some((since, _)) = running.asking.take()
        {
            note(board, &running.probe.probe.name, Ok(now.saturating_duration_since(since)), now);
        }
    }

    fn look(&mut self, at: usize, sockets: &mut SocketSet<'static>, board: &Board, now: Instant) {
        let Some(Running { probe: Sourced { probe, .. }, asking, .. }) = self.running.get_mut(at) else {
            return;
        };
        let Some((since, asked)) = asking else { return };
        let took = now.saturating_duration_since(*since);
        let found = match asked {
            Asking::Echo(_) => Found::Nothing,
            Asking::Tcp(attempt) => attempt.look(&probe.check, sockets),
        };
        let result = match &found {
            Found::Good => Ok(took),
            Found::Bad(why) => Err(why.as_str()),
            Found::Nothing if took >= probe.timeout => Err("no answer in time"),
            Found::Nothing => return,
        };
        note(board, &probe.name, result, now);
        if let Some((_, asking)) = asking.take() {
            self.end(asking, sockets, now);
        }
    }

    fn begin(
        &mut self,
        at: usize,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        device: &mut Device,
        board: &Board,
        now: Instant,
    ) {
        let port = self.next_port(sockets);
        self.sequence = self.sequence.wrapping_add(1);
        let (identifier, sequence) = (self.identifier, self.sequence);
        let Some(Running { probe: Sourced { probe, source }, due, asking }) = self.running.get_mut(at) else {
            return;
        };
        // Those that are late don't catch up.
        *due = (*due + probe.interval).max(now);
        let Some(source) = *source else {
            return note(board, &probe.name, Err("no way leads to the target"), now);
        };
        let begun = match &probe.check {
            Check::Icmp => {
                let echo = Echo { peer: probe.target, identifier, sequence };
                let sent = echo::request(source, &echo).is_some_and(|packet| device.send(&packet));
                sent.then_some(Asking::Echo(echo))
            }
            check => Attempt::begin(check, probe.target, (source, port), interface, sockets).map(Asking::Tcp),
        };
        match begun {
            Some(begun) => *asking = Some((now, begun)),
            None => note(board, &probe.name, Err("nothing can be sent"), now),
        }
    }

    /// The next local port that no connection has.
    fn next_port(&mut self, sockets: &SocketSet<'static>) -> u16 {
        let used = |port: u16| {
            let connections = self.running.iter().filter_map(|running| match &running.asking {
                Some((_, Asking::Tcp(attempt))) => Some(attempt.handle),
                _ => None,
            });
            let mut all = connections.chain(self.ending.iter().map(|(handle, _)| *handle));
            all.any(|handle| {
                sockets.get::<Socket>(handle).local_endpoint().is_some_and(|own| own.port == port)
            })
        };
        let after = |port: u16| port.checked_add(1).unwrap_or(HOST_PORT_FIRST);
        let mut port = after(self.port);
        while used(port) {
            port = after(port);
        }
        self.port = port;
        port
    }

    /// A check is over: of a request the connection ends well, any other is reset.
    fn end(&mut self, asking: Asking, sockets: &mut SocketSet<'static>, now: Instant) {
        let Asking::Tcp(attempt) = asking else { return };
        let socket = sockets.get_mut::<Socket>(attempt.handle);
        if attempt.is_answered() {
            socket.close();
        } else {
            socket.abort();
        }
        self.ending.push((attempt.handle, now + ENDING_TIME));
    }

    /// Called when all was sent: connections that have ended go.
    pub(in crate::host) fn sweep(&mut self, sockets: &mut SocketSet<'static>, now: Instant) {
        self.ending.retain(|(handle, until)| {
            let socket = sockets.get_mut::<Socket>(*handle);
            while socket.can_recv() && socket.recv(|data| (data.len(), ())).is_ok() {}
            if matches!(socket.state(), State::Closed | State::TimeWait) {
                sockets.remove(*handle);
                return false;
            }
            if *until <= now {
                // Gone with the next sweep, when its reset was sent.
                socket.abort();
            }
            true
        });
    }

    /// When there is something to do, whatever arrives.
    pub(in crate::host) fn next_deadline(&self) -> Option<Instant> {
        let next = |running: &Running| match &running.asking {
            Some((since, _)) => *since + running.probe.probe.timeout,
            None => running.due,
        };
        let ending = self.ending.iter().map(|(_, until)| *until);
        self.running.iter().map(next).chain(ending).min()
    }
}

fn note(board: &Board, probe: &str, found: Result<Duration, &str>, now: Instant) {
    let Some(change) = board.note(probe, found, now) else { return };
    let (from, to) = (change.from.name(), change.to.name());
    match &change.found {
        Ok(latency) => tracing::info!(probe, from, to, ?latency, "a probe changes its state"),
        Err(error) => tracing::warn!(probe, from, to, error, "a probe changes its state"),
    }
}
