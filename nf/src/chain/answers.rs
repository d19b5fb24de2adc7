//! What later segments answer speaks of the packet as it came to the chain.
//!
//! Behind a packet function, functions see a packet as the segments before have left it, and what they answer (ICMP errors,
//! resets, echo replies) quotes that. Its sender knows another packet. The sessions of the segments before say which: what an
//! answer would look like on its way back through each of them.

use super::stages::rewritten;
use super::{Attachment, Chain, chains::domain_of};
use crate::headers::{Headers, Parsed, Transport};
use crate::walk::Direction;
use millrace_dataplane::flow::session::{SessionTable, Tuple};
use millrace_dataplane::packet::Verify;
use millrace_dataplane::packet::parse::parse;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::Frame;

impl Chain {
    /// Makes frames that answer the packet at hand speak of the packet that the chain received.
    pub(super) fn restore_answers(
        &self,
        port: PortId,
        entry: Attachment,
        sessions: &SessionTable,
        frames: &mut [Frame],
    ) {
        // What comes from no logical port was in no other segment before.
        if frames.is_empty() || port == entry.ingress {
            return;
        }
        let Some(seen) = self.headers.original_tuple(self.domain) else { return };
        let sent = self.as_received(entry, seen, sessions);
        if (Tuple { domain: seen.domain, ..sent }) == seen {
            return;
        }
        for frame in frames.iter_mut().filter(|frame| frame.port == entry.ingress) {
            if let Some(bytes) = restored(&frame.bytes, &seen, &sent)
                && let Ok(bytes) = bytes.as_slice().try_into()
            {
                frame.bytes = bytes;
            }
        }
    }

    /// What a packet looked like when it was received that a segment sees as `seen`.
    fn as_received(&self, entry: Attachment, seen: Tuple, sessions: &SessionTable) -> Tuple {
        let (end, at) = (self.segments.len(), entry.segment);
        // The segments on its way, the nearest first.
        let backward = if entry.is_forward() { 0..0 } else { at + 1..end };
        let forward = match entry.direction() {
            Direction::Forward => 0..at,
            Direction::Backward if entry.turned => 0..end - 1,
            Direction::Backward => 0..0,
        };
        backward.chain(forward.rev()).fold(seen, |seen, segment| {
            let domain = self.segments.get(segment).map_or(0, |number| domain_of(entry.chain, *number));
            let seen = Tuple { domain, ..seen };
            match sessions.find(&seen.inverse()) {
                Some((id, reply)) => sessions.tuples(id)[usize::from(!reply)],
                None => seen,
            }
        })
    }
}

/// A frame that answers what was `seen`, as an answer to what was `sent`; none if it does not answer that.
fn restored(frame: &[u8], seen: &Tuple, sent: &Tuple) -> Option<Vec<u8>> {
    let layout = parse(frame, Verify::None).ok()?;
    let mut headers = Headers::empty();
    headers.read(frame, layout).ok()?;
    let (source, destination) = headers.original().addresses()?;
    if destination != seen.source_address() {
        return None;
    }
    if headers.embedded_tuple(seen.domain).is_some_and(|quoted| quoted == *seen) {
        headers.set_embedded_source(sent.source_address(), sent.source_port);
        headers.set_embedded_destination(sent.destination_address(), sent.destination_port);
    }
    // An error of the router's has an address of its own.
    let in_its_name = source == seen.destination_address();
    headers.set_destination(sent.source_address());
    if in_its_name {
        headers.set_source(sent.destination_address());
    }
    if has_ports(headers.original()) {
        headers.set_destination_port(sent.source_port);
        headers.set_source_port(sent.destination_port);
    } else if is_echo(headers.original()) {
        headers.set_icmp_identifier(sent.source_port);
    }
    rewritten(frame, &headers)
}

fn has_ports(parsed: &Parsed) -> bool {
    matches!(parsed.transport, Transport::Tcp(_) | Transport::Udp(_))
}

fn is_echo(parsed: &Parsed) -> bool {
    match parsed.transport {
        Transport::Icmpv4(icmp) => icmp.is_echo(),
        Transport::Icmpv6(icmp) => icmp.is_echo(),
        _ => false,
    }
}
