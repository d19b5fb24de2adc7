//! Which rule decides about a packet: the first in order that matches, at a stated worst-case cost (R15).
//!
//! **Design.** Tuple space search (Srinivasan, Suri and Varghese 1999; the classifiers of Open vSwitch and of
//! VPP's hash-based ACLs) with merged tuples (Daly and others, "TupleMerge", 2019). A table hashes a *tuple* of leading
//! address bits, leading port bits, protocol, version and zones; a rule lives in one table, whose tuple is a part
//! of what the rule demands, in the short list of the rules that have the same hashed fields; a comparison of
//! all fields, port ranges included, then decides. Exact tuples would make a table for each combination of prefix
//! lengths in use; here rules share a table with coarser bits until a list is full, and only then does a finer one
//! arise. Tables are visited by their best rule, so a look-up stops when what it has found beats all that is left.
//! The hash is linear, so that the share of each address at each length in use is computed once a look-up
//! (see `classifier/hash.rs`, also for why it is safe against chosen packets).
//!
//! **Cost.** A *probe* is the reading of one bucket or the comparison with one rule. [`Classifier::worst_case_probes`]
//! counts, for each table, one bucket and its longest list, exactly. A rule that would raise this above the bound is
//! refused and nothing changes; which, does not depend on the secret (but for hash collisions, 2^-32 a pair). Which
//! rules are refused: those of which hundreds overlap in one packet without a field that tells them apart.
//!
//! **Changes** touch the tables and lists of the rule concerned: tens of microseconds at most, but for the amortised
//! doubling of a table. Look-ups allocate nothing and write nothing.

mod hash;
mod pack;
mod table;
#[cfg(test)]
mod tests;
mod tuple;

use std::collections::HashMap;

use arrayvec::ArrayVec;

use self::hash::HashKeys;
use self::pack::{PackedQuery, Pattern, address_mask};
use self::table::{Entry, LIST_RULES_MAX, NONE, Table};
use self::tuple::Tuple;
use super::query::Query;
use super::rule_set::RuleSet;
use super::rules::{Action, Rule, RuleError, RuleId};

/// The usual bound on a look-up's cost: about two microseconds with a cold cache.
pub const PROBES_MAX: usize = 256;
/// Most patterns in one classifier (a rule has at least one).
pub const PATTERNS_MAX: usize = 1 << 20;
/// Most prefix lengths that tables hash, for each of the two addresses.
const LENGTHS_MAX: usize = 32;

/// Order and identity of a rule: lower is consulted first.
type Rank = u128;

/// The rule that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub rule: RuleId,
    /// Its position.
    pub order: u64,
    /// What it wants.
    pub action: Action,
    /// Whether it is logged.
    pub log: bool,
}

/// Why a rule does not enter the classifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassifierError {
    /// The rule itself can't be used.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The rule is there already: remove it first.
    #[error("rule \"{name}\": identity {id} is in use; every rule needs its own")]
    Present {
        /// The rule's name.
        name: String,
        /// Its identity.
        id: RuleId,
    },
    /// The rule would make look-ups slower than the bound.
    #[error(
        "rule \"{name}\": with it one packet could need more than {probes_max} comparisons, because too many \
         rules overlap it that differ only in prefix lengths or in wide port ranges; merge or remove overlapping \
         rules, or tell them apart by protocol, zone, address or a narrower range of ports"
    )]
    TooCostly {
        /// The rule's name.
        name: String,
        /// The bound.
        probes_max: usize,
    },
    /// The classifier is full.
    #[error(
        "rule \"{name}\": the rules expand to more than {PATTERNS_MAX} combinations; aggregate prefixes or ports"
    )]
    Full {
        /// The rule's name.
        name: String,
    },
}

/// A prefix length of one address that tables hash.
#[derive(Clone)]
struct Length {
    bits: u8,
    mask: u128,
    tables: usize,
}

/// The lengths in use; a table refers to one by its index here.
type Lengths = ArrayVec<Length, LENGTHS_MAX>;

/// See the module.
#[derive(Clone)]
pub struct Classifier {
    keys: HashKeys,
    probes_max: usize,
    /// Sorted by their best rule.
    tables: Vec<Table>,
    source_lengths: Lengths,
    destination_lengths: Lengths,
    entries: Vec<Entry>,
    free: Vec<u32>,
    entries_of: HashMap<RuleId, Vec<u32>>,
    next_table: u32,
}

impl Classifier {
    /// An empty classifier. `seed` must be random and secret; `probes_max` is the bound on
    /// [`worst_case_probes`](Self::worst_case_probes), usually [`PROBES_MAX`].
    pub fn new(seed: [u64; 2], probes_max: usize) -> Self {
        Self::with_keys(HashKeys::new(seed), probes_max)
    }

    /// A classifier of all rules of a set.
    ///
    /// # Errors
    /// The first rule in order that does not fit.
    pub fn of(rules: &RuleSet, seed: [u64; 2], probes_max: usize) -> Result<Self, ClassifierError> {
        let mut classifier = Self::new(seed, probes_max);
        rules.rules().iter().try_for_each(|rule| classifier.insert(rule))?;
        Ok(classifier)
    }

    /// The most probes that any packet's look-up can need.
    pub fn worst_case_probes(&self) -> usize {
        self.tables.iter().map(|table| 1 + table.longest()).sum()
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.entries_of.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.entries_of.is_empty()
    }

    /// The rule that decides about `query`; none where no rule matches.
    #[inline]
    pub fn find(&self, query: &Query) -> Option<Found> {
        self.search(query, || ())
    }

    /// Like [`find`](Self::find), with the number of probes that it took.
    pub fn find_counting(&self, query: &Query) -> (Option<Found>, usize) {
        let mut probes = 0;
        (self.search(query, || probes += 1), probes)
    }

    /// Adds a rule, whole or not at all. The layout depends on what was there before: where this refuses a rule,
    /// [`Classifier::of`] the whole set may still accept it. That takes milliseconds for 10,000 rules, so it is
    /// done off the packet path and the result swapped in.
    ///
    /// # Errors
    /// See [`ClassifierError`]; the classifier is as it was.
    pub fn insert(&mut self, rule: &Rule) -> Result<(), ClassifierError> {
        if self.entries_of.contains_key(&rule.id) {
            return Err(ClassifierError::Present { name: rule.name.clone(), id: rule.id });
        }
        let patterns: Vec<Pattern> = rule.matches()?.iter().flat_map(Pattern::pieces).collect();
        if self.entries.len() - self.free.len() + patterns.len() > PATTERNS_MAX {
            return Err(ClassifierError::Full { name: rule.name.clone() });
        }
        let found = Found { rule: rule.id, order: rule.order, action: rule.action, log: rule.log };
        if self.insert_patterns(&patterns, found) {
            return Ok(());
        }
        Err(ClassifierError::TooCostly { name: rule.name.clone(), probes_max: self.probes_max })
    }

    /// Removes a rule. False where it was not there.
    pub fn remove(&mut self, rule: RuleId) -> bool {
        let Some(indices) = self.entries_of.remove(&rule) else { return false };
        indices.into_iter().for_each(|index| self.remove_entry(index));
        self.sort_tables();
        true
    }

    #[inline]
    fn search(&self, query: &Query, mut probe: impl FnMut()) -> Option<Found> {
        let query = PackedQuery::new(query);
        let sources: ArrayVec<u128, LENGTHS_MAX> =
            self.source_lengths.iter().map(|length| self.keys.source(query.source & length.mask)).collect();
        let destinations: ArrayVec<u128, LENGTHS_MAX> = self
            .destination_lengths
            .iter()
            .map(|length| self.keys.destination(query.destination & length.mask))
            .collect();
        let mut best = Rank::MAX;
        let mut found = None;
        for table in &self.tables {
            if table.first >= best {
                break;
            }
            probe();
            let hash = hash::finish(
                sources[usize::from(table.source_slot)],
                destinations[usize::from(table.destination_slot)],
                self.keys.word(query.word & table.tuple.word_mask),
            );
            let mut at = table.list(hash);
            while at != NONE {
                probe();
                let entry = &self.entries[at as usize];
                if entry.rank >= best {
                    break;
                }
                if entry.pattern.matches(&query) {
                    best = entry.rank;
                    found = Some(entry.found);
                    break;
                }
                at = entry.next;
            }
        }
        found
    }

    fn with_keys(keys: HashKeys, probes_max: usize) -> Self {
        Self {
            keys,
            probes_max,
            tables: Vec::new(),
            source_lengths: Lengths::new(),
            destination_lengths: Lengths::new(),
            entries: Vec::new(),
            free: Vec::new(),
            entries_of: HashMap::new(),
            next_table: 0,
        }
    }

    /// Adds all patterns of a rule or none.
    fn insert_patterns(&mut self, patterns: &[Pattern], found: Found) -> bool {
        let mut placed = Vec::with_capacity(patterns.len());
        let all = patterns.iter().all(|pattern| match self.insert_pattern(pattern, found) {
            Some(index) => {
                placed.push(index);
                true
            }
            None => false,
        });
        if all {
            self.entries_of.insert(found.rule, placed);
        } else {
            placed.into_iter().for_each(|index| self.remove_entry(index));
        }
        self.sort_tables();
        all
    }

    fn insert_pattern(&mut self, pattern: &Pattern, found: Found) -> Option<u32> {
        let exact = Tuple::exact(pattern);
        let candidates = Tuple::candidates(exact);
        let table = self.table_with_room(pattern, &candidates[0], &exact);
        let table = match table {
            Some(table) => table,
            None => self.add_table(&candidates)?,
        };
        let index = self.add_entry(pattern, found);
        if self.tables[table].insert(index, &mut self.entries, &self.keys) {
            return Some(index);
        }
        self.free.push(index);
        self.drop_table_if_empty(table);
        None
    }

    /// Among the tables that hash at least `shortest` and at most `exact`, the one that hashes most and takes the
    /// pattern within the bound.
    fn table_with_room(&self, pattern: &Pattern, shortest: &Tuple, exact: &Tuple) -> Option<usize> {
        let probes = self.worst_case_probes();
        let has_room = |table: &Table| {
            let length = table.list_length(self.keys.pattern(pattern, &table.tuple), &self.entries);
            length < LIST_RULES_MAX && (length < table.longest() || probes < self.probes_max)
        };
        let suits = |table: &Table| shortest.is_part_of(&table.tuple) && table.tuple.is_part_of(exact);
        (0..self.tables.len())
            .filter(|index| suits(&self.tables[*index]) && has_room(&self.tables[*index]))
            .max_by_key(|index| self.tables[*index].tuple.specificity())
    }

    /// Makes a table of the first candidate that has none yet. None where the bound leaves no room for it.
    fn add_table(&mut self, candidates: &[Tuple]) -> Option<usize> {
        // A table with one rule costs two probes: its bucket and that rule.
        if self.worst_case_probes() + 2 > self.probes_max {
            return None;
        }
        let is_new = |tuple: &&Tuple| self.tables.iter().all(|table| table.tuple != **tuple);
        let tuple = *candidates.iter().find(is_new)?;
        let source_slot = take_length(&mut self.source_lengths, tuple.source_bits)?;
        let Some(destination_slot) = take_length(&mut self.destination_lengths, tuple.destination_bits)
        else {
            release_length(&mut self.source_lengths, source_slot);
            return None;
        };
        self.next_table = self.next_table.wrapping_add(1);
        self.tables.push(Table::new(self.next_table, tuple, source_slot, destination_slot));
        Some(self.tables.len() - 1)
    }

    fn drop_table_if_empty(&mut self, index: usize) {
        if self.tables[index].is_empty() {
            let table = self.tables.swap_remove(index);
            release_length(&mut self.source_lengths, table.source_slot);
            release_length(&mut self.destination_lengths, table.destination_slot);
        }
    }

    fn add_entry(&mut self, pattern: &Pattern, found: Found) -> u32 {
        let rank = Rank::from(found.order) << 32 | Rank::from(found.rule.0);
        let entry = Entry { pattern: pattern.clone(), rank, found, next: NONE, table: 0 };
        match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        }
    }

    fn remove_entry(&mut self, index: u32) {
        let identity = self.entries[index as usize].table;
        if let Some(table) = self.tables.iter().position(|table| table.identity == identity) {
            self.tables[table].remove(index, &mut self.entries, &self.keys);
            self.drop_table_if_empty(table);
        }
        self.free.push(index);
    }

    fn sort_tables(&mut self) {
        self.tables.sort_by_key(|table| table.first);
    }
}

/// The index of this length, one table more using it. None where there are too many lengths.
fn take_length(lengths: &mut Lengths, bits: u8) -> Option<u8> {
    let in_use = lengths.iter().position(|length| length.bits == bits && length.tables > 0);
    let index = match in_use.or_else(|| lengths.iter().position(|length| length.tables == 0)) {
        Some(index) => index,
        None => {
            lengths.try_push(Length { bits, mask: address_mask(bits), tables: 0 }).ok()?;
            lengths.len() - 1
        }
    };
    let tables = lengths[index].tables + 1;
    lengths[index] = Length { bits, mask: address_mask(bits), tables };
    Some(index as u8)
}

/// One table less uses this length.
fn release_length(lengths: &mut Lengths, index: u8) {
    lengths[usize::from(index)].tables -= 1;
    while lengths.last().is_some_and(|length| length.tables == 0) {
        lengths.pop();
    }
}
