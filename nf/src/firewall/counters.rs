//! Counters of rules, and how they are told.

use super::policy::{DEFAULT_RULE, Policy};
use super::rules::{Action, RuleId};
use millrace_dataplane::flow::session::Traffic;
use std::collections::HashMap;

/// What a rule did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Decisions: connections admitted, packets refused.
    pub hits: u64,
    /// Packets: those refused, and those of the connections admitted, both ways.
    pub packets: u64,
    /// Their bytes, as frames.
    pub bytes: u64,
}

impl RuleCounters {
    /// Adds what the same rule did elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    pub(super) fn carry(&mut self, traffic: Traffic) {
        self.packets += traffic.packets;
        self.bytes += traffic.bytes;
    }
}

/// A rule with what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// Its identity; [`DEFAULT_RULE`] for the default.
    pub id: RuleId,
    /// Its position.
    pub order: u64,
    /// Its name.
    pub name: String,
    /// What it wants.
    pub action: Action,
    /// What it did.
    pub counters: RuleCounters,
}

/// The counters of one firewall.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    rules: HashMap<RuleId, RuleCounters>,
    default: RuleCounters,
    /// Traffic of connections whose rule is gone.
    removed: RuleCounters,
}

impl Counters {
    /// The counters of a rule of `policy`, of the default, or of what is gone.
    pub(super) fn of(&mut self, policy: &Policy, rule: RuleId) -> &mut RuleCounters {
        if rule == DEFAULT_RULE {
            &mut self.default
        } else if policy.rule(rule).is_some() {
            self.rules.entry(rule).or_default()
        } else {
            &mut self.removed
        }
    }

    /// A rule is gone: what it did is kept in one sum.
    pub(super) fn retire(&mut self, rule: RuleId) {
        if let Some(counters) = self.rules.remove(&rule) {
            self.removed.add(&counters);
        }
    }

    /// What all rules that are gone did.
    pub(super) fn removed(&self) -> RuleCounters {
        self.removed
    }

    /// The default.
    pub(super) fn default_report(&self, policy: &Policy) -> RuleReport {
        RuleReport {
            id: DEFAULT_RULE,
            order: u64::MAX,
            name: "default".to_owned(),
            action: policy.default_action(),
            counters: self.default,
        }
    }

    /// At most `count` rules in order, from the one behind `after` on.
    pub(super) fn report(
        &self,
        policy: &Policy,
        after: Option<(u64, RuleId)>,
        count: usize,
    ) -> Vec<RuleReport> {
        let report = |rule: &std::sync::Arc<super::rules::Rule>| RuleReport {
            id: rule.id,
            order: rule.order,
            name: rule.name.clone(),
            action: rule.action,
            counters: self.rules.get(&rule.id).copied().unwrap_or_default(),
        };
        policy.rules_after(after).take(count).map(report).collect()
    }
}
