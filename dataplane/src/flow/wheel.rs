//! The timer wheel of sessions: a slot for each second, and in it the numbers of the sessions whose timers come up then.
//!
//! A slot is a list of chunks of one cache line; only the first may have room. So the numbers that come up next lie side by
//! side, and their records can be asked for in time. Removing a number moves the last one of the first chunk into its place.
//!
//! Memory is bounded by the number of timers: each has at most one place, and all chunks but a slot's first are full.

use super::session::SESSIONS_MAX;
use crate::memory::{Arena, ArenaError, ArenaSlice, Pod};
use arrayvec::ArrayVec;

const NONE: u32 = u32::MAX;
/// Seconds that the wheel reaches ahead; a later deadline is looked at once a turn.
pub const SLOTS: usize = 1 << 14;
const CHUNK_IDS: usize = 14;

/// Where a timer sits: its chunk, and its place there in the low four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Timer(u32);

impl Timer {
    /// No place yet.
    pub const NONE: Self = Self(u32::MAX);

    const fn at(chunk: u32, place: u32) -> Self {
        Self(chunk << 4 | place)
    }

    const fn chunk(self) -> u32 {
        self.0 >> 4
    }

    const fn place(self) -> u32 {
        self.0 & 15
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Chunk {
    ids: [u32; CHUNK_IDS],
    next: u32,
    count: u16,
    slot: u16,
}

#[allow(unsafe_code)]
mod pod {
    use super::{Chunk, Pod};
    // SAFETY: plain integers and arrays of them; all zeroes is a valid value.
    unsafe impl Pod for Chunk {}
}

/// The wheel.
#[derive(Debug)]
pub struct TimerWheel {
    heads: Box<[u32]>,
    chunks: ArenaSlice<Chunk>,
    /// First of the chunks that were given back.
    free: u32,
    /// Chunks from here on were never used.
    fresh: u32,
    /// The second up to which the wheel was turned.
    turned: u64,
}

fn chunks_for(timers: usize) -> usize {
    timers.div_ceil(CHUNK_IDS) + timers.min(SLOTS)
}

impl TimerWheel {
    /// A wheel for so many timers.
    ///
    /// # Errors
    /// If the arena has not enough memory.
    pub fn new(arena: &Arena, timers: usize) -> Result<Self, ArenaError> {
        Ok(Self {
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            chunks: ArenaSlice::zeroed(arena, chunks_for(timers))?,
            free: NONE,
            fresh: 0,
            turned: 0,
        })
    }

    /// Bytes that this wheel takes.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.arena_bytes() + size_of_val(&*self.heads)
    }

    /// Bytes that a wheel for so many timers takes from the arena.
    pub fn bytes_for(timers: usize) -> usize {
        chunks_for(timers) * size_of::<Chunk>()
    }

    fn slot_of(second: u64) -> u16 {
        (second as usize & (SLOTS - 1)) as u16
    }

    /// The slot in which a timer for this second sits: a far one is looked at once a turn, a past one next.
    pub fn slot_for(&self, second: u64) -> u16 {
        Self::slot_of(second.clamp(self.turned + 1, self.turned + SLOTS as u64 - 1))
    }

    /// True if `timer` sits in this slot.
    pub fn is_in(&self, timer: Timer, slot: u16) -> bool {
        self.chunks.get(timer.chunk() as usize).is_some_and(|chunk| chunk.slot == slot)
    }

    /// Puts a timer into a slot.
    pub fn arm(&mut self, id: u32, slot: u16) -> Timer {
        let head = self.heads[usize::from(slot)];
        let has_room = head != NONE && usize::from(self.chunks[head as usize].count) < CHUNK_IDS;
        let at = if has_room { head } else { self.take_chunk(slot, head) };
        let chunk = &mut self.chunks[at as usize];
        let place = usize::from(chunk.count) % CHUNK_IDS;
        chunk.ids[place] = id;
        chunk.count += 1;
        Timer::at(at, place as u32)
    }

    fn take_chunk(&mut self, slot: u16, next: u32) -> u32 {
        let at = if self.free == NONE {
            self.fresh += 1;
            self.fresh - 1
        } else {
            self.free
        };
        let chunk = &mut self.chunks[at as usize];
        if at == self.free {
            self.free = chunk.next;
        }
        (chunk.next, chunk.count, chunk.slot) = (next, 0, slot);
        self.heads[usize::from(slot)] = at;
        at
    }

    /// Takes a timer out. Which other one moved into its place, and where that sits now.
    pub fn disarm(&mut self, timer: Timer) -> Option<(u32, Timer)> {
        let slot = usize::from(self.chunks.get(timer.chunk() as usize)?.slot);
        let head = self.heads[slot];
        if head == NONE {
            return None;
        }
        let chunk = &mut self.chunks[head as usize];
        chunk.count -= 1;
        let (last, next, count) = (chunk.ids[usize::from(chunk.count) % CHUNK_IDS], chunk.next, chunk.count);
        let moved = timer != Timer::at(head, u32::from(count));
        if moved {
            self.chunks[timer.chunk() as usize].ids[timer.place() as usize % CHUNK_IDS] = last;
        }
        if count == 0 {
            self.heads[slot] = next;
            self.chunks[head as usize].next = self.free;
            self.free = head;
        }
        moved.then_some((last, timer))
    }

    /// An empty wheel has nothing to turn through: time starts at this second.
    pub fn skip_to(&mut self, second: u64) {
        self.turned = self.turned.max(second);
    }

    /// Takes timers out that came up by this second, `most` of them unless there are fewer, or less room in `taken`.
    pub fn take_due<const N: usize>(&mut self, second: u64, taken: &mut ArrayVec<u32, N>, most: usize) {
        let most = most.min(N);
        while self.turned < second && taken.len() < most {
            let slot = usize::from(Self::slot_of(self.turned + 1));
            let head = self.heads[slot];
            let Some(chunk) = self.chunks.get_mut(head as usize) else {
                self.turned += 1;
                continue;
            };
            let count = usize::from(chunk.count).min(CHUNK_IDS);
            let left = count.saturating_sub(most - taken.len());
            taken.extend(chunk.ids[left..count].iter().rev().copied());
            chunk.count = left as u16;
            if left == 0 {
                self.heads[slot] = std::mem::replace(&mut chunk.next, self.free);
                self.free = head;
                self.chunks.prefetch(self.heads[slot] as usize);
            }
        }
    }

    /// Some of the timers that [`Self::take_due`] takes next.
    pub fn due(&self, second: u64) -> &[u32] {
        if self.turned < second {
            self.ids(self.heads[usize::from(Self::slot_of(self.turned + 1))])
        } else {
            &[]
        }
    }

    fn ids(&self, chunk: u32) -> &[u32] {
        let Some(chunk) = self.chunks.get(chunk as usize) else { return &[] };
        chunk.ids.get(..usize::from(chunk.count)).unwrap_or(&[])
    }
}

const _: () = assert!(size_of::<Chunk>() == 64);
const _: () = assert!(SESSIONS_MAX / CHUNK_IDS + SLOTS < 1 << 28);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        /// Held against a map from timer to second.
        #[test]
        fn each_timer_comes_up_once_and_in_time(steps in proptest::collection::vec((0u32..60, 0u64..40, 0u8..4), 1..400)) {
            let arena = Arena::anonymous(TimerWheel::bytes_for(60) + 4096).unwrap();
            let mut wheel = TimerWheel::new(&arena, 60).unwrap();
            let (mut timers, mut model, mut now) = (BTreeMap::new(), BTreeMap::new(), 0u64);
            for (id, delay, what) in steps {
                if let Some(timer) = timers.remove(&id) {
                    model.remove(&id);
                    if let Some((moved, to)) = wheel.disarm(timer) {
                        timers.insert(moved, to);
                    }
                }
                if what > 0 {
                    let slot = wheel.slot_for(now + delay);
                    timers.insert(id, wheel.arm(id, slot));
                    model.insert(id, (now + delay).max(now + 1));
                } else {
                    now += delay;
                    let mut came_up = BTreeSet::new();
                    loop {
                        let next = wheel.due(now).last().copied();
                        let mut taken = ArrayVec::<u32, 5>::new();
                        wheel.take_due(now, &mut taken, 7);
                        prop_assert!(next.is_none_or(|next| taken.first() == Some(&next)));
                        taken.iter().for_each(|id| assert!(timers.remove(id).is_some() && came_up.insert(*id)));
                        if taken.is_empty() {
                            break;
                        }
                    }
                    let expected: BTreeSet<_> = model.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
                    model.retain(|_, at| *at > now);
                    prop_assert_eq!(came_up, expected);
                }
                prop_assert!((wheel.fresh as usize) <= chunks_for(60));
            }
        }
    }
}
