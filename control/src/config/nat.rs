//! `[functions.NAME]` of kind `nat`: translation of IPv4 addresses and ports.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use super::chains::Chain;
use super::context::Finding;
use super::diagnostic::count;
use super::names::{check_reference, reference};
use super::network::{Ipv4Range, TCP, UDP, ipv4_range, prefix_v4, show_protocol};
use super::schema;
use super::section::{Invalid, Scalar, Section, narrow};
use super::units::ports;

/// Which packets from outside reach a mapping (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Those of any host.
    EndpointIndependent,
    /// Those of hosts that the inside host has sent to.
    AddressDependent,
    /// Those of addresses and ports that the inside host has sent to.
    #[default]
    AddressAndPortDependent,
}

impl From<Filtering> for millrace_nf::nat::Filtering {
    fn from(filtering: Filtering) -> Self {
        match filtering {
            Filtering::EndpointIndependent => Self::EndpointIndependent,
            Filtering::AddressDependent => Self::AddressDependent,
            Filtering::AddressAndPortDependent => Self::AddressAndPortDependent,
        }
    }
}

/// What happens to the MSS option of TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// Nothing.
    #[default]
    Off,
    /// It is lowered to what the MTU of the outgoing interface allows.
    Auto,
    /// It is lowered to this many bytes.
    Bytes(u16),
}

/// A transport address, or several that differ in the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub address: Ipv4Addr,
    /// Ports.
    pub ports: RangeInclusive<u16>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.address, self.ports.start())?;
        if self.ports.start() != self.ports.end() {
            write!(f, "-{}", self.ports.end())?;
        }
        Ok(())
    }
}

/// A static port forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// IANA number: TCP or UDP.
    pub protocol: u8,
    /// Where the outside connects to.
    pub external: Endpoint,
    /// Where it arrives; as many ports as `external`.
    pub internal: Endpoint,
}

/// A NAT's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Zone of the hosts that are translated.
    pub inside: String,
    /// Zone that sees the external addresses.
    pub outside: String,
    /// External addresses; ranges that do not overlap.
    pub pool: Vec<Ipv4Range>,
    /// Inside addresses that are translated; all when empty.
    pub sources: Vec<Ipv4Net>,
    /// Which packets from outside are let in.
    pub filtering: Filtering,
    /// External ports of dynamic mappings.
    pub port_range: RangeInclusive<u16>,
    /// Whether inside hosts reach each other by external addresses (RFC 4787 REQ-9).
    pub hairpinning: bool,
    /// What happens to TCP's MSS option.
    pub mss_clamp: MssClamp,
    /// Static port forwards.
    pub forwards: Vec<Forward>,
}

/// Most addresses of a pool.
const POOL_ADDRESSES_MAX: u64 = 4_096;

/// Reads a NAT; `chain` is the one that uses it.
pub(crate) fn read_nat(section: &Section<'_>, chain: Option<&Chain>) -> Nat {
    let inside = read_zone(section, "inside", chain);
    let outside = read_zone(section, "outside", chain);
    if inside == outside {
        let finding = Finding::error(section.key("outside"), "inside and outside are the same zone");
        section.context.push(finding.found(format!("\"{outside}\"")).valid("two zones of the chain"));
    }
    section.require("pool", "pool = [\"203.0.113.1-203.0.113.4\"]: the addresses that the outside sees");
    let pool = section.list("pool", ipv4_range).unwrap_or_default();
    check_pool(section, &pool);
    let filtering = [
        ("endpoint-independent", Filtering::EndpointIndependent),
        ("address-dependent", Filtering::AddressDependent),
        ("address-and-port-dependent", Filtering::AddressAndPortDependent),
    ];
    let forwards = section.tables("forward", &schema::FORWARD, |forward, _| read_forward(forward));
    check_forwards(section, &forwards);
    Nat {
        inside,
        outside,
        pool,
        sources: section.list("sources", prefix_v4).unwrap_or_default(),
        filtering: section.choice("filtering", &filtering).unwrap_or_default(),
        port_range: section.parsed("port_range", port_range).unwrap_or(1_024..=65_535),
        hairpinning: section.boolean("hairpinning").unwrap_or(true),
        mss_clamp: section.parsed("mss_clamp", mss_clamp).unwrap_or_default(),
        forwards,
    }
}

/// A zone of the chain; by default the one with the key's own name.
fn read_zone(section: &Section<'_>, key: &'static str, chain: Option<&Chain>) -> String {
    let name = section.parsed(key, reference);
    // A broken value has had its error; a missing one is an error only if the default names no zone.
    if let Some(chain) = chain.filter(|_| name.is_some() || !section.has(key)) {
        let zones: Vec<_> = chain.zones.iter().map(|zone| zone.name.as_str()).collect();
        check_reference(section.context, &section.key(key), "zone", name.as_deref().unwrap_or(key), &zones);
    }
    name.unwrap_or_else(|| key.to_owned())
}

fn check_pool(section: &Section<'_>, pool: &[Ipv4Range]) {
    let path = section.key("pool");
    let count: u64 = pool.iter().map(|range| range.count()).sum();
    if count > POOL_ADDRESSES_MAX {
        let finding = Finding::error(&path, "the pool is too large").found(format!("{count} addresses"));
        let valid = format!("at most {POOL_ADDRESSES_MAX} addresses: each gives 64,512 ports a protocol");
        section.context.push(finding.valid(valid));
        return;
    }
    for (index, range) in pool.iter().enumerate() {
        if let Some(earlier) = pool[..index].iter().find(|earlier| earlier.overlaps(*range)) {
            let finding =
                Finding::error(section.context.item(&path, index), format!("the pool holds {range} twice"));
            section
                .context
                .push(finding.found(range.to_string()).valid(format!("addresses that are not in {earlier}")));
        }
    }
}

fn port_range(scalar: Scalar<'_>) -> Result<RangeInclusive<u16>, Invalid> {
    let valid = "a range of at least 1024 ports, as \"1024-65535\"";
    let range = ports(scalar).map_err(|invalid| Invalid { valid: valid.to_owned(), ..invalid })?;
    if range.len() < 1_024 {
        return Err(Invalid::new("the range is too small for dynamic mappings", valid));
    }
    Ok(range)
}

fn mss_clamp(scalar: Scalar<'_>) -> Result<MssClamp, Invalid> {
    let valid = "\"auto\", \"off\" or bytes from 536 to 8960";
    match scalar {
        Scalar::Text("auto") => Ok(MssClamp::Auto),
        Scalar::Text("off") => Ok(MssClamp::Off),
        Scalar::Number(bytes @ 536..=8_960) => Ok(MssClamp::Bytes(narrow(bytes))),
        Scalar::Number(_) => Err(Invalid::new("the MSS is out of range", valid)),
        Scalar::Text(text) => Err(Invalid::new(format!("`{text}` is no way to clamp the MSS"), valid)),
    }
}

fn endpoint(scalar: Scalar<'_>) -> Result<Endpoint, Invalid> {
    let valid = "an IPv4 address with a port or ports, as \"203.0.113.1:8080\" or \"203.0.113.1:8000-8100\"";
    let Scalar::Text(text) = scalar else {
        return Err(Invalid::new("expected a string, found a number", valid));
    };
    let invalid = || Invalid::new(format!("`{text}` is no address with a port"), valid);
    let Some((address, range)) = text.rsplit_once(':') else {
        let help = format!("for example \"{text}:80\"");
        return Err(if text.parse::<Ipv4Addr>().is_ok() { invalid().help(help) } else { invalid() });
    };
    let address: Ipv4Addr = address.trim().parse().map_err(|_| invalid())?;
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast() {
        return Err(Invalid::new(format!("{address} is not a unicast address of a network"), valid));
    }
    let ports = ports(Scalar::Text(range)).map_err(|error| Invalid { valid: valid.to_owned(), ..error })?;
    Ok(Endpoint { address, ports })
}

fn read_forward(section: &Section<'_>) -> Option<Forward> {
    section.require("protocol", "protocol = \"tcp\" or \"udp\"");
    section.require("external", "external = \"ADDRESS:PORT\": where the outside connects to");
    section.require("internal", "internal = \"ADDRESS:PORT\": where it arrives");
    let protocol = section.choice("protocol", &[("tcp", TCP), ("udp", UDP)]);
    let (external, internal) = (section.parsed("external", endpoint), section.parsed("internal", endpoint));
    let forward = Forward { protocol: protocol?, external: external?, internal: internal? };
    let (from, to) = (forward.external.ports.len(), forward.internal.ports.len());
    if from != to {
        let finding = Finding::error(section.key("internal"), "the ranges of ports differ in length");
        section.context.push(
            finding
                .found(format!("{} to {}", count(from, "port"), count(to, "port")))
                .valid(count(from, "port")),
        );
    }
    Some(forward)
}

fn check_forwards(section: &Section<'_>, forwards: &[Forward]) {
    for (index, forward) in forwards.iter().enumerate() {
        let external = &forward.external;
        let taken = forwards[..index].iter().position(|earlier| {
            earlier.protocol == forward.protocol
                && earlier.external.address == external.address
                && earlier.external.ports.start() <= external.ports.end()
                && external.ports.start() <= earlier.external.ports.end()
        });
        if let Some(earlier) = taken {
            let path = section.context.item(&section.key("forward"), index);
            let message = format!("{} {external} is forwarded twice", show_protocol(forward.protocol));
            let other = section.context.item(&section.key("forward"), earlier);
            let finding = Finding::error(format!("{path}.external"), message).found(external.to_string());
            section.context.push(finding.valid(format!("ports that {other} does not forward")));
        }
    }
}
