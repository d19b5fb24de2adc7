//! What is said of a packet in a capture.

use std::net::IpAddr;

use millrace_dataplane::capture::{Moment, Record};
use millrace_nf::explain::Step;
use millrace_nf::follow::Followed;
use millrace_nf::headers::{Parsed, apply_edits};

use super::points::Shows;
use crate::explain::Report;
use crate::explain::look;
use crate::instance::functions::PortFacts;

/// Of a packet that the data plane recorded: of drops, by which function, where, and what the reason means.
pub fn of_record(record: &Record<'_>, ports: &[PortFacts]) -> Vec<String> {
    let Some(reason) = record.reason else { return Vec::new() };
    let name = |id| {
        let port = ports.iter().find(|port| Some(port.id) == record.port);
        port.map_or_else(|| format!("port {id}"), |port| port.name.clone())
    };
    let place = match (record.moment, record.port) {
        (Moment::Received, Some(id)) => format!("at reception by {}", name(id.0)),
        (Moment::Inside, Some(id)) => format!("from {}", name(id.0)),
        (Moment::Sent, Some(id)) => format!("at sending by {}", name(id.0)),
        (_, None) => "inside".to_owned(),
    };
    let mut comments = Vec::new();
    if !record.comment.is_empty() {
        comments.push(record.comment.to_owned());
    }
    comments.push(format!("dropped {place}: {}, {}", reason.name(), reason.meaning().trim()));
    comments
}

/// A packet as a point shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The number of the point.
    pub point: usize,
    /// Its bytes there.
    pub frame: Vec<u8>,
    /// What is said of it.
    pub comments: Vec<String>,
}

/// A packet that was followed, at each point that shows it, in the order in which it came there.
pub fn of_followed<'a>(
    followed: &Followed,
    points: impl Iterator<Item = &'a Shows>,
    ports: &[PortFacts],
) -> Vec<Shown> {
    let Followed { port, frame, foreseen, outcome, .. } = followed;
    let mut report = look::report(ports, *port, frame, foreseen);
    report.correct(outcome);
    let Ok((_, Some(said))) = foreseen else { return Vec::new() };
    let ends = how_it_ends(&report);
    let walk = said.all_steps();
    let steps = walked(frame, &walk);
    // The place in the walk orders what is shown.
    let mut shown = Vec::new();
    for (number, point) in points.enumerate() {
        match point {
            Shows::Chain(name) if *name == said.chain => {
                let mut comments: Vec<_> = steps.iter().map(|(_, words)| words.clone()).collect();
                comments.push(ends.clone());
                shown.push((0, Shown { point: number, frame: frame.clone(), comments }));
            }
            Shows::Function(name) => {
                let at = walk.iter().zip(&steps).enumerate();
                for (at, (_, (frame, words))) in at.filter(|(_, (step, _))| step.function == *name) {
                    let comments = vec![words.clone(), ends.clone()];
                    shown.push((at + 1, Shown { point: number, frame: frame.clone(), comments }));
                }
            }
            _ => {}
        }
    }
    shown.sort_by_key(|(at, shown)| (*at, shown.point));
    shown.into_iter().map(|(_, shown)| shown).collect()
}

/// For each step of a walk, the frame as it came there, and the step in words.
fn walked(frame: &[u8], walk: &[Step]) -> Vec<(Vec<u8>, String)> {
    let mut edits = Vec::new();
    let mut steps = Vec::new();
    let mut here = frame.to_vec();
    for step in walk {
        edits.extend_from_slice(&step.edits);
        let mut behind = frame.to_vec();
        // A frame that can't be read has not walked.
        let _ = apply_edits(&mut behind, &edits);
        let words = words(step, &here, &behind);
        steps.push((std::mem::replace(&mut here, behind), words));
    }
    steps
}

type End = (IpAddr, Option<u16>);

fn ends(frame: &[u8]) -> Option<[End; 2]> {
    let parsed = Parsed::parse(frame).ok()?;
    let (source, destination) = parsed.addresses()?;
    let ports = parsed.ports();
    Some([(source, ports.map(|ports| ports.0)), (destination, ports.map(|ports| ports.1))])
}

fn show((address, port): End) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}

/// A step, with what it changed of source and destination.
fn words(step: &Step, before: &[u8], behind: &[u8]) -> String {
    let mut words = step.to_string();
    if let (Some(before), Some(behind)) = (ends(before), ends(behind)) {
        for ((name, before), behind) in ["source", "destination"].into_iter().zip(before).zip(behind) {
            if before != behind {
                words += &format!("; {name} {} -> {}", show(before), show(behind));
            }
        }
    }
    words
}

/// What became of a packet, in a line.
fn how_it_ends(report: &Report) -> String {
    let cache = match report.look_up.as_deref() {
        Some("hit") => "flow cache: hit",
        Some("miss") => "flow cache: miss",
        Some("alone") => "flow cache: walks alone, for it fails a guard",
        Some("no_key") => "flow cache: no key",
        _ => "flow cache: not asked",
    };
    match (&report.reason, report.outputs.as_slice()) {
        (Some(reason), _) => format!("{cache}; dropped, {reason}"),
        (None, []) => format!("{cache}; {}", report.verdict),
        (None, outputs) => format!("{cache}; {} to {}", report.verdict, outputs.join(", ")),
    }
}
