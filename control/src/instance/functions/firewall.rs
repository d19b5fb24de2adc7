//! Firewalls.

use ipnet::IpNet;
use millrace_nf::chain::Chain;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Family, IcmpMatch, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::zone::ZoneId;

use super::{Context, Counter};
use crate::config::firewall::{self as settings, ZoneRef};
use crate::instance::InstanceError;

/// Makes a firewall.
pub fn build(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Firewall,
) -> Result<Firewall, InstanceError> {
    Ok(Firewall::new(policy(context, name, settings)?, IcmpLimitConfig::default()))
}

/// The rules, ready to decide.
///
/// # Errors
/// The classifier refuses a rule.
pub fn policy(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Firewall,
) -> Result<Policy, InstanceError> {
    let rules = rules(context, name, settings)?;
    Policy::new(&rules, action(settings.default))
        .map_err(|error| InstanceError::function(name, error.to_string()))
}

/// The rules in their order.
///
/// # Errors
/// A rule that can't be used.
pub fn rules(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Firewall,
) -> Result<RuleSet, InstanceError> {
    if !settings.tcp_state_checks {
        let key = format!("functions.{name}.tcp_state_checks");
        return Err(InstanceError::unsupported(
            key,
            "this version always checks the state of TCP connections",
        ));
    }
    let mut rules = Vec::new();
    for rule in &settings.rules {
        let (from, to) = (zones(context, &rule.from), zones(context, &rule.to));
        let several = from.len() * to.len() > 1;
        for (&from_zone, &to_zone) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            let id = RuleId(rules.len() as u32);
            let one = Rule { from_zone, to_zone, ..convert(rule, id) };
            let suffix = format!(" ({} > {})", show_zone(from_zone), show_zone(to_zone));
            let rule_name = if several { one.name.clone() + &suffix } else { one.name.clone() };
            rules.push(Rule { name: rule_name, ..one });
        }
    }
    RuleSet::new(rules).map_err(|error| InstanceError::function(name, error.to_string()))
}

fn show_zone(zone: Option<ZoneId>) -> String {
    zone.map_or_else(|| "any".to_owned(), |zone| zone.to_string())
}

/// The zones of a rule: any if it names none.
fn zones(context: &Context<'_>, zones: &[ZoneRef]) -> Vec<Option<ZoneId>> {
    if zones.is_empty() {
        return vec![None];
    }
    let zone = |zone: &ZoneRef| match zone {
        ZoneRef::Zone(name) => context.zone(name),
        ZoneRef::Local => Some(ZoneId::LOCAL),
    };
    // The configuration was checked: every zone that it names exists.
    zones.iter().filter_map(zone).map(Some).collect()
}

/// What a firewall does.
pub fn action(action: settings::Action) -> Action {
    match action {
        settings::Action::Allow => Action::Allow,
        settings::Action::Deny => Action::Deny,
        settings::Action::Reject => Action::Reject,
    }
}

fn convert(rule: &settings::Rule, id: RuleId) -> Rule {
    let networks = |networks: &[IpNet]| networks.to_vec();
    let icmp = |icmp: &crate::config::network::IcmpType| IcmpMatch { icmp_type: icmp.kind, code: icmp.code };
    Rule {
        id,
        order: u64::from(id.0) << 32,
        name: rule.name.clone(),
        action: action(rule.action),
        from_zone: None,
        to_zone: None,
        family: Family::Any,
        sources: networks(&rule.source),
        destinations: networks(&rule.destination),
        protocols: rule.protocols.clone(),
        source_ports: rule.source_ports.clone(),
        destination_ports: rule.destination_ports.clone(),
        icmp: rule.icmp_types.iter().map(icmp).collect(),
        log: rule.log,
    }
}

/// Counters by rule, the default last.
pub fn counters(chain: &mut Chain, name: &str) -> Vec<Counter> {
    let Some(firewall) = chain.function::<Firewall>(name) else { return Vec::new() };
    let rule = |report: millrace_nf::firewall::counters::RuleReport| {
        let counters = report.counters;
        (format!("rule {}", report.name), counters.hits, Some(counters.packets), Some(counters.bytes))
    };
    firewall.rules_report().into_iter().map(rule).collect()
}
