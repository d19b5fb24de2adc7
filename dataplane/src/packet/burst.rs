//! Bursts.
/// (being written)
#[derive(Debug)]
pub struct Burst(());
