//! The classifier against a linear scan, its bound, and what a look-up costs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::query::{Addresses, Query, Transport};
use super::super::rules::{Action, Family, IcmpMatch, Rule, RuleId};
use super::super::slots::RuleSlot;
use super::{Classifier, ClassifierError, LIMITS, Limits, PROBES_MAX, matrix};
use crate::zone::ZoneId;

const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_beef_0bad_cafe];

/// The meaning of a rule, written without the code under test: no expansion, no packing, no shared `matches`.
fn rule_matches(rule: &Rule, query: &Query) -> bool {
    let (source, destination, version): (IpAddr, IpAddr, Family) = match query.addresses {
        Addresses::V4 { source, destination } => (source.into(), destination.into(), Family::V4),
        Addresses::V6 { source, destination } => (source.into(), destination.into(), Family::V6),
    };
    let inside =
        |nets: &[IpNet], address: IpAddr| nets.is_empty() || nets.iter().any(|net| net.contains(&address));
    let every = |ranges: &[RangeInclusive<u16>]| ranges.is_empty() || ranges.contains(&(0..=65_535));
    let ports = match query.transport {
        Transport::Ports { source, destination } => {
            (every(&rule.source_ports) || rule.source_ports.iter().any(|range| range.contains(&source)))
                && (every(&rule.destination_ports)
                    || rule.destination_ports.iter().any(|r| r.contains(&destination)))
        }
        _ => every(&rule.source_ports) && every(&rule.destination_ports),
    };
    let icmp_protocol = if version == Family::V4 { 1 } else { 58 };
    let icmp = rule.icmp.is_empty()
        || matches!(query.transport, Transport::Icmp { icmp_type, code }
            if rule.icmp.iter().any(|wanted| wanted.icmp_type == icmp_type && wanted.code.unwrap_or(code) == code))
            && (!rule.protocols.is_empty() || query.protocol == icmp_protocol);
    (rule.family == Family::Any || rule.family == version)
        && rule.from_zone.unwrap_or(query.from_zone) == query.from_zone
        && rule.to_zone.unwrap_or(query.to_zone) == query.to_zone
        && inside(&rule.sources, source)
        && inside(&rule.destinations, destination)
        && (rule.protocols.is_empty() || rule.protocols.contains(&query.protocol))
        && ports
        && icmp
}

fn add(classifier: &mut Classifier, rule: &Rule) -> Result<(), ClassifierError> {
    classifier.insert(rule, RuleSlot::of(rule.id.0))
}

fn linear(rules: &[Rule], query: &Query) -> Option<RuleId> {
    let matching = rules.iter().filter(|rule| rule_matches(rule, query));
    matching.min_by_key(|rule| (rule.order, rule.id)).map(|rule| rule.id)
}

fn net() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that prefixes nest and neighbour each other.
    let bits = prop_oneof![Just(0u32), Just(u32::MAX), 0u32..16, any::<u32>()];
    let v4 = (bits.clone(), 0u8..=32).prop_map(|(bits, length)| {
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 ^ bits << 3), length).unwrap())
    });
    let v6 = (bits.clone(), bits, 0u8..=128).prop_map(|(high, low, length)| {
        let address = 0x2001_0db8_u128 << 96 ^ u128::from(high) << 61 ^ u128::from(low);
        IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(address), length).unwrap())
    });
    prop_oneof![v4, v6]
}

fn nets(version: bool) -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::vec(net(), 0..3)
        .prop_map(move |nets| nets.into_iter().filter(|net| matches!(net, IpNet::V4(_)) == version).collect())
}

fn port_ranges() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let edge =
        select(vec![0u16, 1, 22, 80, 1_023, 1_024, 4_095, 4_096, 8_000, 32_767, 32_768, 65_534, 65_535]);
    let range = (edge, prop_oneof![Just(0u16), 0u16..40, any::<u16>()])
        .prop_map(|(first, width)| first..=first.saturating_add(width));
    prop::collection::vec(range, 0..3)
}

fn icmp() -> impl Strategy<Value = Vec<IcmpMatch>> {
    let one = (select(vec![0u8, 3, 8, 128, 255]), prop::option::of(0u8..3));
    prop::collection::vec(one.prop_map(|(icmp_type, code)| IcmpMatch { icmp_type, code }), 1..3)
}

fn zone() -> impl Strategy<Value = Option<ZoneId>> {
    prop::option::of((0u8..3).prop_map(ZoneId))
}

fn rule() -> impl Strategy<Value = Rule> {
    let addresses = any::<bool>().prop_flat_map(|version| (nets(version), nets(version)));
    let transport = prop_oneof![
        3 => (select(vec![vec![], vec![6], vec![17], vec![6, 17, 132]]), port_ranges(), port_ranges(), Just(vec![])),
        1 => (select(vec![vec![1], vec![58]]), Just(vec![]), Just(vec![]), icmp()),
        1 => (select(vec![vec![50], vec![1, 6]]), Just(vec![]), Just(vec![]), Just(vec![])),
    ];
    let family = select(vec![Family::Any, Family::Any, Family::V4, Family::V6]);
    ((zone(), zone()), addresses, transport, family, 0u64..40).prop_map(
        |((from_zone, to_zone), (sources, destinations), (protocols, from, to, icmp), family, order)| {
            let family = if sources.is_empty() && destinations.is_empty() { family } else { Family::Any };
            let any = Rule::any(RuleId(0), order, "random", Action::Allow);
            let (source_ports, destination_ports) = (from, to);
            Rule {
                from_zone,
                to_zone,
                sources,
                destinations,
                protocols,
                source_ports,
                destination_ports,
                icmp,
                family,
                ..any
            }
        },
    )
}

/// All that a classifier can be made of: the usual one, one without matrix, with a small one, without tables.
fn limits() -> impl Strategy<Value = Limits> {
    let tight = Limits { table_probes: 30, matrix_rules: 20, matrix_rows: 90, small: 3 };
    select(vec![
        LIMITS,
        LIMITS,
        Limits { small: 0, ..LIMITS },
        Limits { matrix_rules: 0, small: 0, ..LIMITS },
        Limits { table_probes: 0, ..LIMITS },
        tight,
    ])
}

/// How to pick a query near the edges of some rule, or anywhere.
#[derive(Clone, Debug)]
struct Aim {
    rule: Index,
    picks: [u32; 8],
    anywhere: bool,
}

fn aim() -> impl Strategy<Value = Aim> {
    (any::<Index>(), any::<[u32; 8]>(), prop::bool::weighted(0.2)).prop_map(|(rule, picks, anywhere)| Aim {
        rule,
        picks,
        anywhere,
    })
}

/// An address inside, at the edge of or just outside one of the prefixes.
fn near(nets: &[IpNet], pick: u32, v4: bool) -> u128 {
    let bits = if v4 { 32 } else { 128 };
    let Some(net) = nets.get(pick as usize % nets.len().max(1)) else {
        return u128::from(pick) << (pick % 90);
    };
    let (first, length) = match net {
        IpNet::V4(net) => (u128::from(net.network().to_bits()), net.prefix_len()),
        IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
    };
    let host = (1u128 << (bits - u32::from(length)).min(127)) - 1;
    match pick >> 8 & 7 {
        0 => first,
        1 => first | host,
        2 => first.wrapping_sub(1),
        3 => (first | host).wrapping_add(1),
        _ => first | u128::from(pick).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) & host,
    }
}

fn port_near(ranges: &[RangeInclusive<u16>], pick: u32) -> u16 {
    let Some(range) = ranges.get(pick as usize % ranges.len().max(1)) else { return pick as u16 };
    match pick >> 8 & 7 {
        0 => *range.start(),
        1 => *range.end(),
        2 => range.start().wrapping_sub(1),
        3 => range.end().wrapping_add(1),
        _ => range.start() + (u32::from(range.end() - range.start()) * (pick >> 20) / 4_096) as u16,
    }
}

fn query_near(rule: &Rule, picks: [u32; 8]) -> Query {
    let all = || rule.sources.iter().chain(&rule.destinations);
    let v4 = match all().next() {
        Some(net) => matches!(net, IpNet::V4(_)),
        None => rule.family == Family::V4 || (rule.family == Family::Any && picks[0] & 1 == 0),
    };
    let (source, destination) = (near(&rule.sources, picks[1], v4), near(&rule.destinations, picks[2], v4));
    let addresses = if v4 {
        let v4 = |bits: u128| Ipv4Addr::from_bits(bits as u32);
        Addresses::V4 { source: v4(source), destination: v4(destination) }
    } else {
        Addresses::V6 { source: Ipv6Addr::from_bits(source), destination: Ipv6Addr::from_bits(destination) }
    };
    let wild = picks[3].is_multiple_of(7);
    let protocol = match rule.protocols.get(picks[4] as usize % rule.protocols.len().max(1)) {
        Some(protocol) if !wild => *protocol,
        _ => [1, 6, 17, 50, 58, 132][picks[4] as usize % 6],
    };
    let transport = match protocol {
        _ if picks[3].is_multiple_of(11) => Transport::Other,
        1 | 58 => {
            let wanted = rule.icmp.get(picks[5] as usize % rule.icmp.len().max(1));
            let icmp_type = wanted.map_or(picks[5] as u8, |wanted| wanted.icmp_type);
            Transport::Icmp { icmp_type, code: (picks[6] % 4) as u8 }
        }
        6 | 17 | 132 => Transport::Ports {
            source: port_near(&rule.source_ports, picks[5]),
            destination: port_near(&rule.destination_ports, picks[6]),
        },
        _ => Transport::Other,
    };
    let zone = |wanted: Option<ZoneId>, pick: u32| match wanted {
        Some(zone) if !pick.is_multiple_of(8) => zone,
        _ => ZoneId((pick >> 3) as u8 % 3),
    };
    let (from_zone, to_zone) = (zone(rule.from_zone, picks[7]), zone(rule.to_zone, picks[7] >> 16));
    Query { from_zone, to_zone, addresses, protocol, transport }
}

fn check_query(classifier: &Classifier, rules: &[Rule], query: &Query) {
    let (found, probes) = classifier.find_counting(query);
    assert_eq!(found.map(|found| found.rule), linear(rules, query), "{query:?}");
    assert!(found.is_none_or(|found| found.slot == RuleSlot::of(found.rule.0)));
    assert!(probes <= classifier.worst_case_probes(), "{probes} probes, {query:?}");
    let expanded = rules.iter().flat_map(|rule| rule.matches().unwrap()).filter(|one| one.matches(query));
    assert_eq!(expanded.min_by_key(|one| (one.order, one.rule)).map(|one| one.rule), linear(rules, query));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_a_linear_scan_finds(
        limits in limits(),
        rules in prop::collection::vec(rule(), 1..120),
        steps in prop::collection::vec((any::<Index>(), any::<bool>()), 0..60),
        aims in prop::collection::vec(aim(), 60),
        seed in any::<[u64; 2]>(),
    ) {
        let anything = Rule::any(RuleId(0), 0, "anything", Action::Deny);
        let mut classifier = Classifier::with_limits(seed, limits);
        let mut present: Vec<Rule> = Vec::new();
        let mut absent: Vec<Rule> = rules;
        for (id, rule) in absent.iter_mut().enumerate() {
            rule.id = RuleId(id as u32);
        }
        // Steps insert and remove; then all that is absent goes in, and some of it out again.
        let inserts = absent.len();
        let all = std::iter::repeat_n((None, true), inserts);
        let random = || steps.iter().map(|(index, insert)| (Some(*index), *insert));
        for (step, (index, insert)) in random().chain(all).chain(random()).enumerate() {
            let (from, to) = if insert { (&mut absent, &mut present) } else { (&mut present, &mut absent) };
            if from.is_empty() { continue }
            let rule = from.swap_remove(index.map_or(0, |index| index.index(from.len())));
            if insert {
                match add(&mut classifier, &rule) {
                    Ok(()) => to.push(rule),
                    Err(ClassifierError::Rule(_)) => continue,
                    Err(ClassifierError::TooCostly { .. }) if limits.matrix_rules < matrix::RULES_MAX => continue,
                    Err(error) => panic!("{error}"),
                }
            } else {
                prop_assert!(classifier.remove(rule.id));
                to.push(rule);
            }
            prop_assert!(classifier.worst_case_probes() <= PROBES_MAX);
            prop_assert_eq!(classifier.len(), present.len());
            let aim = &aims[step % aims.len()];
            let near = if present.is_empty() { &anything } else { aim.rule.get(&present) };
            check_query(&classifier, &present, &query_near(if aim.anywhere { &anything } else { near }, aim.picks));
        }
        for aim in &aims {
            let near = if present.is_empty() || aim.anywhere { &anything } else { aim.rule.get(&present) };
            check_query(&classifier, &present, &query_near(near, aim.picks));
        }
        for rule in &present {
            prop_assert!(classifier.remove(rule.id));
        }
        prop_assert!(classifier.is_empty() && classifier.worst_case_probes() == 0);
        prop_assert!(classifier.source_lengths.is_empty() && classifier.destination_lengths.is_empty());
        prop_assert_eq!(classifier.free.len(), classifier.entries.len());
        prop_assert!(classifier.matrix.is_clean());
    }
}

/// SplitMix64: reproducible random numbers for the large sets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }

    fn v4(&mut self, base: u32, spread: u64, length: u8) -> Vec<IpNet> {
        let address = Ipv4Addr::from_bits(base.wrapping_add(self.below(spread) as u32));
        vec![IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc())]
    }

    fn v6(&mut self, length: u8) -> Vec<IpNet> {
        let address = 0x2001_0db8_u128 << 96
            | u128::from(self.below(1 << 12)) << 80
            | u128::from(self.below(64)) << 64
            | u128::from(self.below(256));
        vec![IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(address), length).unwrap().trunc())]
    }

    fn picks(&mut self) -> [u32; 8] {
        std::array::from_fn(|_| self.next() as u32)
    }
}

const SERVICES: [u16; 16] =
    [22, 25, 53, 80, 123, 389, 443, 445, 993, 1433, 3306, 3389, 5432, 6379, 8080, 9092];

/// A rule as a data centre's or enterprise's firewall has them: host services, networks to networks, block lists,
/// zone-wide services, both families.
fn realistic_rule(random: &mut Random, id: u32) -> Rule {
    let order = random.next() >> 8;
    let mut rule =
        Rule::any(RuleId(id), order, format!("rule {id}"), random.pick(&[Action::Allow, Action::Deny]));
    let service = |rule: &mut Rule, random: &mut Random| {
        rule.protocols = random.pick(&[vec![6], vec![6], vec![17]]);
        let port = random.pick(&SERVICES);
        let narrow = 8_000 + random.below(1_000) as u16;
        rule.destination_ports = match random.below(10) {
            0..7 => vec![port..=port],
            7 => vec![narrow..=narrow + random.below(20) as u16],
            8 => vec![port..=port, narrow..=narrow],
            _ => vec![],
        };
    };
    match random.below(100) {
        0..35 => {
            rule.destinations = random.v4(0x0a00_0000, 1 << 14, 32);
            let length = random.pick(&[8, 16, 24, 32]);
            rule.sources =
                if random.below(2) == 0 { vec![] } else { random.v4(0x0a00_0000, 1 << 24, length) };
            rule.to_zone = Some(ZoneId(random.below(8) as u8));
            service(&mut rule, random);
        }
        35..50 => {
            rule.sources = random.v4(0xac10_0000, 1 << 14, 32);
            rule.destinations = {
                let length = random.pick(&[16, 20, 24]);
                random.v4(0x0a00_0000, 1 << 22, length)
            };
            service(&mut rule, random);
        }
        50..65 => {
            rule.sources = {
                let length = 20 + random.below(10) as u8;
                random.v4(0xc0a8_0000, 1 << 16, length)
            };
            rule.destinations = {
                let length = 16 + random.below(13) as u8;
                random.v4(0x0a00_0000, 1 << 22, length)
            };
            service(&mut rule, random);
        }
        65..77 => {
            rule.sources = {
                let length = 16 + random.below(17) as u8;
                random.v4(0, 1 << 32, length)
            };
            rule.action = Action::Deny;
        }
        77..92 => {
            rule.destinations = {
                let length = random.pick(&[48, 64, 64, 128]);
                random.v6(length)
            };
            let length = random.pick(&[32, 48, 56, 64, 128]);
            rule.sources = if random.below(2) == 0 { vec![] } else { random.v6(length) };
            service(&mut rule, random);
        }
        92..95 => {
            rule.family = Family::V4;
            rule.icmp = vec![IcmpMatch { icmp_type: random.pick(&[0, 3, 8, 11]), code: None }];
            rule.from_zone = Some(ZoneId(random.below(200) as u8));
            rule.to_zone = Some(ZoneId(random.below(8) as u8));
        }
        _ => {
            rule.from_zone = Some(ZoneId(random.below(200) as u8));
            rule.to_zone = Some(ZoneId(random.below(8) as u8));
            service(&mut rule, random);
        }
    }
    rule
}

fn realistic_rules(count: u32) -> Vec<Rule> {
    let mut random = Random(1);
    (0..count).map(|id| realistic_rule(&mut random, id)).collect()
}

fn of(rules: &[Rule]) -> Classifier {
    let mut classifier = Classifier::new(SEED);
    rules.iter().for_each(|rule| add(&mut classifier, rule).unwrap());
    assert!(classifier.worst_case_probes() <= PROBES_MAX);
    classifier
}

/// Compares with a linear scan, then prints what look-ups and changes cost.
fn compare_and_measure(what: &str, rules: &[Rule]) {
    let mut classifier = of(rules);
    let mut random = Random(2);
    for _ in 0..2_000 {
        let query = query_near(&random.pick(rules), random.picks());
        assert_eq!(classifier.find(&query).map(|found| found.rule), linear(rules, &query), "{query:?}");
    }
    let queries: Vec<Query> = (0..8_192).map(|_| query_near(&random.pick(rules), random.picks())).collect();
    print!("{what}: ");
    print_look_up_cost(&classifier, &queries);
    print_change_cost(&mut classifier, rules, &mut random);
    for _ in 0..500 {
        let query = query_near(&random.pick(rules), random.picks());
        assert_eq!(classifier.find(&query).map(|found| found.rule), linear(rules, &query), "{query:?}");
    }
}

#[test]
fn rule_sets_of_all_sizes_fit_and_agree_with_a_linear_scan() {
    for count in [10, 100, 300, 1_000, 10_000] {
        compare_and_measure("realistic", &realistic_rules(count));
    }
}

/// Wide ranges of ports and short prefixes, all over each other: what no hash tells apart.
#[test]
fn thousands_of_overlapping_rules_fit_and_agree_with_a_linear_scan() {
    let mut random = Random(5);
    let mut overlapping = |id: u32| {
        let mut rule = Rule::any(RuleId(id), random.next() >> 8, format!("range {id}"), Action::Allow);
        let range = |random: &mut Random| {
            let first = random.below(50_000) as u16;
            vec![first..=first + random.below(15_000) as u16]
        };
        rule.protocols = random.pick(&[vec![6], vec![17], vec![6, 17]]);
        rule.destination_ports = range(&mut random);
        rule.source_ports = if random.below(2) == 0 { vec![] } else { range(&mut random) };
        let (from, to) = (random.below(12) as u8, random.below(12) as u8);
        rule.sources = if random.below(2) == 0 { vec![] } else { random.v4(0, 1 << 32, from) };
        rule.destinations = if random.below(2) == 0 { vec![] } else { random.v4(0, 1 << 32, to) };
        rule
    };
    let rules: Vec<Rule> = (0..4_096).map(&mut overlapping).collect();
    for count in [20, 300, 4_096] {
        compare_and_measure("overlapping", &rules[..count]);
    }
}

/// Each of thousands of rules matches every packet; the best is found whatever comes and goes.
#[test]
fn rules_that_all_match_everything_fit() {
    let mut random = Random(7);
    let any = |id: u32, order| Rule::any(RuleId(id), order, "everything", Action::Deny);
    let mut rules: Vec<Rule> = (0..4_096).map(|id| any(id, random.next() >> 8)).collect();
    let mut classifier = of(&rules);
    let zone = ZoneId(0);
    let addresses = Addresses::V4 { source: Ipv4Addr::LOCALHOST, destination: Ipv4Addr::BROADCAST };
    let query = Query { from_zone: zone, to_zone: zone, addresses, protocol: 6, transport: Transport::Other };
    assert!(classifier.worst_case_probes() < 200, "{}", classifier.worst_case_probes());
    while !rules.is_empty() {
        let (found, probes) = classifier.find_counting(&query);
        assert_eq!(found.map(|found| found.rule), linear(&rules, &query));
        assert_eq!(probes, 1);
        let gone = rules.swap_remove(random.below(rules.len() as u64) as usize);
        assert!(classifier.remove(gone.id));
    }
    assert!(classifier.matrix.is_clean());
}

/// One rule whose lists multiply to millions is one bit.
#[test]
fn a_rule_of_long_lists_costs_what_its_lists_are_long() {
    let hosts = |base: u32| {
        (0..1_000).map(|at| IpNet::from(Ipv4Net::from(Ipv4Addr::from_bits(base + 3 * at)))).collect()
    };
    let mut group = Rule::any(RuleId(1), 1, "group", Action::Allow);
    (group.sources, group.destinations) = (hosts(0x0a00_0000), hosts(0x0b00_0000));
    (group.protocols, group.destination_ports) =
        (vec![6, 17], (0..200).map(|at| 10 * at..=10 * at + 3).collect());
    let classifier = of(std::slice::from_ref(&group));
    let mut random = Random(11);
    for _ in 0..5_000 {
        let query = query_near(&group, random.picks());
        assert_eq!(classifier.find(&query).is_some(), rule_matches(&group, &query), "{query:?}");
    }
}

/// Prints, asserts nothing: times belong to the machine.
fn print_look_up_cost(classifier: &Classifier, queries: &[Query]) {
    let probes: Vec<usize> = queries.iter().map(|query| classifier.find_counting(query).1).collect();
    let mut best = f64::INFINITY;
    let mut hits = 0;
    for _ in 0..7 {
        let start = Instant::now();
        hits = queries.iter().filter(|query| classifier.find(std::hint::black_box(query)).is_some()).count();
        best = best.min(start.elapsed().as_nanos() as f64 / queries.len() as f64);
    }
    println!(
        "rules={} in_matrix={} tables={} patterns={} lookup_ns={best:.0} hits={hits}/{} probes_mean={:.1} probes_max={} worst_case_probes={}",
        classifier.len(),
        classifier.matrix.len(),
        classifier.tables.len(),
        classifier.entries.len(),
        queries.len(),
        probes.iter().sum::<usize>() as f64 / probes.len() as f64,
        probes.iter().max().unwrap(),
        classifier.worst_case_probes(),
    );
}

fn print_change_cost(classifier: &mut Classifier, rules: &[Rule], random: &mut Random) {
    let changes: Vec<Rule> = (0..1_000).map(|_| random.pick(rules)).collect();
    let start = Instant::now();
    for rule in &changes {
        assert!(classifier.remove(rule.id));
        add(classifier, rule).unwrap();
    }
    let change_ns = start.elapsed().as_nanos() / (2 * changes.len() as u128);
    println!("    change_ns={change_ns}");
}

/// 10,000 rules that all match one packet and each have a pair of prefix lengths of their own: the truly pathological.
#[test]
fn rules_with_a_prefix_length_pair_each_are_refused_at_the_bound() {
    let zero = |length: u64| vec![IpNet::V6(Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length as u8).unwrap())];
    let mut classifier = Classifier::new(SEED);
    let mut accepted: Vec<Rule> = Vec::new();
    let mut refused = 0;
    for id in 0..10_000u32 {
        // Coprime to 129 * 129, so that the pairs come in a mixed order.
        let pair = u64::from(id) * 7_919 % (129 * 129);
        let mut rule = Rule::any(RuleId(id), u64::from(id), format!("pair {id}"), Action::Deny);
        rule.sources = zero(pair / 129);
        rule.destinations = zero(pair % 129);
        match add(&mut classifier, &rule) {
            Ok(()) => accepted.push(rule),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(&format!("\"pair {id}\"")) && text.contains("512"), "{text}");
                refused += 1;
            }
        }
        assert!(classifier.worst_case_probes() <= PROBES_MAX);
    }
    assert!(refused > 0 && accepted.len() > matrix::RULES_MAX, "{} accepted", accepted.len());
    let mut random = Random(3);
    for round in 0..20_000u32 {
        let bits = |random: &mut Random| {
            let value = u128::from(random.next()) << 64 | u128::from(random.next());
            Ipv6Addr::from_bits(value >> random.below(128))
        };
        let addresses = Addresses::V6 { source: bits(&mut random), destination: bits(&mut random) };
        let zone = ZoneId(0);
        let query =
            Query { from_zone: zone, to_zone: zone, addresses, protocol: 6, transport: Transport::Other };
        let (found, probes) = classifier.find_counting(&query);
        assert!(probes <= classifier.worst_case_probes(), "{probes} probes");
        if round < 500 {
            assert_eq!(found.map(|found| found.rule), linear(&accepted, &query));
        }
    }
}

#[test]
fn a_refused_rule_changes_nothing() {
    let limits = Limits { table_probes: 6, matrix_rules: 5, matrix_rows: 60, small: 2 };
    let mut classifier = Classifier::with_limits(SEED, limits);
    let wide = |id: u32| {
        let mut rule = Rule::any(RuleId(id), u64::from(id), "wide", Action::Deny);
        rule.destination_ports = vec![id as u16..=60_000, 60_002..=61_000 + id as u16];
        rule
    };
    let last = (0..100u32).find(|id| add(&mut classifier, &wide(*id)).is_err()).unwrap();
    let state = |classifier: &Classifier| {
        let entries = classifier.entries.len() - classifier.free.len();
        (classifier.len(), entries, classifier.matrix.len(), classifier.worst_case_probes())
    };
    let before = state(&classifier);
    assert_eq!(before.0, last as usize);
    let error = add(&mut classifier, &wide(last)).unwrap_err();
    assert!(
        matches!(&error, ClassifierError::TooCostly { name, broad_max: 5, .. } if name == "wide"),
        "{error}"
    );
    assert_eq!(state(&classifier), before);
    // Removing a rule makes room for the one that was refused.
    assert!(classifier.remove(RuleId(0)));
    add(&mut classifier, &wide(last)).unwrap();
}
