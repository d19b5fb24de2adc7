//! A search for many strings in one pass (Aho and Corasick, 1975): one look into a table for each byte, whatever the bytes.

use aho_corasick::automaton::Automaton as _;
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind, StartKind};
use aho_corasick::{BuildError, PatternID};

/// Strings that are looked for together.
#[derive(Debug)]
pub(super) struct Automaton {
    dfa: DFA,
    /// Which pattern each of the strings is.
    patterns: Vec<u16>,
}

impl Automaton {
    /// For strings with the numbers of their patterns; `ignore_case` takes ASCII letters of either case as one. None without
    /// strings.
    ///
    /// # Errors
    /// They exceed what a table can hold: not with the limits of [`super::Patterns`].
    pub(super) fn new(strings: &[(u16, &[u8])], ignore_case: bool) -> Result<Option<Self>, BuildError> {
        if strings.is_empty() {
            return Ok(None);
        }
        // No prefilter: what it skips depends on the payload, and so would the time.
        let dfa = DFA::builder()
            .match_kind(MatchKind::Standard)
            .start_kind(StartKind::Unanchored)
            .ascii_case_insensitive(ignore_case)
            .prefilter(false)
            .build(strings.iter().map(|(_, bytes)| *bytes))?;
        Ok(Some(Self { dfa, patterns: strings.iter().map(|(pattern, _)| *pattern).collect() }))
    }

    /// Says each pattern that ends anywhere in `payload`, as often as it does.
    #[inline]
    pub(super) fn search(&self, payload: &[u8], mut each: impl FnMut(u16)) {
        let Ok(mut state) = self.dfa.start_state(Anchored::No) else { return };
        for &byte in payload {
            state = self.dfa.next_state(Anchored::No, state, byte);
            if self.dfa.is_match(state) {
                for at in 0..self.dfa.match_len(state) {
                    each(self.pattern(self.dfa.match_pattern(state, at)));
                }
            }
        }
    }

    fn pattern(&self, id: PatternID) -> u16 {
        self.patterns.get(id.as_usize()).copied().unwrap_or(u16::MAX)
    }

    /// How many strings end where `string` ends, itself included if it is one of them.
    pub(super) fn ending_with(&self, string: &[u8]) -> usize {
        let Ok(start) = self.dfa.start_state(Anchored::No) else { return 0 };
        let end = string.iter().fold(start, |state, &byte| self.dfa.next_state(Anchored::No, state, byte));
        if self.dfa.is_match(end) { self.dfa.match_len(end) } else { 0 }
    }

    /// Bytes of its table.
    pub(super) fn memory_bytes(&self) -> usize {
        self.dfa.memory_usage()
    }
}
