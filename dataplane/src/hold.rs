//! Packets that wait for something, a neighbour's address mostly: bounded in all and for each token. Those whose wait ended
//! stand in one line, in the order in which their tokens were released, until they walk again; they count as held until then.

use crate::packet::Packet;
use crate::port::PortId;
use crate::slow_path::HoldToken;
use std::collections::{HashMap, VecDeque};

/// Sizes of the waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Packets for one token. RFC 4861 section 7.2.2 asks for one at least.
    pub per_token: usize,
    /// Packets in all.
    pub total: usize,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { per_token: 16, total: 1024 }
    }
}

/// The packets that one worker holds.
#[derive(Debug, Default)]
pub struct Holds {
    waiting: HashMap<HoldToken, VecDeque<(Packet, PortId)>>,
    /// Released, to walk again.
    ready: VecDeque<(Packet, PortId)>,
    /// Both kinds.
    count: usize,
    limits: HoldLimits,
}

impl Holds {
    /// An empty waiting room.
    pub fn new(limits: HoldLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps a packet.
    ///
    /// # Errors
    /// The packet comes back if there is no room.
    pub fn keep(&mut self, token: HoldToken, packet: Packet, port: PortId) -> Result<(), Packet> {
        if self.count >= self.limits.total {
            return Err(packet);
        }
        let queue = self.waiting.entry(token).or_default();
        if queue.len() >= self.limits.per_token {
            return Err(packet);
        }
        queue.push_back((packet, port));
        self.count += 1;
        Ok(())
    }

    /// The packets of a token, in the order in which they came: they wait no more.
    pub fn discard(&mut self, token: HoldToken) -> VecDeque<(Packet, PortId)> {
        let queue = self.waiting.remove(&token).unwrap_or_default();
        self.count -= queue.len();
        queue
    }

    /// The packets of a token stand in line for [`Self::take_ready`], in the order in which they came.
    pub fn release(&mut self, token: HoldToken) {
        if let Some(queue) = self.waiting.remove(&token) {
            self.ready.extend(queue);
        }
    }

    /// The first packet in the line of those that were released.
    pub fn take_ready(&mut self) -> Option<(Packet, PortId)> {
        let first = self.ready.pop_front()?;
        self.count -= 1;
        Some(first)
    }

    /// Most packets that can wait.
    pub fn capacity(&self) -> usize {
        self.limits.total
    }

    /// The tokens for which a packet from one of `ports` waits.
    pub fn tokens_of(&self, ports: &[PortId]) -> Vec<HoldToken> {
        let from = |queue: &VecDeque<(Packet, PortId)>| queue.iter().any(|(_, port)| ports.contains(port));
        self.waiting.iter().filter(|(_, queue)| from(queue)).map(|(token, _)| *token).collect()
    }

    /// All packets.
    pub fn discard_all(&mut self) -> Vec<(Packet, PortId)> {
        self.count = 0;
        self.ready.drain(..).chain(self.waiting.drain().flat_map(|(_, queue)| queue)).collect()
    }

    /// Packets held.
    pub fn count(&self) -> usize {
        self.count
    }
}
