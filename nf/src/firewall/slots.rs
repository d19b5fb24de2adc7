//! Places of rules: small numbers, so that counters and sessions name a rule without a search.
//!
//! A place is taken again when its rule is gone, the longest free first, under another *turn*: what still names the
//! rule before is told apart, unless 4,096 rules have used the place meanwhile.

use super::rules::Rule;
use std::collections::VecDeque;
use std::sync::Arc;

const INDEX_BITS: u32 = 20;
const TURNS: u16 = 1 << (32 - INDEX_BITS);
/// Most rules of one firewall. The last index is the default's.
pub const RULES_MAX: usize = (1 << INDEX_BITS) - 1;

/// A rule's place and turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleSlot(u32);

impl RuleSlot {
    /// Stands for the default, which is no rule.
    pub const DEFAULT: Self = Self(u32::MAX);

    /// The place.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 & (u32::MAX >> (32 - INDEX_BITS))) as usize
    }

    /// As a number.
    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    /// From [`Self::bits`].
    pub(super) const fn of(bits: u32) -> Self {
        Self(bits)
    }
}

/// The places of one firewall's rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    free: VecDeque<u32>,
}

#[derive(Clone, Debug)]
struct Place {
    slot: RuleSlot,
    rule: Option<Arc<Rule>>,
}

impl Slots {
    /// The place that the next rule gets; none where there are too many rules.
    pub fn next(&self) -> Option<RuleSlot> {
        match self.free.front() {
            Some(index) => Some(self.places[*index as usize].slot),
            None if self.places.len() < RULES_MAX => Some(RuleSlot(self.places.len() as u32)),
            None => None,
        }
    }

    /// Puts a rule where [`Self::next`] said.
    pub fn take(&mut self, rule: Arc<Rule>) -> Option<RuleSlot> {
        let slot = self.next()?;
        let place = Place { slot, rule: Some(rule) };
        if self.free.pop_front().is_some() {
            self.places[slot.index()] = place;
        } else {
            self.places.push(place);
        }
        Some(slot)
    }

    /// Another version of the rule in a place.
    pub fn replace(&mut self, slot: RuleSlot, rule: Arc<Rule>) {
        if self.rule(slot).is_some() {
            self.places[slot.index()].rule = Some(rule);
        }
    }

    /// The rule is gone.
    pub fn give_back(&mut self, slot: RuleSlot) {
        if self.rule(slot).is_none() {
            return;
        }
        let place = &mut self.places[slot.index()];
        let turn = ((slot.0 >> INDEX_BITS) as u16 + 1) % TURNS;
        *place = Place { slot: RuleSlot(u32::from(turn) << INDEX_BITS | slot.index() as u32), rule: None };
        self.free.push_back(slot.index() as u32);
    }

    /// The rule in a place, if it still is.
    #[inline]
    pub fn rule(&self, slot: RuleSlot) -> Option<&Arc<Rule>> {
        self.places.get(slot.index()).filter(|place| place.slot == slot)?.rule.as_ref()
    }

    /// The rule in the place of this index, whatever its turn.
    pub fn at(&self, index: usize) -> Option<&Arc<Rule>> {
        self.places.get(index)?.rule.as_ref()
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::{Action, RuleId};

    fn rule(id: u32) -> Arc<Rule> {
        Arc::new(Rule::any(RuleId(id), 0, "rule", Action::Allow))
    }

    #[test]
    fn a_place_is_used_again_under_another_name() {
        let mut slots = Slots::default();
        let [first, second] = [1, 2].map(|id| slots.take(rule(id)).unwrap());
        assert_eq!((first.index(), second.index()), (0, 1));
        slots.give_back(first);
        slots.give_back(first);
        assert!(slots.rule(first).is_none());
        let third = slots.take(rule(3)).unwrap();
        assert_eq!((third.index(), slots.len()), (0, 2));
        assert_ne!(third, first);
        assert_eq!(slots.rule(third).unwrap().id, RuleId(3));
        assert!(slots.rule(first).is_none() && slots.rule(second).is_some());
        assert!(slots.rule(RuleSlot::DEFAULT).is_none());
        assert_eq!(RuleSlot::DEFAULT.index(), RULES_MAX);
    }

    #[test]
    fn turns_come_round() {
        let mut slots = Slots::default();
        let first = slots.take(rule(1)).unwrap();
        let mut slot = first;
        for id in 0..u32::from(TURNS) {
            slots.give_back(slot);
            slot = slots.take(rule(id)).unwrap();
            assert!(slot == first || id + 1 < u32::from(TURNS));
        }
        assert_eq!(slot, first);
    }
}
