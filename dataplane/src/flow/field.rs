//! Header fields: where each lies in a packet, and which checksums cover it.

use crate::packet::{L3, L4, Shape};

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A header field that functions read and edit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Field { $($(#[doc = $doc])+ $name,)+ }

        impl Field {
            /// All fields.
            pub const ALL: &'static [Field] = &[$(Field::$name,)+];

            /// The name that people read.
            pub const fn name(self) -> &'static str {
                match self { $(Field::$name => $text,)+ }
            }
        }
    };
}

fields! {
    /// Ethernet destination, 6 bytes.
    EthernetDestination = "ethernet_destination",
    /// Ethernet source, 6 bytes.
    EthernetSource = "ethernet_source",
    /// EtherType after all tags.
    EtherType = "ether_type",
    /// Tag control information of the outer tag.
    VlanOuter = "vlan_outer",
    /// Tag control information of the inner tag.
    VlanInner = "vlan_inner",
    /// IPv4 source address.
    Ipv4Source = "ipv4_source",
    /// IPv4 destination address.
    Ipv4Destination = "ipv4_destination",
    /// IPv6 source address.
    Ipv6Source = "ipv6_source",
    /// IPv6 destination address.
    Ipv6Destination = "ipv6_destination",
    /// Differentiated services code point (RFC 2474), 6 bits.
    Dscp = "dscp",
    /// Explicit congestion notification (RFC 3168), 2 bits.
    Ecn = "ecn",
    /// IPv4 TTL or IPv6 hop limit.
    Ttl = "ttl",
    /// IPv4 protocol or IPv6 next header.
    Protocol = "protocol",
    /// IPv6 flow label, 20 bits.
    FlowLabel = "flow_label",
    /// TCP or UDP source port.
    SourcePort = "source_port",
    /// TCP or UDP destination port.
    DestinationPort = "destination_port",
    /// ICMP or ICMPv6 type.
    IcmpType = "icmp_type",
    /// ICMP or ICMPv6 code.
    IcmpCode = "icmp_code",
    /// Identifier of an echo message.
    IcmpIdentifier = "icmp_identifier",
    /// TCP sequence number.
    TcpSequence = "tcp_sequence",
    /// TCP acknowledgment number.
    TcpAcknowledgment = "tcp_acknowledgment",
    /// TCP flags, 8 bits.
    TcpFlags = "tcp_flags",
    /// TCP window.
    TcpWindow = "tcp_window",
    /// ARP operation.
    ArpOperation = "arp_operation",
    /// ARP sender protocol address.
    ArpSender = "arp_sender",
    /// ARP target protocol address.
    ArpTarget = "arp_target",
}

/// Number of fields.
pub const FIELDS: usize = Field::ALL.len();

/// Where a field lies: `bytes` bytes from `offset`, of which `mask` (right-aligned, big-endian) belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Offset in the frame.
    pub offset: usize,
    /// Number of bytes, at most 16.
    pub bytes: usize,
    /// Bits of the field within these bytes.
    pub mask: u128,
}

impl Location {
    /// Bits that the field is shifted left within its bytes.
    pub const fn shift(&self) -> u32 {
        self.mask.trailing_zeros()
    }
}

/// Which checksums a field is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The IPv4 header checksum.
    pub l3: bool,
    /// The transport checksum, by the pseudo-header or directly.
    pub l4: bool,
}

impl Field {
    /// Where the field lies in a packet of this shape whose headers start at `l3` and `l4`; none if it has no such field.
    pub fn locate(self, shape: Shape, l3: usize, l4: usize) -> Option<Location> {
        let at = |offset, bytes, mask| Some(Location { offset, bytes, mask });
        let tags = shape.tags();
        let (v4, v6, arp) = (shape.l3() == L3::Ipv4, shape.l3() == L3::Ipv6, shape.l3() == L3::Arp);
        let ports = matches!(shape.l4(), L4::Tcp | L4::Udp);
        let tcp = shape.l4() == L4::Tcp;
        let echo = shape.l4() == L4::IcmpEcho;
        let icmp = echo || shape.l4() == L4::IcmpOther;
        match self {
            Self::EthernetDestination => at(0, 6, 0xffff_ffff_ffff),
            Self::EthernetSource => at(6, 6, 0xffff_ffff_ffff),
            Self::EtherType => at(l3 - 2, 2, 0xffff),
            Self::VlanOuter if tags > 0 => at(14, 2, 0xffff),
            Self::VlanInner if tags > 1 => at(18, 2, 0xffff),
            Self::Ipv4Source if v4 => at(l3 + 12, 4, 0xffff_ffff),
            Self::Ipv4Destination if v4 => at(l3 + 16, 4, 0xffff_ffff),
            Self::Ipv6Source if v6 => at(l3 + 8, 16, u128::MAX),
            Self::Ipv6Destination if v6 => at(l3 + 24, 16, u128::MAX),
            Self::Dscp if v4 => at(l3 + 1, 1, 0xfc),
            Self::Dscp if v6 => at(l3, 2, 0x0fc0),
            Self::Ecn if v4 => at(l3 + 1, 1, 0x03),
            Self::Ecn if v6 => at(l3, 2, 0x0030),
            Self::Ttl if v4 => at(l3 + 8, 1, 0xff),
            Self::Ttl if v6 => at(l3 + 7, 1, 0xff),
            Self::Protocol if v4 => at(l3 + 9, 1, 0xff),
            Self::Protocol if v6 => at(l3 + 6, 1, 0xff),
            Self::FlowLabel if v6 => at(l3, 4, 0x000f_ffff),
            Self::SourcePort if ports => at(l4, 2, 0xffff),
            Self::DestinationPort if ports => at(l4 + 2, 2, 0xffff),
            Self::IcmpType if icmp => at(l4, 1, 0xff),
            Self::IcmpCode if icmp => at(l4 + 1, 1, 0xff),
            Self::IcmpIdentifier if echo => at(l4 + 4, 2, 0xffff),
            Self::TcpSequence if tcp => at(l4 + 4, 4, 0xffff_ffff),
            Self::TcpAcknowledgment if tcp => at(l4 + 8, 4, 0xffff_ffff),
            Self::TcpFlags if tcp => at(l4 + 13, 1, 0xff),
            Self::TcpWindow if tcp => at(l4 + 14, 2, 0xffff),
            Self::ArpOperation if arp => at(l3 + 6, 2, 0xffff),
            Self::ArpSender if arp => at(l3 + 14, 4, 0xffff_ffff),
            Self::ArpTarget if arp => at(l3 + 24, 4, 0xffff_ffff),
            _ => None,
        }
    }

    /// Which checksums of a packet of this shape change with the field.
    pub fn coverage(self, shape: Shape) -> Coverage {
        let v4 = shape.l3() == L3::Ipv4;
        let icmp = matches!(shape.l4(), L4::IcmpEcho | L4::IcmpOther);
        match self {
            // ICMP over IPv4 has no pseudo-header (RFC 792).
            Self::Ipv4Source | Self::Ipv4Destination => Coverage { l3: true, l4: !icmp },
            Self::Ipv6Source | Self::Ipv6Destination => Coverage { l3: false, l4: true },
            Self::Dscp | Self::Ecn | Self::Ttl => Coverage { l3: v4, l4: false },
            Self::Protocol => Coverage { l3: v4, l4: true },
            Self::SourcePort
            | Self::DestinationPort
            | Self::IcmpType
            | Self::IcmpCode
            | Self::IcmpIdentifier
            | Self::TcpSequence
            | Self::TcpAcknowledgment
            | Self::TcpFlags
            | Self::TcpWindow => Coverage { l3: false, l4: true },
            _ => Coverage { l3: false, l4: false },
        }
    }
}

/// Where the transport checksum lies, if the shape has one.
pub const fn l4_checksum_offset(shape: Shape, l4: usize) -> Option<usize> {
    match shape.l4() {
        L4::Tcp => Some(l4 + 16),
        L4::Udp => Some(l4 + 6),
        L4::IcmpEcho | L4::IcmpOther => Some(l4 + 2),
        L4::Other => None,
    }
}

/// Which bits of which fields are read or may be read: the declaration of a function, or the union of several (R2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads([u128; FIELDS]);

impl Default for Reads {
    fn default() -> Self {
        Self([0; FIELDS])
    }
}

impl Reads {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds whole fields.
    #[must_use]
    pub fn with(mut self, fields: &[Field]) -> Self {
        for &field in fields {
            self.0[field as usize] = u128::MAX;
        }
        self
    }

    /// Adds the bits of `mask` (right-aligned in the field).
    #[must_use]
    pub fn with_mask(mut self, field: Field, mask: u128) -> Self {
        self.0[field as usize] |= mask;
        self
    }

    /// Adds all that `other` has.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// The bits declared of `field`, right-aligned.
    #[inline]
    pub fn mask(&self, field: Field) -> u128 {
        self.0[field as usize]
    }

    /// The fields with a bit declared.
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        Field::ALL.iter().copied().filter(|&field| self.mask(field) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields_lie_inside_their_headers() {
        for shape in (0..128).map(Shape).filter(|s| s.tags() < 3) {
            if !matches!(shape.l3(), L3::Ipv4 | L3::Ipv6) && shape.l4() != L4::Other {
                continue;
            }
            for &field in Field::ALL {
                if let Some(l) = field.locate(shape, shape.l3_offset(), shape.l4_offset()) {
                    assert!(l.offset + l.bytes <= shape.header_bytes(), "{field:?} {shape:?}");
                    assert!(l.mask != 0 && (l.bytes == 16 || l.mask >> (l.bytes * 8) == 0));
                }
            }
        }
    }
}
