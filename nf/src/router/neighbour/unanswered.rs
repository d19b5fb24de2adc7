//! The unanswered resolutions of an interface, parted fairly among those for whom they are (RFC 6583 section 7): a scan of a network,
//! for which most resolutions are never answered, takes no place that somebody else wants, unless the two can't be told apart: sources by
//! a hash into 256, those of IPv6 by their /64.
//!
//! Whoever has most gives way first: of the interfaces and families that packets came by, and within one of these of their sources. Only
//! who has as many as others waits until one of its own has missed its first answer, for a station that is there has answered by then.
//! Sources can be forged, interfaces can't: so a source takes nothing from another interface, however many names it has.

use super::{Asker, NeighbourId};
use crate::router::interface::InterfaceId;
use millrace_dataplane::time::Time;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Classes by interface and family; with more interfaces, some share one.
const CLASSES: usize = 64;
/// Sources that are told apart, by a keyed hash.
const SOURCES: usize = 256;

/// Who shares places with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Party {
    class: u8,
    source: u8,
}

impl Party {
    /// Of a packet that needs `target`. `hash` is keyed (R16). An IPv6 host has as many addresses as it likes in its /64.
    pub(super) fn of(asker: Asker, target: IpAddr, hash: impl Fn(InterfaceId, IpAddr) -> u64) -> Self {
        let source = match asker.source {
            Some(IpAddr::V6(source)) => Some(IpAddr::V6(Ipv6Addr::from_bits(source.to_bits() >> 64 << 64))),
            other => other,
        };
        let class = usize::from(asker.ingress.0) * 2 + usize::from(target.is_ipv6());
        let source = source.map_or(0, |source| hash(InterfaceId(0), source));
        Self { class: (class % CLASSES) as u8, source: (source % SOURCES as u64) as u8 }
    }
}

/// Whether there is a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// This one gives way.
    Displaces(NeighbourId),
    None,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: NeighbourId,
    since: Time,
    party: Party,
}

/// The unanswered resolutions of one interface, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Vec<Waiting>);

impl Unanswered {
    pub(super) fn push(&mut self, id: NeighbourId, party: Party, since: Time) {
        self.0.push(Waiting { id, since, party });
    }

    pub(super) fn remove(&mut self, id: NeighbourId) {
        self.0.retain(|waiting| waiting.id != id);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `party` may have one more of `most`. Costs a look at each if they are taken.
    pub(super) fn room(&self, party: Party, most: usize, now: Time, retransmit: Duration) -> Room {
        if self.0.len() < most {
            return Room::Free;
        }
        let mut classes = [0u16; CLASSES];
        self.0.iter().for_each(|it| classes[usize::from(it.party.class)] += 1);
        let largest = largest(&classes);
        let mine = classes[usize::from(party.class)];
        // By more than one: else two would take places from each other for ever.
        let takes = classes[largest] > mine + 1;
        let class = if takes { largest as u8 } else { party.class };
        let within = || self.0.iter().filter(move |it| it.party.class == class || (!takes && mine == 0));
        let mut sources = [0u16; SOURCES];
        within().for_each(|it| sources[usize::from(it.party.source)] += 1);
        let largest = self::largest(&sources);
        if takes || sources[largest] > sources[usize::from(party.source)] + 1 {
            let first = within().find(|it| usize::from(it.party.source) == largest);
            return first.map_or(Room::None, |it| Room::Displaces(it.id));
        }
        // Never of somebody who has less.
        match within().find(|it| sources[usize::from(it.party.source)] >= sources[usize::from(party.source)])
        {
            Some(oldest) if now >= oldest.since + retransmit => Room::Displaces(oldest.id),
            _ => Room::None,
        }
    }
}

fn largest(counts: &[u16]) -> usize {
    counts.iter().enumerate().max_by_key(|(_, count)| **count).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_that_has_nearly_all_takes_none_from_who_has_one() {
        let (scan, host) = (Party { class: 1, source: 7 }, Party { class: 1, source: 8 });
        let mut unanswered = Unanswered::default();
        unanswered.push(NeighbourId(0), host, Time::from_secs(1));
        (1..256).for_each(|id| unanswered.push(NeighbourId(id), scan, Time::from_secs(2)));
        let retransmit = Duration::from_secs(1);
        let room = |party, now| unanswered.room(party, 256, Time::from_secs(now), retransmit);
        assert_eq!(room(scan, 2), Room::None, "its own wait for their first answer still");
        assert_eq!(room(scan, 10), Room::Displaces(NeighbourId(1)), "the oldest of its own");
        assert_eq!(room(host, 2), Room::Displaces(NeighbourId(1)));
    }
}
