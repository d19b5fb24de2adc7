//! Hairpins between workers: inside hosts that reach each other by external addresses, where each has another owner
//! (RFC 4787 section 6 REQ-9).
//!
//! The caller's owner walks forwards and translates the caller's source, as ever. It has no mapping for whom the packet is, and knows by
//! the external port, or by the static translation, who has. There the packet goes as it is then, by a port of its own; it is walked backwards
//! as the second half of any hairpin is: from the inside, to the inside.

use super::plan::ExternalEnd;
use crate::owners::Owners;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::handoff::WorkerId;
use millrace_dataplane::port::PortId;

/// Who else translates, and the way there.
#[derive(Clone, Debug)]
pub struct Hairpins {
    /// The workers that own connections.
    pub owners: Owners,
    /// The hash by which packets are placed.
    pub hash: KeyedHash,
    /// This worker.
    pub worker: WorkerId,
    /// The port that leads to the others and back.
    pub port: PortId,
}

/// The hash is one for an instance.
impl PartialEq for Hairpins {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.owners, it.worker, it.port);
        of(self) == of(other)
    }
}

impl Hairpins {
    /// Is what an external end stands for another worker's?
    pub(super) fn is_elsewhere(&self, end: ExternalEnd) -> bool {
        let owner = match end {
            ExternalEnd::Host(inside) => self.owners.by_host(&self.hash, inside),
            ExternalEnd::Port(port) => self.owners.by_port(port),
        };
        owner != self.worker
    }
}
