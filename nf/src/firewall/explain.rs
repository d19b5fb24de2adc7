//! By which rule the firewall decided, for people.

use super::policy::Policy;
use super::rules::Action;
use super::slots::RuleSlot;
use super::staged::{Outcome, Staged};
use super::word::Word;
use crate::explain::Notes;
use crate::walk::Walk;

/// Says which rule a decision followed from.
pub(super) fn say_rule(policy: &Policy, walk: &Walk<'_>, staged: Option<&Staged>, notes: &mut Notes) {
    let Some(staged) = staged else {
        // Nothing was judged: what admitted the session admits the packet.
        let about = if walk.headers.embedded().is_some() { "related_session_of" } else { "session_of" };
        if let Some(rule) = walk.part().or(walk.related_part()).and_then(Word::rule_of) {
            notes.say(about, rule_called(policy, rule));
        }
        return;
    };
    notes.say("rule", rule_called(policy, staged.rule));
    let rule = policy.rule_at(staged.rule);
    let action = rule.map_or(policy.default_action(), |rule| rule.action);
    notes.say(
        "action",
        match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
            Action::Reject => "reject",
        },
    );
    if let Outcome::Refused { cut, answered } = staged.outcome {
        if let Some(session) = cut {
            notes.say("ends_session", &session.0);
        }
        if let Some(sender) = answered {
            notes.say("tells", &sender);
        }
    }
}

fn rule_called(policy: &Policy, slot: RuleSlot) -> &str {
    match policy.rule_at(slot) {
        Some(rule) => &rule.name,
        None if slot == RuleSlot::DEFAULT => "default",
        None => "(removed)",
    }
}
