//! Whatever the bytes, parsing ends with headers inside the frame or with a reason.

use super::samples::{any_sample, ipv4, tcp, udp};
use super::{Buffer, Parsed, rebuild};
use crate::headers::answer::{self, IcmpError};
use crate::headers::neighbour_discovery::Message;
use crate::headers::{Embedded, Icmpv6, Network, Transport, VlanTags, resolve, serialise};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::Ipv6Addr;

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Checks every promise about a frame that parses, and calls everything that takes it.
fn check_offsets(frame: &[u8]) {
    let Ok(parsed) = Parsed::parse(frame) else { return };
    let at = parsed.offsets;
    assert!(at.network <= at.transport && at.transport <= at.payload && at.payload <= at.end);
    assert!(usize::from(at.end) <= frame.len());
    assert_eq!(usize::from(at.network), 14 + 4 * parsed.tags.len());
    assert_eq!(parsed.payload(frame).len(), usize::from(at.end - at.payload));
    if let Transport::Tcp(tcp) = parsed.transport {
        assert_eq!(tcp.options.end(), usize::from(at.payload));
        for option in tcp.options(frame).take(41) {
            assert!((tcp.options.start..at.payload).contains(&option.at));
        }
        assert!(tcp.options(frame).count() <= 40);
    }
    if let Network::V6(ip) = parsed.network {
        assert_eq!(ip.extensions.end(), usize::from(at.transport));
    }
    if let Ok(Some(quote)) = Embedded::parse(&parsed, frame) {
        let inner = quote.offsets;
        assert!(at.payload <= inner.network && inner.network < inner.transport);
        assert!(inner.transport <= inner.payload && inner.payload <= inner.end && inner.end <= at.end);
        assert!(quote.transport_checksum_at.is_none_or(|at| at + 2 <= inner.end));
    }
    _ = Message::parse(&parsed, frame);
    let mac = [2; 6];
    let address = parsed.addresses().map_or([0, 0, 0, 0].into(), |(_, destination)| destination);
    _ = parsed.network_checksum_is_valid(frame);
    _ = parsed.transport_checksum_is_valid(frame);
    _ = answer::icmp_error(&parsed, frame, IcmpError::HopLimitExceeded, mac, address);
    _ = answer::echo_reply::<1600>(&parsed, frame, mac, address);
    _ = answer::tcp_reset(&parsed, frame, mac);
    _ = resolve::arp_reply(&parsed, mac);
    _ = resolve::neighbour_advertisement(&parsed, 1u128.into(), mac, Default::default());
    // The rebuilt frame has the same headers, but for lengths and checksums that are computed.
    let again = Parsed::parse(&rebuild(&parsed, frame)).expect("a rebuilt frame parses");
    assert_eq!(again.offsets, at);
    assert_eq!(again.tags, parsed.tags);
}

/// Random bytes seldom get past the EtherType: this puts some plausible first bytes in front.
fn plausible_frame() -> impl Strategy<Value = Vec<u8>> {
    let ipv4 = (vec(any::<u8>(), 12), 5u8..8, prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()])
        .prop_flat_map(|(macs, ihl, protocol)| {
            vec(any::<u8>(), 20..120).prop_map(move |mut ip| {
                ip[0] = 0x40 | ihl;
                let length = (ip.len() as u16).to_be_bytes();
                ip[2..4].copy_from_slice(&length);
                ip[6..8].copy_from_slice(&[0, 0]);
                ip[9] = protocol;
                [&macs[..], &[8, 0], &ip].concat()
            })
        });
    let next = || prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(58), Just(60), Just(6), Just(17)];
    let ipv6 = (
        vec(any::<u8>(), 12),
        next(),
        vec((next(), 0u8..2, any::<[u8; 6]>()), 0..12),
        vec(any::<u8>(), 0..90),
    )
        .prop_map(|(macs, first, headers, rest)| {
            let mut body: Vec<u8> = Vec::new();
            for (next, words, bytes) in headers {
                body.extend([next, words]);
                body.extend(bytes);
                body.extend(std::iter::repeat_n(0, usize::from(words) * 8));
            }
            body.extend(rest);
            let [high, low] = (body.len() as u16).to_be_bytes();
            let fixed = [0x60, 0, 0, 0, high, low, first, 255];
            [&macs[..], &[0x86, 0xdd], &fixed, &[0xfe; 32], &body].concat()
        });
    prop_oneof![ipv4, ipv6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_bytes_parse_or_give_a_reason(frame in vec(any::<u8>(), 0..200)) {
        check_offsets(&frame);
    }

    #[test]
    fn plausible_bytes_parse_or_give_a_reason(frame in plausible_frame()) {
        check_offsets(&frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_frames_parse_or_give_a_reason(
        sample in any_sample(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut frame, _) = sample.build();
        for (at, byte) in damage {
            let at = at.index(frame.len().min(100));
            frame[at] = byte;
        }
        check_offsets(&frame);
    }

    #[test]
    fn damaged_quotes_parse_or_give_a_reason(
        sample in any_sample(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length: prop::sample::Index,
    ) {
        let (frame, _) = sample.build();
        let parsed = Parsed::parse(&frame).unwrap();
        let (mac, (_, source)) = ([2; 6], parsed.addresses().unwrap());
        let error = answer::icmp_error(&parsed, &frame, IcmpError::HopLimitExceeded, mac, source);
        prop_assume!(error.is_some());
        let error = error.unwrap();
        let outer = Parsed::parse(&error).unwrap();
        let mut quote = outer.payload(&error).to_vec();
        quote.truncate(length.index(quote.len() + 1));
        for (at, byte) in damage {
            if !quote.is_empty() {
                let at = at.index(quote.len().min(80));
                quote[at] = byte;
            }
        }
        check_offsets(&serialise::<1600>(&outer, &error, &quote).unwrap());
    }

    #[test]
    fn any_message_of_discovery_is_read_or_gives_a_reason(
        icmp_type in 133u8..=137,
        body in vec(any::<u8>(), 0..40),
        options in vec((0u8..7, 0u8..3, any::<[u8; 6]>()), 0..8),
    ) {
        let frame = resolve::neighbour_solicitation([2; 6], &VlanTags::new(), LINK_LOCAL, LINK_LOCAL, None);
        let mut parsed = Parsed::parse(&frame).unwrap();
        parsed.transport = Transport::Icmpv6(Icmpv6 { icmp_type, ..Icmpv6::default() });
        let options = options.iter().flat_map(|(kind, length, rest)| [&[*kind, *length], &rest[..]].concat());
        let body: Vec<u8> = body.into_iter().chain(options).collect();
        check_offsets(&serialise::<1600>(&parsed, &frame, &body).unwrap());
    }

    #[test]
    fn every_truncation_of_a_packet_is_refused(sample in any_sample()) {
        let (frame, end) = sample.build();
        for length in 0..end {
            prop_assert!(Parsed::parse(&frame[..length]).is_err(), "{} of {} bytes", length, end);
        }
        prop_assert!(Parsed::parse(&frame[..end]).is_ok());
    }
}

#[test]
fn headers_with_spans_of_another_frame_do_not_panic() {
    let frame = tcp(ipv4(), b"x", |tcp| tcp.set_options_raw(&[1; 40]).unwrap());
    let parsed = Parsed::parse(&frame).unwrap();
    for length in 0..frame.len() {
        let short = &frame[..length];
        _ = parsed.payload(short);
        _ = parsed.transport_checksum_is_valid(short);
        _ = Embedded::parse(&parsed, short);
        let rebuilt: Buffer = serialise(&parsed, short, parsed.payload(short)).unwrap();
        assert!(Parsed::parse(&rebuilt).is_ok());
    }
}

#[test]
fn frames_beyond_65535_bytes_are_refused() {
    let mut frame = udp(ipv4(), b"data");
    frame.resize(65_535, 0);
    assert!(Parsed::parse(&frame).is_ok());
    frame.push(0);
    assert!(Parsed::parse(&frame).is_err());
}
