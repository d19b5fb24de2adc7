//! Edits on the bytes of a frame, for people who want to see it between two functions. Packets are rewritten by programs.

use super::{Edit, Headers};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Coverage, Field, l4_checksum_offset};
use millrace_dataplane::packet::parse::parse;
use millrace_dataplane::packet::{L4, Layout, Verify, checksum};

/// What a checksum that lies at an offset changes by.
#[derive(Clone, Copy, Default)]
struct Sums {
    l3: u16,
    l4: u16,
}

/// Makes the edits in `frame`, with what follows from them for its checksums. Edits of fields that it does not have do nothing, as
/// in [`Headers`].
///
/// # Errors
/// Why the frame can't be read.
pub fn apply_edits(frame: &mut [u8], edits: &[Edit]) -> Result<(), DropReason> {
    let layout = parse(frame, Verify::None)?;
    let mut headers = Headers::empty();
    headers.read(frame, layout)?;
    let has_l4 = !headers.is_later_fragment();
    let mut sums = Sums::default();
    for edit in edits {
        match *edit {
            Edit::Set(field, value) => set(frame, &layout, field, value, &mut sums),
            Edit::DecrementTtl => {
                let Some(at) = Field::Ttl.locate(layout.shape, layout.l3.into(), layout.l4.into()) else {
                    continue;
                };
                let ttl = frame.get(at.offset).copied().unwrap_or(0);
                set(frame, &layout, Field::Ttl, ttl.saturating_sub(1).into(), &mut sums);
            }
            Edit::Bytes { offset, bytes, count, l4 } => {
                let bytes = bytes.get(..usize::from(count)).unwrap_or_default();
                write(frame, &layout, offset.into(), bytes, Coverage { l3: false, l4 }, &mut sums);
            }
        }
    }
    let l3_at = usize::from(layout.l3) + 10;
    if headers.is_ipv4() {
        update(frame, l3_at, sums.l3, |new| new);
    }
    if let Some(at) = l4_checksum_offset(layout.shape, layout.l4.into()).filter(|_| has_l4) {
        let is_udp = layout.shape.l4() == L4::Udp;
        // RFC 768: zero says that there is none.
        if !is_udp || frame.get(at..at + 2) != Some(&[0, 0]) {
            update(frame, at, sums.l4, |new| if is_udp && new == 0 { u16::MAX } else { new });
        }
    }
    Ok(())
}

fn update(frame: &mut [u8], at: usize, delta: u16, settle: impl FnOnce(u16) -> u16) {
    if delta != 0
        && let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = settle(checksum::apply(u16::from_ne_bytes(*field), delta)).to_ne_bytes();
    }
}

fn set(frame: &mut [u8], layout: &Layout, field: Field, value: u128, sums: &mut Sums) {
    let Some(at) = field.locate(layout.shape, layout.l3.into(), layout.l4.into()) else { return };
    let Some(old) = frame.get(at.offset..at.offset + at.bytes) else { return };
    let mut wide = [0; 16];
    wide[16 - at.bytes..].copy_from_slice(old);
    let new = (u128::from_be_bytes(wide) & !at.mask) | (value << at.shift()) & at.mask;
    let bytes = new.to_be_bytes();
    write(frame, layout, at.offset, &bytes[16 - at.bytes..], field.coverage(layout.shape), sums);
}

/// Writes bytes, and notes what sums change by. Sums are of words that lie evenly from the network header on.
fn write(
    frame: &mut [u8],
    layout: &Layout,
    offset: usize,
    bytes: &[u8],
    coverage: Coverage,
    sums: &mut Sums,
) {
    let start = offset - ((offset ^ usize::from(layout.l3)) & 1);
    let end = (offset + bytes.len()).min(frame.len());
    let Some(before) = frame.get(start..end).map(checksum::sum) else { return };
    if let Some(target) = frame.get_mut(offset..offset + bytes.len()) {
        target.copy_from_slice(bytes);
    }
    let delta = checksum::delta(before, frame.get(start..end).map_or(0, checksum::sum));
    if coverage.l3 {
        sums.l3 = checksum::add(sums.l3, delta);
    }
    if coverage.l4 {
        sums.l4 = checksum::add(sums.l4, delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Network, Parsed, Transport};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn frame(v6: bool, transport: u8, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            true => link.ipv6([0xfd; 16], [0xfe; 16], 9),
            false => link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9),
        };
        let mut out = Vec::new();
        match transport {
            0 => ip.udp(1_000, 2_000).write(&mut out, payload),
            1 => ip.tcp(1_000, 2_000, 7, 8).write(&mut out, payload),
            _ if v6 => ip.icmpv6_echo_request(5, 6).write(&mut out, payload),
            _ => ip.icmpv4_echo_request(5, 6).write(&mut out, payload),
        }
        .unwrap();
        out
    }

    proptest! {
        /// What functions say of the headers is what the bytes say behind it, and all checksums are right.
        #[test]
        fn bytes_follow_the_headers(
            v6: bool,
            transport in 0u8..3,
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            addresses: ([u8; 16], [u8; 16]),
            ports: (u16, u16, u16),
            dscp in 0u8..64,
            steps in proptest::collection::vec(0u8..9, 0..12),
        ) {
            let mut bytes = frame(v6, transport, &payload);
            let mut headers = Headers::empty();
            headers.read(&bytes, parse(&bytes, Verify::None).unwrap()).unwrap();
            let address = |bytes: [u8; 16]| match v6 {
                true => IpAddr::from(bytes),
                false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            };
            for step in steps {
                match step {
                    0 => headers.set_source(address(addresses.0)),
                    1 => headers.set_destination(address(addresses.1)),
                    2 if transport < 2 => headers.set_source_port(ports.0),
                    3 if transport < 2 => headers.set_destination_port(ports.1),
                    4 if transport == 2 => headers.set_icmp_identifier(ports.2),
                    5 => headers.set_dscp(dscp),
                    6 => headers.decrement_ttl(),
                    7 => headers.set_ethernet_source([6; 6]),
                    _ => headers.set_ethernet_destination([8; 6]),
                }
            }
            apply_edits(&mut bytes, headers.edits()).unwrap();
            let mut read = Parsed::parse(&bytes).unwrap();
            prop_assert!(read.network_checksum_is_valid(&bytes) && read.transport_checksum_is_valid(&bytes));
            let mut wanted = headers.current().clone();
            for parsed in [&mut read, &mut wanted] {
                if let Network::V4(ip) = &mut parsed.network {
                    ip.header_checksum = 0;
                }
                match &mut parsed.transport {
                    Transport::Tcp(tcp) => tcp.checksum = 0,
                    Transport::Udp(udp) => udp.checksum = 0,
                    Transport::Icmpv4(icmp) => icmp.checksum = 0,
                    Transport::Icmpv6(icmp) => icmp.checksum = 0,
                    _ => {}
                }
            }
            prop_assert_eq!(read, wanted);
        }
    }

    #[test]
    fn bytes_at_odd_places_keep_the_checksum_right() {
        let mut bytes = frame(false, 1, b"0123456789");
        let edit = |offset, text: &[u8; 8], count| Edit::Bytes { offset, bytes: *text, count, l4: true };
        apply_edits(&mut bytes, &[edit(57, b"abcdefgh", 3), edit(54, b"xyz.....", 4)]).unwrap();
        assert_eq!(&bytes[54..], b"xyz.bc6789".as_slice());
        assert!(Parsed::parse(&bytes).unwrap().transport_checksum_is_valid(&bytes));
    }

    #[test]
    fn what_cannot_be_read_is_left_alone() {
        let mut short = [1, 2, 3];
        assert!(apply_edits(&mut short, &[Edit::DecrementTtl]).is_err());
        assert_eq!(short, [1, 2, 3]);
    }
}
