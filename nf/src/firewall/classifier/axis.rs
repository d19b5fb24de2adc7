//! One field of the [`matrix`](super::matrix): its values cut into intervals, and for each of them a row of bits that says
//! which rules allow it.
//!
//! The intervals are the coarsest that no rule's range cuts. Their boundaries are counted, so that a rule that goes
//! takes its own with it. A row has a bit for each place of each block; its words are in the order in which blocks were made.
//! A value is searched for among the intervals that begin with its most significant byte.

use std::ops::RangeInclusive;

/// A field's value.
pub(super) trait Key: Copy + Ord + std::fmt::Debug {
    /// The least.
    const MIN: Self;
    /// The next one; none behind the greatest.
    fn next(self) -> Option<Self>;
    /// Its most significant byte.
    fn lead(self) -> usize;
}

macro_rules! keys {
    ($($number:ty)*) => {$(
        impl Key for $number {
            const MIN: Self = <$number>::MIN;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn lead(self) -> usize {
                (self >> (<$number>::BITS - 8)) as usize
            }
        }
    )*};
}
keys!(u8 u16 u32 u128);

/// Disjoint ranges of a field, ascending. None allows nothing.
pub(super) type Ranges<K> = Vec<RangeInclusive<K>>;

/// Joins ranges that overlap or touch.
pub(super) fn joined<K: Key>(mut ranges: Ranges<K>) -> Ranges<K> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut joined: Ranges<K> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end().next().is_none_or(|next| *range.start() <= next) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// See the module.
#[derive(Clone)]
pub(super) struct Axis<K> {
    /// The first value of each interval, ascending.
    starts: Vec<K>,
    /// For each most significant byte, how many intervals begin with a lesser one.
    leads: [u16; LEADS + 1],
    /// How many ranges begin or end in front of each.
    uses: Vec<u32>,
    /// The number of each interval's row.
    rows: Vec<u32>,
    bits: Vec<u64>,
    free: Vec<u32>,
}

/// Most significant bytes.
const LEADS: usize = 1 << 8;
// Each interval has a row.
const _: () = assert!(super::matrix::ROWS_MAX <= u16::MAX as usize);

impl<K: Key> Axis<K> {
    /// One interval that nobody allows, in rows of `stride` words.
    pub fn new(stride: usize) -> Self {
        let mut leads = [1; LEADS + 1];
        leads[0] = 0;
        let (starts, uses, rows, bits) = (vec![K::MIN], vec![1], vec![0], vec![0; stride]);
        Self { starts, leads, uses, rows, bits, free: Vec::new() }
    }

    /// How many intervals there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Most comparisons that finding a row takes.
    pub fn steps(&self) -> usize {
        self.len().next_power_of_two().ilog2() as usize
    }

    /// The rules that allow `value`: the first words.
    #[inline(always)]
    pub fn row(&self, value: K, stride: usize) -> &[u64] {
        // Most fields of most rule sets are cut nowhere; the interval of the least value keeps the first row.
        if self.len() == 1 { &self.bits } else { &self.bits[self.find(value) * stride..] }
    }

    /// The row of the interval that `value` is in.
    #[inline]
    fn find(&self, value: K) -> usize {
        let lead = value.lead();
        let (first, end) = (usize::from(self.leads[lead]), usize::from(self.leads[lead + 1]));
        // Where the byte is all of the value, none that begins with it is greater.
        let is_all = size_of::<K>() == 1;
        let behind = if is_all {
            end
        } else {
            first + self.starts[first..end].partition_point(|start| *start <= value)
        };
        self.rows[behind - 1] as usize
    }

    /// Allows the ranges to the rule at `bit` of word `word`.
    pub fn allow(&mut self, ranges: &[RangeInclusive<K>], word: usize, bit: u32, stride: usize) {
        for range in ranges {
            let first = self.cut(*range.start(), stride);
            let end = range.end().next().map_or(self.len(), |next| self.cut(next, stride));
            for row in &self.rows[first..end] {
                self.bits[*row as usize * stride + word] |= 1 << bit;
            }
        }
    }

    /// Forgets the boundaries of ranges whose rule's bit is clear by now.
    pub fn release(&mut self, ranges: &[RangeInclusive<K>]) {
        for range in ranges {
            self.mend(*range.start());
            if let Some(next) = range.end().next() {
                self.mend(next);
            }
        }
    }

    /// Changes one word of each row.
    pub fn map_words(&mut self, word: usize, stride: usize, change: impl Fn(u64) -> u64) {
        self.bits.iter_mut().skip(word).step_by(stride).for_each(|bits| *bits = change(*bits));
    }

    /// Changes two words of each row.
    pub fn map_pairs(&mut self, words: [usize; 2], stride: usize, change: impl Fn(u64, u64) -> (u64, u64)) {
        for row in self.bits.chunks_exact_mut(stride) {
            (row[words[0]], row[words[1]]) = change(row[words[0]], row[words[1]]);
        }
    }

    /// Makes each row longer.
    pub fn widen(&mut self, from: usize, to: usize) {
        let mut bits = vec![0; self.bits.len() / from * to];
        for (new, old) in bits.chunks_exact_mut(to).zip(self.bits.chunks_exact(from)) {
            new[..from].copy_from_slice(old);
        }
        self.bits = bits;
    }

    /// The index of the interval that begins at `value`, made if there is none.
    fn cut(&mut self, value: K, stride: usize) -> usize {
        let at = match self.starts.binary_search(&value) {
            Ok(at) => at,
            Err(at) => {
                // Nothing lies before the least value, so there is an interval to cut.
                let old = self.rows[at - 1] as usize * stride;
                let row = self.free.pop().unwrap_or_else(|| {
                    self.bits.resize(self.bits.len() + stride, 0);
                    (self.bits.len() / stride - 1) as u32
                });
                self.bits.copy_within(old..old + stride, row as usize * stride);
                self.starts.insert(at, value);
                self.leads[value.lead() + 1..].iter_mut().for_each(|before| *before += 1);
                self.uses.insert(at, 0);
                self.rows.insert(at, row);
                at
            }
        };
        self.uses[at] += 1;
        at
    }

    /// One use less of a boundary; the last one joins what it parted.
    fn mend(&mut self, value: K) {
        let Ok(at) = self.starts.binary_search(&value) else { return };
        self.uses[at] -= 1;
        if self.uses[at] == 0 {
            self.starts.remove(at);
            self.leads[value.lead() + 1..].iter_mut().for_each(|before| *before -= 1);
            self.uses.remove(at);
            self.free.push(self.rows.remove(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_where_they_touch() {
        assert_eq!(joined(vec![5u8..=9, 0..=3, 4..=4, 20..=255, 30..=31]), [0..=9, 20..=255]);
        assert_eq!(joined(vec![250u8..=255, 255..=255, 1..=1]), [1..=1, 250..=255]);
    }

    #[test]
    fn rows_follow_ranges_and_boundaries_go_with_them() {
        let mut axis = Axis::<u8>::new(1);
        axis.allow(&[10..=19, 200..=255], 0, 0, 1);
        axis.allow(&[15..=30], 0, 1, 1);
        let bits =
            |axis: &Axis<u8>| [0, 9, 10, 15, 19, 20, 30, 31, 200, 255].map(|value| axis.row(value, 1)[0]);
        assert_eq!(bits(&axis), [0, 0, 1, 3, 3, 2, 2, 0, 1, 1]);
        assert_eq!((axis.len(), axis.steps()), (6, 3));
        axis.map_words(0, 1, |bits| bits & !1);
        axis.release(&[10..=19, 200..=255]);
        assert_eq!(bits(&axis), [0, 0, 0, 2, 2, 2, 2, 0, 0, 0]);
        assert_eq!(axis.len(), 3);
        axis.widen(1, 2);
        assert_eq!(axis.row(16, 2)[..2], [2, 0]);
    }
}
