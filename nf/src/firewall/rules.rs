//! Firewall rules as an operator means them, and the atomic matches that they expand to.
//!
//! A [`Rule`] lists alternatives per field; an empty list is "any". [`Rule::matches`] multiplies the lists out
//! into [`RuleMatch`]es, each of which has one value or range per field. All matches of a rule share its
//! identity and so its counters. The first rule in [`Rule::order`] that matches decides.

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::query::{Addresses, Query, Transport};
use crate::zone::ZoneId;

/// Most matches that [`Rule::matches`] makes of one rule.
pub const RULE_MATCHES_MAX: usize = 65_536;
/// Distance between the orders of neighbouring rules of a fresh rule set, so that later rules fit between.
pub const ORDER_STRIDE: u64 = 1 << 32;

/// IP protocol number of ICMP (RFC 792).
pub(crate) const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6 (RFC 4443).
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;
/// The protocols whose headers start with a source and a destination port: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(crate) const PROTOCOLS_WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Names a rule for good: counters, sessions and changes refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a rule does with a new connection that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Admit the connection.
    Allow,
    /// Drop the packet silently.
    Deny,
    /// Drop the packet and tell its sender (TCP RST or ICMP administratively prohibited).
    Reject,
}

/// The IP versions that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// An ICMP or ICMPv6 type, with one code or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpMatch {
    /// The type field.
    pub icmp_type: u8,
    /// The code field; none matches every code.
    pub code: Option<u8>,
}

/// One rule. Empty lists match anything; list elements are alternatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its identity, unique in the rule set.
    pub id: RuleId,
    /// Its position: lower is consulted first. Sparse, so that a rule can be put between two others. Of two
    /// rules with equal order the one with the lower identity comes first.
    pub order: u64,
    /// The operator's name for it, used in errors, logs and listings.
    pub name: String,
    /// What happens to a new connection that it matches.
    pub action: Action,
    /// The zone that the packet came from; none is any.
    pub from_zone: Option<ZoneId>,
    /// The zone that the packet goes to; none is any.
    pub to_zone: Option<ZoneId>,
    /// The IP versions; prefixes narrow it further.
    pub family: Family,
    /// Source prefixes.
    pub sources: Vec<IpNet>,
    /// Destination prefixes.
    pub destinations: Vec<IpNet>,
    /// IP protocol numbers (the last next-header value for IPv6).
    pub protocols: Vec<u8>,
    /// Source port ranges. Without protocols they match every protocol that has ports.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Destination port ranges. Without protocols they match every protocol that has ports.
    pub destination_ports: Vec<RangeInclusive<u16>>,
    /// ICMP types and codes; needs the protocol or the family, because the numbers differ between the two.
    pub icmp: Vec<IcmpMatch>,
    /// Whether matching packets are logged (sampled).
    pub log: bool,
}

/// Why a rule is refused. Texts name the rule, what was found and what would be valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Two rules have one identity.
    #[error("rule \"{name}\": identity {id} is used by another rule; every rule needs its own")]
    DuplicateId {
        /// The second rule's name.
        name: String,
        /// The identity that both have.
        id: RuleId,
    },
    /// No source prefix is of the family of a destination prefix or of the rule.
    #[error(
        "rule \"{name}\": no source and destination are of one IP version, so it can match nothing; \
             give sources and destinations of the same version, or leave one of them out"
    )]
    Families {
        /// The rule's name.
        name: String,
    },
    /// A port range whose start is above its end.
    #[error("rule \"{name}\": port range {start}-{end} is empty; the first port must not be above the last")]
    EmptyPorts {
        /// The rule's name.
        name: String,
        /// First port as given.
        start: u16,
        /// Last port as given.
        end: u16,
    },
    /// Ports with a protocol that has none.
    #[error(
        "rule \"{name}\": ports are given, but protocol {protocol} has none; valid with ports are tcp (6), \
             udp (17), dccp (33), sctp (132) and udplite (136), or no protocol for all of them"
    )]
    PortsWithoutPorts {
        /// The rule's name.
        name: String,
        /// The protocol found.
        protocol: u8,
    },
    /// ICMP types with a protocol other than ICMP, or with ports.
    #[error("rule \"{name}\": ICMP types can't be combined with {with}; make two rules of it")]
    IcmpWith {
        /// The rule's name.
        name: String,
        /// What they were combined with.
        with: String,
    },
    /// ICMP types without anything that says of which ICMP.
    #[error(
        "rule \"{name}\": ICMP types differ between IPv4 and IPv6; give protocol icmp (1) or ipv6-icmp (58), \
             or a family"
    )]
    IcmpOfWhichFamily {
        /// The rule's name.
        name: String,
    },
    /// There are too many rules.
    #[error(
        "rule \"{name}\": a firewall has at most 1,048,575 rules; aggregate prefixes or ports into lists"
    )]
    TooManyRules {
        /// The rule that is too many.
        name: String,
    },
    /// The lists multiply to too many matches.
    #[error(
        "rule \"{name}\": its lists multiply to {found} combinations; at most {RULE_MATCHES_MAX} are possible: \
             split it, or aggregate its prefixes and ports"
    )]
    TooManyMatches {
        /// The rule's name.
        name: String,
        /// The number of combinations.
        found: usize,
    },
}

/// What an atomic match demands of the transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportMatch {
    /// Nothing.
    Any,
    /// Ports in these ranges; a packet without ports (a later fragment, ESP) does not match.
    Ports {
        /// Source ports.
        source: RangeInclusive<u16>,
        /// Destination ports.
        destination: RangeInclusive<u16>,
    },
    /// An ICMP type and perhaps code.
    Icmp(IcmpMatch),
}

/// One alternative of a rule: at most one value or range for each field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// The rule it belongs to.
    pub rule: RuleId,
    /// The rule's position.
    pub order: u64,
    /// The zone that the packet came from; none is any.
    pub from_zone: Option<ZoneId>,
    /// The zone that the packet goes to; none is any.
    pub to_zone: Option<ZoneId>,
    /// The IP version; agrees with the prefixes.
    pub family: Family,
    /// Source prefix, host bits clear; none is any.
    pub source: Option<IpNet>,
    /// Destination prefix, host bits clear; none is any.
    pub destination: Option<IpNet>,
    /// IP protocol; none is any.
    pub protocol: Option<u8>,
    /// Ports, or ICMP type and code.
    pub transport: TransportMatch,
}

impl Rule {
    /// A rule that matches every packet.
    pub fn any(id: RuleId, order: u64, name: impl Into<String>, action: Action) -> Self {
        Self {
            id,
            order,
            name: name.into(),
            action,
            from_zone: None,
            to_zone: None,
            family: Family::Any,
            sources: Vec::new(),
            destinations: Vec::new(),
            protocols: Vec::new(),
            source_ports: Vec::new(),
            destination_ports: Vec::new(),
            icmp: Vec::new(),
            log: false,
        }
    }

    /// Checks that the lists fit together.
    ///
    /// # Errors
    /// Any [`RuleError`] but `DuplicateId` and `TooManyMatches`.
    pub fn check(&self) -> Result<(), RuleError> {
        self.check_transport()?;
        if !self.has_version(Family::V4) && !self.has_version(Family::V6) {
            return Err(RuleError::Families { name: self.name.clone() });
        }
        let any_family =
            self.family == Family::Any && self.sources.is_empty() && self.destinations.is_empty();
        if !self.icmp.is_empty() && self.protocols.is_empty() && any_family {
            return Err(RuleError::IcmpOfWhichFamily { name: self.name.clone() });
        }
        Ok(())
    }

    /// Whether packets of this IP version can match.
    pub(crate) fn has_version(&self, version: Family) -> bool {
        let other = if version == Family::V4 { Family::V6 } else { Family::V4 };
        let has = |nets: &[IpNet]| nets.is_empty() || nets.iter().any(|net| family_of(Some(*net)) == version);
        self.family != other && has(&self.sources) && has(&self.destinations)
    }

    /// Whether it matches whatever the ports are, and so packets whose ports are not known.
    pub(crate) fn matches_every_port(&self) -> bool {
        let every = |list: &[RangeInclusive<u16>]| list.is_empty() || list.iter().any(is_every_port);
        every(&self.source_ports) && every(&self.destination_ports)
    }

    /// Multiplies the lists out, after checking that they fit together.
    ///
    /// # Errors
    /// Any [`RuleError`] but `DuplicateId`.
    pub fn matches(&self) -> Result<Vec<RuleMatch>, RuleError> {
        self.check()?;
        let found = self.combinations();
        if found > RULE_MATCHES_MAX {
            return Err(RuleError::TooManyMatches { name: self.name.clone(), found });
        }
        let protocols = options(&self.protocols);
        let transports = self.transports();
        let mut matches = Vec::new();
        for (family, source, destination) in self.address_pairs() {
            for protocol in &protocols {
                let protocol = self.icmp_protocol(*protocol, family);
                matches.extend(transports.iter().map(|transport| RuleMatch {
                    rule: self.id,
                    order: self.order,
                    from_zone: self.from_zone,
                    to_zone: self.to_zone,
                    family,
                    source,
                    destination,
                    protocol,
                    transport: transport.clone(),
                }));
            }
        }
        Ok(matches)
    }

    /// An upper bound on the number of matches, without building them.
    pub(crate) fn combinations(&self) -> usize {
        [
            self.sources.len(),
            self.destinations.len(),
            self.protocols.len(),
            self.source_ports.len(),
            self.destination_ports.len(),
            self.icmp.len(),
        ]
        .iter()
        .fold(1, |product: usize, count| product.saturating_mul((*count).max(1)))
    }

    fn check_transport(&self) -> Result<(), RuleError> {
        let name = || self.name.clone();
        let ports = || self.source_ports.iter().chain(&self.destination_ports);
        if let Some(range) = ports().find(|range| range.is_empty()) {
            return Err(RuleError::EmptyPorts { name: name(), start: *range.start(), end: *range.end() });
        }
        if ports().next().is_some() {
            if !self.icmp.is_empty() {
                return Err(RuleError::IcmpWith { name: name(), with: "ports".into() });
            }
            if let Some(protocol) =
                self.protocols.iter().find(|number| !PROTOCOLS_WITH_PORTS.contains(number))
            {
                return Err(RuleError::PortsWithoutPorts { name: name(), protocol: *protocol });
            }
        }
        let icmp = |number: &u8| matches!(*number, PROTOCOL_ICMP | PROTOCOL_ICMPV6);
        match self.protocols.iter().find(|number| !icmp(number)) {
            Some(other) if !self.icmp.is_empty() => {
                Err(RuleError::IcmpWith { name: name(), with: format!("protocol {other}") })
            }
            _ => Ok(()),
        }
    }

    /// The protocol of a match: ICMP types without a protocol take that of the family.
    fn icmp_protocol(&self, protocol: Option<u8>, family: Family) -> Option<u8> {
        match family {
            _ if self.icmp.is_empty() || protocol.is_some() => protocol,
            Family::V6 => Some(PROTOCOL_ICMPV6),
            Family::Any | Family::V4 => Some(PROTOCOL_ICMP),
        }
    }

    fn transports(&self) -> Vec<TransportMatch> {
        if !self.icmp.is_empty() {
            return self.icmp.iter().map(|icmp| TransportMatch::Icmp(*icmp)).collect();
        }
        let mut transports = Vec::new();
        for source in ranges(&self.source_ports) {
            for destination in ranges(&self.destination_ports) {
                // The whole range is "any": it also matches packets whose ports are not known.
                transports.push(if is_every_port(&source) && is_every_port(&destination) {
                    TransportMatch::Any
                } else {
                    TransportMatch::Ports { source: source.clone(), destination }
                });
            }
        }
        transports
    }

    /// The pairs of prefixes whose families agree with each other and with the rule's.
    fn address_pairs(&self) -> Vec<(Family, Option<IpNet>, Option<IpNet>)> {
        let mut pairs = Vec::new();
        for source in options(&self.sources) {
            for destination in options(&self.destinations) {
                let families = [self.family, family_of(source), family_of(destination)];
                let has = |family| families.contains(&family);
                let family = match (has(Family::V4), has(Family::V6)) {
                    (true, true) => continue,
                    (true, false) => Family::V4,
                    (false, true) => Family::V6,
                    (false, false) => Family::Any,
                };
                let host_bits_clear = |net: Option<IpNet>| net.map(|net| net.trunc());
                pairs.push((family, host_bits_clear(source), host_bits_clear(destination)));
            }
        }
        pairs
    }
}

fn options<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

fn ranges(list: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    if list.is_empty() { vec![0..=u16::MAX] } else { list.to_vec() }
}

fn is_every_port(range: &RangeInclusive<u16>) -> bool {
    *range.start() == 0 && *range.end() == u16::MAX
}

fn family_of(net: Option<IpNet>) -> Family {
    match net {
        None => Family::Any,
        Some(IpNet::V4(_)) => Family::V4,
        Some(IpNet::V6(_)) => Family::V6,
    }
}

impl RuleMatch {
    /// Whether this alternative matches: its meaning in plain terms. Look-ups go through the classifier; this
    /// answers for one match, as when a changed rule is held against a live session.
    pub fn matches(&self, query: &Query) -> bool {
        let zone = |wanted: Option<ZoneId>, found| wanted.is_none_or(|zone| zone == found);
        let addresses = match query.addresses {
            Addresses::V4 { source, destination } => {
                self.family != Family::V6
                    && contains(self.source, source.into())
                    && contains(self.destination, destination.into())
            }
            Addresses::V6 { source, destination } => {
                self.family != Family::V4
                    && contains(self.source, source.into())
                    && contains(self.destination, destination.into())
            }
        };
        addresses
            && zone(self.from_zone, query.from_zone)
            && zone(self.to_zone, query.to_zone)
            && self.protocol.is_none_or(|protocol| protocol == query.protocol)
            && self.transport.matches(query.transport)
    }
}

fn contains(net: Option<IpNet>, address: std::net::IpAddr) -> bool {
    net.is_none_or(|net| net.contains(&address))
}

impl TransportMatch {
    fn matches(&self, transport: Transport) -> bool {
        match (self, transport) {
            (Self::Any, _) => true,
            (Self::Ports { source, destination }, Transport::Ports { source: from, destination: to }) => {
                source.contains(&from) && destination.contains(&to)
            }
            (Self::Icmp(wanted), Transport::Icmp { icmp_type, code }) => {
                wanted.icmp_type == icmp_type && wanted.code.is_none_or(|wanted| wanted == code)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
