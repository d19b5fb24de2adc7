//! What the firewall remembers in a session: which rule admitted it, under which version of the rules, from which zone.

use super::rules::RuleId;
use crate::zone::ZoneId;

/// Bits of a version.
const VERSION_BITS: u32 = 28;
/// The zone does not fit its four bits, or is not known.
const ZONE_UNKNOWN: u8 = 15;

/// A version of the rules: changes with each change of them. One of 2^28 - 1, so that it repeats after three days of a
/// thousand changes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u32);

impl Version {
    /// The first.
    pub(super) const FIRST: Self = Self(1);

    /// The next one; never zero, so that a word never is.
    pub(super) const fn next(self) -> Self {
        let next = (self.0 + 1) & ((1 << VERSION_BITS) - 1);
        Self(if next == 0 { 1 } else { next })
    }
}

/// The firewall's word in a session. Zero, which is none, stands for a session that it never admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) rule: RuleId,
    pub(super) version: Version,
    /// The initiator's zone; none if it has no room here.
    pub(super) from: Option<ZoneId>,
}

impl Word {
    pub(super) fn unpack(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        let zone = (word >> VERSION_BITS) as u8 & ZONE_UNKNOWN;
        Some(Self {
            rule: RuleId((word >> 32) as u32),
            version: Version(word as u32 & ((1 << VERSION_BITS) - 1)),
            from: (zone != ZONE_UNKNOWN).then_some(ZoneId(zone)),
        })
    }

    pub(super) fn pack(self) -> u64 {
        let zone = self.from.map_or(ZONE_UNKNOWN, |zone| zone.0.min(ZONE_UNKNOWN));
        u64::from(self.rule.0) << 32 | u64::from(zone) << VERSION_BITS | u64::from(self.version.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_they_are_given() {
        let word = Word { rule: RuleId(u32::MAX), version: Version((1 << 28) - 1), from: Some(ZoneId(14)) };
        assert_eq!(Word::unpack(word.pack()), Some(word));
        let first = Word { rule: RuleId(0), version: Version::FIRST, from: Some(ZoneId(0)) };
        assert_ne!(first.pack(), 0);
        assert_eq!(Word::unpack(first.pack()), Some(first));
        let far = Word { from: Some(ZoneId::LOCAL), ..first };
        assert_eq!(Word::unpack(far.pack()), Some(Word { from: None, ..first }));
        assert_eq!(Word::unpack(0), None);
    }

    #[test]
    fn versions_are_never_zero() {
        assert_eq!(Version((1 << 28) - 1).next(), Version::FIRST);
    }
}
