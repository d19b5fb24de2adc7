//! From what a kernel hands over to packets as they would have been on a wire.

use std::collections::VecDeque;
use std::io;

use super::message::{Arrival, MESSAGES_MAX};
use super::slots::Slots;
use crate::drops::DropReason;
use crate::limits::LARGE_FRAMES_TURN;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::PortCounters;
use crate::port::offload::{Cut, VnetHeader, finish_checksum, insert_tag};

/// Frames that were received and are not delivered yet, and empty packets for the next ones.
#[derive(Debug)]
pub(in crate::port) struct Inbox {
    /// Empty packets, which the next frames are read into.
    posted: Vec<Packet>,
    received: VecDeque<Frame>,
    /// Where the ends of long frames lie; the place of a frame in a call is that of its slot.
    slots: Slots,
    arrivals: [Arrival; MESSAGES_MAX],
    /// Large frames delivered in this turn.
    whole: usize,
}

/// A received frame.
#[derive(Debug)]
struct Frame {
    packet: Packet,
    arrival: Arrival,
    slot: usize,
    /// How far it is cut, for a frame of several packets; it lies in the slot as a whole then.
    cut: Option<Cut>,
}

impl Inbox {
    /// `carries_whole`: frames of several packets are delivered as they are, where the pool has large frames for them.
    pub(in crate::port) fn new(carries_whole: bool) -> Self {
        Self {
            posted: Vec::with_capacity(MESSAGES_MAX),
            received: VecDeque::with_capacity(MESSAGES_MAX),
            slots: Slots::new(carries_whole),
            arrivals: [Arrival::default(); MESSAGES_MAX],
            whole: 0,
        }
    }

    /// Delivers what was received, and receives more by `receive` (which is given empty packets, slots and arrivals, and
    /// returns how many it filled) once nothing is left.
    ///
    /// # Errors
    /// Those of `receive`, but for "nothing there".
    pub(in crate::port) fn rx(
        &mut self,
        pool: &mut Pool,
        burst: &mut Burst,
        counters: &mut PortCounters,
        mut receive: impl FnMut(&mut [Packet], &mut Slots, &mut [Arrival]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.whole = 0;
        self.deliver(pool, burst, counters);
        while self.received.is_empty() && !burst.is_full() && self.whole < LARGE_FRAMES_TURN {
            let wanted = burst.room().min(self.slots.count());
            self.post(pool, wanted);
            self.slots.post(pool, wanted);
            let wanted = wanted.min(self.posted.len());
            if wanted == 0 {
                return Ok(());
            }
            let got = match receive(&mut self.posted[..wanted], &mut self.slots, &mut self.arrivals) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                    return Ok(());
                }
                other => other?,
            };
            for (slot, packet) in self.posted.drain(..got).enumerate() {
                let arrival = self.arrivals[slot];
                self.received.push_back(Frame { packet, arrival, slot, cut: None });
            }
            self.deliver(pool, burst, counters);
            if got < wanted {
                return Ok(());
            }
        }
        Ok(())
    }

    fn post(&mut self, pool: &mut Pool, count: usize) {
        while self.posted.len() < count {
            let Some(packet) = pool.take() else { return };
            self.posted.push(packet);
        }
    }

    fn deliver(&mut self, pool: &mut Pool, burst: &mut Burst, counters: &mut PortCounters) {
        // Large frames are to be sent while the caches still have them; and whoever cuts them has buffers for so many.
        while !burst.is_full() && self.whole < LARGE_FRAMES_TURN {
            let Some(mut frame) = self.received.pop_front() else { return };
            if frame.cut.is_none() {
                match frame.prepare(&mut self.slots) {
                    Ok(Ready::Packet) => {
                        put(frame.packet, burst, counters);
                        continue;
                    }
                    Ok(Ready::Whole(whole)) => {
                        self.whole += 1;
                        pool.put(frame.packet);
                        put(whole, burst, counters);
                        continue;
                    }
                    Ok(Ready::Cut) => {}
                    Ok(Ready::Nothing) => {
                        pool.put(frame.packet);
                        continue;
                    }
                    Err(reason) => {
                        counters.rx_drops.count(reason);
                        pool.discard(frame.packet, reason);
                        continue;
                    }
                }
            }
            if !frame.emit(&self.slots, pool, burst, counters) {
                // The burst or the pool is at its end: the rest waits for the next call.
                self.received.push_front(frame);
                return;
            }
            pool.put(frame.packet);
        }
    }

    /// Gives everything back: to `pool`, or each frame to its own. What waits here was never received for the worker.
    pub(in crate::port) fn close(&mut self, pool: Option<&mut Pool>) {
        let packets = self.posted.drain(..).chain(self.received.drain(..).map(|frame| frame.packet));
        let packets = packets.chain(self.slots.drain());
        match pool {
            Some(pool) => packets.for_each(|packet| pool.put(packet)),
            None => drop(packets),
        }
    }
}

/// What a frame turned out to be.
enum Ready {
    /// One packet, finished.
    Packet,
    /// Several packets, which go on as one.
    Whole(Packet),
    /// Several packets, which are to be cut.
    Cut,
    /// One that the machine sent itself: nobody's loss.
    Nothing,
}

impl Frame {
    fn prepare(&mut self, slots: &mut Slots) -> Result<Ready, DropReason> {
        let arrival = &self.arrival;
        if arrival.is_outgoing {
            return Ok(Ready::Nothing);
        }
        if arrival.is_cut_off {
            return Err(DropReason::BadLength);
        }
        let header = VnetHeader::parse(&arrival.header);
        if let Some(kind) = header.segmentation()? {
            // What lies in the packet belongs in front of what lies in the slot.
            let frame = slots.join(self.slot, self.packet.bytes(), arrival.length);
            let frame = frame.ok_or(DropReason::BadLength)?;
            let cut = Cut::plan(frame, &header, kind)?;
            let room = self.packet.len() + self.packet.tailroom();
            if cut.next_bytes().is_some_and(|bytes| bytes > room) {
                return Err(DropReason::BadLength);
            }
            if let Some(mut whole) = slots.take_whole(self.slot, arrival.length, &header, &cut) {
                return tag(&mut whole, arrival).map(|()| Ready::Whole(whole));
            }
            self.cut = Some(cut);
            return Ok(Ready::Cut);
        }
        if arrival.length > self.packet.len() {
            return Err(DropReason::BadLength);
        }
        finish_checksum(self.packet.bytes_mut(), &header)?;
        tag(&mut self.packet, arrival)?;
        Ok(Ready::Packet)
    }

    /// Cuts packets for as long as there is room and memory for them; true at the end.
    fn emit(
        &mut self,
        slots: &Slots,
        pool: &mut Pool,
        burst: &mut Burst,
        counters: &mut PortCounters,
    ) -> bool {
        let Some(cut) = &mut self.cut else { return true };
        // It was brought together when it was prepared.
        let Some(frame) = slots.joined(self.slot, self.arrival.length) else { return true };
        while let Some(bytes) = cut.next_bytes() {
            if burst.is_full() {
                return false;
            }
            let Some(mut packet) = pool.take() else { return false };
            let made = match packet.extend(bytes) {
                Ok(target) => {
                    cut.write_next(frame, target);
                    tag(&mut packet, &self.arrival)
                }
                Err(_) => Err(DropReason::BadLength),
            };
            match made {
                Ok(()) => put(packet, burst, counters),
                Err(reason) => {
                    counters.rx_drops.count(reason);
                    pool.discard(packet, reason);
                    return true;
                }
            }
        }
        true
    }
}

/// Puts back the tag that the kernel took out.
fn tag(packet: &mut Packet, arrival: &Arrival) -> Result<(), DropReason> {
    let Some((tpid, tci)) = arrival.tag else { return Ok(()) };
    insert_tag(packet, tpid, tci).map_err(|_| DropReason::NoHeadroom)
}

fn put(packet: Packet, burst: &mut Burst, counters: &mut PortCounters) {
    counters.rx_packets += 1;
    counters.rx_bytes += packet.len() as u64;
    // The caller saw that there is room.
    let _ = burst.push(packet);
}
