//! The least work that one core can do to carry a packet through a chain once its flow is known, as a yardstick: the
//! data plane's [`LimitLoop`], with this crate's repeatable numbers. The work is the same whatever chain it is compared with.

use crate::random::Random;
use millrace_dataplane::limit_loop::LimitLoop;
use millrace_dataplane::memory::ArenaError;

/// The loop with its tables, for a number of flows.
#[derive(Debug)]
pub struct Limit(LimitLoop);

impl Limit {
    /// Fills the tables with `flows` flows.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(flows: usize) -> Result<Self, ArenaError> {
        let mut random = Random::new(88_172_645_463_325_252);
        LimitLoop::new(flows, || random.next()).map(Self)
    }

    /// One run of at least 400,000 packets and four laps, as a run of a chain: TSC cycles per packet.
    pub fn run(&mut self) -> f64 {
        self.0.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hit_path::bursts;

    #[test]
    fn runs_of_the_limit_and_of_a_chain_are_as_long() {
        for flows in [1, 10_000, 200_000] {
            let mut random = Random::new(1);
            assert_eq!(LimitLoop::new(flows, || random.next()).unwrap().bursts(), bursts(flows));
        }
        assert!(Limit::new(64).unwrap().run() > 0.0);
    }
}
