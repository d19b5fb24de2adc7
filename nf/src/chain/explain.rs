//! A walk that commits nothing (R6): what would become of a packet, and why.

use super::onlooker::Steps;
use super::{Attachment, Chain, Exits, WalkEnd, compile};
use crate::explain::{Explanation, ProgramFacts, SessionFacts};
use crate::function::Verdict;
use crate::walk::SessionView;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::program::Program;
use millrace_dataplane::flow::session::{InsertError, SessionId};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::flow::validity::Watches;
use millrace_dataplane::port::PortId;
use millrace_dataplane::slow_path::{Fate, Miss};

/// Whether the packet belongs to a session.
pub(super) enum Found {
    /// It does; whether it is the responder's.
    Session(SessionId, bool),
    /// To one that can't go on without a function that is gone.
    Outlived(SessionId),
    /// It doesn't.
    None,
}

impl Chain {
    /// What would become of a packet. Only scratch memory changes.
    ///
    /// A commit that would be refused is not foreseen: [`crate::walk::Commit::refuse`] is said by functions that commit.
    pub(super) fn explain(&mut self, miss: &Miss<'_>, entry: Attachment, state: &FlowState) -> Explanation {
        let zone = self.zones.get(usize::from(entry.zone.0)).map_or("", String::as_str);
        let mut said = Explanation::of(&self.name, zone);
        said.fate = self.explain_walk(miss, entry, state, &mut said);
        self.discard();
        self.reopens = None;
        said
    }

    fn explain_walk(
        &mut self,
        miss: &Miss<'_>,
        entry: Attachment,
        state: &FlowState,
        said: &mut Explanation,
    ) -> Fate {
        self.domain = entry.domain;
        self.reopens = None;
        if let Err(reason) = self.headers.read(miss.bytes, miss.layout) {
            return Fate::Drop(reason);
        }
        said.received = Some(self.headers.original().clone());
        self.record.clear();
        self.segment = self.read_segment(miss.bytes);
        if let Err(fate) = self.look_at_fragment(miss.port) {
            return fate;
        }
        let session = match self.look_for_session(miss, state) {
            Ok(Found::Session(id, reply)) => Some(SessionView::new(id, reply, state)),
            Ok(Found::Outlived(_) | Found::None) => None,
            Err(reason) => {
                said.session =
                    state.sessions.find(&self.initiator).map(|(id, reply)| facts(id, reply, state));
                return Fate::Drop(reason);
            }
        };
        let related = self.find_related(state);
        said.session = session.as_ref().map(|session| facts(session.id, session.reply, state));
        said.related = related.as_ref().map(|session| facts(session.id, session.reply, state));
        let (session, related) = (session.as_ref(), related.as_ref());
        let session = match self.hold_against_zone(session, related, entry.zone) {
            Ok(session) => session,
            Err(reason) => return Fate::Drop(reason),
        };
        self.answered = None;
        let (mut steps, mut watches) = (Steps::default(), Watches::default());
        let WalkEnd { verdict, .. } =
            self.walk(miss, entry, session, related, state, &mut watches, &mut steps);
        said.steps = steps.steps;
        let frames = said.steps.iter_mut().map(|step| &mut step.frames);
        frames.for_each(|frames| self.restore_answers(miss.port, entry, &state.sessions, frames));
        match verdict {
            Verdict::Forward(port) => self.explain_leave(miss, &[port], session.is_none(), state, said),
            Verdict::Flood => {
                let ports = std::mem::take(&mut self.record.flood);
                let fate = self.explain_leave(miss, &ports, session.is_none(), state, said);
                self.record.flood = ports;
                fate
            }
            Verdict::Continue => Fate::Drop(DropReason::NoOutput),
            Verdict::Consume => Fate::Consume,
            Verdict::Hold(token) => Fate::Hold(token),
            Verdict::Punt(cookie) => Fate::Punt(cookie),
            Verdict::Drop(reason) => Fate::Drop(reason),
        }
    }

    fn look_at_fragment(&mut self, port: PortId) -> Result<(), Fate> {
        if !self.headers.is_fragment() {
            return Ok(());
        }
        let Some((key, piece)) = self.datagram(port) else {
            return Err(Fate::Drop(DropReason::FragmentInvalid));
        };
        let place = self.fragments.look(&key, piece);
        self.take_place(place, &key, piece)
    }

    fn explain_leave(
        &mut self,
        miss: &Miss<'_>,
        ports: &[PortId],
        is_new: bool,
        state: &FlowState,
        said: &mut Explanation,
    ) -> Fate {
        let exits = Exits { ports, length_max: self.record.length_max, tracks_tcp: self.tracks_tcp() };
        let opens = is_new && self.opens_session();
        let cacheable = self.is_cacheable(miss);
        let gather = if cacheable { miss.gather } else { None };
        let mut program = Program::default();
        if compile(&mut program, miss.bytes, &self.headers, gather, exits).is_err() {
            return Fate::Drop(DropReason::NoHeadroom);
        }
        if exits.tracks_tcp
            && let Err(reason) = self.may_be_tracked(miss, is_new)
        {
            return Fate::Drop(reason);
        }
        if opens {
            said.opens = Some([self.initiator, self.responder]);
            let room = state.sessions.may_insert(&self.initiator, &self.responder, self.reopens);
            // Where the table is full, one that is not assured gives way.
            if room.is_err_and(|error| error != InsertError::Full) {
                return Fate::Drop(DropReason::SessionTableFull);
            }
        }
        said.program = Some(ProgramFacts {
            cacheable,
            guards: program.template.guards,
            ttl_min: program.template.ttl_min,
            length_max: program.length_max,
            tracks_tcp: exits.tracks_tcp && (opens || !is_new),
        });
        said.outputs = ports.to_vec();
        said.sent = Some(self.headers.current().clone());
        Fate::Replay
    }
}

fn facts(id: SessionId, reply: bool, state: &FlowState) -> SessionFacts {
    SessionFacts { id, reply, tcp: state.sessions.tcp(id).state(), tuples: state.sessions.tuples(id) }
}
