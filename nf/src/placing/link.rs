//! How much of what is about the link goes to everyone.

use millrace_dataplane::time::Time;

/// Packets in a second that every worker gets a copy of, and how many at once.
const PER_SECOND: u64 = 10_000;
const AT_ONCE: u64 = 1_000;
const NANOS_EACH: u64 = 1_000_000_000 / PER_SECOND;

/// A token bucket. Nobody on the link makes all workers work as much as they like.
#[derive(Debug, Default)]
pub(super) struct LinkBudget {
    /// When all tokens are there again.
    full_at: Time,
}

impl LinkBudget {
    /// Takes a token, if there is one.
    pub(super) fn has_room(&mut self, now: Time) -> bool {
        let full_at = self.full_at.0.max(now.0) + NANOS_EACH;
        if full_at - now.0 > AT_ONCE * NANOS_EACH {
            return false;
        }
        self.full_at = Time(full_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let (mut budget, start) = (LinkBudget::default(), Time::from_secs(9));
        let took =
            |budget: &mut LinkBudget, now| (0..3 * AT_ONCE).filter(|_| budget.has_room(now)).count() as u64;
        assert_eq!(took(&mut budget, start), AT_ONCE);
        assert_eq!(took(&mut budget, Time(start.0 + 10 * NANOS_EACH)), 10);
        assert_eq!(took(&mut budget, Time::from_secs(100)), AT_ONCE);
    }
}
