//! What the router proposes while it looks, and how it comes true (R6).

use super::interface::InterfaceId;
use super::neighbour::{Action, Asker, Event};
use super::state::{Router, neighbour_watch};
use crate::function::Verdict;
use crate::headers::{VlanTags, resolve};
use crate::walk::{Commit, HoldKind, Tick, hold_token};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::validity::Watch;
use millrace_dataplane::port::{MacAddress, PortId};
use millrace_dataplane::slow_path::{HoldToken, Wake};
use millrace_dataplane::time::Time;
use std::net::IpAddr;

/// What the router said in answer to a packet, or would have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// An ICMP error or a reset, to this source.
    Error(IpAddr),
    /// Nothing: too many errors.
    ErrorLimited,
    /// An echo reply, to this source.
    Echo(IpAddr),
    /// Nothing: too many echo requests.
    EchoLimited,
    /// That an address is here.
    Resolution,
}

/// What one look at a packet proposes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staged {
    pub(super) neighbour: Option<Event>,
    pub(super) said: Option<Said>,
}

impl Staged {
    pub(super) const fn said(said: Said) -> Self {
        Self { neighbour: None, said: Some(said) }
    }

    pub(super) const fn neighbour(event: Event) -> Self {
        Self { neighbour: Some(event), said: None }
    }
}

/// What the router's `admit` returns.
pub(super) type Outcome = (Verdict, Option<Staged>);

/// A drop without more.
pub(super) const fn dropped(reason: DropReason) -> Outcome {
    (Verdict::Drop(reason), None)
}

/// What commits and timers both can do.
pub(super) trait Effects {
    fn touch(&mut self, watch: Watch);
    fn end_wait(&mut self, wake: Wake);
    fn send(&mut self, port: PortId, bytes: &[u8]);
}

impl Effects for Commit<'_> {
    fn touch(&mut self, watch: Watch) {
        self.changed(watch);
    }
    fn end_wait(&mut self, wake: Wake) {
        self.wake(wake);
    }
    fn send(&mut self, port: PortId, bytes: &[u8]) {
        self.emit(port, bytes);
    }
}

impl Effects for Tick<'_> {
    fn touch(&mut self, watch: Watch) {
        self.changed(watch);
    }
    fn end_wait(&mut self, wake: Wake) {
        self.wake(wake);
    }
    fn send(&mut self, port: PortId, bytes: &[u8]) {
        self.emit(port, bytes);
    }
}

/// What becomes of packets whose neighbour could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFail {
    /// They walk again: the failure is remembered, so that each ends with an ICMP error.
    Release,
    /// They are dropped: nothing is remembered, and a walk would only ask again.
    Discard,
}

impl OnFail {
    fn wake(self, token: HoldToken) -> Wake {
        let name = hold_token(HoldKind::Neighbour, token.0);
        match self {
            Self::Release => Wake::Release(name),
            Self::Discard => Wake::Discard(name, DropReason::NeighbourUnreachable),
        }
    }
}

/// Does what the neighbour table asks for.
pub(super) fn carry_out(router: &mut Router, actions: &[Action], effects: &mut dyn Effects, on_fail: OnFail) {
    for action in actions {
        match *action {
            Action::Solicit { interface, address, to, .. } => {
                if let Some((port, frame)) = router.solicitation(interface, address, to) {
                    router.counters.solicitations_sent += 1;
                    effects.send(port, &frame);
                }
            }
            Action::Wake(token) => {
                effects.end_wait(Wake::Release(hold_token(HoldKind::Neighbour, token.0)));
            }
            Action::Fail(token) => effects.end_wait(on_fail.wake(token)),
            Action::Invalidate(id) => effects.touch(neighbour_watch(id)),
        }
    }
}

impl Router {
    /// Makes true what a look proposed.
    pub(super) fn make_true(&mut self, staged: Staged, commit: &mut Commit<'_>) {
        let now = commit.now;
        if let Some(event) = staged.neighbour {
            self.neighbour_event(event, now, commit);
        }
        match staged.said {
            Some(Said::Error(to)) => {
                self.errors.take(to, now);
                self.counters.errors_sent += 1;
            }
            Some(Said::ErrorLimited) => self.counters.errors_limited += 1,
            Some(Said::Echo(to)) => {
                self.echoes.take(to, now);
                self.counters.echo_replies += 1;
            }
            Some(Said::EchoLimited) => self.counters.echo_limited += 1,
            Some(Said::Resolution) => self.counters.resolutions_answered += 1,
            None => {}
        }
    }

    fn neighbour_event(&mut self, event: Event, now: Time, effects: &mut dyn Effects) {
        let mut actions = std::mem::take(&mut self.actions);
        let doubted = self.doubts(&event);
        self.neighbours.apply(event, now, &mut actions);
        if let Some(id) = doubted {
            // It may have become stale with its address unchanged: those who use it are to say so.
            effects.touch(neighbour_watch(id));
        }
        // What fails here was refused or displaced, so no failure is remembered.
        carry_out(self, &actions, effects, OnFail::Discard);
        actions.clear();
        self.actions = actions;
    }

    /// The neighbour that an advertisement contradicts without overriding it (RFC 4861 section 7.2.5, I).
    fn doubts(&self, event: &Event) -> Option<super::neighbour::NeighbourId> {
        let Event::Advertisement { interface, address, mac: Some(mac), overrides: false, .. } = *event else {
            return None;
        };
        let view = self.neighbours.lookup(interface, address, Asker::default(), Time(0));
        view.id.filter(|_| view.mac.is_some_and(|known| known != mac))
    }

    /// The ARP request or neighbour solicitation for `address` on an interface: to `to`, or to all that it may concern.
    /// None if the router has no address to ask from.
    fn solicitation(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        to: Option<MacAddress>,
    ) -> Option<(PortId, crate::headers::FrameBuffer)> {
        let it = self.interfaces.get(interface)?;
        let tags = VlanTags::new();
        let frame = match (address, self.interfaces.solicitation_source(interface, address)?) {
            (IpAddr::V4(target), IpAddr::V4(sender)) => {
                resolve::arp_request(it.mac, &tags, sender, target, to)
            }
            (IpAddr::V6(target), IpAddr::V6(source)) => {
                resolve::neighbour_solicitation(it.mac, &tags, source, target, to)
            }
            _ => return None,
        };
        Some((it.port, frame))
    }
}
