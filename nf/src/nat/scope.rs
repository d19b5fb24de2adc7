//! Which packets the NAT has to do with: the configuration beside the plan, compiled for look-up.

use super::mss::MssClamp;
use super::plan::NatPlan;
use crate::zone::ZoneId;
use ipnet::Ipv4Net;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The configuration of a NAT function.
#[derive(Clone, Debug)]
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
}

impl NatConfig {
    /// The recommended behaviour for a plan: everything from inside is translated, with hairpinning.
    pub fn new(plan: Arc<NatPlan>) -> Self {
        Self { plan, sources: Vec::new(), outside: None, hairpinning: true, mss_clamp: None }
    }
}

/// What decisions that translate nothing depend on: it changes when other addresses are translated.
pub(super) const SCOPE: Watch = Watch::of(ObjectKind::Other, 0x6e_6174_7363_6f70);

/// Which addresses are translated, and between which zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Disjoint and sorted.
    sources: Vec<Ipv4Net>,
    everything: bool,
    /// External addresses of forwards, sorted.
    forwarded: Vec<Ipv4Addr>,
    outside: Option<ZoneId>,
    pub(super) hairpinning: bool,
}

impl Scope {
    pub(super) fn new(config: &NatConfig) -> Self {
        let mut forwarded: Vec<_> =
            config.plan.rules().forwards().iter().map(|rule| *rule.external.ip()).collect();
        forwarded.sort_unstable();
        forwarded.dedup();
        Self {
            sources: Ipv4Net::aggregate(&config.sources),
            everything: config.sources.is_empty(),
            forwarded,
            outside: config.outside,
            hairpinning: config.hairpinning,
        }
    }

    /// Is an inside host of this address translated?
    pub(super) fn covers(&self, source: Ipv4Addr) -> bool {
        let after = self.sources.partition_point(|prefix| prefix.network() <= source);
        let prefix = after.checked_sub(1).and_then(|at| self.sources.get(at));
        self.everything || prefix.is_some_and(|prefix| prefix.contains(&source))
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
    pub(super) fn is_external(&self, plan: &NatPlan, address: Ipv4Addr) -> bool {
        plan.in_pool(address)
            || self.forwarded.binary_search(&address).is_ok()
            || plan.rules().one_to_one_inside(address).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{NatSettings, PoolRange};
    use super::*;

    #[test]
    fn sources_and_zones_say_what_is_translated() {
        let pool = PoolRange { first: [192, 0, 2, 1].into(), last: [192, 0, 2, 2].into() };
        let plan = NatPlan::new(NatSettings { pool: vec![pool], ..NatSettings::default() }).unwrap();
        let mut config = NatConfig::new(Arc::new(plan));
        let open = Scope::new(&config);
        assert!(open.covers([8, 8, 8, 8].into()) && open.crosses(ZoneId(0), Some(ZoneId(2))));
        assert!(!open.crosses(ZoneId(0), Some(ZoneId(0))) && !open.crosses(ZoneId(0), Some(ZoneId::LOCAL)));
        assert!(open.is_external(&config.plan, [192, 0, 2, 2].into()));
        assert!(!open.is_external(&config.plan, [192, 0, 2, 3].into()));
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
