//! All benchmarks in one run, as a table with its method.

use crate::chains::Kind;
use crate::established::{ChainConfig, measure};
use crate::rig::BenchResult;
use crate::traffic::TrafficConfig;
use crate::{flood, handoff, memory, new_flows, observed, ring, rule_changes, stages};
use millrace_dataplane::cpu::cycles_per_second;
use std::fmt::{Display, Write};
use std::process::Command;
use std::time::Duration;

const CHAIN: [Kind; 3] = [Kind::Firewall, Kind::Nat, Kind::Router];
const UDP: TrafficConfig = TrafficConfig {
    flows: 10_000,
    flows_per_host: 64,
    frame_bytes: 64,
    protocol: 17,
    v6: false,
    both_directions: false,
};

/// Runs everything, `repeat` times each, and returns the document.
///
/// # Errors
/// If it can't be formatted. A benchmark that fails is a line of the document.
pub fn document(repeat: usize) -> BenchResult<String> {
    let mut out = String::new();
    header(&mut out, repeat)?;
    let million = TrafficConfig { flows: 1_000_000, ..UDP };
    // In a process that has measured nothing yet, as the command that measures this alone.
    let opened = new_flows::measure(&CHAIN, &million, repeat);
    writeln!(out, "## Established flows\n")?;
    writeln!(
        out,
        "| chain and traffic | flows | cycles a packet | Mpps | limit | ratio | spread % | limit's spread % | allocations |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for (name, kinds, traffic) in cases() {
        established_row(&mut out, name, kinds, traffic, repeat)?;
    }
    writeln!(out, "\n## The rest\n\n```text")?;
    line(&mut out, opened)?;
    line(&mut out, rule_changes::measure(&CHAIN, &million, 1000.0, repeat))?;
    line(&mut out, observed::measure(&CHAIN, &UDP, repeat))?;
    line(&mut out, flood::measure(&CHAIN, &UDP, 2.0, 0.4))?;
    for flows_per_host in [64, 1] {
        line(&mut out, memory::measure(1_000_000, flows_per_host))?;
    }
    line(&mut out, handoff::measure(repeat))?;
    for frame_bytes in [64, 512, 1_400] {
        line(&mut out, stages::measure(frame_bytes, repeat))?;
    }
    let ring = ring::measure(repeat);
    let missing = ring.as_ref().ok().and_then(|report| report.dpdk_missing.clone());
    line(&mut out, ring)?;
    writeln!(out, "```\n")?;
    ring_notes(&mut out, missing.as_deref())?;
    Ok(out)
}

fn ring_notes(out: &mut String, missing: Option<&str>) -> std::fmt::Result {
    writeln!(
        out,
        "Ring: cycles of the sending and of the receiving core, added, between two cores in bulks of 32 words, as DPDK's \
         `ring_perf_autotest` counts them. Ours is a median of medians of 64 runs of a million words, as many as a run of \
         that test moves."
    )?;
    match missing {
        None => writeln!(
            out,
            "DPDK's are from its own `dpdk-test` in the same run (SP/SC bulk of 32, two cores)."
        ),
        Some(reason) => writeln!(out, "DPDK's was not measured: {reason}."),
    }
}

fn cases() -> Vec<(&'static str, Vec<Kind>, TrafficConfig)> {
    let firewalls = |count: usize| vec![Kind::Firewall; count];
    let tcp = TrafficConfig { protocol: 6, ..UDP };
    let v6 = TrafficConfig { v6: true, ..UDP };
    vec![
        ("firewall, nat, router; UDP", CHAIN.to_vec(), UDP),
        ("firewall, nat, router; UDP", CHAIN.to_vec(), TrafficConfig { flows: 1_000_000, ..UDP }),
        ("the same, both directions", CHAIN.to_vec(), TrafficConfig { both_directions: true, ..UDP }),
        ("firewall, nat, router; TCP, tracked", CHAIN.to_vec(), tcp),
        (
            "firewall, nat, router; TCP, tracked, both directions",
            CHAIN.to_vec(),
            TrafficConfig { both_directions: true, ..tcp },
        ),
        ("the same", CHAIN.to_vec(), TrafficConfig { both_directions: true, flows: 1_000_000, ..tcp }),
        ("firewall, nat, router; UDP over IPv6", CHAIN.to_vec(), v6),
        ("1 firewall; UDP", firewalls(1), UDP),
        ("2 firewalls; UDP", firewalls(2), UDP),
        ("4 firewalls; UDP", firewalls(4), UDP),
        ("8 firewalls; UDP", firewalls(8), UDP),
    ]
}

fn established_row(
    out: &mut String,
    name: &str,
    kinds: Vec<Kind>,
    traffic: TrafficConfig,
    repeat: usize,
) -> BenchResult<()> {
    match measure(&ChainConfig { kinds, traffic, repeat }) {
        Ok(r) => writeln!(
            out,
            "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} | {} |",
            r.flows,
            r.cycles_per_packet,
            r.packets_per_second / 1e6,
            r.limit_cycles,
            r.limit_ratio,
            r.spread_percent,
            r.limit_spread_percent,
            r.allocations
        )?,
        Err(error) => writeln!(out, "| {name} | {} | failed: {error} | | | | | | |", traffic.flows)?,
    }
    Ok(())
}

fn line(out: &mut String, report: BenchResult<impl Display>) -> std::fmt::Result {
    match report {
        Ok(report) => writeln!(out, "{report}"),
        Err(error) => writeln!(out, "failed: {error}"),
    }
}

fn header(out: &mut String, repeat: usize) -> BenchResult<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let load = read("/proc/loadavg");
    let date = Command::new("date").arg("+%Y-%m-%d %H:%M %Z").output();
    let date = date.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    writeln!(out, "# Results\n\nWritten by `scripts/bench`, never by hand.\n")?;
    writeln!(out, "- Date: {date}; load average before: {}", load.split(' ').next().unwrap_or("unknown"))?;
    writeln!(
        out,
        "- Machine: {}; {} cores; TSC {:.2} GHz; Linux {}",
        model.trim_start_matches([':', ' ', '\t']),
        std::thread::available_parallelism().map_or(1, usize::from),
        cycles_per_second(Duration::from_millis(50)) / 1e9,
        read("/proc/sys/kernel/osrelease").trim()
    )?;
    writeln!(
        out,
        "- Method: in memory, one core, bursts of 64 frames of 64 bytes from a ring of 8,192; each flow once a lap in one fixed \
         random permutation. Preparing bursts and taking outputs is outside the measurement. Limit and chain \
         run in turns, {repeat} times each; each run of either is at least 400,000 packets and four laps, after a quarter as many \
         uncounted ones that warm the caches. \
         Cycles and limit are medians of all these runs, the ratio is that of the two medians, spread is the distance of the \
         extremes.\n\
         - The limit is the least work of a chain of firewall, NAT, balancer and VXLAN \
         ([limit_loop.rs](../dataplane/src/limit_loop.rs)), the same for every line.\n"
    )?;
    Ok(())
}
