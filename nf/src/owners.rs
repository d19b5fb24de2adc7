//! The workers that own connections, where several work (R14).

use crate::nat::PortShare;
use millrace_dataplane::flow::hash::KeyedHash;
use millrace_dataplane::handoff::WorkerId;
use std::net::Ipv4Addr;

/// The workers that own connections: so many from the first one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The first of them. It also has what belongs to no connection.
    pub first: WorkerId,
    /// How many; at least one.
    pub count: u8,
}

impl Owners {
    /// One of them, by a hash.
    #[inline]
    pub(crate) fn by_hash(self, hash: u64) -> WorkerId {
        WorkerId(self.first.0 + ((u128::from(hash) * u128::from(self.count)) >> 64) as u8)
    }

    /// The owner of an external port.
    #[inline]
    pub(crate) fn by_port(self, port: u16) -> WorkerId {
        WorkerId(self.first.0 + PortShare::owner(port, self.count))
    }

    /// The owner of an inside host.
    #[inline]
    pub(crate) fn by_host(self, hash: &KeyedHash, address: Ipv4Addr) -> WorkerId {
        self.by_hash(hash.hash(&[u64::from(address.to_bits()), u64::MAX]))
    }

    /// The share of external ports of a worker; none if it owns no connections.
    pub fn share(self, worker: WorkerId) -> Option<PortShare> {
        let at = worker.0.checked_sub(self.first.0).filter(|at| *at < self.count)?;
        Some(PortShare::new(at, self.count))
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = WorkerId> {
        (0..self.count).map(move |at| WorkerId(self.first.0 + at))
    }
}
