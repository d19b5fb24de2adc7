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
    /// Packets in all. Those that wait for one kind of thing take three quarters of it at most.
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
    /// How many wait, by the kind of their token.
    by_kind: HashMap<u8, usize>,
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
        let alike = self.by_kind.entry(token.kind()).or_default();
        let before = self.waiting.get(&token).map_or(0, VecDeque::len);
        if self.count >= self.limits.total
            || *alike >= (self.limits.total * 3).div_ceil(4)
            || before >= self.limits.per_token
        {
            return Err(packet);
        }
        *alike += 1;
        self.count += 1;
        self.waiting.entry(token).or_default().push_back((packet, port));
        Ok(())
    }

    fn take(&mut self, token: HoldToken) -> VecDeque<(Packet, PortId)> {
        let queue = self.waiting.remove(&token).unwrap_or_default();
        if let Some(alike) = self.by_kind.get_mut(&token.kind()) {
            *alike -= queue.len();
        }
        queue
    }

    /// The packets of a token, in the order in which they came: they wait no more.
    pub fn discard(&mut self, token: HoldToken) -> VecDeque<(Packet, PortId)> {
        let queue = self.take(token);
        self.count -= queue.len();
        queue
    }

    /// The packets of a token stand in line for [`Self::take_ready`], in the order in which they came.
    pub fn release(&mut self, token: HoldToken) {
        let queue = self.take(token);
        self.ready.extend(queue);
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
        self.by_kind.clear();
        self.ready.drain(..).chain(self.waiting.drain().flat_map(|(_, queue)| queue)).collect()
    }

    /// Packets held.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, Pool, PoolConfig};

    /// What waits for one kind of thing leaves room for others, and gives its own back.
    #[test]
    fn no_kind_takes_all_the_room() {
        let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(64)).unwrap();
        let mut holds = Holds::new(HoldLimits { per_token: 2, total: 8 });
        let mut keep = |holds: &mut Holds, kind: u64, id: u64| {
            let kept = holds.keep(HoldToken(kind << 56 | id), pool.take().unwrap(), PortId(0));
            kept.map_err(|packet| pool.put(packet)).is_ok()
        };
        let kept = (0..20).filter(|id| keep(&mut holds, 2, id / 3)).count();
        assert_eq!(kept, 6);
        assert!(keep(&mut holds, 1, 0) && keep(&mut holds, 1, 1) && !keep(&mut holds, 1, 2));
        assert_eq!(holds.discard(HoldToken(2 << 56)).len(), 2);
        assert!(keep(&mut holds, 2, 9));
        holds.release(HoldToken(2 << 56 | 1));
        assert!(keep(&mut holds, 2, 10), "who was released waits no more");
        assert_eq!((holds.count(), holds.discard_all().len(), holds.count()), (8, 8, 0));
    }
}
