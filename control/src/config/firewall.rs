//! `[functions.NAME]` of kind `firewall`: ordered rules over connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::chains::{Chain, LOCAL_ZONE};
use super::context::Finding;
use super::names::{check_reference, name, reference};
use super::network::{ICMP, ICMPV6, IcmpType, TCP, UDP, icmp_type, prefix, protocol, show_protocol};
use super::schema;
use super::section::{Scalar, Section};
use super::units::ports;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes, and its replies and related ICMP errors too.
    Allow,
    /// Its packets are dropped.
    Deny,
    /// Its packets are answered with a TCP reset or an ICMP error.
    Reject,
}

/// A zone named by a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneRef {
    /// A zone of the chain.
    Zone(String),
    /// The data plane's own addresses.
    Local,
}

/// A rule: connections that match all of it meet its action. An empty list matches anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the firewall; `rule-N` by position (from 1) when none was given.
    pub name: String,
    /// What becomes of the connection.
    pub action: Action,
    /// Zones that the first packet comes from.
    pub from: Vec<ZoneRef>,
    /// Zones that it goes to.
    pub to: Vec<ZoneRef>,
    /// Networks of the source address.
    pub source: Vec<IpNet>,
    /// Networks of the destination address.
    pub destination: Vec<IpNet>,
    /// IANA numbers of IP protocols.
    pub protocols: Vec<u8>,
    /// Source ports (TCP and UDP).
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Destination ports (TCP and UDP).
    pub destination_ports: Vec<RangeInclusive<u16>>,
    /// ICMP types; `protocols` is then ICMP or ICMPv6 alone.
    pub icmp_types: Vec<IcmpType>,
    /// Whether matches are logged (sampled).
    pub log: bool,
}

/// A firewall's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// What becomes of connections that no rule matches.
    pub default: Action,
    /// Whether TCP segments that do not fit their connection's state and window are dropped.
    pub tcp_state_checks: bool,
    /// The rules; the first that matches decides.
    pub rules: Vec<Rule>,
}

const ACTIONS: [(&str, Action); 3] =
    [("allow", Action::Allow), ("deny", Action::Deny), ("reject", Action::Reject)];

fn state_checks(section: &Section<'_>) -> bool {
    let checks = section.boolean("tcp_state_checks").unwrap_or(true);
    if !checks {
        let message = "this version always checks the state of TCP connections";
        let finding = Finding::error(section.key("tcp_state_checks"), message);
        section.context.push(finding.found("false").valid("true, or no such key"));
    }
    checks
}

/// Reads a firewall; `chain` is the one that uses it.
pub(crate) fn read_firewall(section: &Section<'_>, chain: Option<&Chain>) -> Firewall {
    let rules =
        section.tables("rules", &schema::RULE, |rule, position| Some(read_rule(rule, position, chain)));
    check_names(section, &rules);
    Firewall {
        default: section.choice("default", &ACTIONS).unwrap_or(Action::Deny),
        tcp_state_checks: state_checks(section),
        rules,
    }
}

fn check_names(section: &Section<'_>, rules: &[Rule]) {
    let mut seen = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        if let Some(first) = seen.insert(rule.name.as_str(), index) {
            let path = section.context.item(&section.key("rules"), index);
            let message = format!("two rules are named `{}`", rule.name);
            let finding = Finding::error(format!("{path}.name"), message).found(format!("\"{}\"", rule.name));
            let first = section.context.item(&section.key("rules"), first);
            section.context.push(finding.valid("a name of its own").help(format!("the other is {first}")));
        }
    }
}

fn read_rule(section: &Section<'_>, position: usize, chain: Option<&Chain>) -> Rule {
    section.require("action", "action = \"allow\", \"deny\" or \"reject\"");
    let protocols = section.list("protocol", protocol).unwrap_or_default();
    let rule = Rule {
        name: section.parsed("name", name).unwrap_or_else(|| format!("rule-{}", position + 1)),
        action: section.choice("action", &ACTIONS).unwrap_or(Action::Deny),
        from: read_zones(section, "from", chain),
        to: read_zones(section, "to", chain),
        source: section.list("source", prefix).unwrap_or_default(),
        destination: section.list("destination", prefix).unwrap_or_default(),
        source_ports: section.list("source_ports", ports).unwrap_or_default(),
        destination_ports: section.list("destination_ports", ports).unwrap_or_default(),
        icmp_types: read_icmp_types(section, &protocols),
        protocols,
        log: section.boolean("log").unwrap_or(false),
    };
    check_ports(section, &rule.protocols);
    check_families(section, &rule);
    rule
}

fn read_zones(section: &Section<'_>, key: &'static str, chain: Option<&Chain>) -> Vec<ZoneRef> {
    let names = section.list(key, reference).unwrap_or_default();
    let mut known: Vec<&str> =
        chain.iter().flat_map(|chain| &chain.zones).map(|zone| zone.name.as_str()).collect();
    known.retain(|zone| *zone != LOCAL_ZONE);
    known.push(LOCAL_ZONE);
    for (index, name) in names.iter().enumerate() {
        let path = section.context.item(&section.key(key), index);
        if chain.is_some() {
            check_reference(section.context, &path, "zone", name, &known);
        }
    }
    let zone = |name: String| if name == LOCAL_ZONE { ZoneRef::Local } else { ZoneRef::Zone(name) };
    names.into_iter().map(zone).collect()
}

fn read_icmp_types(section: &Section<'_>, protocols: &[u8]) -> Vec<IcmpType> {
    let icmp = match protocols {
        [protocol @ (ICMP | ICMPV6)] => *protocol,
        _ if !section.has("icmp_type") => return Vec::new(),
        _ => {
            let finding =
                Finding::error(section.key("icmp_type"), "ICMP types need one ICMP protocol").at_key();
            let found =
                if section.has("protocol") { show_protocols(protocols) } else { "no `protocol`".to_owned() };
            let valid = "`icmp_type` beside protocol = \"icmp\" or protocol = \"icmpv6\"";
            section.context.push(
                finding
                    .found(found)
                    .valid(valid)
                    .help("the numbers differ: write one rule for each protocol"),
            );
            return Vec::new();
        }
    };
    section.list("icmp_type", |scalar: Scalar<'_>| icmp_type(icmp, scalar)).unwrap_or_default()
}

fn show_protocols(protocols: &[u8]) -> String {
    protocols.iter().map(|&protocol| show_protocol(protocol)).collect::<Vec<_>>().join(", ")
}

fn check_ports(section: &Section<'_>, protocols: &[u8]) {
    if !protocols.is_empty() && protocols.iter().all(|protocol| matches!(*protocol, TCP | UDP)) {
        return;
    }
    for key in ["source_ports", "destination_ports"] {
        if section.has(key) {
            let finding = Finding::error(section.key(key), "only TCP and UDP have ports").at_key();
            let found =
                if protocols.is_empty() { "no `protocol`".to_owned() } else { show_protocols(protocols) };
            let valid = "protocol = \"tcp\", \"udp\" or [\"tcp\", \"udp\"]";
            section.context.push(finding.found(found).valid(valid));
        }
    }
}

/// A rule whose addresses and protocols are never of one family can match nothing.
fn check_families(section: &Section<'_>, rule: &Rule) {
    let has = |networks: &[IpNet], v4: bool| {
        networks.is_empty() || networks.iter().any(|network| matches!(network.addr(), IpAddr::V4(_)) == v4)
    };
    let protocol = |other: u8| rule.protocols.is_empty() || rule.protocols.iter().any(|p| *p != other);
    let v4 = has(&rule.source, true) && has(&rule.destination, true) && protocol(ICMPV6);
    let v6 = has(&rule.source, false) && has(&rule.destination, false) && protocol(ICMP);
    if !v4 && !v6 {
        let finding =
            Finding::error(&section.path, "the rule can match no packet: it mixes IPv4 and IPv6").at_key();
        let valid = "addresses of one family, with icmp for IPv4 and icmpv6 for IPv6";
        section.context.push(finding.valid(valid));
    }
}
