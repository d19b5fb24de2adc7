//! From the rules of a configuration to those that decide, and what looking them up may cost (R15).

use ipnet::IpNet;
use millrace_nf::firewall::Policy;
use millrace_nf::firewall::classifier::PROBES_MAX;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Family, IcmpMatch, Rule, RuleError, RuleId};
use millrace_nf::zone::ZoneId;

use super::chains::Chain;
use super::context::{Context, Finding};
use super::firewall::{self as settings, Firewall, ZoneRef};
use super::network::IcmpType;
use super::places::join;
use super::{Config, FunctionKind};

/// The rules of a firewall in this chain, in their order. A rule with several zones becomes one for each pair.
///
/// # Errors
/// A rule that can't be used.
pub fn rule_set(firewall: &Firewall, chain: &Chain) -> Result<RuleSet, RuleError> {
    RuleSet::new(numbered(firewall, chain).into_iter().map(|(_, rule)| rule).collect())
}

/// What a firewall does.
pub fn action(action: settings::Action) -> Action {
    match action {
        settings::Action::Allow => Action::Allow,
        settings::Action::Deny => Action::Deny,
        settings::Action::Reject => Action::Reject,
    }
}

/// Most steps that a look-up in these rules takes; none if no chain uses them or they can't be used.
pub(super) fn cost(config: &Config, name: &str, firewall: &Firewall) -> Option<usize> {
    let rules = rule_set(firewall, config.chain_of(name)?).ok()?;
    Some(Policy::new(&rules, action(firewall.default)).ok()?.worst_case_probes())
}

/// Notes the first rule of each firewall that look-ups have no room for.
pub(super) fn check(context: &Context<'_>, config: &Config) {
    for function in &config.functions {
        let (FunctionKind::Firewall(firewall), Some(chain)) =
            (&function.kind, config.chain_of(&function.name))
        else {
            continue;
        };
        let Ok(mut policy) = Policy::new(&RuleSet::default(), action(firewall.default)) else { continue };
        let rules = numbered(firewall, chain);
        let refused =
            rules.into_iter().find_map(|(at, rule)| policy.insert(rule).err().map(|error| (at, error)));
        if let Some((at, error)) = refused {
            let path = format!("{}.rules", join("functions", &function.name));
            let finding = Finding::error(context.item(&path, at), error.to_string()).at_key();
            let found = format!("{} rules before it, which take {} steps", at, policy.worst_case_probes());
            let valid = format!("rules that any packet is held against in at most {PROBES_MAX} steps");
            context.push(finding.found(found).valid(valid));
        }
    }
}

/// The rules with the places of those that they come from.
fn numbered(firewall: &Firewall, chain: &Chain) -> Vec<(usize, Rule)> {
    let mut rules = Vec::new();
    for (at, rule) in firewall.rules.iter().enumerate() {
        let (from, to) = (zones(chain, &rule.from), zones(chain, &rule.to));
        let several = from.len() * to.len() > 1;
        for (&from_zone, &to_zone) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            let one = Rule { from_zone, to_zone, ..convert(rule, RuleId(rules.len() as u32)) };
            let suffix = format!(" ({} > {})", show_zone(from_zone), show_zone(to_zone));
            let name = if several { one.name.clone() + &suffix } else { one.name.clone() };
            rules.push((at, Rule { name, ..one }));
        }
    }
    rules
}

fn show_zone(zone: Option<ZoneId>) -> String {
    zone.map_or_else(|| "any".to_owned(), |zone| zone.to_string())
}

/// The zones of a rule: any if it names none.
fn zones(chain: &Chain, zones: &[ZoneRef]) -> Vec<Option<ZoneId>> {
    if zones.is_empty() {
        return vec![None];
    }
    let number = |name: &String| chain.zones.iter().position(|zone| zone.name == *name);
    let zone = |zone: &ZoneRef| match zone {
        ZoneRef::Zone(name) => number(name).map(|at| ZoneId(at as u8)),
        ZoneRef::Local => Some(ZoneId::LOCAL),
    };
    // The configuration was checked: every zone that it names exists.
    zones.iter().filter_map(zone).map(Some).collect()
}

fn convert(rule: &settings::Rule, id: RuleId) -> Rule {
    let networks = |networks: &[IpNet]| networks.to_vec();
    let icmp = |icmp: &IcmpType| IcmpMatch { icmp_type: icmp.kind, code: icmp.code };
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
