//! `millrace run`: runs a configuration until it is told to stop.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use millrace_dataplane::memory::{limit_heap_arenas, trim_heap};

use super::live::{self, Shown};
use super::values::duration;
use super::{load_or_report, log, rule_log, signals};
use crate::config::units::show_size;
use crate::config::{Config, Host, Management, Metrics, PortKind};
use crate::host;
use crate::instance::accounting::Accounting;
use crate::instance::thread::WorkerThreads;
use crate::instance::{Control, Instance, InstanceError, Options, links};
use crate::live::screen::restore;
use crate::management::server::Server;
use crate::management::socket::Socket;
use crate::metrics;
use crate::notify::{Notifier, Watchdog};
use crate::supervised::Supervised;

/// How often the main thread looks for signals and the workers' end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Allocators of memory that is no packet and no table: workers need it seldom, and all others are few.
const HEAP_ARENAS: u8 = 2;
/// How often what is free of that goes back to the system. Configurations that change leave gaps, several times what is in use.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration, a TOML file.
    pub config: PathBuf,
    /// Time between the periodic lines, or between two pictures of the table that a terminal shows, in seconds or with a unit, as
    /// 500ms; 0 for neither. Without this lines come every 5 seconds and pictures every second.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,
    /// Print lines also on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// Ends after so long: seconds, or with a unit, as 90s, 5m or 2h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print periodic lines and the final accounting as JSON, an object a line.
    #[arg(long)]
    pub json: bool,
}

/// Status 0 when all went well: see `conclude`.
pub fn run(arguments: &Arguments, log: &log::Arguments) -> ExitCode {
    let Some(config) = load_or_report(&arguments.config, &Host::probe().running_now()) else {
        return ExitCode::FAILURE;
    };
    let logging = log.start(&config.log);
    let served = serve(config, arguments);
    // All is told before the accounting.
    drop(logging);
    match served {
        Ok(accounting) => conclude(&accounting, arguments.json),
        Err(error) => {
            complain!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the final accounting; status 0 when every packet and every frame is accounted for and no port failed.
pub(super) fn conclude(accounting: &Accounting, json: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let printed = if json { writeln!(out, "{}", accounting.to_json()) } else { write!(out, "{accounting}") };
    // A closed pipe loses the table, not the result.
    let lost = printed.and_then(|()| out.flush()).err();
    let lost = lost.filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
    if let Some(error) = &lost {
        complain!("error: the accounting could not be printed: {error}");
    }
    let problems = accounting.problems();
    problems.iter().for_each(|problem| complain!("error: {problem}"));
    if problems.is_empty() && lost.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(config: Config, arguments: &Arguments) -> Result<Accounting, InstanceError> {
    let system = |action: &str| {
        let action = action.to_owned();
        move |source| InstanceError::System { action, source }
    };
    limit_heap_arenas(HEAP_ARENAS);
    let stop = signals::handle().map_err(system("handle signals"))?;
    // The socket first: of two instances the second ends here, before it takes any interface.
    let socket = open_socket(&config.management)?;
    let ends = ends_by_itself(&config);
    let status = format!("running: {} ports, {} chains", config.ports.len(), config.chains.len());
    let config_metrics = config.metrics.clone();
    let notifier = Arc::new(Notifier::from_environment().map_err(system("NOTIFY_SOCKET"))?);
    let Instance { workers, control } = Instance::build(config, Options::default())?;
    let control = Arc::new(control);
    control.notify(Arc::clone(&notifier));
    tell_memory(&control);
    let workers = WorkerThreads::start(workers, &control, ends)?;
    let mut server = socket
        .map(|socket| Server::start(socket, Arc::clone(&control)))
        .transpose()
        .map_err(system("start the management thread"))?;
    let mut metrics = open_metrics(&config_metrics, &control)?;
    let shown = Shown {
        title: format!("millrace  {}", arguments.config.display()),
        interval: arguments.interval,
        plain: arguments.plain,
        json: arguments.json,
    };
    let mut shown = live::start(Arc::clone(&control), shown, Arc::clone(&stop))
        .map_err(system("start the thread that shows what happens"))?;
    let mut rule_log =
        rule_log::start(Arc::clone(&control)).map_err(system("start the thread of the rules' log"))?;
    let mut host =
        host::thread::start(Arc::clone(&control)).map_err(system("start the thread of the host stack"))?;
    let mut links =
        links::start(Arc::clone(&control)).map_err(system("start the thread that looks at links"))?;
    tracing::info!("running");
    notifier.ready(&status);
    let mut watchdog = Watchdog::from_environment();
    let started = Instant::now();
    let mut trimmed = started;
    let in_time = || arguments.duration.is_none_or(|duration| started.elapsed() < duration);
    while !stop.load(Ordering::Relaxed) && !workers.has_ended() && in_time() {
        server.iter_mut().for_each(|server| server.thread().look());
        metrics.iter_mut().for_each(|server| server.thread().look());
        shown.iter_mut().for_each(Supervised::look);
        rule_log.look();
        host.look();
        links.look();
        let serving = server.iter_mut().map(|server| server.thread().is_alive());
        let serving = serving.chain(metrics.iter_mut().map(|server| server.thread().is_alive()));
        let others = [rule_log.is_alive(), host.is_alive(), links.is_alive()];
        let alive = serving.chain(others).all(|alive| alive);
        watchdog.look(&notifier, Instant::now(), control.timings().turns(), alive);
        if trimmed.elapsed() >= TRIM_EVERY {
            trimmed = Instant::now();
            trim_heap();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    notifier.stopping();
    // The terminal is given back first, and no line comes after the accounting, unless nobody reads them.
    drop(shown);
    restore();
    drop(host);
    drop(links);
    let accounting = workers.finish();
    drop(rule_log);
    while rule_log::print(&control) {}
    drop(server);
    drop(metrics);
    accounting
}

/// The management socket. Who may not make the usual one, and asked for no other, runs without: traffic of generators
/// and files needs no privileges.
fn open_socket(settings: &Management) -> Result<Option<Socket>, InstanceError> {
    match Socket::open(settings) {
        Err(InstanceError::System { action, source })
            if source.kind() == io::ErrorKind::PermissionDenied && *settings == Management::default() =>
        {
            tracing::warn!("no management, so no `show` and no `apply`: {action}: {source}");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// The metrics server. If the usual address is taken, and no other was asked for, there is none.
fn open_metrics(
    settings: &Metrics,
    control: &Arc<Control>,
) -> Result<Option<metrics::server::Server>, InstanceError> {
    let Some(address) = settings.listen else { return Ok(None) };
    match metrics::server::Server::start(address, Arc::clone(control)) {
        Ok(server) => {
            tracing::info!("metrics at http://{}{}", server.address(), metrics::server::PATH);
            Ok(Some(server))
        }
        Err(error) if *settings == Metrics::default() => {
            tracing::warn!("no metrics: listen at {address}: {error}");
            Ok(None)
        }
        Err(source) => Err(InstanceError::System { action: format!("metrics.listen: {address}"), source }),
    }
}

fn tell_memory(control: &Control) {
    let memory = control.memory();
    tracing::info!("memory: {} of {}", show_size(memory.arena.bytes as u64), memory.pages());
    memory.failed_steps().for_each(|step| tracing::info!("memory: not possible: {step}"));
}

/// True if some port ends, and all others have an end or only take packets.
fn ends_by_itself(config: &Config) -> bool {
    config.ports.iter().any(|port| match &port.kind {
        PortKind::Generator(generator) => generator.packets.is_some(),
        PortKind::Pcap(pcap) => pcap.input.is_some(),
        PortKind::AfXdp(_)
        | PortKind::AfPacket(_)
        | PortKind::Tap(_)
        | PortKind::Sink(_)
        | PortKind::Host(_) => false,
    })
}
