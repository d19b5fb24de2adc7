//! What a reading says, family by family.

use std::collections::BTreeMap;
use std::time::SystemTime;

use millrace_dataplane::port::PortCounters;
use millrace_dataplane::worker::PortReport;

use super::exposition::{Exposition, Format};
use super::families::{self, Family};
use super::reading::Reading;
use crate::logging;

/// The only worker.
const WORKER: &str = "0";

/// Everything that `reading` says of an instance that started at `start`.
pub fn tell(reading: &Reading, start: SystemTime, format: Format) -> String {
    let mut text = Exposition::new(format);
    text.family(&families::BUILD).add(&[env!("CARGO_PKG_VERSION")], 1);
    let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = u64::try_from(start.as_nanos()).unwrap_or(u64::MAX);
    text.family(&families::START_TIME).add_nanos(&[], start);
    let (lost, suppressed) = logging::left_out();
    let mut lines = text.family(&families::LOG_LINES);
    lines.add(&["full"], lost);
    lines.add(&["rate"], suppressed);
    tell_ports(&mut text, &reading.report.ports);
    tell_worker(&mut text, reading);
    tell_chains(&mut text, reading);
    text.finish()
}

/// A port as long as its name is known: what was removed and what was opened again under its name are one.
struct Port {
    counters: PortCounters,
    buffered: u64,
    link_up: bool,
}

fn tell_ports(text: &mut Exposition, reports: &[PortReport]) {
    let mut ports: BTreeMap<&str, Port> = BTreeMap::new();
    for PortReport { info, counters, buffered, .. } in reports {
        // Open ports come first: their link is the port's.
        let new = || Port { counters: PortCounters::default(), buffered: 0, link_up: info.link_up };
        let port = ports.entry(&info.name).or_insert_with(new);
        port.counters.add(counters);
        port.buffered += buffered;
    }
    let mut each = |family: &'static Family, value: &dyn Fn(&Port) -> u64| {
        let mut samples = text.family(family);
        ports.iter().for_each(|(name, port)| samples.add(&[name], value(port)));
    };
    each(&families::PORT_RX_PACKETS, &|port| port.counters.rx_packets);
    each(&families::PORT_RX_BYTES, &|port| port.counters.rx_bytes);
    each(&families::PORT_TX_PACKETS, &|port| port.counters.tx_packets);
    each(&families::PORT_TX_BYTES, &|port| port.counters.tx_bytes);
    each(&families::PORT_MISSED, &|port| port.counters.rx_missed);
    each(&families::PORT_BUFFERED, &|port| port.buffered);
    each(&families::PORT_LINK, &|port| u64::from(port.link_up));
    let mut drops = text.family(&families::PORT_DROPS);
    for (name, Port { counters, .. }) in &ports {
        for (direction, reasons) in [("rx", &counters.rx_drops), ("tx", &counters.tx_drops)] {
            for (reason, packets) in reasons.iter() {
                drops.add(&[name, direction, reason.name()], packets);
            }
        }
    }
    let mut copied = text.family(&families::PORT_COPIED);
    for (name, Port { counters, .. }) in &ports {
        copied.add(&[name, "rx"], counters.rx_copied);
        copied.add(&[name, "tx"], counters.tx_copied);
    }
}

fn tell_worker(text: &mut Exposition, reading: &Reading) {
    let Reading { report, .. } = reading;
    let (sums, worker, engine) = (&report.sums, &report.worker, &report.engine);
    for (family, value) in [
        (&families::RECEIVED, sums.received),
        (&families::ORIGINATED, sums.originated),
        (&families::COPIED, sums.copied),
        (&families::SENT, sums.sent),
        (&families::CONSUMED, sums.consumed),
        (&families::BUFFERED, report.buffered),
        (&families::SUMS_HOLD, u64::from(report.sums_hold())),
        (&families::TURNS, worker.turns),
        (&families::BUSY_TURNS, worker.busy_turns),
        (&families::SLEEPS, worker.sleeps),
        (&families::HITS, engine.hits),
        (&families::MISSES, engine.misses),
        (&families::ALONE, engine.alone),
        (&families::FLOWS, reading.flows as u64),
        (&families::SESSIONS, reading.sessions as u64),
        (&families::SESSIONS_MAX, reading.sessions_max as u64),
        (&families::POOL, report.pool.1 as u64),
        (&families::POOL_FREE, report.pool.0 as u64),
    ] {
        text.family(family).add(&[WORKER], value);
    }
    text.family(&families::BUSY).add_nanos(&[WORKER], worker.busy_nanos);
    let mut drops = text.family(&families::DROPS);
    sums.drops.iter().for_each(|(reason, packets)| drops.add(&[WORKER, reason.name()], packets));
    text.family(&families::BURST).add_histogram(&[WORKER], &reading.bursts);
}

fn tell_chains(text: &mut Exposition, reading: &Reading) {
    let mut each = |family: &'static Family, value: &dyn Fn(&millrace_nf::chain::ChainCounters) -> u64| {
        let mut samples = text.family(family);
        reading.chains.iter().for_each(|(name, counters)| samples.add(&[name], value(counters)));
    };
    each(&families::WALKS, &|counters| counters.walks);
    each(&families::OPENED, &|counters| counters.sessions_opened);
    each(&families::REFUSED, &|counters| counters.sessions_refused);
    each(&families::UNDECLARED, &|counters| counters.undeclared_reads);
    let mut latency = text.family(&families::LATENCY);
    reading.latency.iter().for_each(|(name, report)| latency.add_histogram(&[name], report));
}
