//! The packet function.

use super::patterns::{Action, Found, Pattern, Patterns};
use crate::headers::{Parsed, Transport, protocol};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::limits::BURST_PACKETS_MAX;
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::packet_function::PacketFunction;
use millrace_dataplane::time::Time;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

/// What the function did beside the patterns' counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectCounters {
    /// Packets whose payload was looked at.
    pub inspected: u64,
    /// Bytes of those payloads.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Fragments, which pass as they are.
    pub fragments: u64,
    /// What is neither TCP, UDP nor ICMP, or no IP: it passes as it is.
    pub other: u64,
}

impl InspectCounters {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.inspected += other.inspected;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
        self.fragments += other.fragments;
        self.other += other.other;
    }
}

/// What a pattern counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternReport {
    /// Its name.
    pub name: String,
    /// What becomes of packets that hold it.
    pub action: Action,
    /// Packets that held it.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// Other patterns for a function that goes on, made where that takes no packet's time.
#[derive(Debug)]
pub struct Change {
    patterns: Arc<Patterns>,
    counts: Vec<Count>,
    /// Places before and behind of patterns that have the same name.
    stays: Vec<(usize, usize)>,
}

impl Change {
    /// From the patterns that are looked for to others.
    pub fn between(old: &[Pattern], patterns: Arc<Patterns>) -> Self {
        let before: HashMap<&str, usize> =
            old.iter().zip(0..).map(|(it, at)| (it.name.as_str(), at)).collect();
        let stays = patterns.all().iter().zip(0..);
        let stays = stays.filter_map(|(it, at)| Some((*before.get(it.name.as_str())?, at))).collect();
        Self { counts: vec![Count::default(); patterns.len()], patterns, stays }
    }
}

/// Looks for patterns in payloads.
#[derive(Debug)]
pub struct Inspect {
    patterns: Arc<Patterns>,
    counts: Vec<Count>,
    counters: InspectCounters,
    found: Found,
    parsed: Parsed,
}

/// What is looked at in a frame.
enum Subject<'a> {
    Payload { bytes: &'a [u8], protocol: u8, ports: Option<(u16, u16)> },
    Fragment,
    Other,
}

impl Inspect {
    /// Looks for these from now on.
    pub fn new(patterns: Arc<Patterns>) -> Self {
        Self {
            counts: vec![Count::default(); patterns.len()],
            patterns,
            counters: InspectCounters::default(),
            found: Found::default(),
            parsed: Parsed::default(),
        }
    }

    /// Looks for others from now on. What patterns of the same name counted goes over. What is replaced comes back, to be dropped
    /// where that takes no packet's time.
    pub fn apply(&mut self, mut change: Change) -> Change {
        for &(before, at) in &change.stays {
            if let (Some(count), Some(place)) = (self.counts.get(before), change.counts.get_mut(at)) {
                *place = *count;
            }
        }
        std::mem::swap(&mut self.counts, &mut change.counts);
        std::mem::swap(&mut self.patterns, &mut change.patterns);
        change
    }

    /// What it did.
    pub fn counters(&self) -> InspectCounters {
        self.counters
    }

    /// What each pattern counted, in their order.
    pub fn report(&self) -> impl Iterator<Item = PatternReport> + '_ {
        let patterns = self.patterns.all().iter().zip(&self.counts);
        patterns.map(|(pattern, count)| PatternReport {
            name: pattern.name.clone(),
            action: pattern.action,
            packets: count.packets,
            bytes: count.bytes,
        })
    }

    /// Looks at one frame. True if it is dropped.
    fn inspect(&mut self, frame: &[u8]) -> bool {
        let Self { patterns, counts, counters, found, parsed } = self;
        let (payload, protocol, ports) = match subject(parsed, frame) {
            Subject::Payload { bytes, protocol, ports } => (bytes, protocol, ports),
            Subject::Fragment => {
                counters.fragments += 1;
                return false;
            }
            Subject::Other => {
                counters.other += 1;
                return false;
            }
        };
        counters.inspected += 1;
        counters.bytes += payload.len() as u64;
        let mut drops = false;
        patterns.search(payload, protocol, ports, found, |at, action| {
            drops |= action == Action::Drop;
            if let Some(count) = counts.get_mut(at) {
                count.packets += 1;
                count.bytes += frame.len() as u64;
            }
        });
        counters.dropped += u64::from(drops);
        drops
    }
}

/// What is to be looked at in a frame.
fn subject<'a>(parsed: &mut Parsed, frame: &'a [u8]) -> Subject<'a> {
    if parsed.read(frame).is_err() {
        return Subject::Other;
    }
    if parsed.is_fragment() {
        return Subject::Fragment;
    }
    let (protocol, ports) = match &parsed.transport {
        Transport::Tcp(tcp) => (protocol::TCP, Some((tcp.source_port, tcp.destination_port))),
        Transport::Udp(udp) => (protocol::UDP, Some((udp.source_port, udp.destination_port))),
        Transport::Icmpv4(_) => (protocol::ICMPV4, None),
        Transport::Icmpv6(_) => (protocol::ICMPV6, None),
        Transport::None | Transport::Other(_) => return Subject::Other,
    };
    Subject::Payload { bytes: parsed.payload(frame), protocol, ports }
}

impl PacketFunction for Inspect {
    fn kind(&self) -> &'static str {
        "inspect"
    }

    fn process(&mut self, burst: &mut Burst, _: Time, dropped: &mut Vec<(Packet, DropReason)>) {
        const { assert!(BURST_PACKETS_MAX <= 64) };
        let verdicts = burst.iter().map(|packet| u64::from(self.inspect(packet.bytes())));
        let drops = verdicts.zip(0..).fold(0, |drops, (verdict, at)| drops | verdict << at);
        if drops == 0 {
            return;
        }
        let mut kept = Burst::new();
        for (at, packet) in burst.drain_all().enumerate() {
            if drops >> at & 1 == 1 {
                dropped.push((packet, DropReason::PayloadDenied));
            } else if let Err(packet) = kept.push(packet) {
                // A burst holds what came in one.
                dropped.push((packet, DropReason::TxQueueFull));
            }
        }
        burst.append(&mut kept);
    }

    fn foresee(&self, frame: &[u8], say: &mut dyn FnMut(&'static str, &str)) -> Option<DropReason> {
        match subject(&mut Parsed::default(), frame) {
            Subject::Payload { bytes, protocol, ports } => {
                let mut drops = false;
                self.patterns.search(bytes, protocol, ports, &mut Found::default(), |at, action| {
                    drops |= action == Action::Drop;
                    if let Some(pattern) = self.patterns.all().get(at) {
                        say("pattern", &pattern.name);
                    }
                });
                drops.then_some(DropReason::PayloadDenied)
            }
            Subject::Fragment => {
                say("not_inspected", "fragment");
                None
            }
            Subject::Other => {
                say("not_inspected", "protocol");
                None
            }
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
