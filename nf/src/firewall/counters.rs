//! Counters of rules, and how they are told.

use super::policy::{DEFAULT_RULE, Policy};
use super::rules::{Action, RuleId};
use super::slots::RuleSlot;
use millrace_dataplane::flow::session::Traffic;

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
    /// By the rules' places.
    rules: Vec<RuleCounters>,
    default: RuleCounters,
    /// Traffic of connections whose rule is gone.
    removed: RuleCounters,
}

impl Counters {
    /// Makes room for the rules of `policy`.
    pub(super) fn fit(&mut self, policy: &Policy) {
        self.rules.resize(self.rules.len().max(policy.places()), RuleCounters::default());
    }

    /// The counters of a rule of `policy`, of the default, or of what is gone.
    #[inline]
    pub(super) fn of(&mut self, policy: &Policy, slot: RuleSlot) -> &mut RuleCounters {
        if slot == RuleSlot::DEFAULT {
            return &mut self.default;
        }
        match self.rules.get_mut(slot.index()) {
            Some(counters) if policy.rule_at(slot).is_some() => counters,
            _ => &mut self.removed,
        }
    }

    /// A rule is gone: what it did is kept in one sum.
    pub(super) fn retire(&mut self, slot: RuleSlot) {
        if let Some(counters) = self.rules.get_mut(slot.index()) {
            self.removed.add(&std::mem::take(counters));
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
            counters: self.rules_of(policy, rule.id),
        };
        policy.rules_after(after).take(count).map(report).collect()
    }

    fn rules_of(&self, policy: &Policy, rule: RuleId) -> RuleCounters {
        let slot = policy.slot(rule);
        slot.and_then(|slot| self.rules.get(slot.index())).copied().unwrap_or_default()
    }
}
