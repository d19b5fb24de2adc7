//! Neighbours: which link-layer address an IP address has on an interface, and whether it still answers.
//!
//! One state machine for both families, as RFC 4861 section 7.3 has it: ARP (RFC 826) gains reachability detection by
//! sending its probes as unicast requests (RFC 1122 section 2.3.2.1). It is pure: events and times go in, the state
//! changes, and [`Action`]s come out for the router to carry out. Looking ([`NeighbourTable::lookup`]) is apart from
//! changing ([`NeighbourTable::apply`], [`NeighbourTable::tick`]), so that a walk that is never committed leaves no
//! trace (R6).
//!
//! ```text
//!            resolve              advertisement, solicited         reachable time over
//!   (none) ----------> INCOMPLETE ----------------------> REACHABLE -------------------> STALE
//!     ^                    | no answer                        ^                            | used
//!     | time over          v                                  | answer, or confirmed       v
//!     +----------------- FAILED                             PROBE <--------------------- DELAY
//!     +------------------------------------------------------- no answer      5 s over
//! ```
//!
//! **Use.** Hits of the flow cache don't come here. While an entry is REACHABLE or STALE, the timer asks the data plane
//! when it was last used; so traffic that only hits the cache is noticed up to [`NeighbourTimers::stale_poll`] late.
//!
//! **Bounds.** Entries have a maximum. A new one may displace one that nobody needs; permanent ones, those
//! being resolved or probed, and reachable ones in use are spared. Entries made from what others send displace only
//! those that were never used. Unanswered resolutions have a maximum for each interface, against scans (RFC 6583); it is
//! parted fairly among those for whom they are (`unanswered`). A look-up walks a chain of at most
//! [`CHAIN_MAX`] entries, chosen by a keyed hash (R16).
//!
//! **Deviations from RFC 4861.** The reachable time is drawn anew for each confirmation instead of every few hours for an
//! interface (section 6.3.2): entries made together don't expire together. A failed resolution is remembered for
//! [`NeighbourTimers::failed`], so that packets for a silent address don't each start another; any sign of life ends
//! that. The router keeps no list of default routers, so a cleared router flag is noted and has no further effect.

mod machine;
mod store;
#[cfg(test)]
mod tests;
mod unanswered;

pub use machine::NeighbourTable;
pub use store::CHAIN_MAX;

use super::interface::InterfaceId;
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::slow_path::HoldToken;
use millrace_dataplane::time::Time;
use std::net::IpAddr;
use std::time::Duration;

/// A neighbour's entry: stable while the entry lives, and not given out again for 4,095 lives of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighbourId(pub u32);

/// A neighbour's state (RFC 4861 section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Its link-layer address is being asked for.
    Incomplete,
    /// Known to have answered within the reachable time.
    Reachable,
    /// The address is known, but not whether it still answers; nobody asks until it is used.
    Stale,
    /// Used while stale: a confirmation from above is given some time to come.
    Delay,
    /// Being asked, at its known address, whether it still answers.
    Probe,
    /// Configured: never asked for, never changed by what others say.
    Permanent,
    /// Did not answer a resolution a moment ago.
    Failed,
}

impl NeighbourState {
    /// The name, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Permanent => "permanent",
            Self::Failed => "failed",
        }
    }

    /// Whether packets are sent to the entry's link-layer address.
    pub const fn is_usable(self) -> bool {
        !matches!(self, Self::Incomplete | Self::Failed)
    }
}

/// What a packet for a neighbour needs beyond the look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: send it to [`NeighbourView::mac`].
    Nothing,
    /// Send it there, and commit [`Event::Used`].
    Used,
    /// Hold it under [`NeighbourView::token`], and commit [`Event::Resolve`].
    Resolve,
    /// Drop it: the neighbour did not answer a moment ago.
    Unreachable,
    /// Drop it: too many resolutions are unanswered on the interface.
    Refused,
}

/// For whom a neighbour is asked for: those who ask for many share places with themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// The interface that the packet came in by.
    pub ingress: InterfaceId,
    /// Its source as it came.
    pub source: Option<IpAddr>,
}

/// What the table knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourView {
    /// Its entry, if there is one.
    pub id: Option<NeighbourId>,
    /// The entry's state.
    pub state: Option<NeighbourState>,
    /// Its link-layer address, when packets are to be sent there.
    pub mac: Option<MacAddress>,
    /// What packets for it wait for: the same for all looks at this interface and address.
    pub token: HoldToken,
    /// What to do with a packet for it.
    pub needs: Needs,
}

/// What happened to a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet needs the neighbour's address and is held.
    Resolve {
        /// The outgoing interface.
        interface: InterfaceId,
        /// The next hop.
        address: IpAddr,
        /// For whom.
        asker: Asker,
    },
    /// A packet was sent to the neighbour.
    Used {
        /// Its entry.
        id: NeighbourId,
    },
    /// An ARP reply to an address of ours. It answers what was asked; unasked, it is a gratuitous one (RFC 4861 section 7.2.5: what is
    /// not solicited makes no entry, and none reachable).
    Answer {
        /// Where it came in.
        interface: InterfaceId,
        /// The sender's address.
        address: IpAddr,
        /// The sender's link-layer address.
        mac: MacAddress,
    },
    /// A neighbour advertisement (RFC 4861 section 7.2.5) or an ARP packet with this meaning ([`Event::from_arp`]). It
    /// never makes an entry.
    Advertisement {
        /// Where it came in.
        interface: InterfaceId,
        /// The target address.
        address: IpAddr,
        /// The target link-layer address, if given.
        mac: Option<MacAddress>,
        /// The S flag: it answers a solicitation of ours.
        solicited: bool,
        /// The O flag: it overrides a different cached address.
        overrides: bool,
        /// The R flag: the sender is a router.
        router: bool,
    },
    /// Another message that tells the sender's link-layer address: a neighbour solicitation (RFC 4861 section 7.2.3), a
    /// router solicitation or advertisement, a redirect, or an ARP request for one of our addresses. Makes an entry.
    Solicitation {
        /// Where it came in.
        interface: InterfaceId,
        /// The sender's address.
        address: IpAddr,
        /// The sender's link-layer address.
        mac: MacAddress,
    },
    /// A protocol above knows that packets to the neighbour arrive (RFC 4861 section 7.3.1).
    Confirmed {
        /// Its entry.
        id: NeighbourId,
    },
}

impl Event {
    /// What an ARP packet from a plausible sender means (RFC 826, "Packet Reception"). `to_us`: its target is an address
    /// that we answer for. A reply to us answers our request, if there was one. A request to us tells its sender's address, which we will
    /// need for the answer's connection. All else (gratuitous ARP, requests among others) only updates what we have.
    pub const fn from_arp(
        interface: InterfaceId,
        sender: IpAddr,
        mac: MacAddress,
        reply: bool,
        to_us: bool,
    ) -> Self {
        match (to_us, reply) {
            (true, false) => return Self::Solicitation { interface, address: sender, mac },
            (true, true) => return Self::Answer { interface, address: sender, mac },
            (false, _) => {}
        }
        Self::Advertisement {
            interface,
            address: sender,
            mac: Some(mac),
            solicited: false,
            overrides: true,
            router: false,
        }
    }
}

/// What the router is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a neighbour solicitation or an ARP request: to the solicited-node group or as a broadcast if `to` is `None`,
    /// else to that station as a probe.
    Solicit {
        /// The entry.
        id: NeighbourId,
        /// Where to send it.
        interface: InterfaceId,
        /// The target.
        address: IpAddr,
        /// The station to probe.
        to: Option<MacAddress>,
    },
    /// The address is known: packets held under the token walk again.
    Wake(HoldToken),
    /// Resolution failed: packets held under the token are dropped, with ICMP "host unreachable" or "address unreachable"
    /// to their sources (RFC 4861 section 7.2.2).
    Fail(HoldToken),
    /// The entry's link-layer address changed or the entry is gone: decisions that used it are void (R8).
    Invalidate(NeighbourId),
}

/// Timers (RFC 4861 section 10, used for ARP as well).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourTimers {
    /// REACHABLE_TIME: a confirmation holds for 0.5 to 1.5 times this.
    pub reachable: Duration,
    /// DELAY_FIRST_PROBE_TIME.
    pub delay: Duration,
    /// RETRANS_TIMER: between solicitations.
    pub retransmit: Duration,
    /// MAX_MULTICAST_SOLICIT.
    pub multicast_solicits_max: u8,
    /// MAX_UNICAST_SOLICIT.
    pub unicast_solicits_max: u8,
    /// How long a failed resolution is remembered.
    pub failed: Duration,
    /// How often the data plane is asked whether a stale neighbour was used.
    pub stale_poll: Duration,
    /// When a stale neighbour that nobody uses is forgotten.
    pub stale: Duration,
}

impl Default for NeighbourTimers {
    fn default() -> Self {
        Self {
            reachable: Duration::from_secs(30),
            delay: Duration::from_secs(5),
            retransmit: Duration::from_secs(1),
            multicast_solicits_max: 3,
            unicast_solicits_max: 3,
            failed: Duration::from_secs(2),
            stale_poll: Duration::from_secs(5),
            stale: Duration::from_secs(600),
        }
    }
}

/// Bounds of a neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourLimits {
    /// Most entries; at most 1,048,576.
    pub entries_max: usize,
    /// Most unanswered resolutions on one interface.
    pub incomplete_per_interface_max: usize,
}

impl Default for NeighbourLimits {
    fn default() -> Self {
        Self { entries_max: 16_384, incomplete_per_interface_max: 256 }
    }
}

/// An entry, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The entry.
    pub id: NeighbourId,
    /// Its interface.
    pub interface: InterfaceId,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, unless none was ever known.
    pub mac: Option<MacAddress>,
    /// Its state.
    pub state: NeighbourState,
    /// When it entered that state, or was confirmed again.
    pub since: Time,
    /// Whether its last advertisement said that it is a router.
    pub is_router: bool,
    /// When it was last used, as far as known.
    pub last_used: Option<Time>,
}

/// What became of the table's events, as counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighbourCounters {
    /// Resolutions started.
    pub resolutions: u64,
    /// Resolutions that nobody answered.
    pub failures: u64,
    /// Resolutions refused, or displaced by newer ones, for the limit of their interface.
    pub limited: u64,
    /// Entries displaced by newer ones.
    pub evictions: u64,
    /// Entries not made because all others were needed.
    pub refusals: u64,
    /// Neighbours that stopped answering.
    pub lost: u64,
}
