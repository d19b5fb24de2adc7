//! From the settings of a port to the open port.

use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use millrace_dataplane::memory::Pool;
use millrace_dataplane::port::af_packet::{self, AfPacketConfig};
use millrace_dataplane::port::af_xdp::{self, AfXdpConfig, AfXdpDevice, Umem};
use millrace_dataplane::port::fault::FaultPort;
use millrace_dataplane::port::generator::{
    AddressRange, Endpoint, FrameBytes, GeneratorPort, Order, PortRange, Profile, Protocol, Rate, TcpFields,
};
use millrace_dataplane::port::host::{HOST_MTU, HostPort};
use millrace_dataplane::port::pcap::{Pace, PcapConfig, PcapPort};
use millrace_dataplane::port::sink::SinkPort;
use millrace_dataplane::port::tap::{self, TapConfig};
use millrace_dataplane::port::{MacAddress, Port, PortId};

use super::InstanceError;
use super::functions::PortFacts;
use super::hosts::Hosts;
use super::queues::Queues;
use super::shifted::Shifted;
use crate::config::generator::{self, FlowOrder, Generator};
use crate::config::network::{ICMP, ICMPV6, TCP};
use crate::config::ports::{self, Attach, CopyMode};
use crate::config::settings::Workers;
use crate::config::{self, PortKind};

/// A port that is open.
pub struct OpenPort {
    /// Its number.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// The address that others send to.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The same as the queues say it.
    pub device_mtu: u16,
    /// Its queues, by the worker that polls them.
    pub queues: Vec<Box<dyn Port>>,
}

impl OpenPort {
    /// What functions know of it.
    pub fn facts(&self) -> PortFacts {
        let &Self { id, mac, mtu, device_mtu, .. } = self;
        PortFacts { id, name: self.name.clone(), mac, mtu, device_mtu }
    }

    /// Closes it before it was used; `pools` are those of the workers.
    pub fn close(&mut self, pools: &mut [Pool]) {
        self.queues.iter_mut().zip(pools).for_each(|(queue, pool)| queue.close(Some(pool)));
    }
}

/// What ports are opened with.
#[derive(Clone, Debug, Default)]
pub struct Opener {
    /// By worker.
    umems: Vec<Option<Umem>>,
    frame_bytes: usize,
    workers: Workers,
    captures_ahead_ns: Option<u64>,
    hosts: Hosts,
}

impl Opener {
    /// For ports that use the frames of `pools`, one a worker and all alike; AF_XDP only if their frames allow it. With
    /// `captures_ahead_ns`, captures follow the clock, which is that many nanoseconds behind them; else they keep their intervals.
    /// Ports to the host stack are told to `hosts`.
    pub fn new(workers: &Workers, pools: &[Pool], captures_ahead_ns: Option<u64>, hosts: Hosts) -> Self {
        let umems = pools.iter().map(|pool| Umem::new(pool).ok()).collect();
        let frame_bytes = pools.first().map_or(0, Pool::frame_bytes);
        Self { umems, frame_bytes, workers: workers.clone(), captures_ahead_ns, hosts }
    }

    /// Opens a port.
    ///
    /// # Errors
    /// What the port or the system answers.
    pub fn open(&self, port: &config::Port, id: PortId) -> Result<OpenPort, InstanceError> {
        let name = port.name.as_str();
        let pollers = self.workers.pollers(port.kind.queues());
        let (mac, mtu, open): Opened = match &port.kind {
            PortKind::AfXdp(settings) => {
                of_device(name, self.open_af_xdp(name, settings, pollers)?, pollers)?
            }
            PortKind::AfPacket(settings) => {
                let queues = af_packet::open(&AfPacketConfig {
                    name: name.to_owned(),
                    interface: settings.interface.clone(),
                    queues: settings.queues,
                    promiscuous: settings.promiscuous,
                    frame_bytes: self.frame_bytes,
                    carries_whole: port.carries_whole(),
                })?;
                of_device(name, queues, pollers)?
            }
            PortKind::Tap(settings) => {
                let queues = tap::open(&TapConfig {
                    name: name.to_owned(),
                    interface: settings.interface.clone(),
                    queues: settings.queues,
                    mac: mac_of(settings.mac, id),
                    mtu: settings.mtu,
                    frame_bytes: self.frame_bytes,
                    carries_whole: port.carries_whole(),
                })?;
                of_device(name, queues, pollers)?
            }
            PortKind::Pcap(pcap) => {
                (mac_of(pcap.link.mac, id), pcap.link.mtu, vec![self.open_pcap(name, pcap, id)?])
            }
            PortKind::Generator(generator) => {
                let mac = mac_of(generator.link.mac, id);
                let open = GeneratorPort::new(name, &profile(generator, mac, id))
                    .map_err(|error| InstanceError::port(name, error.to_string()))?;
                (mac, generator.link.mtu, vec![Box::new(open)])
            }
            PortKind::Sink(sink) => {
                let (mac, mtu) = (mac_of(sink.link.mac, id), sink.link.mtu);
                let open = match sink.verify_checksums {
                    true => SinkPort::verifying(name, mac, mtu).0,
                    false => SinkPort::new(name, mac, mtu),
                };
                (mac, mtu, vec![Box::new(open)])
            }
            PortKind::Host(chain) => {
                let mac = mac_of(None, id);
                let (open, access) = HostPort::new(name, mac).map_err(|source| InstanceError::System {
                    action: format!("open the port {name}"),
                    source,
                })?;
                self.hosts.opened(chain, access);
                (mac, HOST_MTU, vec![Box::new(open)])
            }
        };
        let with_faults = |queue| match &port.fault {
            Some(faults) => Box::new(FaultPort::new(queue, faults)),
            None => queue,
        };
        let queues: Vec<_> = open.into_iter().map(with_faults).collect();
        let device_mtu = queues.first().map_or(mtu, |queue| queue.info().mtu);
        Ok(OpenPort { id, name: name.to_owned(), mac, mtu, device_mtu, queues })
    }

    fn open_pcap(&self, name: &str, pcap: &ports::Pcap, id: PortId) -> Result<Box<dyn Port>, InstanceError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let config = PcapConfig {
            name: name.to_owned(),
            mac: mac_of(pcap.link.mac, id),
            mtu: pcap.link.mtu,
            input: pcap.input.clone(),
            output: pcap.output.clone(),
            pace: if self.captures_ahead_ns.is_some() { Pace::UpToNow } else { Pace::Recorded },
            epoch_ns: self.captures_ahead_ns.unwrap_or(u64::try_from(since_1970).unwrap_or(0)),
        };
        let port = PcapPort::open(&config)?;
        Ok(match self.captures_ahead_ns {
            Some(ahead_ns) => Box::new(Shifted::new(port, ahead_ns)),
            None => Box::new(port),
        })
    }

    /// Each queue with the frames of the worker that polls it.
    fn open_af_xdp(
        &self,
        name: &str,
        settings: &ports::AfXdp,
        pollers: usize,
    ) -> Result<Vec<Box<dyn Port>>, InstanceError> {
        let config = AfXdpConfig {
            queues: af_xdp::Queues::List((0..u32::from(settings.queues)).collect()),
            rx_ring: settings.rx_ring,
            tx_ring: settings.tx_ring,
            fill_ring: settings.rx_ring,
            mode: match settings.mode {
                CopyMode::Auto => af_xdp::CopyMode::Auto,
                CopyMode::Copy => af_xdp::CopyMode::Copy,
                CopyMode::ZeroCopy => af_xdp::CopyMode::ZeroCopy,
            },
            attach: match settings.attach {
                Attach::Auto => af_xdp::AttachMode::Auto,
                Attach::Native => af_xdp::AttachMode::Native,
                Attach::Skb => af_xdp::AttachMode::Skb,
            },
            promiscuous: settings.promiscuous,
            ..AfXdpConfig::new(name, &settings.interface)
        };
        let device = AfXdpDevice::open(&config)?;
        let open = |(at, &queue): (usize, &u32)| {
            let Some(umem) = self.umems.get(at % pollers).and_then(Option::as_ref) else {
                let message =
                    "the instance's frames are not of 2048 or 4096 bytes, which AF_XDP needs: start anew";
                return Err(InstanceError::port(name, message));
            };
            Ok(Box::new(device.port(queue, umem)?) as Box<dyn Port>)
        };
        device.queues().iter().enumerate().map(open).collect()
    }
}

/// A device's address and MTU, and its queues by who polls them.
type Opened = (MacAddress, u16, Vec<Box<dyn Port>>);

/// Address, MTU and queues of a device, dealt out in turn to those who poll.
fn of_device(name: &str, queues: Vec<Box<dyn Port>>, pollers: usize) -> Result<Opened, InstanceError> {
    let first = queues.first().ok_or_else(|| InstanceError::port(name, "the interface has no queue"))?;
    let (mac, mtu) = (first.info().mac, first.info().mtu);
    let mut dealt: Vec<Vec<Box<dyn Port>>> = (0..pollers).map(|_| Vec::new()).collect();
    queues.into_iter().enumerate().for_each(|(at, queue)| dealt[at % pollers].push(queue));
    let join = |queues: Vec<Box<dyn Port>>| {
        let mut queues = queues.into_iter();
        Some(Queues::join(queues.next()?, queues.collect()))
    };
    Ok((mac, mtu, dealt.into_iter().filter_map(join).collect()))
}

/// The address of a port that has none from a device: as given, or made from its number.
pub fn mac_of(configured: Option<MacAddress>, id: PortId) -> MacAddress {
    let [high, low] = id.0.to_be_bytes();
    configured.unwrap_or([0x02, 0x4d, 0x52, 0x00, high, low])
}

fn addresses(network: IpNet) -> AddressRange {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    let count = 1u32.checked_shl(bits.min(24)).unwrap_or(1);
    AddressRange { first: network.network(), count }
}

/// What a generator sends: from a station beside the port, to the port's own address unless told otherwise.
fn profile(settings: &Generator, mac: MacAddress, id: PortId) -> Profile {
    let [high, low] = id.0.to_be_bytes();
    let station = [0x02, 0x4d, 0x52, 0x01, high, low];
    let destination = settings.destination_mac.unwrap_or(mac);
    // The reverse profile is sent from the target's side.
    let (source_mac, target_mac) =
        if settings.reverse { (destination, station) } else { (station, destination) };
    let range =
        |ports: &std::ops::RangeInclusive<u16>| PortRange { first: *ports.start(), last: *ports.end() };
    let protocol = match settings.protocol {
        TCP => Protocol::Tcp(TcpFields::SYN),
        ICMP | ICMPV6 => Protocol::IcmpEcho,
        _ => Protocol::Udp,
    };
    Profile {
        source: Endpoint {
            mac: source_mac,
            addresses: addresses(settings.source),
            ports: range(&settings.source_ports),
        },
        target: Endpoint {
            mac: target_mac,
            addresses: addresses(settings.destination),
            ports: range(&settings.destination_ports),
        },
        protocol,
        flows: settings.flows as usize,
        frame_bytes: match settings.frame_bytes {
            generator::FrameBytes::Fixed(bytes) => FrameBytes::Fixed(usize::from(bytes)),
            generator::FrameBytes::Imix => FrameBytes::Imix,
            generator::FrameBytes::Range(least, most) => {
                FrameBytes::Range(usize::from(least), usize::from(most))
            }
        },
        vlan: None,
        ttl: 64,
        rate: settings.rate_pps.map_or(Rate::Unlimited, Rate::PerSecond),
        packets: settings.packets,
        order: match settings.order {
            FlowOrder::Permutation => Order::Permuted,
            FlowOrder::Sequential => Order::Sequential,
        },
        seed: settings.seed,
        reversed: settings.reverse,
    }
}
