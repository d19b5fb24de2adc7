//! A port that one worker polls for several.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Duration;

use super::place::{Place, Placed, WorkerId};
use super::remote::RemotePort;
use super::waker::Waker;
use crate::drops::DropReason;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::{Handed, Port, PortCounters, PortInfo};
use crate::ring::{Consumer, Producer, ring};
use crate::time::Time;

/// Packets that a ring between two workers holds: some bursts, so that an owner may be late by a sleep's end without loss.
pub const RING_PACKETS: usize = 1_024;
/// Bursts that are taken from a worker's ring at once to be sent, so that the others have their turn.
const BURSTS_AT_ONCE: usize = 4;
/// Most fragments of a port that wait for the first of their datagram.
const WAITING_MAX: usize = 64;
/// How long they wait.
const WAIT: Duration = Duration::from_secs(2);

/// The way to another worker and back.
struct Peer {
    worker: WorkerId,
    /// It owns connections.
    is_owner: bool,
    /// What is on its way into the ring.
    burst: Burst,
    to: Producer<Packet>,
    from: Consumer<Packet>,
    waker: Waker,
}

/// The port as the worker has it that polls it: receives, gives each packet to its owner, and sends what owners give back.
///
/// Packets of a connection take one way, by one ring, and so stay in order. A ring that is full takes no more: the packet is
/// dropped and counted.
pub struct SharedPort {
    device: Box<dyn Port>,
    place: Box<dyn Place>,
    worker: WorkerId,
    /// This worker owns connections, too.
    is_owner: bool,
    peers: Vec<Peer>,
    /// By worker, its place among the peers.
    place_of: Vec<Option<usize>>,
    waiting: VecDeque<(Time, Packet)>,
    /// Some of these have an owner since.
    is_told: bool,
    /// What is not in the device's counters: drops and copies.
    counters: PortCounters,
    handed: Handed,
    moved: u64,
    receives: bool,
}

/// A worker that takes part in a port.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub worker: WorkerId,
    /// Whether it owns connections, and so gets what is for everyone.
    pub is_owner: bool,
    /// How it is woken.
    pub waker: Waker,
}

/// Makes a port of `device` that `poller` polls, and the ports by which the `others` have their part in it.
pub fn share(
    device: Box<dyn Port>,
    place: Box<dyn Place>,
    poller: &Member,
    others: &[Member],
) -> (SharedPort, Vec<(WorkerId, RemotePort)>) {
    let mut peers = Vec::new();
    let mut remotes = Vec::new();
    for member in others {
        let (to, theirs) = ring(RING_PACKETS);
        let (back, from) = ring(RING_PACKETS);
        let remote = RemotePort::new(device.info(), theirs, back, poller.waker.clone());
        remotes.push((member.worker, remote));
        let Member { worker, is_owner, ref waker } = *member;
        peers.push(Peer { worker, is_owner, burst: Burst::new(), to, from, waker: waker.clone() });
    }
    let workers = peers.iter().map(|peer| usize::from(peer.worker.0) + 1).max().unwrap_or(0);
    let mut place_of = vec![None; workers];
    peers.iter().enumerate().for_each(|(at, peer)| place_of[usize::from(peer.worker.0)] = Some(at));
    let shared = SharedPort {
        device,
        place,
        worker: poller.worker,
        is_owner: poller.is_owner,
        peers,
        place_of,
        waiting: VecDeque::with_capacity(WAITING_MAX),
        is_told: false,
        counters: PortCounters::default(),
        handed: Handed::default(),
        moved: 0,
        receives: true,
    };
    (shared, remotes)
}

impl SharedPort {
    fn drop_received(&mut self, packet: Packet, reason: DropReason, pool: &mut Pool) {
        self.counters.rx_drops.count(reason);
        pool.put(packet);
    }

    /// The packet goes to its owner; into `burst` if that is this worker.
    fn give(&mut self, packet: Packet, now: Time, burst: &mut Burst, pool: &mut Pool) {
        match self.place.place(packet.bytes(), now) {
            Placed::Owner(worker) => self.give_to(worker, packet, burst, pool),
            Placed::Everyone => self.give_everyone(packet, burst, pool),
            Placed::Waits if self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back((now + WAIT, packet));
            }
            Placed::Waits => self.drop_received(packet, DropReason::FragmentUnmatched, pool),
        }
    }

    #[inline]
    fn give_to(&mut self, worker: WorkerId, packet: Packet, burst: &mut Burst, pool: &mut Pool) {
        let refused = if worker == self.worker {
            burst.push(packet).err()
        } else {
            match self.place_of.get(usize::from(worker.0)).copied().flatten() {
                Some(at) => {
                    if self.peers[at].burst.is_full() {
                        self.flush(at, pool);
                    }
                    self.peers[at].burst.push(packet).err()
                }
                None => Some(packet),
            }
        };
        if let Some(packet) = refused {
            self.drop_received(packet, DropReason::RingFull, pool);
        }
    }

    #[cold]
    fn give_everyone(&mut self, packet: Packet, burst: &mut Burst, pool: &mut Pool) {
        let mut owners: arrayvec::ArrayVec<WorkerId, 256> =
            self.peers.iter().filter(|peer| peer.is_owner).map(|peer| peer.worker).take(255).collect();
        if self.is_owner {
            owners.push(self.worker);
        }
        let last = owners.pop();
        for worker in owners {
            self.counters.rx_copied += 1;
            let Some(mut copy) = pool.take() else {
                self.counters.rx_drops.count(DropReason::PoolExhausted);
                continue;
            };
            match copy.set_contents(packet.bytes()) {
                Ok(()) => self.give_to(worker, copy, burst, pool),
                Err(_) => self.drop_received(copy, DropReason::BadLength, pool),
            }
        }
        match last {
            Some(worker) => self.give_to(worker, packet, burst, pool),
            None => self.drop_received(packet, DropReason::NoOutput, pool),
        }
    }

    /// Fragments that waited are placed again, and those that waited too long are dropped.
    #[cold]
    fn give_waiting(&mut self, now: Time, burst: &mut Burst, pool: &mut Pool) {
        self.is_told = false;
        for (until, packet) in std::mem::take(&mut self.waiting) {
            match self.place.place(packet.bytes(), now) {
                Placed::Owner(worker) if worker == self.worker && burst.is_full() => {
                    self.waiting.push_back((until, packet));
                    self.is_told = true;
                }
                Placed::Owner(worker) => self.give_to(worker, packet, burst, pool),
                _ if until <= now => self.drop_received(packet, DropReason::FragmentUnmatched, pool),
                _ => self.waiting.push_back((until, packet)),
            }
        }
    }

    /// Puts what is on its way to a peer into its ring.
    fn flush(&mut self, at: usize, pool: &mut Pool) {
        let peer = &mut self.peers[at];
        let pushed = peer.to.push_packets(&mut peer.burst) as u64;
        self.handed.rx_given += pushed;
        if pushed > 0 {
            peer.waker.pushed();
        }
        self.counters.rx_drops.count_many(DropReason::RingFull, peer.burst.len() as u64);
        pool.put_all(&mut peer.burst);
    }

    fn drop_waiting(&mut self, mut pool: Option<&mut Pool>) {
        for (_, packet) in self.waiting.drain(..) {
            self.counters.rx_drops.count(DropReason::Shutdown);
            match pool.as_deref_mut() {
                Some(pool) => pool.put(packet),
                None => drop(packet),
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_over = |peer: &Peer| peer.from.is_abandoned() && peer.from.is_empty();
        self.waiting.is_empty() && self.peers.iter().all(is_over)
    }
}

impl Port for SharedPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        if !self.receives {
            return self.drop_waiting(Some(pool));
        }
        if self.is_told || self.waiting.front().is_some_and(|(until, _)| *until <= now) {
            self.give_waiting(now, burst, pool);
        }
        let mut received = Burst::with_limit(burst.room());
        self.device.rx(pool, now, &mut received);
        let (count, own) = (received.len(), burst.len());
        for packet in received.drain_all() {
            self.give(packet, now, burst, pool);
        }
        self.is_told |= self.place.told();
        if self.is_told {
            self.give_waiting(now, burst, pool);
        }
        for at in 0..self.peers.len() {
            if !self.peers[at].burst.is_empty() {
                self.flush(at, pool);
            }
        }
        // What is in the burst is counted by the worker.
        self.moved += count.saturating_sub(burst.len() - own) as u64;
        if self.device.exhausted() && !self.is_told {
            self.finish();
        }
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.device.tx(pool, now, burst);
        let Self { peers, device, handed, moved, .. } = self;
        for peer in peers {
            let mut taken = Burst::new();
            for _ in 0..BURSTS_AT_ONCE {
                let count = peer.from.pop_packets(&mut taken) as u64;
                if count == 0 {
                    break;
                }
                handed.tx_taken += count;
                *moved += count;
                device.tx(pool, now, &mut taken);
            }
        }
    }

    fn info(&self) -> &PortInfo {
        self.device.info()
    }

    fn counters(&mut self) -> PortCounters {
        let mut counters = self.device.counters();
        // Of what the device gave, that went to no worker.
        let kept = self.counters.rx_drops.total() + self.waiting.len() as u64;
        counters.rx_packets = (counters.rx_packets + self.counters.rx_copied).saturating_sub(kept);
        counters.add(&self.counters);
        counters
    }

    fn handed(&self) -> Handed {
        self.handed
    }

    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    fn finish(&mut self) {
        if std::mem::take(&mut self.receives) {
            for peer in &mut self.peers {
                // The consumer finds what is in the ring, and that no more will come.
                peer.to = ring(1).0;
                peer.waker.pushed();
            }
        }
    }

    fn is_finished(&self) -> bool {
        !self.receives && self.is_over()
    }

    fn exhausted(&self) -> bool {
        self.device.exhausted() && self.is_over()
    }

    fn next_timestamp(&self) -> Option<Time> {
        self.device.next_timestamp()
    }

    fn failure(&self) -> Option<&str> {
        self.device.failure()
    }

    fn buffered(&self) -> u64 {
        self.device.buffered()
    }

    fn is_pending(&self) -> bool {
        self.device.is_pending() || !self.waiting.is_empty()
    }

    fn has_arrived(&self) -> bool {
        self.peers.iter().any(|peer| !peer.from.is_empty())
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.device.wait_fd()
    }

    fn close(&mut self, mut pool: Option<&mut Pool>) {
        self.finish();
        self.drop_waiting(pool.as_deref_mut());
        for peer in &mut self.peers {
            let mut taken = Burst::new();
            // Workers that ended late: nobody sends for them any more.
            while peer.from.pop_packets(&mut taken) > 0 {
                let count = taken.len() as u64;
                self.handed.tx_taken += count;
                self.counters.tx_drops.count_many(DropReason::Shutdown, count);
                match pool.as_deref_mut() {
                    Some(pool) => pool.put_all(&mut taken),
                    None => drop(taken.take(taken.len())),
                }
            }
        }
        self.device.close(pool);
    }
}
