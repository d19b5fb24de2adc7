//! Ports: where packets enter and leave. A port knows nothing of functions.

pub mod af_packet;
pub mod af_xdp;
pub mod fault;
pub mod generator;
pub mod host;
mod kernel;
pub mod loopback;
pub mod offload;
pub mod pcap;
mod random;
pub mod sink;
pub mod tap;
pub mod verify;

use crate::drops::DropCounters;
use crate::memory::Pool;
use crate::packet::Burst;
#[cfg(doc)]
use crate::packet::Packet;
use crate::time::Time;

/// A port's number within its instance, given by the order in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// An Ethernet address in wire order.
pub type MacAddress = [u8; 6];

/// What a port is and can do; fixed while it is open, but for the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Name in the configuration.
    pub name: String,
    /// Kind and device, for people: `af_xdp eth0 queue 0 (copy mode)`.
    pub description: String,
    /// The port's own address.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether the link is up.
    pub link_up: bool,
}

/// What passed a port. `rx_packets` counts what was handed to the worker; what the port had to discard
/// before that (a full pool, a broken descriptor) is in `rx_drops` and not in `rx_packets`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets handed to the worker. A frame that is carried whole is one, here as everywhere.
    pub rx_packets: u64,
    /// Their bytes, without FCS.
    pub rx_bytes: u64,
    /// Packets taken for transmission and sent (or queued with the kernel or device).
    pub tx_packets: u64,
    /// Their bytes, without FCS.
    pub tx_bytes: u64,
    /// Packets discarded before the worker saw them, as far as the port can tell.
    pub rx_drops: DropCounters,
    /// Packets taken for transmission and then discarded.
    pub tx_drops: DropCounters,
    /// Copies that the port made of what it received; part of `rx_packets` unless it dropped them, too.
    pub rx_copied: u64,
    /// Copies that the port made of what it was given: `tx_packets`, `tx_drops` and what it holds exceed that by them.
    pub tx_copied: u64,
    /// Frames lost outside (the kernel's or device's own counters): not part of our sums.
    pub rx_missed: u64,
    /// Times that the link went down or the interface went away. Of several queues, as often as one saw it.
    pub link_losses: u64,
}

impl PortCounters {
    /// Adds what passed another queue, or the same port at another time.
    pub fn add(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.rx_drops.add(&other.rx_drops);
        self.tx_drops.add(&other.tx_drops);
        self.rx_copied += other.rx_copied;
        self.tx_copied += other.tx_copied;
        self.rx_missed += other.rx_missed;
        self.link_losses = self.link_losses.max(other.link_losses);
    }
}

/// Packets that workers handed each other at a port which one of them polls for several: beside [`PortCounters`], which say what
/// passed the device. Where none share the port, all is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Received here, and given to others to be worked on.
    pub rx_given: u64,
    /// Received by another, and taken here.
    pub rx_taken: u64,
    /// Taken here, and dropped before the worker saw them.
    pub rx_dropped: u64,
    /// To be sent, and given to who polls the port.
    pub tx_given: u64,
    /// Given by others to be sent here.
    pub tx_taken: u64,
}

impl Handed {
    /// Adds what another worker handed.
    pub fn add(&mut self, other: &Self) {
        self.rx_given += other.rx_given;
        self.rx_taken += other.rx_taken;
        self.rx_dropped += other.rx_dropped;
        self.tx_given += other.tx_given;
        self.tx_taken += other.tx_taken;
    }
}

/// An error of a port that ends its use until it is opened again.
#[derive(Debug, thiserror::Error)]
#[error("port {port}: {action}: {source}")]
pub struct PortError {
    /// The port's name.
    pub port: String,
    /// What was tried, with its object: `bind an AF_XDP socket to eth0 queue 0`.
    pub action: String,
    /// What the system answered.
    #[source]
    pub source: std::io::Error,
}

/// One queue pair of a port, served by one worker.
///
/// Few verbs: `rx` and `tx`; the rest is for people and for the worker's idle sleep.
pub trait Port: Send {
    /// Appends received packets to `burst`, as many as fit and are there; takes frames from `pool`.
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst);

    /// Takes all packets of `burst`: sends them, or drops and counts them in `tx_drops`. Never blocks.
    /// Also called with an empty burst once a loop so that the port can finish earlier work.
    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst);

    /// Whether [`Self::tx`] takes frames that stand for several packets ([`Packet::is_whole`]); for others the worker cuts them. Fixed
    /// while the port is open.
    fn takes_whole(&self) -> bool {
        false
    }

    /// What the port is.
    fn info(&self) -> &PortInfo;

    /// What passed it, up to now.
    fn counters(&mut self) -> PortCounters;

    /// True when the port will deliver nothing more (the end of a capture, a finished generator).
    fn exhausted(&self) -> bool {
        false
    }

    /// Whether packets come here from elsewhere: what only comes back does not keep a worker from ending.
    fn is_source(&self) -> bool {
        true
    }

    /// When the next packet was captured, for ports that replay a capture: what a clock that follows the captures
    /// is set to.
    fn next_timestamp(&self) -> Option<Time> {
        None
    }

    /// What the port was to do and could not, for people; said at the end of a run. What it lost by it is counted too.
    fn failure(&self) -> Option<&str> {
        None
    }

    /// Packets that this port took and has neither sent nor dropped yet.
    fn buffered(&self) -> u64 {
        0
    }

    /// Whether it took, or others put where it takes them, packets that are not sent yet.
    fn has_to_send(&self) -> bool {
        self.buffered() > 0
    }

    /// Whether something is under way that the descriptor won't tell of: an idle worker looks again soon.
    fn is_pending(&self) -> bool {
        self.buffered() > 0
    }

    /// A file descriptor that becomes readable when packets arrive, for an idle worker's `poll(2)`.
    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    /// What workers handed each other here.
    fn handed(&self) -> Handed {
        Handed::default()
    }

    /// Packets that it moved since the last call without the worker's seeing them: work all the same.
    fn take_moved(&mut self) -> u64 {
        0
    }

    /// Whether something came from another worker. Asked when the worker is about to sleep; who puts something there later wakes
    /// it.
    fn has_arrived(&self) -> bool {
        false
    }

    /// The run ends: nothing more is received, and other workers are told.
    fn finish(&mut self) {}

    /// After [`Self::finish`]: other workers have given all that they had.
    fn is_finished(&self) -> bool {
        true
    }

    /// Gives all frames back to `pool` and detaches from the device, which may take long. Without a pool, on a thread that
    /// has none, the frames go back to theirs by themselves, and what was not sent yet is dropped.
    fn close(&mut self, pool: Option<&mut Pool>);
}
