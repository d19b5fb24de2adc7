//! Frames to and from the kernel with their virtio-net headers: many a call on packet sockets, one on tap devices.
//!
//! A frame is read into a packet and, as far as it is longer, into a slot beside it. Plain calls rather than a ring
//! mapped from the kernel: `TPACKET_V3` takes no virtio-net headers, and the slots of `TPACKET_V2` would each have to
//! hold a whole GSO frame.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use super::slots::Slots;
use crate::packet::Packet;
use crate::port::offload::{VNET_HEADER_BYTES, whole_header};

/// Most frames of one call.
pub(in crate::port) const MESSAGES_MAX: usize = 32;
/// Bytes of a slot: the longest frame that a kernel hands over (64 KiB of IP behind its link header), rounded up.
pub(in crate::port) const SLOT_BYTES: usize = (64 << 10) + 64;

/// `tp_status` bits of `linux/if_packet.h`: which fields of the tag are valid.
const STATUS_VLAN_VALID: u32 = 1 << 4;
const STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const TPID_DEFAULT: u16 = 0x8100;

/// What came with a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::port) struct Arrival {
    /// The virtio-net header as it lies in memory.
    pub(in crate::port) header: [u8; VNET_HEADER_BYTES],
    /// Bytes of the frame; those beyond the packet are in the slot.
    pub(in crate::port) length: usize,
    /// More came than packet and slot hold.
    pub(in crate::port) is_cut_off: bool,
    /// The machine itself sends this frame.
    pub(in crate::port) is_outgoing: bool,
    /// The VLAN tag (TPID, TCI) that the kernel took out.
    pub(in crate::port) tag: Option<(u16, u16)>,
}

/// `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Auxdata {
    status: u32,
    length: u32,
    captured: u32,
    mac: u16,
    net: u16,
    tci: u16,
    tpid: u16,
}

/// Room for one control message with [`Auxdata`]: 16 bytes of header and 20, aligned.
type Control = [u64; 8];
const _: () = assert!(size_of::<Auxdata>() == 20 && size_of::<Control>() >= 40);

fn vector(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Makes the packet as long as its frame allows, for the kernel to write to. Returns its bytes.
fn open_wide(packet: &mut Packet) -> &mut [u8] {
    let room = packet.tailroom();
    // As much as there is, so that it fits.
    let _ = packet.extend(room);
    packet.bytes_mut()
}

/// Header, packet, and the two areas of its slot.
type Vectors = [libc::iovec; 4];

/// Vectors for writing by the kernel. The slot's front is left free for what is in the packet, so that a long frame can be joined
/// there.
fn incoming(header: &mut [u8], packet: &mut Packet, (slot, beyond): (&mut [u8], &mut [u8])) -> Vectors {
    let bytes = open_wide(packet);
    let free = bytes.len().min(slot.len());
    [vector(header), vector(bytes), vector(&mut slot[free..]), vector(beyond)]
}

/// Receives up to as many frames as there are packets (which are empty) and arrivals; at most
/// [`MESSAGES_MAX`]. Never blocks. The packets are as long then as what they hold.
pub(in crate::port) fn receive(
    fd: BorrowedFd<'_>,
    packets: &mut [Packet],
    slots: &mut Slots,
    arrivals: &mut [Arrival],
) -> io::Result<usize> {
    let count = packets.len().min(arrivals.len()).min(MESSAGES_MAX);
    // SAFETY: all zeros is a valid value of each: integers and null pointers.
    let (mut vectors, mut messages, mut names) = unsafe {
        (
            zeroed::<[Vectors; MESSAGES_MAX]>(),
            zeroed::<[libc::mmsghdr; MESSAGES_MAX]>(),
            zeroed::<[libc::sockaddr_ll; MESSAGES_MAX]>(),
        )
    };
    let mut controls: [Control; MESSAGES_MAX] = [[0; 8]; MESSAGES_MAX];
    let each = packets.iter_mut().zip(slots.areas()).zip(arrivals.iter_mut());
    for (at, ((packet, areas), arrival)) in each.take(count).enumerate() {
        vectors[at] = incoming(&mut arrival.header, packet, areas);
        let header = &mut messages[at].msg_hdr;
        header.msg_iov = vectors[at].as_mut_ptr();
        header.msg_iovlen = vectors[at].len() as _;
        header.msg_name = (&raw mut names[at]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        header.msg_control = controls[at].as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: each of the first `count` messages points to memory that is borrowed mutably or owned by this function
    // until it returns: header, packet and slot by `vectors` with their true lengths, name and control with theirs.
    let got = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
            null_mut(),
        )
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error());
    for (at, packet) in packets.iter_mut().take(count).enumerate() {
        if !got.as_ref().is_ok_and(|&got| at < got) {
            packet.truncate(0);
            continue;
        }
        let length = (messages[at].msg_len as usize).saturating_sub(VNET_HEADER_BYTES);
        let arrival = &mut arrivals[at];
        arrival.length = length;
        arrival.is_cut_off = messages[at].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
            || (messages[at].msg_len as usize) < VNET_HEADER_BYTES;
        arrival.is_outgoing = names[at].sll_pkttype == libc::PACKET_OUTGOING;
        arrival.tag = tag_of(&messages[at].msg_hdr);
        packet.truncate(length);
    }
    got
}

/// The tag in the control messages of a received frame.
fn tag_of(header: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `header` was filled by the kernel, whose control messages lie in the `Control` that it points to, with
    // their lengths; the macros stay inside it.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = at.as_ref() {
            if control.cmsg_level == libc::SOL_PACKET
                && control.cmsg_type == libc::PACKET_AUXDATA
                && control.cmsg_len >= libc::CMSG_LEN(size_of::<Auxdata>() as u32) as usize
            {
                let auxdata = libc::CMSG_DATA(at).cast::<Auxdata>().read_unaligned();
                let named = auxdata.status & STATUS_VLAN_TPID_VALID != 0;
                let tpid = if named { auxdata.tpid } else { TPID_DEFAULT };
                return (auxdata.status & STATUS_VLAN_VALID != 0).then_some((tpid, auxdata.tci));
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    None
}

/// What goes in front of a packet: zeros, since nothing is left to do, or what is to be done with a whole frame. The port made that
/// ready to be sent.
fn header_of(packet: &Packet) -> [u8; VNET_HEADER_BYTES] {
    if packet.is_whole() { whole_header(packet).to_bytes() } else { [0; VNET_HEADER_BYTES] }
}

/// Sends packets as they are, in order; returns how many the kernel took. Never blocks.
///
/// # Errors
/// The kernel's, about the first packet.
pub(in crate::port) fn send(fd: BorrowedFd<'_>, packets: &[Packet]) -> io::Result<usize> {
    let count = packets.len().min(MESSAGES_MAX);
    let mut headers = [[0u8; VNET_HEADER_BYTES]; MESSAGES_MAX];
    // SAFETY: all zeros is a valid value of both: integers and null pointers.
    let (mut vectors, mut messages) =
        unsafe { (zeroed::<[[libc::iovec; 2]; MESSAGES_MAX]>(), zeroed::<[libc::mmsghdr; MESSAGES_MAX]>()) };
    for (at, packet) in packets.iter().take(count).enumerate() {
        headers[at] = header_of(packet);
        vectors[at] = outgoing(&headers[at], packet.bytes());
        messages[at].msg_hdr.msg_iov = vectors[at].as_mut_ptr();
        messages[at].msg_hdr.msg_iovlen = 2;
    }
    // SAFETY: each message points to one of `headers` and to a borrowed packet with their lengths; sending only reads them.
    let sent = unsafe {
        libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Vectors for reading by the kernel.
fn outgoing(header: &[u8], bytes: &[u8]) -> [libc::iovec; 2] {
    let vector =
        |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    [vector(header), vector(bytes)]
}

/// Reads one frame from a tap device that does not block.
pub(in crate::port) fn read(
    fd: BorrowedFd<'_>,
    packet: &mut Packet,
    areas: (&mut [u8], &mut [u8]),
    arrival: &mut Arrival,
) -> io::Result<()> {
    *arrival = Arrival::default();
    let vectors = incoming(&mut arrival.header, packet, areas);
    // SAFETY: the vectors describe slices that are borrowed mutably until the call returns.
    let got = unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) };
    let Ok(got) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        packet.truncate(0);
        return Err(error);
    };
    let length = got.saturating_sub(VNET_HEADER_BYTES);
    arrival.length = length;
    arrival.is_cut_off = got < VNET_HEADER_BYTES;
    packet.truncate(length);
    Ok(())
}

/// Writes one packet to a tap device that does not block.
pub(in crate::port) fn write(fd: BorrowedFd<'_>, packet: &Packet) -> io::Result<()> {
    let header = header_of(packet);
    let vectors = outgoing(&header, packet.bytes());
    // SAFETY: the vectors describe two borrowed slices; writing only reads them.
    let sent = unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), 2) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
