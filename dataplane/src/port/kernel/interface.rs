//! The interface under a port: found, and checked for what ports need.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::netlink::{Link, RouteSocket};
use super::{Failure, sys};
use crate::affinity;
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

/// An interface that is promiscuous, or soon will be, for as long as this lives.
pub(in crate::port) type Promiscuous = Receiver<OwnedFd>;

/// What to do when the interface of `port` gets another address: chains and neighbours know the port by the one that it had, so
/// it keeps that, and the interface receives all frames. A thread of its own waits for the kernel.
pub(in crate::port) fn keep_address(port: &str, link: &Link) -> Promiscuous {
    let (sender, promiscuous) = channel();
    let (port, interface, index) = (port.to_owned(), link.name.clone(), link.index);
    let join = move || {
        affinity::join_control_cores();
        // Protocol 0: the socket receives nothing.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        match socket.and_then(|socket| sys::join_promiscuous(socket.as_fd(), index).map(|()| socket)) {
            Ok(socket) => {
                tracing::warn!(
                    port,
                    interface,
                    "the interface got another address; the port keeps the one it had, and receives all frames"
                );
                // If the port is gone, so is its need.
                let _ = sender.send(socket);
            }
            Err(error) => tracing::error!(
                port,
                interface,
                %error,
                "the interface got another address, and can't be made to receive frames for the one it had"
            ),
        }
    };
    if let Err(error) = thread::Builder::new().name("port-address".to_owned()).spawn(join) {
        tracing::error!(%error, "the interface got another address; no thread can be started for it");
    }
    promiscuous
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
