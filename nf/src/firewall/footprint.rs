//! What a changed rule can touch, so that only cached decisions that it concerns fall (R8).

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::rules::{RuleMatch, TransportMatch};

/// Shortest IPv4 prefix that counts as selective.
pub const FOOTPRINT_BITS_MIN_V4: u8 = 24;
/// Shortest IPv6 prefix that counts as selective: a site (RFC 6177), as a /24 is for IPv4.
pub const FOOTPRINT_BITS_MIN_V6: u8 = 48;
/// Widest range of ports that counts as selective.
pub const FOOTPRINT_PORTS_MAX: u16 = 16;

/// A bounded over-approximation of the packets that a match can concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footprint {
    /// Packets to this prefix.
    Destination(IpNet),
    /// Packets from this prefix.
    Source(IpNet),
    /// Packets of this protocol to these ports.
    Service {
        /// IP protocol.
        protocol: u8,
        /// Destination ports, at most [`FOOTPRINT_PORTS_MAX`] of them.
        ports: RangeInclusive<u16>,
    },
    /// Any packet.
    Any,
}

impl RuleMatch {
    /// What a change of this match can touch, for the invalidation of cached decisions (R8): the dimension that
    /// names the fewest flows, or [`Footprint::Any`] where none is selective. It describes packets in the
    /// direction that the rule sees; replies fall with their session.
    pub fn footprint(&self) -> Footprint {
        let selective = |net: &IpNet| match net {
            IpNet::V4(net) => net.prefix_len() >= FOOTPRINT_BITS_MIN_V4,
            IpNet::V6(net) => net.prefix_len() >= FOOTPRINT_BITS_MIN_V6,
        };
        if let Some(prefix) = self.destination.filter(selective) {
            return Footprint::Destination(prefix);
        }
        if let Some(prefix) = self.source.filter(selective) {
            return Footprint::Source(prefix);
        }
        match (&self.transport, self.protocol) {
            (TransportMatch::Ports { destination, .. }, Some(protocol))
                if destination.end() - destination.start() < FOOTPRINT_PORTS_MAX =>
            {
                Footprint::Service { protocol, ports: destination.clone() }
            }
            _ => Footprint::Any,
        }
    }
}
