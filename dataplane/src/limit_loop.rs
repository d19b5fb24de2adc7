//! The least work that one core can do to carry a 64-byte UDP packet through a whole chain once its flow is known: a yardstick.
//!
//! Three passes over a burst: gather the 5-tuple, hash it and prefetch; find the flow in one hash table; rewrite addresses
//! and ports with incremental checksums (RFC 1624), decrement the TTL, push a prebuilt VXLAN header of 50 bytes, count the
//! packet. No checks, no timeouts, no statistics: nothing that a real chain could leave out. The loop forwards nothing; it
//! stands here because only this crate may use unchecked memory, and checks on every access would make the yardstick longer.
//!
//! The memory comes from an [`Arena`], as the engine's does, so that both lie on the same kind of pages.
#![allow(unsafe_code)]

use crate::cpu::{crc32c, cycles};
use crate::limits::BURST_PACKETS_MAX;
use crate::memory::{Arena, ArenaConfig, ArenaError, ArenaSlice, Pod, prefetch_at};

/// Packets in a burst.
const BURST: usize = BURST_PACKETS_MAX;
/// Packet buffers, used in turns: 18 MiB, so that they pass through the caches as a pool's frames do.
const BUFFERS: usize = 8192;
const BUFFER_BYTES: usize = 2304;
/// Where a packet starts in its buffer.
const HEADROOM_BYTES: usize = 256;
/// Ethernet, IPv4, UDP and VXLAN in front of the packet.
const OUTER_BYTES: usize = 50;
const FRAME_BYTES: usize = 64;
/// Most flows: the tables stay below 64 GiB.
const FLOWS_MAX: usize = 1 << 28;
/// Least packets of a run.
const RUN_PACKETS_MIN: usize = 400_000;
/// Least laps over all flows in a run.
const RUN_LAPS_MIN: usize = 4;

const _: () = assert!(BUFFERS.is_power_of_two() && HEADROOM_BYTES >= OUTER_BYTES);
const _: () = assert!(HEADROOM_BYTES + FRAME_BYTES <= BUFFER_BYTES);

type Buffer = [u8; BUFFER_BYTES];

/// A place of the hash table.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u128,
    /// Index of the flow's entry; 0: the place is free.
    entry: u64,
    padding: u64,
}

// SAFETY: integers, for which zero bytes are 0, aligned to 16 bytes.
unsafe impl Pod for Slot {}

/// What is done to the packets of a flow, and their count. Addresses, ports and sums as they lie in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Entry {
    ethernet: [u8; 12],
    addresses: [u32; 2],
    ports: [u16; 2],
    ip_delta: u16,
    udp_delta: u16,
    outer: [u8; OUTER_BYTES],
    packets: u64,
    bytes: u64,
    last_seen: u64,
}

// SAFETY: integers and arrays of them, for which zero bytes are 0, aligned to 8 bytes.
unsafe impl Pod for Entry {}

/// The loop with its tables, for a number of flows.
#[derive(Debug)]
pub struct LimitLoop {
    buffers: ArenaSlice<Buffer>,
    /// A power of two of them, at most half of them taken; `entry` is an index into `entries`.
    slots: ArenaSlice<Slot>,
    /// The first belongs to no flow.
    entries: ArenaSlice<Entry>,
    /// A packet of each flow.
    templates: ArenaSlice<[u8; FRAME_BYTES]>,
    /// The flows in the order of their packets.
    order: Vec<u32>,
}

impl LimitLoop {
    /// Fills the tables with `flows` flows (at least one), whose addresses, ports and order come from `random`.
    ///
    /// # Errors
    /// If there is not enough memory, or more than 2^28 flows are wanted.
    pub fn new(flows: usize, mut random: impl FnMut() -> u64) -> Result<Self, ArenaError> {
        let flows = flows.max(1);
        if flows > FLOWS_MAX {
            return Err(ArenaError::TooLarge { count: flows, element_bytes: size_of::<Entry>() });
        }
        let slots = (flows * 2).next_power_of_two().max(64);
        let bytes = BUFFERS * BUFFER_BYTES
            + slots * size_of::<Slot>()
            + (flows + 1) * size_of::<Entry>()
            + flows * FRAME_BYTES;
        // Four regions, each rounded up to cache lines.
        let arena = Arena::new(&ArenaConfig::new(bytes + 4 * 64))?;
        let mut limit = Self {
            buffers: ArenaSlice::zeroed(&arena, BUFFERS)?,
            slots: ArenaSlice::zeroed(&arena, slots)?,
            entries: ArenaSlice::zeroed(&arena, flows + 1)?,
            templates: ArenaSlice::zeroed(&arena, flows)?,
            order: (0..flows as u32).collect(),
        };
        for flow in 0..flows {
            limit.add(flow, [random(), random()]);
        }
        for i in (1..flows).rev() {
            limit.order.swap(i, (random() % (i as u64 + 1)) as usize);
        }
        Ok(limit)
    }

    fn add(&mut self, flow: usize, [addresses, ports]: [u64; 2]) {
        let packet = &mut self.templates[flow];
        packet[12] = 0x08; // IPv4
        packet[14] = 0x45; // version 4, no options
        packet[17] = (FRAME_BYTES - 14) as u8;
        packet[22] = 64; // TTL
        packet[23] = 17; // UDP
        packet[26..34].copy_from_slice(&addresses.to_ne_bytes());
        packet[34..38].copy_from_slice(&(ports as u32).to_ne_bytes());
        // SAFETY: a template has 64 bytes.
        let key = unsafe { five_tuple(packet.as_ptr()) };
        let mask = self.slots.len() - 1;
        let mut at = hash(key) & mask;
        while self.slots[at].entry != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { key, entry: flow as u64 + 1, padding: 0 };
        let entry = &mut self.entries[flow + 1];
        entry.addresses[0] = flow as u32;
        (entry.ip_delta, entry.udp_delta) = (7, 9);
    }

    /// Bursts of [`LimitLoop::run`]: at least 400,000 packets and four laps over all flows.
    pub fn bursts(&self) -> usize {
        (RUN_PACKETS_MIN / BURST).max(self.order.len() * RUN_LAPS_MIN / BURST)
    }

    /// One run of [`LimitLoop::bursts`]: TSC cycles per packet, without the copies that fill the buffers. A quarter as many
    /// go before it uncounted, a lap or so at least, so that the caches hold what they can of the tables whatever ran before.
    pub fn run(&mut self) -> f64 {
        let bursts = self.bursts();
        self.run_bursts(bursts.div_ceil(4));
        let spent = self.run_bursts(bursts);
        spent as f64 / (bursts * BURST) as f64
    }

    fn run_bursts(&mut self, bursts: usize) -> u64 {
        let tables = Tables {
            slots: self.slots.as_ptr(),
            mask: self.slots.len() - 1,
            entries: self.entries.as_mut_ptr(),
        };
        let buffers = self.buffers.as_mut_ptr();
        let (mut spent, mut buffer, mut turn) = (0, 0, 0);
        for _ in 0..bursts {
            let mut packets = [std::ptr::null_mut(); BURST];
            for packet in &mut packets {
                // SAFETY: `buffer` is below `BUFFERS`, and a buffer is larger than headroom and frame.
                *packet = unsafe { buffers.add(buffer).cast::<u8>().add(HEADROOM_BYTES) };
                buffer = (buffer + 1) & (BUFFERS - 1);
                let template = &self.templates[self.order[turn] as usize];
                turn = if turn + 1 == self.order.len() { 0 } else { turn + 1 };
                // SAFETY: the packet has 64 bytes in its buffer, which no reference points into while the run lasts.
                unsafe { std::ptr::copy_nonoverlapping(template.as_ptr(), *packet, FRAME_BYTES) };
            }
            // SAFETY: the packets are those of different buffers, with the headroom in front of them; the tables are
            // those of `self`, exclusively borrowed.
            spent += unsafe { tables.burst(&packets) };
        }
        spent
    }
}

/// The tables of a [`LimitLoop`] during a run.
struct Tables {
    slots: *const Slot,
    mask: usize,
    entries: *mut Entry,
}

impl Tables {
    /// The measured part: TSC cycles for one burst.
    ///
    /// # Safety
    /// The tables are those of a `LimitLoop` that is exclusively borrowed. Each packet has 64 bytes, and 50 in front of
    /// them, which are nobody else's.
    #[inline(always)]
    unsafe fn burst(&self, packets: &[*mut u8; BURST]) -> u64 {
        let mut keys = [0; BURST];
        let mut homes = [0; BURST];
        let mut found = [self.entries; BURST];
        let start = cycles();
        for i in 0..BURST {
            // SAFETY: by this function's contract.
            keys[i] = unsafe { five_tuple(packets[i]) };
            homes[i] = hash(keys[i]) & self.mask;
            // SAFETY: `homes[i]` was masked to the number of slots.
            prefetch(unsafe { self.slots.add(homes[i]) });
        }
        for i in 0..BURST {
            // SAFETY: as above.
            if let Some(entry) = unsafe { self.find(keys[i], homes[i]) } {
                found[i] = entry;
                prefetch(entry);
                prefetch(entry.wrapping_byte_add(64));
            }
        }
        for i in 0..BURST {
            // SAFETY: `found` holds pointers to entries only, the first one from the start; no two references to entries
            // are alive at once. The packet is as the contract says.
            unsafe { rewrite(packets[i], &mut *found[i], start) };
        }
        cycles().wrapping_sub(start)
    }

    /// Looks a key up, from its home on.
    ///
    /// # Safety
    /// The tables are those of a `LimitLoop`, and `home` is at most `mask`.
    #[inline(always)]
    unsafe fn find(&self, key: u128, home: usize) -> Option<*mut Entry> {
        let mut at = home;
        loop {
            // SAFETY: `at` is at most `mask`, and there is one slot more than that.
            let slot = unsafe { &*self.slots.add(at) };
            if slot.entry == 0 {
                return None;
            }
            if slot.key == key {
                // SAFETY: `LimitLoop::add` stores indices into `entries` only.
                return Some(unsafe { self.entries.add(slot.entry as usize) });
            }
            at = (at + 1) & self.mask;
        }
    }
}

#[inline(always)]
fn prefetch<T>(address: *const T) {
    prefetch_at(address.cast());
}

/// Addresses, ports and protocol of an IPv4 packet without options.
///
/// # Safety
/// 64 bytes at `packet` are readable.
#[inline(always)]
unsafe fn five_tuple(packet: *const u8) -> u128 {
    // SAFETY: the last byte read is the 38th.
    let (addresses, ports, protocol) = unsafe {
        (
            packet.add(26).cast::<u64>().read_unaligned(),
            packet.add(34).cast::<u32>().read_unaligned(),
            *packet.add(23),
        )
    };
    u128::from(addresses) | u128::from(ports) << 64 | u128::from(protocol) << 96
}

/// Cheap and not keyed (R16 would not allow it in a table of the data plane): the flows here are the loop's own.
#[inline(always)]
fn hash(key: u128) -> usize {
    let crc = crc32c(crc32c(0x9747_b28c, key as u64), (key >> 64) as u64);
    (crc ^ ((crc << 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7)) as usize
}

/// The sum of RFC 1624, section 3, in ones' complement.
#[inline(always)]
fn ones_complement_add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Applies an entry to a packet and counts it.
///
/// # Safety
/// 64 bytes at `packet` and 50 in front of it are nobody else's.
#[inline(always)]
unsafe fn rewrite(packet: *mut u8, entry: &mut Entry, now: u64) {
    // SAFETY: bytes 0 to 41 of the packet are written, and 50 in front of it; the entry lies elsewhere, being borrowed.
    unsafe {
        packet.cast::<[u8; 12]>().write(entry.ethernet);
        packet.add(26).cast::<[u32; 2]>().write_unaligned(entry.addresses);
        packet.add(34).cast::<[u16; 2]>().write_unaligned(entry.ports);
        *packet.add(22) = (*packet.add(22)).wrapping_sub(1);
        let sum = packet.add(24).cast::<u16>();
        sum.write_unaligned(ones_complement_add(sum.read_unaligned(), entry.ip_delta));
        let sum = packet.add(40).cast::<u16>();
        sum.write_unaligned(ones_complement_add(sum.read_unaligned(), entry.udp_delta));
        let outer = packet.sub(OUTER_BYTES);
        outer.cast::<[u8; OUTER_BYTES]>().write(entry.outer);
        // The outer lengths of IPv4 and UDP.
        outer.add(16).cast::<[u8; 2]>().write(100u16.to_be_bytes());
        outer.add(38).cast::<[u8; 2]>().write(80u16.to_be_bytes());
    }
    entry.packets = entry.packets.wrapping_add(1);
    entry.bytes = entry.bytes.wrapping_add(FRAME_BYTES as u64);
    entry.last_seen = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loop_of(flows: usize) -> LimitLoop {
        let mut state = 1u64;
        LimitLoop::new(flows, move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        })
        .unwrap()
    }

    #[test]
    fn each_flow_has_its_packets_once_a_lap() {
        let mut limit = loop_of(128);
        limit.run_bursts(6);
        assert_eq!(limit.entries[0].packets, 0);
        assert!(limit.entries[1..].iter().all(|entry| (entry.packets, entry.bytes) == (3, 192)));
        assert!(limit.entries[1..].iter().all(|entry| entry.last_seen > 0));
    }

    #[test]
    fn packets_are_rewritten_and_wrapped() {
        let mut limit = loop_of(100);
        let flow = limit.order[5] as usize;
        let entry = &mut limit.entries[flow + 1];
        entry.ethernet = [0xe1; 12];
        entry.addresses[1] = u32::from_ne_bytes([9, 8, 7, 6]);
        entry.ports = [u16::from_ne_bytes([1, 2]), u16::from_ne_bytes([3, 4])];
        entry.outer = [0xaa; OUTER_BYTES];
        limit.run_bursts(1);
        let buffer = &limit.buffers[5];
        let mut packet = limit.templates[flow];
        packet[..12].fill(0xe1);
        packet[22] = 63;
        packet[24..26].copy_from_slice(&7u16.to_ne_bytes());
        packet[26..30].copy_from_slice(&(flow as u32).to_ne_bytes());
        packet[30..38].copy_from_slice(&[9, 8, 7, 6, 1, 2, 3, 4]);
        packet[40..42].copy_from_slice(&9u16.to_ne_bytes());
        assert_eq!(buffer[HEADROOM_BYTES..HEADROOM_BYTES + FRAME_BYTES], packet);
        let mut outer = [0xaa; OUTER_BYTES];
        (outer[16], outer[17], outer[38], outer[39]) = (0, 100, 0, 80);
        assert_eq!(buffer[HEADROOM_BYTES - OUTER_BYTES..HEADROOM_BYTES], outer);
        assert_eq!(buffer[..HEADROOM_BYTES - OUTER_BYTES], [0; HEADROOM_BYTES - OUTER_BYTES]);
    }

    #[test]
    fn sums_carry_around() {
        assert_eq!(ones_complement_add(0xffff, 1), 1);
        assert_eq!(ones_complement_add(0x8000, 0x8000), 1);
    }

    #[test]
    fn a_run_has_four_laps_and_no_fewer_than_400_000_packets() {
        assert_eq!(loop_of(0).bursts(), 6250);
        assert_eq!(loop_of(200_000).bursts(), 12_500);
        assert!(matches!(LimitLoop::new(usize::MAX, || 0), Err(ArenaError::TooLarge { .. })));
    }
}
