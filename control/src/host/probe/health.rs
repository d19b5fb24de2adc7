//! From single checks to a state: some in a row decide.

/// Whether a host works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked yet.
    #[default]
    Unknown,
    /// It does.
    Up,
    /// It doesn't.
    Down,
}

impl State {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The health of a host, by its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    state: State,
    /// Checks in a row that contradict the state.
    against: u32,
}

impl Health {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Notes a check. The first one decides at once; later ones when `rise` good or `fall` bad ones came in a row. Returns the state
    /// before, if it is another now.
    pub fn note(&mut self, good: bool, rise: u32, fall: u32) -> Option<State> {
        let says = if good { State::Up } else { State::Down };
        if says == self.state {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match self.state {
            State::Unknown => 1,
            State::Down => rise,
            State::Up => fall,
        };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        Some(std::mem::replace(&mut self.state, says))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_checks_in_a_row_decide() {
        let mut health = Health::default();
        let mut note = |good| health.note(good, 2, 3).map(|before| (before, health.state()));
        assert_eq!(note(true), Some((State::Unknown, State::Up)));
        // Two bad ones, and a good one between.
        assert_eq!([false, false, true, false, false].map(&mut note), [None; 5]);
        assert_eq!(note(false), Some((State::Up, State::Down)));
        assert_eq!([false, true, false, true].map(&mut note), [None; 4]);
        assert_eq!(note(true), Some((State::Down, State::Up)));
        let mut other = Health::default();
        assert_eq!(other.note(false, 5, 5), Some(State::Unknown));
        assert_eq!(other.state(), State::Down);
    }
}
