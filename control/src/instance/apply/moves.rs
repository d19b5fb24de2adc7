//! What a change takes from one share and gives to another, beside what it is about: whoever asked is told.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use millrace_nf::nat::Protocol;
use millrace_nf::placing::Moved;

use super::said::{Change, Said};
use crate::instance::InstanceError;
use crate::instance::functions::Context;
use crate::instance::sharing::translation;

/// Lines that tell of it; what is beyond is counted.
const LINES_MAX: usize = 16;

/// Says which connections belong to another share when a chain's `was` becomes `context`.
///
/// # Errors
/// What a NAT or a router finds wrong with its settings.
pub(super) fn note(was: &Context<'_>, context: &Context<'_>, said: &mut Said) -> Result<(), InstanceError> {
    let (Some(before), Some(after)) = (translation(was)?, translation(context)?) else { return Ok(()) };
    let moved = before.moved(&after);
    for moved in moved.iter().take(LINES_MAX) {
        let (name, why) = match *moved {
            Moved::Hosts(first, last) => (show_range(first, last), "of these addresses"),
            Moved::Service(protocol, host, first, last) => {
                let protocol = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
                let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
                (format!("{protocol} {host}:{ports}"), "with this end")
            }
        };
        said.note(
            "connections",
            &name,
            Change::Moved,
            format!("those {why} belong to another share and begin anew"),
        );
    }
    if let Some(more @ 1..) = moved.len().checked_sub(LINES_MAX) {
        said.note("connections", &format!("{more} more"), Change::Moved, "as those above");
    }
    Ok(())
}

/// As an address, a network, or a range.
fn show_range(first: Ipv4Addr, last: Ipv4Addr) -> String {
    let length = (first.to_bits() ^ last.to_bits()).leading_zeros() as u8;
    match Ipv4Net::new(first, length) {
        Ok(_) if first == last => first.to_string(),
        Ok(network) if (network.network(), network.broadcast()) == (first, last) => network.to_string(),
        _ => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_said_as_people_write_them() {
        let show = |first: &str, last: &str| show_range(first.parse().unwrap(), last.parse().unwrap());
        assert_eq!(show("10.8.0.7", "10.8.0.7"), "10.8.0.7");
        assert_eq!(show("10.8.0.0", "10.8.255.255"), "10.8.0.0/16");
        assert_eq!(show("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(show("10.8.0.1", "10.8.255.255"), "10.8.0.1-10.8.255.255");
    }
}
