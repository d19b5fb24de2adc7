//! Which packets are followed.

use ipnet::IpNet;
use millrace_dataplane::port::PortId;
use millrace_nf::headers::Parsed;

use crate::instance::functions::PortFacts;
use crate::management::filter::{network, protocol, split, transport_port};

/// A filter of packets as they come in; all that it names must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketFilter {
    input: Option<PortId>,
    source: Option<IpNet>,
    destination: Option<IpNet>,
    protocol: Option<u8>,
    port: Option<u16>,
}

impl PacketFilter {
    /// Reads terms of the keys `input`, `source`, `destination`, `protocol` and `port`.
    ///
    /// # Errors
    /// What is wrong with a term.
    pub fn parse(terms: &[String], ports: &[PortFacts]) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in split(terms)? {
            match key {
                "input" => {
                    let found = ports.iter().find(|port| port.name == value);
                    filter.input = Some(found.ok_or_else(|| format!("there is no port `{value}`"))?.id);
                }
                "source" => filter.source = Some(network(value)?),
                "destination" => filter.destination = Some(network(value)?),
                "protocol" => filter.protocol = Some(protocol(value)?),
                "port" => filter.port = Some(transport_port(value)?),
                _ => {
                    let keys = "input, source, destination, protocol or port";
                    return Err(format!("`{key}` is no key of packets: expected {keys}"));
                }
            }
        }
        Ok(filter)
    }

    /// True if a frame that came from `port` matches. What can't be read matches a filter that names nothing but `input`.
    pub fn matches(&self, port: PortId, bytes: &[u8]) -> bool {
        self.matches_from(Some(port), bytes)
    }

    /// The same of a frame of which it may not be known where it came from; then it matches no filter that names `input`.
    pub fn matches_from(&self, port: Option<PortId>, bytes: &[u8]) -> bool {
        if self.input.is_some_and(|input| Some(input) != port) {
            return false;
        }
        if *self == (Self { input: self.input, ..Self::default() }) {
            return true;
        }
        let Ok(parsed) = Parsed::parse(bytes) else { return false };
        let addresses = parsed.addresses();
        let within = |net: Option<IpNet>, destination: bool| {
            let address = addresses.map(|(from, to)| if destination { to } else { from });
            net.is_none_or(|net| address.is_some_and(|address| net.contains(&address)))
        };
        let ports = parsed.ports();
        within(self.source, false)
            && within(self.destination, true)
            && self.protocol.is_none_or(|protocol| parsed.protocol() == Some(protocol))
            && self.port.is_none_or(|port| ports.is_some_and(|(from, to)| port == from || port == to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::packet::Described;

    fn matches(terms: &[&str], packet: &str) -> bool {
        let facts = |id, name: &str| PortFacts {
            id: PortId(id),
            name: name.to_owned(),
            mac: [2; 6],
            mtu: 1_500,
            device_mtu: 1_500,
        };
        let terms: Vec<_> = terms.iter().map(|&term| term.to_owned()).collect();
        let filter = PacketFilter::parse(&terms, &[facts(0, "lan"), facts(1, "wan")]).unwrap();
        filter.matches(PortId(0), &packet.parse::<Described>().unwrap().frame([2; 6]).unwrap())
    }

    #[test]
    fn all_terms_must_match() {
        let packet = "tcp 10.0.0.2:4000 > 203.0.113.7:443 syn";
        for terms in [
            &[][..],
            &["input=lan"],
            &["source=10.0.0.0/8", "destination=203.0.113.7"],
            &["protocol=tcp", "port=443"],
            &["port=4000"],
        ] {
            assert!(matches(terms, packet), "{terms:?}");
        }
        for terms in [
            &["input=wan"][..],
            &["source=203.0.113.7"],
            &["protocol=udp"],
            &["protocol=tcp", "port=80"],
            &["destination=2001:db8::/32"],
        ] {
            assert!(!matches(terms, packet), "{terms:?}");
        }
        assert!(matches(&["protocol=icmpv6"], "icmp fd00::1 > fd00::2"));
        assert!(!matches(&["port=0"], "icmp fd00::1 > fd00::2"));
        for (term, said) in
            [("input=dmz", "no port `dmz`"), ("color=red", "`color` is no key"), ("port=x", "`x` is no port")]
        {
            let error = PacketFilter::parse(&[term.to_owned()], &[]).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
