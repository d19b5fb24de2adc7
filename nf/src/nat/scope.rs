//! Which packets the NAT has to do with: the configuration beside the plan, compiled for look-up.

use super::hairpin::Hairpins;
use super::mss::MssClamp;
use super::plan::NatPlan;
use crate::zone::ZoneId;
use ipnet::Ipv4Net;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The configuration of a NAT function.
#[derive(Clone, Debug, PartialEq)]
pub struct NatConfig {
    /// Pools, forwards, filtering, limits.
    pub plan: Arc<NatPlan>,
    /// Inside addresses that are translated; all when empty.
    pub sources: Vec<Ipv4Net>,
    /// The zone that sees the external addresses; none for every zone but the inside.
    pub outside: Option<ZoneId>,
    /// Do inside hosts reach each other by external addresses (RFC 4787 section 6 REQ-9)?
    pub hairpinning: bool,
    /// What happens to TCP's maximum segment size option.
    pub mss_clamp: Option<MssClamp>,
    /// Where hairpins go whose other end is another worker's; none if there are no others.
    pub hairpins: Option<Hairpins>,
}

impl NatConfig {
    /// The recommended behaviour for a plan: everything from inside is translated, with hairpinning.
    pub fn new(plan: Arc<NatPlan>) -> Self {
        Self { plan, sources: Vec::new(), outside: None, hairpinning: true, mss_clamp: None, hairpins: None }
    }
}

/// What decisions that translate nothing depend on: it changes when other addresses are translated.
pub(super) const SCOPE: Watch = Watch::of(ObjectKind::Other, 0x6e61_7473_636f);

/// Which addresses are translated, and between which zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Disjoint and sorted.
    sources: Vec<Ipv4Net>,
    everything: bool,
    /// First and last of the ranges of external addresses: of the pool, of forwards, translated 1:1. Sorted, apart.
    external: Vec<(u32, u32)>,
    pub(crate) outside: Option<ZoneId>,
    pub(super) hairpinning: bool,
}

impl Scope {
    pub(crate) fn new(config: &NatConfig) -> Self {
        Self {
            sources: Ipv4Net::aggregate(&config.sources),
            everything: config.sources.is_empty(),
            external: external_ranges(&config.plan),
            outside: config.outside,
            hairpinning: config.hairpinning,
        }
    }

    /// Is an inside host of this address translated?
    #[inline]
    pub(super) fn covers(&self, source: Ipv4Addr) -> bool {
        self.everything || self.lists(source)
    }

    fn lists(&self, source: Ipv4Addr) -> bool {
        let after = self.sources.partition_point(|prefix| prefix.network() <= source);
        let prefix = after.checked_sub(1).and_then(|at| self.sources.get(at));
        prefix.is_some_and(|prefix| prefix.contains(&source))
    }

    /// Is traffic from one zone to another translated? Without a route nothing leaves, so it does not matter.
    pub(super) fn crosses(&self, from: ZoneId, to: Option<ZoneId>) -> bool {
        match (to, self.outside) {
            (Some(ZoneId::LOCAL), _) => false,
            (Some(to), Some(outside)) => to == outside,
            (Some(to), None) => to != from,
            (None, _) => true,
        }
    }

    /// Is this one of the NAT's external addresses?
    pub(crate) fn is_external(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        let after = self.external.partition_point(|&(first, _)| first <= address);
        after.checked_sub(1).is_some_and(|at| address <= self.external[at].1)
    }
}

/// The external addresses of a plan, ranges that meet as one.
fn external_ranges(plan: &NatPlan) -> Vec<(u32, u32)> {
    let range = |first: Ipv4Addr, last: Ipv4Addr| (u32::from(first), u32::from(last));
    let pool = plan.pool().iter().map(|of| range(of.first, of.last));
    let forwards = plan.rules().forwards().iter().map(|rule| range(*rule.external.ip(), *rule.external.ip()));
    let one_to_one = plan.rules().one_to_one().iter().map(|rule| {
        let first = u32::from(rule.external);
        (first, first.saturating_add(rule.addresses.saturating_sub(1)))
    });
    let mut ranges: Vec<_> = pool.chain(forwards).chain(one_to_one).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let meets = next.0 <= before.1.saturating_add(1);
        before.1 = if meets { before.1.max(next.1) } else { before.1 };
        meets
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::plan::{NatSettings, PoolRange};
    use super::super::{Forward, OneToOne, Protocol};
    use super::*;
    use std::net::SocketAddrV4;

    #[test]
    fn external_is_what_the_pool_forwards_and_one_to_one_have() {
        let range = |first: u8, last: u8| PoolRange {
            first: [192, 0, 2, first].into(),
            last: [192, 0, 2, last].into(),
        };
        let forward = |host: u8| {
            let external = SocketAddrV4::new([192, 0, 2, host].into(), 80);
            Forward { protocol: Protocol::Tcp, external, ports: 1, inside: external }
        };
        let one_to_one =
            OneToOne { external: [192, 0, 2, 20].into(), addresses: 4, inside: [10, 0, 0, 0].into() };
        let settings = NatSettings {
            pool: vec![range(9, 12), range(1, 2)],
            forwards: vec![forward(3), forward(10), forward(200)],
            one_to_one: vec![one_to_one],
            ..NatSettings::default()
        };
        let scope = Scope::new(&NatConfig::new(Arc::new(NatPlan::new(settings).unwrap())));
        let external: Vec<u8> = (0..=255).filter(|&n| scope.is_external([192, 0, 2, n].into())).collect();
        assert_eq!(external, [1, 2, 3, 9, 10, 11, 12, 20, 21, 22, 23, 200]);
        assert_eq!(scope.external.len(), 4);
    }

    #[test]
    fn sources_and_zones_say_what_is_translated() {
        let pool = PoolRange { first: [192, 0, 2, 1].into(), last: [192, 0, 2, 2].into() };
        let plan = NatPlan::new(NatSettings { pool: vec![pool], ..NatSettings::default() }).unwrap();
        let mut config = NatConfig::new(Arc::new(plan));
        let open = Scope::new(&config);
        assert!(open.covers([8, 8, 8, 8].into()) && open.crosses(ZoneId(0), Some(ZoneId(2))));
        assert!(!open.crosses(ZoneId(0), Some(ZoneId(0))) && !open.crosses(ZoneId(0), Some(ZoneId::LOCAL)));
        assert!(open.is_external([192, 0, 2, 2].into()));
        assert!(!open.is_external([192, 0, 2, 3].into()));
        config.sources = ["10.1.0.0/16", "10.0.0.0/16", "10.9.0.0/24"].map(|p| p.parse().unwrap()).to_vec();
        config.outside = Some(ZoneId(1));
        let narrow = Scope::new(&config);
        for (address, expected) in
            [([10, 0, 0, 1], true), ([10, 1, 255, 255], true), ([10, 2, 0, 0], false), ([10, 9, 0, 9], true)]
        {
            assert_eq!(narrow.covers(address.into()), expected, "{address:?}");
        }
        assert!(!narrow.covers([9, 255, 0, 1].into()) && !narrow.crosses(ZoneId(0), Some(ZoneId(2))));
        assert!(narrow.crosses(ZoneId(0), Some(ZoneId(1))) && narrow.crosses(ZoneId(0), None));
    }
}
