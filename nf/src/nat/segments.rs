//! Sorted, disjoint port ranges under keys: what rules about ports compile to. A look-up is one binary search.

use std::collections::BTreeMap;

/// Collects ranges; where two overlap, the earlier one wins.
#[derive(Clone, Debug, Default)]
pub struct SegmentsBuilder(BTreeMap<(u64, u16), (u16, u32)>);

impl SegmentsBuilder {
    /// Adds the ports `first..=last` under `key`, as far as they are not taken yet, with a value.
    /// Returns the value of the first range that was there before.
    pub fn insert(&mut self, key: u64, first: u16, last: u16, value: u32) -> Option<u32> {
        let before = self.0.range((key, 0)..(key, first)).next_back();
        let inside = self.0.range((key, first)..=(key, last.max(first)));
        let overlaps: Vec<(u16, u16, u32)> = before
            .into_iter()
            .chain(inside)
            .map(|(&(_, from), &(to, value))| (from, to, value))
            .filter(|&(_, to, _)| to >= first)
            .collect();
        let mut next = u32::from(first);
        for &(from, to, _) in &overlaps {
            if next < u32::from(from) {
                self.0.insert((key, next as u16), (from - 1, value));
            }
            next = u32::from(to) + 1;
        }
        if next <= u32::from(last) {
            self.0.insert((key, next as u16), (last, value));
        }
        overlaps.first().map(|&(_, _, value)| value)
    }

    /// The finished table.
    pub fn build(self) -> Segments {
        let row = |((key, first), (last, value))| Segment { key, first, last, value };
        Segments(self.0.into_iter().map(row).collect())
    }
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    key: u64,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// What was given with it.
    pub value: u32,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// The value of the range under `key` that holds `port`.
    pub fn find(&self, key: u64, port: u16) -> Option<u32> {
        let after = self.0.partition_point(|s| (s.key, s.first) <= (key, port));
        let segment = self.0.get(after.checked_sub(1)?)?;
        (segment.key == key && segment.last >= port).then_some(segment.value)
    }

    /// Is there no range?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All ranges under `key`.
    pub fn under(&self, key: u64) -> &[Segment] {
        let first = self.0.partition_point(|s| s.key < key);
        let last = self.0.partition_point(|s| s.key <= key);
        &self.0[first..last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A map from each single port to its first rule is the model.
        #[test]
        fn the_first_rule_wins_on_every_port(
            rules in prop::collection::vec((0_u64..3, 0_u16..50, 0_u16..20), 0..30),
            offset in prop::sample::select(vec![0_u16, 65_466]),
        ) {
            let mut builder = SegmentsBuilder::default();
            let mut model = std::collections::HashMap::new();
            for (value, &(key, first, more)) in rules.iter().enumerate() {
                let (first, last) = (first + offset, first + more + offset);
                let mut expected = None;
                for port in first..=last {
                    let winner = *model.entry((key, port)).or_insert(value as u32);
                    if winner != value as u32 {
                        expected = expected.or(Some(winner));
                    }
                }
                prop_assert_eq!(builder.insert(key, first, last, value as u32), expected);
            }
            let segments = builder.build();
            for key in 0..4 {
                for port in (0..=75).chain(65_460..=65_535) {
                    prop_assert_eq!(segments.find(key, port), model.get(&(key, port)).copied());
                }
                let held: usize = segments.under(key).iter().map(|s| usize::from(s.last - s.first) + 1).sum();
                prop_assert_eq!(held, model.keys().filter(|k| k.0 == key).count());
            }
        }
    }
}
