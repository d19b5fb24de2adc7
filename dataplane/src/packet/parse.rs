//! The parse of the packet path: finds a packet's [`Shape`] and offsets, and nothing else.
//!
//! Total on any bytes: every length is checked against the frame, trailing padding is not mistaken for payload,
//! and each refusal names its reason. What the cache can't key (fragments, IP options, extension headers) is
//! marked irregular: it walks the slow path alone (R3).

use super::checksum;
use crate::drops::DropReason;

/// The structure of a regular packet: tags, network and transport protocol. It fixes every header offset.
///
/// The low byte is the outermost packet; the high byte is kept for the packet inside a tunnel (0: none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(pub u8);

/// Network layer of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// Any other EtherType, or an 802.3 length.
    Other,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
}

/// Transport layer of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// Another protocol, or none.
    Other,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo request or reply.
    IcmpEcho,
    /// Any other ICMP or ICMPv6 message.
    IcmpOther,
}

impl Shape {
    /// Number of distinct outer shapes.
    pub const COUNT: usize = 256;
    const IRREGULAR: u8 = 0x80;

    /// The shape of these layers; `tags` is 0 to 2.
    pub const fn new(tags: usize, l3: L3, l4: L4) -> Self {
        Self(tags as u8 | (l3 as u8) << 2 | (l4 as u8) << 4)
    }

    /// The same, for a packet whose offsets the shape does not fix.
    pub const fn irregular(self) -> Self {
        Self(self.0 | Self::IRREGULAR)
    }

    /// True if the shape fixes all offsets, so that the cache can key it.
    #[inline]
    pub const fn is_regular(self) -> bool {
        self.0 & Self::IRREGULAR == 0
    }

    /// Number of VLAN tags, 0 to 2.
    #[inline]
    pub const fn tags(self) -> usize {
        (self.0 & 3) as usize
    }

    /// Network layer.
    #[inline]
    pub const fn l3(self) -> L3 {
        match (self.0 >> 2) & 3 {
            1 => L3::Ipv4,
            2 => L3::Ipv6,
            3 => L3::Arp,
            _ => L3::Other,
        }
    }

    /// Transport layer.
    #[inline]
    pub const fn l4(self) -> L4 {
        match (self.0 >> 4) & 7 {
            1 => L4::Tcp,
            2 => L4::Udp,
            3 => L4::IcmpEcho,
            4 => L4::IcmpOther,
            _ => L4::Other,
        }
    }

    /// Where the network header starts.
    #[inline]
    pub const fn l3_offset(self) -> usize {
        14 + 4 * self.tags()
    }

    /// Where the transport header of a regular packet starts.
    #[inline]
    pub const fn l4_offset(self) -> usize {
        self.l3_offset()
            + match self.l3() {
                L3::Ipv4 => 20,
                L3::Ipv6 => 40,
                L3::Arp => 28,
                L3::Other => 0,
            }
    }

    /// Bytes that a regular packet of this shape has at least.
    #[inline]
    pub const fn header_bytes(self) -> usize {
        self.l4_offset()
            + match self.l4() {
                L4::Other => 0,
                L4::Tcp => 20,
                L4::Udp | L4::IcmpEcho | L4::IcmpOther => 8,
            }
    }
}

/// What of a packet is guarded rather than keyed (R3), as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// A fragment of any kind.
    pub const FRAGMENT: Self = Self(1);
    /// IPv4 options.
    pub const OPTIONS: Self = Self(2);
    /// IPv6 extension headers.
    pub const EXTENSIONS: Self = Self(4);
    /// TCP SYN, FIN or RST.
    pub const TCP_CONTROL: Self = Self(8);
    /// An ICMP message that is no echo.
    pub const ICMP_OTHER: Self = Self(16);
    /// The Ethernet destination is a group address.
    pub const MULTICAST: Self = Self(32);

    /// True if any bit of `other` is set here.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where a packet's headers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Structure.
    pub shape: Shape,
    /// What is guarded.
    pub flags: Flags,
    /// Offset of the network header.
    pub l3: u16,
    /// Offset of the transport header (of an irregular IPv6 packet: of the first extension header).
    pub l4: u16,
    /// End of the network packet; what follows is padding.
    pub end: u16,
    /// TTL or hop limit; 255 if there is none.
    pub ttl: u8,
}

/// Which received checksums are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// None: the hardware did, or the operator does not care.
    None,
    /// The IPv4 header's (RFC 1812 section 5.2.2).
    #[default]
    Ipv4,
    /// That, and those of TCP, UDP and ICMP.
    All,
}

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_QINQ: u16 = 0x88a8;

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn array_be16<const N: usize>(bytes: &[u8; N], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

#[inline(always)]
fn array_le32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The usual case of [`parse`]: untagged IPv4 without options or fragments, or IPv6 without extensions, with UDP or TCP in
/// order. None for anything else, and for what is wrong: [`parse`] tells which. `head` begins with the first of `bytes`; what
/// it holds behind their end is not believed.
#[inline(always)]
pub fn parse_usual(head: &[u8; 64], bytes: &[u8], verify: Verify) -> Option<Layout> {
    if verify == Verify::All {
        return None;
    }
    // EtherType, version, header length and type of service, as they lie.
    let start = array_le32(head, 12);
    if start & 0x00ff_ffff == 0x0045_0008 {
        let end = 14 + array_be16(head, 16);
        // Flags and fragment offset, TTL, protocol.
        let middle = array_le32(head, 20);
        if (end > bytes.len()) | (middle & 0xff3f != 0) {
            return None;
        }
        if verify == Verify::Ipv4 && !ipv4_checksum_holds(head) {
            return None;
        }
        let (ttl, protocol) = ((middle >> 16) as u8, (middle >> 24) as u8);
        let transport = Transport { protocol, udp_length: array_be16(head, 38), tcp: [head[46], head[47]] };
        usual_transport(&transport, 0, 34, end, ttl, head[0])
    } else if start & 0x00f0_ffff == 0x0060_dd86 {
        let end = 54 + array_be16(head, 18);
        if end > bytes.len() {
            return None;
        }
        let tcp = bytes.get(66..68).map_or([0, 0], |two| [two[0], two[1]]);
        let transport = Transport { protocol: head[20], udp_length: array_be16(head, 58), tcp };
        usual_transport(&transport, 2, 54, end, head[21], head[0])
    } else {
        None
    }
}

/// The checksum of an untagged IPv4 header of 20 bytes.
#[inline(always)]
fn ipv4_checksum_holds(head: &[u8; 64]) -> bool {
    let word = |at: usize| u64::from(array_le32(head, at));
    let long = |at: usize| word(at) | word(at + 4) << 32;
    let (sum, carry) = long(14).overflowing_add(long(22));
    let (sum, more) = sum.overflowing_add(word(30) + u64::from(carry));
    // What carries out of a fold is added again; the sum is not zero, since the version is in it.
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32 + u32::from(more));
    let sum = u64::from(sum) + u64::from(carry);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum == 0xffff) | (sum == 0x1_fffe)
}

/// What [`usual_transport`] looks at, wherever it lies: the protocol; if it is UDP, its length; if it is TCP, the two bytes with
/// data offset and flags.
struct Transport {
    protocol: u8,
    udp_length: usize,
    tcp: [u8; 2],
}

/// The layouts of what is usual, but for what differs from packet to packet: IPv4 with UDP, with TCP, then IPv6.
const USUAL: [Layout; 4] = {
    const fn layout(l3: L3, l4: L4, at: u16) -> Layout {
        Layout { shape: Shape::new(0, l3, l4), flags: Flags(0), l3: 14, l4: at, end: 0, ttl: 0 }
    }
    [
        layout(L3::Ipv4, L4::Udp, 34),
        layout(L3::Ipv4, L4::Tcp, 34),
        layout(L3::Ipv6, L4::Udp, 54),
        layout(L3::Ipv6, L4::Tcp, 54),
    ]
};

/// The layout of a packet that ends at `end`, which is within its frame. Each protocol's least is checked against the end, so that
/// what was read is the packet's.
#[inline(always)]
fn usual_transport(
    transport: &Transport,
    family: usize,
    l4: usize,
    end: usize,
    ttl: u8,
    first: u8,
) -> Option<Layout> {
    let mut flags = u16::from(first & 1) * Flags::MULTICAST.0;
    let kind = match transport.protocol {
        17 => {
            let length = transport.udp_length;
            if end < l4 + 8 || length.wrapping_sub(8) > end - l4 - 8 {
                return None;
            }
            family
        }
        6 => {
            let header_bytes = usize::from(transport.tcp[0] >> 4) * 4;
            if (header_bytes < 20) | (l4 + header_bytes > end) {
                return None;
            }
            flags |= u16::from(transport.tcp[1] & 0x07 != 0) * Flags::TCP_CONTROL.0;
            family + 1
        }
        _ => return None,
    };
    Some(Layout { flags: Flags(flags), end: end as u16, ttl, ..USUAL[kind % USUAL.len()] })
}

/// Finds shape, offsets and flags of a frame.
///
/// # Errors
/// The reason why the frame can't be forwarded by anything above Ethernet.
pub fn parse(bytes: &[u8], verify: Verify) -> Result<Layout, DropReason> {
    if bytes.len() < 14 || bytes.len() > usize::from(u16::MAX) {
        return Err(DropReason::Truncated);
    }
    let mut ether_type = be16(bytes, 12);
    let mut l3 = 14;
    let mut tags = 0;
    while tags < 2 && (ether_type == ETHER_TYPE_VLAN || ether_type == ETHER_TYPE_QINQ) {
        if bytes.len() < l3 + 4 {
            return Err(DropReason::Truncated);
        }
        ether_type = be16(bytes, l3 + 2);
        l3 += 4;
        tags += 1;
    }
    let flags = if bytes[0] & 1 != 0 { Flags::MULTICAST } else { Flags::default() };
    match ether_type {
        ETHER_TYPE_IPV4 => parse_ipv4(bytes, tags, l3, flags, verify),
        ETHER_TYPE_IPV6 => parse_ipv6(bytes, tags, l3, flags, verify),
        ETHER_TYPE_ARP => parse_arp(bytes, tags, l3, flags),
        _ => Ok(Layout {
            shape: Shape::new(tags, L3::Other, L4::Other),
            flags,
            l3: l3 as u16,
            l4: l3 as u16,
            end: bytes.len() as u16,
            ttl: 255,
        }),
    }
}

#[cold]
fn parse_arp(bytes: &[u8], tags: usize, l3: usize, flags: Flags) -> Result<Layout, DropReason> {
    if bytes.len() < l3 + 28 {
        return Err(DropReason::Truncated);
    }
    Ok(Layout {
        shape: Shape::new(tags, L3::Arp, L4::Other),
        flags,
        l3: l3 as u16,
        l4: (l3 + 28) as u16,
        end: (l3 + 28) as u16,
        ttl: 255,
    })
}

#[inline]
fn parse_ipv4(
    bytes: &[u8],
    tags: usize,
    l3: usize,
    mut flags: Flags,
    verify: Verify,
) -> Result<Layout, DropReason> {
    let Some(header) = bytes.get(l3..l3 + 20) else { return Err(DropReason::Truncated) };
    if header[0] >> 4 != 4 {
        return Err(DropReason::BadHeader);
    }
    let header_bytes = usize::from(header[0] & 15) * 4;
    let total = usize::from(be16(header, 2));
    if header_bytes < 20 || total < header_bytes || l3 + total > bytes.len() {
        return Err(DropReason::BadLength);
    }
    if verify != Verify::None && checksum::fold(checksum::sum(&bytes[l3..l3 + header_bytes])) != 0xffff {
        return Err(DropReason::BadIpv4Checksum);
    }
    let mut irregular = false;
    if header_bytes != 20 {
        flags = flags.union(Flags::OPTIONS);
        irregular = true;
    }
    let fragment = be16(header, 6) & 0x3fff;
    if fragment != 0 {
        flags = flags.union(Flags::FRAGMENT);
        irregular = true;
    }
    let (l4, end) = (l3 + header_bytes, l3 + total);
    let transport = if fragment & 0x1fff == 0 {
        transport(bytes, l4, end, header[9], fragment != 0, &mut flags, false)?
    } else {
        L4::Other
    };
    if verify == Verify::All && fragment == 0 {
        verify_transport(&bytes[l3 + 12..l3 + 20], header[9], &bytes[l4..end], transport)?;
    }
    let shape = Shape::new(tags, L3::Ipv4, transport);
    Ok(Layout {
        shape: if irregular { shape.irregular() } else { shape },
        flags,
        l3: l3 as u16,
        l4: l4 as u16,
        end: end as u16,
        ttl: header[8],
    })
}

#[inline]
fn parse_ipv6(
    bytes: &[u8],
    tags: usize,
    l3: usize,
    mut flags: Flags,
    verify: Verify,
) -> Result<Layout, DropReason> {
    let Some(header) = bytes.get(l3..l3 + 40) else { return Err(DropReason::Truncated) };
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    let (l4, end) = (l3 + 40, l3 + 40 + usize::from(be16(header, 4)));
    if end > bytes.len() {
        return Err(DropReason::BadLength);
    }
    let protocol = header[6];
    // Hop-by-hop, routing, fragment, destination options, authentication, mobility, HIP, shim6.
    let extension = matches!(protocol, 0 | 43 | 44 | 60 | 51 | 135 | 139 | 140);
    let transport = if extension {
        flags = flags.union(Flags::EXTENSIONS);
        if protocol == 44 {
            flags = flags.union(Flags::FRAGMENT);
        }
        L4::Other
    } else {
        transport(bytes, l4, end, protocol, false, &mut flags, true)?
    };
    if verify == Verify::All && !extension {
        verify_transport(&bytes[l3 + 8..l3 + 40], protocol, &bytes[l4..end], transport)?;
    }
    let shape = Shape::new(tags, L3::Ipv6, transport);
    Ok(Layout {
        shape: if extension { shape.irregular() } else { shape },
        flags,
        l3: l3 as u16,
        l4: l4 as u16,
        end: end as u16,
        ttl: header[7],
    })
}

/// The transport kind, with its least length checked against the end of the packet.
#[inline]
fn transport(
    bytes: &[u8],
    l4: usize,
    end: usize,
    protocol: u8,
    fragment: bool,
    flags: &mut Flags,
    v6: bool,
) -> Result<L4, DropReason> {
    // RFC 1858 section 3: a first fragment too short for its transport header is refused.
    let short = if fragment { DropReason::FragmentInvalid } else { DropReason::BadLength };
    match (protocol, v6) {
        (17, _) => {
            if end < l4 + 8 {
                return Err(short);
            }
            let length = usize::from(be16(bytes, l4 + 4));
            if length < 8 || (!fragment && l4 + length > end) {
                return Err(DropReason::BadLength);
            }
            Ok(L4::Udp)
        }
        (6, _) => {
            if end < l4 + 20 {
                return Err(short);
            }
            let header_bytes = usize::from(bytes[l4 + 12] >> 4) * 4;
            if header_bytes < 20 || (!fragment && l4 + header_bytes > end) {
                return Err(DropReason::BadLength);
            }
            if bytes[l4 + 13] & 0x07 != 0 {
                *flags = flags.union(Flags::TCP_CONTROL);
            }
            Ok(L4::Tcp)
        }
        (1, false) | (58, true) => {
            if end < l4 + 8 {
                return Err(short);
            }
            if matches!((bytes[l4], v6), (0 | 8, false) | (128 | 129, true)) {
                Ok(L4::IcmpEcho)
            } else {
                *flags = flags.union(Flags::ICMP_OTHER);
                Ok(L4::IcmpOther)
            }
        }
        _ => Ok(L4::Other),
    }
}

fn verify_transport(addresses: &[u8], protocol: u8, segment: &[u8], l4: L4) -> Result<(), DropReason> {
    let pseudo = match l4 {
        L4::Other => return Ok(()),
        L4::Udp => {
            // RFC 768: zero means that the sender computed none; RFC 8200 section 8.1 forbids it over IPv6.
            if segment[6..8] == [0, 0] {
                return if addresses.len() == 8 { Ok(()) } else { Err(DropReason::BadL4Checksum) };
            }
            let length = usize::from(be16(segment, 4));
            let sum = checksum::pseudo_header(addresses, protocol, length);
            return check(sum + checksum::sum(&segment[..length]));
        }
        L4::IcmpEcho | L4::IcmpOther if addresses.len() == 8 => 0,
        L4::Tcp | L4::IcmpEcho | L4::IcmpOther => checksum::pseudo_header(addresses, protocol, segment.len()),
    };
    check(pseudo + checksum::sum(segment))
}

fn check(sum: u64) -> Result<(), DropReason> {
    if checksum::fold(sum) == 0xffff { Ok(()) } else { Err(DropReason::BadL4Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp4(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 2000)
            .write(&mut frame, &vec![7; payload])
            .unwrap();
        frame
    }

    #[test]
    fn a_regular_packet_has_its_shape_and_offsets() {
        let mut frame = udp4(10);
        frame.resize(60, 0xee);
        let layout = parse(&frame, Verify::All).unwrap();
        assert_eq!(layout.shape, Shape::new(0, L3::Ipv4, L4::Udp));
        assert_eq!((layout.l3, layout.l4, layout.end, layout.ttl), (14, 34, 52, 64));
        assert_eq!(layout.shape.l4_offset(), 34);
    }

    #[test]
    fn each_truncation_is_refused() {
        let frame = udp4(20);
        for length in 0..frame.len() {
            assert!(parse(&frame[..length], Verify::All).is_err(), "{length}");
        }
    }

    #[test]
    fn wrong_checksums_are_found_where_asked() {
        let mut frame = udp4(20);
        frame[50] ^= 1;
        assert!(parse(&frame, Verify::Ipv4).is_ok());
        assert_eq!(parse(&frame, Verify::All), Err(DropReason::BadL4Checksum));
        frame[15] ^= 4;
        assert!(parse(&frame, Verify::None).is_ok());
        assert_eq!(parse(&frame, Verify::Ipv4), Err(DropReason::BadIpv4Checksum));
    }

    /// The first 64 bytes where a frame lies, with what an earlier one left behind its end.
    fn head_of(frame: &[u8], left: &[u8]) -> [u8; 64] {
        let rest = left.get(frame.len()..).unwrap_or(&[]);
        let mut bytes = frame.iter().chain(rest).copied().chain(std::iter::repeat(0x45));
        std::array::from_fn(|_| bytes.next().unwrap_or_default())
    }

    proptest! {
        /// What the short way accepts, the long way accepts alike; and it accepts what is usual.
        #[test]
        fn the_usual_case_is_no_exception(change in 12usize..54, to: u8, cut in 0usize..70, v6: bool, tcp: bool, changed: bool) {
            let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let builder = if v6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
            let mut frame = Vec::new();
            if tcp {
                builder.tcp(1, 2, 3, 4).write(&mut frame, &[5; 20]).unwrap();
            } else {
                builder.udp(1, 2).write(&mut frame, &[5; 20]).unwrap();
            }
            let left = frame.clone();
            let whole = parse_usual(&head_of(&frame, &left), &frame, Verify::Ipv4);
            prop_assert_eq!(whole, parse(&frame, Verify::Ipv4).ok());
            prop_assert!(whole.is_some());
            if changed {
                frame[change] = to;
            }
            frame.truncate(frame.len() - cut.min(frame.len()));
            for verify in [Verify::None, Verify::Ipv4] {
                if let Some(usual) = parse_usual(&head_of(&frame, &left), &frame, verify) {
                    prop_assert_eq!(parse(&frame, verify), Ok(usual));
                }
            }
        }

        #[test]
        fn any_bytes_are_safe(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            left in proptest::collection::vec(any::<u8>(), 64),
            kind in 0usize..4,
        ) {
            let mut bytes = bytes;
            if bytes.len() > 20 {
                let (a, b, c) = [(8, 0, 0x45), (0x86, 0xdd, 0x60), (0x81, 0, 0), (8, 6, 0)][kind];
                (bytes[12], bytes[13], bytes[14]) = (a, b, c);
            }
            for verify in [Verify::None, Verify::Ipv4, Verify::All] {
                if let Some(usual) = parse_usual(&head_of(&bytes, &left), &bytes, verify) {
                    prop_assert_eq!(parse(&bytes, verify), Ok(usual));
                }
                if let Ok(layout) = parse(&bytes, verify) {
                    prop_assert!(layout.l3 <= layout.l4 && layout.l4 <= layout.end);
                    prop_assert!(usize::from(layout.end) <= bytes.len());
                    if layout.shape.is_regular() {
                        prop_assert_eq!(usize::from(layout.l4), layout.shape.l4_offset());
                        prop_assert!(layout.shape.header_bytes() <= usize::from(layout.end));
                    }
                }
            }
        }
    }
}
