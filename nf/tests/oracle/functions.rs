//! Generated flow functions: each declares some fields, and what it does is a hash of what it read.

use super::random::{Random, mix};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::session::{Traffic, Tuple};
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use millrace_dataplane::port::PortId;
use millrace_dataplane::time::Time;
use millrace_nf::function::{FlowFunction, Forwarder, Verdict};
use millrace_nf::walk::{Commit, Walk};
use millrace_nf::zone::ZoneId;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Rules of a function: each has a version that a change of rules replaces.
const RULES: usize = 8;

const READABLE: [Field; 11] = [
    Field::EthernetDestination,
    Field::EthernetSource,
    Field::Ipv4Source,
    Field::Ipv4Destination,
    Field::Ipv6Source,
    Field::Ipv6Destination,
    Field::Dscp,
    Field::SourcePort,
    Field::DestinationPort,
    Field::IcmpIdentifier,
    Field::IcmpType,
];

/// What a function was told; equal with and without a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Commits.
    pub commits: u64,
    /// Traffic of its sessions, by direction.
    pub traffic: [Traffic; 2],
    /// Sessions ended, and a sum that knows which.
    pub ended: (u64, u64),
}

/// A generated function.
pub struct Scramble {
    id: u64,
    reads: Vec<Field>,
    sessions: bool,
    tracks: bool,
    versions: [u64; RULES],
    /// What it was told.
    pub totals: Totals,
}

impl Scramble {
    /// Reads, habits and rules by `random`.
    pub fn random(id: u64, random: &mut Random) -> Self {
        let reads = READABLE.iter().copied().filter(|_| random.once_in(3)).collect();
        let sessions = random.once_in(2);
        Self {
            id,
            reads,
            sessions,
            tracks: sessions && random.once_in(2),
            versions: std::array::from_fn(|_| random.next()),
            totals: Totals::default(),
        }
    }

    /// Replaces a rule, and says which object changed.
    pub fn change(&mut self, random: &mut Random) -> Watch {
        let rule = random.below(RULES);
        self.versions[rule] = random.next();
        self.watch(rule)
    }

    fn watch(&self, rule: usize) -> Watch {
        Watch::of(ObjectKind::Other, self.id << 8 | rule as u64)
    }

    fn read(&self, walk: &mut Walk<'_>) -> u64 {
        let mut hash = self.id;
        for &field in &self.reads {
            let headers = &mut *walk.headers;
            let mac = |mac: [u8; 6]| mac.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
            let value = match field {
                Field::EthernetDestination => mac(headers.ethernet_destination()),
                Field::EthernetSource => mac(headers.ethernet_source()),
                Field::Ipv4Source if headers.is_ipv4() => address(headers.source()),
                Field::Ipv6Source if headers.is_ipv6() => address(headers.source()),
                Field::Ipv4Destination if headers.is_ipv4() => address(headers.destination()),
                Field::Ipv6Destination if headers.is_ipv6() => address(headers.destination()),
                Field::Dscp if headers.is_ip() => u64::from(headers.dscp().unwrap_or(64)),
                Field::SourcePort => headers.source_port().map_or(0, u64::from),
                Field::DestinationPort => headers.destination_port().map_or(0, u64::from),
                Field::IcmpIdentifier => headers.icmp_identifier().map_or(0, u64::from),
                _ => 1,
            };
            hash = mix(hash ^ value);
        }
        hash
    }

    fn edit(&self, walk: &mut Walk<'_>, h: u64, reply: bool) {
        let headers = &mut *walk.headers;
        let bit = |at: u32| h >> at & 3 == 0;
        let low = (h >> 40) as u8;
        if bit(0) {
            headers.set_dscp(low);
        }
        if bit(2) {
            headers.set_ethernet_source([2, 1, 1, 1, 1, low]);
        }
        if bit(4) {
            headers.set_ethernet_destination([2, 2, 2, 2, 2, low]);
        }
        let (v4, v6) =
            (Ipv4Addr::new(203, 0, 113, low), Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, low.into()));
        let new = if headers.is_ipv6() { IpAddr::V6(v6) } else { IpAddr::V4(v4) };
        if bit(6) != reply {
            headers.set_source(new);
        }
        if bit(8) {
            headers.set_destination(new);
        }
        if bit(10) {
            headers.set_source_port((h >> 48) as u16);
        }
        if bit(12) {
            headers.set_destination_port((h >> 48) as u16);
        }
        if bit(14) {
            headers.set_icmp_identifier((h >> 48) as u16 | 1);
        }
    }
}

fn address(address: Option<IpAddr>) -> u64 {
    match address {
        Some(IpAddr::V4(address)) => u64::from(u32::from(address)),
        Some(IpAddr::V6(address)) => (u128::from(address) >> 64) as u64 ^ u128::from(address) as u64,
        None => 0,
    }
}

impl FlowFunction for Scramble {
    type Staged = u64;
    fn kind(&self) -> &'static str {
        "scramble"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&self.reads)
    }
    fn keeps_part(&self) -> bool {
        self.sessions
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<u64>) {
        let read = self.read(walk);
        let rule = (read % RULES as u64) as usize;
        walk.depend(self.watch(rule));
        let mut h = mix(read ^ self.versions[rule]);
        let mut reply = false;
        if self.sessions {
            match walk.session {
                // A known session keeps what was decided when it was opened.
                Some(session) => {
                    h = walk.part().unwrap_or(0);
                    reply = session.reply;
                }
                None => walk.want_session(),
            }
            if self.tracks {
                walk.track_tcp();
            }
        }
        match h >> 20 & 63 {
            0 => return (Verdict::Drop(DropReason::FirewallDenied), Some(h)),
            1 => return (Verdict::Consume, Some(h)),
            2 => {
                walk.emit(walk.port, &[0x5a; 60]);
                return (Verdict::Drop(DropReason::RateLimited), Some(h));
            }
            3 => walk.do_not_cache(),
            4..8 if !walk.fits(300) => return (Verdict::Drop(DropReason::MtuExceeded), None),
            8..16 => {
                if !walk.headers.may_be_forwarded() {
                    return (Verdict::Drop(DropReason::TtlExceeded), None);
                }
                walk.headers.decrement_ttl();
            }
            16..20 if walk.headers.is_tcp_control() => walk.headers.set_dscp(7),
            _ => {}
        }
        self.edit(walk, h, reply);
        (Verdict::Continue, Some(h))
    }
    fn commit(&mut self, staged: u64, commit: &mut Commit<'_>) {
        if commit.is_new && self.sessions {
            self.totals.commits += 1;
            commit.set_part(staged);
        }
    }
    fn account(&mut self, _: u64, reply: bool, traffic: Traffic) {
        let total = &mut self.totals.traffic[usize::from(reply)];
        total.packets += traffic.packets;
        total.bytes += traffic.bytes;
    }
    fn ended(&mut self, part: u64, tuples: [&Tuple; 2], now: Time) {
        self.totals.ended.0 += 1;
        let which = part ^ u64::from(tuples[0].source_port) ^ now.0;
        self.totals.ended.1 = self.totals.ended.1.wrapping_add(mix(which));
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// Forwards by the destination, now and then to all other ports.
pub struct Scatter {
    version: u64,
    ports: u16,
}

impl Scatter {
    /// Between ports 0 to `ports` - 1.
    pub fn random(ports: u16, random: &mut Random) -> Self {
        Self { version: random.next(), ports }
    }

    /// Decides anew, and says which object changed.
    pub fn change(&mut self, random: &mut Random) -> Watch {
        self.version = random.next();
        Watch::of(ObjectKind::Route, 0)
    }
}

impl FlowFunction for Scatter {
    type Staged = ();
    fn kind(&self) -> &'static str {
        "scatter"
    }
    fn reads(&self) -> Reads {
        Reads::none().with(&[Field::Ipv4Destination, Field::Ipv6Destination])
    }
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<()>) {
        walk.depend(Watch::of(ObjectKind::Route, 0));
        let destination = if walk.headers.is_ip() { address(walk.headers.destination()) } else { 3 };
        let h = mix(destination ^ self.version);
        if !walk.headers.may_be_forwarded() {
            return (Verdict::Drop(DropReason::TtlExceeded), None);
        }
        walk.headers.decrement_ttl();
        walk.headers.set_ethernet_source([2, 9, 9, 9, 9, h as u8]);
        if !walk.fits(1500) {
            return (Verdict::Drop(DropReason::MtuExceeded), None);
        }
        if h >> 8 & 15 == 0 {
            let from = walk.port.0;
            (0..self.ports).filter(|&port| port != from).for_each(|port| walk.flood(PortId(port)));
            return (Verdict::Flood, None);
        }
        let others = self.ports - 1;
        let step = 1 + (h >> 16) as u16 % others;
        (Verdict::Forward(PortId((walk.port.0 + step) % self.ports)), None)
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Forwarder for Scatter {
    fn destination_zone(&self, _: &mut Walk<'_>) -> Option<ZoneId> {
        None
    }
}
