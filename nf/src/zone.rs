//! Zones: the groups of ports between which chains and rules decide.

use std::fmt;

/// A zone of a chain. Zones are numbered by the configuration, in the order in which it names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u8);

impl ZoneId {
    /// The data plane itself: the zone of packets to and from its own addresses. Its host stack is behind the only port there.
    pub const LOCAL: Self = Self(u8::MAX - 2);
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::LOCAL { f.write_str("local") } else { write!(f, "zone {}", self.0) }
    }
}
