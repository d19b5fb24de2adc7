//! Where packets go when a program ends: a burst for each port, and the counts that make the sums (R13).

use crate::drops::{DropCounters, DropReason};
use crate::limits::BURST_PACKETS_MAX;
use crate::memory::Pool;
use crate::packet::{Burst, Drain, Packet};
use crate::port::PortId;
use std::collections::VecDeque;

/// Most packets that wait for one port within a turn of the loop, beyond its burst.
const OVERFLOW_PACKETS_MAX: usize = 4096;
/// Packets that wait at an output before room is made for more.
const OVERFLOW_PACKETS_USUAL: usize = 64;

/// What came in, what was made, and what became of it. R13: `received + originated + copied` equals
/// `sent + dropped + consumed` plus what is buffered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Taken from ports.
    pub received: u64,
    /// Made by the slow path: answers, solicitations, probes.
    pub originated: u64,
    /// Copies for further outputs; and of a frame that was cut, its packets but one.
    pub copied: u64,
    /// Given to ports; what those dropped then is in their own counters.
    pub sent: u64,
    /// Ended in a function, or handed to the control plane.
    pub consumed: u64,
    /// Dropped, by reason.
    pub drops: DropCounters,
}

impl Sums {
    /// What entered minus what left: must equal what is buffered.
    pub fn balance(&self) -> i128 {
        i128::from(self.received) + i128::from(self.originated) + i128::from(self.copied)
            - i128::from(self.sent)
            - i128::from(self.consumed)
            - i128::from(self.drops.total())
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.originated += other.originated;
        self.copied += other.copied;
        self.sent += other.sent;
        self.consumed += other.consumed;
        self.drops.add(&other.drops);
    }
}

#[derive(Debug, Default)]
struct Output {
    burst: Burst,
    overflow: VecDeque<Packet>,
}

/// The outputs of one worker.
#[derive(Debug)]
pub struct Outputs {
    ports: Vec<Output>,
    /// The counts.
    pub sums: Sums,
    identification: u16,
    /// Packets that no output took; they are counted, and their frames go back at the end of the burst.
    refused: Vec<(Packet, DropReason)>,
}

impl Outputs {
    /// For ports 0 to `ports` - 1.
    pub fn new(ports: usize) -> Self {
        let mut outputs = Self {
            ports: Vec::new(),
            sums: Sums::default(),
            identification: 1,
            refused: Vec::with_capacity(BURST_PACKETS_MAX),
        };
        outputs.grow(ports);
        outputs
    }

    /// Makes room for ports up to `ports` - 1.
    pub fn grow(&mut self, ports: usize) {
        (self.ports.len()..ports).for_each(|port| self.open(PortId(port as u16)));
    }

    /// Makes room for what is sent to `port`.
    pub fn open(&mut self, port: PortId) {
        let at = usize::from(port.0);
        if self.ports.len() <= at {
            self.ports.resize_with(at + 1, Output::default);
        }
        self.ports[at].overflow.reserve(OVERFLOW_PACKETS_USUAL);
    }

    /// Frees what `port` has, if nothing waits there.
    pub fn close(&mut self, port: PortId) {
        if let Some(output) = self.ports.get_mut(usize::from(port.0)) {
            output.overflow.shrink_to_fit();
        }
    }

    /// The packet leaves by `port`.
    #[inline(always)]
    pub fn send(&mut self, port: PortId, packet: Packet) {
        match self.ports.get_mut(usize::from(port.0)) {
            Some(output) if output.overflow.is_empty() => {
                self.sums.sent += 1;
                if let Err(packet) = output.burst.push(packet) {
                    output.overflow.push_back(packet);
                }
            }
            _ => self.send_rarely(port, packet),
        }
    }

    /// True if there is such a port.
    #[inline(always)]
    pub fn has(&self, port: PortId) -> bool {
        usize::from(port.0) < self.ports.len()
    }

    /// The first packet of `drain` leaves by `port`, if there is room and none waits already. Whoever moves one so counts it in
    /// [`Sums::sent`].
    #[inline(always)]
    pub fn move_first(&mut self, port: PortId, drain: &mut Drain<'_>) -> bool {
        let Some(output) = self.ports.get_mut(usize::from(port.0)) else { return false };
        output.overflow.is_empty() && drain.move_first(&mut output.burst)
    }

    #[cold]
    fn send_rarely(&mut self, port: PortId, packet: Packet) {
        let reason = match self.ports.get_mut(usize::from(port.0)) {
            Some(output) if output.overflow.len() < OVERFLOW_PACKETS_MAX => {
                self.sums.sent += 1;
                return output.overflow.push_back(packet);
            }
            Some(_) => DropReason::TxQueueFull,
            None => DropReason::NoOutput,
        };
        self.sums.drops.count(reason);
        self.refused.push((packet, reason));
    }

    /// Gives back what no output took.
    #[inline]
    pub(crate) fn give_back_refused(&mut self, pool: &mut Pool) {
        for (packet, reason) in self.refused.drain(..) {
            pool.discard(packet, reason);
        }
    }

    /// A copy leaves by `port`.
    pub fn send_copy(&mut self, port: PortId, packet: &Packet, pool: &mut Pool) {
        self.sums.copied += 1;
        self.emit(port, packet.bytes(), pool);
    }

    /// A frame that the slow path made leaves by `port`.
    pub fn originate(&mut self, port: PortId, bytes: &[u8], pool: &mut Pool) {
        self.sums.originated += 1;
        self.emit(port, bytes, pool);
    }

    fn emit(&mut self, port: PortId, bytes: &[u8], pool: &mut Pool) {
        let Some(mut copy) = pool.take() else {
            self.sums.drops.count(DropReason::PoolExhausted);
            return pool.tell_dropped(bytes, DropReason::PoolExhausted);
        };
        match copy.set_contents(bytes) {
            Ok(()) => self.send(port, copy),
            Err(_) => self.drop_packet(copy, DropReason::TxFailed, pool),
        }
    }

    /// The packet is dropped.
    #[cold]
    pub fn drop_packet(&mut self, packet: Packet, reason: DropReason, pool: &mut Pool) {
        self.sums.drops.count(reason);
        pool.discard(packet, reason);
    }

    /// The packet ended in a function.
    pub fn consume(&mut self, packet: Packet, pool: &mut Pool) {
        self.sums.consumed += 1;
        pool.put(packet);
    }

    /// A fresh IPv4 identification.
    pub fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }

    /// The burst for `port`, to be sent. Call again until [`Self::refill`] says that nothing more waits.
    pub fn burst(&mut self, port: PortId) -> Option<&mut Burst> {
        self.ports.get_mut(usize::from(port.0)).map(|output| &mut output.burst)
    }

    /// Moves waiting packets into the empty burst of `port`; false if none waited.
    pub fn refill(&mut self, port: PortId) -> bool {
        let Some(output) = self.ports.get_mut(usize::from(port.0)) else { return false };
        while let Some(packet) = output.overflow.pop_front() {
            if let Err(packet) = output.burst.push(packet) {
                output.overflow.push_front(packet);
                break;
            }
        }
        !output.burst.is_empty()
    }

    /// What was sent to a logical port comes back, to be worked on: it is not sent.
    pub fn take_back(&mut self, port: PortId) -> Burst {
        let mut taken = Burst::new();
        if let Some(output) = self.ports.get_mut(usize::from(port.0)) {
            taken.append(&mut output.burst);
            self.sums.sent -= taken.len() as u64;
            self.refill(port);
        }
        taken
    }

    /// Drops what waits for a port that is gone.
    pub fn abandon(&mut self, port: PortId, pool: &mut Pool) {
        loop {
            let mut waiting = self.take_back(port);
            if waiting.is_empty() {
                return;
            }
            self.sums.drops.count_many(DropReason::TxFailed, waiting.len() as u64);
            pool.discard_all(&mut waiting, DropReason::TxFailed);
        }
    }

    /// Packets that wait to be given to a port: they are counted as sent, and not sent yet.
    pub fn waiting(&self) -> u64 {
        self.ports.iter().map(|output| (output.burst.len() + output.overflow.len()) as u64).sum()
    }
}
