//! Expansion, errors, fields and footprints of rules.

use super::*;
use crate::firewall::footprint::Footprint;
use crate::firewall::rule_set::RuleSet;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn rule() -> Rule {
    Rule::any(RuleId(7), 70, "web", Action::Allow)
}

#[test]
fn lists_multiply_within_one_family() {
    let rule = Rule {
        sources: nets(&["10.0.0.1/8", "2001:db8::/32"]),
        destinations: nets(&["192.0.2.1/32", "198.51.100.0/24", "2001:db8:1::/48"]),
        protocols: vec![6, 17],
        destination_ports: vec![80..=80, 443..=443],
        ..rule()
    };
    let matches = rule.matches().unwrap();
    assert_eq!(matches.len(), (2 + 1) * 2 * 2);
    assert!(matches.iter().all(|one| one.rule == RuleId(7) && one.order == 70));
    assert!(matches.iter().any(|one| one.source == Some("10.0.0.0/8".parse().unwrap())), "host bits cleared");
    assert!(
        matches
            .iter()
            .all(|one| family_of(one.source) == one.family && family_of(one.destination) == one.family)
    );
}

#[test]
fn icmp_types_take_the_protocol_of_the_family() {
    let echo = vec![IcmpMatch { icmp_type: 8, code: None }];
    let protocol = |family| {
        let matches = Rule { family, icmp: echo.clone(), ..rule() }.matches();
        matches.map(|matches| matches[0].protocol)
    };
    assert_eq!(protocol(Family::V4), Ok(Some(1)));
    assert_eq!(protocol(Family::V6), Ok(Some(58)));
    assert_eq!(protocol(Family::Any), Err(RuleError::IcmpOfWhichFamily { name: "web".into() }));
}

#[test]
fn every_port_is_no_demand() {
    let all = Rule { source_ports: vec![0..=65_535], destination_ports: vec![0..=65_535], ..rule() };
    assert_eq!(all.matches().unwrap()[0].transport, TransportMatch::Any);
    let most = Rule { destination_ports: vec![1..=65_535], ..rule() };
    assert_ne!(most.matches().unwrap()[0].transport, TransportMatch::Any);
}

#[test]
fn contradictions_are_refused_by_name() {
    let refused = |rule: Rule, wanted: &str| {
        let text = RuleSet::new(vec![rule]).unwrap_err().to_string();
        assert!(text.starts_with("rule \"web\": ") && text.contains(wanted), "{text}");
    };
    refused(
        Rule { sources: nets(&["10.0.0.0/8"]), destinations: nets(&["2001:db8::/32"]), ..rule() },
        "one IP version",
    );
    refused(Rule { family: Family::V6, sources: nets(&["10.0.0.0/8"]), ..rule() }, "one IP version");
    #[expect(clippy::reversed_empty_ranges, reason = "the fault under test")]
    refused(Rule { protocols: vec![6], destination_ports: vec![90..=80], ..rule() }, "90-80");
    refused(Rule { protocols: vec![6, 47], destination_ports: vec![80..=80], ..rule() }, "protocol 47");
    let icmp = vec![IcmpMatch { icmp_type: 8, code: Some(0) }];
    refused(Rule { protocols: vec![6], icmp: icmp.clone(), ..rule() }, "protocol 6");
    refused(Rule { protocols: vec![1], icmp, source_ports: vec![1..=1], ..rule() }, "combined with ports");
    let many = vec![1..=1; 300];
    let many = Rule { source_ports: many.clone(), destination_ports: many, ..rule() };
    assert_eq!(many.matches(), Err(RuleError::TooManyMatches { name: "web".into(), found: 90_000 }));
    let twice = RuleSet::new(vec![rule(), rule()]).unwrap_err();
    assert_eq!(twice, RuleError::DuplicateId { name: "web".into(), id: RuleId(7) });
}

#[test]
fn rules_are_consulted_by_order_then_identity() {
    let at = |id, order| Rule { id: RuleId(id), order, ..rule() };
    let set = RuleSet::new(vec![at(3, 5), at(2, 5), at(9, 1)]).unwrap();
    assert_eq!(set.rules().iter().map(|rule| rule.id.0).collect::<Vec<_>>(), [9, 2, 3]);
}

/// R8: the narrowest dimension, and never one that leaves out a packet that the match can concern.
#[test]
fn footprints_are_the_narrowest_dimension() {
    let footprint = |rule: Rule| rule.footprints()[0].clone();
    let to = |net| Rule { destinations: nets(&[net]), sources: nets(&["10.0.0.0/25"]), ..rule() };
    assert_eq!(footprint(to("192.0.2.0/24")), Footprint::Destination("192.0.2.0/24".parse().unwrap()));
    assert_eq!(footprint(to("192.0.0.0/16")), Footprint::Source("10.0.0.0/25".parse().unwrap()));
    let site = Rule { sources: nets(&["2001:db8:1::/48"]), ..rule() };
    assert_eq!(footprint(site), Footprint::Source("2001:db8:1::/48".parse().unwrap()));
    let wide = |protocols, ports| Rule {
        sources: nets(&["2001:db8::/47"]),
        protocols,
        destination_ports: vec![ports],
        ..rule()
    };
    assert_eq!(footprint(wide(vec![6], 80..=95)), Footprint::Service { protocol: 6, ports: 80..=95 });
    assert_eq!(footprint(wide(vec![6], 80..=96)), Footprint::Any);
    assert_eq!(footprint(wide(vec![], 80..=80)), Footprint::Any);
    assert_eq!(footprint(Rule { protocols: vec![6], ..rule() }), Footprint::Any);
    let mixed = Rule { destinations: nets(&["192.0.2.0/24", "10.0.0.0/8"]), ..rule() };
    assert_eq!(
        mixed.footprints(),
        [Footprint::Any],
        "a dimension counts if each alternative of it is selective"
    );
    let each = Rule { destinations: nets(&["192.0.2.0/24", "2001:db8::/64"]), ..rule() };
    assert_eq!(each.footprints().len(), 2);
}
