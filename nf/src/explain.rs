//! What a walk did, for people: the words in which functions tell what they went by, and the account of a whole walk.
//!
//! A walk that is only explained takes the way of every other walk, through the same code, but ends before anything comes true
//! (R6): see [`crate::chain::Chains::explain`].

use crate::function::Verdict;
use crate::headers::{Edit, Parsed};
use crate::walk::Direction;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::session::{SessionId, Tuple};
use millrace_dataplane::flow::tcp::TcpState;
use millrace_dataplane::packet::Flags;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Fate, Frame};
use std::fmt;

/// One thing that a function went by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is, in snake case: `rule`, `mapping`, `route`.
    pub what: &'static str,
    /// Which one, or what of it.
    pub value: String,
}

/// What a function went by, in the order in which it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(pub(crate) Vec<Note>);

impl Notes {
    /// Adds one.
    pub fn say(&mut self, what: &'static str, value: &(impl ToString + ?Sized)) {
        self.0.push(Note { what, value: value.to_string() });
    }
}

/// What one function did with the packet.
#[derive(Clone, Debug)]
pub struct Step {
    /// The function's name in the configuration.
    pub function: String,
    /// Its kind.
    pub kind: &'static str,
    /// Which way the chain was walked.
    pub direction: Direction,
    /// It was the second, backward walk of a hairpin.
    pub hairpin: bool,
    /// What it said.
    pub verdict: Verdict,
    /// What it went by.
    pub notes: Vec<Note>,
    /// Its edits, in order.
    pub edits: Vec<Edit>,
    /// Frames that it made; they are sent unless another function drops the packet.
    pub frames: Vec<Frame>,
}

impl fmt::Display for Step {
    /// One line: `firewall: drop firewall_denied by rule \"default\", action deny`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.function, self.verdict.name())?;
        if let Verdict::Drop(reason) = self.verdict {
            write!(f, " {}", reason.name())?;
        }
        for (at, note) in self.notes.iter().enumerate() {
            let what = note.what.replace('_', " ");
            f.write_str(if at == 0 { " by " } else { ", " })?;
            // Names are people's own: they may have blanks and commas.
            match note.what {
                "rule" | "session_of" | "related_session_of" => write!(f, "{what} {:?}", note.value)?,
                _ => write!(f, "{what} {}", note.value)?,
            }
        }
        Ok(())
    }
}

/// The session that a packet belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Its number.
    pub id: SessionId,
    /// The packet is the responder's.
    pub reply: bool,
    /// The TCP state before the packet; [`TcpState::None`] for other protocols, and where nobody tracks it.
    pub tcp: TcpState,
    /// The tuples as received: the initiator's, the responder's.
    pub tuples: [Tuple; 2],
}

/// The program that a packet that leaves is replayed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramFacts {
    /// It serves all packets of the flow; otherwise this one alone.
    pub cacheable: bool,
    /// Packets with one of these properties walk alone (R3).
    pub guards: Flags,
    /// So does one with a smaller TTL or hop limit.
    pub ttl_min: u8,
    /// So does one that is longer than this, from the network header on in bytes.
    pub length_max: u16,
    /// The session's TCP tracker runs.
    pub tracks_tcp: bool,
}

/// What a packet function would do with the packet.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The function's name in the configuration.
    pub function: String,
    /// Its kind.
    pub kind: &'static str,
    /// Which way the chain is walked.
    pub direction: Direction,
    /// What it goes by.
    pub notes: Vec<Note>,
    /// Why it drops the packet, if it does.
    pub drop: Option<DropReason>,
    /// What the segment behind it does then; none if it drops the packet.
    pub then: Option<Explanation>,
}

/// What becomes of a packet that walks a chain, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The chain's name.
    pub chain: String,
    /// The zone that the packet comes from.
    pub zone: String,
    /// The headers as they came; none where they can't be read.
    pub received: Option<Parsed>,
    /// The session that the packet belongs to.
    pub session: Option<SessionFacts>,
    /// Of an ICMP error: the session of the packet that it quotes. `reply`: the error goes in the responder's direction.
    pub related: Option<SessionFacts>,
    /// What the functions did, in the order in which they did it.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub fate: Fate,
    /// Where it leaves: several where it is flooded.
    pub outputs: Vec<PortId>,
    /// The headers as they leave.
    pub sent: Option<Parsed>,
    /// How they become so.
    pub program: Option<ProgramFacts>,
    /// It opens this session: what it looks like, and what answers look like.
    pub opens: Option<[Tuple; 2]>,
    /// It goes to this packet function, and not out of a port.
    pub payload: Option<Box<Payload>>,
}

impl Explanation {
    /// What the last segment says that it comes to.
    pub fn last(&self) -> &Self {
        self.payload.as_ref().and_then(|payload| payload.then.as_ref()).map_or(self, Self::last)
    }

    /// What becomes of the packet in the end.
    pub fn end(&self) -> Fate {
        let last = self.last();
        let dropped = last.payload.as_ref().and_then(|payload| payload.drop);
        dropped.map_or_else(|| last.fate.clone(), Fate::Drop)
    }

    /// The steps of all segments, with packet functions as steps without edits.
    pub fn all_steps(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        if let Some(payload) = self.payload.as_deref() {
            steps.push(Step {
                function: payload.function.clone(),
                kind: payload.kind,
                direction: payload.direction,
                hairpin: false,
                verdict: payload.drop.map_or(Verdict::Continue, Verdict::Drop),
                notes: payload.notes.clone(),
                edits: Vec::new(),
                frames: Vec::new(),
            });
            steps.extend(payload.then.iter().flat_map(Self::all_steps));
        }
        steps
    }

    /// The step that drops the packet for `reason`, if one does.
    pub fn dropped_by(&self, reason: DropReason) -> Option<&Step> {
        self.steps.iter().rfind(|step| step.verdict == Verdict::Drop(reason))
    }

    pub(crate) fn of(chain: &str, zone: &str) -> Self {
        Self {
            chain: chain.to_owned(),
            zone: zone.to_owned(),
            received: None,
            session: None,
            related: None,
            steps: Vec::new(),
            fate: Fate::Undecided,
            outputs: Vec::new(),
            sent: None,
            program: None,
            opens: None,
            payload: None,
        }
    }
}
