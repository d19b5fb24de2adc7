//! The parts of the test that holds the cache against no cache and against an independent serialisation.

pub mod frames;
pub mod functions;
pub mod random;
pub mod serialise;
