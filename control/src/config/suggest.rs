//! "Did you mean": the nearest of a set of valid words.

/// Most words that one is compared with.
const WORDS_MAX: usize = 2_000;

/// The word of `valid` that is nearest to `found`, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(found: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The table below grows with the product of both lengths: an absurd word gets no suggestion.
    if found.is_empty() || found.len() > 64 {
        return None;
    }
    let found = fold(found);
    let limit = (found.len() / 3).max(1);
    valid
        .into_iter()
        .take(WORDS_MAX)
        .filter(|word| word.chars().count().abs_diff(found.len()) <= limit)
        .map(|word| (fold(word), word))
        // Of words that are equally near, slips seldom change the first letter.
        .map(|(folded, word)| (distance(&found, &folded), folded.first() != found.first(), word))
        .filter(|&(distance, _, word)| distance <= limit && distance < word.chars().count())
        .min_by_key(|&(distance, first, _)| (distance, first))
        .map(|(.., word)| word)
}

/// Case and the choice between `-` and `_` are the commonest slips: they cost nothing.
fn fold(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_leaves_strangers_alone() {
        let valid = ["interface", "queues", "kind", "mode"];
        assert_eq!(nearest("interfce", valid), Some("interface"));
        assert_eq!(nearest("Queue", valid), Some("queues"));
        assert_eq!(nearest("knid", valid), Some("kind"));
        assert_eq!(nearest("af-xdp", ["af_xdp", "pcap"]), Some("af_xdp"));
        assert_eq!(nearest("wan", ["lan", "wann"]), Some("wann"));
        assert_eq!(nearest("banana", valid), None);
        assert_eq!(nearest("", valid), None);
        assert_eq!(nearest(&"x".repeat(1000), valid), None);
    }
}
