//! Why no mapping could be made, counted by reason.

use millrace_dataplane::drops::DropReason;

/// Why the NAT refuses a new mapping or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The pool has no free port for this inside tuple.
    #[error("no external port is free")]
    PortsExhausted,
    /// The subscriber holds as many mappings of this protocol as it may (RFC 6888 REQ-4).
    #[error("the subscriber's limit of mappings is reached")]
    SubscriberLimit,
    /// The table of mappings is full, but for the slots kept for static ones.
    #[error("the mapping table is full")]
    MappingsFull,
    /// The table of subscribers is full.
    #[error("the subscriber table is full")]
    SubscribersFull,
    /// The external tuple still belongs to a mapping that a change of configuration has not ended yet.
    #[error("the external port is still in use by an earlier configuration")]
    ExternalBusy,
    /// The mapping is gone, or counts as many sessions as it can.
    #[error("the mapping takes no further session")]
    MappingUnavailable,
}

/// Number of reasons.
const REFUSALS: usize = Refusal::ALL.len();

impl Refusal {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::PortsExhausted,
        Self::SubscriberLimit,
        Self::MappingsFull,
        Self::SubscribersFull,
        Self::ExternalBusy,
        Self::MappingUnavailable,
    ];

    /// The stable name, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortsExhausted => "ports_exhausted",
            Self::SubscriberLimit => "subscriber_limit",
            Self::MappingsFull => "mappings_full",
            Self::SubscribersFull => "subscribers_full",
            Self::ExternalBusy => "external_busy",
            Self::MappingUnavailable => "mapping_unavailable",
        }
    }

    /// The reason that the packet's drop is counted under.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::PortsExhausted | Self::ExternalBusy => DropReason::NatPortsExhausted,
            Self::SubscriberLimit => DropReason::SessionLimit,
            Self::MappingsFull | Self::SubscribersFull => DropReason::SessionTableFull,
            Self::MappingUnavailable => DropReason::NatFiltered,
        }
    }
}

/// A counter per reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounters([u64; REFUSALS]);

impl RefusalCounters {
    /// Counts one refusal.
    pub fn count(&mut self, refusal: Refusal) {
        self.0[refusal as usize] += 1;
    }

    /// Refusals for one reason.
    pub fn get(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let mut counters = RefusalCounters::default();
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| counters.count(refusal));
        }
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(counters.get(refusal), index as u64 + 1);
        }
        let names: std::collections::HashSet<_> = Refusal::ALL.map(Refusal::name).into();
        assert_eq!(names.len(), REFUSALS);
    }
}
