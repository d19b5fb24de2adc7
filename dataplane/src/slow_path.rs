//! What decides misses. `millrace-nf` implements [`SlowPath`]; this crate knows no function.

use crate::drops::DropReason;
use crate::flow::cache::Owner;
use crate::flow::field::Reads;
use crate::flow::key::Gather;
use crate::flow::program::Program;
use crate::flow::state::{Event, FlowState};
use crate::flow::tcp::Segment;
use crate::flow::validity::Watches;
use crate::packet::{Burst, Layout};
use crate::port::PortId;
use crate::stage::Stage;
use crate::time::Time;
use arrayvec::ArrayVec;

/// Longest frame that the slow path originates: an ICMPv6 error of 1,280 bytes, and echo replies up to a full frame.
pub const FRAME_BYTES: usize = 1600;

/// A frame that the slow path originates.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it leaves.
    pub port: PortId,
    /// Its bytes, from the Ethernet header on, without FCS.
    pub bytes: ArrayVec<u8, FRAME_BYTES>,
}

/// What a held packet waits for. The highest byte is its kind: packets that wait for one kind leave room for those of
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldToken(pub u64);

impl HoldToken {
    /// The kind of what is waited for.
    pub const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The packets walk again.
    Release(HoldToken),
    /// The packets are dropped.
    Discard(HoldToken, DropReason),
}

/// The packet that missed.
#[derive(Clone, Copy, Debug)]
pub struct Miss<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where its headers are.
    pub layout: Layout,
    /// The port that it came from.
    pub port: PortId,
    /// How its key is gathered; none if it can't be cached.
    pub gather: Option<&'a Gather>,
    /// When it came.
    pub now: Time,
}

/// The verdict of a walk (R10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Leaves by the program in [`Decision::program`].
    Replay,
    /// Dropped.
    #[default]
    Undecided,
    /// Dropped for a reason.
    Drop(DropReason),
    /// Taken by a function, which may have answered.
    Consume,
    /// Kept until the token wakes it.
    Hold(HoldToken),
    /// Goes to the control plane, with a cookie that tells it why.
    Punt(u64),
}

/// What the TCP tracker sees of a packet that walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Its segment; of the last fragment of a segment, the whole segment.
    pub segment: Segment,
    /// Where its TCP header starts in the frame, for the options of a SYN.
    pub header: u16,
}

/// What a walk decided. Reused from walk to walk.
#[derive(Debug, Default)]
pub struct Decision {
    /// What becomes of the packet.
    pub fate: Fate,
    /// How it leaves, if it does.
    pub program: Program,
    /// The program serves all packets of the key.
    pub cacheable: bool,
    /// The session and direction that the packet belongs to.
    pub owner: Option<Owner>,
    /// What the session's TCP tracker runs over, if it runs.
    pub tracked: Option<Tracked>,
    /// The cells that the decision used.
    pub watches: Watches,
    /// Frames to send, in order.
    pub frames: Vec<Frame>,
    /// Waits that ended.
    pub wakes: Vec<Wake>,
}

impl Decision {
    /// Ready for the next walk.
    pub fn clear(&mut self) {
        self.fate = Fate::Undecided;
        self.cacheable = false;
        self.owner = None;
        self.tracked = None;
        self.watches.clear();
        self.frames.clear();
        self.wakes.clear();
    }
}

/// Decides what the cache can't answer. Everything here may take long compared with a hit; [`crate::engine`] bounds how
/// much of a burst it may use (R12).
pub trait SlowPath: Send {
    /// What the functions behind `port` declared to read (R2).
    fn reads(&self, port: PortId) -> Reads;

    /// True if a session for this packet exists, so that it is no new flow (R12).
    fn is_known(&self, miss: &Miss<'_>, state: &FlowState) -> bool;

    /// Asks for the memory that deciding this packet will need; if it hardly `walks`, for that of [`Self::is_known`] alone. Called
    /// for all misses of a burst before the first walk.
    fn prefetch(&mut self, miss: &Miss<'_>, walks: bool, state: &FlowState) {
        let _ = (miss, walks, state);
    }

    /// Walks the chain for one packet and writes what it decided to `decision`.
    fn decide(&mut self, miss: &Miss<'_>, state: &mut FlowState, decision: &mut Decision);

    /// Says for people why a packet is dropped for `reason`, as far as that is known: by which function, and what it went by. It has
    /// just been decided; nothing may come of this.
    fn say_why(&mut self, miss: &Miss<'_>, state: &FlowState, reason: DropReason, text: &mut String) {
        let _ = (miss, state, reason, text);
    }

    /// Something happened to sessions that functions have a part in, in this order.
    fn events(&mut self, events: &[Event], state: &mut FlowState);

    /// Logical ports: what programs send there goes through a packet function and comes in again by that port.
    fn logical_ports(&self) -> &[PortId] {
        &[]
    }

    /// The packet function behind a logical port.
    fn stage(&mut self, port: PortId) -> Option<&mut Stage> {
        let _ = port;
        None
    }

    /// Appends what came back to `burst`, as much as fits, by the way number `at` of those to stages that work apart, and adds what
    /// can't come back any more to `lost`. False if there are not so many ways.
    fn take_returned(&mut self, at: usize, burst: &mut Burst, lost: &mut u64) -> bool {
        let _ = (at, burst, lost);
        false
    }

    /// True if something came back from a stage that works apart.
    fn has_returned(&self) -> bool {
        false
    }

    /// Packets that are under way to stages that work apart, and back.
    fn under_way(&self) -> u64 {
        0
    }

    /// Gives up what is under way, and says how much it is.
    fn close_stages(&mut self) -> u64 {
        0
    }

    /// A slice of timers: at most `budget` objects are looked at. Frames and wakes go to `decision`.
    fn tick(&mut self, now: Time, budget: usize, state: &mut FlowState, decision: &mut Decision);
}
