//! The periodic lines of `run`.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::worker::WorkerReport;

use crate::instance::{Control, NfWorker};
use crate::supervised::{Pulse, Supervised};

/// How often the thread looks whether it is time for a line, or for its end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Who reads standard output may take so long for a line.
const STALL_TIME: Duration = Duration::from_secs(30);

/// Prints a line every `interval`, on a thread of its own: a reader that takes nothing holds up only that.
///
/// # Errors
/// No thread can be made.
pub(super) fn start(control: Arc<Control>, interval: Duration, json: bool) -> io::Result<Supervised> {
    Supervised::start("lines", STALL_TIME, move |pulse| print(&control, interval, json, pulse))
}

fn print(control: &Control, interval: Duration, json: bool, pulse: &Pulse) {
    let sessions = |worker: &mut NfWorker| worker.engine.state.sessions.count();
    let started = Instant::now();
    let mut rates = Rates { before: control.report().ok().map(|report| (started, report)) };
    let mut next = started + interval;
    while pulse.goes_on() {
        if Instant::now() >= next {
            next += interval;
            if let (Ok(report), Ok(sessions)) = (control.report(), control.ask_all(sessions)) {
                let line = rates.line(&report, sessions.iter().sum(), json);
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
