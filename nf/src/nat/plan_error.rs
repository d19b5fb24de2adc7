//! What can be wrong with the configuration of a NAT.

use super::share::BLOCK_PORTS;
use std::net::Ipv4Addr;

/// Most addresses of a pool. With every address in use by all protocols the port states take 192 MiB.
pub const POOL_ADDRESSES_MAX: u64 = 4_096;

/// What is wrong with a configuration. `index` counts the entries of the list in question from zero.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A pool range that is empty or contains an address that no host can have.
    #[error("pool entry {index}: not a range of unicast addresses")]
    PoolRange {
        /// The entry.
        index: usize,
    },
    /// Two pool ranges share an address.
    #[error("pool entries {index} and {other} overlap")]
    PoolOverlap {
        /// The later entry.
        index: usize,
        /// The earlier entry.
        other: usize,
    },
    /// Too many addresses.
    #[error("the pool has {addresses} addresses, the limit is {POOL_ADDRESSES_MAX}")]
    PoolTooLarge {
        /// What was found.
        addresses: u64,
    },
    /// No port can be used.
    #[error("ports {first} to {last}: the first must be at least 1 and at most the last")]
    Ports {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// The ports are too few for all workers.
    #[error(
        "ports {first} to {last}: too few to share among the workers, each of which needs a block of {BLOCK_PORTS}"
    )]
    Share {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// A reservation whose last port is below its first, or for the address 0.0.0.0.
    #[error("reserved entry {index}: empty port range or unusable address")]
    ReservedRange {
        /// The entry.
        index: usize,
    },
    /// A list of rules is too long.
    #[error("more than {limit} entries")]
    TooManyRules {
        /// Most entries.
        limit: usize,
    },
    /// A forward of ICMP.
    #[error("forward {index}: only tcp and udp have ports to forward")]
    ForwardProtocol {
        /// The entry.
        index: usize,
    },
    /// A forward of no port, of port 0, or past port 65535.
    #[error("forward {index}: its ports must lie between 1 and 65535 on both sides")]
    ForwardPorts {
        /// The entry.
        index: usize,
    },
    /// Two forwards of one external port.
    #[error("forwards {index} and {other} share an external port")]
    ForwardsOverlap {
        /// The later entry.
        index: usize,
        /// The earlier entry.
        other: usize,
    },
    /// A forward on an external address that is translated 1:1.
    #[error("forward {index}: its external address is translated 1:1")]
    ForwardOnOneToOne {
        /// The entry.
        index: usize,
    },
    /// A 1:1 translation of no address or past the last one.
    #[error("one-to-one entry {index}: no such range of addresses")]
    OneToOneRange {
        /// The entry.
        index: usize,
    },
    /// Two 1:1 translations share an external or an inside address.
    #[error("one-to-one entries {index} and {other} overlap")]
    OneToOneOverlap {
        /// The later entry.
        index: usize,
        /// The earlier entry.
        other: usize,
    },
    /// An address is translated 1:1 and in the pool.
    #[error("one-to-one entry for {external}: its external addresses are in the pool")]
    OneToOneInPool {
        /// First external address of the translation.
        external: Ipv4Addr,
    },
}
