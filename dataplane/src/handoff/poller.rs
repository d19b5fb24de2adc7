//! Receives from a queue of a port, and gives each packet to its owner.

use super::place::{Place, Placed, Told, WorkerId};
use super::share::Member;
use super::waiting::{By, Waiter, Waiting};
use super::waker::Waker;
use super::way::Way;
use crate::drops::DropReason;
use crate::limits::BURST_PACKETS_MAX;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::{Handed, Port, PortCounters};
use crate::ring::{Consumer, Producer};
use crate::time::Time;

/// Fragments of others that are placed in one turn.
const FRAGMENTS_AT_ONCE: usize = BURST_PACKETS_MAX / 2;

/// The way to another worker.
pub(super) struct Peer {
    worker: WorkerId,
    /// It owns connections.
    is_owner: bool,
    /// What is on its way into the ring.
    burst: Burst,
    way: Way,
}

impl Peer {
    pub(super) const fn new(member: &Member, way: Way) -> Self {
        Self { worker: member.worker, is_owner: member.is_owner, burst: Burst::new(), way }
    }
}

/// Another worker that polls the port: of the fragments whose owner none of them knows, each places its own part.
pub(super) struct Other {
    /// Those that are its to place.
    burst: Burst,
    way: Way,
    /// Whose they are.
    tells: Option<Producer<Told>>,
    waker: Waker,
    /// Those that it received, and that are to be placed here.
    from: Consumer<Packet>,
    told: Consumer<Told>,
}

impl Other {
    pub(super) const fn new(
        way: Way,
        tells: Producer<Told>,
        waker: Waker,
        from: Consumer<Packet>,
        told: Consumer<Told>,
    ) -> Self {
        Self { burst: Burst::new(), way, tells: Some(tells), waker, from, told }
    }

    fn is_over(&self) -> bool {
        self.from.is_abandoned() && self.from.is_empty()
    }
}

/// What a part in a port counts.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// What is not in the device's counters: drops and copies.
    pub(super) counters: PortCounters,
    pub(super) handed: Handed,
    /// Packets that went through without the worker's seeing them.
    pub(super) moved: u64,
}

impl Account {
    fn dropped(&mut self, by: By, reason: DropReason, count: u64) {
        self.counters.rx_drops.count_many(reason, count);
        if by == By::Other {
            self.handed.rx_dropped += count;
        }
    }
}

/// A worker's queue of a port.
pub(super) struct Poller {
    pub(super) device: Box<dyn Port>,
    place: Box<dyn Place>,
    worker: WorkerId,
    /// This worker owns connections, too.
    is_owner: bool,
    /// All other workers.
    peers: Vec<Peer>,
    /// By worker, its place among the peers.
    place_of: Vec<Option<usize>>,
    /// All who poll the port; none for this one.
    pollers: Vec<Option<Other>>,
    /// Fragments of this worker's part of the datagrams.
    waiting: Waiting,
    receives: bool,
    /// Peers know that no more will come.
    is_closed: bool,
}

impl Poller {
    pub(super) fn new(
        device: Box<dyn Port>,
        place: Box<dyn Place>,
        member: &Member,
        peers: Vec<Peer>,
        pollers: Vec<Option<Other>>,
    ) -> Self {
        let workers = peers.iter().map(|peer| usize::from(peer.worker.0) + 1).max().unwrap_or(0);
        let mut place_of = vec![None; workers];
        peers.iter().enumerate().for_each(|(at, peer)| place_of[usize::from(peer.worker.0)] = Some(at));
        Self {
            device,
            place,
            worker: member.worker,
            is_owner: member.is_owner,
            peers,
            place_of,
            pollers,
            waiting: Waiting::new(),
            receives: true,
            is_closed: false,
        }
    }

    pub(super) fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst, account: &mut Account) {
        if self.waiting.len() > 0 {
            self.look_after_waiting(now, burst, pool, account);
        }
        if self.receives {
            let mut received = Burst::with_limit(burst.room());
            self.device.rx(pool, now, &mut received);
            let (count, own) = (received.len(), burst.len());
            for packet in received.drain_all() {
                self.give(By::Us, packet, now, burst, pool, account);
            }
            self.flush(By::Us, pool, account);
            // What is in the burst is counted by the worker.
            account.moved += count.saturating_sub(burst.len() - own) as u64;
        }
        if self.pollers.len() > 1 {
            self.take_from_others(now, burst, pool, account);
        }
        if self.waiting.has_ready() {
            self.give_ready(burst, pool, account);
        }
        if self.receives && self.device.is_source() && self.device.exhausted() && !self.waiting.has_ready() {
            self.finish(account);
        }
        if !self.receives && !self.is_closed && !self.waiting.has_ready() && self.others_are_over() {
            self.drop_waiting(Some(pool), account);
            self.tell_peers(account);
        }
    }

    fn others(&mut self) -> impl Iterator<Item = &mut Other> {
        self.pollers.iter_mut().flatten()
    }

    /// The packet goes to its owner; into `burst` if that is this worker.
    #[inline]
    fn give(
        &mut self,
        by: By,
        packet: Packet,
        now: Time,
        burst: &mut Burst,
        pool: &mut Pool,
        account: &mut Account,
    ) {
        match self.place.place(packet.bytes(), now) {
            Placed::Owner(worker) => self.give_to(worker, by, packet, burst, pool, account),
            Placed::First(worker) => {
                self.tell();
                self.give_to(worker, by, packet, burst, pool, account);
            }
            Placed::Everyone => self.give_everyone(by, packet, burst, pool, account),
            Placed::Waits => self.wait(by, packet, now, pool, account),
        }
    }

    #[inline]
    fn give_to(
        &mut self,
        worker: WorkerId,
        by: By,
        packet: Packet,
        burst: &mut Burst,
        pool: &mut Pool,
        account: &mut Account,
    ) {
        let refused = if worker == self.worker {
            burst.push(packet).err()
        } else {
            match self.place_of.get(usize::from(worker.0)).copied().flatten() {
                Some(at) => {
                    if self.peers[at].burst.is_full() {
                        self.flush_one(at, by, pool, account);
                    }
                    self.peers[at].burst.push(packet).err()
                }
                None => Some(packet),
            }
        };
        if let Some(packet) = refused {
            account.dropped(by, DropReason::RingFull, 1);
            pool.discard(packet, DropReason::RingFull);
        }
    }

    #[cold]
    fn give_everyone(
        &mut self,
        by: By,
        packet: Packet,
        burst: &mut Burst,
        pool: &mut Pool,
        account: &mut Account,
    ) {
        let mut owners: arrayvec::ArrayVec<WorkerId, 256> =
            self.peers.iter().filter(|peer| peer.is_owner).map(|peer| peer.worker).take(255).collect();
        if self.is_owner {
            owners.push(self.worker);
        }
        // The first owner, who answers for all, gets the packet itself: it does without a frame.
        let Some(first) = owners.iter().copied().min() else {
            account.dropped(by, DropReason::NoOutput, 1);
            return pool.discard(packet, DropReason::NoOutput);
        };
        for worker in owners.into_iter().filter(|worker| *worker != first) {
            account.counters.rx_copied += 1;
            let Some(mut copy) = pool.take() else {
                account.dropped(By::Us, DropReason::PoolExhausted, 1);
                pool.tell_dropped(packet.bytes(), DropReason::PoolExhausted);
                continue;
            };
            match copy.set_contents(packet.bytes()) {
                Ok(()) => self.give_to(worker, by, copy, burst, pool, account),
                Err(_) => {
                    account.dropped(By::Us, DropReason::BadLength, 1);
                    pool.discard(copy, DropReason::BadLength);
                }
            }
        }
        self.give_to(first, by, packet, burst, pool, account);
    }

    /// Where the fragments of a datagram wait whose owner is not known: none if that is here.
    fn placed_by(&mut self, hash: u64) -> Option<&mut Other> {
        let at = (u128::from(hash) * self.pollers.len() as u128) >> 64;
        self.pollers.get_mut(at as usize).and_then(Option::as_mut)
    }

    /// The owner of the datagram of the last frame is known: who has fragments of it is told.
    #[cold]
    fn tell(&mut self) {
        let told = self.place.told();
        let Some(other) = self.placed_by(told.datagram.hash) else {
            return self.waiting.told(&told.datagram, told.owner);
        };
        // Where there is no room, its other fragments wait in vain and are counted.
        if other.tells.as_mut().is_some_and(|tells| tells.push(told).is_ok()) {
            other.waker.pushed();
        }
    }

    /// The owner of the last frame is not known here.
    #[cold]
    fn wait(&mut self, by: By, packet: Packet, now: Time, pool: &mut Pool, account: &mut Account) {
        let datagram = self.place.datagram();
        if by == By::Us
            && let Some(other) = self.placed_by(datagram.hash)
        {
            if let Err(packet) = other.burst.push(packet) {
                account.dropped(by, DropReason::RingFull, 1);
                pool.discard(packet, DropReason::RingFull);
            }
            return;
        }
        if by == By::Other {
            // Not yet taken, as it seems from outside.
            account.handed.rx_taken -= 1;
        }
        if let Some(oldest) = self.waiting.push(by, packet, datagram, now) {
            Self::drop_waiter(oldest, DropReason::FragmentUnmatched, Some(pool), account);
        }
    }

    fn drop_waiter(waiter: Waiter, reason: DropReason, pool: Option<&mut Pool>, account: &mut Account) {
        let Waiter { by, packet, .. } = waiter;
        account.handed.rx_taken += u64::from(by == By::Other);
        account.dropped(by, reason, 1);
        match pool {
            Some(pool) => pool.discard(packet, reason),
            None => drop(packet),
        }
    }

    /// What could not be given for want of room is given, and what waited too long is dropped.
    #[cold]
    fn look_after_waiting(&mut self, now: Time, burst: &mut Burst, pool: &mut Pool, account: &mut Account) {
        while let Some(late) = self.waiting.pop_late(now) {
            Self::drop_waiter(late, DropReason::FragmentUnmatched, Some(pool), account);
        }
        self.give_ready(burst, pool, account);
    }

    /// Fragments that waited go to their owners.
    #[cold]
    fn give_ready(&mut self, burst: &mut Burst, pool: &mut Pool, account: &mut Account) {
        for by in [By::Us, By::Other] {
            let own = self.worker;
            while let Some(waiter) = self.waiting.pop_ready(by, |worker| worker != own || !burst.is_full()) {
                account.handed.rx_taken += u64::from(by == By::Other);
                if let Some(worker) = waiter.owner {
                    self.give_to(worker, by, waiter.packet, burst, pool, account);
                }
            }
            self.flush(by, pool, account);
        }
    }

    /// What others who poll the port know and don't know.
    fn take_from_others(&mut self, now: Time, burst: &mut Burst, pool: &mut Pool, account: &mut Account) {
        let Self { pollers, place, waiting, .. } = self;
        for other in pollers.iter_mut().flatten() {
            while let Some(told) = other.told.pop() {
                place.learn(told, now);
                waiting.told(&told.datagram, told.owner);
            }
        }
        let mut taken = Burst::with_limit(burst.room().min(FRAGMENTS_AT_ONCE));
        for at in 0..self.pollers.len() {
            if let Some(other) = &mut self.pollers[at] {
                other.from.pop_packets(&mut taken);
            }
        }
        if taken.is_empty() {
            return;
        }
        account.handed.rx_taken += taken.len() as u64;
        account.moved += taken.len() as u64;
        for packet in taken.drain_all() {
            self.give(By::Other, packet, now, burst, pool, account);
        }
        self.flush(By::Other, pool, account);
    }

    /// Puts what is on its way into the rings. What does not fit was all received by the same.
    fn flush(&mut self, by: By, pool: &mut Pool, account: &mut Account) {
        for at in 0..self.peers.len() {
            if !self.peers[at].burst.is_empty() {
                self.flush_one(at, by, pool, account);
            }
        }
        let Account { counters, handed, .. } = account;
        for other in self.others().filter(|other| !other.burst.is_empty()) {
            other.way.push(&mut other.burst, pool, &mut handed.rx_given, &mut counters.rx_drops);
        }
    }

    fn flush_one(&mut self, at: usize, by: By, pool: &mut Pool, account: &mut Account) {
        let Account { counters, handed, .. } = account;
        let Peer { burst, way, .. } = &mut self.peers[at];
        let before = counters.rx_drops.total();
        way.push(burst, pool, &mut handed.rx_given, &mut counters.rx_drops);
        if by == By::Other {
            handed.rx_dropped += counters.rx_drops.total() - before;
        }
    }

    /// Nothing more is received; others who poll are told, and place what they have got.
    pub(super) fn finish(&mut self, account: &mut Account) {
        if !std::mem::take(&mut self.receives) {
            return;
        }
        let Account { counters, handed, .. } = account;
        for other in self.others() {
            other.way.close(&mut handed.rx_given, &mut counters.rx_drops);
            other.tells = None;
        }
        if self.others_are_over() {
            self.tell_peers(account);
        }
    }

    fn others_are_over(&self) -> bool {
        self.pollers.iter().flatten().all(Other::is_over)
    }

    /// No more will come.
    fn tell_peers(&mut self, account: &mut Account) {
        self.is_closed = true;
        let Account { counters, handed, .. } = account;
        self.peers.iter_mut().for_each(|peer| peer.way.close(&mut handed.rx_given, &mut counters.rx_drops));
    }

    /// It has given all that it ever will.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed && self.waits() == 0
    }

    /// Fragments that wait.
    pub(super) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Of these, those that it received itself.
    pub(super) fn keeps(&self) -> usize {
        self.waiting.own()
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.pollers.iter().flatten().any(|other| !other.from.is_empty() || !other.told.is_empty())
    }

    fn drop_waiting(&mut self, mut pool: Option<&mut Pool>, account: &mut Account) {
        while let Some(waiter) = self.waiting.pop() {
            Self::drop_waiter(waiter, DropReason::Shutdown, pool.as_deref_mut(), account);
        }
    }

    pub(super) fn close(&mut self, mut pool: Option<&mut Pool>, account: &mut Account) {
        self.finish(account);
        self.drop_waiting(pool.as_deref_mut(), account);
        let mut rest = Burst::new();
        // Others did not end in time.
        for other in self.pollers.iter_mut().flatten() {
            while other.from.pop_packets(&mut rest) > 0 {
                account.handed.rx_taken += rest.len() as u64;
                account.dropped(By::Other, DropReason::Shutdown, rest.len() as u64);
                put_back(&mut rest, pool.as_deref_mut());
            }
        }
        self.tell_peers(account);
        self.pollers.clear();
        self.device.close(pool);
    }
}

/// Gives frames back, by the slow way without a pool.
pub(super) fn put_back(burst: &mut Burst, pool: Option<&mut Pool>) {
    match pool {
        Some(pool) => pool.discard_all(burst, DropReason::Shutdown),
        None => drop(burst.take(burst.len())),
    }
}
