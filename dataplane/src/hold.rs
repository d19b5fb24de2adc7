//! Packets that wait for something, a neighbour's address mostly: bounded in all and for each token.

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

    /// The packets of a token, in the order in which they came.
    pub fn release(&mut self, token: HoldToken) -> VecDeque<(Packet, PortId)> {
        let queue = self.waiting.remove(&token).unwrap_or_default();
        self.count -= queue.len();
        queue
    }

    /// All packets.
    pub fn release_all(&mut self) -> Vec<(Packet, PortId)> {
        self.count = 0;
        self.waiting.drain().flat_map(|(_, queue)| queue).collect()
    }

    /// Packets held.
    pub fn count(&self) -> usize {
        self.count
    }
}
