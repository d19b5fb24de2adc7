//! Frames that a port delivered whole though they are several packets.
//!
//! Only the cache carries them: what hits an entry whose program does nothing but edit headers and leaves by one port goes on as one,
//! judged by the length of its packets (R3). Whatever else becomes of one, it is cut first: walks, and with them all functions, quotes,
//! holds and traces, see nothing but packets as a wire has them.

use super::passes::{LANE, Lane, Parsed};
use super::{Engine, KEY_WORDS_MAX, Lookup, Observer, gather_of};
use crate::flow::cache::{Owner, Slot};
use crate::flow::tcp::{Segment, TcpVerdict};
use crate::memory::Pool;
use crate::packet::parse::parse;
use crate::packet::{Burst, Layout, Packet};
use crate::port::PortId;
use crate::port::offload::segment_ip_bytes;
use crate::slow_path::SlowPath;
use crate::time::Time;

impl<S: SlowPath> Engine<S> {
    /// Takes a whole frame to its output, or its packets to theirs.
    #[cold]
    #[inline(never)]
    pub(super) fn process_whole(
        &mut self,
        lane: &Lane,
        port: PortId,
        packet: Packet,
        pool: &mut Pool,
        now: Time,
    ) {
        if let Some((slot, words)) = self.entry_of_whole(lane, port, &packet) {
            self.counters.hits += 1;
            return self.hit(slot, words, packet, pool, now.as_millis() as u32);
        }
        let Some(mut pieces) = self.outputs.cut(packet, pool) else { return };
        while let Some(piece) = self.outputs.next_piece(&mut pieces, pool) {
            self.process_piece(port, piece, pool, now);
        }
        pool.put(pieces.into_frame());
    }

    /// The entry that carries a whole frame as it is, with the words of its key.
    fn entry_of_whole(&mut self, lane: &Lane, port: PortId, packet: &Packet) -> Option<(Slot, usize)> {
        if !lane.is_keyed() {
            return None;
        }
        let bytes = packet.bytes();
        let mut key = [0; KEY_WORDS_MAX];
        let words = gather_of(&self.schemas, port, &lane.layout)?.gather(bytes, &mut key);
        let slot = self.state.cache.find(lane.hash, key.get(..words)?)?;
        let header = self.state.cache.header(slot);
        let usual = self.state.templates.usual(header.template)?;
        if !self.outputs.has(usual.port) {
            return None;
        }
        if let (true, Some(owner)) = (usual.tracks_tcp, header.owner())
            && !self.ends_are_valid(owner, packet, &lane.layout)
        {
            return None;
        }
        let length = u16::try_from(segment_ip_bytes(packet)?).ok()?;
        matches!(self.check(lane, slot, bytes, length), Lookup::Hit(_)).then_some((slot, words))
    }

    /// Whether the tracker would take the first packet and the last one, and so all between them: as one segment the frame could begin before the
    /// window's end, and its last packets behind that.
    fn ends_are_valid(&self, owner: Owner, packet: &Packet, layout: &Layout) -> bool {
        let bytes = packet.bytes();
        let whole = Segment::read(bytes, layout);
        let size = u32::from(packet.gso().size).max(1);
        let last = whole.payload_bytes.saturating_sub(1) / size * size;
        let first = Segment { payload_bytes: whole.payload_bytes.min(size), ..whole };
        let last = Segment {
            sequence: whole.sequence.wrapping_add(last),
            payload_bytes: whole.payload_bytes - last,
            ..whole
        };
        let tcp = bytes.get(usize::from(layout.l4)..usize::from(layout.end)).unwrap_or(&[]);
        let tracker = self.state.sessions.tcp(owner.session);
        [first, last].iter().all(|segment| tracker.peek(owner.reply, segment, tcp) == TcpVerdict::Valid)
    }

    /// A packet of a frame that was cut, in the middle of a burst.
    fn process_piece(&mut self, port: PortId, packet: Packet, pool: &mut Pool, now: Time) {
        let layout = match parse(packet.bytes(), self.config.verify) {
            Ok(layout) => layout,
            Err(reason) => return self.outputs.drop_packet(packet, reason, pool),
        };
        let mut key = [0; KEY_WORDS_MAX];
        let words = gather_of(&self.schemas, port, &layout).map_or(0, |g| g.gather(packet.bytes(), &mut key));
        let key = &key[..words];
        let parsed = if words > 0 { Parsed::Keyed } else { Parsed::Unkeyed };
        let lane = Lane { hash: self.state.cache.hash(key), layout, parsed, ..LANE };
        let found = self.look_up(&lane, key, false, packet.bytes());
        self.go(&lane, found, key, port, packet, pool, now);
    }

    /// Follows the first packet of a whole frame; the others are processed unseen.
    pub(super) fn follow_whole(
        &mut self,
        observer: &mut dyn Observer<S>,
        port: PortId,
        frame: Packet,
        pool: &mut Pool,
        now: Time,
    ) {
        let Some(mut pieces) = self.outputs.cut(frame, pool) else { return };
        let mut first = Burst::new();
        // It is empty.
        self.outputs.next_piece(&mut pieces, pool).into_iter().for_each(|piece| drop(first.push(piece)));
        self.follow(observer, port, &mut first.drain_all(), pool, now);
        while let Some(piece) = self.outputs.next_piece(&mut pieces, pool) {
            self.process_piece(port, piece, pool, now);
        }
        pool.put(pieces.into_frame());
    }
}
