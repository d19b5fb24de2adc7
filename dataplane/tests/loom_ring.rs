//! The ring under loom: all interleavings and all allowed reorderings of small runs.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p millrace-dataplane --release --test loom_ring`
#![cfg(loom)]

use arrayvec::ArrayVec;
use loom::sync::Arc;
use loom::thread;
use millrace_dataplane::ring::ring;

/// One element at a time through a ring of two, around its end.
#[test]
fn elements_arrive_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<usize>(2);
        let writer = thread::spawn(move || {
            for number in 0..3 {
                while producer.push(number).is_err() {
                    thread::yield_now();
                }
            }
        });
        for number in 0..3 {
            let element = loop {
                match consumer.pop() {
                    Some(element) => break element,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(element, number);
        }
        assert!(consumer.pop().is_none());
        writer.join().unwrap();
    });
}

/// Bulks that fit in part, and wrap.
#[test]
fn bulks_arrive_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<usize>(2);
        let writer = thread::spawn(move || {
            let mut elements: ArrayVec<usize, 4> = (0..4).collect();
            while !elements.is_empty() {
                if producer.push_from(&mut elements) == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut taken = ArrayVec::<usize, 4>::new();
        while !taken.is_full() {
            if consumer.pop_into(&mut taken) == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(taken[..], [0, 1, 2, 3]);
        writer.join().unwrap();
    });
}

/// Both halves go at any time: every element is dropped once.
#[test]
fn elements_are_dropped_once() {
    loom::model(|| {
        let token = Arc::new(());
        let (mut producer, mut consumer) = ring::<Arc<()>>(2);
        let pushed = Arc::clone(&token);
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                // A full ring gives the element back, which is dropped here.
                drop(producer.push(Arc::clone(&pushed)));
            }
        });
        drop(consumer.pop());
        drop(consumer);
        writer.join().unwrap();
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

/// The length that a side sees is never more than the capacity.
#[test]
fn lengths_are_bounded() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<usize>(2);
        let writer = thread::spawn(move || {
            for number in 0..3 {
                let _ = producer.push(number);
                assert!(producer.len() <= 2);
            }
        });
        assert!(consumer.len() <= 2);
        let _ = consumer.pop();
        assert!(consumer.len() <= 2);
        writer.join().unwrap();
    });
}

/// Who sees that the producer is gone sees all that it pushed.
#[test]
fn an_abandoned_ring_is_complete() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<usize>(2);
        let writer = thread::spawn(move || {
            producer.push(1).unwrap();
            producer.push(2).unwrap();
        });
        while !consumer.is_abandoned() {
            thread::yield_now();
        }
        assert_eq!((consumer.pop(), consumer.pop()), (Some(1), Some(2)));
        writer.join().unwrap();
    });
}
