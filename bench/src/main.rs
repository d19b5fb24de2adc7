//! The benchmark command: one line a measurement, or the whole table.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use millrace_bench::chains::Kind;
use millrace_bench::established::{self, ChainConfig};
use millrace_bench::rig::BenchResult;
use millrace_bench::traffic::TrafficConfig;
use millrace_bench::{flood, handoff, memory, new_flows, observed, results, ring, rule_changes, stages};
use millrace_dataplane::counting::CountingAllocator;
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measures Millrace in memory.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of a line.
    #[arg(long, global = true)]
    json: bool,
    /// Runs, whose medians are reported.
    #[arg(long, global = true, default_value_t = 5)]
    repeat: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Packets through a chain of functions.
    Chain(Chain),
    /// Memory of live connections.
    Memory {
        /// Connections.
        #[arg(long, default_value_t = 1_000_000)]
        flows: usize,
        /// Connections of each inside host.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        flows_per_host: u32,
    },
    /// Packets from worker to worker, and an I/O worker with a flow worker beside one worker that does all.
    Handoff,
    /// The ring between two cores.
    Ring,
    /// An inspecting function on a core of its own beside one in the turns of the worker.
    Stages {
        /// Bytes of a frame.
        #[arg(long, default_value_t = 1_400, value_parser = clap::value_parser!(u16).range(64..=1_514))]
        frame_bytes: u16,
    },
    /// All of it, as a document.
    Results {
        /// The file to write.
        #[arg(long)]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Chain {
    /// The functions in order, by commas: firewall, nat, router (last).
    #[arg(long, value_delimiter = ',', default_value = "firewall,nat,router")]
    functions: Vec<Kind>,
    /// Flows; 10,000, or with --new-flows 1,000,000, if it is not said.
    #[arg(long)]
    flows: Option<usize>,
    /// Flows of each inside host.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    flows_per_host: u32,
    /// Bytes of a frame.
    #[arg(long, default_value_t = 64)]
    frame_bytes: usize,
    /// tcp or udp.
    #[arg(long, default_value = "udp")]
    protocol: Protocol,
    /// 4 or 6.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
    ip: u8,
    /// Half of the flows are replies.
    #[arg(long)]
    both_directions: bool,
    /// Every packet opens a flow; twice as many as --flows.
    #[arg(long, conflicts_with_all = ["rule_changes", "flood"])]
    new_flows: bool,
    /// So many rule changes a second, which concern no flow.
    #[arg(long, conflicts_with = "flood")]
    rule_changes: Option<f64>,
    /// Traced and captured, one packet in 1,024, beside nobody who looks on.
    #[arg(long, conflicts_with_all = ["new_flows", "rule_changes", "flood"])]
    observed: bool,
    /// New flows at this multiple of what the slow path takes, beside established ones.
    #[arg(long)]
    flood: Option<f64>,
    /// With --flood: the established flows' part of what the core could carry, in percent.
    #[arg(long, default_value_t = 40.0)]
    established_load: f64,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

impl Chain {
    fn traffic(&self) -> TrafficConfig {
        let (tcp, v6) = (matches!(self.protocol, Protocol::Tcp), self.ip == 6);
        // What the headers need, if that is more than was asked for.
        let least = 14 + if v6 { 40 } else { 20 } + if tcp { 20 } else { 8 };
        TrafficConfig {
            flows: self.flows.unwrap_or(if self.new_flows { 1_000_000 } else { 10_000 }).clamp(64, 1 << 24),
            flows_per_host: self.flows_per_host,
            frame_bytes: self.frame_bytes.clamp(least.max(64), 1514),
            protocol: if tcp { 6 } else { 17 },
            v6,
            both_directions: self.both_directions,
        }
    }
}

fn print(json: bool, report: &(impl Display + Serialize)) -> BenchResult<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn chain(cli: &Cli, chain: &Chain) -> BenchResult<()> {
    let traffic = chain.traffic();
    let kinds = &chain.functions;
    if chain.new_flows {
        print(cli.json, &new_flows::measure(kinds, &traffic, cli.repeat)?)
    } else if let Some(per_second) = chain.rule_changes {
        print(cli.json, &rule_changes::measure(kinds, &traffic, per_second, cli.repeat)?)
    } else if chain.observed {
        print(cli.json, &observed::measure(kinds, &traffic, cli.repeat)?)
    } else if let Some(factor) = chain.flood {
        print(cli.json, &flood::measure(kinds, &traffic, factor, chain.established_load / 100.0)?)
    } else {
        let config = ChainConfig { kinds: kinds.clone(), traffic, repeat: cli.repeat };
        print(cli.json, &established::measure(&config)?)
    }
}

fn main() -> BenchResult<()> {
    let cli = Cli::parse();
    match &cli.command {
        Command::Chain(arguments) => chain(&cli, arguments),
        Command::Memory { flows, flows_per_host } => {
            print(cli.json, &memory::measure((*flows).clamp(64, 1 << 24), *flows_per_host)?)
        }
        Command::Handoff => print(cli.json, &handoff::measure(cli.repeat)?),
        Command::Ring => print(cli.json, &ring::measure(cli.repeat)?),
        Command::Stages { frame_bytes } => {
            print(cli.json, &stages::measure(usize::from(*frame_bytes), cli.repeat)?)
        }
        Command::Results { output } => Ok(std::fs::write(output, results::document(cli.repeat)?)?),
    }
}
