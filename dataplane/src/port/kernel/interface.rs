//! The interface under a port: found, and checked for what ports need.

use std::io;

use super::Failure;
use super::netlink::{Link, RouteSocket};
use crate::limits::DATA_OFFSET;

/// Ethernet header and one 802.1Q tag, without FCS: what comes on top of the MTU.
pub(in crate::port) const LINK_HEADER_BYTES: usize = 18;

/// Finds an interface by its name and checks that it is up.
pub(in crate::port) fn find(interface: &str) -> Result<Link, Failure> {
    let action = || format!("find the interface {interface}");
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        let text = format!("a name has 1 to {} bytes", libc::IFNAMSIZ - 1);
        return Err((action(), io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    let link = RouteSocket::open().and_then(|mut socket| socket.link_by_name(interface));
    let link = link.map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => (
            action(),
            io::Error::new(
                io::ErrorKind::NotFound,
                "there is none of this name in this network namespace (see: ip link)",
            ),
        ),
        _ => (action(), error),
    })?;
    if !link.is_administratively_up() {
        let text = format!("it is down; bring it up with: ip link set dev {interface} up");
        return Err((
            format!("use the interface {interface}"),
            io::Error::new(io::ErrorKind::NetworkDown, text),
        ));
    }
    Ok(link)
}

/// Checks that what the interface receives fits in a frame.
pub(in crate::port) fn check_mtu(interface: &str, mtu: u32, frame_bytes: usize) -> Result<(), Failure> {
    let room = frame_bytes.saturating_sub(DATA_OFFSET + LINK_HEADER_BYTES);
    if mtu as usize <= room {
        return Ok(());
    }
    let text = format!(
        "its MTU of {mtu} does not fit in frames of {frame_bytes} bytes (at most {room}); \
         lower it with: ip link set dev {interface} mtu {room}"
    );
    Err((format!("use the interface {interface}"), io::Error::new(io::ErrorKind::InvalidInput, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let (action, error) = find("no-such-link").unwrap_err();
        assert!(action.contains("no-such-link") && error.to_string().contains("ip link"), "{error}");
        assert!(find("").is_err());
        assert!(find("a-name-of-16-byte").is_err());
        let (_, error) = check_mtu("eth0", 9_000, 2_048).unwrap_err();
        assert!(error.to_string().contains("ip link set dev eth0 mtu 1774"), "{error}");
        assert!(check_mtu("eth0", 1_774, 2_048).is_ok());
    }
}
