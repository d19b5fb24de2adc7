//! Any bytes as a frame: both parsers end with headers inside the frame or with a reason, agree with each other and with
//! etherparse, and every answer that is made of it is right.

use crate::check::fault;
use crate::frames::{OWN, samples};
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::key::{KEY_WORDS_MAX, KeySchema};
use millrace_dataplane::packet::parse::{L3, parse, parse_usual};
use millrace_dataplane::packet::{Flags, Layout, Verify};
use millrace_dataplane::port::PortId;
use millrace_nf::headers::answer::{self, IcmpError};
use millrace_nf::headers::neighbour_discovery::Message;
use millrace_nf::headers::{Embedded, Network, Parsed, Transport, resolve};
use std::cell::OnceCell;

thread_local! {
    static SCHEMA: OnceCell<KeySchema> = const { OnceCell::new() };
}

/// Takes the bytes as a frame.
///
/// # Panics
/// A promise of the parsers does not hold.
pub fn run(frame: &[u8]) {
    let plain = parse(frame, Verify::None).ok();
    for verify in [Verify::None, Verify::Ipv4, Verify::All] {
        let layout = parse(frame, verify).ok();
        assert!(layout.is_none() || layout == plain, "verifying only refuses");
        // Behind a short frame lies what an earlier one left: here, what follows from its own bytes.
        let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(at as u8));
        if let Some(usual) = parse_usual(&head, frame, verify) {
            assert_eq!(Some(usual), layout, "the usual case is the same");
        }
    }
    if let Some(layout) = plain {
        check_layout(frame, &layout);
        check_key(frame, &layout);
    }
    if let Ok(parsed) = Parsed::parse(frame) {
        check_headers(frame, &parsed);
        check_answers(frame, &parsed);
        if let Some(layout) = plain {
            assert_eq!(layout.l3, parsed.offsets.network);
            assert_eq!(layout.end, parsed.offsets.end);
            assert!(!layout.shape.is_regular() || layout.l4 == parsed.offsets.transport);
        }
    }
    check_against_etherparse(frame);
}

fn check_layout(frame: &[u8], layout: &Layout) {
    assert!(layout.l3 <= layout.l4 && layout.l4 <= layout.end && usize::from(layout.end) <= frame.len());
    assert_eq!(usize::from(layout.l3), layout.shape.l3_offset());
    if layout.shape.is_regular() {
        assert_eq!(usize::from(layout.l4), layout.shape.l4_offset());
        assert!(usize::from(layout.end) >= layout.shape.header_bytes());
    }
}

/// The key of all fields is gathered from any frame.
fn check_key(frame: &[u8], layout: &Layout) {
    SCHEMA.with(|schema| {
        let schema =
            schema.get_or_init(|| KeySchema::new(PortId(0), 1, Reads::none().with(&Field::ALL[..12])));
        if let Some(gather) = schema.gather(layout.shape) {
            let mut key = [0; KEY_WORDS_MAX];
            assert_eq!(gather.gather(frame, &mut key), gather.words());
        }
    });
}

fn check_headers(frame: &[u8], parsed: &Parsed) {
    let at = parsed.offsets;
    assert!(at.network <= at.transport && at.transport <= at.payload && at.payload <= at.end);
    assert!(usize::from(at.end) <= frame.len());
    assert_eq!(parsed.payload(frame).len(), usize::from(at.end - at.payload));
    if let Transport::Tcp(tcp) = parsed.transport {
        assert!(tcp.options(frame).all(|option| (tcp.options.start..at.payload).contains(&option.at)));
        assert!(tcp.options(frame).count() <= 40);
    }
    if let Ok(Some(quote)) = Embedded::parse(parsed, frame) {
        let inner = quote.offsets;
        assert!(at.payload <= inner.network && inner.network < inner.transport);
        assert!(inner.transport <= inner.payload && inner.payload <= inner.end && inner.end <= at.end);
        assert!(quote.transport_checksum_at.is_none_or(|at| at + 2 <= inner.end));
    }
    _ = Message::parse(parsed, frame);
    _ = parsed.network_checksum_is_valid(frame);
    _ = parsed.transport_checksum_is_valid(frame);
}

/// What is answered is right, whatever was asked.
fn check_answers(frame: &[u8], parsed: &Parsed) {
    let own = match parsed.network {
        Network::V6(ip) => ip.destination.into(),
        _ => parsed.addresses().map_or([10, 0, 0, 254].into(), |(_, destination)| destination),
    };
    let errors = [
        IcmpError::HopLimitExceeded,
        IcmpError::TooBig { mtu: 1400 },
        IcmpError::UnrecognisedOption { pointer: 40 },
    ];
    let errors = errors.into_iter().filter_map(|error| answer::icmp_error(parsed, frame, error, OWN[0], own));
    let reset = answer::tcp_reset(parsed, frame, OWN[0]);
    let advertisement = resolve::neighbour_advertisement(parsed, 1u128.into(), OWN[0], Default::default());
    let arp = resolve::arp_reply(parsed, OWN[0]);
    for made in errors.chain(reset).chain(advertisement).chain(arp) {
        assert_eq!(fault(&made), None, "{made:02x?}");
    }
    if let Some(made) = answer::echo_reply::<1600>(parsed, frame, OWN[0], own) {
        assert_eq!(fault(&made), None, "{made:02x?}");
    }
}

/// What a receiver would take passes, and what passes a receiver would take.
fn check_against_etherparse(frame: &[u8]) {
    let verified = parse(frame, Verify::All);
    let is_ip = |layout: &Layout| matches!(layout.shape.l3(), L3::Ipv4 | L3::Ipv6);
    if let Ok(layout) = verified
        && is_ip(&layout)
        && layout.shape.is_regular()
        && !layout.flags.intersects(Flags::FRAGMENT)
    {
        assert_eq!(fault(frame), None);
    }
    // etherparse takes an IPv6 payload length of zero for "the rest"; of fragments nothing was checked.
    let is_whole_packet = match frame.get(12..) {
        Some([0x08, 0x00, _, _, _, _, _, _, high, low, ..]) => [*high & 0x3f, *low] == [0, 0],
        Some([0x86, 0xdd, _, _, _, _, high, low, ..]) => [*high, *low] != [0, 0],
        _ => false,
    };
    if is_whole_packet && frame.len() <= usize::from(u16::MAX) && fault(frame).is_none() {
        assert!(verified.is_ok(), "{verified:?}");
    }
}

/// Seeds: a frame of each kind.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    samples().into_iter().map(|(name, frame)| (name.to_owned(), frame)).collect()
}
