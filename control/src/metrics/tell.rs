//! What a reading says, family by family.

use std::collections::BTreeMap;
use std::time::SystemTime;

use millrace_dataplane::port::PortCounters;
use millrace_dataplane::stage::{LinkCounters, StageReport};
use millrace_dataplane::worker::{PortReport, WorkerCounters};

use super::exposition::{Exposition, Format};
use super::families::{self, Family};
use super::reading::{Reading, ShareReading};
use crate::host::probe::{State, Status};
use crate::instance::thread::Seat;
use crate::logging;

/// Everything that `reading` says of an instance that started at `start`.
pub fn tell(reading: &Reading, start: SystemTime, format: Format) -> String {
    let mut text = Exposition::new(format);
    text.family(&families::BUILD).add(&[env!("CARGO_PKG_VERSION")], 1);
    let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = u64::try_from(start.as_nanos()).unwrap_or(u64::MAX);
    text.family(&families::START_TIME).add_nanos(&[], start);
    if let Some(heap) = reading.heap {
        text.family(&families::HEAP_USED).add(&[], heap.used as u64);
    }
    let (lost, suppressed) = logging::left_out();
    let mut lines = text.family(&families::LOG_LINES);
    lines.add(&["full"], lost);
    lines.add(&["rate"], suppressed);
    tell_ports(&mut text, &reading.ports);
    tell_workers(&mut text, reading);
    tell_shares(&mut text, reading);
    tell_chains(&mut text, reading);
    tell_stages(&mut text, reading);
    tell_probes(&mut text, &reading.probes);
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
    each(&families::PORT_LINK_LOSSES, &|port| port.counters.link_losses);
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

/// The threads and what they do with their time.
fn tell_workers(text: &mut Exposition, reading: &Reading) {
    let named = || {
        let name = |(at, seat): (usize, &Seat)| {
            seat.core.map_or_else(|| format!("any-{at}"), |core| core.to_string())
        };
        reading.seats.iter().enumerate().map(move |it| (name(it), it.1.time))
    };
    let mut each = |family: &'static Family, value: fn(&WorkerCounters) -> u64| {
        let mut samples = text.family(family);
        named().for_each(|(name, time)| samples.add(&[&name], value(&time)));
    };
    each(&families::TURNS, |time| time.turns);
    each(&families::BUSY_TURNS, |time| time.busy_turns);
    each(&families::SLEEPS, |time| time.sleeps);
    let mut busy = text.family(&families::BUSY);
    named().for_each(|(name, time)| busy.add_nanos(&[&name], time.busy_nanos));
}

fn tell_shares(text: &mut Exposition, reading: &Reading) {
    let named = || reading.shares.iter().enumerate().map(|(at, worker)| (at.to_string(), worker));
    let mut each = |family: &'static Family, value: &dyn Fn(&ShareReading) -> u64| {
        let mut samples = text.family(family);
        named().for_each(|(name, worker)| samples.add(&[&name], value(worker)));
    };
    each(&families::RECEIVED, &|it| it.report.sums.received);
    each(&families::ORIGINATED, &|it| it.report.sums.originated);
    each(&families::COPIED, &|it| it.report.sums.copied);
    each(&families::SENT, &|it| it.report.sums.sent);
    each(&families::CONSUMED, &|it| it.report.sums.consumed);
    each(&families::BUFFERED, &|it| it.report.buffered);
    each(&families::SUMS_HOLD, &|it| u64::from(it.report.sums_hold()));
    each(&families::SHARE_BUSY_TURNS, &|it| it.report.worker.busy_turns);
    each(&families::HITS, &|it| it.report.engine.hits);
    each(&families::MISSES, &|it| it.report.engine.misses);
    each(&families::ALONE, &|it| it.report.engine.alone);
    each(&families::FLOWS, &|it| it.flows as u64);
    each(&families::SESSIONS, &|it| it.sessions as u64);
    each(&families::SESSIONS_MAX, &|it| it.sessions_max as u64);
    each(&families::POOL, &|it| it.report.pool.1 as u64);
    each(&families::POOL_FREE, &|it| it.report.pool.0 as u64);
    each(&families::HANDED_IN, &|it| it.handed(|handed| handed.rx_taken + handed.tx_taken));
    each(&families::HANDED_OUT, &|it| it.handed(|handed| handed.rx_given + handed.tx_given));
    let mut cores = text.family(&families::SHARE_CORE);
    for seat in &reading.seats {
        for (share, core) in seat.shares.iter().zip(seat.core.iter().cycle()) {
            cores.add(&[&share.to_string()], *core as u64);
        }
    }
    let mut busy = text.family(&families::SHARE_BUSY);
    named().for_each(|(name, it)| busy.add_nanos(&[&name], it.report.worker.busy_nanos));
    let mut drops = text.family(&families::DROPS);
    for (name, it) in named() {
        it.report.sums.drops.iter().for_each(|(reason, packets)| drops.add(&[&name, reason.name()], packets));
    }
    let mut bursts = text.family(&families::BURST);
    reading
        .bursts
        .iter()
        .enumerate()
        .for_each(|(at, report)| bursts.add_histogram(&[&at.to_string()], report));
}

/// Functions with cores of their own, and the ways there.
fn tell_stages(text: &mut Exposition, reading: &Reading) {
    let mut each = |family: &'static Family, value: fn(&StageReport) -> u64| {
        let mut samples = text.family(family);
        reading.stages.iter().for_each(|(name, report)| samples.add(&[name], value(report)));
    };
    each(&families::STAGE_PACKETS, |report| report.taken);
    each(&families::STAGE_WAITING, |report| report.waiting);
    each(&families::STAGE_TURNS, |report| report.time.turns);
    each(&families::STAGE_BUSY_TURNS, |report| report.time.busy_turns);
    each(&families::STAGE_SLEEPS, |report| report.time.sleeps);
    let mut busy = text.family(&families::STAGE_BUSY);
    reading.stages.iter().for_each(|(name, report)| busy.add_nanos(&[name], report.time.busy_nanos));
    let mut each = |family: &'static Family, value: fn(&LinkCounters) -> u64| {
        let mut samples = text.family(family);
        for (at, share) in reading.shares.iter().enumerate() {
            share.links.iter().for_each(|(name, link)| samples.add(&[name, &at.to_string()], value(link)));
        }
    };
    each(&families::STAGE_UNDER_WAY, LinkCounters::under_way);
    each(&families::STAGE_REFUSED, |link| link.refused);
}

fn tell_probes(text: &mut Exposition, probes: &[Status]) {
    let mut up = text.family(&families::PROBE_UP);
    for status in probes.iter().filter(|status| status.state() != State::Unknown) {
        up.add(&[&status.probe.name], u64::from(status.state() == State::Up));
    }
    let mut checks = text.family(&families::PROBE_CHECKS);
    for Status { probe, checks: (good, bad), .. } in probes {
        checks.add(&[&probe.name, "good"], *good);
        checks.add(&[&probe.name, "bad"], *bad);
    }
    let mut latency = text.family(&families::PROBE_LATENCY);
    for (status, took) in probes.iter().filter_map(|status| Some((status, status.latency()?))) {
        latency.add_nanos(&[&status.probe.name], u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
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
