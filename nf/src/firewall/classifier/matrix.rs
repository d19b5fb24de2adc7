//! The part of the classifier whose cost does not depend on what the rules say: a matrix of bits.
//!
//! **Design.** Decomposition with bit vectors (Lakshman and Stiliadis, "High-speed policy-based packet forwarding using
//! efficient multi-dimensional range matching", 1998). Each field is searched by itself, in an [`Axis`]; the rules
//! that allow the packet are the conjunction of the rows found, 64 rules to a word. A rule is one bit whatever its lists
//! multiply to, because what it allows is a product of unions.
//!
//! Rules stand in the order of their ranks, in *blocks* of at most 64 places, one word of each row. A full block is
//! split, two neighbours that would fill three quarters of one are joined, and a block's word stays where it is when others come
//! between. So the first bit found is the rule that decides, a change costs a word or two of each row, and there
//! is at most a block for each 24 rules.
//!
//! **Cost.** A binary search for each of seven fields and seven words for each block, whatever overlaps. Memory: [`ROWS_MAX`]
//! rows of at most 256 words, 64 MiB.

use std::ops::RangeInclusive;

use arrayvec::ArrayVec;

use super::super::query::{Addresses, Query, Transport};
use super::super::rules::{Family, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Rule};
use super::axis::{Axis, Key, Ranges, joined};
use super::{Found, Rank};
use ipnet::IpNet;

/// Most rules of one matrix.
pub(super) const RULES_MAX: usize = 4096;
/// Most rows of all axes together.
pub(super) const ROWS_MAX: usize = 32_768;

/// Rules of one block.
const BLOCK_RULES: usize = 64;
/// Two neighbouring blocks with no more rules than this become one.
const JOINED_RULES_MAX: usize = 48;

/// What a rule allows, field by field.
#[derive(Clone, Debug, Default)]
struct Allowed {
    from_zone: Ranges<u8>,
    to_zone: Ranges<u8>,
    protocol: Ranges<u8>,
    source_v4: Ranges<u32>,
    destination_v4: Ranges<u32>,
    source_v6: Ranges<u128>,
    destination_v6: Ranges<u128>,
    source_port: Ranges<u16>,
    destination_port: Ranges<u16>,
    /// Type and code.
    icmp: Ranges<u16>,
    /// Packets of which neither ports nor type are known.
    other: bool,
}

/// A rule, or the half of it that is about one IP version.
#[derive(Clone)]
struct Member {
    rank: Rank,
    found: Found,
    allowed: Allowed,
}

#[derive(Clone)]
struct Block {
    /// Its word in each row.
    word: usize,
    /// Its members, by rank.
    members: ArrayVec<u32, BLOCK_RULES>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Matrix {
    members: Vec<Option<Member>>,
    free_members: Vec<u32>,
    blocks: Vec<Block>,
    free_words: Vec<usize>,
    /// Words of a row.
    stride: usize,
    from_zone: Axis<u8>,
    to_zone: Axis<u8>,
    protocol: Axis<u8>,
    source_v4: Axis<u32>,
    destination_v4: Axis<u32>,
    source_v6: Axis<u128>,
    destination_v6: Axis<u128>,
    source_port: Axis<u16>,
    destination_port: Axis<u16>,
    icmp: Axis<u16>,
    /// A single interval.
    other: Axis<u8>,
}

/// Does the same to every axis.
macro_rules! each_axis {
    ($matrix:ident, $axis:ident => $action:expr) => {
        each_axis!($matrix, $axis => $action; from_zone to_zone protocol source_v4 destination_v4 source_v6
            destination_v6 source_port destination_port icmp other)
    };
    ($matrix:ident, $axis:ident => $action:expr; $($field:ident)*) => {
        $({ let $axis = &mut $matrix.$field; $action; })*
    };
}

impl Matrix {
    pub fn new() -> Self {
        const STRIDE: usize = 1;
        Self {
            members: Vec::new(),
            free_members: Vec::new(),
            blocks: Vec::new(),
            free_words: vec![0],
            stride: STRIDE,
            from_zone: Axis::new(STRIDE),
            to_zone: Axis::new(STRIDE),
            protocol: Axis::new(STRIDE),
            source_v4: Axis::new(STRIDE),
            destination_v4: Axis::new(STRIDE),
            source_v6: Axis::new(STRIDE),
            destination_v6: Axis::new(STRIDE),
            source_port: Axis::new(STRIDE),
            destination_port: Axis::new(STRIDE),
            icmp: Axis::new(STRIDE),
            other: Axis::new(STRIDE),
        }
    }

    /// How many members there are: one for each rule, or two where it means another protocol in each IP version.
    pub fn len(&self) -> usize {
        self.members.len() - self.free_members.len()
    }

    /// Most steps of a look-up: comparisons of the searches and blocks.
    pub fn steps(&self) -> usize {
        if self.blocks.is_empty() {
            return 0;
        }
        let v4 = self.source_v4.steps() + self.destination_v4.steps();
        let v6 = self.source_v6.steps() + self.destination_v6.steps();
        let ports = self.source_port.steps() + self.destination_port.steps();
        let zones = self.from_zone.steps() + self.to_zone.steps();
        zones + self.protocol.steps() + v4.max(v6) + ports.max(self.icmp.steps()) + self.blocks.len()
    }

    /// The best rule that matches; `step` is called for each of the steps that it took.
    #[inline]
    pub fn find(&self, query: &Query, mut step: impl FnMut(usize)) -> Option<(Rank, Found)> {
        if self.blocks.is_empty() {
            return None;
        }
        let stride = self.stride;
        let (source, destination) = match query.addresses {
            Addresses::V4 { source, destination } => (
                self.source_v4.row(source.to_bits(), stride),
                self.destination_v4.row(destination.to_bits(), stride),
            ),
            Addresses::V6 { source, destination } => (
                self.source_v6.row(source.to_bits(), stride),
                self.destination_v6.row(destination.to_bits(), stride),
            ),
        };
        let (first, second) = match query.transport {
            Transport::Ports { source, destination } => {
                (self.source_port.row(source, stride), self.destination_port.row(destination, stride))
            }
            Transport::Icmp { icmp_type, code } => {
                let row = self.icmp.row(u16::from_be_bytes([icmp_type, code]), stride);
                (row, row)
            }
            Transport::Other => (self.other.row(0, stride), self.other.row(0, stride)),
        };
        let protocol = self.protocol.row(query.protocol, stride);
        let from = self.from_zone.row(query.from_zone.0, stride);
        let to = self.to_zone.row(query.to_zone.0, stride);
        step(self.steps() - self.blocks.len());
        for block in &self.blocks {
            step(1);
            let at = block.word;
            let all =
                source[at] & destination[at] & first[at] & second[at] & protocol[at] & from[at] & to[at];
            if all != 0 {
                let index = block.members[all.trailing_zeros() as usize];
                return self.members[index as usize].as_ref().map(|member| (member.rank, member.found));
            }
        }
        None
    }

    /// Adds a rule, whole or not at all. None where there is no room.
    pub fn insert(
        &mut self,
        rule: &Rule,
        rank: Rank,
        found: Found,
        [members_max, rows_max]: [usize; 2],
    ) -> Option<Vec<u32>> {
        let parts = parts_of(rule);
        let boundaries: usize = parts.iter().map(Allowed::boundaries).sum();
        if self.len() + parts.len() > members_max || self.rows() + boundaries > rows_max {
            return None;
        }
        Some(parts.into_iter().map(|allowed| self.add(Member { rank, found, allowed })).collect())
    }

    /// Removes a member.
    pub fn remove(&mut self, index: u32) {
        let Some(member) = self.members[index as usize].take() else { return };
        let Some((block, place)) = self.place_of(&member, index) else { return };
        let (word, stride) = (self.blocks[block].word, self.stride);
        self.blocks[block].members.remove(place);
        let below = (1u64 << place) - 1;
        each_axis!(self, axis => axis.map_words(word, stride, |bits| bits & below | bits >> 1 & !below));
        self.release(&member.allowed);
        self.free_members.push(index);
        self.join(block);
        self.join(block.wrapping_sub(1));
    }

    /// Whether nothing is left of any rule, boundaries included.
    #[cfg(test)]
    pub fn is_clean(&self) -> bool {
        self.blocks.is_empty() && self.rows() == 11 && self.len() == 0
    }

    fn rows(&self) -> usize {
        let zones = self.from_zone.len() + self.to_zone.len();
        let v4 = self.source_v4.len() + self.destination_v4.len();
        let v6 = self.source_v6.len() + self.destination_v6.len();
        let ports = self.source_port.len() + self.destination_port.len();
        zones + v4 + v6 + ports + self.protocol.len() + self.icmp.len() + self.other.len()
    }

    fn add(&mut self, member: Member) -> u32 {
        let index = self.free_members.pop().unwrap_or(self.members.len() as u32);
        let (block, place) = self.make_place((member.rank, index));
        self.blocks[block].members.insert(place, index);
        let (word, stride) = (self.blocks[block].word, self.stride);
        let below = (1u64 << place) - 1;
        each_axis!(self, axis => axis.map_words(word, stride, |bits| bits & below | (bits & !below) << 1));
        self.allow(&member.allowed, word, place as u32);
        if index as usize == self.members.len() {
            self.members.push(Some(member));
        } else {
            self.members[index as usize] = Some(member);
        }
        index
    }

    fn allow(&mut self, allowed: &Allowed, word: usize, bit: u32) {
        let stride = self.stride;
        self.from_zone.allow(&allowed.from_zone, word, bit, stride);
        self.to_zone.allow(&allowed.to_zone, word, bit, stride);
        self.protocol.allow(&allowed.protocol, word, bit, stride);
        self.source_v4.allow(&allowed.source_v4, word, bit, stride);
        self.destination_v4.allow(&allowed.destination_v4, word, bit, stride);
        self.source_v6.allow(&allowed.source_v6, word, bit, stride);
        self.destination_v6.allow(&allowed.destination_v6, word, bit, stride);
        self.source_port.allow(&allowed.source_port, word, bit, stride);
        self.destination_port.allow(&allowed.destination_port, word, bit, stride);
        self.icmp.allow(&allowed.icmp, word, bit, stride);
        if allowed.other {
            self.other.allow(&[whole()], word, bit, stride);
        }
    }

    fn release(&mut self, allowed: &Allowed) {
        self.from_zone.release(&allowed.from_zone);
        self.to_zone.release(&allowed.to_zone);
        self.protocol.release(&allowed.protocol);
        self.source_v4.release(&allowed.source_v4);
        self.destination_v4.release(&allowed.destination_v4);
        self.source_v6.release(&allowed.source_v6);
        self.destination_v6.release(&allowed.destination_v6);
        self.source_port.release(&allowed.source_port);
        self.destination_port.release(&allowed.destination_port);
        self.icmp.release(&allowed.icmp);
        if allowed.other {
            self.other.release(&[whole()]);
        }
    }

    /// Rank and index of a member: the order in blocks.
    fn key(&self, index: u32) -> (Rank, u32) {
        (self.members[index as usize].as_ref().map_or(Rank::MAX, |member| member.rank), index)
    }

    /// The block in whose span `key` falls.
    fn block_for(&self, key: (Rank, u32)) -> usize {
        let begins = |block: &Block| block.members.first().is_some_and(|first| self.key(*first) <= key);
        self.blocks.partition_point(begins).saturating_sub(1)
    }

    fn place_of(&self, member: &Member, index: u32) -> Option<(usize, usize)> {
        // The member itself is taken out already, so its key is put in by hand.
        let key = (member.rank, index);
        let key_of = |at: u32| if at == index { key } else { self.key(at) };
        let begins = |block: &Block| block.members.first().is_some_and(|first| key_of(*first) <= key);
        let block = self.blocks.partition_point(begins).saturating_sub(1);
        let place = self.blocks.get(block)?.members.iter().position(|at| *at == index)?;
        Some((block, place))
    }

    /// A block with room where a member of this key belongs, and the place in it.
    fn make_place(&mut self, key: (Rank, u32)) -> (usize, usize) {
        if self.blocks.is_empty() {
            let word = self.take_word();
            self.blocks.push(Block { word, members: ArrayVec::new() });
        }
        let mut block = self.block_for(key);
        if self.blocks[block].members.is_full() {
            self.split(block);
            block = self.block_for(key);
        }
        let place = self.blocks[block].members.partition_point(|index| self.key(*index) < key);
        (block, place)
    }

    /// The upper half of a block becomes a block of its own behind it.
    fn split(&mut self, block: usize) {
        let word = self.take_word();
        let stride = self.stride;
        let words = [self.blocks[block].word, word];
        let half = BLOCK_RULES / 2;
        let low = (1u64 << half) - 1;
        each_axis!(self, axis => axis.map_pairs(words, stride, |bits, _| (bits & low, bits >> half)));
        let members = self.blocks[block].members.drain(half..).collect();
        self.blocks.insert(block + 1, Block { word, members });
    }

    /// Makes one of this block and the next, if they are small.
    fn join(&mut self, block: usize) {
        let Some(first) = self.blocks.get(block) else { return };
        let next = self.blocks.get(block.wrapping_add(1));
        let Some(next) = next else {
            if first.members.is_empty() {
                self.free_words.push(first.word);
                self.blocks.remove(block);
            }
            return;
        };
        let shift = first.members.len();
        if shift + next.members.len() > JOINED_RULES_MAX {
            return;
        }
        let (words, stride) = ([first.word, next.word], self.stride);
        each_axis!(self, axis => axis.map_pairs(words, stride, |first, next| (first | next << shift, 0)));
        let next = self.blocks.remove(block + 1);
        self.blocks[block].members.extend(next.members);
        self.free_words.push(next.word);
    }

    /// A word of each row that no block uses; it is clear.
    fn take_word(&mut self) -> usize {
        if self.free_words.is_empty() {
            let (from, to) = (self.stride, self.stride * 2);
            each_axis!(self, axis => axis.widen(from, to));
            self.free_words.extend((from..to).rev());
            self.stride = to;
        }
        self.free_words.pop().unwrap_or(0)
    }
}

impl Allowed {
    /// Most boundaries that its ranges bring.
    fn boundaries(&self) -> usize {
        fn of<K: Key>(ranges: &Ranges<K>) -> usize {
            let bounds = |range: &RangeInclusive<K>| {
                usize::from(*range.start() > K::MIN) + usize::from(range.end().next().is_some())
            };
            ranges.iter().map(bounds).sum()
        }
        let bytes = of(&self.from_zone) + of(&self.to_zone) + of(&self.protocol);
        let v4 = of(&self.source_v4) + of(&self.destination_v4);
        let v6 = of(&self.source_v6) + of(&self.destination_v6);
        bytes + v4 + v6 + of(&self.source_port) + of(&self.destination_port) + of(&self.icmp)
    }
}

fn whole<K: Whole>() -> RangeInclusive<K> {
    K::MIN..=K::MAX
}

trait Whole: Key {
    const MAX: Self;
}

impl Whole for u8 {
    const MAX: Self = u8::MAX;
}

impl Whole for u16 {
    const MAX: Self = u16::MAX;
}

impl Whole for u32 {
    const MAX: Self = u32::MAX;
}

impl Whole for u128 {
    const MAX: Self = u128::MAX;
}

/// What `rule` allows: a product of unions, or one for each IP version where types of ICMP imply the protocol.
fn parts_of(rule: &Rule) -> Vec<Allowed> {
    let versions = [(Family::V4, PROTOCOL_ICMP), (Family::V6, PROTOCOL_ICMPV6)];
    if rule.icmp.is_empty() || !rule.protocols.is_empty() {
        return vec![allowed(rule, rule.family, &rule.protocols)];
    }
    let wanted = versions.iter().filter(|(version, _)| rule.has_version(*version));
    wanted.map(|(version, protocol)| allowed(rule, *version, &[*protocol])).collect()
}

fn allowed(rule: &Rule, family: Family, protocols: &[u8]) -> Allowed {
    let zone = |zone: Option<crate::zone::ZoneId>| vec![zone.map_or(whole(), |zone| zone.0..=zone.0)];
    let every_port = rule.matches_every_port();
    let icmp = if !rule.icmp.is_empty() {
        let range = |icmp_type, code: Option<u8>| {
            let word = |code| u16::from_be_bytes([icmp_type, code]);
            word(code.unwrap_or(0))..=word(code.unwrap_or(u8::MAX))
        };
        joined(rule.icmp.iter().map(|icmp| range(icmp.icmp_type, icmp.code)).collect())
    } else if every_port {
        vec![whole()]
    } else {
        Vec::new()
    };
    let ports = |list: &[RangeInclusive<u16>]| match list {
        _ if !rule.icmp.is_empty() => Vec::new(),
        [] => vec![whole()],
        list => joined(list.to_vec()),
    };
    let protocol = match protocols {
        [] => vec![whole()],
        list => joined(list.iter().map(|number| *number..=*number).collect()),
    };
    let mut allowed = Allowed {
        from_zone: zone(rule.from_zone),
        to_zone: zone(rule.to_zone),
        protocol,
        source_port: ports(&rule.source_ports),
        destination_port: ports(&rule.destination_ports),
        other: rule.icmp.is_empty() && every_port,
        icmp,
        ..Allowed::default()
    };
    if family != Family::V6 {
        allowed.source_v4 = prefixes_v4(&rule.sources);
        allowed.destination_v4 = prefixes_v4(&rule.destinations);
    }
    if family != Family::V4 {
        allowed.source_v6 = prefixes_v6(&rule.sources);
        allowed.destination_v6 = prefixes_v6(&rule.destinations);
    }
    allowed
}

fn prefixes_v4(nets: &[IpNet]) -> Ranges<u32> {
    let range = |net: &IpNet| match net {
        IpNet::V4(net) => Some(net.network().to_bits()..=net.broadcast().to_bits()),
        IpNet::V6(_) => None,
    };
    if nets.is_empty() { vec![whole()] } else { joined(nets.iter().filter_map(range).collect()) }
}

fn prefixes_v6(nets: &[IpNet]) -> Ranges<u128> {
    let range = |net: &IpNet| match net {
        IpNet::V6(net) => Some(net.network().to_bits()..=net.broadcast().to_bits()),
        IpNet::V4(_) => None,
    };
    if nets.is_empty() { vec![whole()] } else { joined(nets.iter().filter_map(range).collect()) }
}
