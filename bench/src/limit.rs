//! The least work that one core can do to carry a packet through a chain once its flow is known, as a yardstick.
//!
//! Read the 5-tuple, find the flow in one hash table, rewrite addresses and ports with incremental checksums (RFC 1624),
//! decrement the TTL, push a prebuilt 50-byte VXLAN header, count the packet. No timeouts, no statistics, no checks.
//! The work is the same whatever chain it is compared with.

use crate::random::Random;
use millrace_dataplane::cpu::{crc32c, cycles};
use millrace_dataplane::memory::{Arena, ArenaConfig, ArenaError, ArenaSlice, prefetch};

const BURST: usize = 64;
const BUFFERS: usize = 8192;
const BUFFER_BYTES: usize = 2304;
const HEADROOM: usize = 256;
const VXLAN_BYTES: usize = 50;
const FRAME: usize = 64;

/// Key low and high, entry, padding.
type Slot = [u64; 4];
/// Ethernet addresses (12), addresses (8), ports (4), checksum deltas (4), outer header (50), padding (2), packets, bytes,
/// last seen.
type Rewrite = [u8; 104];
type Buffer = [u8; BUFFER_BYTES];

const OUTER: usize = 28;
const COUNTERS: usize = 80;

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

#[inline(always)]
fn word(bytes: &[u8; 104], at: usize) -> u64 {
    u64::from_ne_bytes(part(bytes, at))
}

#[inline(always)]
fn five_tuple(packet: &[u8; FRAME]) -> (u64, u64) {
    let addresses = u64::from_ne_bytes(part(packet, 26));
    let ports = u64::from(u32::from_ne_bytes(part(packet, 34)));
    (addresses, ports | u64::from(packet[23]) << 32)
}

#[inline(always)]
fn hash(key: (u64, u64)) -> usize {
    let crc = crc32c(crc32c(0x9747_b28c, key.0), key.1);
    (crc ^ ((crc << 29).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7)) as usize
}

#[inline(always)]
fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[inline(always)]
fn rewrite(frame: &mut [u8; VXLAN_BYTES + FRAME], entry: &mut Rewrite, now: u64) {
    let (outer, packet) = frame.split_at_mut(VXLAN_BYTES);
    packet[..12].copy_from_slice(&entry[..12]);
    packet[26..38].copy_from_slice(&entry[12..24]);
    packet[22] = packet[22].wrapping_sub(1);
    let l3 = add(u16::from_ne_bytes(part(packet, 24)), u16::from_ne_bytes(part(&entry[..], 24)));
    packet[24..26].copy_from_slice(&l3.to_ne_bytes());
    let l4 = add(u16::from_ne_bytes(part(packet, 40)), u16::from_ne_bytes(part(&entry[..], 26)));
    packet[40..42].copy_from_slice(&l4.to_ne_bytes());
    outer.copy_from_slice(&entry[OUTER..OUTER + VXLAN_BYTES]);
    outer[16..18].copy_from_slice(&100u16.to_be_bytes());
    outer[38..40].copy_from_slice(&80u16.to_be_bytes());
    for (i, more) in [1, FRAME as u64].into_iter().enumerate() {
        let at = COUNTERS + 8 * i;
        let sum = word(entry, at).wrapping_add(more);
        entry[at..at + 8].copy_from_slice(&sum.to_ne_bytes());
    }
    entry[COUNTERS + 16..].copy_from_slice(&now.to_ne_bytes());
}

/// The loop with its tables, for a number of flows.
#[derive(Debug)]
pub struct Limit {
    pool: ArenaSlice<Buffer>,
    slots: ArenaSlice<Slot>,
    entries: ArenaSlice<Rewrite>,
    templates: ArenaSlice<[u8; FRAME]>,
    order: Vec<u32>,
}

impl Limit {
    /// Fills the tables with `flows` flows.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(flows: usize) -> Result<Self, ArenaError> {
        let flows = flows.max(1);
        let capacity = (flows * 2).next_power_of_two().max(64);
        let bytes = BUFFERS * BUFFER_BYTES
            + capacity * size_of::<Slot>()
            + (flows + 1) * size_of::<Rewrite>()
            + flows * FRAME;
        let arena = Arena::new(&ArenaConfig::new(bytes + (16 << 20)))?;
        let mut limit = Self {
            pool: ArenaSlice::zeroed(&arena, BUFFERS)?,
            slots: ArenaSlice::zeroed(&arena, capacity)?,
            entries: ArenaSlice::zeroed(&arena, flows + 1)?,
            templates: ArenaSlice::zeroed(&arena, flows)?,
            order: Vec::new(),
        };
        let mut random = Random::new(88_172_645_463_325_252);
        for flow in 0..flows {
            limit.add(flow, &mut random);
        }
        limit.order = random.permutation(flows);
        Ok(limit)
    }

    fn add(&mut self, flow: usize, random: &mut Random) {
        let packet = &mut self.templates[flow];
        (packet[12], packet[14], packet[17], packet[22], packet[23]) = (0x08, 0x45, 50, 64, 17);
        packet[26..34].copy_from_slice(&random.next().to_ne_bytes());
        packet[34..38].copy_from_slice(&(random.next() as u32).to_ne_bytes());
        let key = five_tuple(packet);
        let mask = self.slots.len() - 1;
        let mut slot = hash(key) & mask;
        while self.slots[slot][2] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = [key.0, key.1, flow as u64 + 1, 0];
        let entry = &mut self.entries[flow + 1];
        entry[12..16].copy_from_slice(&(flow as u32).to_ne_bytes());
        (entry[24], entry[26]) = (7, 9);
    }

    /// One round: cycles per packet, the least of `runs` runs of at least four laps.
    pub fn measure(&mut self, runs: usize) -> f64 {
        let flows = self.order.len();
        let bursts = (400_000 / BURST).max(flows * 4 / BURST);
        (0..runs.max(1)).map(|_| self.run(bursts)).fold(f64::MAX, f64::min)
    }

    fn run(&mut self, bursts: usize) -> f64 {
        let (mut spent, mut buffer, mut turn) = (0u64, 0usize, 0usize);
        for _ in 0..bursts {
            let mut buffers = [0usize; BURST];
            for at in &mut buffers {
                *at = buffer;
                buffer = (buffer + 1) & (BUFFERS - 1);
                let flow = self.order[turn] as usize;
                turn = if turn + 1 == self.order.len() { 0 } else { turn + 1 };
                self.pool[*at][HEADROOM..HEADROOM + FRAME].copy_from_slice(&self.templates[flow]);
            }
            spent += self.burst(&buffers);
        }
        spent as f64 / (bursts * BURST) as f64
    }

    #[inline(never)]
    fn burst(&mut self, buffers: &[usize; BURST]) -> u64 {
        let mut keys = [(0u64, 0u64); BURST];
        let mut homes = [0usize; BURST];
        let mut found = [0usize; BURST];
        let slots: &[Slot] = &self.slots;
        let entries: &mut [Rewrite] = &mut self.entries;
        let pool: &mut [Buffer] = &mut self.pool;
        let mask = slots.len() - 1;
        let start = cycles();
        for i in 0..BURST {
            let packet = pool[buffers[i]][HEADROOM..].first_chunk().unwrap_or(&[0; FRAME]);
            keys[i] = five_tuple(packet);
            homes[i] = hash(keys[i]) & mask;
            prefetch(&slots[homes[i]]);
        }
        for i in 0..BURST {
            let mut at = homes[i];
            loop {
                let slot = &slots[at & mask];
                if slot[2] == 0 {
                    break;
                }
                if (slot[0], slot[1]) == keys[i] {
                    found[i] = slot[2] as usize;
                    let entry = &entries[found[i]];
                    prefetch(entry);
                    prefetch(&entry[64]);
                    break;
                }
                at += 1;
            }
        }
        for i in 0..BURST {
            if let Some(frame) = pool[buffers[i]][HEADROOM - VXLAN_BYTES..].first_chunk_mut() {
                rewrite(frame, &mut entries[found[i]], start);
            }
        }
        cycles() - start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_is_rewritten_and_counted() {
        let mut limit = Limit::new(100).unwrap();
        limit.run(25);
        let packets: u64 = (1..=100).map(|i| word(&limit.entries[i], COUNTERS)).sum();
        assert_eq!(packets, 25 * 64);
        let first = limit.order[0] as usize;
        let packet = &limit.pool[0][HEADROOM..HEADROOM + FRAME];
        assert_eq!(packet[22], 63);
        assert_eq!(packet[26..30], (first as u32).to_ne_bytes());
    }
}
