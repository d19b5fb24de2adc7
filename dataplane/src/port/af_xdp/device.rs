//! An interface opened for AF_XDP: checked, with its program attached, shared by the ports of its queues.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::frames::Frames;
use super::port::{AfXdpPort, Live, watch_and_read};
use super::program::{Program, privileges};
use super::shared::Device;
use super::socket::{RingSizes, XskSocket};
use super::umem::Umem;
use super::{AfXdpConfig, Queues, bpf, interface};
use crate::port::kernel::Failure;
use crate::port::kernel::netlink::Link;
use crate::port::{MacAddress, PortError, kernel};
use crate::time::Time;

/// Entries that a ring may have.
const RING_ENTRIES: std::ops::RangeInclusive<u32> = 64..=65_536;

/// An interface with the program attached. It stays attached until this and all its ports are dropped or
/// closed, or the process ends.
#[derive(Debug)]
pub struct AfXdpDevice {
    config: AfXdpConfig,
    queues: Vec<u32>,
    device: Arc<Device>,
    shared: Arc<Mutex<Weak<Device>>>,
}

impl AfXdpDevice {
    /// Checks the interface, which must exist in the calling thread's network namespace and be up, and
    /// attaches the program. Packets go to the kernel until a queue has its port.
    ///
    /// # Errors
    /// The configuration or the interface does not fit, somebody else's XDP program is attached, or
    /// privileges are missing. The error says what was tried and what would help.
    pub fn open(config: &AfXdpConfig) -> Result<Self, PortError> {
        Self::open_inner(config).map_err(|failure| error(config, failure))
    }

    fn open_inner(config: &AfXdpConfig) -> Result<Self, Failure> {
        check_rings(config)?;
        let link = kernel::interface::find(&config.interface)?;
        let available = interface::receive_queues(&link);
        let queues = choose_queues(config, available)?;
        if queues.len() < available as usize {
            tracing::warn!(
                port = config.name,
                interface = link.name,
                used = queues.len(),
                available,
                "packets on the queues that the port does not use go to the kernel"
            );
        }
        let promiscuous =
            config.promiscuous.then(|| interface::make_promiscuous(&link.name, link.index)).transpose()?;
        let program = Program::attach(&link.name, link.index, available, config.attach, config.holder)?;
        if let Some(advice) = interface::partial_checksum_advice(&link) {
            tracing::warn!(
                port = config.name,
                interface = link.name,
                "the kernel at the other end of this veth pair may send TCP and UDP with unfinished checksums; {advice}"
            );
        }
        let device = Arc::new(Device::new(program, link.index, promiscuous));
        let shared = Arc::new(Mutex::new(Arc::downgrade(&device)));
        Ok(Self { config: config.clone(), queues, device, shared })
    }

    /// The queues that are to have a port, in ascending order.
    pub fn queues(&self) -> &[u32] {
        &self.queues
    }

    /// Opens the port of one queue; its packets come to it from now on. Call it in the network namespace in
    /// which the device was opened. The port works with the pool of `umem`, which is to be given to all its
    /// calls.
    ///
    /// # Errors
    /// The MTU does not fit in the pool's frames, the queue is not one of [`Self::queues`] or in use, the
    /// interface is gone, or memory can't be locked.
    pub fn port(&self, queue: u32, umem: &Umem) -> Result<AfXdpPort, PortError> {
        self.port_inner(queue, umem).map_err(|failure| error(&self.config, failure))
    }

    /// Opens the ports of all queues with one pool.
    ///
    /// # Errors
    /// As for [`Self::port`].
    pub fn ports(&self, umem: &Umem) -> Result<Vec<AfXdpPort>, PortError> {
        self.queues.iter().map(|&queue| self.port(queue, umem)).collect()
    }

    fn port_inner(&self, queue: u32, umem: &Umem) -> Result<AfXdpPort, Failure> {
        let config = &self.config;
        if !self.queues.contains(&queue) {
            return Err(no_such_queue(config, queue, &format!("opened are {:?}", self.queues)));
        }
        let (link, live) = open_queue(config, &self.device, queue, umem)?;
        let (config, umem, shared) = (config.clone(), umem.clone(), Arc::clone(&self.shared));
        Ok(AfXdpPort::new(&link, live, Reopener { config, queue, umem, shared }))
    }
}

/// What it takes to open a queue again on an interface that came back.
#[derive(Clone, Debug)]
pub(super) struct Reopener {
    pub(super) config: AfXdpConfig,
    pub(super) queue: u32,
    umem: Umem,
    /// The device that all queues of the interface share; the first that comes back opens it.
    shared: Arc<Mutex<Weak<Device>>>,
}

impl Reopener {
    /// Opens the queue again. Takes as long as the kernel does. `mac` is the address that the port keeps.
    pub(super) fn open(&self, mac: MacAddress) -> Result<(Link, Live), Failure> {
        let link = kernel::interface::find(&self.config.interface)?;
        let device = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            match shared.upgrade().filter(|device| device.interface_index() == link.index) {
                Some(device) => device,
                None => {
                    let device = AfXdpDevice::open_inner(&self.config)?.device;
                    *shared = Arc::downgrade(&device);
                    device
                }
            }
        };
        let (link, mut live) = open_queue(&self.config, &device, self.queue, &self.umem)?;
        if link.mac != mac {
            tracing::warn!(
                port = self.config.name,
                interface = link.name,
                "the interface came back with another address; the port keeps the one it had, and receives all frames"
            );
            live.promiscuous = Some(interface::make_promiscuous(&link.name, link.index)?);
        }
        Ok((link, live))
    }
}

fn open_queue(
    config: &AfXdpConfig,
    device: &Arc<Device>,
    queue: u32,
    umem: &Umem,
) -> Result<(Link, Live), Failure> {
    let index = device.interface_index();
    let (watch, link) =
        watch_and_read(index).map_err(|error| (format!("read the link of {}", config.interface), error))?;
    kernel::interface::check_mtu(&config.interface, link.mtu, umem.frame_bytes())?;
    let sizes = RingSizes { rx: config.rx_ring, tx: config.tx_ring, fill: config.fill_ring };
    let socket = XskSocket::open(umem, &config.interface, index, queue, sizes, config.mode)?;
    bpf::set_socket(device.program.map().as_fd(), queue, socket.fd()).map_err(|error| {
        (format!("direct {} queue {queue} to its AF_XDP socket", config.interface), privileges(error))
    })?;
    let live = Live {
        socket,
        frames: Frames::new(umem),
        umem: umem.clone(),
        device: Arc::clone(device),
        promiscuous: None,
        queue,
        fill_target: config.fill_ring,
        tx_ring: config.tx_ring,
        watch,
        next_look: Time(0),
    };
    Ok((link, live))
}

fn error(config: &AfXdpConfig, (action, source): Failure) -> PortError {
    PortError { port: config.name.clone(), action, source }
}

fn check_rings(config: &AfXdpConfig) -> Result<(), Failure> {
    let rings = [("rx_ring", config.rx_ring), ("tx_ring", config.tx_ring), ("fill_ring", config.fill_ring)];
    for (name, size) in rings {
        if !size.is_power_of_two() || !RING_ENTRIES.contains(&size) {
            let text = format!("{size} is no power of two from {RING_ENTRIES:?}");
            let error = io::Error::new(io::ErrorKind::InvalidInput, text);
            return Err((format!("use the ring size {name}"), error));
        }
    }
    Ok(())
}

fn choose_queues(config: &AfXdpConfig, available: u32) -> Result<Vec<u32>, Failure> {
    let mut queues: Vec<u32> = match &config.queues {
        Queues::All => (0..available).collect(),
        Queues::List(list) => list.clone(),
    };
    queues.sort_unstable();
    queues.dedup();
    match queues.iter().find(|&&queue| queue >= available) {
        Some(&queue) => Err(no_such_queue(
            config,
            queue,
            &format!("it has {available}, counted from 0; change that with: ethtool -L {}", config.interface),
        )),
        None if queues.is_empty() => {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the list of queues is empty");
            Err((format!("use queues of {}", config.interface), error))
        }
        None => Ok(queues),
    }
}

fn no_such_queue(config: &AfXdpConfig, queue: u32, why: &str) -> Failure {
    let text = format!("there is no such receive queue: {why}");
    (format!("use queue {queue} of {}", config.interface), io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_rings_are_checked() {
        let mut config = AfXdpConfig::new("wan", "eth0");
        assert_eq!(choose_queues(&config, 3).unwrap(), [0, 1, 2]);
        config.queues = Queues::List(vec![2, 0, 2]);
        assert_eq!(choose_queues(&config, 3).unwrap(), [0, 2]);
        let (action, error) = choose_queues(&config, 2).unwrap_err();
        assert!(action.contains("queue 2 of eth0") && error.to_string().contains("it has 2"), "{error}");
        config.queues = Queues::List(Vec::new());
        assert!(choose_queues(&config, 2).is_err());
        assert!(check_rings(&config).is_ok());
        config.tx_ring = 1_000;
        let (action, error) = check_rings(&config).unwrap_err();
        assert!(action.contains("tx_ring") && error.to_string().contains("1000"), "{error}");
    }
}
