//! The report as people read it.

use std::fmt;

use super::report::{Headers, Opens, Program, Report, Segment, Session, Step};

/// Width of the names in front of lines.
const NAMES: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.received {
            Some(headers) => line(f, "packet", headers)?,
            None => line(f, "packet", format_args!("{} bytes that can't be read", self.frame_bytes))?,
        }
        let way = self.received.as_ref().map_or_else(String::new, |headers| {
            format!(", {} > {}", headers.ethernet_source, headers.ethernet_destination)
        });
        match (&self.chain, &self.zone) {
            (Some(chain), Some(zone)) => {
                line(f, "input", format_args!("{}, zone {zone} of chain {chain}{way}", self.input))?;
            }
            _ => line(f, "input", format_args!("{}{way}", self.input))?,
        }
        if let Some(look_up) = &self.look_up {
            line(f, "cache", show_look_up(look_up))?;
        }
        let (session, related) = (self.session.as_ref(), self.related.as_ref());
        show_segment(f, session, related, &self.steps, self.opens.as_ref(), self.program.as_ref())?;
        for Segment { payload, session, related, steps, opens, program } in &self.segments {
            show_step(f, payload)?;
            let (session, related) = (session.as_ref(), related.as_ref());
            show_segment(f, session, related, steps, opens.as_ref(), program.as_ref())?;
        }
        match (&self.sent, &self.reason) {
            (Some(sent), _) => {
                line(f, "verdict", format_args!("sent to {}", self.outputs.join(", ")))?;
                let way = format!("{} > {}", sent.ethernet_source, sent.ethernet_destination);
                line(f, "sent", format_args!("{sent}, {way}"))
            }
            (None, Some(reason)) => {
                let meaning = self.meaning.as_deref().unwrap_or_default();
                line(f, "verdict", format_args!("dropped, {reason}: {meaning}"))
            }
            (None, None) => line(f, "verdict", &self.verdict),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, what: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{name:<NAMES$}{what}")
}

/// What hangs below a line.
fn below(f: &mut fmt::Formatter<'_>, what: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{:NAMES$}  {what}", "")
}

/// What the functions of a segment do.
fn show_segment(
    f: &mut fmt::Formatter<'_>,
    session: Option<&Session>,
    related: Option<&Session>,
    steps: &[Step],
    opens: Option<&Opens>,
    program: Option<&Program>,
) -> fmt::Result {
    session.into_iter().try_for_each(|session| line(f, "session", session))?;
    related.into_iter().try_for_each(|session| line(f, "about", session))?;
    steps.iter().try_for_each(|step| show_step(f, step))?;
    if let Some(Opens { initiator, responder }) = opens {
        line(f, "opens", format_args!("a session: {initiator}, answered by {responder}"))?;
    }
    program.into_iter().try_for_each(|program| line(f, "program", program))
}

fn show_look_up(look_up: &str) -> &str {
    match look_up {
        "hit" => "hit: an entry carries it, to the same end",
        "miss" => "miss: no entry yet",
        "alone" => "an entry is there, but the packet fails a guard and walks alone",
        "no_key" => "such packets have no key and walk alone",
        other => other,
    }
}

fn show_step(f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    let Step { function, kind, direction, verdict, reason, outputs, .. } = step;
    let to = if outputs.is_empty() { String::new() } else { format!(" to {}", outputs.join(", ")) };
    let why = reason.as_ref().map_or_else(String::new, |reason| format!(", {reason}"));
    line(f, function, format_args!("({kind}, {direction}) {verdict}{to}{why}"))?;
    let by: Vec<_> = step.by.iter().map(|by| format!("{} {}", by.what, by.value)).collect();
    if !by.is_empty() {
        below(f, format_args!("by {}", by.join(", ")))?;
    }
    step.edits.iter().try_for_each(|edit| below(f, edit))?;
    step.frames.iter().try_for_each(|frame| {
        below(f, format_args!("answers on {}: {}, {} bytes", frame.output, frame.packet, frame.frame_bytes))
    })
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.packet)?;
        self.vlans.iter().try_for_each(|vlan| write!(f, ", vlan {vlan}"))?;
        if let Some(ttl) = self.ttl {
            write!(f, ", ttl {ttl}")?;
        }
        if let Some(dscp) = self.dscp.filter(|&dscp| dscp > 0) {
            write!(f, ", dscp {dscp}")?;
        }
        write!(f, ", {} bytes", self.length)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, direction, tcp_state, initiator, responder } = self;
        write!(f, "{session}, {direction}, ")?;
        if let Some(state) = tcp_state {
            write!(f, "{state}, ")?;
        }
        write!(f, "{initiator}, answered by {responder}")
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.cacheable {
            return f.write_str("for this packet alone");
        }
        write!(
            f,
            "for all of its flow; alone walk ttl below {}, more than {} bytes",
            self.ttl_min, self.length_max
        )?;
        self.guards.iter().try_for_each(|guard| write!(f, ", {guard}"))?;
        if self.tracks_tcp {
            f.write_str("; tracks TCP")?;
        }
        Ok(())
    }
}
