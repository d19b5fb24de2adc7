//! Headers that record who reads and edits them.
//!
//! A function sees values; the walk sees operations. Reads are held against what was declared (R2): a field that is
//! not part of the key, and that no function of this walk has set, makes the decision uncached. Edits are kept as operations
//! in order (R1), never inferred by comparing values.

use super::embedded::{Embedded, EmbeddedTransport};
use super::{Icmpv4, Icmpv6, Network, Offsets, Parsed, Tcp, Transport};
use arrayvec::ArrayVec;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{FIELDS, Field, Reads};
use millrace_dataplane::flow::session::Tuple;
use millrace_dataplane::packet::{Flags, L3, L4, Layout, Shape, checksum};
use millrace_dataplane::port::MacAddress;
use std::net::IpAddr;

/// Most edits of one walk.
pub const EDITS_MAX: usize = 48;

/// One edit, as an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Sets a field to a value, right-aligned.
    Set(Field, u128),
    /// Decrements TTL or hop limit.
    DecrementTtl,
    /// Writes up to 8 bytes at an offset of this very packet; the transport checksum covers them or not.
    Bytes {
        /// Offset in the frame.
        offset: u16,
        /// The bytes; `count` of them.
        bytes: [u8; 8],
        /// How many.
        count: u8,
        /// The transport checksum covers them.
        l4: bool,
    },
}

/// The headers of a packet on its walk.
#[derive(Clone, Debug)]
pub struct Headers {
    original: Parsed,
    current: Parsed,
    layout: Layout,
    embedded: Option<Embedded>,
    /// The quoted transport checksum, if the quote has it; zero otherwise.
    embedded_checksum: u16,
    /// Ports of a later fragment, known from the first one.
    fragment_ports: Option<(u16, u16)>,
    original_fragment_ports: Option<(u16, u16)>,
    /// Fields that were declared whole.
    declared: u64,
    /// Fields that may be read: those, and what a function set.
    known: u64,
    /// Fields that were read without being known.
    undeclared: u64,
    edits: ArrayVec<Edit, EDITS_MAX>,
    /// The kinds of the last edits, [`KIND_BITS`] each.
    kinds: u64,
    writes_bytes: bool,
    overflow: bool,
    guards: Flags,
    /// Edits of what sessions are found by.
    tuple_edits: u16,
}

/// Bits that tell kinds of edits apart. None is all zeros.
const KIND_BITS: u32 = 5;
/// The kind of [`Edit::DecrementTtl`]; those before are of the fields that are set.
const DECREMENT_KIND: u64 = FIELDS as u64 + 1;
const _: () = assert!(FIELDS <= 64 && DECREMENT_KIND < 1 << KIND_BITS);

const IPV4_FIELDS: u64 = 1 << Field::Ipv4Source as u64 | 1 << Field::Ipv4Destination as u64;
const IPV6_FIELDS: u64 = 1 << Field::Ipv6Source as u64 | 1 << Field::Ipv6Destination as u64;
const PORT_FIELDS: u64 = 1 << Field::SourcePort as u64 | 1 << Field::DestinationPort as u64;
/// The fields that a session's tuple is made of.
const TUPLE_FIELDS: u64 = IPV4_FIELDS | IPV6_FIELDS | PORT_FIELDS | 1 << Field::IcmpIdentifier as u64;

impl Headers {
    /// Headers of nothing, to be filled by [`Self::read`].
    pub fn empty() -> Self {
        Self {
            original: Parsed::default(),
            current: Parsed::default(),
            layout: Layout::default(),
            embedded: None,
            embedded_checksum: 0,
            fragment_ports: None,
            original_fragment_ports: None,
            declared: 0,
            known: 0,
            undeclared: 0,
            edits: ArrayVec::new(),
            kinds: 0,
            writes_bytes: false,
            overflow: false,
            guards: Flags::default(),
            tuple_edits: 0,
        }
    }

    /// What the functions of the chain declared; kept from packet to packet.
    pub fn declare(&mut self, reads: &Reads) {
        let whole = Field::ALL.iter().filter(|&&field| reads.mask(field) == u128::MAX);
        self.declared = whole.fold(0, |bits, &field| bits | 1 << field as u64);
    }

    /// Reads the headers of a frame with this layout.
    ///
    /// # Errors
    /// The reason why the frame is refused; stricter than the packet path, which does not walk extension headers.
    pub fn read(&mut self, bytes: &[u8], layout: Layout) -> Result<(), DropReason> {
        self.original.read(bytes)?;
        (self.embedded, self.embedded_checksum) = (None, 0);
        if matches!(self.original.transport, Transport::Icmpv4(_) | Transport::Icmpv6(_)) {
            self.read_embedded(bytes)?;
        }
        self.current.clone_from(&self.original);
        self.layout = exact_layout(&self.original, layout);
        self.fragment_ports = None;
        self.original_fragment_ports = None;
        self.known = self.declared;
        self.undeclared = 0;
        self.edits.clear();
        (self.kinds, self.writes_bytes) = (0, false);
        self.overflow = false;
        self.guards = Flags::default();
        self.tuple_edits = 0;
        Ok(())
    }

    #[cold]
    fn read_embedded(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        self.embedded = Embedded::parse(&self.original, bytes)?;
        let checksum_at = self.embedded.as_ref().and_then(|embedded| embedded.transport_checksum_at);
        self.embedded_checksum = checksum_at
            .and_then(|at| bytes.get(usize::from(at)..usize::from(at) + 2))
            .map_or(0, |field| u16::from_be_bytes([field[0], field[1]]));
        Ok(())
    }

    #[inline]
    fn note(&mut self, field: Field) {
        self.note_all(1 << field as u64);
    }

    #[inline]
    fn note_all(&mut self, fields: u64) {
        self.undeclared |= fields & !self.known;
    }

    /// The headers as they came, unrecorded: for answers that quote or reflect the packet, which are never cached.
    pub fn original(&self) -> &Parsed {
        &self.original
    }

    /// The headers as they are now, unrecorded: for people and for tests.
    pub fn current(&self) -> &Parsed {
        &self.current
    }

    /// Where the headers lie.
    pub fn offsets(&self) -> Offsets {
        self.original.offsets
    }

    /// The layout, exact also for irregular packets.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The edits so far.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// A field that was read without being declared.
    pub fn undeclared(&self) -> Option<Field> {
        Field::ALL.get(self.undeclared.trailing_zeros() as usize).copied()
    }

    /// The kinds of all edits in order, as one number; none if they are too many or write bytes.
    pub(crate) fn edit_kinds(&self) -> Option<u64> {
        let fit = self.edits.len() <= (u64::BITS / KIND_BITS) as usize;
        (fit && !self.writes_bytes).then_some(self.kinds)
    }

    /// More edits than fit.
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// What later packets are guarded against because this walk looked at it.
    pub fn guards(&self) -> Flags {
        self.guards
    }

    /// Bytes from the network header to the end of the packet. Guarded by [`crate::walk::Walk::fits`], not keyed.
    pub fn network_bytes(&self) -> u16 {
        self.layout.end - self.layout.l3
    }

    // Structure: part of the shape, so that it is always keyed.

    /// Structure of the packet.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// True for IPv4.
    pub fn is_ipv4(&self) -> bool {
        matches!(self.original.network, Network::V4(_))
    }

    /// True for IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(self.original.network, Network::V6(_))
    }

    /// True for IPv4 and IPv6.
    pub fn is_ip(&self) -> bool {
        self.is_ipv4() || self.is_ipv6()
    }

    /// A fragment of any kind: never cached (R3).
    pub fn is_fragment(&self) -> bool {
        self.original.is_fragment()
    }

    /// A fragment without transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.original.is_later_fragment()
    }

    /// IP protocol: part of the shape, or keyed where the shape leaves it open.
    pub fn protocol(&self) -> Option<u8> {
        self.original.protocol()
    }

    /// The TCP header as it came: only flags that are guarded may decide something that is cached.
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.original.transport {
            Transport::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// True if SYN, FIN or RST is set. Later packets with one of them will walk.
    pub fn is_tcp_control(&mut self) -> bool {
        self.guards = self.guards.union(Flags::TCP_CONTROL);
        self.layout.flags.intersects(Flags::TCP_CONTROL)
    }

    /// The ICMPv4 header as it came; its type and code are recorded as read.
    pub fn icmpv4(&mut self) -> Option<Icmpv4> {
        let Transport::Icmpv4(icmp) = self.original.transport else { return None };
        self.note(Field::IcmpType);
        self.note(Field::IcmpCode);
        Some(icmp)
    }

    /// The ICMPv6 header as it came; its type and code are recorded as read.
    pub fn icmpv6(&mut self) -> Option<Icmpv6> {
        let Transport::Icmpv6(icmp) = self.original.transport else { return None };
        self.note(Field::IcmpType);
        self.note(Field::IcmpCode);
        Some(icmp)
    }

    /// The packet that an ICMP error quotes.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    // Values.

    /// Ethernet destination.
    pub fn ethernet_destination(&mut self) -> MacAddress {
        self.note(Field::EthernetDestination);
        self.current.ethernet.destination
    }

    /// Ethernet source.
    pub fn ethernet_source(&mut self) -> MacAddress {
        self.note(Field::EthernetSource);
        self.current.ethernet.source
    }

    /// Source address.
    #[inline]
    pub fn source(&mut self) -> Option<IpAddr> {
        let (field, address) = match &self.current.network {
            Network::V4(ip) => (Field::Ipv4Source, IpAddr::V4(ip.source)),
            Network::V6(ip) => (Field::Ipv6Source, IpAddr::V6(ip.source)),
            Network::None | Network::Arp(_) => return None,
        };
        self.note(field);
        Some(address)
    }

    /// Destination address.
    #[inline]
    pub fn destination(&mut self) -> Option<IpAddr> {
        let (field, address) = match &self.current.network {
            Network::V4(ip) => (Field::Ipv4Destination, IpAddr::V4(ip.destination)),
            Network::V6(ip) => (Field::Ipv6Destination, IpAddr::V6(ip.destination)),
            Network::None | Network::Arp(_) => return None,
        };
        self.note(field);
        Some(address)
    }

    /// Source and destination address.
    #[inline]
    pub fn addresses(&mut self) -> Option<(IpAddr, IpAddr)> {
        let (fields, source, destination) = match &self.current.network {
            Network::V4(ip) => (IPV4_FIELDS, IpAddr::V4(ip.source), IpAddr::V4(ip.destination)),
            Network::V6(ip) => (IPV6_FIELDS, IpAddr::V6(ip.source), IpAddr::V6(ip.destination)),
            Network::None | Network::Arp(_) => return None,
        };
        self.note_all(fields);
        Some((source, destination))
    }

    /// Source and destination port of TCP or UDP; of a later fragment, those of its first one.
    #[inline]
    pub fn ports(&mut self) -> Option<(u16, u16)> {
        if self.fragment_ports.is_some() {
            return self.fragment_ports;
        }
        self.note_all(PORT_FIELDS);
        self.current.ports()
    }

    /// TCP or UDP source port; of a later fragment, that of its first one.
    pub fn source_port(&mut self) -> Option<u16> {
        if let Some((source, _)) = self.fragment_ports {
            return Some(source);
        }
        self.note(Field::SourcePort);
        self.current.ports().map(|(source, _)| source)
    }

    /// TCP or UDP destination port; of a later fragment, that of its first one.
    pub fn destination_port(&mut self) -> Option<u16> {
        if let Some((_, destination)) = self.fragment_ports {
            return Some(destination);
        }
        self.note(Field::DestinationPort);
        self.current.ports().map(|(_, destination)| destination)
    }

    /// Identifier of an ICMP or ICMPv6 echo message; of a later fragment, that of its first one.
    pub fn icmp_identifier(&mut self) -> Option<u16> {
        if let Some((identifier, _)) = self.fragment_ports {
            return Some(identifier);
        }
        self.note(Field::IcmpIdentifier);
        match &self.current.transport {
            Transport::Icmpv4(icmp) if icmp.is_echo() => Some(icmp.identifier()),
            Transport::Icmpv6(icmp) if icmp.is_echo() => Some(icmp.identifier()),
            _ => None,
        }
    }

    /// Differentiated services code point.
    pub fn dscp(&mut self) -> Option<u8> {
        self.note(Field::Dscp);
        match &self.current.network {
            Network::V4(ip) => Some(ip.dscp),
            Network::V6(ip) => Some(ip.dscp),
            _ => None,
        }
    }

    /// True if TTL or hop limit allows another hop. Not keyed: [`Self::decrement_ttl`] guards it.
    pub fn may_be_forwarded(&self) -> bool {
        match &self.current.network {
            Network::V4(ip) => ip.ttl > 1,
            Network::V6(ip) => ip.hop_limit > 1,
            _ => true,
        }
    }

    /// Writes the tuple of the packet as it came, and records it as read. False if its protocol has no sessions.
    #[inline]
    pub(crate) fn read_tuple(&mut self, domain: u16, tuple: &mut Tuple) -> bool {
        let fields = write_tuple(&self.original, self.original_fragment_ports, domain, false, tuple);
        self.note_all(fields.unwrap_or(0));
        fields.is_some()
    }

    /// Writes the tuple of answers to the headers as they are now, and records those as read. False if their protocol has no
    /// sessions.
    #[inline]
    pub(crate) fn read_answer_tuple(&mut self, domain: u16, tuple: &mut Tuple) -> bool {
        let fields = write_tuple(&self.current, self.fragment_ports, domain, true, tuple);
        self.note_all(fields.unwrap_or(0));
        fields.is_some()
    }

    /// The tuple of the packet as it came, unrecorded.
    pub(crate) fn original_tuple(&self, domain: u16) -> Option<Tuple> {
        let mut tuple = Tuple::default();
        write_tuple(&self.original, self.original_fragment_ports, domain, false, &mut tuple)?;
        Some(tuple)
    }

    /// True for ARP and neighbour discovery: the link's own business, which no function but the forwarder sees.
    pub fn is_link_control(&self) -> bool {
        match (&self.original.network, &self.original.transport) {
            (Network::Arp(_), _) => true,
            (_, Transport::Icmpv6(icmp)) => icmp.is_neighbour_discovery(),
            _ => false,
        }
    }

    // Edits.

    #[inline]
    fn edit(&mut self, edit: Edit) {
        let kind = match edit {
            Edit::Set(field, _) => {
                let bit = 1 << field as u64;
                self.known |= bit;
                self.tuple_edits += u16::from(TUPLE_FIELDS & bit != 0);
                field as u64 + 1
            }
            Edit::DecrementTtl => DECREMENT_KIND,
            Edit::Bytes { .. } => {
                self.writes_bytes = true;
                0
            }
        };
        self.kinds = self.kinds << KIND_BITS | kind;
        self.overflow |= self.edits.try_push(edit).is_err();
    }

    /// Sets the Ethernet destination.
    pub fn set_ethernet_destination(&mut self, address: MacAddress) {
        self.current.ethernet.destination = address;
        self.edit(Edit::Set(Field::EthernetDestination, mac_value(address)));
    }

    /// Sets the Ethernet source.
    pub fn set_ethernet_source(&mut self, address: MacAddress) {
        self.current.ethernet.source = address;
        self.edit(Edit::Set(Field::EthernetSource, mac_value(address)));
    }

    /// Sets the source address; an address of the other family is ignored.
    pub fn set_source(&mut self, address: IpAddr) {
        match (&mut self.current.network, address) {
            (Network::V4(ip), IpAddr::V4(address)) => {
                ip.source = address;
                self.edit(Edit::Set(Field::Ipv4Source, u128::from(u32::from(address))));
            }
            (Network::V6(ip), IpAddr::V6(address)) => {
                ip.source = address;
                self.edit(Edit::Set(Field::Ipv6Source, u128::from(address)));
            }
            _ => {}
        }
    }

    /// Sets the destination address; an address of the other family is ignored.
    pub fn set_destination(&mut self, address: IpAddr) {
        match (&mut self.current.network, address) {
            (Network::V4(ip), IpAddr::V4(address)) => {
                ip.destination = address;
                self.edit(Edit::Set(Field::Ipv4Destination, u128::from(u32::from(address))));
            }
            (Network::V6(ip), IpAddr::V6(address)) => {
                ip.destination = address;
                self.edit(Edit::Set(Field::Ipv6Destination, u128::from(address)));
            }
            _ => {}
        }
    }

    /// Sets the TCP or UDP source port. A later fragment has none to set.
    pub fn set_source_port(&mut self, port: u16) {
        if let Some(ports) = &mut self.fragment_ports {
            ports.0 = port;
            self.tuple_edits += 1;
            return;
        }
        match &mut self.current.transport {
            Transport::Tcp(tcp) => tcp.source_port = port,
            Transport::Udp(udp) => udp.source_port = port,
            _ => return,
        }
        self.edit(Edit::Set(Field::SourcePort, u128::from(port)));
    }

    /// Sets the TCP or UDP destination port. A later fragment has none to set.
    pub fn set_destination_port(&mut self, port: u16) {
        if let Some(ports) = &mut self.fragment_ports {
            ports.1 = port;
            self.tuple_edits += 1;
            return;
        }
        match &mut self.current.transport {
            Transport::Tcp(tcp) => tcp.destination_port = port,
            Transport::Udp(udp) => udp.destination_port = port,
            _ => return,
        }
        self.edit(Edit::Set(Field::DestinationPort, u128::from(port)));
    }

    /// Sets the identifier of an echo message. A later fragment has none to set.
    pub fn set_icmp_identifier(&mut self, identifier: u16) {
        if let Some(ports) = &mut self.fragment_ports {
            *ports = (identifier, identifier);
            self.tuple_edits += 1;
            return;
        }
        match &mut self.current.transport {
            Transport::Icmpv4(icmp) if icmp.is_echo() => icmp.set_identifier(identifier),
            Transport::Icmpv6(icmp) if icmp.is_echo() => icmp.set_identifier(identifier),
            _ => return,
        }
        self.edit(Edit::Set(Field::IcmpIdentifier, u128::from(identifier)));
    }

    /// Sets the differentiated services code point, 6 bits.
    pub fn set_dscp(&mut self, dscp: u8) {
        let dscp = dscp & 0x3f;
        match &mut self.current.network {
            Network::V4(ip) => ip.dscp = dscp,
            Network::V6(ip) => ip.dscp = dscp,
            _ => return,
        }
        self.edit(Edit::Set(Field::Dscp, u128::from(dscp)));
    }

    /// Decrements TTL or hop limit; packets that can't be decremented above zero will walk.
    pub fn decrement_ttl(&mut self) {
        match &mut self.current.network {
            Network::V4(ip) => ip.ttl = ip.ttl.saturating_sub(1),
            Network::V6(ip) => ip.hop_limit = ip.hop_limit.saturating_sub(1),
            _ => return,
        }
        self.edit(Edit::DecrementTtl);
    }

    /// Writes bytes at an offset of this very packet (a TCP option, a quoted header); it will not be cached.
    pub fn set_bytes(&mut self, offset: usize, bytes: &[u8], l4: bool) {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            let offset = (offset + 8 * i) as u16;
            self.edit(Edit::Bytes { offset, bytes: eight, count: chunk.len() as u8, l4 });
        }
    }

    // The packet that an ICMP error quotes.

    /// The tuple of the quoted packet; none if there is none, or its protocol has no sessions.
    pub fn embedded_tuple(&self, domain: u16) -> Option<Tuple> {
        let embedded = self.embedded.as_ref()?;
        let (source, destination, protocol): (IpAddr, IpAddr, u8) = match &embedded.network {
            Network::V4(ip) => (ip.source.into(), ip.destination.into(), ip.protocol),
            Network::V6(ip) => (ip.source.into(), ip.destination.into(), ip.protocol),
            _ => return None,
        };
        let ports = match &embedded.transport {
            EmbeddedTransport::Icmpv4(icmp) if icmp.is_echo() => (icmp.identifier(), icmp.identifier()),
            EmbeddedTransport::Icmpv6(icmp) if icmp.is_echo() => (icmp.identifier(), icmp.identifier()),
            EmbeddedTransport::Tcp(_) | EmbeddedTransport::Udp(_) => embedded.ports()?,
            EmbeddedTransport::Other(_) => (0, 0),
            _ => return None,
        };
        Some(Tuple::new(domain, protocol, (source, ports.0), (destination, ports.1)))
    }

    /// Sets source address and port (of an echo: its identifier) of the quoted packet, with its checksums (RFC 5508
    /// section 4.2). An address of the other family is ignored.
    pub fn set_embedded_source(&mut self, address: IpAddr, port: u16) {
        self.set_embedded(true, address, port);
    }

    /// The same for destination address and port.
    pub fn set_embedded_destination(&mut self, address: IpAddr, port: u16) {
        self.set_embedded(false, address, port);
    }

    fn set_embedded(&mut self, source: bool, address: IpAddr, port: u16) {
        let Some(mut embedded) = self.embedded else { return };
        let network_at = usize::from(embedded.offsets.network);
        let mut pseudo = ([0u8; 16], [0u8; 16]);
        match (&mut embedded.network, address) {
            (Network::V4(ip), IpAddr::V4(new)) => {
                let target = if source { &mut ip.source } else { &mut ip.destination };
                let old = std::mem::replace(target, new);
                ip.header_checksum = updated_checksum(ip.header_checksum, &old.octets(), &new.octets());
                let header_checksum = ip.header_checksum;
                pseudo.0[..4].copy_from_slice(&old.octets());
                pseudo.1[..4].copy_from_slice(&new.octets());
                self.set_bytes(network_at + if source { 12 } else { 16 }, &new.octets(), true);
                self.set_bytes(network_at + 10, &header_checksum.to_be_bytes(), true);
            }
            (Network::V6(ip), IpAddr::V6(new)) => {
                let target = if source { &mut ip.source } else { &mut ip.destination };
                pseudo = (target.octets(), new.octets());
                *target = new;
                self.set_bytes(network_at + if source { 8 } else { 24 }, &new.octets(), true);
            }
            _ => return,
        }
        self.embedded = Some(embedded);
        self.set_embedded_port(source, port, &pseudo);
    }

    fn set_embedded_port(&mut self, source: bool, port: u16, pseudo: &([u8; 16], [u8; 16])) {
        let Some(mut embedded) = self.embedded else { return };
        let at = usize::from(embedded.offsets.transport);
        let (old, offset, in_pseudo) = match &mut embedded.transport {
            EmbeddedTransport::Tcp(tcp) => {
                let field = if source { &mut tcp.source_port } else { &mut tcp.destination_port };
                (std::mem::replace(field, port), if source { 0 } else { 2 }, true)
            }
            EmbeddedTransport::Udp(udp) => {
                let field = if source { &mut udp.source_port } else { &mut udp.destination_port };
                (std::mem::replace(field, port), if source { 0 } else { 2 }, true)
            }
            EmbeddedTransport::Icmpv4(icmp) if icmp.is_echo() => {
                let old = icmp.identifier();
                icmp.set_identifier(port);
                (old, 4, false)
            }
            EmbeddedTransport::Icmpv6(icmp) if icmp.is_echo() => {
                let old = icmp.identifier();
                icmp.set_identifier(port);
                (old, 4, true)
            }
            _ => return,
        };
        let is_udp = matches!(embedded.transport, EmbeddedTransport::Udp(_));
        self.embedded = Some(embedded);
        self.set_bytes(at + offset, &port.to_be_bytes(), true);
        let Some(checksum_at) = embedded.transport_checksum_at else { return };
        if is_udp && self.embedded_checksum == 0 {
            return;
        }
        let mut field = updated_checksum(self.embedded_checksum, &old.to_be_bytes(), &port.to_be_bytes());
        if in_pseudo {
            field = updated_checksum(field, &pseudo.0, &pseudo.1);
        }
        self.embedded_checksum = if is_udp && field == 0 { 0xffff } else { field };
        let field = self.embedded_checksum;
        self.set_bytes(usize::from(checksum_at), &field.to_be_bytes(), true);
    }

    // What the chain knows.

    /// How often an edit changed what sessions are found by.
    pub(crate) fn tuple_edits(&self) -> u16 {
        self.tuple_edits
    }

    pub(crate) fn set_fragment_ports(&mut self, ports: (u16, u16)) {
        self.fragment_ports = Some(ports);
        self.original_fragment_ports = Some(ports);
    }

    /// True if the decision on this packet may serve others: the key covers all that it read, and nothing in it is guarded.
    pub(crate) fn is_cacheable(&self) -> bool {
        let guarded = Flags::FRAGMENT.union(Flags::OPTIONS).union(Flags::EXTENSIONS).union(Flags::ICMP_OTHER);
        // A guard keeps such packets from an entry; one that has the property itself must not make it either.
        let guarded = guarded.union(self.guards);
        self.undeclared == 0
            && !self.overflow
            && self.layout.shape.is_regular()
            && !self.layout.flags.intersects(guarded)
            && !self.writes_bytes
    }
}

/// Writes the tuple of headers, or of answers to them, in its place: copied, its small fields would have to arrive before they
/// could be read as larger words. Returns the fields that it was made of; none if their protocol has no sessions. Both ports of
/// echo messages are their identifier; those of a later fragment are its first one's.
#[inline(always)]
fn write_tuple(
    parsed: &Parsed,
    fragment_ports: Option<(u16, u16)>,
    domain: u16,
    answers: bool,
    tuple: &mut Tuple,
) -> Option<u64> {
    let (protocol, source, destination, addresses) = match &parsed.network {
        Network::V4(ip) => {
            let [source, destination] = [ip.source, ip.destination].map(|ip| ip.to_ipv6_mapped().to_bits());
            (ip.protocol, source, destination, IPV4_FIELDS)
        }
        Network::V6(ip) => (ip.protocol, ip.source.to_bits(), ip.destination.to_bits(), IPV6_FIELDS),
        Network::None | Network::Arp(_) => return None,
    };
    let identified = |identifier| ((identifier, identifier), 1 << Field::IcmpIdentifier as u64);
    let (ports, rest) = match (&parsed.transport, fragment_ports) {
        (Transport::Udp(udp), None) => ((udp.source_port, udp.destination_port), PORT_FIELDS),
        (Transport::Tcp(tcp), None) => ((tcp.source_port, tcp.destination_port), PORT_FIELDS),
        (_, Some(ports)) => (ports, 0),
        (Transport::Icmpv4(icmp), _) if icmp.is_echo() => identified(icmp.identifier()),
        (Transport::Icmpv6(icmp), _) if icmp.is_echo() => identified(icmp.identifier()),
        (Transport::None | Transport::Other(_), _) if !matches!(protocol, 1 | 6 | 17 | 58) => ((0, 0), 0),
        _ => return None,
    };
    let (source, destination) = if answers { (destination, source) } else { (source, destination) };
    (tuple.source, tuple.destination) = (source.to_be_bytes(), destination.to_be_bytes());
    (tuple.source_port, tuple.destination_port) = if answers { (ports.1, ports.0) } else { ports };
    (tuple.domain, tuple.protocol, tuple.zero) = (domain, protocol, 0);
    Some(addresses | rest)
}

fn mac_value(address: MacAddress) -> u128 {
    address.iter().fold(0, |value, &byte| value << 8 | u128::from(byte))
}

/// The layout with the transport header where it really is, behind options and extension headers.
fn exact_layout(parsed: &Parsed, layout: Layout) -> Layout {
    if layout.shape.is_regular() {
        return layout;
    }
    let l4 = match &parsed.transport {
        Transport::Tcp(_) => L4::Tcp,
        Transport::Udp(_) => L4::Udp,
        Transport::Icmpv4(icmp) if icmp.is_echo() => L4::IcmpEcho,
        Transport::Icmpv6(icmp) if icmp.is_echo() => L4::IcmpEcho,
        Transport::Icmpv4(_) | Transport::Icmpv6(_) => L4::IcmpOther,
        Transport::None | Transport::Other(_) => L4::Other,
    };
    let l3 = match parsed.network {
        Network::V4(_) => L3::Ipv4,
        Network::V6(_) => L3::Ipv6,
        Network::Arp(_) => L3::Arp,
        Network::None => L3::Other,
    };
    Layout {
        shape: Shape::new(layout.shape.tags(), l3, l4).irregular(),
        l4: parsed.offsets.transport,
        ..layout
    }
}

/// The difference that replacing `old` by `new` makes to a checksum field read as big-endian.
pub(crate) fn updated_checksum(field: u16, old: &[u8], new: &[u8]) -> u16 {
    let delta = checksum::delta(checksum::sum(old), checksum::sum(new));
    u16::from_be(checksum::apply(field.to_be(), delta))
}
