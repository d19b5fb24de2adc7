//! What the firewall proposes while it looks (R6).

use super::log::LoggedFlow;
use super::slots::RuleSlot;
use super::word::Word;
use millrace_dataplane::flow::session::SessionId;
use std::net::IpAddr;

/// What one walk proposes: which rule decided, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The rule's place; [`RuleSlot::DEFAULT`] where none matched.
    pub(super) rule: RuleSlot,
    /// Bytes of the frame.
    pub(super) bytes: u64,
    pub(super) outcome: Outcome,
    /// What to log of it.
    pub(super) flow: Option<LoggedFlow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The session's word from now on.
    Admitted(Word),
    /// The translated view of a hairpin is admitted too; the session counts for the rule of the other.
    TurnAdmitted,
    Refused {
        /// The rules admitted this session before; it ends.
        cut: Option<SessionId>,
        /// Who was told.
        answered: Option<IpAddr>,
    },
}

impl Staged {
    /// True if the packet was let pass.
    pub fn is_admitted(&self) -> bool {
        matches!(self.outcome, Outcome::Admitted(_) | Outcome::TurnAdmitted)
    }
}
