//! Static translations: port forwards and 1:1 prefixes, compiled for look-up from both sides.
//!
//! A forward says which inside endpoint an external one stands for; a 1:1 translation says it for whole
//! addresses. No mapping is kept for them until a session needs one, so a 1:1 prefix costs nothing and a
//! scan of it leaves nothing behind. Each look-up is a binary search over at most [`RULES_MAX`] rules (or
//! twice as many pieces of rules), so 13 steps at most (R15).

use super::plan_error::PlanError;
use super::segments::{Segments, SegmentsBuilder};
use super::tuple::{Inside, Protocol};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Most forwards, and most 1:1 translations.
pub const RULES_MAX: usize = 4_096;

/// Forwards external ports to inside ones, one by one. Outbound, the inside endpoint appears as the
/// external one, so the mapping is endpoint-independent in both directions (RFC 4787 section 4.1 REQ-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// External address and first port.
    pub external: SocketAddrV4,
    /// Number of ports, at least one.
    pub ports: u16,
    /// Inside address and first port.
    pub inside: SocketAddrV4,
}

/// Translates whole addresses 1:1, all protocols, ports untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneToOne {
    /// First external address.
    pub external: Ipv4Addr,
    /// Number of addresses, at least one.
    pub addresses: u32,
    /// First inside address.
    pub inside: Ipv4Addr,
}

impl OneToOne {
    fn external_last(&self) -> u32 {
        u32::from(self.external).saturating_add(self.addresses.saturating_sub(1))
    }

    fn inside_last(&self) -> u32 {
        u32::from(self.inside).saturating_add(self.addresses.saturating_sub(1))
    }
}

/// The key of port ranges on an address.
pub(super) fn address_key(protocol: Protocol, address: Ipv4Addr) -> u64 {
    u64::from(u32::from(address)) << 8 | protocol as u64
}

/// All static translations. Where several forwards lead to one inside endpoint, it appears outside as the
/// external endpoint of the first; a 1:1 translation of the inside address goes before forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticRules {
    forwards: Vec<Forward>,
    by_external: Segments,
    by_inside: Segments,
    one_to_one: Vec<OneToOne>,
    one_to_one_inside: Vec<OneToOne>,
}

impl StaticRules {
    /// Compiles the rules; what is wrong with them is appended to `errors`.
    pub fn new(forwards: &[Forward], one_to_one: &[OneToOne], errors: &mut Vec<PlanError>) -> Self {
        if forwards.len() > RULES_MAX || one_to_one.len() > RULES_MAX {
            errors.push(PlanError::TooManyRules { limit: RULES_MAX });
            return Self::default();
        }
        let mut rules = Self { forwards: forwards.to_vec(), ..Self::default() };
        rules.add_one_to_one(one_to_one, errors);
        let (mut by_external, mut by_inside) = (SegmentsBuilder::default(), SegmentsBuilder::default());
        for (index, rule) in forwards.iter().enumerate() {
            if let Err(error) = rules.check_forward(index, rule) {
                errors.push(error);
                continue;
            }
            let more = rule.ports - 1;
            let (key, first) = (address_key(rule.protocol, *rule.external.ip()), rule.external.port());
            if let Some(other) = by_external.insert(key, first, first + more, index as u32) {
                errors.push(PlanError::ForwardsOverlap { index, other: other as usize });
            }
            let key = address_key(rule.protocol, *rule.inside.ip());
            by_inside.insert(key, rule.inside.port(), rule.inside.port() + more, index as u32);
        }
        rules.by_external = by_external.build();
        rules.by_inside = by_inside.build();
        rules
    }

    fn check_forward(&self, index: usize, rule: &Forward) -> Result<(), PlanError> {
        if rule.protocol == Protocol::Icmp {
            return Err(PlanError::ForwardProtocol { index });
        }
        for endpoint in [rule.external, rule.inside] {
            let last = u32::from(endpoint.port()) + u32::from(rule.ports);
            if rule.ports == 0 || endpoint.port() == 0 || last > 65_536 {
                return Err(PlanError::ForwardPorts { index });
            }
        }
        if self.one_to_one_inside(*rule.external.ip()).is_some() {
            return Err(PlanError::ForwardOnOneToOne { index });
        }
        Ok(())
    }

    fn add_one_to_one(&mut self, rules: &[OneToOne], errors: &mut Vec<PlanError>) {
        let mut sorted: Vec<(usize, OneToOne)> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let fits =
                |first: Ipv4Addr| u32::from(first).checked_add(rule.addresses.wrapping_sub(1)).is_some();
            if rule.addresses == 0 || !fits(rule.external) || !fits(rule.inside) {
                errors.push(PlanError::OneToOneRange { index });
            } else {
                sorted.push((index, *rule));
            }
        }
        let overlap = |a: &(usize, OneToOne), b: &(usize, OneToOne)| PlanError::OneToOneOverlap {
            index: a.0.max(b.0),
            other: a.0.min(b.0),
        };
        sorted.sort_by_key(|(_, rule)| rule.external);
        let meets = |w: &[(usize, OneToOne)]| w[0].1.external_last() >= u32::from(w[1].1.external);
        errors.extend(sorted.windows(2).filter(|w| meets(w)).map(|w| overlap(&w[0], &w[1])));
        self.one_to_one = sorted.iter().map(|&(_, rule)| rule).collect();
        sorted.sort_by_key(|(_, rule)| rule.inside);
        let meets = |w: &[(usize, OneToOne)]| w[0].1.inside_last() >= u32::from(w[1].1.inside);
        errors.extend(sorted.windows(2).filter(|w| meets(w)).map(|w| overlap(&w[0], &w[1])));
        self.one_to_one_inside = sorted.into_iter().map(|(_, rule)| rule).collect();
    }

    /// True if nothing is translated statically.
    pub fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.one_to_one.is_empty()
    }

    /// The forwards, in the order of the configuration.
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// The 1:1 translations, ordered by external address.
    pub fn one_to_one(&self) -> &[OneToOne] {
        &self.one_to_one
    }

    /// Inside address of a 1:1 translated external address. For any protocol.
    pub fn one_to_one_inside(&self, external: Ipv4Addr) -> Option<Ipv4Addr> {
        let after = self.one_to_one.partition_point(|rule| rule.external <= external);
        let rule = self.one_to_one.get(after.checked_sub(1)?)?;
        let offset = u32::from(external) - u32::from(rule.external);
        (offset < rule.addresses).then(|| Ipv4Addr::from(u32::from(rule.inside) + offset))
    }

    /// External address of a 1:1 translated inside address. For any protocol.
    pub fn one_to_one_external(&self, inside: Ipv4Addr) -> Option<Ipv4Addr> {
        let after = self.one_to_one_inside.partition_point(|rule| rule.inside <= inside);
        let rule = self.one_to_one_inside.get(after.checked_sub(1)?)?;
        let offset = u32::from(inside).wrapping_sub(u32::from(rule.inside));
        (offset < rule.addresses).then(|| Ipv4Addr::from(u32::from(rule.external) + offset))
    }

    /// The inside tuple that an external endpoint stands for.
    pub fn inside_of(&self, protocol: Protocol, external: SocketAddrV4) -> Option<Inside> {
        if let Some(address) = self.one_to_one_inside(*external.ip()) {
            return Some(Inside { protocol, endpoint: SocketAddrV4::new(address, external.port()) });
        }
        let index = self.by_external.find(address_key(protocol, *external.ip()), external.port())?;
        let rule = self.forwards.get(index as usize)?;
        let port = rule.inside.port() + (external.port() - rule.external.port());
        Some(Inside { protocol, endpoint: SocketAddrV4::new(*rule.inside.ip(), port) })
    }

    /// The external endpoint that an inside tuple appears as.
    #[inline]
    pub fn external_of(&self, inside: &Inside) -> Option<SocketAddrV4> {
        if self.is_empty() {
            return None;
        }
        self.external_by_rule(inside)
    }

    fn external_by_rule(&self, inside: &Inside) -> Option<SocketAddrV4> {
        let port = inside.endpoint.port();
        if let Some(address) = self.one_to_one_external(*inside.endpoint.ip()) {
            return Some(SocketAddrV4::new(address, port));
        }
        let key = address_key(inside.protocol, *inside.endpoint.ip());
        let rule = self.forwards.get(self.by_inside.find(key, port)? as usize)?;
        let port = rule.external.port() + (port - rule.inside.port());
        Some(SocketAddrV4::new(*rule.external.ip(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> SocketAddrV4 {
        text.parse().expect("an address and port")
    }

    fn forward(external: &str, ports: u16, inside: &str) -> Forward {
        let (external, inside) = (endpoint(external), endpoint(inside));
        Forward { protocol: Protocol::Tcp, external, ports, inside }
    }

    fn tcp(text: &str) -> Inside {
        Inside { protocol: Protocol::Tcp, endpoint: endpoint(text) }
    }

    #[test]
    fn forwards_lead_in_and_out() {
        let list = [
            forward("192.0.2.1:8000", 100, "10.0.0.5:80"),
            forward("192.0.2.1:443", 1, "10.0.0.5:81"),
            forward("192.0.2.2:65535", 1, "10.0.0.9:65535"),
        ];
        let mut errors = Vec::new();
        let rules = StaticRules::new(&list, &[], &mut errors);
        assert_eq!(errors, []);
        assert_eq!(rules.inside_of(Protocol::Tcp, endpoint("192.0.2.1:8099")), Some(tcp("10.0.0.5:179")));
        assert_eq!(rules.inside_of(Protocol::Tcp, endpoint("192.0.2.1:8100")), None);
        assert_eq!(rules.inside_of(Protocol::Udp, endpoint("192.0.2.1:8000")), None);
        // Two forwards lead to 10.0.0.5:81; outbound it appears as the first.
        assert_eq!(rules.inside_of(Protocol::Tcp, endpoint("192.0.2.1:443")), Some(tcp("10.0.0.5:81")));
        assert_eq!(rules.external_of(&tcp("10.0.0.5:81")), Some(endpoint("192.0.2.1:8001")));
        assert_eq!(rules.external_of(&tcp("10.0.0.9:65535")), Some(endpoint("192.0.2.2:65535")));
    }

    #[test]
    fn one_to_one_translates_whole_addresses() {
        let one = |external: [u8; 4], addresses, inside: [u8; 4]| OneToOne {
            external: external.into(),
            addresses,
            inside: inside.into(),
        };
        let list = [one([198, 51, 100, 0], 256, [10, 1, 0, 0]), one([192, 0, 2, 9], 1, [10, 2, 0, 7])];
        let mut errors = Vec::new();
        let rules = StaticRules::new(&[], &list, &mut errors);
        assert_eq!(errors, []);
        assert_eq!(rules.one_to_one_inside([198, 51, 100, 255].into()), Some([10, 1, 0, 255].into()));
        assert_eq!(rules.one_to_one_inside([198, 51, 101, 0].into()), None);
        assert_eq!(rules.one_to_one_inside([0, 0, 0, 0].into()), None);
        assert_eq!(rules.external_of(&tcp("10.1.0.7:5")), Some(endpoint("198.51.100.7:5")));
        assert_eq!(rules.external_of(&tcp("10.2.0.7:5")), Some(endpoint("192.0.2.9:5")));
        assert_eq!(rules.external_of(&tcp("10.2.0.8:5")), None);
    }

    #[test]
    fn mistakes_are_named() {
        let one = |external: u32, addresses, inside: u32| OneToOne {
            external: external.into(),
            addresses,
            inside: inside.into(),
        };
        let list = [
            one(1_000, 10, 5_000),
            one(1_009, 1, 9_000),
            one(7, 0, 7),
            one(u32::MAX, 2, 8),
            one(3_000, 9, 4_995),
        ];
        let forwards = [
            forward("192.0.2.1:80", 10, "10.0.0.1:80"),
            forward("192.0.2.1:89", 1, "10.0.0.2:80"),
            forward("192.0.2.1:1", 0, "10.0.0.2:80"),
            forward("192.0.2.1:65535", 2, "10.0.0.2:80"),
            forward("192.0.2.1:100", 2, "10.0.0.2:65535"),
            Forward { protocol: Protocol::Icmp, ..forward("192.0.2.1:7", 1, "10.0.0.2:7") },
            Forward {
                external: SocketAddrV4::new(1_003.into(), 80),
                ..forward("192.0.2.1:7", 1, "10.0.0.2:7")
            },
        ];
        let mut errors = Vec::new();
        StaticRules::new(&forwards, &list, &mut errors);
        assert_eq!(
            errors,
            [
                PlanError::OneToOneRange { index: 2 },
                PlanError::OneToOneRange { index: 3 },
                PlanError::OneToOneOverlap { index: 1, other: 0 },
                PlanError::OneToOneOverlap { index: 4, other: 0 },
                PlanError::ForwardsOverlap { index: 1, other: 0 },
                PlanError::ForwardPorts { index: 2 },
                PlanError::ForwardPorts { index: 3 },
                PlanError::ForwardPorts { index: 4 },
                PlanError::ForwardProtocol { index: 5 },
                PlanError::ForwardOnOneToOne { index: 6 },
            ]
        );
        let many = vec![forward("192.0.2.1:1", 1, "10.0.0.1:1"); RULES_MAX + 1];
        errors.clear();
        StaticRules::new(&many, &[], &mut errors);
        assert_eq!(errors, [PlanError::TooManyRules { limit: RULES_MAX }]);
    }
}
