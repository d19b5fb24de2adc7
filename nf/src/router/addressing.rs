//! Addresses that follow from others: link-local and solicited-node addresses, multicast MAC addresses.

use ipnet::IpNet;
use millrace_dataplane::port::MacAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The Ethernet broadcast address.
pub const BROADCAST_MAC: MacAddress = [0xff; 6];

/// The link-local address of an interface: fe80::/64 and the modified EUI-64 of its MAC address
/// (RFC 4291 section 2.5.6 and appendix A; RFC 2464 section 5).
pub fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
}

/// The solicited-node multicast group of an address: ff02::1:ff00:0/104 and its last 24 bits (RFC 4291 section 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// The MAC address that frames for a group or for the limited broadcast address carry (RFC 1112 section 6.4, RFC 2464
/// section 7); `None` for a unicast address.
pub fn multicast_mac(address: IpAddr) -> Option<MacAddress> {
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(BROADCAST_MAC),
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}

/// Whether a MAC address can name one station: not a group, not all zeros.
pub fn is_unicast_mac(mac: MacAddress) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Number of leading bits that two addresses of one family share; 0 for different families.
pub fn common_prefix_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// The directed broadcast address of an IPv4 network; none for /31 and /32 (RFC 3021 section 2.1) and for IPv6.
pub fn subnet_broadcast(network: IpNet) -> Option<Ipv4Addr> {
    match network {
        IpNet::V4(network) if network.prefix_len() < 31 => Some(network.broadcast()),
        _ => None,
    }
}

/// Whether `address` is the network's own number: host bits zero. For IPv4 it is the obsolete form of the directed
/// broadcast (RFC 1122 section 3.2.1.3), for IPv6 the subnet-router anycast address (RFC 4291 section 2.6.1). Networks
/// of two addresses or one have none (RFC 3021, RFC 6164).
pub fn is_network_number(network: IpNet, address: IpAddr) -> bool {
    network.max_prefix_len() - network.prefix_len() > 1 && network.network() == address
}

/// Whether an address is link-local: valid on one link only (RFC 3927, RFC 4291 section 2.5.6).
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_match_the_examples_of_the_standards() {
        // RFC 2464 section 4: 34-56-78-9A-BC-DE has the identifier 36-56-78-FF-FE-9A-BC-DE.
        let address = link_local([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(address, "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
        // RFC 4291 section 2.7.1.
        let address = solicited_node("4037::01:800:200e:8c6c".parse().unwrap());
        assert_eq!(address, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac("224.129.2.3".parse().unwrap()), Some([1, 0, 0x5e, 1, 2, 3]));
        assert_eq!(multicast_mac(address.into()), Some([0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]));
        assert_eq!(multicast_mac("255.255.255.255".parse().unwrap()), Some(BROADCAST_MAC));
        assert_eq!(multicast_mac("10.0.0.255".parse().unwrap()), None);
    }

    #[test]
    fn networks_of_two_addresses_have_no_broadcast() {
        let broadcast = |net: &str| subnet_broadcast(net.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(broadcast("10.0.0.5/30").as_deref(), Some("10.0.0.7"));
        assert_eq!(broadcast("10.0.0.4/31"), None);
        assert_eq!(broadcast("fd00::/64"), None);
        assert!(is_network_number("10.0.0.5/30".parse().unwrap(), "10.0.0.4".parse().unwrap()));
        assert!(!is_network_number("10.0.0.4/31".parse().unwrap(), "10.0.0.4".parse().unwrap()));
        assert!(!is_network_number("fd00::/127".parse().unwrap(), "fd00::".parse().unwrap()));
    }
}
