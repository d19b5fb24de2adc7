//! Text formats of networks: prefixes, addresses, address ranges, MAC addresses, protocols, ICMP types.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use millrace_dataplane::port::MacAddress;

use super::section::{Invalid, Scalar};
use super::suggest::nearest;

const PREFIX: &str = "a network, as \"10.0.0.0/8\" or \"2001:db8::/32\", or a single address";
const INTERFACE: &str = "an address with its prefix length, as \"10.0.0.1/24\" or \"fd00::1/64\"";
const ADDRESS: &str = "an IPv4 or IPv6 address, as \"10.0.0.1\" or \"fd00::1\"";
const RANGE: &str = "IPv4 addresses, as \"203.0.113.1\", \"203.0.113.1-203.0.113.4\" or \"203.0.113.0/28\"";
const MAC: &str = "a unicast MAC address, as \"02:00:00:00:00:01\"";

/// A range of IPv4 addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    /// Lowest address.
    pub first: Ipv4Addr,
    /// Highest address.
    pub last: Ipv4Addr,
}

impl Ipv4Range {
    /// How many addresses it holds.
    pub fn count(self) -> u64 {
        u64::from(u32::from(self.last)) - u64::from(u32::from(self.first)) + 1
    }

    /// Whether the address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether both hold some address.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl std::fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

fn text<'a>(scalar: Scalar<'a>, valid: &str) -> Result<&'a str, Invalid> {
    match scalar {
        Scalar::Text(text) => Ok(text.trim()),
        Scalar::Number(_) => Err(Invalid::new("expected a string, found a number", valid)),
    }
}

/// A network; a bare address is the network of that one host. Bits beyond the prefix length are refused.
pub(crate) fn prefix(scalar: Scalar<'_>) -> Result<IpNet, Invalid> {
    let text = text(scalar, PREFIX)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet =
        text.parse().map_err(|_| Invalid::new(format!("`{text}` is not a network"), PREFIX))?;
    if network.trunc() != network {
        let host = IpNet::from(network.addr());
        let message = format!("`{text}` has bits set beyond its prefix length");
        let help = format!("did you mean the network \"{}\" or the host \"{host}\"?", network.trunc());
        return Err(Invalid::new(message, PREFIX).help(help));
    }
    Ok(network)
}

/// An IPv4 network, as [`prefix`].
pub(crate) fn prefix_v4(scalar: Scalar<'_>) -> Result<Ipv4Net, Invalid> {
    match prefix(scalar)? {
        IpNet::V4(network) => Ok(network),
        IpNet::V6(network) => {
            Err(Invalid::new(format!("`{network}` is IPv6"), "an IPv4 network, as \"10.0.0.0/8\""))
        }
    }
}

/// A host's own address with the length of its network's prefix.
pub(crate) fn interface_address(scalar: Scalar<'_>) -> Result<IpNet, Invalid> {
    let text = text(scalar, INTERFACE)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let invalid = Invalid::new("the prefix length is missing", INTERFACE);
        return Err(invalid.help(format!("for example \"{address}/{length}\"")));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| Invalid::new(format!("`{text}` is not an address with a prefix length"), INTERFACE))?;
    let address = network.addr();
    let refuse = |what: &str| Err(Invalid::new(format!("{address} {what}"), INTERFACE));
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return refuse("cannot be the address of an interface: it is not a unicast address of a network");
    }
    let several_hosts = network.max_prefix_len() - network.prefix_len() > 1;
    if several_hosts && network.network() == address {
        let invalid = Invalid::new(format!("{address} names the network {network}, not a host"), INTERFACE);
        let first = network.hosts().next().filter(|_| address.is_ipv4());
        return Err(match first {
            Some(first) => invalid.help(format!("for example \"{first}/{}\"", network.prefix_len())),
            None => invalid.help("this is the subnet-router anycast address (RFC 4291 section 2.6.1)"),
        });
    }
    if several_hosts && address.is_ipv4() && network.broadcast() == address {
        return refuse("is the broadcast address of its network");
    }
    Ok(network)
}

/// An IPv4 or IPv6 address.
pub(crate) fn address(scalar: Scalar<'_>) -> Result<IpAddr, Invalid> {
    let text = text(scalar, ADDRESS)?;
    text.parse().map_err(|_| Invalid::new(format!("`{text}` is not an address"), ADDRESS))
}

/// IPv4 addresses as one address, a range or a network.
pub(crate) fn ipv4_range(scalar: Scalar<'_>) -> Result<Ipv4Range, Invalid> {
    let text = text(scalar, RANGE)?;
    let invalid = || Invalid::new(format!("`{text}` is no range of IPv4 addresses"), RANGE);
    let range = if let Some((first, last)) = text.split_once('-') {
        let first: Ipv4Addr = first.trim().parse().map_err(|_| invalid())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| invalid())?;
        if first > last {
            let reversed = Invalid::new("the range of addresses is reversed", RANGE);
            return Err(reversed.help(format!("did you mean \"{last}-{first}\"?")));
        }
        Ipv4Range { first, last }
    } else {
        match prefix(Scalar::Text(text)) {
            Ok(IpNet::V4(network)) => Ipv4Range { first: network.network(), last: network.broadcast() },
            Ok(IpNet::V6(_)) => return Err(invalid()),
            Err(error) => return Err(Invalid { valid: RANGE.to_owned(), ..error }),
        }
    };
    let unusable =
        |a: Ipv4Addr| a.is_loopback() || a.is_multicast() || a.octets()[0] == 0 || a.octets()[0] >= 240;
    if unusable(range.first) || unusable(range.last) {
        return Err(Invalid::new(format!("`{text}` holds addresses that are not unicast addresses"), RANGE));
    }
    Ok(range)
}

/// A unicast MAC address.
pub(crate) fn mac(scalar: Scalar<'_>) -> Result<MacAddress, Invalid> {
    let text = text(scalar, MAC)?;
    let invalid = || Invalid::new(format!("`{text}` is not a MAC address"), MAC);
    let mut address = MacAddress::default();
    let mut parts = text.split([':', '-']);
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    if parts.next().is_some() || text.contains('+') {
        return Err(invalid());
    }
    if address[0] & 1 == 1 || address == MacAddress::default() {
        return Err(Invalid::new(format!("`{text}` is not a unicast address"), MAC));
    }
    Ok(address)
}

/// IANA number of ICMP.
pub const ICMP: u8 = 1;
/// IANA number of TCP.
pub const TCP: u8 = 6;
/// IANA number of UDP.
pub const UDP: u8 = 17;
/// IANA number of ICMPv6.
pub const ICMPV6: u8 = 58;

const PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", TCP),
    ("udp", UDP),
    ("icmp", ICMP),
    ("icmpv6", ICMPV6),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("sctp", 132),
];

/// The name of a protocol, or its number.
pub fn show_protocol(protocol: u8) -> String {
    let name = PROTOCOLS.iter().find(|(_, number)| *number == protocol);
    name.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

/// An IP protocol by name or number.
pub(crate) fn protocol(scalar: Scalar<'_>) -> Result<u8, Invalid> {
    let names: Vec<_> = PROTOCOLS.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let valid = format!("{} or a number from 0 to 255", names.join(", "));
    match scalar {
        Scalar::Number(number) => {
            u8::try_from(number).map_err(|_| Invalid::new("no IP protocol has this number", valid))
        }
        Scalar::Text(text) => {
            if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
                return Ok(*number);
            }
            let invalid = Invalid::new(format!("`{text}` is not a known protocol"), valid);
            Err(match nearest(text, PROTOCOLS.iter().map(|(name, _)| *name)) {
                Some(name) => invalid.help(format!("did you mean \"{name}\"?")),
                None => invalid,
            })
        }
    }
}

/// An ICMP type, with its code where that matters too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpType {
    /// Type (RFC 792, RFC 4443).
    pub kind: u8,
    /// Code; any when `None`.
    pub code: Option<u8>,
}

const ICMP_TYPES: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbour-advertisement", 136),
];

/// An ICMP type by name, as a number, or with its code as `3/4`; `protocol` says which ICMP.
pub(crate) fn icmp_type(protocol: u8, scalar: Scalar<'_>) -> Result<IcmpType, Invalid> {
    let types = if protocol == ICMPV6 { ICMPV6_TYPES } else { ICMP_TYPES };
    let names: Vec<_> = types.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let valid = format!("{}, a number from 0 to 255, or \"TYPE/CODE\"", names.join(", "));
    let text = match scalar {
        Scalar::Number(number) => {
            let kind =
                u8::try_from(number).map_err(|_| Invalid::new("no ICMP type has this number", valid))?;
            return Ok(IcmpType { kind, code: None });
        }
        Scalar::Text(text) => text.trim(),
    };
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (kind.trim(), Some(code.trim())),
        None => (text, None),
    };
    let invalid = || Invalid::new(format!("`{text}` is not a known ICMP type"), valid.as_str());
    let code = code.map(str::parse).transpose().map_err(|_| invalid())?;
    let known = types.iter().find(|(name, _)| *name == kind).map(|(_, number)| *number);
    match known.or_else(|| kind.parse().ok()) {
        Some(kind) => Ok(IcmpType { kind, code }),
        None => Err(match nearest(kind, types.iter().map(|(name, _)| *name)) {
            Some(name) => invalid().help(format!("did you mean \"{name}\"?")),
            None => invalid(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_with_host_bits_say_which_network_is_meant() {
        assert_eq!(prefix(Scalar::Text("10.0.0.0/8")).unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(prefix(Scalar::Text("fd00::1")).unwrap().to_string(), "fd00::1/128");
        let help = prefix(Scalar::Text("10.0.0.5/24")).unwrap_err().help.unwrap();
        assert!(help.contains("10.0.0.0/24") && help.contains("10.0.0.5/32"), "{help}");
        for text in ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "lan"] {
            assert!(prefix(Scalar::Text(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn interface_addresses_are_hosts() {
        for text in ["10.0.0.1/24", "10.0.0.0/31", "10.0.0.1/32", "fd00::1/64", "fd00::/127"] {
            assert!(interface_address(Scalar::Text(text)).is_ok(), "{text}");
        }
        for text in [
            "10.0.0.0/24",
            "10.0.0.255/24",
            "10.0.0.1",
            "fd00::/64",
            "127.0.0.1/8",
            "ff02::1/64",
            "224.0.0.1/4",
        ] {
            assert!(interface_address(Scalar::Text(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = ipv4_range(Scalar::Text("203.0.113.1-203.0.113.4")).unwrap();
        assert_eq!((range.count(), range.to_string().as_str()), (4, "203.0.113.1-203.0.113.4"));
        assert_eq!(ipv4_range(Scalar::Text("203.0.113.0/28")).unwrap().count(), 16);
        for text in ["203.0.113.4-203.0.113.1", "203.0.113.1/28", "fd00::1", "0.0.0.0/0", "224.0.0.1", "-"] {
            assert!(ipv4_range(Scalar::Text(text)).is_err(), "{text}");
        }
        let all = Ipv4Range { first: Ipv4Addr::UNSPECIFIED, last: Ipv4Addr::BROADCAST };
        assert_eq!(all.count(), 1 << 32);
    }

    #[test]
    fn macs_protocols_and_icmp_types() {
        assert_eq!(mac(Scalar::Text("02:00:5e:10:00:0A")), Ok([2, 0, 0x5e, 0x10, 0, 10]));
        for text in
            ["", "02:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01", "+2:00:00:00:00:01"]
        {
            assert!(mac(Scalar::Text(text)).is_err(), "{text}");
        }
        assert_eq!(protocol(Scalar::Text("udp")), Ok(UDP));
        assert!(protocol(Scalar::Text("tpc")).unwrap_err().help.unwrap().contains("tcp"));
        assert!(protocol(Scalar::Number(256)).is_err());
        assert_eq!(icmp_type(ICMPV6, Scalar::Text("echo-request")), Ok(IcmpType { kind: 128, code: None }));
        assert_eq!(icmp_type(ICMP, Scalar::Text("3/4")), Ok(IcmpType { kind: 3, code: Some(4) }));
        assert!(icmp_type(ICMP, Scalar::Text("packet-too-big")).is_err());
    }
}
