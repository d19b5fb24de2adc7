//! The part of rtnetlink (RFC 3549, `rtnetlink(7)`) that ports need: what a link is, its XDP program, and
//! news about it. Integers are in native byte order; parsing is total on any bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys;
use crate::port::MacAddress;

const HEADER_BYTES: usize = 16;
const LINK_MESSAGE_BYTES: usize = 16;
/// Enough for the message of a link with many virtual functions.
const BUFFER_BYTES: usize = 64 << 10;
/// Most messages that one look at the news reads.
const NEWS_MESSAGES_MAX: usize = 32;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// How an XDP program is attached (`IFLA_XDP_ATTACHED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::port) enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Skb,
    /// In the hardware.
    Hardware,
}

impl XdpMode {
    /// The word of `ip link set dev NAME WORD off` that detaches it.
    pub(in crate::port) const fn ip_word(self) -> &'static str {
        match self {
            Self::Native => "xdpdrv",
            Self::Skb => "xdpgeneric",
            Self::Hardware => "xdpoffload",
        }
    }
}

/// What rtnetlink tells about an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::port) struct Link {
    /// Index in its network namespace.
    pub(in crate::port) index: u32,
    /// Name.
    pub(in crate::port) name: String,
    /// Ethernet address; zero if it has none.
    pub(in crate::port) mac: MacAddress,
    /// MTU in bytes.
    pub(in crate::port) mtu: u32,
    /// `IFF_*` flags.
    pub(in crate::port) flags: u32,
    /// Kind, such as `veth`; empty for hardware.
    pub(in crate::port) kind: String,
    /// Index of the other end, for a pair.
    pub(in crate::port) peer_index: Option<u32>,
    /// Whether that index is one of another namespace.
    pub(in crate::port) peer_elsewhere: bool,
    /// Receive queues that the device was made with.
    pub(in crate::port) receive_queues: Option<u32>,
    /// The attached XDP program: its mode and id.
    pub(in crate::port) xdp: Option<(XdpMode, u32)>,
}

impl Link {
    /// Set up by its administrator.
    pub(in crate::port) const fn is_administratively_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Up, and with a carrier.
    pub(in crate::port) const fn is_up(&self) -> bool {
        self.is_administratively_up() && self.flags & libc::IFF_LOWER_UP.cast_unsigned() != 0
    }
}

/// Whether a link was down in between.
pub(in crate::port) type WasDown = bool;

/// What happened to a watched link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::port) enum LinkNews {
    /// Something of it changed; this is how it is now, and whether it was down since the last look.
    Changed(Link, WasDown),
    /// It is gone from this namespace.
    Gone,
}

/// A route netlink socket. It stays in the network namespace that the opening thread was in.
#[derive(Debug)]
pub(in crate::port) struct RouteSocket {
    fd: OwnedFd,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket for requests.
    pub(in crate::port) fn open() -> io::Result<Self> {
        Self::with_groups(0)
    }

    fn with_groups(groups: u32) -> io::Result<Self> {
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        sys::bind_netlink(fd.as_fd(), groups)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// The link with this name. `ENODEV` if there is none.
    pub(in crate::port) fn link_by_name(&mut self, name: &str) -> io::Result<Link> {
        let mut attributes = Vec::new();
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        put_attribute(&mut attributes, IFLA_IFNAME, &text);
        self.link(0, &attributes)
    }

    /// The link with this index. `ENODEV` if there is none.
    pub(in crate::port) fn link_by_index(&mut self, index: u32) -> io::Result<Link> {
        self.link(index, &[])
    }

    fn link(&mut self, index: u32, attributes: &[u8]) -> io::Result<Link> {
        let answer = self.request(libc::RTM_GETLINK, 0, index, attributes)?;
        answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "netlink answered without a link"))
    }

    /// Attaches the program behind `program` to a link until it is detached, or detaches with `None`.
    /// `flags` are the `XDP_FLAGS_*` of `linux/if_link.h`.
    pub(in crate::port) fn set_xdp(
        &mut self,
        index: u32,
        program: Option<std::os::fd::RawFd>,
        flags: u32,
    ) -> io::Result<()> {
        let mut nested = Vec::new();
        put_attribute(&mut nested, IFLA_XDP_FD, &program.unwrap_or(-1).to_ne_bytes());
        put_attribute(&mut nested, IFLA_XDP_FLAGS, &flags.to_ne_bytes());
        let mut attributes = Vec::new();
        put_attribute(&mut attributes, IFLA_XDP | NLA_F_NESTED, &nested);
        self.request(libc::RTM_SETLINK, libc::NLM_F_ACK as u16, index, &attributes).map(drop)
    }

    /// Sends a request about one link and waits for its answer: a link, or a plain acknowledgement.
    fn request(&mut self, kind: u16, flags: u16, index: u32, attributes: &[u8]) -> io::Result<Option<Link>> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = link_request(kind, flags, self.sequence, index, attributes);
        sys::uninterrupted(|| sys::send(self.fd.as_fd(), &message))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = sys::uninterrupted(|| sys::receive(self.fd.as_fd(), &mut buffer, 0))?;
            for message in messages(&buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR => {
                        return match message.payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                            Some(0) => Ok(None),
                            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ if message.kind == libc::RTM_NEWLINK => return Ok(parse_link(message.payload)),
                    _ => {}
                }
            }
        }
    }
}

/// Watches one link. A look costs one system call that takes none of the kernel's global locks.
#[derive(Debug)]
pub(in crate::port) struct LinkWatch {
    socket: RouteSocket,
    index: u32,
    buffer: Vec<u8>,
}

impl LinkWatch {
    /// Watches the link with this index in the namespace of the calling thread.
    pub(in crate::port) fn open(index: u32) -> io::Result<Self> {
        let socket = RouteSocket::with_groups(libc::RTMGRP_LINK.cast_unsigned())?;
        Ok(Self { socket, index, buffer: vec![0; BUFFER_BYTES] })
    }

    /// The last news of the link since the last look, if any. Never blocks; reads a bounded number of
    /// messages.
    pub(in crate::port) fn news(&mut self) -> io::Result<Option<LinkNews>> {
        let (mut news, mut was_down) = (None, false);
        for _ in 0..NEWS_MESSAGES_MAX {
            match sys::receive(self.socket.fd.as_fd(), &mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(length) => {
                    for message in messages(&self.buffer[..length]) {
                        news = self.interpret(&message).or(news);
                        was_down |= matches!(news, Some(LinkNews::Changed(_, true)));
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => {}
                    // News were lost because too many came: ask.
                    Some(libc::ENOBUFS) => news = Some(self.ask()?),
                    _ => return Err(error),
                },
            }
        }
        Ok(match news {
            Some(LinkNews::Changed(link, _)) => Some(LinkNews::Changed(link, was_down)),
            other => other,
        })
    }

    fn ask(&self) -> io::Result<LinkNews> {
        match RouteSocket::open()?.link_by_index(self.index) {
            Ok(link) => Ok(changed(link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(LinkNews::Gone),
            Err(error) => Err(error),
        }
    }

    fn interpret(&self, message: &Message<'_>) -> Option<LinkNews> {
        let link = parse_link(message.payload).filter(|link| link.index == self.index)?;
        match message.kind {
            libc::RTM_NEWLINK => Some(changed(link)),
            // A bridge also says DELLINK (of family AF_BRIDGE) when a port leaves it.
            libc::RTM_DELLINK if message.payload.first() == Some(&0) => Some(LinkNews::Gone),
            _ => None,
        }
    }
}

fn changed(link: Link) -> LinkNews {
    let was_down = !link.is_up();
    LinkNews::Changed(link, was_down)
}

fn link_request(kind: u16, flags: u16, sequence: u32, index: u32, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + LINK_MESSAGE_BYTES + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    // ifinfomsg: family, padding and type (4 bytes), index, flags, change mask.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(attributes);
    message
}

fn put_attribute(target: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    target.extend_from_slice(&length.to_ne_bytes());
    target.extend_from_slice(&kind.to_ne_bytes());
    target.extend_from_slice(value);
    target.resize(target.len().next_multiple_of(4), 0);
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The messages of one datagram, up to the first that does not fit.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER_BYTES)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            sequence: u32_at(message, 8)?,
            payload: &message[HEADER_BYTES..],
        })
    })
}

/// The attributes in `bytes` (kind without flags, and value), up to the first that does not fit.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(payload, 4)?, flags: u32_at(payload, 8)?, ..Link::default() };
    for (kind, value) in attributes(payload.get(LINK_MESSAGE_BYTES..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_LINK => link.peer_index = u32_at(value, 0),
            IFLA_LINK_NETNSID => link.peer_elsewhere = true,
            IFLA_NUM_RX_QUEUES => link.receive_queues = u32_at(value, 0),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|&(kind, _)| kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_XDP => link.xdp = parse_xdp(value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_xdp(nested: &[u8]) -> Option<(XdpMode, u32)> {
    let id_of = |wanted| {
        let value = attributes(nested).find(|&(kind, _)| kind == wanted)?.1;
        u32_at(value, 0).filter(|&id| id != 0)
    };
    let by_mode = [
        (XdpMode::Native, IFLA_XDP_DRV_PROG_ID),
        (XdpMode::Skb, IFLA_XDP_SKB_PROG_ID),
        (XdpMode::Hardware, IFLA_XDP_HW_PROG_ID),
    ];
    let found = by_mode.into_iter().find_map(|(mode, kind)| Some((mode, id_of(kind)?)));
    // Kernels before 4.19 name one program, and its mode beside it.
    found.or_else(|| {
        let mode = attributes(nested).find(|&(kind, _)| kind == IFLA_XDP_ATTACHED)?.1.first()?;
        let mode = match mode {
            1 => XdpMode::Native,
            2 => XdpMode::Skb,
            3 => XdpMode::Hardware,
            _ => return None,
        };
        Some((mode, id_of(IFLA_XDP_PROG_ID)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_interface_is_found_by_name_and_by_index() {
        let mut socket = RouteSocket::open().unwrap();
        let link = socket.link_by_name("lo").unwrap();
        assert_eq!((link.name.as_str(), link.index), ("lo", 1));
        assert_eq!(socket.link_by_index(1).unwrap(), link);
        assert!(link.mtu >= 1_500 && link.flags & libc::IFF_LOOPBACK.cast_unsigned() != 0);
        let missing = socket.link_by_name("no-such-link").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn a_program_is_read_with_its_mode() {
        let mut nested = Vec::new();
        put_attribute(&mut nested, IFLA_XDP_ATTACHED, &[2]);
        put_attribute(&mut nested, IFLA_XDP_PROG_ID, &77u32.to_ne_bytes());
        assert_eq!(parse_xdp(&nested), Some((XdpMode::Skb, 77)));
        put_attribute(&mut nested, IFLA_XDP_DRV_PROG_ID, &78u32.to_ne_bytes());
        assert_eq!(parse_xdp(&nested), Some((XdpMode::Native, 78)));
        assert_eq!(parse_xdp(&[]), None);
    }

    proptest! {
        #[test]
        fn parsing_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..300), length in 0u16..80) {
            let mut bytes = bytes;
            // Small lengths reach further into the parser than random ones.
            for at in (0..bytes.len().saturating_sub(4)).step_by(16) {
                bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
                bytes[at + 2..at + 4].fill(0);
            }
            let read: usize = messages(&bytes).map(|message| message.payload.len()).sum();
            prop_assert!(read <= bytes.len());
            let _ = parse_link(&bytes);
        }
    }
}
