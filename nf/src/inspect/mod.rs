//! Inspection: looks for named patterns in payloads, and drops or counts the packets that hold them.
//!
//! What is looked at: the payload behind the TCP, UDP, ICMP or ICMPv6 header of each packet by itself, IPv4 and IPv6, tagged or
//! not, with options and extension headers. What is not: fragments, other protocols and what is no IP; these pass, and are
//! counted. There is no reassembly, so a pattern that two segments share is not seen, nor one that is encrypted, compressed or
//! written in another way.
//!
//! 1. [`Patterns`] are built on the thread that asked, checked against what one look may cost (R15), and shared by workers.
//! 2. [`Inspect`] is the packet function with its counters; a change swaps the patterns in.

mod automaton;
mod function;
mod patterns;

pub use function::{Change, Inspect, InspectCounters, PatternReport};
pub use patterns::{
    Action, PATTERN_BYTES_MAX, PATTERNS_BYTES_MAX, PATTERNS_ENDING_ALIKE_MAX, PATTERNS_MAX, Pattern,
    PatternError, Patterns,
};
