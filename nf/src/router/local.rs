//! Packets for the router's own addresses: echo requests are answered, what the host stack serves goes there, and all else is
//! refused as by a host with no open port (RFC 1122 section 3.2.2, RFC 4443).

use super::effects::{Outcome, Said, Staged, dropped};
use super::interface::InterfaceId;
use super::state::Router;
use crate::function::Verdict;
use crate::headers::answer::{IcmpError, echo_reply, tcp_reset};
use crate::headers::{FrameBuffer, Network, Transport, icmpv4, icmpv6};
use crate::walk::Walk;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::slow_path::FRAME_BYTES;
use std::net::IpAddr;

/// Where an IPv6 header without extension headers names the protocol behind it.
const IPV6_NEXT_HEADER_AT: u32 = 6;

impl Router {
    /// A packet for one of our addresses or groups.
    pub(super) fn admit_local(&self, walk: &mut Walk<'_>, ingress: InterfaceId, to_group: bool) -> Outcome {
        let refused = dropped(DropReason::UnsupportedProtocol);
        let parsed = walk.headers.original();
        if parsed.is_fragment() {
            return refused;
        }
        match parsed.transport {
            Transport::Icmpv4(icmp) if icmp.icmp_type == icmpv4::ECHO_REQUEST && !to_group => {
                return self.answer_echo(walk, ingress, to_group);
            }
            Transport::Icmpv6(icmp) if icmp.icmp_type == icmpv6::ECHO_REQUEST => {
                return self.answer_echo(walk, ingress, to_group);
            }
            _ if to_group => return refused,
            _ => {}
        }
        if let Some(host) = self.host_for(walk) {
            return Self::deliver(walk, host);
        }
        match (&parsed.network, parsed.transport) {
            (_, Transport::Icmpv4(_) | Transport::Icmpv6(_)) => refused,
            (_, Transport::Tcp(_)) => self.refuse_connection(walk, ingress),
            (_, Transport::Udp(_)) => {
                self.report(walk, ingress, IcmpError::PortUnreachable, DropReason::UnsupportedProtocol)
            }
            // Behind extension headers, the pointer would have to be found first: nothing is said.
            (Network::V6(ip), _) if ip.next_header != ip.protocol => refused,
            _ => {
                let error = IcmpError::ProtocolUnreachable { pointer: IPV6_NEXT_HEADER_AT };
                self.report(walk, ingress, error, DropReason::UnsupportedProtocol)
            }
        }
    }

    fn answer_echo(&self, walk: &mut Walk<'_>, ingress: InterfaceId, to_group: bool) -> Outcome {
        let parsed = walk.headers.original();
        let Some((source, destination)) = parsed.addresses() else {
            return dropped(DropReason::UnsupportedProtocol);
        };
        if !parsed.transport_checksum_is_valid(walk.frame) {
            return dropped(DropReason::BadL4Checksum);
        }
        if !self.echoes.peek(source, walk.now) {
            return (Verdict::Drop(DropReason::RateLimited), Some(Staged::said(Said::EchoLimited)));
        }
        let from = if to_group { self.interfaces.source_for(ingress, source) } else { Some(destination) };
        let reply = self.interfaces.get(ingress).zip(from).and_then(|(it, from)| {
            Some((self.answer_port(walk, it), echo_reply::<FRAME_BYTES>(parsed, walk.frame, it.mac, from)?))
        });
        match reply {
            Some((port, frame)) => {
                walk.emit(port, &frame);
                (Verdict::Consume, Some(Staged::said(Said::Echo(source))))
            }
            // No single host asked, or the reply is longer than the frames that the slow path makes.
            None => dropped(DropReason::UnsupportedProtocol),
        }
    }

    /// RFC 9293 section 3.10.7.1: a segment for a connection that does not exist is answered by a reset.
    fn refuse_connection(&self, walk: &mut Walk<'_>, ingress: InterfaceId) -> Outcome {
        let parsed = walk.headers.original();
        let reason = DropReason::UnsupportedProtocol;
        let Some(it) = self.interfaces.get(ingress) else { return dropped(reason) };
        let reset = tcp_reset(parsed, walk.frame, it.mac);
        let to = parsed.addresses().map(|(source, _)| source);
        let port = self.answer_port(walk, it);
        self.speak(walk, to, reset.map(|frame| (port, frame)), reason)
    }

    /// Sends a frame about a packet that is dropped, within the limits on errors.
    pub(super) fn speak(
        &self,
        walk: &mut Walk<'_>,
        to: Option<IpAddr>,
        frame: Option<(millrace_dataplane::port::PortId, FrameBuffer)>,
        reason: DropReason,
    ) -> Outcome {
        let (Some(to), Some((port, frame))) = (to, frame) else { return dropped(reason) };
        if !self.errors.peek(to, walk.now) {
            return (Verdict::Drop(reason), Some(Staged::said(Said::ErrorLimited)));
        }
        walk.emit(port, &frame);
        (Verdict::Drop(reason), Some(Staged::said(Said::Error(to))))
    }
}
