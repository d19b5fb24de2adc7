//! Slices of rule spaces and route tables: what a decision names of them, and what a change of a prefix or a service
//! touches (R8).
//!
//! Addresses are cut into a grid: IPv4 by /24, IPv6 by /48 (a site, RFC 6177). A decision watches the grid cell of each
//! address that it looked up. A change of a prefix touches the grid cells inside it, where these are not more than
//! [`SLICES_MAX`].
//!
//! Wider changes of rules touch the one *wide* cell, which every decision of a firewall watches. A decision about a route
//! watches the prefix that it found instead: another route for that prefix concerns those that found it, and no others; a new
//! prefix too wide for cells concerns those that found the one around it.

use crate::walk::Walk;
use arrayvec::ArrayVec;
use ipnet::IpNet;
use millrace_dataplane::flow::validity::{ObjectKind, Watch};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Numbers within a kind, 52 bits: below bit 48 what differs, above it which sort of number it is.
const CELL_V4: u64 = 1 << 48;
const CELL_V6: u64 = 2 << 48;
const WIDE: u64 = 3 << 48;
const NO_ROUTE: u64 = 4 << 48;
const ROUTE_V4: u64 = 5 << 48;
const ROUTE_V6: u64 = 8 << 48;
/// Bits of an IPv4 address that number its grid cell.
const GRID_BITS_V4: u8 = 24;
/// Bits of an IPv6 address that number its grid cell.
const GRID_BITS_V6: u8 = 48;
/// Most grid cells that one change names; a wider one touches the wide cell.
pub const SLICES_MAX: usize = 256;

/// The cells that a change touches.
pub type Slices = ArrayVec<Watch, SLICES_MAX>;

/// The decision used the rules for these addresses and, if it has one, this service: IP protocol and destination port.
#[inline(always)]
pub fn depend_on_rules(walk: &mut Walk<'_>, source: IpAddr, destination: IpAddr, service: Option<(u8, u16)>) {
    let wide = wide(ObjectKind::RulesByDestination);
    let to = cell(ObjectKind::RulesByDestination, destination);
    let from = cell(ObjectKind::RulesBySource, source);
    match service {
        Some((protocol, port)) => walk.depend_on_all([wide, to, from, self::service(protocol, port)]),
        None => walk.depend_on_all([wide, to, from]),
    }
}

/// The decision depends on what this destination is to a router: on which prefixes there are around it and, where a route was
/// `sought`, on the one that was found, or on that there is none.
#[inline(always)]
pub fn depend_on_destination(walk: &mut Walk<'_>, destination: IpAddr, sought: Option<Option<IpNet>>) {
    let cell = cell(ObjectKind::Route, destination);
    match sought {
        Some(found) => walk.depend_on_all([cell, route(destination.is_ipv4(), found)]),
        None => walk.depend(cell),
    }
    walk.record.routed = Some(destination);
}

/// What decisions watch that found the route of this prefix, or none.
pub fn route(is_ipv4: bool, found: Option<IpNet>) -> Watch {
    let id = match found {
        None => NO_ROUTE | u64::from(is_ipv4),
        Some(IpNet::V4(net)) => {
            ROUTE_V4 | u64::from(net.prefix_len()) << 32 | u64::from(u32::from(net.network()))
        }
        Some(IpNet::V6(net)) => {
            let bits = u128::from(net.network());
            let (high, low) = ((bits >> 64) as u64, bits as u64);
            let mixed = (high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // 51 bits: two prefixes may share a number, and then both are touched.
            ROUTE_V6 | (mixed ^ u64::from(net.prefix_len()) << 32) >> 13
        }
    };
    Watch::of(ObjectKind::Route, id)
}

/// The cells of a changed prefix; none if they are too many to be named one by one.
pub fn cells(kind: ObjectKind, prefix: IpNet) -> Option<Slices> {
    let slices = changed_prefix(kind, prefix);
    (!slices.contains(&wide(kind))).then_some(slices)
}

/// What a change of something that concerns the addresses of `prefix` touches.
pub fn changed_prefix(kind: ObjectKind, prefix: IpNet) -> Slices {
    let mut slices = Slices::new();
    let network = prefix.network();
    let grid = if network.is_ipv4() { GRID_BITS_V4 } else { GRID_BITS_V6 };
    let missing = u32::from(grid.saturating_sub(prefix.prefix_len()));
    // 2^missing cells.
    if missing > SLICES_MAX.ilog2() {
        slices.push(wide(kind));
        return slices;
    }
    let first = grid_index(network);
    slices.extend((0..1u64 << missing).map(|step| numbered(kind, network.is_ipv4(), first + step)));
    slices
}

/// What a change of something that concerns these destination ports of an IP protocol touches.
pub fn changed_service(protocol: u8, ports: &RangeInclusive<u16>) -> Slices {
    let mut slices = Slices::new();
    if usize::from(ports.end().saturating_sub(*ports.start())) >= SLICES_MAX {
        slices.push(wide(ObjectKind::RulesByService));
    } else {
        slices.extend(ports.clone().map(|port| service(protocol, port)));
    }
    slices
}

/// The cell that every decision of the kind watches.
pub const fn wide(kind: ObjectKind) -> Watch {
    let kind = match kind {
        ObjectKind::RulesBySource | ObjectKind::RulesByService => ObjectKind::RulesByDestination,
        kind => kind,
    };
    Watch::of(kind, WIDE)
}

fn cell(kind: ObjectKind, address: IpAddr) -> Watch {
    numbered(kind, address.is_ipv4(), grid_index(address))
}

fn numbered(kind: ObjectKind, is_ipv4: bool, index: u64) -> Watch {
    Watch::of(kind, index | if is_ipv4 { CELL_V4 } else { CELL_V6 })
}

fn grid_index(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from(address) >> (32 - GRID_BITS_V4)),
        // 48 bits.
        IpAddr::V6(address) => (u128::from(address) >> (128 - GRID_BITS_V6)) as u64,
    }
}

fn service(protocol: u8, port: u16) -> Watch {
    Watch::of(ObjectKind::RulesByService, u64::from(protocol) << 16 | u64::from(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn counts(text: &str) -> (usize, bool) {
        let slices = changed_prefix(ObjectKind::Route, net(text));
        (slices.len(), slices.contains(&wide(ObjectKind::Route)))
    }

    #[test]
    fn a_prefix_touches_its_grid_cells_or_the_wide_one() {
        assert_eq!(counts("10.1.2.3/32"), (1, false));
        assert_eq!(counts("10.1.2.0/24"), (1, false));
        assert_eq!(counts("10.1.0.0/16"), (256, false));
        assert_eq!(counts("10.0.0.0/15"), (1, true));
        assert_eq!(counts("0.0.0.0/0"), (1, true));
        assert_eq!(counts("2001:db8::/64"), (1, false));
        assert_eq!(counts("2001:db8::/40"), (256, false));
        assert_eq!(counts("::/0"), (1, true));
    }

    #[test]
    fn services_touch_each_port_or_the_wide_cell() {
        assert_eq!(changed_service(6, &(80..=80)).as_slice(), &[service(6, 80)]);
        assert_eq!(changed_service(6, &(0..=255)).len(), 256);
        assert_eq!(changed_service(6, &(0..=256)).as_slice(), &[wide(ObjectKind::RulesBySource)]);
        assert_ne!(service(6, 80), service(17, 80));
    }

    proptest! {
        /// R8: no address inside a changed prefix escapes the change.
        #[test]
        fn every_address_of_a_prefix_is_touched(address: u128, v4: bool, length in 0u8..=128) {
            let address = if v4 { IpAddr::from((address as u32).to_be_bytes()) } else { IpAddr::from(address.to_be_bytes()) };
            let length = if v4 { length % 33 } else { length };
            let prefix = IpNet::new(address, length).unwrap().trunc();
            let touched = changed_prefix(ObjectKind::Route, prefix);
            let watched = [wide(ObjectKind::Route), cell(ObjectKind::Route, address)];
            prop_assert!(watched.iter().any(|watch| touched.contains(watch)));
        }
    }
}
