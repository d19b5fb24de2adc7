//! The port to the host stack: what is for the data plane's own addresses leaves by it, and what the data plane says itself
//! enters by it.
//!
//! Its other end is a thread of the control plane, which may stall, panic and be started again at any time. So frames are copied
//! into bounded rings and out of them, and no buffer of the data plane is ever with that thread: whatever becomes of it, a full
//! ring is a counted drop, and the pool stays whole. A thread that takes over connects anew, with rings of its own.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{MacAddress, Port, PortCounters, PortInfo};
use crate::drops::DropReason;
use crate::handoff::Waker;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::ring::{Consumer, Producer, ring};
use crate::time::Time;
use arrayvec::ArrayVec;

/// Largest IP packet in bytes that passes.
pub const HOST_MTU: u16 = 1_500;
/// Longest frame: with its Ethernet header.
pub const HOST_FRAME_BYTES: usize = HOST_MTU as usize + 14;
/// Frames that are on their way at most, in each direction.
const RING_FRAMES: usize = 512;

/// A frame between the data plane and its host stack, from the Ethernet header on.
pub type HostFrame = ArrayVec<u8, HOST_FRAME_BYTES>;

/// The port's ends of the rings.
struct Ends {
    to: Producer<HostFrame>,
    from: Consumer<HostFrame>,
    host: Waker,
}

struct Shared {
    /// How often somebody connected. The port looks at it in each turn, and takes the lock when it has changed.
    version: AtomicU64,
    offered: Mutex<Option<Ends>>,
    /// Wakes the worker that polls the port.
    worker: Waker,
}

/// The port.
pub struct HostPort {
    info: PortInfo,
    shared: Arc<Shared>,
    seen: u64,
    ends: Option<Ends>,
    counters: PortCounters,
}

/// The way to connect to a port. Copies lead to the same one.
#[derive(Clone)]
pub struct HostAccess {
    shared: Arc<Shared>,
    mac: MacAddress,
}

impl std::fmt::Debug for HostAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAccess").field("mac", &self.mac).finish_non_exhaustive()
    }
}

/// The host stack's end of a port.
pub struct HostLink {
    from: Consumer<HostFrame>,
    to: Producer<HostFrame>,
    worker: Waker,
    mac: MacAddress,
}

impl HostPort {
    /// A port that nobody has connected to, and the way to do so. Without anybody who has that way it is exhausted.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(name: &str, mac: MacAddress) -> std::io::Result<(Self, HostAccess)> {
        let description = "the data plane's own addresses".to_owned();
        let info = PortInfo { name: name.to_owned(), description, mac, mtu: HOST_MTU, link_up: true };
        let (version, offered) = (AtomicU64::new(0), Mutex::new(None));
        let shared = Arc::new(Shared { version, offered, worker: Waker::new()? });
        let access = HostAccess { shared: Arc::clone(&shared), mac };
        Ok((Self { info, shared, seen: 0, ends: None, counters: PortCounters::default() }, access))
    }

    /// Takes the ends of who connected last.
    #[inline]
    fn look(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen {
            self.take_ends(version);
        }
    }

    #[cold]
    fn take_ends(&mut self, version: u64) {
        // Who connects holds the lock for a move: the next turn will do.
        if let Ok(mut offered) = self.shared.offered.try_lock() {
            self.ends = offered.take().or_else(|| self.ends.take());
            self.seen = version;
        }
    }

    fn send(ends: Option<&mut Ends>, packet: &Packet) -> Result<(), DropReason> {
        let ends = ends.ok_or(DropReason::PuntRingFull)?;
        // Looked at first: of what finds no room no byte is copied.
        if ends.to.is_full() {
            return Err(DropReason::PuntRingFull);
        }
        let frame = HostFrame::try_from(packet.bytes()).map_err(|_| DropReason::TxFailed)?;
        ends.to.push(frame).map_err(|_| DropReason::PuntRingFull)
    }
}

impl Port for HostPort {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        self.look();
        self.shared.worker.awake();
        let Some(ends) = &mut self.ends else { return };
        while burst.room() > 0 && !ends.from.is_empty() {
            // Without a frame of the pool it stays in the ring.
            let Some(mut packet) = pool.take() else { return };
            let Some(frame) = ends.from.pop() else { return pool.put(packet) };
            if packet.set_contents(&frame).is_err() {
                self.counters.rx_drops.count(DropReason::BadLength);
                pool.tell_dropped(&frame, DropReason::BadLength);
                pool.put(packet);
                continue;
            }
            match burst.push(packet) {
                Ok(()) => {
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += frame.len() as u64;
                }
                Err(packet) => {
                    self.counters.rx_drops.count(DropReason::RingFull);
                    pool.discard(packet, DropReason::RingFull);
                }
            }
        }
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        if burst.is_empty() {
            return;
        }
        self.look();
        let before = self.counters.tx_packets;
        for packet in burst.iter() {
            match Self::send(self.ends.as_mut(), packet) {
                Ok(()) => {
                    self.counters.tx_packets += 1;
                    self.counters.tx_bytes += packet.len() as u64;
                }
                Err(reason) => {
                    self.counters.tx_drops.count(reason);
                    pool.tell_dropped(packet.bytes(), reason);
                }
            }
        }
        pool.put_all(burst);
        if let Some(ends) = self.ends.as_ref().filter(|_| self.counters.tx_packets > before) {
            ends.host.pushed();
        }
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn exhausted(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn wait_fd(&self) -> Option<RawFd> {
        let waits = || {
            self.seen != self.shared.version.load(Ordering::Acquire)
                || self.ends.as_ref().is_some_and(|ends| !ends.from.is_empty())
        };
        Some(self.shared.worker.sleep_on(waits))
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {
        self.ends = None;
        self.info.link_up = false;
    }
}

impl HostAccess {
    /// Whether both lead to the same port.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Connects to the port: from now on its frames come here, and no more go to whoever was connected before. `host` wakes who
    /// takes them.
    pub fn connect(&self, host: Waker) -> HostLink {
        let (to, theirs) = ring(RING_FRAMES);
        let (back, from) = ring(RING_FRAMES);
        *self.shared.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ends { to, from, host });
        self.shared.version.fetch_add(1, Ordering::Release);
        self.shared.worker.pushed();
        let (worker, mac) = (self.shared.worker.clone(), self.mac);
        HostLink { from: theirs, to: back, worker, mac }
    }
}

impl HostLink {
    /// The port's address.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The next frame that is for the data plane itself.
    pub fn receive(&mut self) -> Option<HostFrame> {
        self.from.pop()
    }

    /// True if frames wait.
    pub fn has_arrived(&self) -> bool {
        !self.from.is_empty()
    }

    /// True if nothing can be sent now.
    pub fn is_full(&mut self) -> bool {
        self.to.is_full()
    }

    /// Sends a frame; false if there is no room.
    pub fn send(&mut self, frame: HostFrame) -> bool {
        let sent = self.to.push(frame).is_ok();
        if sent {
            self.worker.pushed();
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, PoolConfig};

    const MAC: MacAddress = [2, 0, 0, 0, 0, 1];

    fn rig() -> (HostPort, HostAccess, Pool, Waker) {
        let arena = Arena::anonymous(4 << 20).unwrap();
        let (port, access) = HostPort::new("host", MAC).unwrap();
        (port, access, Pool::new(&arena, PoolConfig::new(512)).unwrap(), Waker::new().unwrap())
    }

    fn burst(pool: &mut Pool, frames: &[Vec<u8>]) -> Burst {
        let mut burst = Burst::new();
        for frame in frames {
            let mut packet = pool.take().unwrap();
            packet.set_contents(frame).unwrap();
            burst.push(packet).unwrap();
        }
        burst
    }

    #[test]
    fn frames_pass_both_ways_and_none_stays_with_the_host() {
        let (mut port, access, mut pool, waker) = rig();
        let mut link = access.connect(waker);
        let (longest, too_long) = (vec![7; HOST_FRAME_BYTES], vec![8; HOST_FRAME_BYTES + 1]);
        let mut sent = burst(&mut pool, &[vec![1; 60], longest.clone(), too_long]);
        port.tx(&mut pool, Time(0), &mut sent);
        assert_eq!(pool.available(), pool.capacity());
        assert_eq!(link.receive().unwrap()[..], [1; 60]);
        assert_eq!(link.receive().unwrap()[..], longest);
        assert!(link.receive().is_none());
        let counters = port.counters();
        assert_eq!((counters.tx_packets, counters.tx_drops.get(DropReason::TxFailed)), (2, 1));

        assert!(link.send(HostFrame::try_from(&longest[..]).unwrap()));
        let mut received = Burst::new();
        port.rx(&mut pool, Time(0), &mut received);
        assert_eq!(received.as_slice()[0].bytes(), longest);
        assert_eq!(port.counters().rx_packets, 1);
        pool.put_all(&mut received);
    }

    #[test]
    fn a_ring_that_nobody_empties_is_a_counted_drop_and_a_new_connection_begins_anew() {
        let (mut port, access, mut pool, waker) = rig();
        let mut give = |port: &mut HostPort, count: usize| {
            for _ in 0..count {
                let mut sent = burst(&mut pool, &[vec![1; 60]]);
                port.tx(&mut pool, Time(0), &mut sent);
            }
            assert_eq!(pool.available(), pool.capacity());
            port.counters()
        };
        let counters = give(&mut port, 3);
        assert_eq!((counters.tx_packets, counters.tx_drops.get(DropReason::PuntRingFull)), (0, 3));
        let mut stalled = access.connect(waker.clone());
        let counters = give(&mut port, RING_FRAMES + 5);
        assert_eq!(counters.tx_packets, RING_FRAMES as u64);
        assert_eq!(counters.tx_drops.get(DropReason::PuntRingFull), 3 + 5);
        let mut link = access.connect(waker);
        assert_eq!(give(&mut port, 1).tx_packets, RING_FRAMES as u64 + 1);
        assert!(link.receive().is_some() && link.receive().is_none());
        // The one that stalled may go on without harm.
        while stalled.receive().is_some() {}
        assert!(stalled.send(HostFrame::new()));
        let mut received = Burst::new();
        port.rx(&mut pool, Time(0), &mut received);
        assert!(received.is_empty());
    }

    #[test]
    fn without_frames_in_the_pool_what_the_host_sends_waits() {
        let (mut port, access, mut pool, waker) = rig();
        let mut link = access.connect(waker);
        assert!(link.send(HostFrame::try_from(&[1; 60][..]).unwrap()));
        let mut all: Vec<Packet> = std::iter::from_fn(|| pool.take()).collect();
        let mut received = Burst::new();
        port.rx(&mut pool, Time(0), &mut received);
        assert!(received.is_empty());
        pool.put(all.pop().unwrap());
        port.rx(&mut pool, Time(0), &mut received);
        assert_eq!(received.len(), 1);
        all.into_iter().chain(received.drain_all()).for_each(|packet| pool.put(packet));
    }

    #[test]
    fn it_is_exhausted_when_nobody_can_connect_any_more() {
        let (mut port, access, mut pool, waker) = rig();
        assert!(!port.exhausted());
        let link = access.connect(waker);
        drop(access);
        assert!(port.exhausted());
        drop(link);
        let mut received = Burst::new();
        port.rx(&mut pool, Time(0), &mut received);
        port.close(Some(&mut pool));
    }
}
