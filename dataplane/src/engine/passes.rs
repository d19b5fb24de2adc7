//! The passes over a burst: what is done for each packet that goes as the others of its flow went.
//!
//! Each is a loop of its own, over lanes that hold what the passes tell each other, and asks for the memory that the next one reads.
//! No pass is inlined: the compiler keeps in registers what can't change within a loop only if it sees, by the arguments, that
//! nothing else is written.

use crate::drops::DropReason;
use crate::flow::cache::{FlowCache, Owner, Slot};
use crate::flow::key::KeySchema;
use crate::flow::replay::blend;
use crate::flow::session::SessionTable;
use crate::flow::state::FlowState;
use crate::flow::tcp::Segment;
use crate::outputs::Outputs;
use crate::packet::parse::{parse, parse_usual};
use crate::packet::{Drain, Flags, L4, Layout, Packet, Shape, Verify};

/// No place.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// What the parse said of a packet.
#[derive(Clone, Copy)]
pub(super) enum Parsed {
    /// It has a key.
    Keyed,
    /// It can't be cached.
    Unkeyed,
    /// It can't be forwarded.
    Wrong(DropReason),
}

/// What the passes leave for each other of one packet: half a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Lane {
    pub(super) hash: u64,
    /// Where its entry may be.
    pub(super) slot: u32,
    pub(super) layout: Layout,
    pub(super) parsed: Parsed,
}

pub(super) const LANE: Lane = Lane {
    hash: 0,
    slot: NO_SLOT,
    layout: Layout { shape: Shape(0), flags: Flags(0), l3: 0, l4: 0, end: 0, ttl: 0 },
    parsed: Parsed::Unkeyed,
};

const _: () = assert!(size_of::<Lane>() == 32);

impl Lane {
    #[inline(always)]
    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.parsed, Parsed::Keyed)
    }

    /// No entry may be its packet's, which is to walk.
    pub(super) fn misses(&self) -> bool {
        self.slot == NO_SLOT && !matches!(self.parsed, Parsed::Wrong(_))
    }
}

/// How many packets go through the passes together.
pub(super) const LANES: usize = 32;
/// The lanes of a burst, or of a part of it.
pub(super) type Lanes = [Lane; LANES];

/// Parses packets and hashes their keys; asks for the tags.
#[inline(never)]
pub(super) fn parse_and_hash(
    lanes: &mut Lanes,
    packets: &[Packet],
    schema: Option<&KeySchema>,
    cache: &FlowCache,
    verify: Verify,
) {
    for (lane, packet) in lanes.iter_mut().zip(packets) {
        if let Some(schema) = schema
            && let Some(head) = packet.head()
            && let Some(layout) = parse_usual(head, packet.bytes(), verify)
        {
            let near = schema.near(layout.shape);
            if near.identity != 0 {
                lane.hash = near.hash(head, cache.hasher());
                cache.prefetch_tags(lane.hash);
                (lane.layout, lane.parsed) = (layout, Parsed::Keyed);
                continue;
            }
        }
        // What came whole has no transport checksum yet.
        let verify = if verify == Verify::All && packet.is_whole() { Verify::Ipv4 } else { verify };
        *lane = parse_any(packet.bytes(), verify, schema, cache);
    }
}

/// The parse of what is not usual.
#[inline(never)]
fn parse_any(bytes: &[u8], verify: Verify, schema: Option<&KeySchema>, cache: &FlowCache) -> Lane {
    match parse(bytes, verify) {
        Err(reason) => Lane { parsed: Parsed::Wrong(reason), ..LANE },
        Ok(layout) => match schema.and_then(|schema| schema.gather(layout.shape)) {
            None => Lane { layout, ..LANE },
            Some(gather) => {
                let hash = gather.hash(bytes, cache.hasher());
                cache.prefetch_tags(hash);
                Lane { hash, layout, parsed: Parsed::Keyed, ..LANE }
            }
        },
    }
}

/// Finds where each packet's entry may be, and asks for its lines; how many have none.
#[inline(never)]
pub(super) fn match_tags(lanes: &mut Lanes, count: usize, cache: &FlowCache) -> usize {
    // A few of many: which ones can't be foretold, so they are noted without a branch.
    let (mut rest, mut unmatched) = ([0u8; LANES], 0);
    for (at, lane) in lanes.iter_mut().take(count).enumerate() {
        let candidate = cache.candidate(lane.hash).filter(|_| lane.is_keyed());
        lane.slot = candidate.map_or(NO_SLOT, |slot| slot.0);
        rest[unmatched % LANES] = at as u8;
        unmatched += usize::from(candidate.is_none());
    }
    match_second_tags(lanes, rest.get(..unmatched).unwrap_or(&[]), cache)
}

/// The second homes, for those that the first ones don't have.
#[inline(always)]
fn match_second_tags(lanes: &mut Lanes, rest: &[u8], cache: &FlowCache) -> usize {
    let mut unmatched = rest.len();
    for &at in rest {
        let lane = &mut lanes[usize::from(at) % LANES];
        if let Some(slot) = cache.second_candidate(lane.hash).filter(|_| lane.is_keyed()) {
            lane.slot = slot.0;
            unmatched -= 1;
        }
    }
    unmatched
}

/// How many packets ahead a tracker's session is asked for.
pub(super) const TRACKERS_AHEAD: usize = 8;

/// Asks for the session whose tracker will look at a segment. Its entry's first line was asked for by [`match_tags`].
#[inline(always)]
pub(super) fn prefetch_tracker(lane: &Lane, cache: &FlowCache, sessions: &SessionTable) {
    if lane.layout.shape.l4() == L4::Tcp
        && lane.slot != NO_SLOT
        && let Some(owner) = cache.header(Slot(lane.slot)).owner()
    {
        sessions.prefetch_hot(owner.session.0);
    }
}

/// Takes packets from the front to their outputs, one for each of `lanes`, as long as all is as usual: the key is near and is that of
/// the entry, the entry is valid, its guards hold, and its program blends an image and leaves by one port. How many it took; with
/// the next one nothing was done. `TRACKS`: some programs run trackers. `WHOLE`: some packets may be whole frames, which are no
/// segments.
#[inline(never)]
pub(super) fn express<const TRACKS: bool, const WHOLE: bool>(
    lanes: &[Lane],
    drain: &mut Drain<'_>,
    schema: &KeySchema,
    state: &mut FlowState,
    outputs: &mut Outputs,
    now_millis: u32,
) -> usize {
    let FlowState { cache, templates, validity, sessions, .. } = state;
    let epoch = validity.epoch();
    let (mut taken, mut moved) = (0, 0);
    for (at, lane) in lanes.iter().enumerate() {
        if TRACKS && let Some(lane) = lanes.get(at + TRACKERS_AHEAD) {
            prefetch_tracker(lane, cache, sessions);
        }
        let Some(packet) = drain.first_mut() else { break };
        let Layout { shape, flags, l3, end, ttl, .. } = lane.layout;
        let is_segment = !(TRACKS && WHOLE && packet.is_whole());
        let (length, bytes) = (packet.len(), packet.reach_mut());
        let (Some(head), Some(mut entry)) = (bytes.first_chunk(), cache.usual_entry(Slot(lane.slot))) else {
            break;
        };
        let (near, header) = (schema.near(shape), entry.header());
        let Some(usual) = templates.usual(header.template) else { break };
        let as_usual = (header.stamp == epoch)
            & !flags.intersects(usual.guards)
            & (ttl >= usual.ttl_min)
            & (end - l3 <= header.length_max)
            & entry.matches(near, head);
        if !as_usual {
            break;
        }
        if !outputs.has(usual.port) {
            break;
        }
        if TRACKS
            && usual.tracks_tcp
            && let Some(owner) = header.owner()
            && !(is_segment && track(sessions, owner, bytes, &lane.layout))
        {
            break;
        }
        blend(usual, entry.image(), (header.l3_delta, header.l4_delta), bytes, length);
        entry.count(length, now_millis);
        if outputs.move_first(usual.port, drain) {
            moved += 1;
        } else if let Some(packet) = drain.next() {
            // More than a burst for one port: it waits there, in order.
            outputs.send(usual.port, packet);
        }
        taken += 1;
    }
    outputs.sums.sent += moved;
    taken
}

/// The place of the entry of a packet with a near key, where [`match_tags`] found it and nothing has changed since.
pub(super) fn near_entry(
    lane: &Lane,
    packet: &Packet,
    schema: &KeySchema,
    cache: &mut FlowCache,
) -> Option<Slot> {
    let near = schema.near(lane.layout.shape);
    let (head, entry) = (packet.head()?, cache.usual_entry(Slot(lane.slot))?);
    entry.matches(near, head).then_some(Slot(lane.slot))
}

/// Runs the session's tracker on a usual segment.
#[inline(always)]
fn track(sessions: &mut SessionTable, owner: Owner, bytes: &[u8], layout: &Layout) -> bool {
    sessions.hot(owner.session).tcp.usual(owner.reply, &Segment::read(bytes, layout))
}
