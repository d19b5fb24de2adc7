//! What a generator sends: plain values, checked once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::FRAME_BYTES_MAX;
use crate::port::MacAddress;

/// Most flows of a profile: bounds the memory of the prepared headers (64 to 128 bytes a flow).
pub const FLOWS_MAX: usize = 1 << 24;

/// Consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address.
    pub first: IpAddr,
    /// Number of addresses, from 1 on.
    pub count: u32,
}

impl AddressRange {
    /// The address at `index`, which wraps at the end of the address space.
    pub(super) fn at(&self, index: u64) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().wrapping_add(index as u32)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(index.into())).into(),
        }
    }
}

/// Consecutive ports of TCP or UDP, or identifiers of ICMP echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    fn count(self) -> u64 {
        u64::from(self.last) + 1 - u64::from(self.first)
    }
}

/// One end of the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The link address at this end.
    pub mac: MacAddress,
    /// The IP addresses at this end; both ends are of one version.
    pub addresses: AddressRange,
    /// The ports at this end. Of ICMP echo, the source's are the identifiers, and the target's are not used.
    pub ports: PortRange,
}

/// The fields of generated TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFields {
    /// The flags, as in the header's 14th byte (RFC 9293 section 3.1): 0x02 SYN, 0x10 ACK, ...
    pub flags: u8,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// The window.
    pub window: u16,
}

impl TcpFields {
    /// A segment that opens a connection.
    pub const SYN: Self = Self { flags: 0x02, sequence: 0, acknowledgement: 0, window: 0xffff };
    /// The answer to [`Self::SYN`], for the reverse profile.
    pub const SYN_ACK: Self = Self { flags: 0x12, sequence: 0, acknowledgement: 1, window: 0xffff };
    /// A segment of an open connection, after [`Self::SYN`] and [`Self::SYN_ACK`], in either direction.
    pub const ACK: Self = Self { flags: 0x10, sequence: 1, acknowledgement: 1, window: 0xffff };
}

/// What the packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP, every segment with the same fields.
    Tcp(TcpFields),
    /// ICMP or ICMPv6 echo: requests, and replies in the reverse profile.
    IcmpEcho,
}

/// The lengths of frames in bytes, without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameBytes {
    /// All frames alike.
    Fixed(usize),
    /// 64, 594 and 1,518 bytes, 7 to 4 to 1, in a fixed mixed order. Frames that are too short for their headers
    /// are as long as these.
    Imix,
    /// Any length from the first to the second, all equally likely.
    Range(usize, usize),
}

/// How fast packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as they are taken.
    Unlimited,
    /// So many a second, evenly; time lost is made up for 1,024 packets at most.
    PerSecond(u64),
}

/// In which order the flows come. Each flow comes once a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Source ports first, then source addresses, target addresses and target ports.
    Sequential,
    /// A random permutation, drawn once from the seed.
    Permuted,
}

/// What a generator sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The end that opens the flows.
    pub source: Endpoint,
    /// The other end.
    pub target: Endpoint,
    /// What the packets carry.
    pub protocol: Protocol,
    /// Number of flows: distinct pairs of endpoints, as far as the ranges allow.
    pub flows: usize,
    /// Lengths of the frames.
    pub frame_bytes: FrameBytes,
    /// An 802.1Q tag with this VLAN identifier.
    pub vlan: Option<u16>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// How fast packets come.
    pub rate: Rate,
    /// Number of packets to send in all, if bounded.
    pub packets: Option<u64>,
    /// Order of the flows.
    pub order: Order,
    /// Seed of all that is random.
    pub seed: u64,
    /// Whether the packets go from the target to the source: see [`Self::reverse`].
    pub reversed: bool,
}

impl Profile {
    /// UDP in 64-byte frames from 10.0.0.0/16 to 10.1.0.1 port 80, in permuted order, as fast as possible.
    pub const fn udp(flows: usize) -> Self {
        Self {
            source: Endpoint {
                mac: [0x02, 0, 0, 0, 0, 0x01],
                addresses: AddressRange { first: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), count: 65_000 },
                ports: PortRange { first: 1_024, last: 65_535 },
            },
            target: Endpoint {
                mac: [0x02, 0, 0, 0, 0, 0x02],
                addresses: AddressRange { first: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), count: 1 },
                ports: PortRange::one(80),
            },
            protocol: Protocol::Udp,
            flows,
            frame_bytes: FrameBytes::Fixed(64),
            vlan: None,
            ttl: 64,
            rate: Rate::Unlimited,
            packets: None,
            order: Order::Permuted,
            seed: 1,
            reversed: false,
        }
    }

    /// The other direction of the same flows, in the same order.
    pub fn reverse(&self) -> Self {
        Self { reversed: !self.reversed, ..self.clone() }
    }

    /// Whether the packets are IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.source.addresses.first.is_ipv6()
    }

    /// Bytes of all headers.
    pub(super) fn header_bytes(&self) -> usize {
        let link = if self.vlan.is_some() { 18 } else { 14 };
        let network = if self.is_ipv6() { 40 } else { 20 };
        let transport = if matches!(self.protocol, Protocol::Tcp(_)) { 20 } else { 8 };
        link + network + transport
    }

    /// The tuple of flow `index`, from the end that opens it: source and target, address and port.
    pub(super) fn flow(&self, index: u64) -> [(IpAddr, u16); 2] {
        let mut rest = index;
        let mut digit = |count: u64| {
            let digit = rest % count;
            rest /= count;
            digit
        };
        let source_port = self.source.ports.first + digit(self.source.ports.count()) as u16;
        let source = self.source.addresses.at(digit(self.source.addresses.count.into()));
        let target = self.target.addresses.at(digit(self.target.addresses.count.into()));
        let target_port = self.target.ports.first + digit(self.target.ports.count()) as u16;
        [(source, source_port), (target, target_port)]
    }

    /// Checks that packets can be made of it.
    ///
    /// # Errors
    /// The first thing that can't be.
    pub fn check(&self) -> Result<(), ProfileError> {
        for (end, endpoint) in [("source", &self.source), ("target", &self.target)] {
            if endpoint.addresses.count == 0 || endpoint.ports.first > endpoint.ports.last {
                return Err(ProfileError::EmptyRange(end));
            }
        }
        if self.source.addresses.first.is_ipv4() != self.target.addresses.first.is_ipv4() {
            return Err(ProfileError::MixedVersions);
        }
        let target_ports =
            if self.protocol == Protocol::IcmpEcho { 1 } else { u128::from(self.target.ports.count()) };
        let distinct = u128::from(self.source.ports.count())
            * u128::from(self.source.addresses.count)
            * u128::from(self.target.addresses.count)
            * target_ports;
        let flows_max = usize::try_from(distinct).unwrap_or(usize::MAX).min(FLOWS_MAX);
        if !(1..=flows_max).contains(&self.flows) {
            return Err(ProfileError::Flows { flows: self.flows, flows_max });
        }
        if self.vlan.is_some_and(|vlan| vlan > 4_094) {
            return Err(ProfileError::Vlan(self.vlan.unwrap_or(0)));
        }
        if self.rate == Rate::PerSecond(0) {
            return Err(ProfileError::Rate);
        }
        let (shortest, longest) = match self.frame_bytes {
            FrameBytes::Fixed(bytes) => (bytes, bytes),
            FrameBytes::Imix => (self.header_bytes(), 1_518),
            FrameBytes::Range(shortest, longest) => (shortest, longest),
        };
        let least = self.header_bytes();
        if shortest < least || longest < shortest || longest > FRAME_BYTES_MAX {
            return Err(ProfileError::FrameBytes { shortest, longest, least });
        }
        Ok(())
    }
}

/// Why no packets can be made of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A range of addresses or ports is empty.
    #[error("the {0}'s range of addresses or ports is empty")]
    EmptyRange(&'static str),
    /// One end is IPv4, the other IPv6.
    #[error("source and target addresses must be of one IP version")]
    MixedVersions,
    /// Too few or too many flows.
    #[error("{flows} flows: the ranges and the limit of {FLOWS_MAX} allow 1 to {flows_max}")]
    Flows {
        /// Flows wanted.
        flows: usize,
        /// Most flows that are possible.
        flows_max: usize,
    },
    /// No VLAN identifier.
    #[error("VLAN {0}: identifiers are 0 to 4094")]
    Vlan(u16),
    /// Nothing would ever be sent.
    #[error("a rate of 0 packets a second: it must be 1 at least")]
    Rate,
    /// The frame length is not possible.
    #[error(
        "frames of {shortest} to {longest} bytes: the headers need {least}, and {FRAME_BYTES_MAX} is the most"
    )]
    FrameBytes {
        /// The shortest frame wanted.
        shortest: usize,
        /// The longest frame wanted.
        longest: usize,
        /// Bytes of the headers.
        least: usize,
    },
}
