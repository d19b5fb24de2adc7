//! Address resolution: the frames of ARP and neighbour discovery, and the validity checks of the latter.

use super::samples::{CLIENT_MAC, ROUTER_MAC};
use super::{Parsed, check_strictly};
use crate::headers::neighbour_discovery::Message;
use crate::headers::resolve::{
    AdvertisementFlags, arp_reply, arp_request, gratuitous_arp, neighbour_advertisement,
    neighbour_solicitation, solicited_node, unsolicited_advertisement,
};
use crate::headers::vlan::{VlanTag, VlanTags};
use crate::headers::{Icmpv6, Network, Transport, serialise};
use etherparse::{ArpOperation, LinkHeader, NetHeaders};
use millrace_dataplane::drops::DropReason::{self, BadHeader, BadL4Checksum, BadLength, FragmentInvalid};
use std::net::{Ipv4Addr, Ipv6Addr};

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xab12, 0x3456);

fn tags() -> VlanTags {
    [VlanTag { tpid: 0x88a8, tci: 7 }, VlanTag { tpid: 0x8100, tci: 0x6005 }].into()
}

fn macs(frame: &[u8]) -> ([u8; 6], [u8; 6]) {
    let packet = check_strictly(frame);
    let Some(LinkHeader::Ethernet2(link)) = packet.link else { panic!() };
    (link.source, link.destination)
}

#[test]
fn arp_asks_answers_and_announces() {
    let request = arp_request(ROUTER_MAC, &tags(), OWN, OTHER, None);
    assert_eq!(macs(&request), (ROUTER_MAC, [0xff; 6]));
    let Some(NetHeaders::Arp(arp)) = check_strictly(&request).net else { panic!() };
    assert_eq!(arp.operation, ArpOperation::REQUEST);
    assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&ROUTER_MAC[..], &[0; 6][..]));
    assert_eq!(
        (arp.sender_protocol_addr(), arp.target_protocol_addr()),
        (&OWN.octets()[..], &OTHER.octets()[..])
    );
    let reply = arp_reply(&Parsed::parse(&request).unwrap(), CLIENT_MAC).unwrap();
    assert_eq!(macs(&reply), (CLIENT_MAC, ROUTER_MAC));
    let Some(NetHeaders::Arp(arp)) = check_strictly(&reply).net else { panic!() };
    assert_eq!(arp.operation, ArpOperation::REPLY);
    assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&CLIENT_MAC[..], &ROUTER_MAC[..]));
    assert_eq!(
        (arp.sender_protocol_addr(), arp.target_protocol_addr()),
        (&OTHER.octets()[..], &OWN.octets()[..])
    );
    let parsed = Parsed::parse(&reply).unwrap();
    assert_eq!(parsed.tags, tags());
    assert!(arp_reply(&parsed, ROUTER_MAC).is_none(), "no reply to a reply");
    assert_eq!(
        macs(&arp_request(ROUTER_MAC, &tags(), OWN, OTHER, Some(CLIENT_MAC))),
        (ROUTER_MAC, CLIENT_MAC)
    );
    let announcement = gratuitous_arp(ROUTER_MAC, &VlanTags::new(), OWN);
    assert_eq!(macs(&announcement), (ROUTER_MAC, [0xff; 6]));
    let Network::Arp(arp) = Parsed::parse(&announcement).unwrap().network else { panic!() };
    assert_eq!((arp.sender_address, arp.target_address), (OWN, OWN));
}

fn message(frame: &[u8]) -> Message {
    check_strictly(frame);
    let parsed = Parsed::parse(frame).unwrap();
    Message::parse(&parsed, frame).unwrap().unwrap()
}

#[test]
fn neighbour_discovery_asks_answers_and_announces() {
    let solicitation = neighbour_solicitation(ROUTER_MAC, &tags(), OWN6, OTHER6, None);
    assert_eq!(macs(&solicitation), (ROUTER_MAC, [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]), "RFC 2464 section 7");
    let parsed = Parsed::parse(&solicitation).unwrap();
    let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
    assert_eq!(parsed.addresses(), Some((OWN6.into(), group.into())));
    let expected = Message::NeighbourSolicitation { target: OTHER6, source_mac: Some(ROUTER_MAC) };
    assert_eq!(message(&solicitation), expected);
    let flags = AdvertisementFlags { router: true, override_cached: true, solicited: false };
    let answer = neighbour_advertisement(&parsed, OTHER6, CLIENT_MAC, flags).unwrap();
    assert_eq!(macs(&answer), (CLIENT_MAC, ROUTER_MAC));
    let parsed = Parsed::parse(&answer).unwrap();
    assert_eq!((parsed.addresses(), &parsed.tags), (Some((OTHER6.into(), OWN6.into())), &tags()));
    let expected = |solicited| Message::NeighbourAdvertisement {
        target: OTHER6,
        router: true,
        solicited,
        override_cached: true,
        target_mac: Some(CLIENT_MAC),
    };
    assert_eq!(message(&answer), expected(true));
    assert!(neighbour_advertisement(&parsed, OTHER6, CLIENT_MAC, flags).is_none(), "no answer to an answer");
    let announcement = unsolicited_advertisement(CLIENT_MAC, &tags(), OTHER6, flags);
    assert_eq!(macs(&announcement), (CLIENT_MAC, [0x33, 0x33, 0, 0, 0, 1]));
    assert_eq!(message(&announcement), expected(false));
    // To confirm that a station is still there.
    let probe = neighbour_solicitation(ROUTER_MAC, &tags(), OWN6, OTHER6, Some(CLIENT_MAC));
    assert_eq!(macs(&probe), (ROUTER_MAC, CLIENT_MAC));
    assert_eq!(Parsed::parse(&probe).unwrap().addresses(), Some((OWN6.into(), OTHER6.into())));
}

#[test]
fn duplicate_address_detection_is_answered_to_all() {
    let question = neighbour_solicitation(CLIENT_MAC, &tags(), Ipv6Addr::UNSPECIFIED, OTHER6, None);
    assert_eq!(message(&question), Message::NeighbourSolicitation { target: OTHER6, source_mac: None });
    let parsed = Parsed::parse(&question).unwrap();
    let answer = neighbour_advertisement(&parsed, OTHER6, ROUTER_MAC, AdvertisementFlags::default()).unwrap();
    // RFC 4861 section 7.2.4.
    assert_eq!(macs(&answer), (ROUTER_MAC, [0x33, 0x33, 0, 0, 0, 1]));
    assert!(matches!(message(&answer), Message::NeighbourAdvertisement { solicited: false, .. }));
}

/// The frame of a message from `source` to `destination`, and what it is parsed to.
fn send(source: &str, destination: &str, icmp: Icmpv6, body: &[u8]) -> Result<Message, DropReason> {
    let frame = neighbour_solicitation(ROUTER_MAC, &VlanTags::new(), OWN6, OTHER6, None);
    let mut parsed = Parsed::parse(&frame).unwrap();
    let Network::V6(ip) = &mut parsed.network else { panic!() };
    (ip.source, ip.destination) = (source.parse().unwrap(), destination.parse().unwrap());
    parsed.transport = Transport::Icmpv6(icmp);
    let frame = serialise::<1600>(&parsed, &frame, body).unwrap();
    Message::parse(&Parsed::parse(&frame).unwrap(), &frame).map(|message| message.expect("discovery"))
}

fn icmp(icmp_type: u8) -> Icmpv6 {
    Icmpv6 { icmp_type, ..Icmpv6::default() }
}

#[test]
fn router_messages_and_redirects_are_read() {
    let mac_option = [1, 1, 2, 0, 0, 0, 0, 9];
    let mac = Some([2, 0, 0, 0, 0, 9]);
    assert_eq!(
        send("fe80::1", "ff02::2", icmp(133), &mac_option),
        Ok(Message::RouterSolicitation { source_mac: mac })
    );
    assert_eq!(send("::", "ff02::2", icmp(133), &[]), Ok(Message::RouterSolicitation { source_mac: None }));
    assert_eq!(send("::", "ff02::2", icmp(133), &mac_option), Err(BadHeader), "RFC 4861 section 6.1.1");
    let advertisement = Icmpv6 { rest: [64, 0, 0x07, 0x08], ..icmp(134) };
    let body = [&[0, 0, 0, 5, 0, 0, 0, 6][..], &mac_option, &[5, 1, 0, 0, 0, 0, 5, 0xdc], &[3, 4], &[0; 30]]
        .concat();
    let expected = Message::RouterAdvertisement {
        hop_limit: 64,
        lifetime_seconds: 1800,
        reachable_milliseconds: 5,
        retransmit_milliseconds: 6,
        source_mac: mac,
        mtu: Some(1500),
    };
    assert_eq!(send("fe80::1", "ff02::1", advertisement, &body), Ok(expected));
    assert_eq!(
        send("2001:db8::1", "ff02::1", advertisement, &body),
        Err(BadHeader),
        "RFC 4861 section 6.1.2"
    );
    let target: Ipv6Addr = "fe80::2".parse().unwrap();
    let body = [target.octets(), OTHER6.octets()].concat();
    let redirect = Message::Redirect { target, destination: OTHER6, target_mac: None };
    assert_eq!(send("fe80::1", "fe80::9", icmp(137), &body), Ok(redirect));
    let off_link = [OWN6.octets(), solicited_node(OTHER6).octets()].concat();
    assert_eq!(send("fe80::1", "fe80::9", icmp(137), &off_link), Err(BadHeader), "RFC 4861 section 8.1");
}

#[test]
fn invalid_solicitations_and_advertisements_are_refused() {
    // RFC 4861 sections 7.1.1 and 7.1.2.
    let target = OTHER6.octets();
    let body = |rest: &[u8]| [&target, rest].concat();
    let group = "ff02::1:ff12:3456";
    assert!(send("fe80::1", group, icmp(135), &body(&[])).is_ok());
    assert_eq!(send("fe80::1", group, Icmpv6 { code: 1, ..icmp(135) }, &body(&[])), Err(BadHeader), "code");
    assert_eq!(send("fe80::1", group, icmp(135), &target[..15]), Err(BadLength), "too short");
    assert_eq!(send("fe80::1", group, icmp(135), &[0xff; 16]), Err(BadHeader), "multicast target");
    assert_eq!(
        send("fe80::1", group, icmp(135), &body(&[1, 0, 0, 0, 0, 0, 0, 0])),
        Err(BadLength),
        "option of zero"
    );
    assert_eq!(
        send("fe80::1", group, icmp(135), &body(&[1, 2, 0, 0, 0, 0, 0, 0])),
        Err(BadLength),
        "beyond the end"
    );
    assert_eq!(send("fe80::1", group, icmp(135), &body(&[1])), Err(BadLength), "half an option");
    assert_eq!(
        send("fe80::1", group, icmp(135), &body(&[1, 2].repeat(8))),
        Err(BadLength),
        "not Ethernet's length"
    );
    assert!(
        send("fe80::1", group, icmp(135), &body(&[14, 1, 1, 2, 3, 4, 5, 6])).is_ok(),
        "others are skipped"
    );
    assert!(send("::", group, icmp(135), &body(&[])).is_ok());
    assert_eq!(
        send("::", "2001:db8::1", icmp(135), &body(&[])),
        Err(BadHeader),
        "not to a solicited-node group"
    );
    assert_eq!(
        send("::", group, icmp(135), &body(&[1, 1, 2, 0, 0, 0, 0, 9])),
        Err(BadHeader),
        "source option"
    );
    let solicited = Icmpv6 { rest: [0x40, 0, 0, 0], ..icmp(136) };
    assert!(send("fe80::1", "fe80::2", solicited, &body(&[])).is_ok());
    assert_eq!(send("fe80::1", "ff02::1", solicited, &body(&[])), Err(BadHeader), "solicited, to a group");
}

#[test]
fn forwarded_damaged_and_fragmented_messages_are_refused() {
    let frame = neighbour_solicitation(ROUTER_MAC, &VlanTags::new(), OWN6, OTHER6, None);
    let parse = |frame: &[u8]| Message::parse(&Parsed::parse(frame).unwrap(), frame);
    assert!(parse(&frame).is_ok());
    let mut forwarded = frame.clone();
    forwarded[21] = 254;
    assert_eq!(parse(&forwarded), Err(BadHeader), "hop limit");
    let mut damaged = frame.clone();
    damaged[70] ^= 1;
    assert_eq!(parse(&damaged), Err(BadL4Checksum));
    // RFC 6980 section 5: also not in an atomic fragment.
    let mut fragment = frame[..54].to_vec();
    fragment[20] = 44;
    fragment[19] += 8;
    fragment.extend([58, 0, 0, 0, 1, 2, 3, 4]);
    fragment.extend(&frame[54..]);
    assert_eq!(parse(&fragment), Err(FragmentInvalid));
}
