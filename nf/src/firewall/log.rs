//! The log of rules that ask for it: a record of each new flow that such a rule decided, through a bounded ring to the
//! control plane.
//!
//! A flow is recorded when its decision comes true: what a later function drops is not. Of each rule at most
//! [`RECORDS_PER_SECOND_MAX`] flows are recorded in any second of its own, so that a flood of one rule's flows doesn't hide
//! another's; the rest is counted, and so is what the ring has no room for. The count goes with the rule's next record, or in one
//! without a flow when the second is over. Nothing here waits, allocates or calls the system.

use super::policy::Policy;
use super::query::{Addresses, Transport};
use super::rules::Rule;
use super::slots::RuleSlot;
use millrace_dataplane::port::PortId;
use millrace_dataplane::ring::spsc::{Consumer, Producer, ring};
use millrace_dataplane::time::Time;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Most flows of one rule that are recorded in a second.
pub const RECORDS_PER_SECOND_MAX: u32 = 10;
/// Records that wait for the control plane at most.
pub const RING_RECORDS: usize = 1024;

const SECOND: Duration = Duration::from_secs(1);
/// Most counts that one tick delivers.
const COUNTS_PER_TICK_MAX: usize = 64;

/// A new flow as the firewall saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedFlow {
    /// When its packet came.
    pub at: Time,
    /// Source and destination.
    pub addresses: Addresses,
    /// IP protocol.
    pub protocol: u8,
    /// Ports, or ICMP type and code.
    pub transport: Transport,
    /// The port that it came from.
    pub from: PortId,
    /// The port that it left by; none if it was refused or was for the data plane itself.
    pub to: Option<PortId>,
}

/// What a logging rule did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The rule, as it was then: its name and its verdict.
    pub rule: Arc<Rule>,
    /// The flow; none if the record only tells of those that were left out.
    pub flow: Option<LoggedFlow>,
    /// The rule's flows before this one that have no record.
    pub left_out: u64,
}

/// Makes the ring between a firewall and who prints its records.
pub fn log_ring() -> (Producer<LogRecord>, Consumer<LogRecord>) {
    ring(RING_RECORDS)
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Start of the rule's current second.
    since: Time,
    recorded: u32,
    left_out: u64,
    /// Its place waits in [`RuleLog::waiting`].
    waits: bool,
}

/// One firewall's end of the ring.
#[derive(Debug, Default)]
pub(super) struct RuleLog {
    ring: Option<Producer<LogRecord>>,
    /// By the rules' places.
    states: Vec<State>,
    /// Places of rules with flows left out that nobody was told of, the longest waiting first.
    waiting: VecDeque<usize>,
    recorded: u64,
    left_out: u64,
}

impl RuleLog {
    /// Records go here from now on.
    pub(super) fn connect(&mut self, ring: Producer<LogRecord>) {
        self.ring = Some(ring);
    }

    /// Makes room for the rules of `policy`.
    pub(super) fn fit(&mut self, policy: &Policy) {
        let places = self.states.len().max(policy.places());
        self.states.resize(places, State::default());
        // Each place waits once.
        self.waiting.reserve(places - self.waiting.len());
    }

    /// The rule of this place is gone.
    pub(super) fn retire(&mut self, slot: RuleSlot) {
        if let Some(state) = self.states.get_mut(slot.index()) {
            *state = State { waits: state.waits, ..State::default() };
        }
    }

    /// Flows recorded, and flows that asked for it in vain.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.recorded, self.left_out)
    }

    /// A logging rule decided about a flow.
    pub(super) fn note(&mut self, policy: &Policy, slot: RuleSlot, flow: LoggedFlow) {
        let Self { ring: Some(ring), states, waiting, recorded, left_out } = self else { return };
        let (Some(state), Some(rule)) = (states.get_mut(slot.index()), policy.rule_at(slot)) else { return };
        if flow.at.since(state.since) >= SECOND {
            (state.since, state.recorded) = (flow.at, 0);
        }
        if state.recorded < RECORDS_PER_SECOND_MAX {
            let record = LogRecord { rule: Arc::clone(rule), flow: Some(flow), left_out: state.left_out };
            if ring.push(record).is_ok() {
                state.recorded += 1;
                state.left_out = 0;
                *recorded += 1;
                return;
            }
        }
        if !std::mem::replace(&mut state.waits, true) {
            waiting.push_back(slot.index());
        }
        state.left_out += 1;
        *left_out += 1;
    }

    /// Tells of flows left out whose second is over.
    pub(super) fn tick(&mut self, policy: &Policy, now: Time) {
        let Self { ring: Some(ring), states, waiting, .. } = self else { return };
        for _ in 0..COUNTS_PER_TICK_MAX {
            let Some(state) = waiting.front().and_then(|index| states.get_mut(*index)) else { return };
            let rule =
                waiting.front().and_then(|index| policy.rule_in(*index)).filter(|_| state.left_out > 0);
            if let Some(rule) = rule {
                if now.since(state.since) < SECOND {
                    return;
                }
                let record = LogRecord { rule: Arc::clone(rule), flow: None, left_out: state.left_out };
                if ring.push(record).is_err() {
                    return;
                }
            }
            (state.left_out, state.waits) = (0, false);
            waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rule_set::RuleSet;
    use crate::firewall::rules::{Action, RuleId};
    use std::net::Ipv4Addr;

    fn policy() -> Policy {
        let rule = |id: u32| Rule {
            log: true,
            ..Rule::any(RuleId(id), u64::from(id), format!("rule {id}"), Action::Deny)
        };
        Policy::new(&RuleSet::new(vec![rule(0), rule(1)]).unwrap(), Action::Deny).unwrap()
    }

    fn flow(at: Time) -> LoggedFlow {
        let addresses = Addresses::V4 { source: Ipv4Addr::LOCALHOST, destination: Ipv4Addr::BROADCAST };
        let transport = Transport::Ports { source: 1, destination: 2 };
        LoggedFlow { at, addresses, protocol: 17, transport, from: PortId(0), to: None }
    }

    fn log(policy: &Policy, ring: Producer<LogRecord>) -> RuleLog {
        let mut log = RuleLog::default();
        log.fit(policy);
        log.connect(ring);
        log
    }

    #[test]
    fn a_rule_has_a_share_of_each_second_and_the_rest_is_counted() {
        let policy = policy();
        let slots = [0, 1].map(|id| policy.slot(RuleId(id)).unwrap());
        let (producer, mut consumer) = log_ring();
        let mut log = log(&policy, producer);
        let start = Time::from_secs(10);
        for n in 0..100 {
            log.note(&policy, slots[0], flow(start + Duration::from_millis(n)));
        }
        log.note(&policy, slots[1], flow(start));
        let mut names = Vec::new();
        while let Some(record) = consumer.pop() {
            assert_eq!(record.left_out, 0);
            names.push(record.rule.name.clone());
        }
        assert_eq!(names.iter().filter(|name| *name == "rule 0").count(), RECORDS_PER_SECOND_MAX as usize);
        assert_eq!(names.last().map(String::as_str), Some("rule 1"), "rules don't hide each other");
        assert_eq!(log.totals(), (11, 90));
        log.tick(&policy, start + Duration::from_millis(999));
        assert!(consumer.pop().is_none(), "the second is not over");
        log.tick(&policy, start + SECOND);
        let record = consumer.pop().unwrap();
        assert_eq!((record.flow, record.left_out, record.rule.name.as_str()), (None, 90, "rule 0"));
        log.tick(&policy, start + SECOND * 2);
        assert!(consumer.pop().is_none(), "told once");
        // Of the next second's flows the first tells what the last one left out.
        for n in 0..12 {
            log.note(&policy, slots[0], flow(start + SECOND * 3 + Duration::from_millis(n)));
        }
        log.note(&policy, slots[0], flow(start + SECOND * 4));
        let left: Vec<u64> = std::iter::from_fn(|| consumer.pop()).map(|record| record.left_out).collect();
        assert_eq!((left.len(), left.last()), (11, Some(&2)));
        log.tick(&policy, start + SECOND * 9);
        assert!(consumer.pop().is_none());
    }

    #[test]
    fn a_full_ring_counts_and_never_waits() {
        let policy = policy();
        let slot = policy.slot(RuleId(0)).unwrap();
        let (producer, mut consumer) = ring(2);
        let mut log = log(&policy, producer);
        for second in 1..=5 {
            log.note(&policy, slot, flow(Time::from_secs(second)));
        }
        log.tick(&policy, Time::from_secs(8));
        assert_eq!((consumer.len(), log.totals()), (2, (2, 3)));
        consumer.pop();
        log.tick(&policy, Time::from_secs(8));
        assert_eq!((consumer.pop().unwrap().left_out, consumer.pop().unwrap().left_out), (0, 3));
        // A rule that is gone is told of no more.
        let mut later = policy.clone();
        (0..30).for_each(|_| log.note(&policy, slot, flow(Time::from_secs(9))));
        later.remove(RuleId(0));
        log.retire(slot);
        while consumer.pop().is_some() {}
        log.tick(&later, Time::from_secs(20));
        assert!(consumer.pop().is_none() && log.waiting.is_empty());
    }
}
