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
//! admit it. *Related* is an ICMP error that quotes a packet of a session which this firewall admitted, sent by the side that
//! the error goes to: it passes and refreshes nothing. Any other ICMP error is dropped as unrelated. Other ICMP messages
//! (timestamps, multicast listeners) are judged one by one. What is for the data plane itself has the zone
//! [`LOCAL`](crate::zone::ZoneId::LOCAL); address resolution and neighbour discovery never come here.
//!
//! **TCP.** States follow RFC 9293 section 3.3.2 as a box in the middle sees them, as Netfilter's conntrack does: SYN sent, SYN
//! received, established, FIN wait, close wait, last ACK, time wait, closed; a simultaneous open is one. A RST closes when its
//! sequence number is exactly the next expected one or inside the window (RFC 5961 section 3.2 leaves the
//! challenge to the end host). Segments outside the window, scaled as negotiated, are dropped and counted; retransmissions and
//! keep-alives are inside it. A SYN in time wait opens a new connection, which rules decide anew. Connections
//! are not picked up in mid-stream.
//!
//! **Idle times** are those of the chain's session table
//! ([`Timeouts`](millrace_dataplane::flow::session::Timeouts)).
//!
//! **Fragments.** The chain gives later fragments the ports of their first one, so they go with its session.
//!
//! **Changed rules (R8).** A change concerns the connections that the [`footprint`] of its matches can cover: their
//! cached decisions fall, and the next packet of each, whichever way it goes, holds the connection against the new rules in
//! the direction of its initiator. Still allowed: the session stays, in its TCP state, and counts for the rule that
//! admits it now. No longer allowed: the packet is refused as the rules say, and the session ends for all functions of the
//! chain. Connections that no changed rule can match are untouched, and so are their cached decisions.
//!
//! **Refusal.** *Deny* drops in silence. *Reject* answers TCP with a RST that the sender accepts (RFC 9293 section 3.10.7.1)
//! and everything else with ICMP type 3 code 13 (RFC 1812 section 5.2.7.1) or ICMPv6 type 1 code 1 (RFC 4443 section
//! 3.1), rate-limited; never an ICMP error for an ICMP error, a later fragment, a multicast or a broadcast
//! (RFC 1122 section 3.2.2). A refused packet commits nothing (R6): no session, no port of a NAT, no binding.
//!
//! **Counters.** Packets and bytes (of frames) of each rule: what it refused, and all packets of the sessions that
//! it admitted, both ways, folded from the sessions before they are shown. The default has counters of its own.
//!
//! **Log.** A rule with `log` tells of each new flow that it decides, within a bound ([`log`]).

pub mod classifier;
pub mod counters;
mod explain;
pub mod footprint;
pub mod function;
pub mod log;
pub mod policy;
pub mod query;
pub mod rule_set;
pub mod rules;
pub mod slots;
mod staged;
mod word;

pub use function::Firewall;
pub use policy::{Change, DEFAULT_RULE, Policy};
