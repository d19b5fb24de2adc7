//! A firewall's rules as one ordered, checked set.

use std::collections::HashSet;

use super::rules::{Rule, RuleError, RuleId};

/// The rules of one firewall, in the order in which they are consulted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    rules: Vec<Rule>,
}

impl RuleSet {
    /// Takes rules in any order and checks each of them.
    ///
    /// # Errors
    /// The first rule in order that can't be used.
    pub fn new(mut rules: Vec<Rule>) -> Result<Self, RuleError> {
        rules.sort_by_key(|rule| (rule.order, rule.id));
        let mut seen = HashSet::new();
        for rule in &rules {
            if !seen.insert(rule.id) {
                return Err(RuleError::DuplicateId { name: rule.name.clone(), id: rule.id });
            }
            rule.check()?;
        }
        Ok(Self { rules })
    }

    /// The rules, first consulted first.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with this identity.
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}
