//! A random site: rules, translations, sizes that are tight or not.

use crate::site::{EXTERNAL, Inspections, Plan, nat, outwards, prefix, router};
use arbitrary::{Result, Unstructured};
use millrace_dataplane::hold::HoldLimits;
use millrace_dataplane::packet::Verify;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::inspect::{self, Pattern};
use millrace_nf::nat::{Filtering, Forward, NatSettings, OneToOne, Protocol, SubscriberLimits};
use millrace_nf::router::neighbour::NeighbourLimits;
use millrace_nf::zone::ZoneId;
use std::net::SocketAddrV4;

/// Most rules at the start.
const RULES_MAX: u32 = 6;

/// A plan, and whether a run with a cache is compared with one without: then nothing is so tight that the order in which things
/// give way would tell.
pub fn plan(input: &mut Unstructured<'_>) -> Result<(Plan, bool)> {
    let compared: bool = input.arbitrary()?;
    let mut plan = Plan { router: router(input.arbitrary()?), ..Plan::default() };
    if input.ratio(7, 8)? {
        let count = input.int_in_range(0..=RULES_MAX)?;
        let mut rules = (0..count).map(|id| rule(input, id)).collect::<Result<Vec<_>>>()?;
        rules.push(outwards());
        plan.firewall = Some((rules, *input.choose(&[Action::Deny, Action::Allow, Action::Reject])?));
    } else {
        plan.firewall = None;
    }
    plan.nat = if input.ratio(7, 8)? { Some(translation(input)?) } else { None };
    if input.ratio(1, 3)? {
        plan.inspections = Inspections { places: input.arbitrary()?, patterns: patterns(input)? };
    }
    plan.verify = *input.choose(&[Verify::Ipv4, Verify::None, Verify::All])?;
    let mtu = *input.choose(&[1400, 1280, 1500])?;
    plan.router.interfaces[1].iter_mut().for_each(|outside| outside.mtu = mtu);
    if compared {
        plan.cache_entries = *input.choose(&[1024, 64, 8])?;
        return Ok((plan, true));
    }
    plan.cache_entries = *input.choose(&[64, 0, 8, 1024])?;
    plan.sessions = *input.choose(&[64, 4, 1, 1024])?;
    plan.frames = *input.choose(&[256, 64, 80])?;
    plan.holds = *input.choose(&[
        HoldLimits::default(),
        HoldLimits { per_token: 1, total: 2 },
        HoldLimits { per_token: 3, total: 3 },
    ])?;
    plan.router.neighbour_limits = *input.choose(&[
        NeighbourLimits::default(),
        NeighbourLimits { entries_max: 8, incomplete_per_interface_max: 2 },
    ])?;
    Ok((plan, false))
}

/// Patterns of which many packets hold some, and some packets all.
pub fn patterns(input: &mut Unstructured<'_>) -> Result<Vec<Pattern>> {
    let all: [&[u8]; 6] = [b"a", b"AB", b"abcdefgh", b"\0\x01", b"\xff\0", b"\0"];
    let protocols = [vec![], vec![17], vec![6], vec![1, 58]];
    let ports = [vec![], vec![80..=80], vec![1000..=6000]];
    let count = input.int_in_range(0..=3)?;
    let pattern = |number: usize| {
        Ok(Pattern {
            name: format!("pattern {number}"),
            bytes: input.choose(&all)?.to_vec(),
            ignore_case: input.arbitrary()?,
            protocols: input.choose(&protocols)?.clone(),
            ports: input.choose(&ports)?.clone(),
            action: *input.choose(&[inspect::Action::Drop, inspect::Action::Count])?,
        })
    };
    (0..count).map(pattern).collect()
}

/// Any rule that can match at all.
pub fn rule(input: &mut Unstructured<'_>, id: u32) -> Result<Rule> {
    let actions = [Action::Allow, Action::Deny, Action::Reject];
    let from = [None, Some(ZoneId(0)), Some(ZoneId(1))];
    let to = [None, Some(ZoneId(0)), Some(ZoneId(1)), Some(ZoneId::LOCAL)];
    let prefixes = ["", "10.0.0.0/24", "10.0.0.5/32", "198.18.0.0/15", "192.0.2.100/32", "2001:db8:1::/48"];
    let nets = |text: &&str| if text.is_empty() { Vec::new() } else { vec![prefix(text)] };
    let protocols = [vec![], vec![6], vec![17], vec![1, 58], vec![6, 17]];
    let ports = [vec![], vec![80..=80], vec![0..=1023], vec![1000..=1000, 5000..=6000]];
    let rule = Rule {
        order: input.int_in_range(1..=1000)?,
        from_zone: *input.choose(&from)?,
        to_zone: *input.choose(&to)?,
        sources: nets(input.choose(&prefixes)?),
        destinations: nets(input.choose(&prefixes)?),
        protocols: input.choose(&protocols)?.clone(),
        destination_ports: input.choose(&ports)?.clone(),
        log: input.ratio(1, 8)?,
        ..Rule::any(RuleId(id), 0, format!("rule {id}"), *input.choose(&actions)?)
    };
    let any = || Rule { order: rule.order, ..Rule::any(RuleId(id), 0, format!("rule {id}"), rule.action) };
    Ok(if rule.matches().is_ok() { rule } else { any() })
}

/// Any translation: pools of one or two addresses, ports that suffice or not, forwards, whole addresses.
pub fn translation(input: &mut Unstructured<'_>) -> Result<NatSettings> {
    let last = *input.choose(&[100, 101])?;
    let forward = |protocol, port, inside: &str| Forward {
        protocol,
        external: SocketAddrV4::new(EXTERNAL, port),
        ports: 1,
        inside: inside.parse().expect("an endpoint"),
    };
    let mut forwards = Vec::new();
    if input.arbitrary()? {
        forwards.push(forward(Protocol::Tcp, 80, "10.0.0.5:80"));
    }
    if input.arbitrary()? {
        forwards.push(forward(Protocol::Udp, 5000, "10.0.1.2:53"));
    }
    let mut one_to_one = Vec::new();
    if input.ratio(1, 4)? {
        let (external, inside) = ([192, 0, 2, 110].into(), [10, 0, 0, 7].into());
        one_to_one.push(OneToOne { external, addresses: 1, inside });
    }
    let filtering =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    Ok(NatSettings {
        ports: *input.choose(&[(2000, 4000), (2000, 2002), (1, u16::MAX)])?,
        overflow: input.arbitrary()?,
        udp_parity: input.arbitrary()?,
        filtering: *input.choose(&filtering)?,
        limits: if input.ratio(1, 4)? { SubscriberLimits::new(2, 2, 2) } else { SubscriberLimits::default() },
        forwards,
        one_to_one,
        ..nat([192, 0, 2, 100], [192, 0, 2, last])
    })
}
