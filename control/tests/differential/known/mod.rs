//! Where Millrace differs from Linux's connection tracking and masquerade, and why. docs/differences.md says it for readers; a test
//! holds both lists against each other.

mod fragments;
mod others;
mod tcp;

use super::packet::{ACK, Body, End, Host, Packet, Piece, Port, RST, SYN};
use super::script::Step;
use super::seen::{Kind, Seen};
use super::view::{Segment, View};

/// A step at which both differ.
pub struct Case<'a> {
    pub step: &'a Step,
    /// The steps before it, and whether anything came of them.
    pub before: &'a [(&'a Step, bool)],
    pub kernel: &'a [Seen],
    pub millrace: &'a [Seen],
}

impl Case<'_> {
    fn packet(&self) -> &Packet {
        &self.step.packet
    }

    /// Linux lets it pass or answers it, Millrace drops it.
    fn millrace_drops(&self) -> bool {
        self.millrace.is_empty()
    }

    fn linux_drops(&self) -> bool {
        self.kernel.is_empty()
    }

    fn is_whole(&self) -> bool {
        self.step.pieces.is_none()
    }

    /// Of what Millrace lets pass, the datagram is not complete: pieces alone, or nothing.
    fn millrace_passes_pieces(&self) -> bool {
        self.millrace.iter().all(|seen| seen.kind == Kind::Fragment)
    }

    fn pieces(&self) -> &[Piece] {
        self.step.pieces.as_deref().unwrap_or_default()
    }

    /// The pieces are a datagram: none is missing or wrong, and each is there once.
    fn is_complete(&self) -> bool {
        let mut pieces = self.pieces().to_vec();
        pieces.sort_unstable();
        pieces.dedup();
        let (mut at, last) = (0, pieces.len());
        let fits = |(n, (start, end, more)): (usize, Piece)| {
            std::mem::replace(&mut at, end) == start && more == (n + 1 < last)
        };
        last > 0 && pieces.into_iter().enumerate().all(fits)
    }

    /// Inside hosts may not reach this port: a rule refuses it.
    fn is_refused(&self) -> bool {
        let port = match self.packet().body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports.1,
            _ => return false,
        };
        self.step.from == End::Inside && port == Port::Is(25)
    }

    /// It is the error that refuses a datagram by the rules.
    fn is_refusal(&self, seen: &Seen) -> bool {
        seen.text.contains(if self.packet().v6 { " error 1/1 " } else { " error 3/13 " })
    }

    /// The TCP segment and what its ends know.
    fn segment(&self) -> Option<(Segment, View)> {
        Some((Segment::of(self.step)?, View::of(self.step, self.before)))
    }

    fn is_error(&self) -> bool {
        matches!(self.packet().body, Body::Error { .. })
    }

    fn is_query(&self, kinds: &[u8]) -> bool {
        matches!(&self.packet().body, Body::Query { kind, .. } if kinds.contains(kind))
    }

    /// The server of the port forwards sent to somebody who had not asked: Linux gave that another external port.
    fn server_began(&self) -> bool {
        let passed = || self.before.iter().filter(|(_, passed)| *passed).map(|(step, _)| &step.packet);
        let remote = |packet: &Packet| match &packet.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } if packet.source == Host::Server => {
                Some((packet.destination, ports.1))
            }
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => Some((packet.source, ports.0)),
            _ => None,
        };
        let begins =
            |packet: &Packet| matches!(packet.body, Body::Tcp { flags, .. } if flags & (SYN | ACK) == SYN);
        passed().enumerate().any(|(at, packet)| {
            let asked = passed().take(at).any(|it| it.source != Host::Server && remote(it) == remote(packet));
            packet.source == Host::Server && remote(packet).is_some() && (!asked || begins(packet))
        })
    }

    /// The first that came back to what began this flow last was a reset, or a reset took that back.
    fn was_refused(&self) -> bool {
        let of_flow = |(step, passed): &&(&Step, bool)| *passed && step.flow == self.step.flow;
        let passed: Vec<_> = self.before.iter().filter(of_flow).collect();
        let begins =
            |step: &Step| Segment::of(step).is_some_and(|segment| segment.flags & (SYN | ACK) == SYN);
        let last = passed.iter().rposition(|(step, _)| begins(step)).unwrap_or(0);
        let mut passed = passed.into_iter().skip(last);
        let Some((first, _)) = passed.next() else { return false };
        let decides = passed.find_map(|(step, _)| {
            let segment = Segment::of(step)?;
            (segment.has(RST) || step.packet.source != first.packet.source).then_some(segment)
        });
        decides.is_some_and(|segment| segment.has(RST))
    }

    /// What came out of both is equal once this is left out of the words.
    fn equal_without(&self, words: fn(&str) -> String) -> bool {
        let plain = |seen: &[Seen]| -> Vec<_> { seen.iter().map(|it| (it.at, words(&it.text))).collect() };
        !self.kernel.is_empty() && plain(self.kernel) == plain(self.millrace)
    }
}

/// The packet is too long for the outside.
fn is_too_big(step: &Step) -> bool {
    step.from == End::Inside && step.what.contains("too big")
}

/// No router may send it on.
fn is_at_its_last_hop(step: &Step) -> bool {
    step.packet.ttl <= 1
}

/// Routers drop it.
fn is_source_routed(step: &Step) -> bool {
    step.packet.options.first() == Some(&131)
}

/// A difference that is explained.
pub struct Known {
    /// Its heading in docs/differences.md.
    pub name: &'static str,
    pub is_it: fn(&Case<'_>) -> bool,
}

/// All, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Known> {
    [fragments::KNOWN, others::KNOWN, tcp::KNOWN].into_iter().flatten()
}
