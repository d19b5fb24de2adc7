//! Which rule decides about a packet: the first in order that matches, at a stated worst-case cost (R15).
//!
//! **Design.** Two parts, chosen for each rule by what it says. *Tables* take the rules that name hosts, networks or services
//! and are many; the *matrix* takes the rest, which no hash tells apart, and all rules of a small set.
//!
//! Tables are tuple space search (Srinivasan, Suri and Varghese 1999; the classifiers of Open vSwitch and of
//! VPP's hash-based ACLs) with merged tuples (Daly and others, "TupleMerge", 2019). A table hashes a *tuple* of leading
//! address bits, leading port bits, protocol, version and zones; a rule lives in one table, whose tuple is a part
//! of what the rule demands, in the short list of the rules that have the same hashed fields; a comparison of
//! all fields, port ranges included, then decides. Exact tuples would make a table for each combination of prefix
//! lengths in use; here rules share a table with coarser bits until a list is full, and only then does a finer one
//! arise. Tables are visited by their best rule, so a look-up stops when what it has found beats all that is left.
//! The hash is linear, so that the share of each address at each length in use is computed once a look-up
//! (see `classifier/hash.rs`, also for why it is safe against chosen packets).
//!
//! The matrix (see `classifier/matrix.rs`) searches each field by itself and joins the rows of bits that it finds, 64 rules to a
//! word. Its cost depends on how many rules it holds and not on how they overlap, so it has room for any of them.
//!
//! **Cost.** A *probe* is the reading of one bucket or of one block of 64 rules, the comparison with one rule, or one step of a
//! binary search. [`Classifier::worst_case_probes`] counts them for the worst packet, and is never above [`PROBES_MAX`]. A rule that
//! would raise it above is refused and nothing changes. Which rules are refused: those that come when thousands of rules are
//! there already that no hash tells apart.
//!
//! **Changes** touch the tables and lists of the rule concerned, or a word or two of each row of the matrix: microseconds, but for
//! the amortised doubling of a table. Look-ups allocate nothing and write nothing.

mod axis;
mod hash;
mod matrix;
mod pack;
mod table;
#[cfg(test)]
mod tests;
mod tuple;

use std::collections::HashMap;

use arrayvec::ArrayVec;

use self::hash::HashKeys;
use self::matrix::Matrix;
use self::pack::{PackedQuery, Pattern, address_mask};
use self::table::{Entry, LIST_RULES_MAX, NONE, Table};
use self::tuple::Tuple;
use super::query::Query;
use super::rules::{Action, RULE_MATCHES_MAX, Rule, RuleError, RuleId};
use super::slots::RuleSlot;

/// No look-up needs more probes.
pub const PROBES_MAX: usize = 512;
/// Most patterns in the tables (a rule has at least one).
pub const PATTERNS_MAX: usize = 1 << 20;
/// Most probes of the tables together.
const TABLE_PROBES_MAX: usize = 256;
/// With no more rules than this the matrix takes them all: a few words for each field are cheaper than tables.
const SMALL_RULES: usize = 256;
/// A rule that multiplies to more patterns is a bit of the matrix, if that has room.
const RULE_PATTERNS_MAX: usize = 256;
/// Leading bits of an address or a destination port by which hashing tells rules apart well.
const SELECTIVE_BITS: u8 = 16;

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
    /// What it was inserted with.
    pub slot: RuleSlot,
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
        "rule \"{name}\": with it one packet could need more than {probes_max} comparisons: there are {broad} rules \
         already that name no network of /16 or longer and no single port, or have lists of hundreds; of these at most \
         {broad_max} fit, with {ranges_max} different prefixes and ranges; merge rules that say the same of neighbouring \
         networks or ports, remove those that others cover, or name longer prefixes"
    )]
    TooCostly {
        /// The rule's name.
        name: String,
        /// The bound.
        probes_max: usize,
        /// Rules that no hash tells apart.
        broad: usize,
        /// The most of them.
        broad_max: usize,
        /// About how many ranges they may name.
        ranges_max: usize,
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

/// Where the patterns or members of a rule are.
#[derive(Clone)]
enum Placed {
    Tables(Vec<u32>),
    Matrix(Vec<u32>),
}

/// What tests make smaller.
#[derive(Clone, Copy, Debug)]
struct Limits {
    table_probes: usize,
    matrix_rules: usize,
    matrix_rows: usize,
    small: usize,
}

const LIMITS: Limits = Limits {
    table_probes: TABLE_PROBES_MAX,
    matrix_rules: matrix::RULES_MAX,
    matrix_rows: matrix::ROWS_MAX,
    small: SMALL_RULES,
};

// Blocks of the matrix: two for each 49 rules. Steps of its searches: 8 for each byte, at most 15 for each other field.
const _: () = assert!(TABLE_PROBES_MAX + 2 * matrix::RULES_MAX.div_ceil(49) + 3 * 8 + 4 * 15 <= PROBES_MAX);

/// See the module.
#[derive(Clone)]
pub struct Classifier {
    keys: HashKeys,
    limits: Limits,
    matrix: Matrix,
    /// Sorted by their best rule.
    tables: Vec<Table>,
    source_lengths: Lengths,
    destination_lengths: Lengths,
    entries: Vec<Entry>,
    free: Vec<u32>,
    placed: HashMap<RuleId, Placed>,
    next_table: u32,
}

impl Classifier {
    /// An empty classifier. `seed` must be random and secret.
    pub fn new(seed: [u64; 2]) -> Self {
        Self::with_limits(seed, LIMITS)
    }

    fn with_limits(seed: [u64; 2], limits: Limits) -> Self {
        Self {
            keys: HashKeys::new(seed),
            limits,
            matrix: Matrix::new(),
            tables: Vec::new(),
            source_lengths: Lengths::new(),
            destination_lengths: Lengths::new(),
            entries: Vec::new(),
            free: Vec::new(),
            placed: HashMap::new(),
            next_table: 0,
        }
    }

    /// The most probes that any packet's look-up can need; at most [`PROBES_MAX`].
    pub fn worst_case_probes(&self) -> usize {
        self.table_probes() + self.matrix.steps()
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.placed.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    /// The rule that decides about `query`; none where no rule matches.
    #[inline]
    pub fn find(&self, query: &Query) -> Option<Found> {
        self.search(query, |_| ())
    }

    /// Like [`find`](Self::find), with the number of probes that it took.
    pub fn find_counting(&self, query: &Query) -> (Option<Found>, usize) {
        let mut probes = 0;
        (self.search(query, |more| probes += more), probes)
    }

    /// Adds a rule, whole or not at all. `slot` is what look-ups say of it beside its identity. Where a rule goes depends on what was
    /// there before, what look-ups find does not.
    ///
    /// # Errors
    /// See [`ClassifierError`]; the classifier is as it was.
    pub fn insert(&mut self, rule: &Rule, slot: RuleSlot) -> Result<(), ClassifierError> {
        if self.placed.contains_key(&rule.id) {
            return Err(ClassifierError::Present { name: rule.name.clone(), id: rule.id });
        }
        rule.check()?;
        let found = Found { rule: rule.id, order: rule.order, action: rule.action, log: rule.log, slot };
        let Some(placed) = self.place(rule, found) else {
            return Err(ClassifierError::TooCostly {
                name: rule.name.clone(),
                probes_max: PROBES_MAX,
                broad: self.matrix.len(),
                broad_max: self.limits.matrix_rules,
                ranges_max: self.limits.matrix_rows / 2,
            });
        };
        self.placed.insert(rule.id, placed);
        Ok(())
    }

    /// Removes a rule. False where it was not there.
    pub fn remove(&mut self, rule: RuleId) -> bool {
        match self.placed.remove(&rule) {
            None => return false,
            Some(Placed::Matrix(members)) => members.into_iter().for_each(|index| self.matrix.remove(index)),
            Some(Placed::Tables(entries)) => {
                entries.into_iter().for_each(|index| self.remove_entry(index));
                self.sort_tables();
            }
        }
        true
    }

    fn table_probes(&self) -> usize {
        self.tables.iter().map(|table| 1 + table.longest()).sum()
    }

    fn place(&mut self, rule: &Rule, found: Found) -> Option<Placed> {
        let is_small = self.matrix.len() < self.limits.small;
        if !is_small && rule.combinations() <= RULE_PATTERNS_MAX {
            let patterns = patterns_of(rule);
            if patterns.iter().all(is_selective)
                && let Some(placed) = self.insert_patterns(&patterns, found)
            {
                return Some(Placed::Tables(placed));
            }
        }
        let limits = [self.limits.matrix_rules, self.limits.matrix_rows];
        if let Some(placed) = self.matrix.insert(rule, rank(&found), found, limits) {
            return Some(Placed::Matrix(placed));
        }
        // Better a table for a few than no room.
        if rule.combinations() > RULE_MATCHES_MAX {
            return None;
        }
        self.insert_patterns(&patterns_of(rule), found).map(Placed::Tables)
    }

    #[inline]
    fn search(&self, query: &Query, mut probe: impl FnMut(usize)) -> Option<Found> {
        let (mut best, mut found) = match self.matrix.find(query, &mut probe) {
            Some((rank, found)) => (rank, Some(found)),
            None => (Rank::MAX, None),
        };
        if self.tables.first().is_none_or(|table| table.first >= best) {
            return found;
        }
        let query = PackedQuery::new(query);
        let sources: ArrayVec<u128, LENGTHS_MAX> =
            self.source_lengths.iter().map(|length| self.keys.source(query.source & length.mask)).collect();
        let destinations: ArrayVec<u128, LENGTHS_MAX> = self
            .destination_lengths
            .iter()
            .map(|length| self.keys.destination(query.destination & length.mask))
            .collect();
        for table in &self.tables {
            if table.first >= best {
                break;
            }
            probe(1);
            let hash = hash::finish(
                sources[usize::from(table.source_slot)],
                destinations[usize::from(table.destination_slot)],
                self.keys.word(query.word & table.tuple.word_mask),
            );
            let mut at = table.list(hash);
            while at != NONE {
                probe(1);
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

    /// Adds all patterns of a rule to the tables or none.
    fn insert_patterns(&mut self, patterns: &[Pattern], found: Found) -> Option<Vec<u32>> {
        if self.entries.len() - self.free.len() + patterns.len() > PATTERNS_MAX {
            return None;
        }
        let mut placed = Vec::with_capacity(patterns.len());
        let all = patterns.iter().all(|pattern| match self.insert_pattern(pattern, found) {
            Some(index) => {
                placed.push(index);
                true
            }
            None => false,
        });
        if !all {
            placed.drain(..).for_each(|index| self.remove_entry(index));
        }
        self.sort_tables();
        all.then_some(placed)
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
        let probes = self.table_probes();
        let has_room = |table: &Table| {
            let length = table.list_length(self.keys.pattern(pattern, &table.tuple), &self.entries);
            length < LIST_RULES_MAX && (length < table.longest() || probes < self.limits.table_probes)
        };
        let suits = |table: &Table| shortest.is_part_of(&table.tuple) && table.tuple.is_part_of(exact);
        (0..self.tables.len())
            .filter(|index| suits(&self.tables[*index]) && has_room(&self.tables[*index]))
            .max_by_key(|index| self.tables[*index].tuple.specificity())
    }

    /// Makes a table of the first candidate that has none yet. None where the bound leaves no room for it.
    fn add_table(&mut self, candidates: &[Tuple]) -> Option<usize> {
        // A table with one rule costs two probes: its bucket and that rule.
        if self.table_probes() + 2 > self.limits.table_probes {
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
        let entry = Entry { pattern: pattern.clone(), rank: rank(&found), found, next: NONE, table: 0 };
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

fn rank(found: &Found) -> Rank {
    Rank::from(found.order) << 32 | Rank::from(found.rule.0)
}

/// The patterns of a rule that was checked and multiplies to few enough.
fn patterns_of(rule: &Rule) -> Vec<Pattern> {
    rule.matches().unwrap_or_default().iter().flat_map(Pattern::pieces).collect()
}

/// Whether hashing tells this pattern from most others.
fn is_selective(pattern: &Pattern) -> bool {
    let exact = Tuple::exact(pattern);
    exact.source_bits.max(exact.destination_bits).max(exact.destination_port_bits()) >= SELECTIVE_BITS
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
