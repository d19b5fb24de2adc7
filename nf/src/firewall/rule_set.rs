//! A firewall's rules as one ordered, checked set, and the packet fields that it reads.

use std::collections::HashSet;

use super::rules::{Rule, RuleError, RuleId};

/// The packet fields that a rule set reads (R2). The IP version is part of every key and the zones follow from
/// its ports, so neither is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(u8);

impl FieldSet {
    /// No field.
    pub const NONE: Self = Self(0);
    /// Source address.
    pub const SOURCE: Self = Self(1);
    /// Destination address.
    pub const DESTINATION: Self = Self(1 << 1);
    /// IP protocol.
    pub const PROTOCOL: Self = Self(1 << 2);
    /// Source port.
    pub const SOURCE_PORT: Self = Self(1 << 3);
    /// Destination port.
    pub const DESTINATION_PORT: Self = Self(1 << 4);
    /// ICMP type and code.
    pub const ICMP: Self = Self(1 << 5);

    /// Whether every field of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn add_if(&mut self, condition: bool, fields: Self) {
        if condition {
            *self = *self | fields;
        }
    }
}

impl std::ops::BitOr for FieldSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

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

    /// The packet fields that any of the rules reads.
    pub fn fields(&self) -> FieldSet {
        self.rules.iter().fold(FieldSet::NONE, |fields, rule| fields | rule.fields())
    }
}
