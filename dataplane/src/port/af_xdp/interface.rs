//! What AF_XDP asks about an interface, beyond what all ports ask.

use std::os::fd::{AsFd, OwnedFd};

use super::program::privileges;
use crate::port::kernel::Failure;
use crate::port::kernel::netlink::Link;
use crate::port::kernel::sys as sockets;

/// How many queues receive.
pub(super) fn receive_queues(link: &Link) -> u32 {
    let channels = sockets::receive_channels(&link.name).ok().filter(|&count| count > 0);
    channels.or(link.receive_queues).unwrap_or(1).max(1)
}

/// Makes an interface promiscuous; dropping the descriptor, or the end of the process, undoes it.
pub(super) fn make_promiscuous(interface: &str, interface_index: u32) -> Result<OwnedFd, Failure> {
    let fail = |error| (format!("make {interface} promiscuous"), privileges(error));
    // Protocol 0: the socket receives nothing.
    let socket = sockets::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(fail)?;
    sockets::join_promiscuous(socket.as_fd(), interface_index).map_err(fail)?;
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
    let here = link.peer_index.filter(|_| !link.peer_elsewhere).and_then(sockets::interface_name);
    let Some(peer) = here else {
        return Some(format!(
            "run in the network namespace of the other end of {}: ethtool -K PEER tx off  (PEER is its interface {})",
            link.name,
            link.peer_index.unwrap_or(0)
        ));
    };
    match sockets::sends_partial_checksums(&peer) {
        Ok(false) => None,
        _ => Some(format!("run: ethtool -K {peer} tx off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
