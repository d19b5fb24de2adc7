//! What comes out of a network, in words that are the same for both: hosts and mappings by name, checksums verified, datagrams whole.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{
    End, Host, ICMP, ICMPV6, Inner, Port, RST, Resolve, TCP, UDP, internet_checksum, transport_checksum,
};

/// One datagram that came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub at: End,
    pub kind: Kind,
    pub text: String,
}

/// What a datagram is, for telling differences apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A fragment whose datagram is not complete, or whose pieces overlap.
    Fragment,
    /// An ICMP error of the middle itself: type and code.
    Answer(u8, u8),
    /// A TCP reset that the middle made.
    Reset,
    Packet,
}

/// A port that no mapping has.
const UNMAPPED: u16 = 7;

/// The external ports of one network, as they were seen.
#[derive(Debug, Default)]
pub struct Names {
    mapped: HashMap<(Inner, Host, u16), u16>,
    inner: HashMap<(u8, u16, Host, u16), Inner>,
}

impl Names {
    /// Forgets all: the next run has other hosts.
    pub fn clear(&mut self) {
        self.mapped.clear();
        self.inner.clear();
    }

    /// Packets from an inside end leave with this external port.
    pub fn learn(&mut self, inner: Inner, remote: (Host, u16), external: u16) {
        self.mapped.insert((inner, remote.0, remote.1), external);
        self.inner.insert((inner.0, external, remote.0, remote.1), inner);
    }

    fn name(&self, protocol: u8, external: u16, remote: (Host, u16)) -> String {
        match self.inner.get(&(protocol, external, remote.0, remote.1)) {
            Some((_, host, port)) => format!("External<{host:?}:{port}>"),
            None => format!("External:{external}"),
        }
    }
}

impl Resolve for Names {
    fn port(&self, port: Port) -> u16 {
        match port {
            Port::Is(number) => number,
            Port::Mapped(inner, remote, remote_port) => {
                *self.mapped.get(&(inner, remote, remote_port)).unwrap_or(&UNMAPPED)
            }
        }
    }
}

/// A datagram's headers as they are in the network.
#[derive(Debug)]
struct Parsed<'a> {
    v6: bool,
    ends: (IpAddr, IpAddr),
    protocol: u8,
    /// Time to live, type of service, identification, flags, options: in words.
    network: String,
    ttl: u8,
    header_is_right: bool,
    /// Identification, start and whether more follow.
    fragment: Option<(u32, usize, bool)>,
    payload: &'a [u8],
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |it| u16::from_be_bytes([it[0], it[1]]))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

/// A packet that begins with its network header; `None` if it is not IP or cut off. A quote may be.
fn parse(bytes: &[u8], is_quote: bool) -> Option<Parsed<'_>> {
    let mut network = String::new();
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 15) * 4;
            let total = usize::from(be16(bytes, 2));
            if bytes.len() < header || header < 20 || total < header || (total > bytes.len() && !is_quote) {
                return None;
            }
            let bits = be16(bytes, 6);
            let fragment = (bits & 0x3fff != 0)
                .then(|| (u32::from(be16(bytes, 4)), usize::from(bits & 0x1fff) * 8, bits & 0x2000 != 0));
            write!(network, "tos={} id={} df={}", bytes[1], be16(bytes, 4), bits >> 14 & 1).ok()?;
            if header > 20 {
                write!(network, " options={}", hex(&bytes[20..header])).ok()?;
            }
            let address = |at| Some(Ipv4Addr::from(be32(bytes.get(at..at + 4)?, 0)));
            Some(Parsed {
                v6: false,
                ends: (address(12)?.into(), address(16)?.into()),
                protocol: bytes[9],
                network,
                ttl: bytes[8],
                header_is_right: internet_checksum(&[&bytes[..header]]) == 0,
                fragment,
                payload: &bytes[header..total.min(bytes.len())],
            })
        }
        6 => {
            let total = 40 + usize::from(be16(bytes, 4));
            if bytes.len() < 40 || (total > bytes.len() && !is_quote) {
                return None;
            }
            write!(network, "class={} label={}", be16(bytes, 0) >> 4 & 255, be32(bytes, 0) & 0xf_ffff)
                .ok()?;
            let address =
                |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            let mut rest = &bytes[40..total.min(bytes.len())];
            let mut protocol = bytes[6];
            let mut fragment = None;
            while matches!(protocol, 0 | 43 | 60 | 44)
                && rest.len() >= 8
                && fragment.is_none_or(|(_, start, _)| start == 0)
            {
                let length = if protocol == 44 { 8 } else { 8 + usize::from(rest[1]) * 8 };
                let Some(body) = rest.get(..length) else { break };
                if protocol == 44 {
                    let bits = be16(body, 2);
                    fragment = Some((be32(body, 4), usize::from(bits & 0xfff8), bits & 1 != 0));
                } else {
                    write!(network, " extension {protocol}={}", hex(&body[2..])).ok()?;
                }
                protocol = rest[0];
                rest = &rest[length..];
            }
            // An atomic fragment is a whole packet (RFC 6946).
            if let Some((_, 0, false)) = fragment {
                network.push_str(" atomic");
                fragment = None;
            }
            Some(Parsed {
                v6: true,
                ends: (address(8)?.into(), address(24)?.into()),
                protocol,
                network,
                ttl: bytes[7],
                header_is_right: true,
                fragment,
                payload: rest,
            })
        }
        _ => None,
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Payload in few letters: its length and a sum that tells contents apart (FNV-1a).
fn digest(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}B/{:04x}", bytes.len(), sum as u16)
}

/// A fragment: start, end, whether more follow, and all of it.
type Fragment = (usize, usize, bool, Vec<u8>);

/// Puts complete datagrams together whose pieces do not overlap; everything else stays as it is.
fn reassemble(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let mut pieces: BTreeMap<(bool, IpAddr, IpAddr, u32, u8), Vec<Fragment>> = BTreeMap::new();
    for packet in packets {
        match parse(&packet, false) {
            Some(Parsed {
                v6,
                ends,
                protocol,
                fragment: Some((identification, start, more)),
                payload,
                ..
            }) => {
                let piece = (start, start + payload.len(), more, packet.clone());
                pieces.entry((v6, ends.0, ends.1, identification, protocol)).or_default().push(piece);
            }
            _ => whole.push(packet),
        }
    }
    for ((v6, ..), mut group) in pieces {
        // What comes again is taken once, as a receiver does.
        group.sort();
        group.dedup();
        let mut at = 0;
        let count = group.len();
        let fits = group.iter().enumerate().all(|(n, (start, end, more, _))| {
            std::mem::replace(&mut at, *end) == *start && *more == (n + 1 < count)
        });
        if !fits {
            whole.extend(group.into_iter().map(|(.., packet)| packet));
            continue;
        }
        let payload: Vec<u8> = group
            .iter()
            .flat_map(|(.., packet)| parse(packet, false).expect("parsed before").payload.to_vec())
            .collect();
        let mut packet = group[0].3.clone();
        if v6 {
            let (next, header) = (packet[40], packet[..40].to_vec());
            packet = header;
            packet[6] = next;
            packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            packet.extend(payload);
        } else {
            let header = usize::from(packet[0] & 15) * 4;
            packet.truncate(header);
            packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
            packet[6] &= 0x40;
            packet[7] = 0;
            packet[10..12].fill(0);
            let checksum = internet_checksum(&[&packet]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.extend(payload);
        }
        whole.push(packet);
    }
    whole
}

/// What came in, as far as telling what came out needs it.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    pub from: End,
    pub source: IpAddr,
    pub inner: Option<Inner>,
}

/// All that came out after one step, in words. `frames` begin with the network header.
pub fn tell(run: u16, frames: &[(End, Vec<u8>)], cause: &Cause, names: &mut Names) -> Vec<Seen> {
    let mut all = Vec::new();
    for at in End::BOTH {
        let here = frames.iter().filter(|(end, _)| *end == at).map(|(_, bytes)| bytes.clone()).collect();
        for packet in reassemble(here) {
            let Some(parsed) = parse(&packet, false) else {
                all.push(Seen { at, kind: Kind::Packet, text: format!("broken {}", hex(&packet)) });
                continue;
            };
            learn(run, &parsed, cause, names);
            all.push(describe(run, at, &parsed, cause, names));
        }
    }
    all.sort();
    all
}

/// Ports of a transport header; the identifier of an echo twice.
fn ports(parsed: &Parsed<'_>) -> Option<(u16, u16)> {
    let payload = parsed.payload;
    if parsed.fragment.is_some_and(|(_, start, _)| start > 0) {
        return None;
    }
    match parsed.protocol {
        TCP | UDP if payload.len() >= 4 => Some((be16(payload, 0), be16(payload, 2))),
        ICMP if payload.len() >= 8 && matches!(payload[0], 0 | 8 | 13 | 14) => {
            Some((be16(payload, 4), be16(payload, 4)))
        }
        ICMPV6 if payload.len() >= 8 && matches!(payload[0], 128 | 129) => {
            Some((be16(payload, 4), be16(payload, 4)))
        }
        _ => None,
    }
}

fn learn(run: u16, parsed: &Parsed<'_>, cause: &Cause, names: &mut Names) {
    let external = Host::External.address(false, run);
    let (Some(inner), Some((source, destination)), Some(remote)) =
        (cause.inner, ports(parsed), Host::named(parsed.ends.1, run))
    else {
        return;
    };
    if parsed.ends.0 == external && parsed.protocol == inner.0 {
        let remote_port = if parsed.protocol == ICMP { 0 } else { destination };
        names.learn(inner, (remote, remote_port), source);
    }
}

fn describe(run: u16, at: End, parsed: &Parsed<'_>, cause: &Cause, names: &Names) -> Seen {
    let mut text = String::new();
    let is_error = is_error(parsed);
    let own = [Host::Gateway, Host::External, Host::Hop(End::Inside)]
        .iter()
        .any(|host| host.address(parsed.v6, run) == parsed.ends.0);
    let is_answer = at == cause.from && parsed.ends.1 == cause.source;
    let flags = parsed.payload.get(13).copied().unwrap_or(0);
    let kind = match parsed {
        Parsed { fragment: Some(_), .. } => Kind::Fragment,
        Parsed { payload: [kind, code, ..], .. } if is_error && is_answer && own => {
            Kind::Answer(*kind, *code)
        }
        Parsed { protocol: TCP, .. } if is_answer && flags & RST != 0 => Kind::Reset,
        _ => Kind::Packet,
    };
    let _ = write!(text, "{}", words(run, parsed, names, false));
    // What the middle makes has a life, a number and a class of its own.
    if kind == Kind::Packet && !(is_answer && own) || kind == Kind::Fragment {
        let _ = write!(text, " ttl={} {}", parsed.ttl, parsed.network);
    }
    if !parsed.header_is_right {
        text.push_str(" BAD header checksum");
    }
    if let Some((_, start, more)) = parsed.fragment {
        let _ = write!(text, " fragment {start}+{} more={more}", parsed.payload.len());
    } else if matches!(parsed.protocol, ICMP | ICMPV6 | TCP | UDP) {
        let unchecked = parsed.protocol == UDP && be16(parsed.payload, 6) == 0;
        if unchecked {
            text.push_str(" unchecked");
        } else if transport_checksum(parsed.ends, parsed.protocol, parsed.payload) != 0 {
            text.push_str(" BAD checksum");
        }
    }
    Seen { at, kind, text }
}

fn is_error(parsed: &Parsed<'_>) -> bool {
    let kind = parsed.payload.first().copied().unwrap_or(0);
    parsed.fragment.is_none_or(|(_, start, _)| start == 0)
        && match parsed.protocol {
            ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        }
}

/// Ends and transport of a packet, or of one that is quoted.
fn words(run: u16, parsed: &Parsed<'_>, names: &Names, is_quote: bool) -> String {
    let named = |address: IpAddr| Host::named(address, run);
    let host = |address: IpAddr| named(address).map_or(address.to_string(), |host| format!("{host:?}"));
    let (source, destination) = parsed.ends;
    let (mut from, mut to) = (host(source), host(destination));
    let ports = ports(parsed);
    let external = |address: IpAddr| !parsed.v6 && named(address) == Some(Host::External);
    let is_query = matches!(parsed.protocol, ICMP | ICMPV6);
    if let Some((sport, dport)) = ports {
        let of = |address: IpAddr, port: u16, peer: IpAddr, peer_port: u16| match named(peer) {
            Some(peer) if external(address) => names.name(parsed.protocol, port, (peer, peer_port)),
            _ => format!("{}:{port}", host(address)),
        };
        if is_query && external(source) {
            from = of(source, sport, destination, 0);
        } else if is_query && external(destination) {
            to = of(destination, dport, source, 0);
        } else {
            (from, to) = (of(source, sport, destination, dport), of(destination, dport, source, sport));
        }
    }
    let mut text = format!("{} {from} > {to}", if parsed.v6 { 6 } else { 4 });
    let payload = parsed.payload;
    if parsed.fragment.is_some_and(|(_, start, _)| start > 0) {
        let _ = write!(text, " protocol {} {}", parsed.protocol, digest(payload));
        return text;
    }
    match parsed.protocol {
        TCP if payload.len() >= 20 || is_quote && payload.len() >= 8 => {
            let _ = write!(text, " tcp seq={}", be32(payload, 4));
            if payload.len() >= 20 {
                let header = (usize::from(payload[12] >> 4) * 4).clamp(20, payload.len());
                let flags: String = "FSRPAUEC"
                    .chars()
                    .enumerate()
                    .filter(|(bit, _)| payload[13] >> bit & 1 != 0)
                    .map(|(_, it)| it)
                    .collect();
                let _ = write!(
                    text,
                    " ack={} {flags} window={} urgent={}",
                    be32(payload, 8),
                    be16(payload, 14),
                    be16(payload, 18)
                );
                let _ = write!(text, " options={} {}", hex(&payload[20..header]), digest(&payload[header..]));
            }
        }
        UDP if payload.len() >= 8 => {
            let _ = write!(text, " udp length={} {}", be16(payload, 4), digest(&payload[8..]));
        }
        ICMP | ICMPV6 if ports.is_some() => {
            let _ = write!(
                text,
                " query {}/{} {} {}",
                payload[0],
                payload[1],
                be16(payload, 6),
                digest(&payload[8..])
            );
        }
        ICMP | ICMPV6 if is_error(parsed) && payload.len() >= 8 => {
            let _ = write!(text, " error {}/{} rest={} about", payload[0], payload[1], be32(payload, 4));
            match parse(&payload[8..], true) {
                Some(quote) => {
                    let _ = write!(
                        text,
                        " [{} ttl={} {}",
                        words(run, &quote, names, true),
                        quote.ttl,
                        quote.network
                    );
                    if let Some((_, start, more)) = quote.fragment {
                        let _ = write!(text, " fragment {start} more={more}");
                    }
                    if !quote.header_is_right {
                        text.push_str(" BAD header checksum");
                    }
                    text.push(']');
                }
                None => text.push_str(&hex(&payload[8..])),
            }
        }
        _ => {
            let _ = write!(text, " protocol {} {}", parsed.protocol, digest(payload));
        }
    }
    if is_quote {
        let _ = write!(text, " sum={}", invariant(parsed));
    }
    text
}

/// What of a quoted transport's checksum no translation of addresses and ports changes.
fn invariant(parsed: &Parsed<'_>) -> String {
    let payload = parsed.payload;
    let (at, pseudo) = match parsed.protocol {
        TCP => (16, true),
        UDP => (6, true),
        ICMP => (2, false),
        ICMPV6 => (2, true),
        _ => return "none".to_owned(),
    };
    if payload.len() < at + 2 || parsed.fragment.is_some_and(|(_, start, _)| start > 0) {
        return "none".to_owned();
    }
    let checksum = be16(payload, at);
    if parsed.protocol == UDP && checksum == 0 {
        return "unchecked".to_owned();
    }
    // Complement of the checksum less the words that may be translated.
    let mut words = vec![!checksum];
    match ports(parsed) {
        Some((identifier, _)) if matches!(parsed.protocol, ICMP | ICMPV6) => words.push(!identifier),
        Some((source, destination)) => words.extend([!source, !destination]),
        None => {}
    }
    if pseudo {
        let octets: Vec<u8> = match parsed.ends {
            (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
            (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
            _ => Vec::new(),
        };
        words.extend(octets.chunks(2).map(|pair| !be16(pair, 0)));
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let sum = !internet_checksum(&[&bytes]);
    format!("{:04x}", if sum == 0xffff { 0 } else { sum })
}
