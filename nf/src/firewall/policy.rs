//! Rules ready to decide, and the change from one such policy to the next (R8).

use super::classifier::{Classifier, ClassifierError};
use super::footprint::Footprint;
use super::query::Query;
use super::rule_set::RuleSet;
use super::rules::{Action, Rule, RuleError, RuleId};
use super::slots::{RuleSlot, Slots};
use crate::slices::{changed_prefix, changed_service, wide};
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Stands for the default in counters and decisions; no rule has this identity.
pub const DEFAULT_RULE: RuleId = RuleId(u32::MAX);
/// Most cells that a change names one by one.
const TOUCHED_MAX: usize = 4096;

/// What the rules say of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The place of the rule that matched; [`RuleSlot::DEFAULT`] where none did.
    pub slot: RuleSlot,
    /// What it wants.
    pub action: Action,
    /// Whether the decision is logged.
    pub log: bool,
}

/// The rules of a firewall with their classifier. Built off the packet path.
#[derive(Clone)]
pub struct Policy {
    classifier: Classifier,
    slots: Slots,
    by_id: HashMap<RuleId, RuleSlot>,
    order: BTreeSet<(u64, RuleId)>,
    default: Action,
    /// Where to look for an identity that no rule had before.
    fresh: u32,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rules, default) = (self.len(), self.default);
        f.debug_struct("Policy").field("rules", &rules).field("default", &default).finish_non_exhaustive()
    }
}

impl Policy {
    /// The rules in their order; where none matches, `default`.
    ///
    /// # Errors
    /// The first rule in order that the classifier refuses.
    pub fn new(rules: &RuleSet, default: Action) -> Result<Self, ClassifierError> {
        let mut policy = Self::empty(default);
        rules.rules().iter().try_for_each(|rule| policy.insert(rule.clone()))?;
        Ok(policy)
    }

    fn empty(default: Action) -> Self {
        // What look-ups find does not depend on the secret.
        let secret = RandomState::new();
        let classifier = Classifier::new([secret.hash_one(1u8), secret.hash_one(2u8)]);
        let (slots, by_id, order) = (Slots::default(), HashMap::new(), BTreeSet::new());
        Self { classifier, slots, by_id, order, default, fresh: 0 }
    }

    /// The rules of `new` under the identities that they have there. Rules that `old` has too keep their places.
    fn after(old: &Self, new: &RuleSet, default: Action) -> Result<Self, ClassifierError> {
        let mut policy = Self { slots: old.slots.clone(), fresh: old.fresh, ..Self::empty(default) };
        let stays: HashSet<RuleId> = new.rules().iter().map(|rule| rule.id).collect();
        let (stay, gone): (Vec<_>, Vec<_>) = old.by_id.iter().partition(|(id, _)| stays.contains(id));
        policy.by_id = stay.into_iter().map(|(id, slot)| (*id, *slot)).collect();
        gone.into_iter().for_each(|(_, slot)| policy.slots.give_back(*slot));
        new.rules().iter().try_for_each(|rule| policy.insert(rule.clone()))?;
        Ok(policy)
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// Why it can't be; nothing has changed then. Identity [`DEFAULT_RULE`] is taken.
    pub fn insert(&mut self, rule: Rule) -> Result<(), ClassifierError> {
        if rule.id == DEFAULT_RULE {
            return Err(RuleError::DuplicateId { name: rule.name, id: rule.id }.into());
        }
        let known = self.by_id.get(&rule.id).copied();
        let too_many = || RuleError::TooManyRules { name: rule.name.clone() };
        let slot = known.or_else(|| self.slots.next()).ok_or_else(too_many)?;
        self.classifier.insert(&rule, slot)?;
        self.fresh = self.fresh.max(rule.id.0.wrapping_add(1));
        self.order.insert((rule.order, rule.id));
        let (id, rule) = (rule.id, Arc::new(rule));
        match known {
            Some(slot) => self.slots.replace(slot, rule),
            None => {
                self.slots.take(rule);
            }
        }
        self.by_id.insert(id, slot);
        Ok(())
    }

    /// Removes a rule and returns it with the place that it had.
    pub fn remove(&mut self, id: RuleId) -> Option<(RuleSlot, Arc<Rule>)> {
        let slot = self.by_id.remove(&id)?;
        let rule = Arc::clone(self.slots.rule(slot)?);
        self.slots.give_back(slot);
        self.classifier.remove(id);
        self.order.remove(&(rule.order, id));
        Some((slot, rule))
    }

    /// A rule by its identity.
    pub fn rule(&self, id: RuleId) -> Option<&Arc<Rule>> {
        self.slots.rule(self.slot(id)?)
    }

    /// The rule in a place, if it is still there.
    #[inline]
    pub fn rule_at(&self, slot: RuleSlot) -> Option<&Arc<Rule>> {
        self.slots.rule(slot)
    }

    /// The rule that is in the place of this index now.
    pub(super) fn rule_in(&self, index: usize) -> Option<&Arc<Rule>> {
        self.slots.at(index)
    }

    /// The place of a rule.
    pub fn slot(&self, id: RuleId) -> Option<RuleSlot> {
        self.by_id.get(&id).copied()
    }

    /// More than the index of any rule's place.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// The rules in order, from the one behind `after` on.
    pub fn rules_after(&self, after: Option<(u64, RuleId)>) -> impl Iterator<Item = &Arc<Rule>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.order.range((start, Unbounded)).filter_map(|(_, id)| self.rule(*id))
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True if there are no rules, and so only the default.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What is done where no rule matches.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// Most steps that any decision needs (R15): buckets, blocks, comparisons with a rule, steps of searches.
    pub fn worst_case_probes(&self) -> usize {
        self.classifier.worst_case_probes()
    }

    /// What the rules say of a connection whose first packet this is.
    pub fn judge(&self, query: &Query) -> Judgement {
        match self.classifier.find(query) {
            Some(found) => Judgement { slot: found.slot, action: found.action, log: found.log },
            None => self.default_judgement(),
        }
    }

    /// What is said where no rule matches.
    pub fn default_judgement(&self) -> Judgement {
        Judgement { slot: RuleSlot::DEFAULT, action: self.default, log: false }
    }

    fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_id.values().filter_map(|slot| self.slots.rule(*slot))
    }
}

/// The cells of all decisions that a rule can concern.
pub(super) fn touched_by(rule: &Rule) -> Vec<Watch> {
    let mut touched = Vec::new();
    for footprint in rule.footprints() {
        match footprint {
            Footprint::Destination(net) => {
                touched.extend(changed_prefix(ObjectKind::RulesByDestination, net));
            }
            Footprint::Source(net) => touched.extend(changed_prefix(ObjectKind::RulesBySource, net)),
            Footprint::Service { protocol, ports } => touched.extend(changed_service(protocol, &ports)),
            Footprint::Any => return everywhere(),
        }
        if touched.len() > TOUCHED_MAX {
            return everywhere();
        }
    }
    touched
}

/// The cell that every decision of a firewall watches.
fn everywhere() -> Vec<Watch> {
    vec![wide(ObjectKind::RulesByDestination)]
}

/// A new policy and what its difference from the old one concerns. Built off the packet path.
#[derive(Debug)]
pub struct Change {
    pub(super) policy: Policy,
    pub(super) removed: Vec<RuleSlot>,
    pub(super) touched: Vec<Watch>,
}

impl Change {
    /// From `old` to the rules of `new`. A rule is the same if its name is: it keeps its identity and so its counters.
    ///
    /// # Errors
    /// The first rule in order that the classifier refuses.
    pub fn between(old: &Policy, new: &RuleSet, default: Action) -> Result<Self, ClassifierError> {
        let (new, kept) = with_old_identities(old, new)?;
        let policy = Policy::after(old, &new, default)?;
        let removed = old
            .by_id
            .iter()
            .filter(|(id, _)| !policy.by_id.contains_key(id))
            .map(|(_, slot)| *slot)
            .collect();
        let unmoved = unmoved(old, &kept);
        let gone = old.rules().filter(|rule| !unmoved.contains(&rule.id));
        let come = policy.rules().filter(|rule| !unmoved.contains(&rule.id));
        let mut touched = Vec::new();
        for rule in gone.chain(come) {
            touched.extend(touched_by(rule));
        }
        if touched.len() > TOUCHED_MAX || policy.default != old.default {
            touched = everywhere();
        }
        Ok(Self { policy, removed, touched })
    }

    /// The policy that the change leads to.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// True if no decision can differ.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }
}

/// The new rules with the identities of old ones of the same name, and those that say the same as before, in the new order.
fn with_old_identities(old: &Policy, new: &RuleSet) -> Result<(RuleSet, Vec<RuleId>), RuleError> {
    let mut by_name: HashMap<&str, &Arc<Rule>> = old.rules().map(|rule| (rule.name.as_str(), rule)).collect();
    // Identities of rules that are gone come last: traffic that they admitted may still have to be counted.
    let unused = |id: &RuleId| *id != DEFAULT_RULE && !old.by_id.contains_key(id);
    let mut free = (old.fresh..=u32::MAX).chain(0..old.fresh).map(RuleId).filter(unused);
    let (mut rules, mut kept) = (Vec::new(), Vec::new());
    for (rule, order) in new.rules().iter().zip((1u64..).map(|place| place << 32)) {
        let before = by_name.remove(rule.name.as_str());
        let Some(id) = before.map(|rule| rule.id).or_else(|| free.next()) else { continue };
        // Fresh orders: those of equal rank would fall back on identities, which have just changed.
        let rule = Rule { id, order, ..rule.clone() };
        if before.is_some_and(|before| Rule { order, ..Rule::clone(before) } == rule) {
            kept.push(id);
        }
        rules.push(rule);
    }
    Ok((RuleSet::new(rules)?, kept))
}

/// Of the rules that say the same as before, in their new order: the most that are also in the same order among each other.
fn unmoved(old: &Policy, kept: &[RuleId]) -> BTreeSet<RuleId> {
    let places: HashMap<RuleId, usize> =
        old.order.iter().enumerate().map(|(at, (_, id))| (*id, at)).collect();
    let places: Vec<usize> = kept.iter().filter_map(|id| places.get(id).copied()).collect();
    // Longest increasing subsequence: `ends[n]` is the index of the least last element of one of n + 1 elements.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous = vec![None; places.len()];
    for (at, place) in places.iter().enumerate() {
        let length = ends.partition_point(|&end| places[end] < *place);
        previous[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut found = BTreeSet::new();
    let mut at = ends.last().copied();
    while let Some(index) = at {
        found.insert(kept[index]);
        at = previous[index];
    }
    found
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
