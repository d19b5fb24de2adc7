//! What the first fragment of a datagram says of the later ones.
//!
//! Later fragments have no transport header; the ports of the first are kept for them, by addresses, identification and
//! protocol. Those that overtake their first wait for it, within the bounds of the hold queue. The table is bounded; the oldest
//! gives way.

use crate::headers::{Headers, Network};
use crate::walk::{HoldKind, hold_token};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{HoldToken, Wake};
use millrace_dataplane::time::Time;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// Most datagrams whose fragments are followed.
pub const DATAGRAMS_MAX: usize = 4096;
/// How long the ports of a datagram are kept (RFC 791 section 3.2 suggests 15 seconds for reassembly).
const KEEP: Duration = Duration::from_secs(15);
/// How long later fragments wait for their first.
const WAIT: Duration = Duration::from_secs(2);

/// What all fragments of a datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: u8,
    domain: u16,
    /// Where it came from: no other port's fragments belong to it.
    port: u16,
}

impl DatagramKey {
    /// The key of a fragment; none if it is not one.
    pub fn of(headers: &Headers, domain: u16, port: PortId) -> Option<Self> {
        let original = headers.original();
        if !original.is_fragment() {
            return None;
        }
        let (source, destination) = original.addresses()?;
        let identification = match &original.network {
            Network::V4(ip) => u32::from(ip.identification),
            Network::V6(ip) => ip.fragment?.identification,
            _ => return None,
        };
        Some(Self {
            source,
            destination,
            identification,
            protocol: original.protocol()?,
            domain,
            port: port.0,
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Known {
    /// The first fragment passed with these ports (of echo messages: the identifier, twice).
    Ports((u16, u16)),
    /// Later fragments wait for it.
    Awaited,
}

/// The datagrams in transit.
#[derive(Debug, Default)]
pub struct Fragments {
    datagrams: HashMap<DatagramKey, (Known, Time)>,
    queue: VecDeque<(Time, DatagramKey)>,
    tokens: RandomState,
}

impl Fragments {
    /// The token on which later fragments of a datagram wait.
    pub fn token(&self, key: &DatagramKey) -> HoldToken {
        hold_token(HoldKind::Fragment, self.tokens.hash_one(key))
    }

    /// The ports of a datagram whose first fragment passed.
    pub fn ports(&self, key: &DatagramKey) -> Option<(u16, u16)> {
        match self.datagrams.get(key) {
            Some((Known::Ports(ports), _)) => Some(*ports),
            _ => None,
        }
    }

    /// The first fragment passed; later ones that wait are woken.
    /// Where there is no room, the oldest datagram gives way.
    pub fn first_passed(
        &mut self,
        key: DatagramKey,
        ports: (u16, u16),
        now: Time,
        mut wake: impl FnMut(Wake),
    ) {
        let waited = matches!(self.datagrams.get(&key), Some((Known::Awaited, _)));
        self.insert(key, Known::Ports(ports), now, KEEP);
        if waited {
            wake(Wake::Release(self.token(&key)));
        }
        if self.datagrams.len() > DATAGRAMS_MAX {
            self.expire(now, 1, wake);
        }
    }

    /// A later fragment came first and waits.
    pub fn await_first(&mut self, key: DatagramKey, now: Time) {
        if !self.datagrams.contains_key(&key) {
            self.insert(key, Known::Awaited, now, WAIT);
        }
    }

    fn insert(&mut self, key: DatagramKey, known: Known, now: Time, keep: Duration) {
        if self.datagrams.insert(key, (known, now + keep)).is_none() {
            self.queue.push_back((now + keep, key));
        }
    }

    /// Forgets what is over: at most `budget` datagrams. Waits that were in vain are reported.
    pub fn expire(&mut self, now: Time, budget: usize, mut wake: impl FnMut(Wake)) {
        for _ in 0..budget {
            let over = self.datagrams.len() > DATAGRAMS_MAX;
            match self.queue.front() {
                Some(&(deadline, key)) if over || deadline <= now => {
                    self.queue.pop_front();
                    match self.datagrams.get(&key) {
                        // The entry was renewed since it was queued.
                        Some(&(_, later)) if later > now && !over => self.queue.push_back((later, key)),
                        Some((Known::Awaited, _)) => {
                            self.datagrams.remove(&key);
                            wake(Wake::Discard(self.token(&key), DropReason::FragmentUnmatched));
                        }
                        Some(_) => {
                            self.datagrams.remove(&key);
                        }
                        None => {}
                    }
                }
                _ => return,
            }
        }
    }

    /// True if another datagram has no room until the timers ran.
    pub fn is_full(&self) -> bool {
        self.datagrams.len() >= DATAGRAMS_MAX
    }

    /// Datagrams now.
    pub fn count(&self) -> usize {
        self.datagrams.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identification: u32) -> DatagramKey {
        let address = IpAddr::from([10, 0, 0, 1]);
        DatagramKey {
            source: address,
            destination: address,
            identification,
            protocol: 17,
            domain: 0,
            port: 0,
        }
    }

    /// Between two slices of timers more first fragments may come than one slice forgets.
    #[test]
    fn a_flood_of_first_fragments_displaces_the_oldest() {
        let mut fragments = Fragments::default();
        let mut wakes = Vec::new();
        fragments.await_first(key(u32::MAX), Time(0));
        for identification in 0..3 * DATAGRAMS_MAX as u32 {
            fragments.first_passed(key(identification), (1, 2), Time(0), |wake| wakes.push(wake));
        }
        assert_eq!(fragments.count(), DATAGRAMS_MAX);
        assert!(fragments.queue.len() <= DATAGRAMS_MAX + 1);
        assert_eq!(fragments.ports(&key(0)), None);
        assert_eq!(fragments.ports(&key(3 * DATAGRAMS_MAX as u32 - 1)), Some((1, 2)));
        let token = fragments.token(&key(u32::MAX));
        assert_eq!(wakes, [Wake::Discard(token, DropReason::FragmentUnmatched)]);
    }
}
