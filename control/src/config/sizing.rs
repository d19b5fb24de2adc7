//! How much memory a configuration needs, and whether frames hold what interfaces send.

use millrace_dataplane::flow::cache::FlowCache;
use millrace_dataplane::flow::session::{PARTS_MAX, SessionTable};
use millrace_dataplane::handoff::{RING_PACKETS, WAITING_MAX, ring_packets};
use millrace_dataplane::limits::{
    BURST_PACKETS_MAX, DATA_OFFSET, LARGE_FRAME_BYTES, LARGE_FRAMES_POSTED, LARGE_FRAMES_TURN,
    LARGE_PACKETS_MAX,
};
use millrace_dataplane::memory::PoolConfig;
use millrace_dataplane::port::loopback::PACKETS_MAX as LOOPBACK_PACKETS;
use millrace_dataplane::stage::STAGE_PACKETS;
use millrace_nf::nat::{Capacity, NatState};

use super::context::{Context, Finding};
use super::functions::FunctionKind;
use super::nat::Nat;
use super::places::join;
use super::ports::PortKind;
use super::units::show_size;
use super::{Config, Port};

/// Words of a flow's key and of its program's operands that are planned for: IPv6 with ports, both addresses
/// rewritten and an outer header fit. What a configuration really needs is known when its chains are built.
const FLOW_WORDS_PLANNED: usize = 28;
/// Mappings of a NAT that only static forwards may use.
const NAT_MAPPINGS_STATIC: usize = 4_096;
/// Words of a session that each function of a chain may have.
const SESSION_WORDS_PER_FUNCTION: usize = 2;
/// Frames a worker may hold while neighbours are resolved.
const HELD_FRAMES_MAX: u64 = 1_024;
/// Frames that a worker needs to make packets of its own, where others poll.
const MADE_FRAMES: u64 = 512;
/// Sessions of a worker that owns no connections: as few as a table can have.
pub(crate) const SESSIONS_WITHOUT_OWNING: usize = 64;
/// Frames that one direction of a port with faults may hold.
const FAULT_HELD_MAX: u64 = millrace_dataplane::port::fault::HELD_MAX as u64;
/// Ethernet header with two VLAN tags.
const LINK_HEADER_BYTES: u64 = 22;
/// What an arena is a multiple of.
const ARENA_BYTES_STEP: u64 = 2 << 20;
/// What each worker may lose to the alignment of its pool and tables.
const ALIGNMENT_BYTES: u64 = 64 << 10;
/// MTU of an interface that says nothing else.
const MTU_DEFAULT: u16 = 1_500;

/// The memory of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Packet buffers of all workers.
    pub frames: u64,
    /// Bytes of each.
    pub frame_bytes: u64,
    /// Buffers of all workers for frames that are carried whole, of [`LARGE_FRAME_BYTES`] each.
    pub large_frames: u64,
    /// Bytes of all session tables.
    pub session_bytes: u64,
    /// Bytes of all flow caches.
    pub flow_cache_bytes: u64,
    /// Bytes of the tables of all NATs.
    pub nat_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
}

impl Sizing {
    /// What `config` asks for, or needs where it says nothing.
    pub fn of(config: &Config) -> Self {
        let frames = (0..config.workers.count()).map(|worker| frames_of(config, worker)).sum::<u64>();
        let frame_bytes = config.memory.frame_bytes.map_or_else(|| frame_bytes_needed(config), u64::from);
        let workers = config.workers.owners() as u64;
        let functions = config.chains.iter().map(|chain| chain.functions.len()).max().unwrap_or(0);
        let parts = (SESSION_WORDS_PER_FUNCTION * functions).min(PARTS_MAX);
        let session_bytes = workers * session_table_bytes(config.sessions.capacity, parts);
        let entries = config.sessions.flow_cache_entries as usize;
        let flow_cache_bytes = workers * FlowCache::bytes_for(entries.max(1), FLOW_WORDS_PLANNED) as u64;
        let nat_bytes: u64 = nats(config).map(|nat| workers * nat_table_bytes(config, nat)).sum();
        let large_frames =
            (0..config.workers.count()).map(|worker| large_frames_of(config, worker)).sum::<u64>();
        let needed = frames * frame_bytes
            + large_frames * LARGE_FRAME_BYTES as u64
            + session_bytes
            + flow_cache_bytes
            + nat_bytes
            + (workers + 1) * ALIGNMENT_BYTES;
        let needed = needed.next_multiple_of(ARENA_BYTES_STEP);
        let arena_bytes = config.memory.size_bytes.unwrap_or(needed);
        Self { frames, frame_bytes, large_frames, session_bytes, flow_cache_bytes, nat_bytes, arena_bytes }
    }

    /// Bytes that are used of the arena.
    pub fn used_bytes(&self) -> u64 {
        self.frame_pool_bytes() + self.session_bytes + self.flow_cache_bytes + self.nat_bytes
    }

    /// Bytes of all buffers.
    pub fn frame_pool_bytes(&self) -> u64 {
        self.frames * self.frame_bytes + self.large_frames * LARGE_FRAME_BYTES as u64
    }
}

/// Bytes of a session table with `parts` words for functions in each session.
pub(crate) fn session_table_bytes(capacity: u32, parts: usize) -> u64 {
    SessionTable::bytes_for(capacity as usize, parts) as u64
}

/// Room for as many mappings as there can be sessions, each of a host of its own.
pub(crate) fn nat_capacity(config: &Config) -> Capacity {
    let sessions = config.sessions.capacity as usize;
    Capacity {
        // More than sessions, so that a full session table makes room before the NAT refuses.
        mappings: (sessions + sessions / 64 + 64 + NAT_MAPPINGS_STATIC).min(1 << 24),
        mappings_static: NAT_MAPPINGS_STATIC,
        subscribers: sessions.min(1 << 24),
        contacts: sessions.min(1 << 24),
    }
}

/// Bytes of a NAT's tables.
pub(crate) fn nat_table_bytes(config: &Config, nat: &Nat) -> u64 {
    let addresses = nat.pool.iter().map(|range| range.count()).sum();
    NatState::bytes_for(&nat_capacity(config), nat.filtering.into(), addresses) as u64
}

fn nats(config: &Config) -> impl Iterator<Item = &Nat> {
    let functions = config.chains.iter().flat_map(|chain| &chain.functions);
    functions.filter_map(|name| match &config.function(name)?.kind {
        FunctionKind::Nat(nat) => Some(nat),
        _ => None,
    })
}

/// Queues of a port that a worker polls.
pub(crate) fn queues_of(config: &Config, port: &Port, worker: usize) -> impl Iterator<Item = u16> + use<> {
    let queues = port.kind.queues();
    let pollers = config.workers.pollers(queues);
    (0..queues).filter(move |queue| usize::from(*queue) % pollers == worker)
}

fn polls(config: &Config, port: &Port, worker: usize) -> bool {
    worker < config.workers.pollers(port.kind.queues())
}

/// Frames that a worker's queues hold when their rings are full.
fn ring_frames(config: &Config, worker: usize) -> u64 {
    let of_port = |port: &Port| {
        let of_queue = match &port.kind {
            // Fill and RX ring, TX and completion ring.
            PortKind::AfXdp(af_xdp) => 2 * u64::from(af_xdp.rx_ring + af_xdp.tx_ring),
            // A batch to be read into and one that waits.
            PortKind::AfPacket(_) | PortKind::Tap(_) => BURST_PACKETS_MAX as u64,
            _ => 0,
        };
        // What is delayed, or overtaken, in both directions.
        let faults = if port.fault.is_some() && polls(config, port, worker) { 2 * FAULT_HELD_MAX } else { 0 };
        queues_of(config, port, worker).count() as u64 * of_queue + faults
    };
    config.ports.iter().map(of_port).sum()
}

/// Frames that a worker that polls needs.
fn frames_needed(config: &Config, worker: usize) -> u64 {
    let bursts = 2 * BURST_PACKETS_MAX as u64 * config.ports.len() as u64; // one received, one to be sent
    let workers = config.workers.count() as u64;
    // To each other worker and back, and fragments that wait.
    let between = |port: &Port| {
        let pollers = config.workers.pollers(port.kind.queues());
        let shares = worker < pollers && workers > 1;
        if shares { 2 * ring_packets(pollers) as u64 * (workers - 1) + WAITING_MAX as u64 } else { 0 }
    };
    let between = config.ports.iter().map(between).sum::<u64>() + hairpins(config);
    ring_frames(config, worker)
        + between
        + apart(config)
        + workers * (bursts + HELD_FRAMES_MAX)
        + cut(config, worker)
}

/// Packets into which a worker may have to cut, in one turn, what ports receive whole: of each queue that it or another polls, so many
/// frames of the most packets, and no more than a burst of the port holds.
fn cut(config: &Config, worker: usize) -> u64 {
    if worker < config.workers.first_owner() || !carries_whole(config) {
        return 0;
    }
    let frames = |port: &Port| (usize::from(port.kind.queues()) * LARGE_FRAMES_TURN).min(BURST_PACKETS_MAX);
    // Where large frames are asked for by number, `apply` may make any such port carry frames whole.
    let may_carry = |port: &&Port| match config.memory.large_frames {
        Some(_) => matches!(port.kind, PortKind::AfPacket(_) | PortKind::Tap(_)),
        None => port.carries_whole(),
    };
    config.ports.iter().filter(may_carry).map(|port| (frames(port) * LARGE_PACKETS_MAX) as u64).sum()
}

/// Frames of a worker that polls nothing, and owns connections of ports that do: what it cuts in a turn, and where that may be still
/// when the next begins: held, at functions on cores of their own, delayed at ports, and on its way to who sends or to hairpins.
fn cut_apart(config: &Config, worker: usize) -> u64 {
    let cut = cut(config, worker);
    if cut == 0 {
        return 0;
    }
    let of_port = |port: &Port| RING_PACKETS as u64 + if port.fault.is_some() { FAULT_HELD_MAX } else { 0 };
    cut + HELD_FRAMES_MAX
        + config.stages().count() as u64 * STAGE_PACKETS as u64
        + config.ports.iter().map(of_port).sum::<u64>()
        + hairpins(config)
}

/// Frames on their way to packet functions on cores of their own and back, of all shares: a worker that polls may have received all of
/// them.
fn apart(config: &Config) -> u64 {
    config.stages().count() as u64 * STAGE_PACKETS as u64 * config.workers.owners() as u64
}

/// Frames on their way between shares as hairpins: one port for each NAT, at which each share has a queue. Also for one without
/// `hairpinning`, which may be switched on.
fn hairpins(config: &Config) -> u64 {
    let shares = config.workers.count() as u64;
    let rings = 2 * ring_packets(config.workers.count()) as u64 * (shares - 1);
    if config.workers.owners() > 1 {
        nats(config).count() as u64 * (rings + LOOPBACK_PACKETS as u64)
    } else {
        0
    }
}

/// Workers that poll.
fn pollers(config: &Config) -> usize {
    config.ports.iter().map(|port| config.workers.pollers(port.kind.queues())).max().unwrap_or(1)
}

/// Packet buffers of a worker: those that poll have as many as the configuration says.
pub(crate) fn frames_of(config: &Config, worker: usize) -> u64 {
    if worker < pollers(config) {
        config.memory.frames.map_or_else(|| frames_needed(config, worker), u64::from)
    } else {
        MADE_FRAMES + 2 * BURST_PACKETS_MAX as u64 * config.ports.len() as u64 + cut_apart(config, worker)
    }
}

/// Buffers of a worker for frames that are carried whole: for each queue those that wait to be filled, as many that are on their way
/// out, and as many again that wait for others.
pub(crate) fn large_frames_of(config: &Config, worker: usize) -> u64 {
    let of_queue = 4 * LARGE_FRAMES_POSTED as u64;
    let queues = |port: &Port| queues_of(config, port, worker).count() as u64;
    let carrying = config.ports.iter().filter(|port| port.carries_whole());
    match config.memory.large_frames {
        Some(frames) if worker < pollers(config) => frames.into(),
        Some(_) => 0,
        None => carrying.map(|port| queues(port) * of_queue).sum(),
    }
}

/// Whether any worker may receive frames that are carried whole.
pub(crate) fn carries_whole(config: &Config) -> bool {
    (0..config.workers.count()).any(|worker| large_frames_of(config, worker) > 0)
}

/// The MTU of a port as the configuration knows it.
pub fn mtu(config: &Config, port: &Port) -> u16 {
    let router = config.chain_of_port(&port.name).and_then(|chain| config.router_of(chain));
    let interface =
        router.and_then(|router| router.interface(&port.name)).and_then(|interface| interface.mtu);
    interface.or(port.kind.mtu()).unwrap_or(MTU_DEFAULT)
}

fn uses_af_xdp(config: &Config) -> bool {
    config.ports.iter().any(|port| matches!(port.kind, PortKind::AfXdp(_)))
}

/// Bytes of a frame that holds the largest packet.
fn frame_bytes_least(config: &Config) -> u64 {
    DATA_OFFSET as u64 + u64::from(mtu_largest(config)) + LINK_HEADER_BYTES
}

fn mtu_largest(config: &Config) -> u16 {
    config.ports.iter().map(|port| mtu(config, port)).max().unwrap_or(MTU_DEFAULT)
}

fn frame_bytes_needed(config: &Config) -> u64 {
    let least = frame_bytes_least(config);
    if uses_af_xdp(config) {
        // The kernel takes chunks of these two sizes.
        return if least <= 2_048 { 2_048 } else { 4_096 };
    }
    PoolConfig::for_mtu(1, mtu_largest(config)).frame_bytes as u64
}

/// Checks sizes that depend on each other.
pub(crate) fn check(context: &Context<'_>, config: &Config) {
    check_mtus(context, config);
    check_frames(context, config);
    let (sizing, memory) = (Sizing::of(config), &config.memory);
    if let Some(size) = memory.size_bytes
        && size < sizing.used_bytes()
    {
        let finding = Finding::error("memory.size", "the memory is too small for what is configured");
        let large = match sizing.large_frames {
            0 => String::new(),
            frames => format!(" and {frames} large ones"),
        };
        let help = format!(
            "{} for {} frames of {} B{large}, {} for sessions, {} for NAT, {} for the flow cache",
            show_size(sizing.frame_pool_bytes()),
            sizing.frames,
            sizing.frame_bytes,
            show_size(sizing.session_bytes),
            show_size(sizing.nat_bytes),
            show_size(sizing.flow_cache_bytes)
        );
        let valid = format!(
            "at least {}, or no `size` to have it computed",
            show_size(sizing.used_bytes() + 1_048_575)
        );
        context.push(finding.found(show_size(size)).valid(valid).help(help));
    }
}

fn check_frames(context: &Context<'_>, config: &Config) {
    let (needed, worker) =
        (0..pollers(config)).map(|worker| (frames_needed(config, worker), worker)).max().unwrap_or_default();
    if let Some(frames) = config.memory.frames
        && u64::from(frames) < needed
    {
        let finding =
            Finding::error("memory.frames", "there are fewer frames than rings and bursts can hold");
        let rings = ring_frames(config, worker);
        let mut help = format!("the ports' rings alone hold {rings}: smaller rings need fewer");
        let stages: Vec<String> = config.stages().map(|(name, _)| format!("`{name}`")).collect();
        if !stages.is_empty() {
            let names = stages.join(", ");
            help +=
                &format!("; {} are for what is under way to {names}, with cores of their own", apart(config));
        }
        let cut = cut(config, worker);
        if cut > 0 {
            help += &format!("; {cut} are for the packets of frames that came whole and are to be cut");
        }
        context.push(finding.found(frames.to_string()).valid(format!("at least {needed}")).help(help));
    }
    let Some(frame_bytes) = config.memory.frame_bytes else { return };
    let least = frame_bytes_least(config);
    let found = frame_bytes.to_string();
    if uses_af_xdp(config) && !matches!(frame_bytes, 2_048 | 4_096) {
        let finding =
            Finding::error("memory.frame_bytes", "af_xdp ports need frames that the kernel can use");
        context.push(finding.found(found).valid("2048 or 4096"));
    } else if u64::from(frame_bytes) < least {
        let finding = Finding::error("memory.frame_bytes", "the largest packet does not fit a frame");
        let help = format!("{DATA_OFFSET} bytes in front, {LINK_HEADER_BYTES} of link headers, then the MTU");
        context
            .push(finding.found(found).valid(format!("at least {}", least.next_multiple_of(64))).help(help));
    }
}

fn check_mtus(context: &Context<'_>, config: &Config) {
    let af_xdp_max = 4_096 - DATA_OFFSET as u64 - LINK_HEADER_BYTES;
    for function in &config.functions {
        let FunctionKind::Router(router) = &function.kind else { continue };
        for interface in &router.interfaces {
            let (Some(mtu), Some(port)) = (interface.mtu, config.port(&interface.port)) else { continue };
            let path = join(&format!("{}.interfaces", join("functions", &function.name)), &interface.port);
            let (limit, why) = match (&port.kind, port.kind.mtu()) {
                (PortKind::AfXdp(_), _) => (af_xdp_max, "the kernel's frames for AF_XDP hold a page"),
                (_, Some(own)) => (own.into(), "the port's own `mtu`"),
                (_, None) => continue,
            };
            if u64::from(mtu) > limit {
                let finding =
                    Finding::error(format!("{path}.mtu"), "the MTU is larger than the port can take");
                context.push(finding.found(mtu.to_string()).valid(format!("at most {limit}: {why}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Host, parse};

    #[test]
    fn frames_that_are_carried_whole_need_memory_of_their_own() {
        let sizing = |lan: &str, memory: &str| {
            let text = format!(
                "[memory]\nframes = 16384\n{memory}\n[workers]\ncores = [0, 1]\n[ports.lan]\nkind = \"tap\"\nname = \"a\"\n\
                 {lan}\n[ports.wan]\nkind = \"sink\"\n[chains.one]\nfunctions = [\"router\"]\nzones.inside = [\"lan\"]\n\
                 zones.outside = [\"wan\"]\n[functions.router]\nkind = \"router\"\n\
                 interfaces.lan.addresses = [\"10.1.0.1/24\"]\ninterfaces.wan.addresses = [\"10.2.0.1/24\"]\n"
            );
            let parsed = parse("large.toml".as_ref(), &text, &Host::default());
            Sizing::of(&parsed.config.unwrap_or_else(|| panic!("{}", parsed.report)))
        };
        let without = sizing("", "");
        assert_eq!(without.large_frames, 0);
        // One queue, which one of the two workers polls.
        let with = sizing("segmentation = \"whole\"", "");
        assert_eq!(with.large_frames, 64);
        // The other one may have to cut, and to hold what it cut or have it on its way to who polls.
        let cut = (LARGE_FRAMES_TURN * LARGE_PACKETS_MAX) as u64 + HELD_FRAMES_MAX + 2 * RING_PACKETS as u64;
        let more = (with.used_bytes() - without.used_bytes(), with.arena_bytes - without.arena_bytes);
        assert_eq!(more.0, 64 * LARGE_FRAME_BYTES as u64 + cut * with.frame_bytes);
        assert!(more.1 > 0);
        assert_eq!(sizing("segmentation = \"whole\"", "large_frames = 7").large_frames, 7);
        // Faults are for packets.
        let faults = "segmentation = \"whole\"\nfault = { loss = 0.1 }";
        assert_eq!(sizing(faults, "").large_frames, 0);
    }

    #[test]
    fn what_came_whole_needs_frames_where_it_may_be_cut() {
        let config = |lan: &str, memory: &str, workers: &str| {
            let text = format!(
                "[memory]\n{memory}\n[workers]\n{workers}\n[ports.lan]\nkind = \"tap\"\nname = \"a\"\n{lan}\n\
                 [ports.wan]\nkind = \"sink\"\n[chains.one]\nfunctions = [\"router\"]\nzones.inside = [\"lan\"]\n\
                 zones.outside = [\"wan\"]\n[functions.router]\nkind = \"router\"\n\
                 interfaces.lan.addresses = [\"10.1.0.1/24\"]\ninterfaces.wan.addresses = [\"10.2.0.1/24\"]\n"
            );
            parse("cut.toml".as_ref(), &text, &Host::default())
        };
        let frames = |lan: &str, memory: &str, workers: &str, worker: usize| {
            let parsed = config(lan, memory, workers);
            frames_of(&parsed.config.unwrap_or_else(|| panic!("{}", parsed.report)), worker)
        };
        let (one, two, dedicated) =
            ("cores = [0]", "cores = [0, 1]\nshares = 2", "cores = [0, 1]\nio = \"dedicated\"");
        let (whole, cut) = ("segmentation = \"whole\"", (LARGE_FRAMES_TURN * LARGE_PACKETS_MAX) as u64);
        let more = |lan: &str, memory: &str, workers: &str, worker: usize| {
            frames(lan, memory, workers, worker) - frames("", "", workers, worker)
        };
        assert_eq!(more(whole, "", one, 0), cut);
        assert_eq!(more(&format!("{whole}\nqueues = 2"), "", one, 0) - BURST_PACKETS_MAX as u64, 2 * cut);
        // `apply` may make the port one that carries frames whole; without large frames it can't.
        assert_eq!(more("", "large_frames = 4", one, 0), cut);
        assert_eq!(more(whole, "large_frames = 0", one, 0), 0);
        // Who polls has room for rings and for what is held anyway; not so who has no queue.
        assert_eq!(more(whole, "", two, 0), cut);
        let apart = cut + HELD_FRAMES_MAX + 2 * RING_PACKETS as u64;
        assert_eq!(more(whole, "", two, 1), apart);
        // Who owns nothing cuts nothing.
        assert_eq!((more(whole, "", dedicated, 0), more(whole, "", dedicated, 1)), (0, apart));
        let few = config(whole, "frames = 1500", one).report.to_string();
        assert!(
            few.contains("1024 are for the packets of frames that came whole and are to be cut"),
            "{few}"
        );
    }

    #[test]
    fn several_workers_need_frames_for_rings_and_for_what_waits() {
        let text = include_str!("../../../configs/generator.toml");
        let frames = |cores: &str| {
            let parsed = parse(
                "generator.toml".as_ref(),
                &format!("{text}\n[workers]\ncores = {cores}\n"),
                &Host::default(),
            );
            Sizing::of(&parsed.config.unwrap_or_else(|| panic!("{}", parsed.report))).frames
        };
        // Two ports, for each a burst received and one to be sent; and what is held.
        let of_worker = 2 * 2 * BURST_PACKETS_MAX as u64 + HELD_FRAMES_MAX;
        assert_eq!(frames("[0]"), of_worker);
        let (rings, waiting) = (2 * 2 * 2 * ring_packets(1) as u64, 2 * WAITING_MAX as u64);
        let hairpins = 2 * 2 * ring_packets(3) as u64 + LOOPBACK_PACKETS as u64;
        let others = 2 * (MADE_FRAMES + 2 * 2 * BURST_PACKETS_MAX as u64);
        assert_eq!(frames("[0, 1, 2]"), 3 * of_worker + rings + waiting + hairpins + others);
    }

    #[test]
    fn functions_on_cores_of_their_own_need_frames_for_what_is_under_way() {
        let text = |workers: &str, rest: &str| {
            let text = include_str!("../../../configs/generator.toml");
            let functions = text.replace("\"nat\", ", "\"ids\", \"nat\", \"late\", ");
            format!(
                "{functions}\n[workers]\n{workers}\n[functions.ids]\nkind = \"inspect\"\n{rest}[functions.late]\nkind = \"inspect\"\n"
            )
        };
        let parsed = |text: &str| parse("generator.toml".as_ref(), text, &Host::default());
        let frames = |workers: &str, core: &str| {
            let parsed = parsed(&text(workers, core));
            frames_of(&parsed.config.unwrap_or_else(|| panic!("{}", parsed.report)), 0)
        };
        let one = STAGE_PACKETS as u64;
        for (workers, shares) in [("cores = [0]", 1), ("cores = [0]\nshares = 2", 2)] {
            assert_eq!(frames(workers, "core = 1\n"), frames(workers, "") + shares * one);
        }
        let few = format!("{}[memory]\nframes = 1000\n", text("cores = [0]", "core = 1\n"));
        let report = parsed(&few).report.to_string();
        assert!(
            report.contains("1024 are for what is under way to `ids`, with cores of their own"),
            "{report}"
        );
    }
}
