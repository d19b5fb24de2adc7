//! smoltcp on the port of one chain, with the services that are on its sockets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use millrace_dataplane::handoff::Waker;
use millrace_dataplane::port::host::{HOST_MTU, HostAccess};
use smoltcp::iface::{self, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::wire::{HardwareAddress, Ipv4Address, Ipv6Address};

use super::device::Device;
use super::echo::Echo;
use super::page::Pages;
use super::probe::Board;
use super::probe::run::{Probes, Sourced};
use super::web::Web;
use crate::config::Config;
use crate::instance::functions::PortFacts;

/// Packets that are received before the services have their turn.
const PACKETS_AT_ONCE: usize = 128;
/// Rounds in which each socket sends a packet, before packets are received again.
const ROUNDS_AT_ONCE: usize = 32;
/// Where smoltcp thinks that everything is behind: no address of ours, and none of anybody's.
const SOMEWHERE: (Ipv4Address, Ipv6Address) =
    (Ipv4Address::new(0, 0, 0, 1), Ipv6Address::new(0, 0, 0, 0, 0, 0, 0, 2));

/// What a chain's stack is made from. Another plan makes another stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StackPlan {
    pub(super) chain: String,
    /// Largest IP packet in bytes that it sends.
    mtu: u16,
    echo: bool,
    status_port: Option<u16>,
}

impl StackPlan {
    /// Those of a configuration, whose open ports are `ports`.
    pub(super) fn of(config: &Config, ports: &[PortFacts]) -> Vec<Self> {
        let host = &config.host;
        let chains = config.chains.iter().filter(|chain| config.host_port_of(chain).is_some());
        let plan = |chain: &crate::config::Chain| {
            let router = config.router_of(chain);
            let mtus = chain.ports().filter_map(|name| {
                let port = ports.iter().find(|port| port.name == name)?.mtu;
                let interface = router.and_then(|router| router.interface(name)).and_then(|it| it.mtu);
                Some(interface.unwrap_or(port).min(port))
            });
            Self {
                chain: chain.name.clone(),
                mtu: mtus.fold(HOST_MTU, u16::min),
                echo: host.echo,
                status_port: host.status.as_ref().map(|status| status.port),
            }
        };
        chains.map(plan).collect()
    }
}

/// A chain's stack.
pub(super) struct Stack {
    plan: StackPlan,
    access: HostAccess,
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    echo: Option<Echo>,
    web: Option<Web>,
    probes: Probes,
    start: Instant,
}

impl Stack {
    /// Connects to the port.
    pub(super) fn new(plan: StackPlan, access: HostAccess, waker: Waker, now: Instant) -> Self {
        let mut device = Device::new(access.connect(waker), plan.mtu);
        let mut config = iface::Config::new(HardwareAddress::Ip);
        // Sequence numbers and identifications start where nobody knows.
        config.random_seed = RandomState::new().build_hasher().finish();
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.set_any_ip(true);
        let routes = interface.routes_mut();
        let full = routes.add_default_ipv4_route(SOMEWHERE.0).is_err()
            || routes.add_default_ipv6_route(SOMEWHERE.1).is_err();
        debug_assert!(!full, "there is room for two routes");
        let mut sockets = SocketSet::new(Vec::new());
        let echo = plan.echo.then(|| Echo::new(&mut sockets));
        let web = plan.status_port.map(|port| Web::new(port, &mut sockets));
        let probes = Probes::new(RandomState::new().build_hasher().finish());
        Self { plan, access, device, interface, sockets, echo, web, probes, start: now }
    }

    /// The chain's name.
    pub(super) fn chain(&self) -> &str {
        &self.plan.chain
    }

    /// These probes are asked from now on.
    pub(super) fn set_probes(&mut self, probes: Vec<Sourced>, now: Instant) {
        self.probes.set(probes, &mut self.sockets, now);
    }

    /// Whether it is what `plan` asks for, on the port that `access` leads to.
    pub(super) fn is(&self, plan: &StackPlan, access: &HostAccess) -> bool {
        self.plan == *plan && self.access.is_same(access)
    }

    fn time(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.start).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Receives, serves and sends: a bounded part of what there is. True if there may be more.
    pub(super) fn turn(&mut self, now: Instant, pages: &Pages, board: &Board) -> bool {
        let time = self.time(now);
        let Self { device, interface, sockets, echo, web, probes, .. } = self;
        let mut received = 0;
        while received < PACKETS_AT_ONCE
            && interface.poll_ingress_single(time, device, sockets) != PollIngressSingleResult::None
        {
            received += 1;
            if device.take_opened() {
                echo.iter_mut().for_each(|echo| echo.make_room(sockets));
                web.iter_mut().for_each(|web| web.make_room(sockets));
            }
        }
        echo.iter_mut().for_each(|echo| echo.serve(sockets, now));
        web.iter_mut().for_each(|web| web.serve(sockets, now, pages));
        probes.turn(interface, sockets, device, board, now);
        let mut rounds = 0;
        while rounds < ROUNDS_AT_ONCE && interface.poll_egress(time, device, sockets) != PollResult::None {
            rounds += 1;
        }
        probes.sweep(sockets, now);
        received == PACKETS_AT_ONCE || rounds > 0
    }

    /// True if packets wait.
    pub(super) fn has_arrived(&self) -> bool {
        self.device.has_arrived()
    }

    /// When there is something to do although nothing arrives: not before so long.
    pub(super) fn delay(&mut self, now: Instant) -> Duration {
        let time = self.time(now);
        let timers = self.interface.poll_delay(time, &self.sockets).map(Duration::from);
        let deadlines = [
            self.echo.as_ref().and_then(Echo::next_deadline),
            self.web.as_ref().and_then(Web::next_deadline),
            self.probes.next_deadline(),
        ];
        let deadlines = deadlines.into_iter().flatten().map(|at| at.saturating_duration_since(now));
        let next = timers.into_iter().chain(deadlines).min().unwrap_or(Duration::MAX);
        // The worker takes what is there within a turn, and wakes nobody then.
        if self.device.is_full() { Duration::from_millis(1) } else { next }
    }
}
