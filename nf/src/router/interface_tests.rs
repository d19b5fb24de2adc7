//! Own addresses, source selection, and configurations that contradict themselves.

use super::*;

fn interface(port: u16, addresses: &[&str]) -> Interface {
    Interface {
        port: PortId(port),
        vlan: None,
        zone: ZoneId(port as u8),
        mac: [0x02, 0, 0, 0, 0, port as u8 + 1],
        mtu: 1_500,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ipv6: true,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);
const BARE: InterfaceId = InterfaceId(2);

fn edge() -> Interfaces {
    let proxy = |prefix: &str, interface| ProxyPrefix { prefix: prefix.parse().unwrap(), interface };
    Interfaces::new(
        vec![
            interface(0, &["10.0.0.1/24", "10.0.9.1/24", "fd00:0:0:1::1/64"]),
            interface(1, &["198.51.100.2/30", "2001:db8::2/64", "2001:db8:1::2/64"]),
            interface(2, &[]),
        ],
        vec![proxy("203.0.113.0/28", WAN), proxy("198.51.100.2/32", WAN), proxy("2001:db8::aa:0/120", WAN)],
    )
    .unwrap()
}

#[test]
fn addresses_are_classified() {
    let edge = edge();
    let cases = [
        (LAN, "10.0.0.1", AddressClass::Own(LAN)),
        (WAN, "10.0.0.1", AddressClass::Own(LAN)),
        (WAN, "198.51.100.2", AddressClass::Own(WAN)),
        (LAN, "10.0.0.255", AddressClass::SubnetBroadcast(LAN)),
        (LAN, "10.0.0.0", AddressClass::SubnetBroadcast(LAN)),
        (WAN, "198.51.100.3", AddressClass::SubnetBroadcast(WAN)),
        (LAN, "10.0.0.9", AddressClass::Unicast),
        (WAN, "203.0.113.7", AddressClass::Proxy),
        (WAN, "203.0.113.16", AddressClass::Unicast),
        (LAN, "255.255.255.255", AddressClass::Broadcast),
        (LAN, "224.0.0.1", AddressClass::JoinedGroup),
        (LAN, "224.0.0.251", AddressClass::Multicast),
        (LAN, "0.1.2.3", AddressClass::Unspecified),
        (LAN, "127.0.0.1", AddressClass::Loopback),
        (LAN, "245.0.0.1", AddressClass::Reserved),
        (LAN, "169.254.3.4", AddressClass::LinkLocal),
        (LAN, "fd00:0:0:1::1", AddressClass::Own(LAN)),
        (LAN, "fe80::ff:fe00:1", AddressClass::Own(LAN)),
        // The link-local address of one interface is a stranger's on another link.
        (WAN, "fe80::ff:fe00:1", AddressClass::LinkLocal),
        (LAN, "ff02::1", AddressClass::JoinedGroup),
        (LAN, "ff02::2", AddressClass::JoinedGroup),
        (LAN, "ff02::1:ff00:1", AddressClass::JoinedGroup),
        (LAN, "ff02::1:ff00:99", AddressClass::Multicast),
        (WAN, "ff02::1:ffaa:5", AddressClass::JoinedGroup),
        (WAN, "ff02::1:ffab:5", AddressClass::Multicast),
        (LAN, "ff02::1:ffaa:5", AddressClass::Multicast),
        (LAN, "ff02::fb", AddressClass::Multicast),
        (LAN, "::", AddressClass::Unspecified),
        (LAN, "::1", AddressClass::Loopback),
        (LAN, "::ffff:10.0.0.1", AddressClass::Reserved),
        (LAN, "2001:db8::1", AddressClass::Unicast),
    ];
    for (interface, address, class) in cases {
        assert_eq!(edge.classify(interface, ip(address)), class, "{address}");
    }
    assert!(AddressClass::Broadcast.is_martian_source() && !AddressClass::Broadcast.is_martian_destination());
    assert!(AddressClass::Loopback.is_martian_source() && AddressClass::Loopback.is_martian_destination());
    assert!(!AddressClass::Unicast.is_martian_source());
}

#[test]
fn sources_are_selected_by_scope_and_prefix() {
    let edge = edge();
    let cases = [
        (LAN, "10.0.0.77", Some("10.0.0.1")),
        (LAN, "10.0.9.77", Some("10.0.9.1")),
        (WAN, "8.8.8.8", Some("198.51.100.2")),
        (WAN, "2001:db8:1::99", Some("2001:db8:1::2")),
        (WAN, "fe80::1", Some("fe80::ff:fe00:2")),
        // RFC 1812 section 4.3.2.4: no address there, so another interface's.
        (BARE, "10.0.0.77", Some("10.0.0.1")),
        (BARE, "2001:db8::1", Some("fd00:0:0:1::1")),
        (InterfaceId(9), "10.0.0.77", None),
    ];
    for (interface, destination, source) in cases {
        assert_eq!(edge.source_for(interface, ip(destination)), source.map(ip), "{destination}");
    }
    // RFC 4861 section 7.2.2: an address of the outgoing interface.
    let ask = |interface, target| edge.solicitation_source(interface, ip(target));
    assert_eq!(ask(BARE, "2001:db8::1"), Some(ip("fe80::ff:fe00:3")));
    assert_eq!(ask(WAN, "2001:db8::1"), Some(ip("2001:db8::2")));
    assert_eq!(ask(WAN, "fe80::1"), Some(ip("fe80::ff:fe00:2")));
    assert_eq!(ask(LAN, "10.0.9.3"), Some(ip("10.0.9.1")));
    let nothing = Interfaces::new(vec![Interface { ipv6: false, ..interface(0, &[]) }], vec![]).unwrap();
    assert_eq!(nothing.source_for(LAN, ip("10.0.0.1")), None);
    assert_eq!(nothing.solicitation_source(LAN, ip("fe80::1")), None);
}

#[test]
fn questions_are_answered_where_they_belong() {
    let edge = edge();
    let answers = [
        (LAN, "10.0.0.1", true),
        (WAN, "10.0.0.1", false),
        (LAN, "10.0.0.2", false),
        (WAN, "203.0.113.7", true),
        (LAN, "203.0.113.7", false),
        (WAN, "2001:db8::aa:12", true),
        (WAN, "2001:db8::ab:12", false),
        (LAN, "fe80::ff:fe00:1", true),
        (InterfaceId(9), "10.0.0.1", false),
    ];
    for (interface, target, expected) in answers {
        assert_eq!(edge.answers_for(interface, ip(target)), expected, "{target}");
    }
}

#[test]
fn implausible_neighbours_are_named() {
    use ImplausibleNeighbour::*;
    let edge = edge();
    let station = [0x02, 0xaa, 0, 0, 0, 9];
    let cases = [
        (LAN, "10.0.0.7", station, Ok(())),
        (LAN, "fe80::7", station, Ok(())),
        (LAN, "10.0.1.7", station, Err(NotOnLink)),
        (WAN, "10.0.0.7", station, Err(NotOnLink)),
        (LAN, "10.0.0.1", station, Err(OwnAddress)),
        (WAN, "203.0.113.3", station, Err(OwnAddress)),
        (LAN, "10.0.0.255", station, Err(AddressNotUnicast)),
        (LAN, "0.0.0.0", station, Err(AddressNotUnicast)),
        (LAN, "ff02::1", station, Err(AddressNotUnicast)),
        (LAN, "10.0.0.7", [0xff; 6], Err(MacNotUnicast)),
        (LAN, "10.0.0.7", [0; 6], Err(MacNotUnicast)),
        (LAN, "10.0.0.7", [0x33, 0x33, 0, 0, 0, 1], Err(MacNotUnicast)),
        (LAN, "10.0.0.7", [0x02, 0, 0, 0, 0, 1], Err(OwnMac)),
    ];
    for (interface, address, mac, expected) in cases {
        assert_eq!(edge.plausible_neighbour(interface, ip(address), mac), expected, "{address} {mac:x?}");
    }
}

#[test]
fn frames_find_their_interface() {
    let tagged = Interface { vlan: Some(7), mac: [2, 9, 9, 9, 9, 9], ..interface(0, &["10.7.0.1/24"]) };
    let interfaces = Interfaces::new(vec![interface(0, &["10.0.0.1/24"]), tagged], vec![]).unwrap();
    assert_eq!(interfaces.by_port(PortId(0), None), Some(InterfaceId(0)));
    assert_eq!(interfaces.by_port(PortId(0), Some(7)), Some(InterfaceId(1)));
    assert_eq!(interfaces.by_port(PortId(0), Some(8)), None);
    assert_eq!(interfaces.by_port(PortId(1), None), None);
}

#[test]
fn routes_follow_from_addresses() {
    let interfaces =
        Interfaces::new(vec![interface(0, &["10.0.0.1/24", "10.9.9.9/32", "fe80::5/64"])], vec![]);
    let routes = interfaces.unwrap().routes();
    let text: Vec<_> = routes.iter().map(|route| format!("{} {:?}", route.prefix, route.kind)).collect();
    assert_eq!(text, ["10.0.0.0/24 Unicast", "10.0.0.1/32 Local", "10.9.9.9/32 Local"]);
}

#[test]
fn contradictions_are_all_named() {
    let bad = vec![
        Interface { vlan: Some(4_095), mac: [1, 0, 0, 0, 0, 0], mtu: 1_279, ..interface(0, &[]) },
        interface(
            1,
            &["10.0.0.0/24", "10.0.1.255/24", "224.0.0.5/24", "127.0.0.1/8", "0.0.0.0/0", "250.1.1.1/24"],
        ),
        Interface { ipv6: false, mtu: 67, ..interface(1, &["fd00::1/64"]) },
        interface(3, &["10.5.0.1/24", "10.6.0.1/24", "10.6.0.2/24"]),
        interface(4, &["10.5.0.2/24", "10.6.0.1/16"]),
    ];
    let proxy = ProxyPrefix { prefix: "203.0.113.1/32".parse().unwrap(), interface: InterfaceId(5) };
    let errors = Interfaces::new(bad, vec![proxy]).unwrap_err();
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "interface 0: VLAN 4095 is not within 1 to 4094",
            "interface 0: its MAC address must be a unicast address",
            "interface 0: an MTU of 1279 bytes is below the 1280 that its protocols need",
            "interface 1: 10.0.0.0/24 can't be an interface's address: it is the number of its network",
            "interface 1: 10.0.1.255/24 can't be an interface's address: it is the broadcast address of its network",
            "interface 1: 224.0.0.5/24 can't be an interface's address: it is a multicast group",
            "interface 1: 127.0.0.1/8 can't be an interface's address: it is a loopback address",
            "interface 1: 0.0.0.0/0 can't be an interface's address: it is unspecified",
            "interface 1: 250.1.1.1/24 can't be an interface's address: it is reserved",
            "interface 2: an MTU of 67 bytes is below the 68 that its protocols need",
            "interface 2: fd00::1/64 can't be an interface's address: IPv6 is off there",
            "interfaces 1 and 2 are on the same port and VLAN",
            "interface 4: 10.5.0.0/24 is on interface 3 already",
            "interface 4: 10.6.0.1/32 is on interface 3 already",
            "203.0.113.1/32 is to be answered for on interface 5, which does not exist",
        ]
    );
}
