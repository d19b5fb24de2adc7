//! (being written)
#![allow(missing_docs)]
pub struct Arena;
pub struct ArenaConfig;
pub struct ArenaError;
pub struct ArenaReport;
pub struct Backing;
