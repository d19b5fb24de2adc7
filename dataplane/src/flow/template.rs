//! Templates: the structure of a program, shared by all flows that are treated alike.
//!
//! Millions of flows use a few dozen structures: which windows are written, which checksums follow, what is pushed, where
//! it goes. The structure is interned here and stays in the first-level cache; an entry keeps only the values.

use super::key::{HEADER_BYTES_MAX, NARROW_WORDS};
use crate::drops::DropReason;
use crate::packet::{Flags, Shape};
use crate::port::PortId;
use std::collections::HashMap;

/// Bytes of a usual image of a header.
pub const IMAGE_BYTES: usize = 64;
/// The same in words.
pub const IMAGE_WORDS: usize = IMAGE_BYTES / 8;
/// Words of the largest image.
pub const IMAGE_WORDS_MAX: usize = HEADER_BYTES_MAX / 8;
/// Most structures at a time; a decision beyond is not cached.
pub const TEMPLATES_MAX: usize = 1 << 14;
/// Templates that are found without hashing.
const RECENT: usize = 64;

/// A transport checksum that follows the edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct L4Checksum {
    /// Offset of the field.
    pub offset: u16,
    /// UDP: a zero field says that there is none (RFC 768) and stays; a sum of zero is sent as all ones.
    pub udp: bool,
    /// ICMP over IPv4: no pseudo-header, so that all it covers may be zero, and a field of zero wrong.
    pub icmp: bool,
}

/// An edit whose effect depends on bytes that the key does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dynamic {
    /// Writes the operand's masked bits over 8 bytes, and updates the checksums by the difference it made.
    Set {
        /// Where, and which bits.
        window: WideWindow,
        /// The IPv4 header checksum covers it.
        l3: bool,
        /// The transport checksum covers it.
        l4: bool,
    },
    /// Adds the operand to the TCP sequence number at `offset`.
    ShiftSequence {
        /// Offset of the 4 bytes.
        offset: u16,
    },
    /// Adds the operand to the TCP acknowledgment number and to the edges of SACK blocks (RFC 2018).
    ShiftAcknowledgment {
        /// Offset of the TCP header.
        tcp: u16,
    },
}

/// A window at any offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WideWindow {
    /// Offset in the frame.
    pub offset: u16,
    /// Bits, as they lie in memory.
    pub mask: u64,
}

/// Takes bytes out of the front part of a packet and puts others in: tags, tunnels, another network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Splice {
    /// Offset of the first byte taken out.
    pub at: u16,
    /// Bytes taken out.
    pub remove: u16,
    /// Bytes put in; they follow in the operands, padded to words.
    pub insert: u16,
}

/// What a splice leaves to be computed for each packet. Offsets are those after the splice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixup {
    /// Writes the packet's length less `less` as a 16-bit field.
    Length {
        /// Offset of the field.
        offset: u16,
        /// Bytes in front of what the field counts.
        less: u16,
    },
    /// Writes a fresh identification (RFC 6864 section 4).
    Ipv4Identification {
        /// Offset of the field.
        offset: u16,
    },
    /// Computes the checksum of the 20-byte IPv4 header at `offset`.
    Ipv4Checksum {
        /// Offset of the header.
        offset: u16,
    },
    /// Computes the UDP checksum of the datagram at `udp` inside the IP header at `ip`.
    UdpChecksum {
        /// Offset of the IP header, version 4 or 6.
        ip: u16,
        /// Offset of the UDP header.
        udp: u16,
    },
    /// Encapsulation: copies DSCP and ECN of the IP header at `from` to that at `to` (RFC 6040 section 4.1, normal mode).
    CopyTrafficClass {
        /// Offset of the inner IP header.
        from: u16,
        /// Offset of the outer IP header.
        to: u16,
    },
}

/// Before a splice that removes an outer header: combines its ECN into the inner one (RFC 6040 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CombineEcn {
    /// Offset of the outer IP header.
    pub outer: u16,
    /// Offset of the inner IP header.
    pub inner: u16,
}

/// What happens to the packet after the edits of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Goes on to the next segment.
    #[default]
    Continue,
    /// A copy leaves by each port, in this order; the packet goes on to the next segment, or ends if this is the last.
    Output(PortId, Vec<PortId>),
    /// The packet is dropped here.
    Drop(DropReason),
}

/// Edits in order, then an exit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Bits of the header that the image sets, as they lie in memory.
    pub mask: [u64; IMAGE_WORDS_MAX],
    /// Words of the image: the first operands are the header's first words as they shall be under the mask, zero
    /// elsewhere. None, [`IMAGE_WORDS`], or more where the mask reaches further.
    pub image_words: u8,
    /// The IPv4 header checksum to update by the delta; 0 if none.
    pub l3_checksum: u16,
    /// The transport checksum to update by the delta.
    pub l4_checksum: Option<L4Checksum>,
    /// The TTL or hop limit to decrement; 0 if none. With `l3_checksum` its change is accounted there.
    pub ttl: u16,
    /// Edits that depend on more than the key.
    pub dynamic: Vec<Dynamic>,
    /// ECN to combine before the splice.
    pub combine_ecn: Option<CombineEcn>,
    /// The bytes taken out and put in.
    pub splice: Option<Splice>,
    /// What to compute after the splice.
    pub fixups: Vec<Fixup>,
    /// Where the packet goes then.
    pub exit: Exit,
}

/// Which trackers a replay runs (R7). Each runs once, whoever asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trackers {
    /// TCP state and window of the session.
    pub tcp: bool,
}

/// The structure of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    /// The shape it is for.
    pub shape: Shape,
    /// A packet with any of these walks the slow path alone (R3).
    pub guards: Flags,
    /// So does one with a smaller TTL or hop limit.
    pub ttl_min: u8,
    /// Run before the edits.
    pub trackers: Trackers,
    /// The first edits and their exit.
    pub first: Segment,
    /// What follows.
    pub more: Vec<Segment>,
}

impl Segment {
    /// True if it does nothing but blend its image, decrement a TTL and update checksums.
    pub(super) fn is_plain(&self) -> bool {
        self.dynamic.is_empty()
            && self.splice.is_none()
            && self.combine_ecn.is_none()
            && self.fixups.is_empty()
    }

    /// As if new; lists keep their memory.
    fn clear(&mut self) {
        self.mask = [0; IMAGE_WORDS_MAX];
        (self.image_words, self.l3_checksum, self.l4_checksum, self.ttl) = (0, 0, None, 0);
        (self.combine_ecn, self.splice, self.exit) = (None, None, Exit::Continue);
        self.dynamic.clear();
        self.fixups.clear();
    }
}

impl Template {
    /// As if new.
    pub(super) fn clear(&mut self) {
        (self.shape, self.guards, self.ttl_min) = (Shape::default(), Flags::default(), 0);
        self.trackers = Trackers::default();
        self.first.clear();
        self.more.clear();
    }

    /// A number that templates of different kinds seldom share.
    fn likeness(&self) -> usize {
        let port = match &self.first.exit {
            Exit::Output(port, _) => usize::from(port.0),
            Exit::Continue | Exit::Drop(_) => 0,
        };
        // The mask's words for addresses and ports tell directions of a translation apart.
        let mask = self.first.mask[3] ^ self.first.mask[4];
        usize::from(self.shape.0) ^ port << 2 ^ (mask.count_ones() ^ mask.trailing_zeros()) as usize
    }
}

/// The part of a template that usual packets need, in three cache lines: one segment that blends an image, updates checksums
/// and leaves by one port.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Usual {
    /// Bits of the header that stay, as they lie in memory.
    pub keep: [u64; IMAGE_WORDS],
    /// A one at the TTL or hop limit to decrement, as it lies in memory. It is at least one there, so that nothing is borrowed.
    pub less: [u64; IMAGE_WORDS],
    /// [`Template::guards`].
    pub guards: Flags,
    /// [`Template::ttl_min`].
    pub ttl_min: u8,
    /// [`Trackers::tcp`].
    pub tracks_tcp: bool,
    /// [`L4Checksum::udp`].
    pub udp: bool,
    /// [`L4Checksum::icmp`].
    pub icmp: bool,
    /// Offset of the IPv4 checksum in steps of 2 bytes; 0: none.
    pub l3_checksum: u8,
    /// Offset of the transport checksum; 0: none.
    pub l4_checksum: u16,
    /// It sets nothing behind the words that a narrow key holds.
    pub narrow: bool,
    /// Where it leaves; a port that does not exist if the program is not of this form.
    pub port: PortId,
}

/// No port has this number: there are [`crate::limits::PORTS_MAX`] at most.
const NO_PORT: PortId = PortId(u16::MAX);

impl Usual {
    fn of(template: &Template) -> Self {
        let first = &template.first;
        let port = match &first.exit {
            Exit::Output(port, more) if more.is_empty() && template.more.is_empty() => Some(*port),
            _ => None,
        };
        let near = usize::from(first.ttl) < IMAGE_BYTES && usize::from(first.l3_checksum) < IMAGE_BYTES;
        let even = first.l3_checksum.is_multiple_of(2);
        let ttl_holds = first.ttl == 0 || template.ttl_min > 0;
        // Without an image nothing is set: the mask is empty.
        let whole = matches!(usize::from(first.image_words), 0 | IMAGE_WORDS);
        let applies = whole && first.is_plain() && near && even && ttl_holds;
        let mut less = [0; IMAGE_BYTES];
        if first.ttl != 0 && near {
            less[usize::from(first.ttl)] = 1;
        }
        let less = less.as_chunks::<8>().0;
        Self {
            keep: std::array::from_fn(|word| !first.mask[word]),
            less: std::array::from_fn(|word| u64::from_ne_bytes(less[word])),
            guards: template.guards,
            ttl_min: template.ttl_min,
            tracks_tcp: template.trackers.tcp,
            udp: first.l4_checksum.is_some_and(|field| field.udp),
            icmp: first.l4_checksum.is_some_and(|field| field.icmp),
            l3_checksum: (first.l3_checksum / 2) as u8,
            l4_checksum: first.l4_checksum.map_or(0, |field| field.offset),
            narrow: applies && port.is_some() && first.mask[NARROW_WORDS..].iter().all(|&bits| bits == 0),
            port: port.filter(|_| applies).unwrap_or(NO_PORT),
        }
    }
}

/// A template's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TemplateId(pub u16);

/// The interned templates of a worker.
#[derive(Debug)]
pub struct Templates {
    list: Vec<Template>,
    usual: Vec<Usual>,
    index: HashMap<Template, TemplateId>,
    /// The last one of each likeness: new flows come in kinds.
    recent: [TemplateId; RECENT],
    tracks_tcp: bool,
}

impl Default for Templates {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            usual: Vec::new(),
            index: HashMap::new(),
            recent: [TemplateId(0); RECENT],
            tracks_tcp: false,
        }
    }
}

impl Templates {
    /// The number of a template, new or known; none if the table is full.
    pub fn intern(&mut self, template: &Template) -> Option<TemplateId> {
        let recent = template.likeness() % RECENT;
        let id = self.recent[recent];
        if self.list.get(usize::from(id.0)) == Some(template) {
            return Some(id);
        }
        let id = match self.index.get(template) {
            Some(&id) => id,
            None if self.list.len() < TEMPLATES_MAX => {
                let id = TemplateId(self.list.len() as u16);
                self.list.push(template.clone());
                self.usual.push(Usual::of(template));
                self.tracks_tcp |= template.trackers.tcp;
                self.index.insert(template.clone(), id);
                id
            }
            None => return None,
        };
        self.recent[recent] = id;
        Some(id)
    }

    /// The template with this number.
    #[inline(always)]
    pub fn get(&self, id: TemplateId) -> Option<&Template> {
        self.list.get(usize::from(id.0))
    }

    /// What usual packets need of the template with this number.
    #[inline(always)]
    pub fn usual(&self, id: TemplateId) -> Option<&Usual> {
        self.usual.get(usize::from(id.0))
    }

    /// True if any template runs the TCP tracker.
    #[inline(always)]
    pub fn any_tracks_tcp(&self) -> bool {
        self.tracks_tcp
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_structures_share_a_number_and_the_table_is_bounded() {
        let mut templates = Templates::default();
        let with = |ttl| Template {
            ttl_min: (ttl & 255) as u8,
            shape: Shape((ttl >> 8) as u8),
            ..Template::default()
        };
        let ids: Vec<_> = (0..TEMPLATES_MAX).map(|i| templates.intern(&with(i)).unwrap()).collect();
        assert_eq!(templates.intern(&with(5)), Some(ids[5]));
        assert_eq!(templates.get(ids[5]), Some(&with(5)));
        assert_eq!(templates.intern(&with(TEMPLATES_MAX)), None);
    }
}
