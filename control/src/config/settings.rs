//! Settings of the whole instance: memory, workers, sessions, checksums, management, metrics, log.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use millrace_dataplane::flow::session::SessionTable;
use millrace_dataplane::limits::BURST_PACKETS_MAX;

use super::context::Finding;
use super::diagnostic::count;
use super::schema;
use super::section::{Invalid, Scalar, Section, narrow};
use super::units::{duration, show_duration, show_size, size};
use crate::logging::{Format, Levels};

/// Which pages the packet memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// The best that the machine gives: 2 MiB pages, else transparent ones, else plain pages with a warning.
    #[default]
    Auto,
    /// 2 MiB pages or an error.
    TwoMebibytes,
    /// 1 GiB pages or an error.
    OneGibibyte,
    /// Plain pages.
    Off,
}

/// `[memory]`: the arena of packets and tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the arena; computed from what is configured when `None`.
    pub size_bytes: Option<u64>,
    /// Its pages.
    pub hugepages: Hugepages,
    /// Whether missing huge pages may be reserved with the kernel at start (and given back at the end).
    pub reserve_hugepages: bool,
    /// Packet buffers; computed from the ports' rings when `None`.
    pub frames: Option<u32>,
    /// Bytes of a buffer with its metadata and headroom; computed from the largest MTU when `None`.
    pub frame_bytes: Option<u16>,
    /// Buffers for frames of several packets that are carried whole, of each worker that polls; computed from the ports when `None`.
    pub large_frames: Option<u32>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            size_bytes: None,
            hugepages: Hugepages::Auto,
            reserve_hugepages: true,
            frames: None,
            frame_bytes: None,
            large_frames: None,
        }
    }
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Polls, then pauses, then sleeps until packets arrive.
    #[default]
    Adaptive,
    /// Polls always: least latency, one core busy.
    Poll,
    /// Sleeps as soon as nothing is there.
    Sleep,
}

/// Which workers own connections, where there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// All; those that have a queue of a port poll it, too.
    #[default]
    Shared,
    /// All but that on the first core, which polls all queues of all ports and does nothing else.
    Dedicated,
}

/// Most shares of all that there is to do, and so most workers.
const SHARES_MAX: usize = 64;

/// `[workers]`: the threads that move packets, and the parts of the work that they take over from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker on each of these cores; `None`: one worker on the last core that the process may use.
    pub cores: Option<Vec<usize>>,
    /// Parts that connections are divided into; each is with one worker, and a worker has one or several.
    pub shares: usize,
    /// Which of several workers own connections.
    pub io: Io,
    /// What an idle worker does.
    pub idle: Idle,
    /// Most packets taken from a port at once.
    pub burst_packets: usize,
}

impl Workers {
    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.cores.as_ref().map_or(1, |cores| cores.len().max(1))
    }

    /// How many parts all the work has: the shares of connections, and that which only has the ports, if there is one. Numbers of
    /// parts go from 0.
    pub fn count(&self) -> usize {
        self.first_owner() + self.shares
    }

    /// The first part that owns connections; those behind it do, too.
    pub fn first_owner(&self) -> usize {
        usize::from(self.io == Io::Dedicated)
    }

    /// How many own connections.
    pub fn owners(&self) -> usize {
        self.shares
    }

    /// How many poll a port with so many queues: the first ones, one or more queues each.
    pub fn pollers(&self, queues: u16) -> usize {
        let most = if self.io == Io::Dedicated { 1 } else { self.count() };
        most.min(usize::from(queues)).max(1)
    }

    /// Leaves one, for runs in which nothing happens at the same time.
    pub fn keep_one(&mut self) {
        (self.io, self.shares) = (Io::Shared, 1);
        if let Some(cores) = &mut self.cores {
            cores.truncate(1);
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            cores: None,
            shares: 1,
            io: Io::Shared,
            idle: Idle::Adaptive,
            burst_packets: BURST_PACKETS_MAX,
        }
    }
}

/// How long a session without packets lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp_established: Duration,
    /// TCP connections that are being opened or closed.
    pub tcp_transitory: Duration,
    /// UDP.
    pub udp: Duration,
    /// ICMP queries.
    pub icmp: Duration,
    /// All other protocols.
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(7_440),
            tcp_transitory: Duration::from_secs(240),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(600),
        }
    }
}

/// `[sessions]`: the table of connections of each worker and the cache of decided flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Most sessions of a worker.
    pub capacity: u32,
    /// Most entries of a worker's flow cache; two for each session (one a direction) when not given, 0 for none.
    pub flow_cache_entries: u32,
    /// When idle sessions end.
    pub timeouts: Timeouts,
}

impl Default for Sessions {
    fn default() -> Self {
        let capacity = 65_536;
        Self { capacity, flow_cache_entries: 2 * capacity, timeouts: Timeouts::default() }
    }
}

/// Which checksums of received packets are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyChecksums {
    /// None: the ports are trusted.
    None,
    /// The IPv4 header's (RFC 1812 section 5.2.2).
    #[default]
    Ip,
    /// The IPv4 header's and those of TCP, UDP and ICMP.
    All,
}

/// `[management]`: the socket that `show`, `apply` and `clear` talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that may use it, beside root.
    pub group: String,
}

impl Default for Management {
    fn default() -> Self {
        Self { socket: "/run/millrace/millrace.sock".into(), group: "root".to_owned() }
    }
}

/// `[metrics]`: where Prometheus finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port of the HTTP server; none if there is none.
    pub listen: Option<SocketAddr>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some((Ipv4Addr::LOCALHOST, 9469).into()) }
    }
}

/// `[log]`: what is logged unless the command line or `RUST_LOG` says something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Levels by module.
    pub levels: Levels,
    /// How lines are written.
    pub format: Format,
}

pub(crate) fn read_memory(root: &Section<'_>) -> Memory {
    let Some(section) = root.section("memory", &schema::MEMORY) else { return Memory::default() };
    let default = Memory::default();
    let pages = [
        ("auto", Hugepages::Auto),
        ("2MiB", Hugepages::TwoMebibytes),
        ("1GiB", Hugepages::OneGibibyte),
        ("off", Hugepages::Off),
    ];
    let frame_bytes = section.parsed("frame_bytes", |scalar| match scalar {
        Scalar::Number(bytes @ 1_024..=16_384) if bytes % 64 == 0 => Ok(bytes),
        _ => Err(Invalid::new("no such buffers are possible", "a multiple of 64 from 1024 to 16384")),
    });
    Memory {
        size_bytes: section.parsed("size", size),
        hugepages: section.choice("hugepages", &pages).unwrap_or(default.hugepages),
        reserve_hugepages: section.boolean("reserve_hugepages").unwrap_or(default.reserve_hugepages),
        frames: section.integer("frames", 256..=16_777_216).map(narrow),
        frame_bytes: frame_bytes.map(narrow),
        large_frames: section.integer("large_frames", 0..=65_536).map(narrow),
    }
}

/// `shares_now` are those of the instance that the configuration is for, if it runs already: whoever does not ask for another
/// number keeps it.
pub(crate) fn read_workers(root: &Section<'_>, shares_now: Option<usize>) -> Workers {
    let default = Workers { shares: shares_now.unwrap_or(1), ..Workers::default() };
    let Some(section) = root.section("workers", &schema::WORKERS) else { return default };
    let core = |scalar: Scalar<'_>| match scalar {
        Scalar::Number(core @ 0..=4_095) => Ok(narrow::<usize>(core)),
        _ => Err(Invalid::new("not a core's number", "the number of a core from 0, as [1]")),
    };
    let cores = section.list("cores", core);
    check_cores(&section, cores.as_deref().unwrap_or(&[]));
    let io = [("shared", Io::Shared), ("dedicated", Io::Dedicated)];
    let io = section.choice("io", &io).unwrap_or(default.io);
    if io == Io::Dedicated && cores.as_ref().is_none_or(|cores| cores.len() < 2) {
        let finding =
            Finding::error(section.key("io"), "a worker that only receives and sends needs another to work");
        section.context.push(finding.valid("two cores or more, or \"shared\""));
    }
    let alone = usize::from(io == Io::Dedicated);
    let owning = cores.as_ref().map_or(1, Vec::len).saturating_sub(alone).max(1);
    let shares = section.integer("shares", 1..=(SHARES_MAX - alone) as u64).map(narrow);
    check_shares(&section, owning, shares, shares_now);
    let idle = [("adaptive", Idle::Adaptive), ("poll", Idle::Poll), ("sleep", Idle::Sleep)];
    let burst = section.integer("burst", 1..=BURST_PACKETS_MAX as u64).map(narrow);
    Workers {
        cores,
        shares: shares.or(shares_now).unwrap_or(owning),
        io,
        idle: section.choice("idle", &idle).unwrap_or(default.idle),
        burst_packets: burst.unwrap_or(default.burst_packets),
    }
}

/// Each of `owning` workers needs a share.
fn check_shares(section: &Section<'_>, owning: usize, asked: Option<usize>, now: Option<usize>) {
    let Some(shares) = asked.or(now).filter(|shares| *shares < owning) else { return };
    let message =
        format!("{owning} workers can't divide {shares} of connections", shares = count(shares, "share"));
    let finding = match asked {
        Some(_) => Finding::error(section.key("shares"), message)
            .found(shares.to_string())
            .valid(format!("at least {owning}, or fewer cores")),
        None => Finding::error(section.key("cores"), message)
            .found(format!("{owning} that own connections"))
            .valid(format!("at most {shares}: the instance was started with so many shares"))
            .help("start it anew with workers.shares = the most workers that it shall ever have"),
    };
    section.context.push(finding);
}

fn check_cores(section: &Section<'_>, cores: &[usize]) {
    for (index, core) in cores.iter().enumerate() {
        let path = section.context.item(&section.key("cores"), index);
        if cores[..index].contains(core) {
            let finding = Finding::error(path, "two workers on one core take each other's time");
            section.context.push(finding.found(core.to_string()).valid("each core once"));
        } else if index == SHARES_MAX {
            let finding = Finding::error(path, "there are too many workers");
            section
                .context
                .push(finding.found(core.to_string()).valid(format!("at most {SHARES_MAX} cores")));
        }
    }
}

/// Least and most sessions of a worker.
const SESSIONS: std::ops::RangeInclusive<u64> = 1_024..=16_777_216;

fn capacity(scalar: Scalar<'_>) -> Result<u64, Invalid> {
    let (least, most) = (SESSIONS.start(), SESSIONS.end());
    let memory = show_size(SessionTable::bytes_for(narrow(*most), 6) as u64);
    let valid = format!("an integer from {least} to {most} (a worker's table then takes {memory})");
    match scalar {
        Scalar::Number(number) if SESSIONS.contains(&number) => Ok(number),
        Scalar::Number(number) => {
            Err(Invalid::new(format!("a session table of {number} is out of range"), valid))
        }
        Scalar::Text(_) => Err(Invalid::new("expected an integer, found a string", valid)),
    }
}

pub(crate) fn read_sessions(root: &Section<'_>) -> Sessions {
    let Some(section) = root.section("sessions", &schema::SESSIONS) else { return Sessions::default() };
    let capacity = section.parsed("capacity", capacity).map_or(Sessions::default().capacity, narrow);
    let entries = section.integer("flow_cache_entries", 0..=2 * SESSIONS.end()).map(narrow);
    let short = section.boolean("allow_short_timeouts").unwrap_or(false);
    Sessions {
        capacity,
        flow_cache_entries: entries.unwrap_or(2 * capacity),
        timeouts: read_timeouts(&section, short),
    }
}

fn read_timeouts(sessions: &Section<'_>, allow_short: bool) -> Timeouts {
    let default = Timeouts::default();
    let Some(section) = sessions.section("timeouts", &schema::TIMEOUTS) else { return default };
    let read = |key, least: u64, clause: &str, default| {
        let least = Duration::from_secs(if allow_short { 1 } else { least });
        section.parsed(key, |scalar| bounded(duration(scalar)?, least, clause)).unwrap_or(default)
    };
    Timeouts {
        tcp_established: read("tcp_established", 7_440, "RFC 5382 REQ-5", default.tcp_established),
        tcp_transitory: read("tcp_transitory", 240, "RFC 5382 REQ-5", default.tcp_transitory),
        udp: read("udp", 120, "RFC 4787 REQ-5", default.udp),
        icmp: read("icmp", 60, "RFC 5508 REQ-1", default.icmp),
        other: read("other", 1, "", default.other),
    }
}

/// Longest timeout: what a session table may keep of a peer that vanished.
const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);

fn bounded(timeout: Duration, least: Duration, clause: &str) -> Result<Duration, Invalid> {
    let valid = format!("a duration from {} to {}", show_duration(least), show_duration(TIMEOUT_MAX));
    if timeout > TIMEOUT_MAX {
        return Err(Invalid::new("the timeout is too long", valid));
    }
    if timeout >= least {
        return Ok(timeout);
    }
    if least == Duration::from_secs(1) {
        return Err(Invalid::new("the timeout is too short", valid));
    }
    let message = format!("{clause} asks for at least {}", show_duration(least));
    Err(Invalid::new(message, valid)
        .help("allow_short_timeouts = true in [sessions] accepts it all the same"))
}

pub(crate) fn read_checksums(root: &Section<'_>) -> VerifyChecksums {
    let section = root.section("checksums", &schema::CHECKSUMS);
    let choices =
        [("ip", VerifyChecksums::Ip), ("all", VerifyChecksums::All), ("none", VerifyChecksums::None)];
    section.and_then(|section| section.choice("verify", &choices)).unwrap_or_default()
}

/// Longest path of a Unix socket in bytes (`sun_path` without its final zero, unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(crate) fn read_management(root: &Section<'_>) -> Management {
    let default = Management::default();
    let Some(section) = root.section("management", &schema::MANAGEMENT) else { return default };
    let valid = format!("an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes");
    let socket = section.parsed("socket", |scalar| match scalar {
        Scalar::Text(path) if path.len() > SOCKET_PATH_BYTES_MAX => {
            Err(Invalid::new("the path is too long for a Unix socket", valid.as_str()))
        }
        Scalar::Text(path) if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
            Ok(PathBuf::from(path))
        }
        _ => Err(Invalid::new("not a path of a socket", valid.as_str())),
    });
    let group = section.parsed("group", |scalar| match scalar {
        Scalar::Text(group) if !group.is_empty() && !group.contains([':', '\0', '\n']) => {
            Ok(group.to_owned())
        }
        _ => Err(Invalid::new("not the name of a group", "a group's name, as \"root\" or \"netdev\"")),
    });
    Management { socket: socket.unwrap_or(default.socket), group: group.unwrap_or(default.group) }
}

pub(crate) fn read_metrics(root: &Section<'_>) -> Metrics {
    let Some(section) = root.section("metrics", &schema::METRICS) else { return Metrics::default() };
    let listen = section.parsed("listen", |scalar| match scalar {
        Scalar::Text("off") => Ok(None),
        Scalar::Text(text) if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) => {
            Ok(text.parse().ok())
        }
        _ => Err(Invalid::new(
            "not an address with a port",
            "an address with a port, as \"127.0.0.1:9469\" or \"[::1]:9469\", or \"off\"",
        )),
    });
    listen.map_or_else(Metrics::default, |listen| Metrics { listen })
}

pub(crate) fn read_log(root: &Section<'_>) -> Log {
    let Some(section) = root.section("log", &schema::LOG) else { return Log::default() };
    let valid = "a level (off, error, warn, info, debug, trace), and MODULE=LEVEL for modules, as \"info,millrace_nf=debug\"";
    let levels = section.parsed("levels", |scalar| match scalar {
        Scalar::Text(text) => text.parse::<Levels>().map_err(|why| Invalid::new(why, valid)),
        Scalar::Number(_) => Err(Invalid::new("expected a string, found a number", valid)),
    });
    let format = section.choice("format", &[("text", Format::Text), ("json", Format::Json)]);
    Log { levels: levels.unwrap_or_default(), format: format.unwrap_or_default() }
}
