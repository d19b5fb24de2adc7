//! The checked configuration of the NAT: immutable, built by control, shared with the worker.

use super::filter::Filtering;
use super::forward::{Forward, OneToOne, StaticRules, address_key};
use super::mapping::Mapping;
use super::plan_error::{POOL_ADDRESSES_MAX, PlanError};
use super::ports::{PortMask, empty_mask, mask_range};
use super::segments::{Segments, SegmentsBuilder};
use super::share::{BLOCK_PORTS, PortShare};
use super::subscriber::SubscriberLimits;
use super::tuple::Protocol;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Most entries of the list of reserved ports.
pub const RESERVATIONS_MAX: usize = 4_096;
/// Stands for "every address" where reservations are keyed by address.
const EVERY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// External addresses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRange {
    /// First address.
    pub first: Ipv4Addr,
    /// Last address.
    pub last: Ipv4Addr,
}

impl PoolRange {
    /// Number of addresses; zero if `last` is below `first`.
    pub fn addresses(&self) -> u64 {
        (u64::from(u32::from(self.last)) + 1).saturating_sub(u32::from(self.first).into())
    }
}

impl From<ipnet::Ipv4Net> for PoolRange {
    /// All addresses of the prefix: a pool needs no network or broadcast address.
    fn from(prefix: ipnet::Ipv4Net) -> Self {
        Self { first: prefix.network(), last: prefix.broadcast() }
    }
}

/// Ports that no dynamic mapping gets, because something else uses them: the router itself, another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// On this external address, or on all.
    pub address: Option<Ipv4Addr>,
    /// For this protocol, or for all.
    pub protocol: Option<Protocol>,
    /// First port or query identifier.
    pub first: u16,
    /// Last port or query identifier.
    pub last: u16,
}

/// The configuration as it is written. `NatSettings::default()` is RFC 4787's recommendation without a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// The pool of external addresses for dynamic mappings.
    pub pool: Vec<PoolRange>,
    /// First and last port or query identifier that dynamic mappings use.
    pub ports: (u16, u16),
    /// Which of these ports are this worker's to give out, where several workers translate.
    pub share: PortShare,
    /// May a host get ports of another address when its own has none left? Else it is refused
    /// (RFC 4787 section 4.1 REQ-2 recommends one external address a host).
    pub overflow: bool,
    /// Keep even ports even and odd ports odd for UDP while possible (RFC 4787 section 4.2.2 REQ-4).
    pub udp_parity: bool,
    /// Who may send to a mapping from outside (RFC 4787 section 5 REQ-8).
    pub filtering: Filtering,
    /// What a single host may hold (RFC 6888 section 3 REQ-4).
    pub limits: SubscriberLimits,
    /// Ports kept from dynamic mappings. Those of forwards need not be listed.
    pub reserved: Vec<Reservation>,
    /// Static port forwards.
    pub forwards: Vec<Forward>,
    /// Static 1:1 translations.
    pub one_to_one: Vec<OneToOne>,
}

impl Default for NatSettings {
    fn default() -> Self {
        Self {
            pool: Vec::new(),
            ports: (1, u16::MAX),
            share: PortShare::default(),
            overflow: true,
            udp_parity: true,
            filtering: Filtering::EndpointIndependent,
            limits: SubscriberLimits::default(),
            reserved: Vec::new(),
            forwards: Vec::new(),
            one_to_one: Vec::new(),
        }
    }
}

/// What an external address stands for, with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalEnd {
    /// An inside host, by a static translation.
    Host(Ipv4Addr),
    /// Who has this port, if anybody.
    Port(u16),
}

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPlan {
    settings: NatSettings,
    /// Sorted and disjoint.
    pool: Vec<PoolRange>,
    rules: StaticRules,
    /// Keyed by [`address_key`]; those of [`EVERY`] address hold everywhere.
    reserved: Segments,
}

impl NatPlan {
    /// Checks the settings. All that is wrong with them is returned at once.
    pub fn new(settings: NatSettings) -> Result<Self, Vec<PlanError>> {
        let mut errors = Vec::new();
        let pool = check_pool(&settings.pool, &mut errors);
        let (first, last) = settings.ports;
        if first == 0 || first > last {
            errors.push(PlanError::Ports { first, last });
        } else if !settings.share.has_any(first, last) {
            errors.push(PlanError::Share { first, last });
        }
        let rules = StaticRules::new(&settings.forwards, &settings.one_to_one, &mut errors);
        for rule in rules.one_to_one() {
            let after = u64::from(u32::from(rule.external)) + u64::from(rule.addresses);
            let apart =
                |range: &PoolRange| range.last < rule.external || u64::from(u32::from(range.first)) >= after;
            if !pool.iter().all(apart) {
                errors.push(PlanError::OneToOneInPool { external: rule.external });
            }
        }
        let reserved = compile_reserved(&settings, &mut errors);
        if errors.is_empty() { Ok(Self { settings, pool, rules, reserved }) } else { Err(errors) }
    }

    /// The settings that were checked.
    pub fn settings(&self) -> &NatSettings {
        &self.settings
    }

    /// The pool's ranges, sorted and disjoint.
    pub fn pool(&self) -> &[PoolRange] {
        &self.pool
    }

    /// Addresses of the pool.
    pub fn addresses(&self) -> u64 {
        self.pool.iter().map(PoolRange::addresses).sum()
    }

    /// The static translations.
    pub fn rules(&self) -> &StaticRules {
        &self.rules
    }

    /// Is this an address of the pool?
    pub fn in_pool(&self, address: Ipv4Addr) -> bool {
        let after = self.pool.partition_point(|range| range.first <= address);
        after.checked_sub(1).is_some_and(|index| self.pool[index].last >= address)
    }

    /// Must the router answer for this address: is it in the pool, forwarded from or translated 1:1?
    pub fn is_external(&self, address: Ipv4Addr) -> bool {
        self.in_pool(address)
            || self.rules.one_to_one_inside(address).is_some()
            || self.rules.forwards().iter().any(|rule| *rule.external.ip() == address)
    }

    /// Whose a packet to an external address is; none if that needs its port, or if it has none that a NAT knows.
    pub fn external_end(&self, protocol: u8, external: Ipv4Addr, port: Option<u16>) -> Option<ExternalEnd> {
        if let Some(inside) = self.rules.one_to_one_inside(external) {
            return Some(ExternalEnd::Host(inside));
        }
        let (protocol, port) = (Protocol::from_ip(protocol)?, port?);
        Some(match self.rules.inside_of(protocol, SocketAddrV4::new(external, port)) {
            Some(inside) => ExternalEnd::Host(*inside.endpoint.ip()),
            None => ExternalEnd::Port(port),
        })
    }

    /// Is this port or query identifier kept from dynamic mappings?
    pub fn is_reserved(&self, protocol: Protocol, external: SocketAddrV4) -> bool {
        let (first, last) = self.settings.ports;
        if !(first..=last).contains(&external.port()) || !self.settings.share.has(external.port()) {
            return true;
        }
        if self.reserved.is_empty() {
            return false;
        }
        let listed = |address| self.reserved.find(address_key(protocol, address), external.port()).is_some();
        listed(EVERY) || listed(*external.ip())
    }

    /// Has this address reservations or forwards of its own?
    pub fn has_own_reservations(&self, address: Ipv4Addr) -> bool {
        Protocol::ALL
            .into_iter()
            .any(|protocol| !self.reserved.under(address_key(protocol, address)).is_empty())
    }

    /// Are the same ports reserved on this address as in the other plan?
    pub fn reserves_like(&self, other: &Self, address: Ipv4Addr) -> bool {
        let same = |protocol, address| {
            let key = address_key(protocol, address);
            let bounds =
                |plan: &Self| plan.reserved.under(key).iter().map(|s| (s.first, s.last)).collect::<Vec<_>>();
            bounds(self) == bounds(other)
        };
        self.shares_like(other)
            && Protocol::ALL.into_iter().all(|protocol| same(protocol, EVERY) && same(protocol, address))
    }

    /// Are the same ports reserved on every address as in the other plan?
    pub fn reserves_all_like(&self, other: &Self) -> bool {
        self.shares_like(other) && self.reserved == other.reserved
    }

    /// Are the ports of dynamic mappings, before reservations, those of the other plan?
    fn shares_like(&self, other: &Self) -> bool {
        self.settings.ports == other.settings.ports && self.settings.share == other.settings.share
    }

    /// Is any port reserved that others of its kind are not: on one address alone, or for a forward?
    pub fn reserves_somewhere(&self) -> bool {
        !self.reserved.is_empty()
    }

    /// The ports reserved on `address`, or those reserved on all addresses.
    pub fn reserved_mask(&self, protocol: Protocol, address: Option<Ipv4Addr>) -> Box<PortMask> {
        let mut mask = empty_mask();
        let (first, last) = self.settings.ports;
        mask_range(&mut mask, 0, first - 1);
        if last < u16::MAX {
            mask_range(&mut mask, last + 1, u16::MAX);
        }
        let share = self.settings.share;
        let foreign = (0..=u16::MAX).step_by(BLOCK_PORTS as usize).filter(|port| !share.has(*port));
        foreign.for_each(|port| mask_range(&mut mask, port, port + (BLOCK_PORTS as u16 - 1)));
        for address in [Some(EVERY), address].into_iter().flatten() {
            for segment in self.reserved.under(address_key(protocol, address)) {
                mask_range(&mut mask, segment.first, segment.last);
            }
        }
        mask
    }

    /// Would this mapping be made the same under this plan? A mapping that would not falls when the plan
    /// comes into force; all others stay (R8).
    pub fn keeps(&self, mapping: &Mapping) -> bool {
        if mapping.is_static {
            return self.rules.inside_of(mapping.inside.protocol, mapping.external) == Some(mapping.inside);
        }
        self.in_pool(*mapping.external.ip())
            && !self.is_reserved(mapping.inside.protocol, mapping.external)
            && self.rules.external_of(&mapping.inside).is_none()
    }
}

/// The ranges sorted; mistakes are appended to `errors`.
fn check_pool(ranges: &[PoolRange], errors: &mut Vec<PlanError>) -> Vec<PoolRange> {
    let mut sorted: Vec<(usize, PoolRange)> = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        // 0.0.0.0/8, 127.0.0.0/8 and 224.0.0.0/3 are no addresses of hosts (RFC 1122 section 3.2.1.3).
        let (first, last) = (range.first.octets()[0], range.last.octets()[0]);
        let unicast = first > 0 && last < 224 && (last < 127 || first > 127);
        if range.addresses() == 0 || !unicast {
            errors.push(PlanError::PoolRange { index });
        } else {
            sorted.push((index, *range));
        }
    }
    sorted.sort_by_key(|(_, range)| range.first);
    for pair in sorted.windows(2) {
        if pair[0].1.last >= pair[1].1.first {
            let (index, other) = (pair[0].0.max(pair[1].0), pair[0].0.min(pair[1].0));
            errors.push(PlanError::PoolOverlap { index, other });
        }
    }
    let addresses: u64 = sorted.iter().map(|(_, range)| range.addresses()).sum();
    if addresses > POOL_ADDRESSES_MAX {
        errors.push(PlanError::PoolTooLarge { addresses });
    }
    sorted.into_iter().map(|(_, range)| range).collect()
}

/// Reservations and the external ports of forwards, merged.
fn compile_reserved(settings: &NatSettings, errors: &mut Vec<PlanError>) -> Segments {
    let mut builder = SegmentsBuilder::default();
    if settings.reserved.len() > RESERVATIONS_MAX {
        errors.push(PlanError::TooManyRules { limit: RESERVATIONS_MAX });
        return builder.build();
    }
    for (index, entry) in settings.reserved.iter().enumerate() {
        if entry.first > entry.last || entry.address == Some(EVERY) {
            errors.push(PlanError::ReservedRange { index });
            continue;
        }
        for protocol in Protocol::ALL.into_iter().filter(|p| entry.protocol.is_none_or(|only| only == *p)) {
            let key = address_key(protocol, entry.address.unwrap_or(EVERY));
            builder.insert(key, entry.first, entry.last, 0);
        }
    }
    if errors.is_empty() {
        for rule in &settings.forwards {
            let first = rule.external.port();
            builder.insert(
                address_key(rule.protocol, *rule.external.ip()),
                first,
                first + (rule.ports - 1),
                0,
            );
        }
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::super::tuple::Inside;
    use super::*;

    fn range(first: [u8; 4], last: [u8; 4]) -> PoolRange {
        PoolRange { first: first.into(), last: last.into() }
    }

    fn endpoint(text: &str) -> SocketAddrV4 {
        text.parse().expect("an address and port")
    }

    fn settings() -> NatSettings {
        let forward = Forward {
            protocol: Protocol::Udp,
            external: endpoint("192.0.2.1:5000"),
            ports: 10,
            inside: endpoint("10.0.0.1:7000"),
        };
        let reserved = [
            Reservation { address: Some([192, 0, 2, 1].into()), protocol: None, first: 22, last: 22 },
            Reservation { address: None, protocol: Some(Protocol::Tcp), first: 4_000, last: 4_999 },
        ];
        NatSettings {
            pool: vec![range([192, 0, 2, 8], [192, 0, 2, 15]), range([192, 0, 2, 1], [192, 0, 2, 2])],
            ports: (20, 60_000),
            reserved: reserved.into(),
            forwards: vec![forward],
            ..NatSettings::default()
        }
    }

    #[test]
    fn every_reservation_holds_where_it_should() {
        let plan = NatPlan::new(settings()).expect("valid settings");
        for text in ["192.0.2.1:5000", "192.0.2.1:22", "192.0.2.9:22", "192.0.2.9:4999", "192.0.2.1:19"] {
            let external = endpoint(text);
            for protocol in Protocol::ALL {
                let expected = match (external.port(), protocol) {
                    (5_000, Protocol::Udp) | (19, _) | (4_999, Protocol::Tcp) => true,
                    (22, _) => *external.ip() == Ipv4Addr::from([192, 0, 2, 1]),
                    _ => false,
                };
                assert_eq!(plan.is_reserved(protocol, external), expected, "{protocol} {text}");
                let mask = plan.reserved_mask(protocol, Some(*external.ip()));
                let held = mask[usize::from(external.port()) / 64] >> (external.port() % 64) & 1 == 1;
                assert_eq!(held, expected, "{protocol} {text}");
            }
        }
        assert!(plan.has_own_reservations([192, 0, 2, 1].into()));
        assert!(!plan.has_own_reservations([192, 0, 2, 2].into()));
        assert!(plan.in_pool([192, 0, 2, 15].into()) && !plan.in_pool([192, 0, 2, 3].into()));
        assert!(plan.is_external([192, 0, 2, 1].into()) && !plan.is_external([192, 0, 2, 16].into()));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mut wrong = settings();
        wrong.pool.extend([
            range([192, 0, 2, 9], [192, 0, 2, 8]),
            range([127, 0, 0, 1], [127, 0, 0, 1]),
            range([192, 0, 2, 15], [192, 0, 2, 20]),
            range([10, 0, 0, 0], [10, 0, 255, 255]),
        ]);
        wrong.ports = (9, 8);
        wrong.reserved.push(Reservation { address: Some(EVERY), protocol: None, first: 1, last: 1 });
        wrong.one_to_one =
            vec![OneToOne { external: [192, 0, 2, 0].into(), addresses: 2, inside: [10, 9, 0, 0].into() }];
        assert_eq!(
            NatPlan::new(wrong),
            Err(vec![
                PlanError::PoolRange { index: 2 },
                PlanError::PoolRange { index: 3 },
                PlanError::PoolOverlap { index: 4, other: 0 },
                PlanError::PoolTooLarge { addresses: 65_536 + 6 + 10 },
                PlanError::Ports { first: 9, last: 8 },
                PlanError::ForwardOnOneToOne { index: 0 },
                PlanError::OneToOneInPool { external: [192, 0, 2, 0].into() },
                PlanError::ReservedRange { index: 2 },
            ])
        );
        let wrapped =
            NatSettings { pool: vec![range([1, 0, 0, 0], [223, 255, 255, 255])], ..Default::default() };
        assert_eq!(NatPlan::new(wrapped), Err(vec![PlanError::PoolRange { index: 0 }]));
    }

    /// R8: a mapping falls exactly when the new plan would make it differently.
    #[test]
    fn a_change_concerns_only_what_it_changes() {
        let mapping = |external: &str, inside: &str, is_static| Mapping {
            inside: Inside { protocol: Protocol::Udp, endpoint: endpoint(inside) },
            external: endpoint(external),
            sessions: 1,
            is_static,
        };
        let dynamic = mapping("192.0.2.9:1025", "10.0.0.2:9", false);
        let on_forward = mapping("192.0.2.1:5003", "10.0.0.1:7003", true);
        let plan = NatPlan::new(settings()).expect("valid settings");
        assert!(plan.keeps(&dynamic) && plan.keeps(&on_forward));
        assert!(!plan.keeps(&mapping("192.0.2.1:5003", "10.0.0.8:7003", false)));
        assert!(!plan.keeps(&mapping("192.0.2.9:1025", "10.0.0.1:7003", false)));
        let changed = |change: fn(&mut NatSettings)| {
            let mut settings = settings();
            change(&mut settings);
            let plan = NatPlan::new(settings).expect("valid settings");
            (plan.keeps(&dynamic), plan.keeps(&on_forward))
        };
        assert_eq!(changed(|s| s.forwards[0].inside.set_port(7_001)), (true, false));
        assert_eq!(changed(|s| s.forwards[0].ports = 3), (true, false));
        assert_eq!(changed(|s| s.pool[0].first = [192, 0, 2, 10].into()), (false, true));
        assert_eq!(changed(|s| s.ports.0 = 1_026), (false, true));
        assert_eq!(changed(|s| s.overflow = false), (true, true));
    }
}
