//! A worker's part in a port that several workers share.

use std::os::fd::RawFd;

use super::poller::{Account, Poller, put_back};
use super::share::RING_PACKETS;
use super::way::Way;
use crate::drops::DropReason;
use crate::limits::{BURST_PACKETS_MAX, LARGE_FRAMES_TURN, LARGE_PACKETS_MAX};
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::{Handed, Port, PortCounters, PortInfo};
use crate::ring::Consumer;
use crate::time::Time;

/// Bursts that are taken from a worker's ring at once to be sent, so that the others have their turn.
const BURSTS_AT_ONCE: usize = 4;
/// The same where frames are cut that came whole: all that the ring holds, as what one turn received may become as much.
const BURSTS_AT_ONCE_CUT: usize = RING_PACKETS / BURST_PACKETS_MAX;

const _: () = assert!(LARGE_FRAMES_TURN * LARGE_PACKETS_MAX <= RING_PACKETS);

/// The port as one worker has it: receives what is this worker's, from its own queue and from all others who poll, and sends.
///
/// Packets of a connection come by one queue and go by one ring, and so stay in order. A ring that is full takes no more: the
/// packet is dropped and counted.
pub struct SharedPort {
    info: PortInfo,
    /// How many workers poll.
    pollers: usize,
    /// Its queue; none if there are fewer queues than workers.
    poller: Option<Poller>,
    /// What others received for this worker.
    arrivals: Vec<Consumer<Packet>>,
    /// Whose turn it is to be asked first.
    turn: usize,
    /// Who sends for it, if it has no queue.
    sender: Option<Way>,
    /// For whom it sends.
    clients: Vec<Consumer<Packet>>,
    account: Account,
    takes_whole: bool,
}

impl SharedPort {
    pub(super) fn new(
        (info, takes_whole): (&PortInfo, bool),
        pollers: usize,
        poller: Option<Poller>,
        arrivals: Vec<Consumer<Packet>>,
        sender: Option<Way>,
    ) -> Self {
        let (info, account) = (info.clone(), Account::default());
        let mut port = Self {
            info,
            pollers,
            poller,
            arrivals,
            turn: 0,
            sender,
            clients: Vec::new(),
            account,
            takes_whole,
        };
        port.describe();
        port
    }

    /// Sends what others give it.
    pub(super) fn serve(&mut self, clients: Vec<Consumer<Packet>>) {
        self.clients = clients;
    }

    fn describe(&mut self) {
        if let Some(poller) = &self.poller {
            self.info.clone_from(poller.device.info());
        }
        if self.pollers > 1 {
            self.info.description.push_str(&format!(", {} workers poll", self.pollers));
        }
    }

    /// The link's news.
    fn take_over_news(&mut self) {
        let Some(poller) = &self.poller else { return };
        let PortInfo { mac, mtu, link_up, .. } = *poller.device.info();
        let is_back = link_up && !self.info.link_up;
        (self.info.mac, self.info.mtu, self.info.link_up) = (mac, mtu, link_up);
        if is_back {
            self.describe();
        }
    }

    fn take_arrivals(&mut self, pool: &Pool, burst: &mut Burst) {
        let Self { arrivals, account, turn, .. } = self;
        let count = arrivals.len();
        let mut taken = 0;
        for at in 0..count {
            let from = &mut arrivals[(*turn + at) % count];
            taken += if pool.meets_large() { take_few_whole(from, burst) } else { from.pop_packets(burst) };
        }
        account.handed.rx_taken += taken as u64;
    }

    /// Nothing more will be received for this worker.
    fn has_received_all(&self) -> bool {
        self.poller.as_ref().is_none_or(Poller::is_over) && self.arrivals.iter().all(is_over)
    }
}

/// Takes what fits, and at most so many frames that are carried whole as may be cut in a turn. Returns how many.
fn take_few_whole(from: &mut Consumer<Packet>, burst: &mut Burst) -> usize {
    let (mut taken, mut whole) = (0, 0);
    while !burst.is_full() && whole < LARGE_FRAMES_TURN {
        let Some(packet) = from.pop() else { break };
        whole += usize::from(packet.is_whole());
        taken += 1;
        // There is room.
        let _ = burst.push(packet);
    }
    taken
}

/// Who pushes there has given all that it ever will.
fn is_over(from: &Consumer<Packet>) -> bool {
    from.is_abandoned() && from.is_empty()
}

impl Port for SharedPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        // In turns, so that neither can starve the other.
        self.turn = self.turn.wrapping_add(1);
        let is_first = self.turn.is_multiple_of(2);
        if is_first {
            self.take_arrivals(pool, burst);
        }
        if let Some(poller) = &mut self.poller {
            poller.rx(pool, now, burst, &mut self.account);
        }
        if !is_first {
            self.take_arrivals(pool, burst);
        }
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        let Self { poller, clients, account, sender, .. } = self;
        let Account { counters, handed, moved } = account;
        let Some(Poller { device, .. }) = poller else {
            if let (Some(sender), false) = (sender, burst.is_empty()) {
                sender.push(burst, pool, &mut handed.tx_given, &mut counters.tx_drops);
            }
            return;
        };
        device.tx(pool, now, burst);
        let bursts = if pool.meets_large() { BURSTS_AT_ONCE_CUT } else { BURSTS_AT_ONCE };
        for client in clients {
            let mut taken = Burst::new();
            for _ in 0..bursts {
                let count = client.pop_packets(&mut taken) as u64;
                if count == 0 {
                    break;
                }
                handed.tx_taken += count;
                *moved += count;
                device.tx(pool, now, &mut taken);
            }
        }
        self.take_over_news();
    }

    fn takes_whole(&self) -> bool {
        self.takes_whole
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        let Account { counters: own, handed, .. } = &self.account;
        let Some(poller) = &mut self.poller else { return own.clone() };
        let mut counters = poller.device.counters();
        // Of what the device gave, that went to no worker.
        let kept = own.rx_drops.total() - handed.rx_dropped + poller.keeps() as u64;
        counters.rx_packets = (counters.rx_packets + own.rx_copied).saturating_sub(kept);
        counters.add(own);
        counters
    }

    fn handed(&self) -> Handed {
        self.account.handed
    }

    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.account.moved)
    }

    fn finish(&mut self) {
        if let Some(poller) = &mut self.poller {
            poller.finish(&mut self.account);
        }
    }

    fn is_finished(&self) -> bool {
        self.has_received_all() && self.clients.iter().all(is_over)
    }

    /// Clients may be there still: they end when this worker does, if one thread runs both.
    fn exhausted(&self) -> bool {
        self.poller.as_ref().is_none_or(|poller| poller.device.exhausted())
            && self.has_received_all()
            && self.clients.iter().all(Consumer::is_empty)
    }

    fn is_source(&self) -> bool {
        self.poller.as_ref().is_none_or(|poller| poller.device.is_source())
    }

    fn next_timestamp(&self) -> Option<Time> {
        self.poller.as_ref()?.device.next_timestamp()
    }

    fn failure(&self) -> Option<&str> {
        self.poller.as_ref()?.device.failure()
    }

    fn buffered(&self) -> u64 {
        self.poller.as_ref().map_or(0, |poller| poller.device.buffered())
    }

    fn has_to_send(&self) -> bool {
        self.buffered() > 0 || self.clients.iter().any(|client| !client.is_empty())
    }

    fn is_pending(&self) -> bool {
        self.poller.as_ref().is_some_and(|poller| poller.device.is_pending() || poller.waits() > 0)
    }

    fn has_arrived(&self) -> bool {
        self.arrivals.iter().chain(&self.clients).any(|from| !from.is_empty())
            || self.poller.as_ref().is_some_and(Poller::has_arrived)
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.poller.as_ref()?.device.wait_fd()
    }

    fn close(&mut self, mut pool: Option<&mut Pool>) {
        let Self { poller, arrivals, clients, sender, account, .. } = self;
        let mut rest = Burst::new();
        // Others did not end in time: nobody works on this any more.
        for from in arrivals.drain(..) {
            let mut from = from;
            while from.pop_packets(&mut rest) > 0 {
                let count = rest.len() as u64;
                account.counters.rx_drops.count_many(DropReason::Shutdown, count);
                account.handed.rx_taken += count;
                account.handed.rx_dropped += count;
                put_back(&mut rest, pool.as_deref_mut());
            }
        }
        // Nor does anybody send this.
        for from in clients.drain(..) {
            let mut from = from;
            while from.pop_packets(&mut rest) > 0 {
                let count = rest.len() as u64;
                account.handed.tx_taken += count;
                account.counters.tx_drops.count_many(DropReason::Shutdown, count);
                put_back(&mut rest, pool.as_deref_mut());
            }
        }
        if let Some(sender) = sender {
            let Account { counters, handed, .. } = account;
            sender.close(&mut handed.tx_given, &mut counters.tx_drops);
        }
        if let Some(poller) = poller {
            poller.close(pool, account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, PoolConfig};
    use crate::packet::Gso;
    use crate::ring::ring;

    #[test]
    fn few_whole_frames_are_taken_at_once_and_none_is_overtaken() {
        const WHOLE: usize = LARGE_FRAMES_TURN + 4;
        let arena = Arena::anonymous(4 << 20).unwrap();
        let mut pool = Pool::new(&arena, PoolConfig { frames: 128, frame_bytes: 320 }).unwrap();
        pool.add_large(&arena, WHOLE).unwrap();
        let (mut producer, mut consumer) = ring::<Packet>(256);
        // Lengths say the order: a frame that came whole, then others between those.
        for at in 0..2 * WHOLE + 80 {
            let is_whole = at < 2 * WHOLE && at % 2 == 0;
            let mut packet = if is_whole { pool.take_large().unwrap() } else { pool.take().unwrap() };
            packet.extend(at % 60 + 1).unwrap();
            if is_whole {
                packet.set_gso(Gso { kind: 1, size: 1 });
            }
            producer.push(packet).unwrap();
        }
        let (mut counts, mut next) = (Vec::new(), 0);
        loop {
            let mut burst = Burst::new();
            let taken = take_few_whole(&mut consumer, &mut burst);
            assert_eq!(taken, burst.len());
            if taken == 0 {
                break;
            }
            counts.push((taken, burst.iter().filter(|packet| packet.is_whole()).count()));
            for packet in burst.drain_all() {
                assert_eq!(packet.len(), next % 60 + 1);
                next += 1;
                pool.put(packet);
            }
        }
        let first = 2 * LARGE_FRAMES_TURN - 1;
        assert_eq!(counts[..2], [(first, LARGE_FRAMES_TURN), (BURST_PACKETS_MAX, 4)]);
        assert_eq!(next, 2 * WHOLE + 80);
    }
}
