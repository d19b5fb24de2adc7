//! The return ring under loom: all interleavings and all allowed reorderings of small runs.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p millrace-dataplane --release --test loom_return_ring`
#![cfg(loom)]

use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;
use millrace_dataplane::memory::{ReturnRing, Taken};
use std::ptr::NonNull;

/// What a ring of two leads to: frames, whose contents loom watches, so that an access without order before it is an error.
struct Frames {
    ring: ReturnRing,
    contents: [Cell<usize>; 2],
}

impl Frames {
    fn new() -> Arc<Self> {
        Arc::new(Self { ring: ReturnRing::new(2), contents: [Cell::new(0), Cell::new(0)] })
    }

    /// Writes a frame and gives it back.
    fn give(&self, frame: usize, content: usize) {
        self.contents[frame].set(content);
        self.ring.give(NonNull::new(std::ptr::without_provenance_mut(frame + 1)).unwrap());
    }

    fn take(&self, taken: &mut Taken, most: usize) -> Vec<(usize, usize)> {
        let mut frames = Vec::new();
        self.ring.take(taken, most, |frame| {
            let frame = frame.as_ptr().addr() - 1;
            frames.push((frame, self.contents[frame].replace(0)));
        });
        frames
    }
}

/// Two threads give; all arrives, whole, and is counted.
#[test]
fn all_that_is_given_arrives() {
    loom::model(|| {
        let frames = Frames::new();
        let givers = [0, 1].map(|frame| {
            let frames = Arc::clone(&frames);
            thread::spawn(move || frames.give(frame, 7 + frame))
        });
        let mut taken = Taken::default();
        let mut all = frames.take(&mut taken, 2);
        assert!(frames.ring.len(&taken) <= 2 - all.len());
        for giver in givers {
            giver.join().unwrap();
        }
        assert_eq!(frames.ring.len(&taken), 2 - all.len());
        all.extend(frames.take(&mut taken, 2));
        all.sort_unstable();
        assert_eq!(all, [(0, 7), (1, 8)]);
        assert_eq!(frames.ring.len(&taken), 0);
    });
}

/// Frames go round: a slot is not filled before it was emptied.
#[test]
fn slots_are_used_again() {
    loom::model(|| {
        let frames = Frames::new();
        let other = Arc::clone(&frames);
        let giver = thread::spawn(move || other.give(1, 8));
        let (mut taken, mut seen) = (Taken::default(), Vec::new());
        frames.give(0, 5);
        for round in 0..3 {
            for (frame, content) in frames.take(&mut taken, 1) {
                seen.push((frame, content));
                if frame == 0 && round < 2 {
                    frames.give(0, 6 + round);
                }
            }
        }
        giver.join().unwrap();
        seen.extend(frames.take(&mut taken, 2));
        assert_eq!(frames.ring.len(&taken), 0);
        let last = seen.iter().rposition(|(frame, _)| *frame == 0).unwrap();
        assert_eq!(seen.iter().filter(|seen| **seen == (1, 8)).count(), 1, "{seen:?}");
        assert!(seen[last].1 >= 5, "{seen:?}");
    });
}

/// A frame is handed to another thread, which gives it back, and a third one has its slot's next turn.
#[test]
fn a_frame_comes_back_by_another_thread() {
    loom::model(|| {
        let frames = Frames::new();
        frames.give(0, 5);
        let mut taken = Taken::default();
        assert_eq!(frames.take(&mut taken, 1), [(0, 5)]);
        let givers = [(0, 6), (1, 8)].map(|(frame, content)| {
            let frames = Arc::clone(&frames);
            thread::spawn(move || frames.give(frame, content))
        });
        let mut all = frames.take(&mut taken, 2);
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        all.extend(frames.take(&mut taken, 2));
        all.sort_unstable();
        assert_eq!(all, [(0, 6), (1, 8)]);
    });
}
