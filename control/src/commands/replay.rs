//! `millrace replay`: runs the chains of a configuration on capture files, with the clock of the captures.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::limits::PORTS_MAX;
use millrace_dataplane::port::pcap::{Pace, PcapConfig, PcapPort};
use millrace_dataplane::port::{MacAddress, Port as _, PortId};
use millrace_dataplane::time::Time;

use super::run::conclude;
use super::{load_or_report, rule_log};
use crate::config::ports::{Link, Pcap, Sink};
use crate::config::settings::Hugepages;
use crate::config::sizing::mtu;
use crate::config::{Config, Host, PortKind};
use crate::instance::accounting::{Accounting, close_one};
use crate::instance::clock::SharedClock;
use crate::instance::{Instance, InstanceError, NfWorker, Options};

/// The clock when the first packet comes.
pub(super) const START: Time = Time::from_secs(1);
/// Timers run this often between packets.
const STEP: Duration = Duration::from_millis(100);
/// In longer gaps they run less often: a second after a minute, a minute after an hour.
const STEPS: [(Duration, Duration); 2] = [
    (Duration::from_secs(3_600), Duration::from_secs(60)),
    (Duration::from_secs(60), Duration::from_secs(1)),
];
/// Virtual time after the last packet, in which held packets are resolved or fail.
const RUN_ON: Duration = Duration::from_secs(10);
/// Longest gap that is lived through; what has not expired by then never will.
const GAP_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Timers of one step.
const TIMERS: usize = 1 << 16;
/// All that is random repeats.
pub(super) const SEED: u64 = 0x6d69_6c6c_7261_6365;

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration, a TOML file. The devices of its ports are not touched.
    pub config: PathBuf,
    /// What a port receives: PORT=FILE, pcap or pcapng. May be repeated. Hosts that do not answer ARP or neighbour
    /// discovery in any of the captures need `neighbours` in the configuration.
    #[arg(long, required = true, value_name = "PORT=FILE", value_parser = assignment)]
    pub input: Vec<(String, String)>,
    /// Where what a port sends is written: PORT=FILE, pcap with nanoseconds. May be repeated.
    #[arg(long, value_name = "PORT=FILE", value_parser = assignment)]
    pub output: Vec<(String, String)>,
    /// A port's own address, as in the capture: PORT=MAC; frames to others are dropped as `not_for_us`. Otherwise it is as
    /// configured, or made from the port's number.
    #[arg(long, value_name = "PORT=MAC", value_parser = mac_assignment)]
    pub mac: Vec<(String, MacAddress)>,
    /// Print the accounting as JSON.
    #[arg(long)]
    pub json: bool,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok((port.to_owned(), file.to_owned())),
        _ => Err("expected PORT=FILE".to_owned()),
    }
}

pub(super) fn mac_assignment(text: &str) -> Result<(String, MacAddress), String> {
    let expected = || "expected PORT=MAC, as lan=02:00:00:00:00:01".to_owned();
    let (port, mac) = assignment(text).map_err(|_| expected())?;
    let bytes: Option<Vec<u8>> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac = bytes.and_then(|bytes| MacAddress::try_from(bytes).ok()).ok_or_else(expected)?;
    Ok((port, mac))
}

/// Status 0 when every packet and every frame is accounted for, and all captures were read and written whole.
pub fn run(arguments: &Arguments) -> ExitCode {
    // Cores, interfaces and groups of this machine don't matter.
    let Some(config) = load_or_report(&arguments.config, &Host::default()) else { return ExitCode::FAILURE };
    match replay(config, arguments) {
        Ok(accounting) => conclude(&accounting, arguments.json),
        Err(error) => {
            complain!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn replay(mut config: Config, arguments: &Arguments) -> Result<Accounting, InstanceError> {
    // Nothing happens at the same time, so that all repeats.
    config.keep_one_worker();
    replace_ports(&mut config, &arguments.input, &arguments.output, &arguments.mac)?;
    let first = first_time(&config)?;
    let ahead_ns = first.map_or(0, |first| first.0.saturating_sub(START.0));
    let clock = SharedClock::default();
    let options = Options {
        clock: Box::new(clock.clone()),
        seed: Some(SEED),
        budget: BudgetConfig::UNLIMITED,
        captures_ahead_ns: Some(ahead_ns),
        pinned: false,
    };
    let (mut worker, control) = Instance::build(config, options)?.into_one()?;
    play(&mut worker, &clock, || while rule_log::print(&control) {});
    Ok(Accounting::of(vec![close_one(0, worker)]))
}

fn file_of(files: &[(String, String)], port: &str) -> Option<PathBuf> {
    files.iter().find(|(name, _)| name == port).map(|(_, file)| PathBuf::from(file))
}

/// Puts captures and sinks in place of all ports.
pub(super) fn replace_ports(
    config: &mut Config,
    inputs: &[(String, String)],
    outputs: &[(String, String)],
    macs: &[(String, MacAddress)],
) -> Result<(), InstanceError> {
    let files = inputs.iter().chain(outputs).map(|(port, _)| port);
    for port in files.chain(macs.iter().map(|(port, _)| port)) {
        if config.port(port).is_none() {
            let known: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
            let message = format!("the configuration has no such port; it has {}", known.join(", "));
            return Err(InstanceError::port(port, message));
        }
    }
    let mtus: Vec<u16> = config.ports.iter().map(|port| mtu(config, port)).collect();
    for (port, mtu) in config.ports.iter_mut().zip(mtus) {
        let given = macs.iter().find(|(name, _)| *name == port.name).map(|(_, mac)| *mac);
        let link = Link { mac: given.or(port.kind.mac()), mtu };
        let (input, output) = (file_of(inputs, &port.name), file_of(outputs, &port.name));
        port.fault = None;
        port.kind = if input.is_some() || output.is_some() {
            PortKind::Pcap(Pcap { input, output, link })
        } else {
            PortKind::Sink(Sink { verify_checksums: false, link })
        };
    }
    // A trial shall not take huge pages from those who need them, nor need what the machine has not.
    config.memory.hugepages = Hugepages::Off;
    config.memory.reserve_hugepages = false;
    Ok(())
}

/// The time of the first packet of all inputs.
fn first_time(config: &Config) -> Result<Option<Time>, InstanceError> {
    let mut first: Option<Time> = None;
    let inputs = config.ports.iter().filter_map(|port| match &port.kind {
        PortKind::Pcap(pcap) => Some((port, pcap.input.as_deref()?)),
        _ => None,
    });
    for (port, input) in inputs {
        let time = open_input(&port.name, input)?.next_timestamp();
        first = first.into_iter().chain(time).min();
    }
    Ok(first)
}

fn open_input(name: &str, input: &Path) -> Result<PcapPort, InstanceError> {
    let config = PcapConfig {
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, 0],
        mtu: 1_500,
        input: Some(input.to_owned()),
        output: None,
        pace: Pace::UpToNow,
        epoch_ns: 0,
    };
    Ok(PcapPort::open(&config)?)
}

/// Moves the clock from packet to packet, with timers in between.
fn play(worker: &mut NfWorker, clock: &SharedClock, tell: impl Fn()) {
    let mut now = Time(START.0 - 1_000_000);
    advance(worker, clock, now);
    loop {
        let ports = (0..PORTS_MAX as u16).map(PortId);
        let next = ports.filter_map(|id| worker.port(id).and_then(|port| port.next_timestamp())).min();
        let Some(next) = next else { break };
        live_until(worker, clock, &mut now, next);
        now = now.max(next);
        advance(worker, clock, now);
        tell();
    }
    let end = now + RUN_ON;
    live_until(worker, clock, &mut now, end);
    tell();
}

/// Timers run at their times up to just before `end`.
fn live_until(worker: &mut NfWorker, clock: &SharedClock, now: &mut Time, end: Time) {
    let start = *now;
    loop {
        let lived = now.since(start);
        let step = STEPS.iter().find(|(after, _)| lived >= *after).map_or(STEP, |(_, step)| *step);
        if *now + step >= end || lived > GAP_MAX {
            return;
        }
        *now = *now + step;
        advance(worker, clock, *now);
    }
}

/// The clock stands at `now`: timers first, then packets that are due, and what came of both is sent.
pub(super) fn advance(worker: &mut NfWorker, clock: &SharedClock, now: Time) {
    clock.set(now);
    worker.engine.housekeeping(&mut worker.pool, now, TIMERS);
    worker.turn();
}
