//! An independent serialisation of typed headers: etherparse writes them, with lengths and checksums from scratch.
//!
//! It shares nothing with the replay: neither deltas nor offsets of fields.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeaderSlice,
};
use millrace_nf::headers::{Network, Parsed, Transport};

/// The frame that `headers` mean, with options, payload and padding of `original`; none if etherparse can't write it.
///
/// The transport checksum of a fragment covers bytes that are not here: it follows from the old one by RFC 1624.
pub fn serialise(before: &Parsed, headers: &Parsed, original: &[u8]) -> Option<Vec<u8>> {
    let mut frame = link(headers);
    let offsets = headers.offsets;
    let (transport, payload, end) =
        (usize::from(offsets.transport), usize::from(offsets.payload), usize::from(offsets.end));
    match &headers.network {
        Network::V4(_) | Network::V6(_) => network(headers, original, &mut frame)?,
        _ => {
            frame.extend(original.get(usize::from(offsets.network)..)?);
            return Some(frame);
        }
    }
    let start = frame.len();
    let data = original.get(payload..end)?;
    match &headers.transport {
        Transport::Tcp(tcp) => {
            let mut header = TcpHeaderSlice::from_slice(original.get(transport..payload)?).ok()?.to_header();
            // What etherparse does not model would be lost.
            (original[transport + 12] & 0x0e == 0).then_some(())?;
            (header.source_port, header.destination_port) = (tcp.source_port, tcp.destination_port);
            header.checksum = match &headers.network {
                Network::V4(ip) => {
                    header.calc_checksum_ipv4_raw(ip.source.octets(), ip.destination.octets(), data).ok()?
                }
                Network::V6(ip) => {
                    header.calc_checksum_ipv6_raw(ip.source.octets(), ip.destination.octets(), data).ok()?
                }
                _ => return None,
            };
            header.write(&mut frame).ok()?;
        }
        Transport::Udp(udp) => {
            let length = u16::try_from(end - transport).ok()?;
            frame.extend(udp.source_port.to_be_bytes());
            frame.extend(udp.destination_port.to_be_bytes());
            frame.extend(if headers.is_fragment() {
                original[transport + 4..transport + 6].try_into().ok()?
            } else {
                length.to_be_bytes()
            });
            let sum = pseudo_header(headers, 17, u32::from(length))?;
            let sum = sum
                .add_2bytes(udp.source_port.to_be_bytes())
                .add_2bytes(udp.destination_port.to_be_bytes())
                .add_2bytes(length.to_be_bytes())
                .add_slice(data)
                .to_ones_complement_with_no_zero();
            // RFC 768: a sender that computed none is believed.
            let none = original[transport + 6..transport + 8] == [0, 0];
            frame.extend(if none { [0, 0] } else { sum.to_ne_bytes() });
        }
        Transport::Icmpv4(icmp) => {
            let mut header = <[u8; 8]>::try_from(original.get(transport..transport + 8)?).ok()?;
            if icmp.is_echo() {
                header[4..6].copy_from_slice(&icmp.identifier().to_be_bytes());
            }
            header[2..4].fill(0);
            let sum = Sum16BitWords::new().add_8bytes(header).add_slice(data).ones_complement();
            header[2..4].copy_from_slice(&sum.to_ne_bytes());
            frame.extend(header);
        }
        Transport::Icmpv6(icmp) => {
            let mut header = <[u8; 8]>::try_from(original.get(transport..transport + 8)?).ok()?;
            if icmp.is_echo() {
                header[4..6].copy_from_slice(&icmp.identifier().to_be_bytes());
            }
            header[2..4].fill(0);
            let mut sum = pseudo_header(headers, 58, (end - transport) as u32)?;
            let sum = sum.add_8bytes(header).add_slice(data).ones_complement();
            header[2..4].copy_from_slice(&sum.to_ne_bytes());
            frame.extend(header);
        }
        Transport::Other(_) | Transport::None => frame.extend(original.get(transport..payload)?),
    }
    if headers.is_fragment() {
        fragment_checksum(before, headers, original, &mut frame[start..]);
    }
    frame.extend(data);
    frame.extend(&original[end..]);
    Some(frame)
}

fn link(headers: &Parsed) -> Vec<u8> {
    let mut frame = Vec::with_capacity(1600);
    frame.extend(headers.ethernet.destination);
    frame.extend(headers.ethernet.source);
    for tag in &headers.tags {
        frame.extend(tag.tpid.to_be_bytes());
        frame.extend(tag.tci.to_be_bytes());
    }
    frame.extend(headers.ethernet.ether_type.to_be_bytes());
    frame
}

fn network(headers: &Parsed, original: &[u8], frame: &mut Vec<u8>) -> Option<()> {
    let bytes = usize::from(headers.offsets.end - headers.offsets.network);
    match &headers.network {
        Network::V4(ip) => {
            let at = usize::from(headers.offsets.network) + 20;
            let options = &original[at..at + ip.header_bytes() - 20];
            let mut header = Ipv4Header {
                dscp: IpDscp::try_new(ip.dscp).ok()?,
                ecn: IpEcn::try_new(ip.ecn).ok()?,
                total_len: bytes as u16,
                identification: ip.identification,
                dont_fragment: ip.dont_fragment,
                more_fragments: ip.more_fragments,
                fragment_offset: IpFragOffset::try_new(ip.fragment_offset).ok()?,
                time_to_live: ip.ttl,
                protocol: IpNumber(ip.protocol),
                header_checksum: 0,
                source: ip.source.octets(),
                destination: ip.destination.octets(),
                options: options.try_into().ok()?,
            };
            header.header_checksum = header.calc_header_checksum();
            header.write_raw(frame).ok()
        }
        Network::V6(ip) => {
            let header = Ipv6Header {
                traffic_class: ip.dscp << 2 | ip.ecn,
                flow_label: Ipv6FlowLabel::try_new(ip.flow_label).ok()?,
                payload_length: (bytes - 40) as u16,
                next_header: IpNumber(ip.next_header),
                hop_limit: ip.hop_limit,
                source: ip.source.octets(),
                destination: ip.destination.octets(),
            };
            header.write(frame).ok()?;
            let at = usize::from(headers.offsets.network) + 40;
            frame.extend(&original[at..usize::from(headers.offsets.transport)]);
            Some(())
        }
        _ => None,
    }
}

fn pseudo_header(headers: &Parsed, protocol: u8, length: u32) -> Option<Sum16BitWords> {
    let mut sum = Sum16BitWords::new().add_2bytes([0, protocol]).add_4bytes(length.to_be_bytes());
    Some(match &headers.network {
        Network::V4(ip) => sum.add_4bytes(ip.source.octets()).add_4bytes(ip.destination.octets()),
        Network::V6(ip) => sum.add_16bytes(ip.source.octets()).add_16bytes(ip.destination.octets()),
        _ => return None,
    })
}

/// RFC 1624, equation 3, over all words that an edit may have changed.
fn fragment_checksum(before: &Parsed, after: &Parsed, original: &[u8], transport: &mut [u8]) {
    let (field, words) = match after.transport {
        Transport::Tcp(_) => (16, 4),
        Transport::Udp(_) => (6, 4),
        Transport::Icmpv4(_) | Transport::Icmpv6(_) => (2, 8),
        Transport::None | Transport::Other(_) => return,
    };
    let at = usize::from(after.offsets.transport);
    let old_field = u16::from_be_bytes([original[at + field], original[at + field + 1]]);
    if old_field == 0 && matches!(after.transport, Transport::Udp(_)) {
        return transport[field..field + 2].fill(0);
    }
    let has_pseudo = !matches!(after.transport, Transport::Icmpv4(_));
    let words_of = |headers: &Parsed, transport: &[u8]| {
        let mut all = transport[..words].to_vec();
        if words == 8 {
            all[2..4].fill(0);
        }
        match (&headers.network, has_pseudo) {
            (Network::V4(ip), true) => all.extend([ip.source.octets(), ip.destination.octets()].concat()),
            (Network::V6(ip), true) => all.extend([ip.source.octets(), ip.destination.octets()].concat()),
            _ => {}
        }
        all
    };
    let mut sum = u64::from(!old_field);
    for old in words_of(before, &original[at..]).chunks(2) {
        sum += u64::from(!u16::from_be_bytes([old[0], old[1]]));
    }
    for new in words_of(after, transport).chunks(2) {
        sum += u64::from(u16::from_be_bytes([new[0], new[1]]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let new = !(sum as u16);
    let new = if new == 0 && matches!(after.transport, Transport::Udp(_)) { 0xffff } else { new };
    transport[field..field + 2].copy_from_slice(&new.to_be_bytes());
}
