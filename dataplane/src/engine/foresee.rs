//! What would become of a packet, without anything becoming of it.

use super::{Engine, gather_of, guards_hold, ip_bytes};
use crate::drops::DropReason;
use crate::flow::key::KEY_WORDS_MAX;
use crate::flow::state::FlowState;
use crate::flow::tcp::{Segment, TcpVerdict};
use crate::packet::Layout;
use crate::packet::parse::parse;
use crate::port::PortId;
use crate::slow_path::{Miss, SlowPath};
use crate::time::Time;

/// What the flow cache would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// An entry carries the packet.
    Hit,
    /// An entry is there, but this packet may not take it: it walks.
    Alone,
    /// Such packets have no key: it walks.
    Unkeyed,
    /// No valid entry is there: it walks.
    Miss,
}

impl<S: SlowPath> Engine<S> {
    /// What would become of a frame that came from `port` now: what the cache would answer, and what `explain` makes of the same
    /// packet as one that missed. The cache is only a cache, so a packet that hits would walk to the same end. Neither the state
    /// nor any counter changes here.
    ///
    /// # Errors
    /// Why the frame would be refused before any look-up.
    pub fn foresee<T>(
        &mut self,
        port: PortId,
        bytes: &[u8],
        now: Time,
        explain: impl FnOnce(&mut S, &FlowState, &Miss<'_>) -> T,
    ) -> Result<(Foreseen, T), DropReason> {
        let layout = parse(bytes, self.config.verify)?;
        let foreseen = self.foresee_look_up(port, bytes, &layout);
        let gather = gather_of(&self.schemas, port, &layout);
        let miss = Miss { bytes, layout, port, gather, now };
        Ok((foreseen, explain(&mut self.slow, &self.state, &miss)))
    }

    /// As [`Self::look_up`], but for what that renews.
    pub(super) fn foresee_look_up(&self, port: PortId, bytes: &[u8], layout: &Layout) -> Foreseen {
        let Self { state, schemas, .. } = self;
        let mut key = [0; KEY_WORDS_MAX];
        let words = gather_of(schemas, port, layout).map_or(0, |gather| gather.gather(bytes, &mut key));
        let Some(key) = key.get(..words).filter(|key| !key.is_empty()) else { return Foreseen::Unkeyed };
        let Some(slot) = state.cache.find(state.cache.hash(key), key) else { return Foreseen::Miss };
        let header = state.cache.header(slot);
        let is_valid = header.stamp == state.validity.epoch()
            || state.validity.holds(header.stamp, state.cache.watches(slot));
        let Some(template) = state.templates.get(header.template).filter(|_| is_valid) else {
            return Foreseen::Miss;
        };
        if !guards_hold(template, layout, ip_bytes(layout), header.length_max) {
            return Foreseen::Alone;
        }
        if let (true, Some(owner)) = (template.trackers.tcp, header.owner()) {
            let segment = Segment::read(bytes, layout);
            let tcp = bytes.get(usize::from(layout.l4)..usize::from(layout.end)).unwrap_or(&[]);
            if state.sessions.tcp(owner.session).peek(owner.reply, &segment, tcp) != TcpVerdict::Valid {
                return Foreseen::Alone;
            }
        }
        Foreseen::Hit
    }
}
