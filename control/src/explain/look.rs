//! Asks the chains of the worker that owns a packet what would become of it.

use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{Foreseen, Outcome};
use millrace_dataplane::flow::tcp::TcpState;
use millrace_dataplane::limits::FRAME_BYTES_MAX;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Fate, Frame};
use millrace_nf::explain::{Explanation, Note, Payload, SessionFacts, Step as Walked};
use millrace_nf::follow::Prospect;
use millrace_nf::function::Verdict;
use millrace_nf::headers::Parsed;
use millrace_nf::walk::Direction;

use super::Subject;
use super::packet::{Described, words};
use super::report::{
    By, Headers, Opens, Originated, Program, Report, Segment, Session, Step, show_edit, show_guards,
};
use crate::instance::functions::PortFacts;
use crate::instance::{Control, NfWorker};

/// What would become of a packet that came in by the port `input` now.
///
/// # Errors
/// There is no such port, the words describe no packet, or the worker is gone.
pub fn explain(control: &Control, input: &str, subject: &Subject) -> Result<Report, String> {
    let ports = control.ports();
    let port = find(&ports, input)?;
    let frame = frame(port, subject)?;
    let id = port.id;
    let worker = control.owner_of(id, &frame).ok_or("there is no worker")?;
    worker.ask(move |worker| look(worker, &ports, id, &frame)).map_err(|error| error.to_string())
}

/// The same of a worker that does not run.
///
/// # Errors
/// There is no such port, or the words describe no packet.
pub fn explain_here(
    worker: &mut NfWorker,
    ports: &[PortFacts],
    input: &str,
    subject: &Subject,
) -> Result<Report, String> {
    let port = find(ports, input)?;
    let frame = frame(port, subject)?;
    Ok(look(worker, ports, port.id, &frame))
}

fn find<'a>(ports: &'a [PortFacts], name: &str) -> Result<&'a PortFacts, String> {
    ports.iter().find(|port| port.name == name).ok_or_else(|| {
        let known: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
        format!("there is no port `{name}`; there are {}", known.join(", "))
    })
}

fn frame(port: &PortFacts, subject: &Subject) -> Result<Vec<u8>, String> {
    match subject {
        Subject::Packet(text) => {
            let described: Described = text.parse().map_err(|error| format!("{error}"))?;
            described.frame(port.mac).map_err(|error| error.to_string())
        }
        Subject::Frame(bytes) if bytes.len() > FRAME_BYTES_MAX => {
            Err(format!("no port receives frames of {} bytes: {FRAME_BYTES_MAX} at most", bytes.len()))
        }
        Subject::Frame(bytes) => Ok(bytes.clone()),
    }
}

/// What would become of a frame that came in by the port `input` now. The state of the worker does not change.
pub fn look(worker: &mut NfWorker, ports: &[PortFacts], input: PortId, frame: &[u8]) -> Report {
    let now = worker.now();
    let foreseen =
        worker.engine.foresee(input, frame, now, |chains, state, miss| chains.explain(miss, state));
    report(ports, input, frame, &foreseen)
}

/// What was foreseen, by names.
pub fn report(ports: &[PortFacts], input: PortId, frame: &[u8], foreseen: &Prospect) -> Report {
    let names = Names(ports);
    let mut report = Report {
        input: names.of(input),
        frame_bytes: frame.len(),
        received: Parsed::parse(frame).ok().as_ref().map(Headers::from),
        chain: None,
        zone: None,
        look_up: None,
        session: None,
        related: None,
        steps: Vec::new(),
        opens: None,
        program: None,
        segments: Vec::new(),
        verdict: String::new(),
        reason: None,
        meaning: None,
        outputs: Vec::new(),
        sent: None,
    };
    match foreseen {
        Err(reason) => report.conclude(&Fate::Drop(*reason)),
        Ok((_, None)) => report.conclude(&Fate::Drop(DropReason::NoOutput)),
        Ok((look_up, Some(said))) => {
            report.look_up = Some(show_look_up(*look_up).to_owned());
            report.fill(said, &names);
        }
    }
    report
}

/// Names of ports.
struct Names<'a>(&'a [PortFacts]);

impl Names<'_> {
    fn of(&self, id: PortId) -> String {
        let port = self.0.iter().find(|port| port.id == id);
        port.map_or_else(|| id.0.to_string(), |port| port.name.clone())
    }
}

impl Report {
    fn conclude(&mut self, fate: &Fate) {
        let (verdict, reason) = match *fate {
            Fate::Replay => ("sent", None),
            Fate::Drop(reason) => ("dropped", Some(reason)),
            Fate::Undecided => ("dropped", Some(DropReason::NoOutput)),
            Fate::Consume => ("consumed", None),
            Fate::Hold(_) => ("held", None),
            Fate::Punt(_) => ("punted", None),
        };
        verdict.clone_into(&mut self.verdict);
        self.reason = reason.map(|reason| reason.name().to_owned());
        self.meaning = reason.map(|reason| reason.meaning().trim().to_owned());
    }

    /// Puts what became of the packet in place of what was foreseen, where that differs.
    pub fn correct(&mut self, outcome: &Outcome) {
        let [before, after] = &*outcome.sums;
        let grew = |reason: &DropReason| after.drops.get(*reason) > before.drops.get(*reason);
        if outcome.counters[1].hits > outcome.counters[0].hits {
            self.look_up = Some(show_look_up(Foreseen::Hit).to_owned());
        }
        let came_true = match self.verdict.as_str() {
            "sent" => after.sent > before.sent,
            "held" => outcome.buffered[1] > outcome.buffered[0],
            "consumed" => after.consumed > before.consumed,
            _ => true,
        };
        if !came_true && let Some(reason) = DropReason::ALL.iter().find(|reason| grew(reason)) {
            self.conclude(&Fate::Drop(*reason));
            (self.opens, self.program, self.sent) = (None, None, None);
            self.segments.clear();
            self.outputs.clear();
        }
    }

    fn fill(&mut self, said: &Explanation, names: &Names<'_>) {
        self.chain = Some(said.chain.clone());
        self.zone = Some(said.zone.clone());
        self.session = said.session.as_ref().map(session);
        self.related = said.related.as_ref().map(session);
        self.steps = steps(said, names);
        self.opens = opens(said);
        self.program = program(said);
        let mut next = said.payload.as_deref();
        while let Some(payload) = next {
            let then = payload.then.as_ref();
            self.segments.push(Segment {
                payload: payload_step(payload),
                session: then.and_then(|then| then.session.as_ref()).map(session),
                related: then.and_then(|then| then.related.as_ref()).map(session),
                steps: then.map_or_else(Vec::new, |then| steps(then, names)),
                opens: then.and_then(opens),
                program: then.and_then(program),
            });
            next = then.and_then(|then| then.payload.as_deref());
        }
        let last = said.last();
        self.conclude(&said.end());
        if self.verdict == "sent" {
            self.outputs = last.outputs.iter().map(|port| names.of(*port)).collect();
            self.sent = last.sent.as_ref().map(Headers::from);
        }
    }
}

fn steps(said: &Explanation, names: &Names<'_>) -> Vec<Step> {
    said.steps.iter().map(|walked| step(walked, &said.outputs, names)).collect()
}

fn opens(said: &Explanation) -> Option<Opens> {
    let [initiator, responder] = said.opens.as_ref()?;
    Some(Opens { initiator: initiator.to_string(), responder: responder.to_string() })
}

fn program(said: &Explanation) -> Option<Program> {
    said.program.as_ref().map(|program| Program {
        cacheable: program.cacheable,
        guards: show_guards(program.guards),
        ttl_min: program.ttl_min,
        length_max: program.length_max,
        tracks_tcp: program.tracks_tcp,
    })
}

fn payload_step(payload: &Payload) -> Step {
    Step {
        function: payload.function.clone(),
        kind: payload.kind.to_owned(),
        direction: direction(payload.direction, false).to_owned(),
        verdict: if payload.drop.is_some() { "drop" } else { "continue" }.to_owned(),
        reason: payload.drop.map(|reason| reason.name().to_owned()),
        outputs: Vec::new(),
        by: by(&payload.notes),
        edits: Vec::new(),
        frames: Vec::new(),
    }
}

fn by(notes: &[Note]) -> Vec<By> {
    notes.iter().map(|note| By { what: note.what.to_owned(), value: note.value.clone() }).collect()
}

const fn direction(direction: Direction, hairpin: bool) -> &'static str {
    match direction {
        _ if hairpin => "hairpin",
        Direction::Forward => "forward",
        Direction::Backward => "backward",
    }
}

fn session(facts: &SessionFacts) -> Session {
    let [initiator, responder] = facts.tuples;
    Session {
        session: facts.id.0,
        direction: if facts.reply { "reply" } else { "original" }.to_owned(),
        tcp_state: (facts.tcp != TcpState::None).then(|| facts.tcp.name().to_owned()),
        initiator: initiator.to_string(),
        responder: responder.to_string(),
    }
}

fn step(walked: &Walked, flooded: &[PortId], names: &Names<'_>) -> Step {
    let (reason, outputs) = match walked.verdict {
        Verdict::Drop(reason) => (Some(reason), Vec::new()),
        Verdict::Forward(port) => (None, vec![names.of(port)]),
        Verdict::Flood => (None, flooded.iter().map(|port| names.of(*port)).collect()),
        Verdict::Continue | Verdict::Consume | Verdict::Hold(_) | Verdict::Punt(_) => (None, Vec::new()),
    };
    Step {
        function: walked.function.clone(),
        kind: walked.kind.to_owned(),
        direction: direction(walked.direction, walked.hairpin).to_owned(),
        verdict: walked.verdict.name().to_owned(),
        reason: reason.map(|reason| reason.name().to_owned()),
        outputs,
        by: by(&walked.notes),
        edits: walked.edits.iter().map(show_edit).collect(),
        frames: walked.frames.iter().map(|frame| originated(frame, names)).collect(),
    }
}

fn originated(frame: &Frame, names: &Names<'_>) -> Originated {
    Originated {
        output: names.of(frame.port),
        packet: Parsed::parse(&frame.bytes)
            .map_or_else(|reason| reason.name().to_owned(), |parsed| words(&parsed)),
        frame_bytes: frame.bytes.len(),
    }
}

const fn show_look_up(look_up: Foreseen) -> &'static str {
    match look_up {
        Foreseen::Hit => "hit",
        Foreseen::Alone => "alone",
        Foreseen::Unkeyed => "no_key",
        Foreseen::Miss => "miss",
    }
}
