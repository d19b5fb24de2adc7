//! Values of options: what is wrong with one, and what would be right.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::units;

/// Longer than any run, and short enough to be added to any time.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Seconds, or a duration as configurations have it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    let expected = "expected seconds, as 30, or a number with ms, s, m, h or d, as 500ms, 5m or 2h4m";
    let duration = seconds.or_else(|| units::duration_of(text)).filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or_else(|| expected.to_owned())
}

/// An integer within `range`.
pub(super) fn integer(text: &str, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected an integer from {} to {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_need_no_unit() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h4m"), Ok(Duration::from_secs(7_440)));
        for text in ["", "x", "-1", "5 parsecs", "36500d", "1.5", "99999999999999999999"] {
            assert!(duration(text).unwrap_err().contains("as 30"), "{text}");
        }
    }

    #[test]
    fn integers_say_their_range() {
        assert_eq!(integer("7", &(1..=10)), Ok(7));
        for text in ["0", "11", "x", "-1", ""] {
            assert_eq!(integer(text, &(1..=10)).unwrap_err(), "expected an integer from 1 to 10", "{text}");
        }
    }
}
