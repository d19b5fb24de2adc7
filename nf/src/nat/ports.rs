//! The ports of one external address and protocol: two bits a port, 16 KiB.
//!
//! A port is free, taken or resting. A released port rests before it is free again, so that late packets
//! of the old mapping do not reach a new one (RFC 6888 section 3 REQ-8). Resting has two generations:
//! [`PortStates::rotate`] frees the older and ages the newer, so a port rests for one to two periods.
//! Resting ports are given out only when nothing else is free.
//!
//! Counts per range and parity say beforehand whether a search succeeds, so at most one search runs, and it
//! reads at most 1,008 words of two planes (16 KiB in order, about a microsecond; a few words while a
//! tenth of the ports is free).
//!
//! Every new mapping and every one that ends goes to a word that chance decides, so the words lie on the large pages of the
//! arena while it has room for them, and else on the heap.

use millrace_dataplane::memory::{Arena, ArenaSlice, prefetch};
use std::ops::{Deref, DerefMut};

/// Words of a plane.
const WORDS: usize = 65_536 / 64;
/// Words of the well-known ports.
const WORDS_WELL_KNOWN: usize = 1_024 / 64;
/// Even ports of a word; the odd ones are its complement.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// A bit per port; used for reserved ports.
pub type PortMask = [u64; WORDS];

/// A mask without a port.
pub fn empty_mask() -> Box<PortMask> {
    Box::new([0; WORDS])
}

/// Adds the ports `first..=last` to a mask.
pub fn mask_range(mask: &mut PortMask, first: u16, last: u16) {
    if first > last {
        return;
    }
    let (first_word, last_word) = (usize::from(first) / 64, usize::from(last) / 64);
    for (word, bits) in mask.iter_mut().enumerate().take(last_word + 1).skip(first_word) {
        let from = if word == first_word { u64::MAX << (first % 64) } else { u64::MAX };
        let to = if word == last_word { u64::MAX >> (63 - last % 64) } else { u64::MAX };
        *bits |= from & to;
    }
}

/// The ranges that RFC 4787 section 4.2.1 REQ-3a keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortRange {
    /// 0 to 1023.
    WellKnown,
    /// 1024 to 65535.
    Other,
}

impl PortRange {
    /// Both ranges, in the order of their counts.
    pub const ALL: [Self; 2] = [Self::WellKnown, Self::Other];

    /// The range of a port.
    pub const fn of(port: u16) -> Self {
        if port < 1_024 { Self::WellKnown } else { Self::Other }
    }

    const fn words(self) -> std::ops::Range<usize> {
        match self {
            Self::WellKnown => 0..WORDS_WELL_KNOWN,
            Self::Other => WORDS_WELL_KNOWN..WORDS,
        }
    }
}

/// One word of both planes. Low and high bit together: 00 free, 01 resting since the generation before,
/// 10 resting since this generation, 11 taken or reserved.
#[derive(Clone, Copy, Debug)]
struct Word {
    low: u64,
    high: u64,
}

/// A word in memory: low, high.
type Pair = [u64; 2];

impl Word {
    #[inline]
    const fn of([low, high]: Pair) -> Self {
        Self { low, high }
    }

    const fn free(self) -> u64 {
        !(self.low | self.high)
    }

    const fn taken(self) -> u64 {
        self.low & self.high
    }

    const fn resting(self) -> u64 {
        self.low ^ self.high
    }
}

/// Ports by range and parity (even, odd).
type Counts = [[u16; 2]; 2];

/// Both planes.
#[derive(Debug)]
enum Planes {
    /// One element.
    Arena(ArenaSlice<[Pair; WORDS]>),
    Heap(Box<[Pair; WORDS]>),
}

impl Planes {
    /// All ports free.
    fn new(arena: Option<&Arena>) -> Self {
        match arena.map(|arena| ArenaSlice::zeroed(arena, 1)) {
            Some(Ok(planes)) => Self::Arena(planes),
            _ => Self::Heap(Box::new([[0; 2]; WORDS])),
        }
    }
}

impl Deref for Planes {
    type Target = [Pair; WORDS];

    #[inline]
    fn deref(&self) -> &[Pair; WORDS] {
        match self {
            Self::Arena(planes) => &planes[0],
            Self::Heap(planes) => planes,
        }
    }
}

impl DerefMut for Planes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Pair; WORDS] {
        match self {
            Self::Arena(planes) => &mut planes[0],
            Self::Heap(planes) => planes,
        }
    }
}

/// The states of 65,536 ports. Port 0 is always reserved.
#[derive(Debug)]
pub struct PortStates {
    planes: Planes,
    free: Counts,
    resting: Counts,
}

impl PortStates {
    /// Bytes that the states of one address and protocol take from the arena.
    pub const BYTES: usize = WORDS * size_of::<Pair>();

    /// All ports free, but port 0 and those in `reserved`. They lie in the arena, if there is one with room.
    pub fn new(reserved: &PortMask, arena: Option<&Arena>) -> Self {
        let mut planes = Planes::new(arena);
        for (pair, &bits) in planes.iter_mut().zip(reserved) {
            *pair = [bits; 2];
        }
        planes[0] = planes[0].map(|bits| bits | 1);
        let mut states = Self { planes, free: [[0; 2]; 2], resting: [[0; 2]; 2] };
        states.recount();
        states
    }

    /// The same once more.
    pub fn copy(&self, arena: Option<&Arena>) -> Self {
        let mut planes = Planes::new(arena);
        *planes = *self.planes;
        Self { planes, free: self.free, resting: self.resting }
    }

    /// The word of a port.
    #[inline]
    fn word_of(&self, port: u16) -> Word {
        Word::of(self.planes[usize::from(port) / 64])
    }

    /// Ports of `range` that are not taken: free or resting.
    pub fn available(&self, range: PortRange) -> u32 {
        [self.free, self.resting].iter().flat_map(|c| c[range as usize]).map(u32::from).sum()
    }

    /// Is `port` taken or reserved?
    pub fn is_taken(&self, port: u16) -> bool {
        self.word_of(port).taken() >> (port % 64) & 1 == 1
    }

    /// Does any port rest?
    pub fn any_resting(&self) -> bool {
        self.resting.iter().flatten().any(|&count| count > 0)
    }

    /// A port of `range` that is not taken, looked for from a place that `random` decides; `None` exactly
    /// if all are taken. A free one if there is any, else one that rests; among those of one kind one
    /// with the parity of `like`, if given and possible.
    pub fn find(&self, range: PortRange, like: Option<u16>, random: u64) -> Option<u16> {
        for (resting, counts) in [(false, &self.free), (true, &self.resting)] {
            let counts = counts[range as usize];
            let Some(like) = like else {
                if counts != [0, 0] {
                    return self.search(range, u64::MAX, resting, random);
                }
                continue;
            };
            let like = usize::from(like % 2);
            for parity in [like, 1 - like] {
                if counts[parity] > 0 {
                    return self.search(range, EVEN << parity, resting, random);
                }
            }
        }
        None
    }

    /// Asks for the memory where a search begins.
    pub fn prefetch(&self, range: PortRange, random: u64) {
        prefetch(&self.planes[first_word(range, random)]);
    }

    /// Asks for the memory of a port.
    pub fn prefetch_port(&self, port: u16) {
        prefetch(&self.planes[usize::from(port) / 64]);
    }

    /// The first word from a random one on that has a candidate, and in it the first from a random bit on.
    fn search(&self, range: PortRange, parity: u64, resting: bool, random: u64) -> Option<u16> {
        let words = range.words();
        let start = first_word(range, random);
        let bit = random as u32 % 64;
        let mut index = start;
        loop {
            let word = Word::of(self.planes[index]);
            let candidates = parity & if resting { word.resting() } else { word.free() };
            if candidates != 0 {
                let chosen = (candidates.rotate_right(bit).trailing_zeros() + bit) % 64;
                return u16::try_from(index as u32 * 64 + chosen).ok();
            }
            index = if index + 1 == words.end { words.start } else { index + 1 };
            if index == start {
                return None;
            }
        }
    }

    /// Takes `port`. False, without effect, if it is taken or reserved.
    pub fn take(&mut self, port: u16) -> bool {
        let (word, bit) = (self.word_of(port), 1_u64 << (port % 64));
        if word.taken() & bit != 0 {
            return false;
        }
        let counts = if word.free() & bit != 0 { &mut self.free } else { &mut self.resting };
        counts[PortRange::of(port) as usize][usize::from(port % 2)] -= 1;
        self.planes[usize::from(port) / 64] = [word.low | bit, word.high | bit];
        true
    }

    /// Lets a taken `port` rest. False, without effect, if it is not taken. Not for reserved ports.
    pub fn release(&mut self, port: u16) -> bool {
        let (word, bit) = (self.word_of(port), 1_u64 << (port % 64));
        if word.taken() & bit == 0 {
            return false;
        }
        self.planes[usize::from(port) / 64] = [word.low & !bit, word.high];
        self.resting[PortRange::of(port) as usize][usize::from(port % 2)] += 1;
        true
    }

    /// Frees the ports that rested since the generation before, and starts a new generation.
    pub fn rotate(&mut self) {
        if !self.any_resting() {
            return;
        }
        for pair in self.planes.iter_mut() {
            let word = Word::of(*pair);
            *pair = [word.high, word.taken()];
        }
        self.recount();
    }

    /// Reserves the ports of `mask`. A taken one stays taken.
    pub fn reserve(&mut self, mask: &PortMask) {
        for (pair, &bits) in self.planes.iter_mut().zip(mask) {
            *pair = pair.map(|word| word | bits);
        }
        self.recount();
    }

    /// Lets the reserved ports of `mask` rest. None of them may be taken by a mapping.
    pub fn unreserve(&mut self, mask: &PortMask) {
        for (index, (pair, &bits)) in self.planes.iter_mut().zip(mask).enumerate() {
            let bits = if index == 0 { bits & !1 } else { bits };
            pair[0] &= !(bits & Word::of(*pair).taken());
        }
        self.recount();
    }

    fn recount(&mut self) {
        for range in PortRange::ALL {
            let (mut free, mut resting) = ([0_u16; 2], [0_u16; 2]);
            for word in self.planes[range.words()].iter().map(|pair| Word::of(*pair)) {
                for (parity, mask) in [EVEN, !EVEN].into_iter().enumerate() {
                    free[parity] += (word.free() & mask).count_ones() as u16;
                    resting[parity] += (word.resting() & mask).count_ones() as u16;
                }
            }
            self.free[range as usize] = free;
            self.resting[range as usize] = resting;
        }
    }
}

fn first_word(range: PortRange, random: u64) -> usize {
    let words = range.words();
    words.start + (((random >> 32) * words.len() as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn usable(first: u16, last: u16) -> PortStates {
        let mut reserved = empty_mask();
        mask_range(&mut reserved, 0, first.saturating_sub(1));
        if last < u16::MAX {
            mask_range(&mut reserved, last + 1, u16::MAX);
        }
        PortStates::new(&reserved, None)
    }

    /// RFC 4787 section 4.2.1 REQ-3: no port overloading; every port is given out once.
    #[test]
    fn every_port_is_found_once_and_then_none() {
        let mut states = PortStates::new(&empty_mask(), None);
        let mut seen = BTreeSet::new();
        let mut random = 1_u64;
        while let Some(port) = states.find(PortRange::Other, None, random) {
            assert!(states.take(port) && seen.insert(port) && !states.take(port));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        assert_eq!(seen, (1_024..=65_535).collect());
        assert_eq!(states.available(PortRange::WellKnown), 1_023);
        assert!(states.is_taken(0));
    }

    /// RFC 4787 section 4.2.2 REQ-4: parity is kept while a free port has it, and then given up.
    #[test]
    fn parity_is_kept_while_possible() {
        let mut states = usable(2_000, 2_009);
        for expected in [0, 0, 0, 0, 0, 1, 1, 1, 1, 1] {
            let port = states.find(PortRange::Other, Some(4_000), 99).expect("ports are left");
            assert_eq!(port % 2, expected);
            assert!(states.take(port));
        }
        assert_eq!(states.find(PortRange::Other, Some(4_000), 99), None);
    }

    /// RFC 6888 section 3 REQ-8: a released port rests for one to two generations.
    #[test]
    fn a_released_port_rests() {
        let mut states = usable(3_000, 3_001);
        assert!(states.take(3_000) && states.release(3_000) && !states.release(3_000));
        for random in 0..1_000 {
            assert_eq!(states.find(PortRange::Other, Some(8), random << 20 | random), Some(3_001));
        }
        states.rotate();
        assert_eq!(states.find(PortRange::Other, Some(8), 0), Some(3_001));
        assert!(states.any_resting());
        states.rotate();
        assert!(!states.any_resting());
        assert_eq!(states.find(PortRange::Other, Some(8), 0), Some(3_000));
    }

    /// RFC 6056 section 3.1: with many free ports each is chosen about equally often.
    #[test]
    fn choices_are_spread_evenly() {
        let states = PortStates::new(&empty_mask(), None);
        let secret = super::super::Secret::from_key([11, 12]);
        let mut sixteenths = [0_u32; 16];
        for n in 0..160_000 {
            let random = secret.choice(super::super::secret::Purpose::Port, n, 0);
            let port = states.find(PortRange::Other, None, random).expect("all are free");
            sixteenths[(usize::from(port) - 1_024) * 16 / 64_512] += 1;
        }
        assert!(sixteenths.iter().all(|&n| (9_500..10_500).contains(&n)), "{sixteenths:?}");
    }

    #[test]
    fn reserved_ports_come_back_but_for_port_zero() {
        let mut mask = empty_mask();
        mask_range(&mut mask, 0, 9);
        let mut states = PortStates::new(&empty_mask(), None);
        assert!(states.take(5));
        states.reserve(&mask);
        assert_eq!(states.available(PortRange::WellKnown), 1_014);
        assert!(!states.take(3));
        states.unreserve(&mask);
        assert_eq!(states.available(PortRange::WellKnown), 1_023);
        assert!(states.take(3) && !states.take(0));
    }

    #[test]
    fn masks_hold_exactly_their_ranges() {
        for (first, last) in [(0, 0), (5, 4), (63, 64), (64, 127), (1_000, 3_000), (0, u16::MAX)] {
            let mut mask = empty_mask();
            mask_range(&mut mask, first, last);
            for port in 0..=u16::MAX {
                let held = mask[usize::from(port) / 64] >> (port % 64) & 1 == 1;
                assert_eq!(held, (first..=last).contains(&port), "{port} in {first}..={last}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// A set of taken and one of resting ports is the model; the counts are recounted each time.
        #[test]
        fn it_is_a_set_of_ports(
            operations in prop::collection::vec((0_u8..5, 1_000_u16..1_060, any::<u64>()), 1..300),
        ) {
            let mut states = usable(1_000, 1_059);
            let (mut taken, mut newer, mut older) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (operation, port, random) in operations {
                let range = PortRange::of(port);
                let universe: BTreeSet<u16> = (1_000..1_060).filter(|&p| PortRange::of(p) == range).collect();
                match operation {
                    0 => {
                        prop_assert_eq!(states.take(port), taken.insert(port));
                        newer.remove(&port);
                        older.remove(&port);
                    }
                    1 => {
                        let was_taken = taken.remove(&port);
                        prop_assert_eq!(states.release(port), was_taken);
                        if was_taken {
                            newer.insert(port);
                        }
                    }
                    2 => {
                        states.rotate();
                        older = std::mem::take(&mut newer);
                    }
                    _ => {
                        let like = (operation == 3).then_some(port);
                        let rests = |p: &u16| newer.contains(p) || older.contains(p);
                        let open: Vec<u16> = universe.difference(&taken).copied().collect();
                        let free: Vec<u16> = open.iter().copied().filter(|p| !rests(p)).collect();
                        let best = if free.is_empty() { open } else { free };
                        let found = states.find(range, like, random);
                        prop_assert_eq!(found.is_some(), !best.is_empty());
                        if let Some(found) = found {
                            prop_assert!(best.contains(&found));
                            let same = best.iter().any(|p| p % 2 == port % 2);
                            prop_assert!(like.is_none() || !same || found % 2 == port % 2);
                        }
                    }
                }
                prop_assert_eq!(states.available(range) as usize, universe.difference(&taken).count());
                prop_assert_eq!(states.is_taken(port), taken.contains(&port));
            }
        }
    }
}
