//! Patterns: what is looked for, where, and what becomes of packets that hold it.

use super::automaton::Automaton;
use std::ops::RangeInclusive;

/// Most patterns of a function.
pub const PATTERNS_MAX: usize = 1_024;
/// Most bytes of a pattern.
pub const PATTERN_BYTES_MAX: usize = 256;
/// Most bytes of all patterns of a function: their table has at most a row of 1 KiB for each.
pub const PATTERNS_BYTES_MAX: usize = 32 << 10;
/// Most patterns that may end at the same byte of a payload: what a byte may cost (R15).
pub const PATTERNS_ENDING_ALIKE_MAX: usize = 16;

const WORDS: usize = PATTERNS_MAX / 64;

/// What becomes of a packet that holds a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is dropped.
    Drop,
    /// It passes, and is counted.
    Count,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Its name, unique in its function.
    pub name: String,
    /// What is looked for.
    pub bytes: Vec<u8>,
    /// ASCII letters of either case are taken as one.
    pub ignore_case: bool,
    /// IANA numbers of protocols in whose packets it is looked for: 1, 6, 17, 58. All if none is named.
    pub protocols: Vec<u8>,
    /// Source or destination port must be in one of these ranges. Any if none is named.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What becomes of packets that hold it.
    pub action: Action,
}

impl Pattern {
    /// Whether it is looked for in packets of this protocol with these ports (none: the protocol has no ports).
    #[inline]
    fn concerns(&self, protocol: u8, ports: Option<(u16, u16)>) -> bool {
        let in_ports = |(one, other): (u16, u16)| {
            self.ports.iter().any(|range| range.contains(&one) || range.contains(&other))
        };
        (self.protocols.is_empty() || self.protocols.contains(&protocol))
            && (self.ports.is_empty() || ports.is_some_and(in_ports))
    }
}

/// Why patterns can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There are more than [`PATTERNS_MAX`].
    #[error("{found} patterns are more than the {PATTERNS_MAX} that a function looks for")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// A pattern is empty or longer than [`PATTERN_BYTES_MAX`].
    #[error("a pattern has 1 to {PATTERN_BYTES_MAX} bytes, and this one {found}")]
    Length {
        /// The pattern's place.
        at: usize,
        /// Its bytes.
        found: usize,
    },
    /// All together have more than [`PATTERNS_BYTES_MAX`] bytes.
    #[error("the patterns up to this one have {found} bytes: a function's table holds {PATTERNS_BYTES_MAX}")]
    Bytes {
        /// The place of the first one beyond.
        at: usize,
        /// Bytes of all up to it.
        found: usize,
    },
    /// Too many would be found at the same byte.
    #[error(
        "{found} patterns can end at the same byte of a payload, this one among them: at most \
         {PATTERNS_ENDING_ALIKE_MAX} may"
    )]
    EndAlike {
        /// The place of the longest of them.
        at: usize,
        /// How many.
        found: usize,
    },
}

impl PatternError {
    /// The pattern that it is about; none if it is about all.
    pub fn at(&self) -> Option<usize> {
        match self {
            Self::TooMany { .. } => None,
            Self::Length { at, .. } | Self::Bytes { at, .. } | Self::EndAlike { at, .. } => Some(*at),
        }
    }
}

/// Patterns in their order, ready to be looked for.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    exact: Option<Automaton>,
    either_case: Option<Automaton>,
}

/// The patterns that were found in a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found([u64; WORDS]);

impl Found {
    /// True if it was not there yet.
    #[inline]
    fn add(&mut self, pattern: u16) -> bool {
        let (word, bit) = (usize::from(pattern / 64), 1 << (pattern % 64));
        let Some(word) = self.0.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl Patterns {
    /// Makes the tables.
    ///
    /// # Errors
    /// The first pattern that can't be looked for.
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, PatternError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(PatternError::TooMany { found: patterns.len() });
        }
        let mut total = 0;
        for (at, pattern) in patterns.iter().enumerate() {
            let found = pattern.bytes.len();
            if !(1..=PATTERN_BYTES_MAX).contains(&found) {
                return Err(PatternError::Length { at, found });
            }
            total += found;
            if total > PATTERNS_BYTES_MAX {
                return Err(PatternError::Bytes { at, found: total });
            }
        }
        let automaton = |ignore_case: bool| {
            let strings: Vec<(u16, &[u8])> = (patterns.iter().zip(0..))
                .filter(|(pattern, _)| pattern.ignore_case == ignore_case)
                .map(|(pattern, at)| (at, pattern.bytes.as_slice()))
                .collect();
            // The limits above are far below what a table can hold.
            Automaton::new(&strings, ignore_case)
                .map_err(|_| PatternError::Bytes { at: patterns.len().saturating_sub(1), found: total })
        };
        let (exact, either_case) = (automaton(false)?, automaton(true)?);
        for (at, pattern) in patterns.iter().enumerate() {
            let tables = [&exact, &either_case].into_iter().flatten();
            let found: usize = tables.map(|table| table.ending_with(&pattern.bytes)).sum();
            if found > PATTERNS_ENDING_ALIKE_MAX {
                return Err(PatternError::EndAlike { at, found });
            }
        }
        Ok(Self { patterns, exact, either_case })
    }

    /// The patterns.
    pub fn all(&self) -> &[Pattern] {
        &self.patterns
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// True without patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Bytes of the tables.
    pub fn memory_bytes(&self) -> usize {
        [&self.exact, &self.either_case].into_iter().flatten().map(Automaton::memory_bytes).sum()
    }

    /// Looks for all patterns that concern packets of this protocol with these ports. Says each that is there, once, in the order
    /// in which it was found. `found` is clear before and behind it.
    #[inline]
    pub(super) fn search(
        &self,
        payload: &[u8],
        protocol: u8,
        ports: Option<(u16, u16)>,
        found: &mut Found,
        mut each: impl FnMut(usize, Action),
    ) {
        let mut any = false;
        let mut seen = |at: u16| {
            if !found.add(at) {
                return;
            }
            any = true;
            let pattern = self.patterns.get(usize::from(at));
            if let Some(pattern) = pattern.filter(|pattern| pattern.concerns(protocol, ports)) {
                each(usize::from(at), pattern.action);
            }
        };
        if let Some(exact) = &self.exact {
            exact.search(payload, &mut seen);
        }
        if let Some(either_case) = &self.either_case {
            either_case.search(payload, &mut seen);
        }
        if any {
            *found = Found::default();
        }
    }
}
