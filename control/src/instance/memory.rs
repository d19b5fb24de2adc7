//! The arena and the pool of an instance.

use millrace_dataplane::flow::cache::FlowCache;
use millrace_dataplane::flow::session::{PARTS_MAX, SessionConfig, SessionTable, Timeouts};
use millrace_dataplane::flow::state::FlowConfig;
use millrace_dataplane::memory::{
    Arena, ArenaConfig, ArenaError, ArenaReport, Backing, PageSize, Pool, PoolConfig,
};

use super::InstanceError;
use crate::config::Config;
use crate::config::settings::{self, Hugepages};
use crate::config::sizing::{self, Sizing};
use crate::config::units::show_size;

/// Words of a key and of a program's operands. Sums to what the plan of the configuration counts with.
const KEY_WORDS: usize = 12;
const OPERAND_WORDS: usize = 16;

/// Maps the memory that `config` needs.
///
/// # Errors
/// If the system has no memory of the kind that was asked for.
pub fn arena(config: &Config) -> Result<Arena, InstanceError> {
    let sizing = Sizing::of(config);
    let tables: usize = (0..config.workers.count()).map(|worker| flow_config(config, worker).bytes()).sum();
    let used = sizing.frame_pool_bytes() + tables as u64 + sizing.nat_bytes + (1 << 20);
    arena_of(config, sizing.arena_bytes.max(used) as usize)
}

/// Maps `bytes` of memory of the kind that `config` asks for.
///
/// # Errors
/// If the system has no such memory.
pub fn arena_of(config: &Config, bytes: usize) -> Result<Arena, InstanceError> {
    let wanted = ArenaConfig {
        bytes,
        page_size: match config.memory.hugepages {
            Hugepages::Auto => PageSize::Auto,
            Hugepages::TwoMebibytes => PageSize::Huge2M,
            Hugepages::OneGibibyte => PageSize::Huge1G,
            Hugepages::Off => PageSize::Plain,
        },
        reserve: config.memory.reserve_hugepages,
        node: None,
    };
    let insists = matches!(config.memory.hugepages, Hugepages::TwoMebibytes | Hugepages::OneGibibyte);
    Arena::new(&wanted).map_err(|error| match error {
        ArenaError::Map { .. } if insists => {
            let message = format!("{error}; \"auto\" takes the best pages that can be had");
            InstanceError::unsupported("memory.hugepages", message)
        }
        error => error.into(),
    })
}

/// The packet buffers of a worker.
///
/// # Errors
/// If the arena has no room for them.
pub fn pool(config: &Config, worker: usize, arena: &Arena) -> Result<Pool, InstanceError> {
    let (frames, frame_bytes) = (sizing::frames_of(config, worker), Sizing::of(config).frame_bytes);
    let pool = PoolConfig { frames: frames as usize, frame_bytes: frame_bytes as usize };
    let mut pool = Pool::new(arena, pool)?;
    if sizing::carries_whole(config) {
        pool.add_large(arena, sizing::large_frames_of(config, worker) as usize)?;
    }
    Ok(pool)
}

/// Sizes of a worker's sessions and cache. Sessions have words to spare, so that chains can grow while they run.
pub fn flow_config(config: &Config, worker: usize) -> FlowConfig {
    let owns = worker >= config.workers.first_owner();
    let functions = config.chains.iter().map(|chain| chain.functions.len()).max().unwrap_or(0);
    FlowConfig {
        sessions: SessionConfig {
            capacity: if owns { config.sessions.capacity as usize } else { sizing::SESSIONS_WITHOUT_OWNING },
            parts: (2 * functions).min(PARTS_MAX),
            timeouts: timeouts(&config.sessions.timeouts),
        },
        cache_entries: if owns { config.sessions.flow_cache_entries as usize } else { 0 },
        key_words: KEY_WORDS,
        operand_words: OPERAND_WORDS,
    }
}

/// The timeouts as the session table takes them.
pub fn timeouts(config: &settings::Timeouts) -> Timeouts {
    Timeouts {
        tcp_established: config.tcp_established,
        tcp_transitory: config.tcp_transitory,
        tcp_closed: config.tcp_transitory,
        udp: config.udp,
        icmp: config.icmp,
        other: config.other,
    }
}

/// What is known of the memory once it is mapped and carved; none of it changes while the instance runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What the arena got, and why nothing better.
    pub arena: ArenaReport,
    /// Bytes of the arena that nothing was carved from.
    pub arena_free_bytes: usize,
    /// Bytes of a packet buffer.
    pub frame_bytes: usize,
    /// `sessions.capacity`, of each worker that owns connections.
    pub sessions: usize,
    /// Bytes of its session table.
    pub session_bytes: usize,
    /// `sessions.flow_cache_entries`.
    pub flow_cache_entries: usize,
    /// Bytes of its flow cache.
    pub flow_cache_bytes: usize,
}

impl Facts {
    /// Of an arena from which everything that `config` needs was carved.
    pub fn of(config: &Config, arena: &Arena) -> Self {
        let flow = flow_config(config, config.workers.first_owner());
        Self {
            arena: arena.report().clone(),
            arena_free_bytes: arena.free_bytes(),
            frame_bytes: Sizing::of(config).frame_bytes as usize,
            sessions: flow.sessions.capacity,
            session_bytes: SessionTable::bytes_for(flow.sessions.capacity, flow.sessions.parts),
            flow_cache_entries: flow.cache_entries,
            flow_cache_bytes: FlowCache::bytes_for(flow.cache_entries, flow.key_words + flow.operand_words),
        }
    }

    /// The pages, for people: `huge pages of 2 MiB`.
    pub fn pages(&self) -> String {
        let kind = match self.arena.backing {
            Backing::HugePages => "huge pages",
            Backing::TransparentHugePages => "transparent huge pages",
            Backing::PlainPages => "plain pages",
        };
        format!("{kind} of {}", show_size(self.arena.page_bytes as u64))
    }

    /// What was tried for better pages and why it failed, for people.
    pub fn failed_steps(&self) -> impl Iterator<Item = String> + '_ {
        self.arena.failed_steps.iter().map(|step| format!("{}: {}", step.step, step.reason))
    }
}
