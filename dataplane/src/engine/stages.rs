//! Packet functions: what programs sent to logical ports is worked on, and walks on from there.

use super::Engine;
use crate::capture::Moment;
use crate::cut::CutBurst;
use crate::drops::DropReason;
use crate::limits::PORTS_MAX;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::PortId;
use crate::slow_path::SlowPath;
use crate::stage::Mark;
use crate::time::Time;

/// Bursts that are taken back in one turn from each stage that works apart.
const BURSTS_BACK: usize = 4;
/// Rounds through the stages in one turn, before packets that still circle are dropped.
const ROUNDS_MAX: usize = 128;

impl<S: SlowPath> Engine<S> {
    /// Makes room for the logical ports that the slow path has now, and compiles their keys. What those had that are gone is freed: their
    /// numbers come again after all others.
    pub fn connect_stages(&mut self) {
        for at in 0..self.slow.logical_ports().len() {
            let Some(&port) = self.slow.logical_ports().get(at) else { break };
            self.compile_schema(port);
        }
        for (at, schema) in self.schemas.iter_mut().enumerate().skip(PORTS_MAX) {
            let port = PortId(at as u16);
            if schema.is_some() && !self.slow.logical_ports().contains(&port) {
                *schema = None;
                self.outputs.close(port);
            }
        }
    }

    /// Works on what waits at logical ports, until nothing does: what a stage lets through walks the next segment. Bounded, should
    /// segments form a loop. Returns the packets that came back from stages that work apart.
    pub fn run_stages(&mut self, pool: &mut Pool, now: Time) -> usize {
        let returned = self.take_returned(pool, now);
        self.work(pool, now);
        returned
    }

    fn work(&mut self, pool: &mut Pool, now: Time) {
        for _ in 0..ROUNDS_MAX {
            let mut any = false;
            for at in 0..self.slow.logical_ports().len() {
                let Some(&port) = self.slow.logical_ports().get(at) else { break };
                any |= self.run_stage(port, pool, now);
            }
            if !any {
                return;
            }
        }
        for at in 0..self.slow.logical_ports().len() {
            let Some(&port) = self.slow.logical_ports().get(at) else { break };
            let mut rest = self.outputs.take_back(port);
            for packet in rest.drain_all() {
                self.outputs.drop_packet(packet, DropReason::LoopLimit, pool);
            }
        }
    }

    fn run_stage(&mut self, port: PortId, pool: &mut Pool, now: Time) -> bool {
        if self.outputs.burst(port).is_none_or(|burst| burst.is_empty()) {
            return false;
        }
        let mut burst = self.outputs.take_back(port);
        if pool.meets_large() && burst.iter().any(Packet::is_whole) {
            let (mut rest, mut ready) = (CutBurst::new(burst), Burst::new());
            while rest.fill(&mut ready, &mut self.outputs, pool) {
                self.work_on(port, &mut ready, pool, now);
            }
        } else {
            self.work_on(port, &mut burst, pool, now);
        }
        true
    }

    fn work_on(&mut self, port: PortId, burst: &mut Burst, pool: &mut Pool, now: Time) {
        let Self { slow, outputs, dropped, .. } = self;
        match slow.stage(port) {
            Some(stage) => stage.work(port, burst, now, dropped),
            None => dropped.extend(burst.drain_all().map(|packet| (packet, DropReason::NoOutput))),
        }
        if let Some(recorder) = pool.recorder() {
            recorder.enter(Moment::Inside, Some(port), now);
        }
        for (packet, reason) in dropped.drain(..) {
            outputs.drop_packet(packet, reason, pool);
        }
        self.process_again(port, burst, pool, now);
    }

    /// Packets that come back walk on from where they went: so many of each stage, so that none waits for another.
    fn take_returned(&mut self, pool: &mut Pool, now: Time) -> usize {
        let mut returned = 0;
        for at in 0.. {
            for _ in 0..BURSTS_BACK {
                let (mut back, mut lost) = (Burst::new(), 0);
                if !self.slow.take_returned(at, &mut back, &mut lost) {
                    return returned;
                }
                self.outputs.sums.drops.count_many(DropReason::Shutdown, lost);
                if back.is_empty() {
                    break;
                }
                returned += back.len();
                self.walk_on(&mut back, pool, now);
            }
        }
        returned
    }

    /// Packets of a stage, each with its mark: neighbours of one port are a burst.
    fn walk_on(&mut self, back: &mut Burst, pool: &mut Pool, now: Time) {
        let (mut run, mut from) = (Burst::new(), PortId::default());
        for packet in back.drain_all() {
            match Mark::of(&packet) {
                Mark::Dropped(reason) => {
                    if let Some(recorder) = pool.recorder() {
                        recorder.enter(Moment::Inside, None, now);
                    }
                    self.outputs.drop_packet(packet, reason, pool);
                }
                Mark::On(port) => {
                    if port != from && !run.is_empty() {
                        self.process_again(from, &mut run, pool, now);
                    }
                    from = port;
                    if let Err(packet) = run.push(packet) {
                        self.outputs.drop_packet(packet, DropReason::TxQueueFull, pool);
                    }
                }
            }
        }
        if !run.is_empty() {
            self.process_again(from, &mut run, pool, now);
        }
    }

    /// Nobody waits for what is under way any more: it is dropped.
    pub(super) fn close_stages(&mut self) {
        let lost = self.slow.close_stages();
        self.outputs.sums.drops.count_many(DropReason::Shutdown, lost);
    }
}
