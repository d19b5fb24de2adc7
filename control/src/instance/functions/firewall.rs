//! Firewalls.

use millrace_nf::chain::Chain;
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;

use super::{Context, Counter, Part};
use crate::config::firewall as settings;
use crate::config::rule_set::{action, rule_set};
use crate::instance::InstanceError;

/// Makes a firewall.
pub fn build(
    context: &Context<'_>,
    name: &str,
    settings: &settings::Firewall,
) -> Result<Firewall, InstanceError> {
    let mut firewall = Firewall::new(policy(context, name, settings)?, refusals(context.part));
    if let Some(logs) = context.logs {
        logs.connect(name, &mut firewall);
    }
    Ok(firewall)
}

/// How many refusals are answered: all workers together say as much as one would, each to one source.
fn refusals(part: Part) -> IcmpLimitConfig {
    let whole = IcmpLimitConfig::default();
    IcmpLimitConfig { router: part.share_rate(whole.router), ..whole }
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
    rule_set(settings, context.chain).map_err(|error| InstanceError::function(name, error.to_string()))
}

/// Counters by rule, the default last.
pub fn counters(chain: &mut Chain, name: &str) -> Vec<Counter> {
    let Some(firewall) = chain.function::<Firewall>(name) else { return Vec::new() };
    let rule = |report: millrace_nf::firewall::counters::RuleReport| {
        let counters = report.counters;
        (format!("rule {}", report.name), counters.hits, Some(counters.packets), Some(counters.bytes))
    };
    let (recorded, left_out) = firewall.log_totals();
    let log = [("log lines", recorded), ("log lines left out", left_out)];
    let log = log.map(|(item, count)| (item.to_owned(), count, None, None));
    firewall.rules_report().into_iter().map(rule).chain(log).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_answer_as_many_refusals_as_one() {
        let whole = refusals(Part::WHOLE);
        assert_eq!(whole, IcmpLimitConfig::default());
        let third = refusals(Part { at: 1, of: 3 });
        assert_eq!((third.router.per_second, third.router.burst), (334, 34));
        assert_eq!(third.source, whole.source);
    }
}
