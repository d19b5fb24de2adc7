//! What sessions hold of the NAT: a slab of bindings, two at most for each session.
//!
//! A session's word names its bindings by place, so that a later packet, and the end of the session, find them without a
//! look-up. A binding keeps its place until its session ends; places are used again.

use super::state::Hold;
use millrace_dataplane::flow::session::SessionId;
use std::net::Ipv4Addr;

/// What a session holds of one inside host's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A share of a mapping of address and port.
    Mapped(Hold),
    /// Addresses alone, by a 1:1 rule, for a protocol whose ports the NAT does not know.
    Addresses {
        /// Inside address.
        inside: Ipv4Addr,
        /// External address.
        external: Ipv4Addr,
    },
}

/// Which end of a session a binding translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The initiator: source of its packets, destination of replies.
    Initiator,
    /// The responder: destination of the initiator's packets, source of replies.
    Responder,
}

impl End {
    /// The end that sent a packet: of a reply, the responder.
    pub const fn sender(reply: bool) -> Self {
        if reply { Self::Responder } else { Self::Initiator }
    }

    /// The end that a packet goes to.
    pub const fn receiver(reply: bool) -> Self {
        Self::sender(!reply)
    }
}

/// The word that the NAT keeps in a session: the places of the bindings of both ends, plus one; zero for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// The session could not get its binding: its packets are dropped until it has ended.
    pub const BROKEN: Self = Self(u64::MAX);

    /// The place of an end's binding.
    pub const fn place(self, end: End) -> Option<u32> {
        let half = match end {
            End::Initiator => self.0 as u32,
            End::Responder => (self.0 >> 32) as u32,
        };
        half.checked_sub(1)
    }

    /// With the place of an end's binding.
    #[must_use]
    pub const fn with(self, end: End, place: u32) -> Self {
        let half = place as u64 + 1;
        match end {
            End::Initiator => Self(self.0 & 0xffff_ffff_0000_0000 | half),
            End::Responder => Self(self.0 & 0x0000_0000_ffff_ffff | half << 32),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Used {
        binding: Binding,
        session: SessionId,
    },
    /// With the next free place.
    Free(Option<u32>),
}

/// Most bindings: two for each of the most sessions of a table.
const BINDINGS_MAX: usize = 2 * millrace_dataplane::flow::session::SESSIONS_MAX;
const _: () = assert!(BINDINGS_MAX < u32::MAX as usize - 1, "places plus one fit a half word");

/// The bindings of all sessions.
#[derive(Debug, Default)]
pub struct Bindings {
    slots: Vec<Slot>,
    free: Option<u32>,
    count: usize,
}

impl Bindings {
    /// With room for the bindings of `sessions` sessions of one translated end; it grows where there are more.
    pub fn with_capacity(sessions: usize) -> Self {
        Self { slots: Vec::with_capacity(sessions), free: None, count: 0 }
    }

    /// Keeps a binding for a session. None if no place is left, which the size of the session table excludes.
    pub fn insert(&mut self, binding: Binding, session: SessionId) -> Option<u32> {
        let used = Slot::Used { binding, session };
        let place = match self.free {
            Some(place) => {
                let slot = self.slots.get_mut(place as usize)?;
                if let Slot::Free(next) = *slot {
                    self.free = next;
                }
                *slot = used;
                place
            }
            None if self.slots.len() < BINDINGS_MAX => {
                self.slots.push(used);
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        self.count += 1;
        Some(place)
    }

    /// The binding at a place.
    pub fn get(&self, place: u32) -> Option<Binding> {
        match self.slots.get(place as usize)? {
            Slot::Used { binding, .. } => Some(*binding),
            Slot::Free(_) => None,
        }
    }

    /// Takes the binding at a place out.
    pub fn remove(&mut self, place: u32) -> Option<Binding> {
        let binding = self.get(place)?;
        self.slots[place as usize] = Slot::Free(self.free);
        self.free = Some(place);
        self.count -= 1;
        Some(binding)
    }

    /// The bindings at `places_max` places from `place` on, with their sessions, and where to go on, or none at the end.
    pub fn page(
        &self,
        place: usize,
        places_max: usize,
    ) -> (impl Iterator<Item = (Binding, SessionId)> + '_, Option<usize>) {
        let first = place.min(self.slots.len());
        let last = first.saturating_add(places_max.max(1)).min(self.slots.len());
        let rows = self.slots[first..last].iter().filter_map(|slot| match slot {
            Slot::Used { binding, session } => Some((*binding, *session)),
            Slot::Free(_) => None,
        });
        (rows, (last < self.slots.len()).then_some(last))
    }

    /// Bindings now.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(n: u32) -> Binding {
        Binding::Addresses { inside: n.into(), external: (n + 1).into() }
    }

    #[test]
    fn words_name_both_ends() {
        let word = Word::default().with(End::Initiator, 7).with(End::Responder, 0);
        assert_eq!((word.place(End::Initiator), word.place(End::Responder)), (Some(7), Some(0)));
        assert_eq!(word.with(End::Initiator, 8).place(End::Responder), Some(0));
        assert_eq!(Word::default().place(End::Initiator), None);
        assert_eq!((End::sender(false), End::receiver(false)), (End::Initiator, End::Responder));
        assert_eq!((End::sender(true), End::receiver(true)), (End::Responder, End::Initiator));
    }

    #[test]
    fn places_are_used_again_and_pages_show_each_once() {
        let mut slab = Bindings::with_capacity(2);
        let places: Vec<_> = (0..5).map(|n| slab.insert(binding(n), SessionId(n)).unwrap()).collect();
        assert_eq!(slab.remove(places[1]), Some(binding(1)));
        assert_eq!((slab.remove(places[1]), slab.get(places[1]), slab.get(99)), (None, None, None));
        assert_eq!(slab.remove(places[3]), Some(binding(3)));
        let again = [slab.insert(binding(8), SessionId(8)), slab.insert(binding(9), SessionId(9))];
        assert_eq!(again, [Some(places[3]), Some(places[1])]);
        assert_eq!(slab.len(), 5);
        let (mut seen, mut at) = (Vec::new(), Some(0));
        while let Some(place) = at {
            let (rows, next) = slab.page(place, 2);
            seen.extend(rows.map(|(_, session)| session.0));
            at = next;
        }
        assert_eq!(seen, [0, 9, 2, 8, 4]);
    }
}
