//! Reading fields from bytes without ever leaving them.

use millrace_dataplane::drops::DropReason;

/// The `N` bytes of `frame` from `at`, if they end at or before `limit` (an index into `frame`).
#[inline]
pub(super) fn take<const N: usize>(frame: &[u8], at: usize, limit: usize) -> Result<&[u8; N], DropReason> {
    if at.saturating_add(N) > limit {
        return Err(DropReason::Truncated);
    }
    frame.get(at..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Truncated)
}

/// The big-endian `u16` at `at`, an index below `N - 1` that the caller writes as a literal.
#[inline]
pub(super) const fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian `u32` at `at`, an index below `N - 3` that the caller writes as a literal.
#[inline]
pub(super) const fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The `M` bytes at `at`; `at + M` is at most `N`, and the caller writes both as literals.
#[inline]
pub(super) fn part<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&bytes[at..at + M]);
    out
}

/// An index into a frame as a `u16`. Frames are at most 65,535 bytes, so nothing is ever cut off.
#[inline]
pub(super) const fn index(at: usize) -> u16 {
    debug_assert!(at <= u16::MAX as usize);
    at as u16
}

/// A run of bytes of the frame that a header was parsed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Index of the first byte, from the start of the frame.
    pub start: u16,
    /// Length in bytes.
    pub length: u16,
}

impl Span {
    /// No bytes.
    pub const EMPTY: Self = Self { start: 0, length: 0 };

    /// From `start` up to `end`; empty if `end` is before `start`.
    #[inline]
    pub(super) const fn between(start: usize, end: usize) -> Self {
        Self { start: index(start), length: index(end.saturating_sub(start)) }
    }

    /// Index behind the last byte, from the start of the frame.
    pub const fn end(self) -> usize {
        self.start as usize + self.length as usize
    }

    /// Whether there are no bytes.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The bytes, out of the frame that was parsed; empty if they are not inside `frame`.
    pub fn of(self, frame: &[u8]) -> &[u8] {
        frame.get(self.start as usize..self.end()).unwrap_or_default()
    }
}
