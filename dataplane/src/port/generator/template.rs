//! Prepared headers: one image a flow, finished for the first frame length; other lengths change three fields.

use std::net::IpAddr;

use super::profile::{FrameBytes, Profile, Protocol};
use crate::packet::checksum;
use crate::port::random::Random;

/// The order in which an IMIX lap takes its three lengths: 7, 4 and 1 of 12, spread.
const IMIX_LAP: [usize; 12] = [64, 594, 64, 64, 594, 64, 1_518, 64, 594, 64, 64, 594];

/// What a frame length changes in the headers, against the first length. Words as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) frame_bytes: u16,
    /// IPv4 total length or IPv6 payload length.
    ip_length: [u8; 2],
    /// UDP length.
    udp_length: [u8; 2],
    ip_delta: u16,
    l4_delta: u16,
}

/// Where the fields that depend on the length lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    ipv6: bool,
    protocol: u8,
    ip: usize,
    l4: usize,
    header_bytes: usize,
    /// Checksum field of the L4 header.
    l4_checksum: usize,
}

impl Layout {
    fn of(profile: &Profile) -> Self {
        let ipv6 = profile.is_ipv6();
        let ip = if profile.vlan.is_some() { 18 } else { 14 };
        let l4 = ip + if ipv6 { 40 } else { 20 };
        let (protocol, checksum_at) = match profile.protocol {
            Protocol::Udp => (17, 6),
            Protocol::Tcp(_) => (6, 16),
            Protocol::IcmpEcho => (if ipv6 { 58 } else { 1 }, 2),
        };
        Self { ipv6, protocol, ip, l4, header_bytes: profile.header_bytes(), l4_checksum: l4 + checksum_at }
    }

    fn ip_length_at(&self) -> usize {
        self.ip + if self.ipv6 { 4 } else { 2 }
    }
}

/// Everything that is copied into packets.
#[derive(Debug)]
pub(super) struct Templates {
    layout: Layout,
    /// Bytes of one image: the headers, rounded up to cache lines, with the payload that follows.
    stride: usize,
    /// One image a flow, in the order of a lap.
    images: Vec<u8>,
    /// What frames carry at each place behind the image.
    payload: Vec<u8>,
    /// The lengths in turn: one if fixed, a lap of IMIX, or each of a range.
    pub(super) lengths: Vec<Length>,
    /// Whether the length is drawn rather than taken in turn.
    pub(super) random_length: bool,
}

impl Templates {
    /// Prepares the headers of a checked profile, its flows in the order `lap`.
    pub(super) fn new(profile: &Profile, lap: &[u32]) -> Self {
        let layout = Layout::of(profile);
        let frame_lengths: Vec<usize> = match profile.frame_bytes {
            FrameBytes::Fixed(bytes) => vec![bytes],
            FrameBytes::Imix => IMIX_LAP.iter().map(|&bytes| bytes.max(layout.header_bytes)).collect(),
            FrameBytes::Range(shortest, longest) => (shortest..=longest).collect(),
        };
        let longest = frame_lengths.iter().copied().max().unwrap_or(0);
        let stride = layout.header_bytes.next_multiple_of(64);
        let payload = payload(profile.seed, longest.max(stride));
        let first = frame_lengths[0];
        let lengths = frame_lengths.iter().map(|&bytes| length(&layout, &payload, first, bytes)).collect();
        let mut images = Vec::with_capacity(lap.len() * stride);
        let common = common_image(profile, &layout, &payload[..stride], first);
        let payload_sum = checksum::sum(&payload[layout.header_bytes..first]);
        for &flow in lap {
            let start = images.len();
            images.extend_from_slice(&common);
            let [source, target] = profile.flow(flow.into());
            let ends = if profile.reversed { [target, source] } else { [source, target] };
            finish_image(profile, &layout, &mut images[start..], ends, payload_sum);
        }
        let random_length = matches!(profile.frame_bytes, FrameBytes::Range(..));
        Self { layout, stride, images, payload, lengths, random_length }
    }

    /// Number of flows.
    pub(super) fn len(&self) -> usize {
        self.images.len() / self.stride
    }

    /// Writes the packet of the flow at `position` of the lap; `frame` has the length that `length` says.
    #[inline]
    pub(super) fn write(&self, position: usize, length: &Length, frame: &mut [u8]) {
        let image = &self.images[position * self.stride..][..self.stride];
        if frame.len() >= self.stride {
            let (head, rest) = frame.split_at_mut(self.stride);
            head.copy_from_slice(image);
            rest.copy_from_slice(&self.payload[self.stride..][..rest.len()]);
        } else {
            frame.copy_from_slice(&image[..frame.len()]);
        }
        if self.lengths.len() > 1 {
            self.set_length(length, frame);
        }
    }

    /// Changes the fields that depend on the length, and the checksums over them (RFC 1624).
    fn set_length(&self, length: &Length, frame: &mut [u8]) {
        let layout = &self.layout;
        put(frame, layout.ip_length_at(), length.ip_length);
        if !layout.ipv6 {
            adjust(frame, layout.ip + 10, length.ip_delta);
        }
        adjust(frame, layout.l4_checksum, length.l4_delta);
        if layout.protocol == 17 {
            put(frame, layout.l4 + 4, length.udp_length);
            avoid_zero(frame, layout.l4_checksum);
        }
    }
}

fn put(frame: &mut [u8], at: usize, word: [u8; 2]) {
    frame[at..at + 2].copy_from_slice(&word);
}

fn adjust(frame: &mut [u8], at: usize, delta: u16) {
    let field = u16::from_ne_bytes([frame[at], frame[at + 1]]);
    put(frame, at, checksum::apply(field, delta).to_ne_bytes());
}

/// RFC 768: a UDP checksum that computes to zero is sent as all ones.
fn avoid_zero(frame: &mut [u8], at: usize) {
    if frame[at..at + 2] == [0, 0] {
        put(frame, at, [0xff, 0xff]);
    }
}

/// The bytes that a frame has at each offset, unless a header covers it.
fn payload(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0x7061_796c_6f61_6421);
    let mut payload: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| random.next().to_ne_bytes()).collect();
    payload.truncate(bytes);
    payload
}

/// What `bytes` changes against `first`.
fn length(layout: &Layout, payload: &[u8], first: usize, bytes: usize) -> Length {
    let ip_length =
        |bytes: usize| ((bytes - if layout.ipv6 { layout.l4 } else { layout.ip }) as u16).to_be_bytes();
    let l4_length = |bytes: usize| ((bytes - layout.l4) as u16).to_be_bytes();
    let l4_sum = |bytes: usize| {
        let length = checksum::sum(&l4_length(bytes));
        // The pseudo-header has the length once, UDP's own header once more; ICMP of IPv4 has neither.
        let copies = match layout.protocol {
            17 => 2,
            1 => 0,
            _ => 1,
        };
        length * copies + checksum::sum(&payload[layout.header_bytes..bytes])
    };
    Length {
        frame_bytes: bytes as u16,
        ip_length: ip_length(bytes),
        udp_length: l4_length(bytes),
        ip_delta: checksum::delta(checksum::sum(&ip_length(first)), checksum::sum(&ip_length(bytes))),
        l4_delta: checksum::delta(l4_sum(first), l4_sum(bytes)),
    }
}

/// What all flows have in common: everything but addresses, ports and checksums.
fn common_image(profile: &Profile, layout: &Layout, payload: &[u8], first: usize) -> Vec<u8> {
    let mut image = payload.to_vec();
    image[..layout.header_bytes].fill(0);
    let (from, to) = if profile.reversed {
        (&profile.target, &profile.source)
    } else {
        (&profile.source, &profile.target)
    };
    image[..6].copy_from_slice(&to.mac);
    image[6..12].copy_from_slice(&from.mac);
    if let Some(vlan) = profile.vlan {
        image[12..14].copy_from_slice(&[0x81, 0x00]);
        image[14..16].copy_from_slice(&vlan.to_be_bytes());
    }
    let ethertype: [u8; 2] = if layout.ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    put(&mut image, layout.ip - 2, ethertype);
    let ip = &mut image[layout.ip..];
    if layout.ipv6 {
        ip[0] = 0x60;
        put(ip, 4, ((first - layout.l4) as u16).to_be_bytes());
        (ip[6], ip[7]) = (layout.protocol, profile.ttl);
    } else {
        ip[0] = 0x45;
        put(ip, 2, ((first - layout.ip) as u16).to_be_bytes());
        // Don't fragment; the identification of such packets means nothing (RFC 6864 section 4.1).
        ip[6] = 0x40;
        (ip[8], ip[9]) = (profile.ttl, layout.protocol);
    }
    let l4 = &mut image[layout.l4..];
    match profile.protocol {
        Protocol::Udp => put(l4, 4, ((first - layout.l4) as u16).to_be_bytes()),
        Protocol::Tcp(fields) => {
            l4[4..8].copy_from_slice(&fields.sequence.to_be_bytes());
            l4[8..12].copy_from_slice(&fields.acknowledgement.to_be_bytes());
            (l4[12], l4[13]) = (5 << 4, fields.flags);
            put(l4, 14, fields.window.to_be_bytes());
        }
        Protocol::IcmpEcho => {
            l4[0] = match (layout.ipv6, profile.reversed) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            // A sequence number of 1; the identifier is the flow's.
            l4[7] = 1;
        }
    }
    image
}

/// Fills in the addresses, ports and checksums of one flow.
fn finish_image(
    profile: &Profile,
    layout: &Layout,
    image: &mut [u8],
    ends: [(IpAddr, u16); 2],
    payload_sum: u64,
) {
    let addresses = layout.ip + if layout.ipv6 { 8 } else { 12 };
    let mut at = addresses;
    for (address, _) in ends {
        match address {
            IpAddr::V4(address) => image[at..at + 4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => image[at..at + 16].copy_from_slice(&address.octets()),
        }
        at += if layout.ipv6 { 16 } else { 4 };
    }
    if profile.protocol == Protocol::IcmpEcho {
        let identifier = ends[usize::from(profile.reversed)].1;
        put(image, layout.l4 + 4, identifier.to_be_bytes());
    } else {
        put(image, layout.l4, ends[0].1.to_be_bytes());
        put(image, layout.l4 + 2, ends[1].1.to_be_bytes());
    }
    if !layout.ipv6 {
        let field = checksum::finish(checksum::sum(&image[layout.ip..layout.l4]));
        put(image, layout.ip + 10, field.to_ne_bytes());
    }
    let ip_length =
        usize::from(u16::from_be_bytes([image[layout.ip_length_at()], image[layout.ip_length_at() + 1]]));
    let l4_bytes = if layout.ipv6 { ip_length } else { ip_length - 20 };
    let mut sum = checksum::sum(&image[layout.l4..layout.header_bytes]) + payload_sum;
    if layout.protocol != 1 {
        sum += checksum::pseudo_header(&image[addresses..at], layout.protocol, l4_bytes);
    }
    put(image, layout.l4_checksum, checksum::finish(sum).to_ne_bytes());
    if layout.protocol == 17 {
        avoid_zero(image, layout.l4_checksum);
    }
}
