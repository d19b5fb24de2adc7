//! Why a packet was dropped. Every drop has a reason, and every reason a counter (R13).

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// The reason of a drop. `name` is what counters, traces and captures print; names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];

            /// The stable name, in snake case.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)+ }
            }

            /// What it means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame is shorter than the headers it announces.
    Truncated = "truncated",
    /// A header's length field contradicts the frame or another field.
    BadLength = "bad_length",
    /// The IP version field contradicts the EtherType, or a header has an impossible value.
    BadHeader = "bad_header",
    /// The IPv4 header checksum is wrong (RFC 1812 section 5.2.2).
    BadIpv4Checksum = "bad_ipv4_checksum",
    /// The TCP, UDP or ICMP checksum is wrong.
    BadL4Checksum = "bad_l4_checksum",
    /// A source or destination address that may not appear on the wire (RFC 1812 section 5.3.7).
    MartianAddress = "martian_address",
    /// An IPv4 option has it go a way that its sender chose (RFC 7126 sections 4.3 and 4.4).
    SourceRoute = "source_route",
    /// The frame is addressed to another station.
    NotForUs = "not_for_us",
    /// The chain has no use for this kind of packet.
    UnsupportedProtocol = "unsupported_protocol",
    /// TTL or hop limit ran out.
    TtlExceeded = "ttl_exceeded",
    /// Longer than the output's MTU.
    MtuExceeded = "mtu_exceeded",
    /// Longer than the output's MTU. IPv4 allows to fragment it, which is not done yet; its sender is not told.
    NotFragmented = "not_fragmented",
    /// No route to the destination.
    NoRoute = "no_route",
    /// The next hop did not answer ARP or neighbour discovery.
    NeighbourUnreachable = "neighbour_unreachable",
    /// Too many packets wait for this neighbour, or for neighbours in all.
    HoldFull = "hold_full",
    /// A firewall rule, or the default, denies it.
    FirewallDenied = "firewall_denied",
    /// The connection that the packet claims to belong to has that end in another zone.
    WrongZone = "wrong_zone",
    /// The packet does not belong to the state of its TCP connection.
    TcpInvalid = "tcp_invalid",
    /// An ICMP error whose embedded packet belongs to no session.
    IcmpUnrelated = "icmp_unrelated",
    /// No external port is left for this mapping.
    NatPortsExhausted = "nat_ports_exhausted",
    /// No mapping for this packet, or its filter refuses the sender.
    NatFiltered = "nat_filtered",
    /// A function cannot translate this packet.
    NatUntranslatable = "nat_untranslatable",
    /// The session table is full and nothing in it may be evicted.
    SessionTableFull = "session_table_full",
    /// A limit of sessions for this source or rule is reached.
    SessionLimit = "session_limit",
    /// The fragment can't be given to a flow: its first fragment is unknown, or the table is full.
    FragmentUnmatched = "fragment_unmatched",
    /// A fragment that overlaps or is too small (RFC 1858, 3128, 5722).
    FragmentInvalid = "fragment_invalid",
    /// The misses of this burst used up their budget (R12).
    MissBudget = "miss_budget",
    /// The answer to this packet (an ICMP error, a reset) exceeds its rate.
    RateLimited = "rate_limited",
    /// Its payload holds a pattern that an inspecting function drops.
    PayloadDenied = "payload_denied",
    /// A meter or policer dropped it.
    Metered = "metered",
    /// The kernel left work on the frame (a checksum, cutting it into packets) that the port can't finish.
    OffloadUnfinished = "offload_unfinished",
    /// A `fault` table of the configuration says to lose packets.
    FaultInjected = "fault_injected",
    /// The pool has no free frame.
    PoolExhausted = "pool_exhausted",
    /// A ring between workers or to the control plane is full.
    RingFull = "ring_full",
    /// The host stack does not take packets for the data plane's own addresses as fast as they come, or not at all.
    PuntRingFull = "punt_ring_full",
    /// The output's transmit queue is full.
    TxQueueFull = "tx_queue_full",
    /// The output can't send this frame: it is too long, or the device refuses it.
    TxFailed = "tx_failed",
    /// The output's link is down, or its interface is gone.
    LinkDown = "link_down",
    /// No room in front of the packet for what the program pushes.
    NoHeadroom = "no_headroom",
    /// The chain ended without an output.
    NoOutput = "no_output",
    /// Too many passes through logical ports, or a loop.
    LoopLimit = "loop_limit",
    /// The run ended while the packet was held.
    Shutdown = "shutdown",
    /// A route or rule says to discard it silently.
    Blackhole = "blackhole",
}

/// Number of reasons.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// A counter per reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters([u64; DROP_REASONS]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DROP_REASONS])
    }
}

impl DropCounters {
    /// Counts one drop.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `packets` drops.
    #[inline]
    pub fn count_many(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// Drops for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Drops for all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, count)| count > 0)
    }

    /// Adds another set of counters to this one.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_totals_add_up() {
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DROP_REASONS);
        let mut counters = DropCounters::default();
        counters.count(DropReason::NoRoute);
        counters.count_many(DropReason::TtlExceeded, 4);
        assert_eq!(counters.total(), 5);
        assert_eq!(counters.iter().count(), 2);
    }
}
