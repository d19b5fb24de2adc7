//! What a changed rule can touch, so that only cached decisions that it concerns fall (R8).

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::rules::Rule;

/// Shortest IPv4 prefix that counts as selective.
pub const FOOTPRINT_BITS_MIN_V4: u8 = 24;
/// Shortest IPv6 prefix that counts as selective: a site (RFC 6177), as a /24 is for IPv4.
pub const FOOTPRINT_BITS_MIN_V6: u8 = 48;
/// Widest range of ports that counts as selective.
pub const FOOTPRINT_PORTS_MAX: u16 = 16;

/// A bounded over-approximation of the packets that an alternative of a rule can concern.
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

impl Rule {
    /// What a change of this rule can touch, for the invalidation of cached decisions (R8): the first dimension all of whose
    /// alternatives are selective, or [`Footprint::Any`] where there is none. It describes packets in the
    /// direction that the rule sees; replies fall with their session.
    pub fn footprints(&self) -> Vec<Footprint> {
        if is_selective(&self.destinations) {
            return self.destinations.iter().copied().map(Footprint::Destination).collect();
        }
        if is_selective(&self.sources) {
            return self.sources.iter().copied().map(Footprint::Source).collect();
        }
        let ports = &self.destination_ports;
        let few =
            |range: &RangeInclusive<u16>| range.end().saturating_sub(*range.start()) < FOOTPRINT_PORTS_MAX;
        if self.protocols.is_empty() || ports.is_empty() || !ports.iter().all(few) {
            return vec![Footprint::Any];
        }
        let services =
            |protocol| ports.iter().map(move |ports| Footprint::Service { protocol, ports: ports.clone() });
        self.protocols.iter().copied().flat_map(services).collect()
    }
}

/// Whether there are prefixes and each of them names few hosts.
fn is_selective(nets: &[IpNet]) -> bool {
    let few = |net: &IpNet| match net {
        IpNet::V4(net) => net.prefix_len() >= FOOTPRINT_BITS_MIN_V4,
        IpNet::V6(net) => net.prefix_len() >= FOOTPRINT_BITS_MIN_V6,
    };
    !nets.is_empty() && nets.iter().all(few)
}
