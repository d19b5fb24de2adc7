//! The two traits that network functions implement.
//!
//! A [`FlowFunction`] decides on typed headers, once a flow. `admit` takes `&self`: it can look, edit the headers and
//! propose, but not change its own state. What it proposes comes back to `commit` when the walk ended without a drop
//! (R6), so a packet that is dropped later in the chain takes no port and no table entry.
//!
//! A [`PacketFunction`] works on the bytes of whole bursts: what needs the payload. It splits its chain into segments.

use crate::explain::Notes;
use crate::walk::{Commit, Direction, Tick, Walk};
use millrace_dataplane::flow::field::Reads;
use millrace_dataplane::flow::session::{Traffic, Tuple};
use millrace_dataplane::time::Time;
use std::any::Any;
use std::net::IpAddr;

pub use crate::verdict::Verdict;
pub use millrace_dataplane::packet_function::PacketFunction;

/// A function that decides once a flow.
///
/// `Staged` is what one `admit` proposes; `()` if the function changes nothing of its own.
pub trait FlowFunction: Send + 'static {
    /// What `admit` proposes for `commit`.
    type Staged: Send + 'static;

    /// The kind, as the configuration names it.
    fn kind(&self) -> &'static str;

    /// Which header fields `admit` may read, derived from the actual rules (R2). What is read without being declared
    /// makes the decision uncached and is counted.
    fn reads(&self) -> Reads;

    /// True if the function keeps a word in the session ([`Walk::part`], [`Commit::set_part`]).
    fn keeps_part(&self) -> bool {
        false
    }

    /// Decides on one packet. Pure but for the headers' edits and what `walk` records.
    fn admit(&self, walk: &mut Walk<'_>) -> (Verdict, Option<Self::Staged>);

    /// Says for people what the `admit` that just returned went by: the rule that decided, the mapping, the route. `walk` is as
    /// that left it, `staged` what it proposed. Only for walks that somebody looks at.
    fn explain(&self, walk: &Walk<'_>, staged: Option<&Self::Staged>, notes: &mut Notes) {
        let _ = (walk, staged, notes);
    }

    /// A packet with this tuple, as received, walks soon, in this direction: asks for the memory that `admit` and `commit` will
    /// read ([`millrace_dataplane::memory::prefetch`]), of what is not at hand anyway. Nothing else; what was asked for in vain
    /// does no harm.
    fn prefetch(&self, tuple: &Tuple, direction: Direction) {
        let _ = (tuple, direction);
    }

    /// A packet with this tuple, as it comes to this function, walks forwards a little later, and what [`Self::prefetch`] asked for has
    /// arrived: asks for the memory whose place follows from that. Makes of the tuple what `admit` is likely to make of it.
    fn prefetch_behind(&self, tuple: &mut Tuple) {
        let _ = tuple;
    }

    /// Makes true what an `admit` proposed: the walk ended without a drop, or with this function's own verdict.
    fn commit(&mut self, staged: Self::Staged, commit: &mut Commit<'_>) {
        let _ = (staged, commit);
    }

    /// The packet was for the data plane itself and ended there: what `admit` proposed, to be counted. No session comes of
    /// it, and nothing is to be kept for one.
    fn consumed(&mut self, staged: Self::Staged) {
        let _ = staged;
    }

    /// Traffic of a session in which this function's word is `part`; `reply`: from the responder.
    fn account(&mut self, part: u64, reply: bool, traffic: Traffic) {
        let _ = (part, reply, traffic);
    }

    /// A session ended in which this function's word was `part`. Its entries are gone already.
    fn ended(&mut self, part: u64, tuples: [&Tuple; 2], now: Time) {
        let _ = (part, tuples, now);
    }

    /// May a session in which this function's word is `part` go on when the function is taken out of its chain? If not it
    /// ends with it.
    fn outlived(part: u64) -> bool
    where
        Self: Sized,
    {
        part == 0
    }

    /// True if this function, walked backwards, would translate the destination of these headers: an inside host calls an
    /// outside address of the inside (a hairpin, R9).
    fn hairpins(&self, walk: &mut Walk<'_>) -> bool {
        let _ = walk;
        false
    }

    /// True if there may be hairpins at this function: packets of other workers turn round there, too.
    fn may_hairpin(&self) -> bool {
        false
    }

    /// Timers: at most about `tick.budget` objects are looked at.
    fn tick(&mut self, tick: &mut Tick<'_>) {
        let _ = tick;
    }

    /// The function itself, for its configuration and for `show`.
    fn as_any(&mut self) -> &mut dyn Any;
}

/// What the last function of a chain does beyond a flow function: it knows where destinations are.
pub trait Forwarder: FlowFunction {
    /// The zone that a packet with the headers as they are now would leave to; [`crate::zone::ZoneId::LOCAL`] if it is for
    /// the data plane itself. The look-up names in `walk` what it depends on.
    fn destination_zone(&self, walk: &mut Walk<'_>) -> Option<crate::zone::ZoneId>;

    /// Does a way to this address lead out of `zone`? Where it does, a host that has sessions elsewhere has moved here, and nobody
    /// speaks in its name.
    fn is_behind(&self, address: IpAddr, zone: crate::zone::ZoneId) -> bool {
        let _ = (address, zone);
        false
    }
}
