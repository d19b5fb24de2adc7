//! What the firewall remembers in a session: which rule admitted it, under which version of the rules, between which zones.

use super::slots::RuleSlot;
use crate::zone::ZoneId;

/// The zone of a destination without a route: no rule can name it.
pub(super) const NOWHERE: ZoneId = ZoneId(u8::MAX - 1);

/// Bits of a version.
const VERSION_BITS: u32 = 23;
/// Bits of a zone.
const ZONE_BITS: u32 = 4;
/// The zone does not fit its bits, or is not known.
const ZONE_UNKNOWN: u64 = 15;
const ZONE_NOWHERE: u64 = 14;
const ZONE_LOCAL: u64 = 13;
const FROM_AT: u32 = VERSION_BITS;
const TO_AT: u32 = FROM_AT + ZONE_BITS;
const TURNS_BIT: u64 = 1 << (TO_AT + ZONE_BITS);

const _: () = assert!(TURNS_BIT == 1 << 31);

/// A version of the rules: changes with each change of them. One of 2^23 - 1, so that it repeats after two hours of a
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
    pub(super) rule: RuleSlot,
    pub(super) version: Version,
    /// The initiator's zone; none if it has no room here.
    pub(super) from: Option<ZoneId>,
    /// The zone that the initiator's first packet was bound for, as it named its destination; none if it has no room here.
    pub(super) to: Option<ZoneId>,
    /// It is a hairpin: each packet of it comes here twice, as it came and translated.
    pub(super) turns: bool,
}

const fn pack_zone(zone: Option<ZoneId>) -> u64 {
    match zone {
        Some(ZoneId::LOCAL) => ZONE_LOCAL,
        Some(NOWHERE) => ZONE_NOWHERE,
        Some(ZoneId(zone)) if (zone as u64) < ZONE_LOCAL => zone as u64,
        _ => ZONE_UNKNOWN,
    }
}

const fn unpack_zone(bits: u64) -> Option<ZoneId> {
    match bits & ZONE_UNKNOWN {
        ZONE_UNKNOWN => None,
        ZONE_NOWHERE => Some(NOWHERE),
        ZONE_LOCAL => Some(ZoneId::LOCAL),
        zone => Some(ZoneId(zone as u8)),
    }
}

impl Word {
    pub(super) fn unpack(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self {
            rule: RuleSlot::of((word >> 32) as u32),
            version: Version(word as u32 & ((1 << VERSION_BITS) - 1)),
            from: unpack_zone(word >> FROM_AT),
            to: unpack_zone(word >> TO_AT),
            turns: word & TURNS_BIT != 0,
        })
    }

    /// The rule alone.
    pub(super) fn rule_of(word: u64) -> Option<RuleSlot> {
        (word != 0).then_some(RuleSlot::of((word >> 32) as u32))
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.rule.bits()) << 32
            | if self.turns { TURNS_BIT } else { 0 }
            | pack_zone(self.to) << TO_AT
            | pack_zone(self.from) << FROM_AT
            | u64::from(self.version.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_they_are_given() {
        let version = Version((1 << VERSION_BITS) - 1);
        for zone in [Some(ZoneId(0)), Some(ZoneId(12)), Some(ZoneId::LOCAL), Some(NOWHERE), None] {
            for turns in [false, true] {
                let word = Word { rule: RuleSlot::DEFAULT, version, from: Some(ZoneId(1)), to: zone, turns };
                assert_eq!(Word::unpack(word.pack()), Some(word));
                let word = Word { from: zone, to: None, ..word };
                assert_eq!(Word::unpack(word.pack()), Some(word));
            }
        }
        let zone = Some(ZoneId(0));
        let first =
            Word { rule: RuleSlot::of(0), version: Version::FIRST, from: zone, to: zone, turns: false };
        assert_ne!(first.pack(), 0);
        assert_eq!(Word::unpack(first.pack()), Some(first));
        let far = Word { from: Some(ZoneId(13)), ..first };
        assert_eq!(Word::unpack(far.pack()), Some(Word { from: None, ..first }));
        assert_eq!(Word::unpack(0), None);
    }

    #[test]
    fn versions_are_never_zero() {
        assert_eq!(Version((1 << VERSION_BITS) - 1).next(), Version::FIRST);
    }
}
