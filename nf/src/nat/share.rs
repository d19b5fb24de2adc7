//! Which external ports are a worker's own, where several workers translate.
//!
//! The ports of every external address are dealt out in blocks, the same way on each address and for each protocol, so that
//! the port alone tells which worker has the mapping. A worker gives out ports of its own blocks only.

/// Ports of a block: a word of the port states. Even and odd ports are in it alike (RFC 4787 section 4.2.2 REQ-4).
pub const BLOCK_PORTS: u32 = 64;
/// Bits of a block's number.
const BLOCK_BITS: u32 = 16 - BLOCK_PORTS.ilog2();

/// A worker's share of the external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortShare {
    worker: u8,
    workers: u8,
}

impl Default for PortShare {
    /// All ports.
    fn default() -> Self {
        Self { worker: 0, workers: 1 }
    }
}

impl PortShare {
    /// The share of worker `worker`, counted from zero, of `workers`; all ports if there is no such worker.
    pub const fn new(worker: u8, workers: u8) -> Self {
        if worker < workers { Self { worker, workers } } else { Self { worker: 0, workers: 1 } }
    }

    /// The worker, of `workers`, that has this port. The bits of the block's number are turned round, so that neighbouring
    /// blocks are dealt out in turn and each part of the ports is shared evenly.
    #[inline]
    pub const fn owner(port: u16, workers: u8) -> u8 {
        let block = (port >> BLOCK_PORTS.ilog2()).reverse_bits() >> (16 - BLOCK_BITS);
        ((block as u32 * workers as u32) >> BLOCK_BITS) as u8
    }

    /// Is this port in the share?
    #[inline]
    pub const fn has(&self, port: u16) -> bool {
        self.workers == 1 || Self::owner(port, self.workers) == self.worker
    }

    /// Is it all ports?
    pub const fn is_whole(&self) -> bool {
        self.workers == 1
    }

    /// Does it have any port from `first` to `last`?
    pub fn has_any(&self, first: u16, last: u16) -> bool {
        let blocks = u32::from(first) / BLOCK_PORTS..=u32::from(last) / BLOCK_PORTS;
        self.is_whole() || blocks.into_iter().any(|block| self.has((block * BLOCK_PORTS) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_in_one_share() {
        for workers in 1..=64 {
            for port in 0..=u16::MAX {
                let owner = PortShare::owner(port, workers);
                assert!(owner < workers, "{port} of {workers}");
                assert!(PortShare::new(owner, workers).has(port));
                assert!(workers == 1 || !PortShare::new((owner + 1) % workers, workers).has(port));
            }
        }
    }

    #[test]
    fn shares_are_even_among_all_ports_and_the_well_known_ones() {
        for workers in 1..=16u8 {
            for ports in [0..=1_023u16, 1_024..=u16::MAX] {
                let mut counts = vec![0u32; workers.into()];
                for port in ports.clone() {
                    counts[usize::from(PortShare::owner(port, workers))] += 1;
                }
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 2 * BLOCK_PORTS, "{workers}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_block_stays_together() {
        for port in (0..=u16::MAX).step_by(BLOCK_PORTS as usize) {
            let owners: Vec<_> = (port..=port + 63).map(|port| PortShare::owner(port, 7)).collect();
            assert!(owners.iter().all(|owner| *owner == owners[0]), "{port}");
        }
    }

    #[test]
    fn a_range_may_have_no_port_of_a_worker() {
        let shares = |first, last| (0..4).map(move |worker| PortShare::new(worker, 4).has_any(first, last));
        assert_eq!(shares(1_024, 65_535).filter(|has| *has).count(), 4);
        assert_eq!(shares(2_048, 2_111).filter(|has| *has).count(), 1);
        assert!(PortShare::default().has_any(7, 7));
    }
}
