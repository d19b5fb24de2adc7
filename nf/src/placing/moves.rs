//! What a change of the configuration places otherwise: connections that it does not concern, whose worker is another one then.

use super::Translation;
use crate::nat::{Inside, Protocol};
use crate::zone::ZoneId;
use millrace_dataplane::port::PortId;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// A port that no chain has: where a destination is does not depend on it, but for link-local addresses.
const NO_PORT: PortId = PortId(u16::MAX);
/// First addresses of the blocks that are not looked up as others are (RFC 6890), and of what lies behind them.
const BLOCKS: [u32; 8] = [
    0x0100_0000, // behind 0.0.0.0/8
    0x7f00_0000, // 127.0.0.0/8
    0x8000_0000,
    0xa9fe_0000, // 169.254.0.0/16
    0xa9ff_0000,
    0xe000_0000, // 224.0.0.0/4
    0xf000_0000, // 240.0.0.0/4
    0xffff_ffff,
];

/// Connections that a change gives to other workers, so that those which are open begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// All with these hosts, the first and the last of them: they are inside since, or no more.
    Hosts(Ipv4Addr, Ipv4Addr),
    /// All with these ports, the first and the last of them, of a host that is not inside: a forward leads there since, or no more.
    Service(Protocol, Ipv4Addr, u16, u16),
}

impl Translation {
    /// What moves if `after` takes this one's place. Connections that a NAT translated and that the change ends are not among them.
    pub fn moved(&self, after: &Self) -> Vec<Moved> {
        let mut starts = BTreeSet::from(BLOCKS.map(u64::from));
        starts.extend(self.starts().chain(after.starts()).map(u64::from));
        let is_inside = |address: u64| {
            let address = Ipv4Addr::from_bits(address as u32);
            (self.is_inside(address), after.is_inside(address))
        };
        let hosts = differing(&starts, u32::MAX.into(), is_inside).into_iter().map(|(first, last)| {
            Moved::Hosts(Ipv4Addr::from_bits(first as u32), Ipv4Addr::from_bits(last as u32))
        });
        // What the outside sees of the router itself is placed as what is translated is, once a forward starts there.
        let forwards = || self.plan.rules().forwards().iter().chain(after.plan.rules().forwards());
        let own: BTreeSet<Ipv4Addr> = forwards().map(|forward| *forward.external.ip()).collect();
        let own = own.into_iter().filter(|address| {
            let is_in_pool = self.plan.in_pool(*address) || after.plan.in_pool(*address);
            !is_in_pool && self.scope.is_external(*address) != after.scope.is_external(*address)
        });
        let own = own.map(|address| Moved::Hosts(address, address));
        let ends: BTreeSet<(u8, Ipv4Addr)> = (forwards())
            .map(|forward| (forward.protocol as u8, *forward.inside.ip()))
            .filter(|(_, address)| is_inside(u64::from(address.to_bits())) == (false, false))
            .collect();
        let services = ends.into_iter().flat_map(|(number, address)| {
            let of_host =
                || forwards().filter(move |it| (it.protocol as u8, *it.inside.ip()) == (number, address));
            let starts = of_host().flat_map(|it| {
                let first = u64::from(it.inside.port());
                [first, first + u64::from(it.ports)]
            });
            let protocol = of_host().next().map(|it| it.protocol);
            let (starts, protocol) = (starts.collect(), protocol.unwrap_or(Protocol::Tcp));
            let is_static = |translation: &Self, port: u64| {
                let endpoint = SocketAddrV4::new(address, port as u16);
                translation.plan.rules().external_of(&Inside { protocol, endpoint }).is_some()
            };
            let moved =
                differing(&starts, u16::MAX.into(), |port| (is_static(self, port), is_static(after, port)));
            let service = move |(first, last)| Moved::Service(protocol, address, first as u16, last as u16);
            moved.into_iter().map(service).collect::<Vec<_>>()
        });
        hosts.chain(own).chain(services).collect()
    }

    fn is_inside(&self, address: Ipv4Addr) -> bool {
        !self.scope.is_external(address) && self.ways.zone(NO_PORT, IpAddr::V4(address)) == Some(ZoneId(0))
    }

    /// Addresses at which it may change whether a host is inside.
    fn starts(&self) -> impl Iterator<Item = u32> {
        let networks = self.ways.networks().flat_map(|network| {
            let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
            // The first and the last one of a network are no hosts.
            [first, first.saturating_add(1), last, last.saturating_add(1)]
        });
        let pool = self.plan.pool().iter().map(|range| (range.first, range.last));
        let forwards = self.plan.rules().forwards().iter().map(|it| (*it.external.ip(), *it.external.ip()));
        let external = pool.chain(forwards);
        networks.chain(external.flat_map(|(first, last)| [first.to_bits(), last.to_bits().saturating_add(1)]))
    }
}

/// The ranges, up to `last`, in which the two differ that `look` says; they may only do so from one of `starts` to the next.
fn differing(starts: &BTreeSet<u64>, last: u64, look: impl Fn(u64) -> (bool, bool)) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let ends = starts.iter().skip(1).copied().chain([last + 1]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let (before, after) = look(start);
        if start >= end || before == after {
            continue;
        }
        match ranges.last_mut() {
            Some((_, until)) if *until + 1 == start => *until = end - 1,
            _ => ranges.push((start, end - 1)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
