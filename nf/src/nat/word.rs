//! The word that the NAT keeps in a session: it leads straight to the mappings of both ends.

use super::index::ENTRIES_MAX;
use super::mapping::MappingId;

/// Which end of a session is translated by a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The initiator: source of its packets, destination of replies.
    Initiator,
    /// The responder: destination of the initiator's packets, source of replies.
    Responder,
}

impl End {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Initiator, Self::Responder];

    /// The end that sent a packet: of a reply, the responder.
    pub const fn sender(reply: bool) -> Self {
        if reply { Self::Responder } else { Self::Initiator }
    }

    /// The end that a packet goes to.
    pub const fn receiver(reply: bool) -> Self {
        Self::sender(!reply)
    }
}

/// A session's share in a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The mapping; it lives as long as the share.
    pub mapping: MappingId,
    /// Is the session's remote address recorded for filtering?
    pub recorded: bool,
}

/// In the half word of an end: the mapping's number plus one, and whether a contact is recorded.
const NUMBER: u32 = 0x7fff_ffff;
const RECORDED: u32 = 1 << 31;
const _: () = assert!(ENTRIES_MAX < NUMBER as usize, "each number has room");

/// The word: a half for each end, zero without a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// The share that translates an end.
    pub const fn share(self, end: End) -> Option<Share> {
        let half = match end {
            End::Initiator => self.0 as u32,
            End::Responder => (self.0 >> 32) as u32,
        };
        match half & NUMBER {
            0 => None,
            number => {
                Some(Share { mapping: MappingId::from_raw(number - 1), recorded: half & RECORDED != 0 })
            }
        }
    }

    /// With the share of an end.
    #[must_use]
    pub const fn with(self, end: End, share: Share) -> Self {
        let recorded = if share.recorded { RECORDED } else { 0 };
        let half = ((share.mapping.to_raw() + 1) | recorded) as u64;
        match end {
            End::Initiator => Self(self.0 & 0xffff_ffff_0000_0000 | half),
            End::Responder => Self(self.0 & 0x0000_0000_ffff_ffff | half << 32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_both_ends() {
        let share = |number, recorded| Share { mapping: MappingId::from_raw(number), recorded };
        let word = Word::default().with(End::Initiator, share(7, true)).with(End::Responder, share(0, false));
        assert_eq!(End::ALL.map(|end| word.share(end)), [Some(share(7, true)), Some(share(0, false))]);
        let last = share(ENTRIES_MAX as u32 - 1, true);
        let word = word.with(End::Initiator, last);
        assert_eq!(End::ALL.map(|end| word.share(end)), [Some(last), Some(share(0, false))]);
        assert_eq!(Word::default().share(End::Initiator), None);
        assert_eq!((End::sender(false), End::receiver(false)), (End::Initiator, End::Responder));
        assert_eq!((End::sender(true), End::receiver(true)), (End::Responder, End::Initiator));
    }
}
