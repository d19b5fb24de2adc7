//! The firewall: ordered rules decide about connections, and the state of a connection about its packets.
//!
//! **What is decided when.** Rules are consulted for the packet that would open a connection, in the direction in
//! which it opens it, with the zones it came from and goes to ([`rules`]). The first match in order wins, found by the
//! [`classifier`] at a bounded cost (R15). No match is a deny. Later packets, both ways, are admitted by the session
//! and not by rules: they are replayed from the flow cache at the same cost whatever the number of rules.
//!
//! **New, established, related.** A connection is *new* until a packet of the other direction was admitted, then
//! *established*. Opening packets are a TCP segment with SYN and without ACK, FIN and RST; any UDP datagram; an ICMP or
//! ICMPv6 echo request; the first packet of any other protocol between two addresses. A packet that opens
//! nothing and belongs to no session (a stray TCP segment, an echo reply) is dropped as out of state: rules can't
//! admit it. *Related* is an ICMP error whose embedded packet belongs to a session, seen as sent by the side that the
//! error goes to: it is admitted with that session, refreshes nothing, and is dropped where the embedded packet's
//! addresses, protocol and ports do not fit or its TCP sequence number is outside the window (RFC 5927 section 4.1).
//! Neighbour discovery, router discovery and packet-too-big for the data plane itself are judged as traffic with the
//! zone [`LOCAL`](crate::zone::ZoneId::LOCAL).
//!
//! **TCP.** States follow RFC 9293 section 3.3.2 as a box in the middle sees them, as Netfilter's conntrack does: SYN sent, SYN
//! received, established, FIN wait, close wait, last ACK, time wait, closed; a simultaneous open is one. A RST closes when its
//! sequence number is exactly the next expected one or inside the window (RFC 5961 section 3.2 leaves the
//! challenge to the end host). Segments outside the window, scaled as negotiated, are dropped and counted; retransmissions and
//! keep-alives are inside it. A SYN in time wait opens a new connection, which rules decide anew. Connections
//! are not picked up in mid-stream.
//!
//! **Idle times.** TCP established 2 h 4 min, opening and closing 4 min (RFC 5382 REQ-5); UDP 2 min at least, 5 min once
//! answered (RFC 4787 REQ-5); ICMP queries 60 s (RFC 5508 REQ-2); other protocols 10 min. Other functions of the chain
//! may ask for longer; the longest counts.
//!
//! **Fragments.** Later fragments have no ports ([`query::Transport::Other`]): they reach the firewall with the flow of
//! their first fragment or match only rules that name no ports. Overlaps and first fragments too short for the
//! transport header are dropped (RFC 1858, RFC 3128, RFC 5722).
//!
//! **Changed rules (R8).** A change concerns the sessions that the [`footprint`] of its matches can cover. Those, and only
//! those, are held against the new rules with the packet that opened them. Still allowed: the session stays, in its
//! TCP state, and counts for the rule that admits it now. No longer allowed: the session is cut, its cached
//! decisions fall, and its next packet is judged like any other; reject answers it. Sessions that no changed
//! rule can match are untouched, and so are their cached decisions.
//!
//! **Refusal.** *Deny* drops in silence. *Reject* answers TCP with a RST that the sender accepts (RFC 9293 section 3.10.7.1)
//! and everything else with ICMP type 3 code 13 (RFC 1812 section 5.2.7.1) or ICMPv6 type 1 code 1 (RFC 4443 section
//! 3.1), rate-limited; never an ICMP error for an ICMP error, a later fragment, a multicast or a broadcast
//! (RFC 1122 section 3.2.2). A refused packet commits nothing (R6): no session, no port of a NAT, no binding.
//!
//! **Counters.** Packets and bytes (IP length) of each rule: what it refused, and all packets of the sessions that
//! it admitted, both ways, folded from the sessions before they are shown. The default has counters of its own.

pub mod classifier;
pub mod counters;
pub mod footprint;
pub mod function;
pub mod policy;
pub mod query;
pub mod rule_set;
pub mod rules;
mod word;

pub use function::Firewall;
pub use policy::{Change, DEFAULT_RULE, Policy};
