//! `millrace run`: runs a configuration until it is told to stop.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use millrace_dataplane::affinity;
use millrace_dataplane::worker::WorkerReport;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::load_or_report;
use crate::config::{Config, Host, Management, PortKind};
use crate::instance::accounting::Accounting;
use crate::instance::{Control, Instance, InstanceError, NfWorker, Options};
use crate::management::server::Server;
use crate::management::socket::Socket;

/// How often the main thread looks for signals and the worker's end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The configuration, a TOML file.
    pub config: PathBuf,
    /// Seconds between the periodic lines; 0 for none.
    #[arg(long, default_value_t = 5)]
    pub interval: u64,
    /// Ends after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// Print periodic lines and the final accounting as JSON, an object a line.
    #[arg(long)]
    pub json: bool,
}

/// Status 0 when every packet and every frame is accounted for at the end.
pub fn run(arguments: &Arguments) -> ExitCode {
    let Some(config) = load_or_report(&arguments.config, &Host::probe().running_now()) else {
        return ExitCode::FAILURE;
    };
    match serve(config, arguments) {
        Ok(accounting) => {
            let printed = print_accounting(&accounting, arguments.json);
            let complete = accounting.is_complete();
            if !complete {
                tracing::error!("the accounting does not hold: packets or frames are missing");
            }
            // A closed pipe loses the table, not the result.
            let lost = printed.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
            if complete && !lost { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the final accounting.
pub(crate) fn print_accounting(accounting: &Accounting, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json { writeln!(out, "{}", accounting.to_json()) } else { write!(out, "{accounting}") }
}

fn serve(config: Config, arguments: &Arguments) -> Result<Accounting, InstanceError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|source| InstanceError::System { action: "handle signals".to_owned(), source })?;
    }
    // The socket first: of two instances the second ends here, before it takes any interface.
    let socket = open_socket(&config.management)?;
    let ends = ends_by_itself(&config);
    let Instance { worker, control } = Instance::build(config, Options::default())?;
    let control = Arc::new(control);
    tell_memory(&control);
    let ended = Arc::new(AtomicBool::new(false));
    let thread = start_worker(worker, control.core(), &stop, &ended, ends)?;
    let server = socket
        .map(|socket| Server::start(socket, Arc::clone(&control)))
        .transpose()
        .map_err(|source| InstanceError::System { action: "start the management thread".to_owned(), source });
    if server.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    tracing::info!("running");
    watch(&control, arguments, &stop, &ended);
    stop.store(true, Ordering::Relaxed);
    let accounting = thread.join().map_err(|_| InstanceError::WorkerGone)?;
    drop(server?);
    Ok(accounting)
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

fn tell_memory(control: &Control) {
    for (what, value) in control.memory().iter() {
        tracing::info!("{what}: {value}");
    }
}

/// True if some port ends, and all others have an end or only take packets.
fn ends_by_itself(config: &Config) -> bool {
    config.ports.iter().any(|port| match &port.kind {
        PortKind::Generator(generator) => generator.packets.is_some(),
        PortKind::Pcap(pcap) => pcap.input.is_some(),
        PortKind::AfXdp(_) | PortKind::Sink(_) => false,
    })
}

fn start_worker(
    mut worker: NfWorker,
    core: Option<usize>,
    stop: &Arc<AtomicBool>,
    ended: &Arc<AtomicBool>,
    until_exhausted: bool,
) -> Result<JoinHandle<Accounting>, InstanceError> {
    /// Tells the main thread, however the worker ends.
    struct Ended(Arc<AtomicBool>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, ended) = (Arc::clone(stop), Ended(Arc::clone(ended)));
    let work = move || {
        let _ended = ended;
        if let Some(core) = core
            && let Err(error) = affinity::pin_to_core(core)
        {
            tracing::warn!(core, %error, "the worker could not be pinned to its core");
        }
        worker.run(&stop, until_exhausted);
        Accounting::close(&mut worker)
    };
    let builder = std::thread::Builder::new().name("worker-0".to_owned());
    builder
        .spawn(work)
        .map_err(|source| InstanceError::System { action: "start the worker".to_owned(), source })
}

/// Prints periodic lines until it is time to stop.
fn watch(control: &Control, arguments: &Arguments, stop: &AtomicBool, ended: &AtomicBool) {
    let started = Instant::now();
    let interval = Duration::from_secs(arguments.interval);
    let ask = |worker: &mut NfWorker| (worker.report(), worker.engine.state.sessions.count());
    let mut rates = Rates { before: control.worker().call(ask).ok().map(|(report, _)| (started, report)) };
    let mut next = started + interval;
    while !stop.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
        if arguments.duration.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
            return;
        }
        if !interval.is_zero() && Instant::now() >= next {
            next += interval;
            if let Ok((report, sessions)) = control.worker().call(ask) {
                let line = rates.line(&report, sessions, arguments.json);
                // Nobody may be reading any more; packets flow on.
                let _ = writeln!(io::stdout().lock(), "{line}");
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Turns counters into rates between two periodic lines.
struct Rates {
    before: Option<(Instant, WorkerReport)>,
}

impl Rates {
    fn line(&mut self, report: &WorkerReport, sessions: usize, json: bool) -> String {
        let now = Instant::now();
        let (seconds, before) = match &self.before {
            Some((then, before)) => (now.duration_since(*then).as_secs_f64().max(1e-3), Some(before)),
            None => (f64::INFINITY, None),
        };
        let rate = |new: u64, old: u64| ((new.saturating_sub(old)) as f64 / seconds) as u64;
        let ports: Vec<(String, u64, u64)> = report
            .ports
            .iter()
            .map(|port| {
                let old =
                    before.and_then(|before| before.ports.iter().find(|old| old.info.name == port.info.name));
                let (rx, tx) = old.map_or((0, 0), |old| (old.counters.rx_packets, old.counters.tx_packets));
                let counters = &port.counters;
                (port.info.name.clone(), rate(counters.rx_packets, rx), rate(counters.tx_packets, tx))
            })
            .collect();
        let old = before.map_or_else(Default::default, |before| before.engine);
        let hits = report.engine.hits - old.hits;
        let all = hits + report.engine.misses + report.engine.alone - old.misses - old.alone;
        let drops = report.sums.drops.total() - before.map_or(0, |before| before.sums.drops.total());
        let share = 100.0 * hits as f64 / all.max(1) as f64;
        self.before = Some((now, report.clone()));
        if json {
            let ports: Vec<_> = ports
                .iter()
                .map(|(port, rx, tx)| serde_json::json!({ "port": port, "rx_pps": rx, "tx_pps": tx }))
                .collect();
            return serde_json::json!({
                "ports": ports, "hit_percent": share, "sessions": sessions, "drops": drops
            })
            .to_string();
        }
        let ports: Vec<_> =
            ports.iter().map(|(name, rx, tx)| format!("{name} rx {rx} pps tx {tx} pps")).collect();
        format!("{}  hits {share:.1} %  sessions {sessions}  drops {drops}", ports.join("  "))
    }
}
