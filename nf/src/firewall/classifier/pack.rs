//! Rules and queries as a few machine words, so that one comparison of masked words decides.
//!
//! Addresses are left-aligned in 128 bits: 10.0.0.0/8 has 10 in its top byte, as 0a00::/8 has; the version bits
//! of the word tell them apart. Everything else is one 64-bit word:
//!
//! | bits  | field            | | bits  | field                               |
//! |-------|------------------|-|-------|-------------------------------------|
//! | 0-7   | from zone        | | 24-25 | IP version (1: IPv4, 2: IPv6)       |
//! | 8-15  | to zone          | | 26-27 | what the port fields are (`KIND_*`) |
//! | 16-23 | IP protocol      | | 28-43 | destination port, or type and code  |
//! |       |                  | | 44-59 | source port                         |

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::super::query::{Addresses, Query, Transport};
use super::super::rules::{Family, RuleMatch, TransportMatch};

pub(super) const FROM_ZONE_SHIFT: u32 = 0;
pub(super) const TO_ZONE_SHIFT: u32 = 8;
pub(super) const PROTOCOL_SHIFT: u32 = 16;
pub(super) const VERSION_SHIFT: u32 = 24;
pub(super) const KIND_SHIFT: u32 = 26;
pub(super) const DESTINATION_PORT_SHIFT: u32 = 28;
pub(super) const SOURCE_PORT_SHIFT: u32 = 44;

pub(super) const FROM_ZONE_MASK: u64 = 0xff << FROM_ZONE_SHIFT;
pub(super) const TO_ZONE_MASK: u64 = 0xff << TO_ZONE_SHIFT;
pub(super) const PROTOCOL_MASK: u64 = 0xff << PROTOCOL_SHIFT;
pub(super) const VERSION_MASK: u64 = 0b11 << VERSION_SHIFT;
pub(super) const KIND_MASK: u64 = 0b11 << KIND_SHIFT;

const KIND_OTHER: u64 = 0;
const KIND_PORTS: u64 = 1;
const KIND_ICMP: u64 = 2;

/// A query in machine words.
pub(super) struct PackedQuery {
    pub source: u128,
    pub destination: u128,
    pub word: u64,
}

impl PackedQuery {
    #[inline]
    pub fn new(query: &Query) -> Self {
        let (version, source, destination) = match query.addresses {
            Addresses::V4 { source, destination } => {
                (1, align_v4(source.to_bits()), align_v4(destination.to_bits()))
            }
            Addresses::V6 { source, destination } => (2, source.to_bits(), destination.to_bits()),
        };
        let (kind, from, to) = match query.transport {
            Transport::Other => (KIND_OTHER, 0, 0),
            Transport::Ports { source, destination } => (KIND_PORTS, source, destination),
            Transport::Icmp { icmp_type, code } => (KIND_ICMP, 0, u16::from_be_bytes([icmp_type, code])),
        };
        let word = u64::from(query.from_zone.0) << FROM_ZONE_SHIFT
            | u64::from(query.to_zone.0) << TO_ZONE_SHIFT
            | u64::from(query.protocol) << PROTOCOL_SHIFT
            | version << VERSION_SHIFT
            | kind << KIND_SHIFT
            | u64::from(to) << DESTINATION_PORT_SHIFT
            | u64::from(from) << SOURCE_PORT_SHIFT;
        Self { source, destination, word }
    }
}

/// One atomic match in machine words. Masked-out bits of the values are zero.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub source: u128,
    pub source_mask: u128,
    pub destination: u128,
    pub destination_mask: u128,
    /// Values of the word's fields; ports hold the bits that all of the range share.
    pub word: u64,
    pub word_mask: u64,
    source_port_first: u16,
    source_port_last: u16,
    destination_port_first: u16,
    destination_port_last: u16,
}

impl Pattern {
    /// The exact test: every field, ranges included.
    #[inline]
    pub fn matches(&self, query: &PackedQuery) -> bool {
        let source_port = (query.word >> SOURCE_PORT_SHIFT) as u16;
        let destination_port = (query.word >> DESTINATION_PORT_SHIFT) as u16;
        (query.source ^ self.source) & self.source_mask == 0
            && (query.destination ^ self.destination) & self.destination_mask == 0
            && (query.word ^ self.word) & self.word_mask == 0
            && (self.source_port_first..=self.source_port_last).contains(&source_port)
            && (self.destination_port_first..=self.destination_port_last).contains(&destination_port)
    }

    /// The patterns that together match what `rule` matches: one, or up to four where splitting a narrow range
    /// of ports at a power of two lets the pieces be hashed by their leading bits.
    pub fn pieces(rule: &RuleMatch) -> Vec<Self> {
        let (source_ports, destination_ports) = match &rule.transport {
            TransportMatch::Any => (0..=u16::MAX, 0..=u16::MAX),
            TransportMatch::Ports { source, destination } => (source.clone(), destination.clone()),
            TransportMatch::Icmp(icmp) => {
                let codes = icmp.code.map_or(0..=u8::MAX, |code| code..=code);
                let word = |code| u16::from_be_bytes([icmp.icmp_type, code]);
                (0..=u16::MAX, word(*codes.start())..=word(*codes.end()))
            }
        };
        let mut pieces = Vec::new();
        for source in split(&source_ports) {
            pieces.extend(split(&destination_ports).into_iter().map(|to| Self::new(rule, &source, &to)));
        }
        pieces
    }

    fn new(
        rule: &RuleMatch,
        source_ports: &RangeInclusive<u16>,
        destination_ports: &RangeInclusive<u16>,
    ) -> Self {
        let (source, source_mask) = prefix(rule.source);
        let (destination, destination_mask) = prefix(rule.destination);
        let mut pattern = Self {
            source,
            source_mask,
            destination,
            destination_mask,
            word: 0,
            word_mask: 0,
            source_port_first: *source_ports.start(),
            source_port_last: *source_ports.end(),
            destination_port_first: *destination_ports.start(),
            destination_port_last: *destination_ports.end(),
        };
        if let Some(zone) = rule.from_zone {
            pattern.demand(FROM_ZONE_MASK, u64::from(zone.0) << FROM_ZONE_SHIFT);
        }
        if let Some(zone) = rule.to_zone {
            pattern.demand(TO_ZONE_MASK, u64::from(zone.0) << TO_ZONE_SHIFT);
        }
        if let Some(protocol) = rule.protocol {
            pattern.demand(PROTOCOL_MASK, u64::from(protocol) << PROTOCOL_SHIFT);
        }
        match rule.family {
            Family::Any => {}
            Family::V4 => pattern.demand(VERSION_MASK, 1 << VERSION_SHIFT),
            Family::V6 => pattern.demand(VERSION_MASK, 2 << VERSION_SHIFT),
        }
        match rule.transport {
            TransportMatch::Any => return pattern,
            TransportMatch::Ports { .. } => pattern.demand(KIND_MASK, KIND_PORTS << KIND_SHIFT),
            TransportMatch::Icmp(_) => pattern.demand(KIND_MASK, KIND_ICMP << KIND_SHIFT),
        }
        pattern.demand_ports(source_ports, SOURCE_PORT_SHIFT);
        pattern.demand_ports(destination_ports, DESTINATION_PORT_SHIFT);
        pattern
    }

    fn demand(&mut self, mask: u64, value: u64) {
        self.word_mask |= mask;
        self.word |= value & mask;
    }

    fn demand_ports(&mut self, range: &RangeInclusive<u16>, shift: u32) {
        let mask = u64::from(port_mask(common_bits(range))) << shift;
        self.demand(mask, u64::from(*range.start()) << shift);
    }
}

/// The mask of the first `bits` of an address.
#[inline]
pub(super) fn address_mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

/// The mask of the first `bits` of a port.
pub(super) fn port_mask(bits: u32) -> u16 {
    u16::MAX.checked_shl(16u32.saturating_sub(bits)).unwrap_or(0)
}

/// How many leading bits of a port are hashed: few steps, so that few tables arise.
pub(super) fn coarse_port_bits(bits: u32) -> u32 {
    [16, 12, 8].into_iter().find(|step| *step <= bits).unwrap_or(0)
}

fn align_v4(address: u32) -> u128 {
    u128::from(address) << 96
}

fn prefix(net: Option<IpNet>) -> (u128, u128) {
    match net {
        None => (0, 0),
        Some(IpNet::V4(net)) => (align_v4(net.network().to_bits()), address_mask(net.prefix_len())),
        Some(IpNet::V6(net)) => (net.network().to_bits(), address_mask(net.prefix_len())),
    }
}

/// How many leading bits all ports of the range share.
fn common_bits(range: &RangeInclusive<u16>) -> u32 {
    (range.start() ^ range.end()).leading_zeros()
}

/// Splits a range at the highest power-of-two boundary inside it, where both halves then share more of the bits
/// that are hashed: 8000-8010 has the block 8000-8015 in common, 1020-1030 nothing but 0-2047.
fn split(range: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let (first, last) = (*range.start(), *range.end());
    let shared = common_bits(range);
    if first < last {
        let boundary = last & port_mask(shared + 1);
        let halves = [first..=boundary - 1, boundary..=last];
        let gains =
            |half: &RangeInclusive<u16>| coarse_port_bits(common_bits(half)) > coarse_port_bits(shared);
        if halves.iter().all(gains) {
            return halves.to_vec();
        }
    }
    vec![range.clone()]
}
