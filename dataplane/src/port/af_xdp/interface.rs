//! The interface under the port: found, and checked for what AF_XDP needs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::netlink::{Link, RouteSocket};
use super::program::{Failure, privileges};
use super::sys;
use crate::limits::DATA_OFFSET;

/// Ethernet header and one 802.1Q tag, without FCS: what comes on top of the MTU.
pub(super) const LINK_HEADER_BYTES: usize = 18;

/// Finds an interface by its name and checks that it is up.
pub(super) fn find(interface: &str) -> Result<Link, Failure> {
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
pub(super) fn check_mtu(interface: &str, mtu: u32, frame_bytes: usize) -> Result<(), Failure> {
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

/// How many queues receive.
pub(super) fn receive_queues(link: &Link) -> u32 {
    let channels = sys::receive_channels(&link.name).ok().filter(|&count| count > 0);
    channels.or(link.receive_queues).unwrap_or(1).max(1)
}

/// Makes an interface promiscuous; dropping the descriptor, or the end of the process, undoes it.
pub(super) fn make_promiscuous(interface: &str, interface_index: u32) -> Result<OwnedFd, Failure> {
    let fail = |error| (format!("make {interface} promiscuous"), privileges(error));
    // Protocol 0: the socket receives nothing.
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(fail)?;
    sys::join_promiscuous(socket.as_fd(), interface_index).map_err(fail)?;
    Ok(socket)
}

/// What to do about the partial checksums that a kernel sends over a veth pair, if anything.
///
/// The kernel at the other end leaves TCP and UDP checksums to the device, and a veth has none that computes
/// them. Nothing in an AF_XDP frame says so.
pub(super) fn partial_checksum_advice(link: &Link) -> Option<String> {
    if link.kind != "veth" {
        return None;
    }
    let here = link.peer_index.filter(|_| !link.peer_elsewhere).and_then(sys::interface_name);
    let Some(peer) = here else {
        return Some(format!(
            "run in the network namespace of the other end of {}: ethtool -K PEER tx off  (PEER is its interface {})",
            link.name,
            link.peer_index.unwrap_or(0)
        ));
    };
    match sys::sends_partial_checksums(&peer) {
        Ok(false) => None,
        _ => Some(format!("run: ethtool -K {peer} tx off")),
    }
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

    #[test]
    fn only_veth_pairs_need_advice() {
        let veth = Link {
            name: "wan".to_owned(),
            kind: "veth".to_owned(),
            peer_index: Some(7),
            peer_elsewhere: true,
            ..Link::default()
        };
        let advice = partial_checksum_advice(&veth).unwrap();
        assert!(advice.contains("other end of wan") && advice.contains("interface 7"), "{advice}");
        assert_eq!(partial_checksum_advice(&Link { kind: String::new(), ..veth }), None);
    }
}
