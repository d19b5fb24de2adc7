//! Rules that can never match because an earlier one matches all that they do.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::context::{Context, Finding};
use super::firewall::{Action, Firewall, Rule};
use super::network::IcmpType;

/// Most rules that are compared with each other: the comparison is quadratic.
const RULES_MAX: usize = 20_000;

/// Notes a warning for each rule that a single earlier rule covers.
pub(crate) fn check(context: &Context<'_>, path: &str, firewall: &Firewall) {
    if firewall.rules.len() > RULES_MAX {
        return;
    }
    for (index, rule) in firewall.rules.iter().enumerate() {
        if let Some(earlier) = firewall.rules[..index].iter().position(|earlier| covers(earlier, rule)) {
            let name = &firewall.rules[earlier].name;
            let message = format!("the rule `{}` never matches: `{name}` before it covers it", rule.name);
            let here = context.item(&format!("{path}.rules"), index);
            let place = context.item(&format!("{path}.rules"), earlier);
            let verb = match firewall.rules[earlier].action {
                Action::Allow => "allows",
                Action::Deny => "denies",
                Action::Reject => "rejects",
            };
            let finding = Finding::warning(here, message).at_key();
            context.push(finding.help(format!("{place} already {verb} it: move this rule up or remove it")));
        }
    }
}

/// Whether every packet that `rule` matches is matched by `earlier`.
fn covers(earlier: &Rule, rule: &Rule) -> bool {
    subset(&rule.from, &earlier.from, |a, b| a == b)
        && subset(&rule.to, &earlier.to, |a, b| a == b)
        && subset(&rule.protocols, &earlier.protocols, |a, b| a == b)
        && subset(&rule.source, &earlier.source, contains)
        && subset(&rule.destination, &earlier.destination, contains)
        && subset(&rule.source_ports, &earlier.source_ports, within)
        && subset(&rule.destination_ports, &earlier.destination_ports, within)
        && subset(&rule.icmp_types, &earlier.icmp_types, icmp_within)
}

/// Whether each of `inner` lies in one of `outer`; an empty list holds everything.
fn subset<T>(inner: &[T], outer: &[T], inside: impl Fn(&T, &T) -> bool) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|a| outer.iter().any(|b| inside(a, b))))
}

fn contains(inner: &IpNet, outer: &IpNet) -> bool {
    outer.contains(inner)
}

fn within(inner: &RangeInclusive<u16>, outer: &RangeInclusive<u16>) -> bool {
    outer.start() <= inner.start() && inner.end() <= outer.end()
}

fn icmp_within(inner: &IcmpType, outer: &IcmpType) -> bool {
    inner.kind == outer.kind && (outer.code.is_none() || outer.code == inner.code)
}
