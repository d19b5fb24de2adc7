//! What is asked of a capture.

use serde::{Deserialize, Serialize};

use super::{BUDGET, COUNT, EVERY, POINTS_MAX, SECONDS, SNAP};

/// What a capture is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where packets are copied: see [`super::points`].
    pub points: Vec<String>,
    /// Terms `key=value`, all of which a packet must match.
    #[serde(default)]
    pub filter: Vec<String>,
    /// The capture ends after so many packets.
    #[serde(default)]
    pub count: Option<usize>,
    /// The capture ends after so many seconds.
    #[serde(default)]
    pub seconds: Option<usize>,
    /// Bytes of a frame that are kept at most.
    #[serde(default = "snap")]
    pub snap: usize,
    /// One packet in so many is looked at.
    #[serde(default = "every")]
    pub every: usize,
    /// Percent of a worker's time that it may take.
    #[serde(default = "budget")]
    pub budget: usize,
}

fn snap() -> usize {
    *SNAP.end()
}

fn every() -> usize {
    1
}

/// The budget if none is said.
pub fn budget() -> usize {
    3
}

impl Wanted {
    /// Whether its numbers are ones that can be had.
    ///
    /// # Errors
    /// Which isn't, and what would be valid.
    pub fn check(&self) -> Result<(), String> {
        if self.points.is_empty() || self.points.len() > POINTS_MAX {
            return Err(format!("a capture has 1 to {POINTS_MAX} points, not {}", self.points.len()));
        }
        for (what, value, range) in [
            ("count", self.count.unwrap_or(1), COUNT),
            ("seconds", self.seconds.unwrap_or(1), SECONDS),
            ("snap", self.snap, SNAP),
            ("every", self.every, EVERY),
            ("budget", self.budget, BUDGET),
        ] {
            if !range.contains(&value) {
                return Err(format!("`{what}` is {value}: expected {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}
