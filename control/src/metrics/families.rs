//! The families of metrics: names, kinds, labels and meanings. They are stable: none is renamed or removed without an entry
//! in the changelog.

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets; samples end in `_bucket`, `_count` and `_sum`.
    Histogram,
    /// Text in labels; its sample ends in `_info` and is 1.
    Info,
}

impl Kind {
    /// As OpenMetrics calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What the names of its samples end in; histograms have endings of their own.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// A family of metrics.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name without suffix.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Labels of its samples, in order.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Family {
    /// Its unit, which its name ends in, if it has one (OpenMetrics 1.0, "Units and Base Units").
    pub fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(&format!("_{unit}")))
    }

    /// The name of its samples, or the common beginning of theirs.
    pub fn sample_name(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }
}

macro_rules! families {
    ($($name:ident: $kind:ident $metric:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Family =
                Family { name: $metric, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All families, in the order in which they are told.
        pub static ALL: &[&Family] = &[$(&$name),*];
    };
}

families! {
    BUILD: Info "millrace_build" ["version"] "The running version.";
    START_TIME: Gauge "millrace_start_time_seconds" [] "When the instance started, in seconds since 1970.";
    HEAP_USED: Gauge "millrace_heap_used_bytes" [] "Memory of the process beside packets and tables, in use.";
    LOG_LINES: Counter "millrace_log_lines_left_out" ["reason"] "Lines of the log that were not written.";
    PORT_RX_PACKETS: Counter "millrace_port_received_packets" ["port"] "Packets received and given to the chains.";
    PORT_RX_BYTES: Counter "millrace_port_received_bytes" ["port"] "Their bytes, without FCS.";
    PORT_TX_PACKETS: Counter "millrace_port_sent_packets" ["port"] "Packets sent.";
    PORT_TX_BYTES: Counter "millrace_port_sent_bytes" ["port"] "Their bytes, without FCS.";
    PORT_DROPS: Counter "millrace_port_dropped_packets" ["port", "direction", "reason"] "Packets that the port itself dropped.";
    PORT_COPIED: Counter "millrace_port_copied_packets" ["port", "direction"] "Copies that a fault table made.";
    PORT_MISSED: Counter "millrace_port_missed_packets" ["port"] "Packets lost before Millrace saw them, as the kernel counts.";
    PORT_BUFFERED: Gauge "millrace_port_buffered_packets" ["port"] "Packets given to the port and not sent yet.";
    PORT_LINK: Gauge "millrace_port_link_up" ["port"] "Whether the link is up.";
    PORT_LINK_LOSSES: Counter "millrace_port_link_losses" ["port"] "Times that the link went down or the interface went away.";
    RECEIVED: Counter "millrace_received_packets" ["share"] "Packets taken from ports.";
    ORIGINATED: Counter "millrace_originated_packets" ["share"] "Packets that functions made.";
    COPIED: Counter "millrace_copied_packets" ["share"] "Copies for further outputs of one packet, and the packets but one of frames that were cut inside.";
    SENT: Counter "millrace_sent_packets" ["share"] "Packets given to ports.";
    CONSUMED: Counter "millrace_consumed_packets" ["share"] "Packets that ended in a function.";
    DROPS: Counter "millrace_dropped_packets" ["share", "reason"] "Packets that the chains dropped.";
    HANDED_IN: Counter "millrace_handed_in_packets" ["share"] "Packets taken from other shares: to be worked on, or to be sent.";
    HANDED_OUT: Counter "millrace_handed_out_packets" ["share"] "Packets given to other shares: to be worked on, or to be sent.";
    BUFFERED: Gauge "millrace_buffered_packets" ["share"] "Packets that wait for a neighbour or an output, or are with a function on a core of its own.";
    SUMS_HOLD: Gauge "millrace_sums_hold" ["share"] "Whether every packet is accounted for.";
    TURNS: Counter "millrace_worker_turns" ["core"] "Turns of the worker's loop.";
    BUSY_TURNS: Counter "millrace_worker_busy_turns" ["core"] "Turns that moved packets.";
    SLEEPS: Counter "millrace_worker_sleeps" ["core"] "Naps while idle.";
    BUSY: Counter "millrace_worker_busy_seconds" ["core"] "Time spent in turns that moved packets.";
    SHARE_BUSY_TURNS: Counter "millrace_share_busy_turns" ["share"] "Turns of the share that moved packets.";
    SHARE_BUSY: Counter "millrace_share_busy_seconds" ["share"] "Time spent in turns of the share that moved packets.";
    SHARE_CORE: Gauge "millrace_share_core" ["share"] "The core of the worker that has the share.";
    HITS: Counter "millrace_flow_cache_hits" ["share"] "Packets that the flow cache carried.";
    MISSES: Counter "millrace_flow_cache_misses" ["share"] "Packets that walked because no entry was there.";
    ALONE: Counter "millrace_flow_cache_alone" ["share"] "Packets that walked although an entry was there, or that have no key.";
    FLOWS: Gauge "millrace_flow_cache_entries" ["share"] "Entries of the flow cache.";
    SESSIONS: Gauge "millrace_sessions" ["share"] "Sessions.";
    SESSIONS_MAX: Gauge "millrace_sessions_max" ["share"] "Sessions that the table has room for.";
    POOL: Gauge "millrace_pool_frames" ["share"] "Packet buffers.";
    POOL_FREE: Gauge "millrace_pool_free_frames" ["share"] "Packet buffers that are free.";
    WALKS: Counter "millrace_chain_walks" ["chain"] "Packets that the functions of the chain decided; all others were replayed.";
    OPENED: Counter "millrace_chain_sessions_opened" ["chain"] "Sessions opened.";
    REFUSED: Counter "millrace_chain_sessions_refused" ["chain"] "Sessions not opened because the table was full.";
    UNDECLARED: Counter "millrace_chain_undeclared_reads" ["chain"] "Decisions that could not be cached because of an error in a function.";
    BURST: Histogram "millrace_burst_seconds" ["share"] "Time from when a burst was received to when its packets are decided and rewritten.";
    STAGE_PACKETS: Counter "millrace_stage_packets" ["function"] "Packets that a function with a core of its own worked on.";
    STAGE_WAITING: Gauge "millrace_stage_waiting_packets" ["function"] "Packets that wait in front of it.";
    STAGE_TURNS: Counter "millrace_stage_turns" ["function"] "Turns of its loop.";
    STAGE_BUSY_TURNS: Counter "millrace_stage_busy_turns" ["function"] "Its turns with packets.";
    STAGE_SLEEPS: Counter "millrace_stage_sleeps" ["function"] "Its naps while idle.";
    STAGE_BUSY: Counter "millrace_stage_busy_seconds" ["function"] "Time that it spent in turns with packets.";
    STAGE_UNDER_WAY: Gauge "millrace_stage_under_way_packets" ["function", "share"] "Packets of a share on their way to it, with it, and on their way back.";
    STAGE_REFUSED: Counter "millrace_stage_refused_packets" ["function", "share"] "Packets dropped because as many were under way as can be.";
    PROBE_UP: Gauge "millrace_probe_up" ["probe"] "Whether the host that the probe asks works; none while nobody has asked.";
    PROBE_CHECKS: Counter "millrace_probe_checks" ["probe", "result"] "Checks that were good and that were bad.";
    PROBE_LATENCY: Gauge "millrace_probe_latency_seconds" ["probe"] "How long the last good check took.";
    LATENCY: Histogram "millrace_chain_latency_seconds" ["chain"] "Time from when a burst was received to when what became of it was given to ports.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    const DOCUMENTATION: &str = include_str!("../../../docs/metrics.md");

    #[test]
    fn every_family_is_documented_as_it_is_and_no_other() {
        let row = |line: &'static str| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
            [_, name, kind, labels, help, _] if name.starts_with("`millrace_") => {
                Some((name.trim_matches('`'), (kind, labels.replace('`', ""), help)))
            }
            _ => None,
        };
        let documented: BTreeMap<_, _> = DOCUMENTATION.lines().filter_map(row).collect();
        let known: BTreeMap<_, _> = ALL
            .iter()
            .map(|family| (family.sample_name(), (family.kind.name(), family.labels.join(", "), family.help)))
            .collect();
        for (name, row) in &known {
            assert_eq!(documented.get(name.as_str()), Some(row), "{name}");
        }
        let unknown: Vec<_> = documented.keys().filter(|name| !known.contains_key(**name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(known.len() > 30, "{}", known.len());
    }

    #[test]
    fn names_follow_the_rules_of_openmetrics() {
        let mut names = HashSet::new();
        for family in ALL {
            let name = family.name;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(
                !["_total", "_info", "_count", "_sum", "_bucket", "_created"]
                    .iter()
                    .any(|s| name.ends_with(s)),
                "{name}"
            );
            assert!(names.insert(name), "{name} is there twice");
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '"', '|']), "{name}");
            assert!(!family.labels.contains(&"le"), "{name}");
        }
    }
}
