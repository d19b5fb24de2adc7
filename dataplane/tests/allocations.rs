//! Taking frames, giving them back, moving packets between bursts and through rings, generating and sinking them
//! allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::Port;
use millrace_dataplane::port::generator::{FrameBytes, GeneratorPort, Profile, Rate};
use millrace_dataplane::port::sink::SinkPort;
use millrace_dataplane::ring::ring;
use millrace_dataplane::time::Time;

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local integer only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
    assert_eq!(allocations(), before + 1);
}

#[test]
fn taking_and_giving_back_allocates_nothing() {
    let mut pool = Pool::new(&Arena::anonymous(2 << 20).unwrap(), PoolConfig::new(200)).unwrap();
    let before = allocations();
    for round in 0..1_000 {
        let (mut burst, mut other) = (Burst::new(), Burst::new());
        pool.take_bulk(&mut burst, 64);
        other.append(&mut burst);
        for packet in other.drain(round % 10) {
            pool.put(packet);
        }
        // The slow way back, over the lock and the return list, has its room too.
        drop(other.take(round % 7));
        pool.put_all(&mut other);
        while let Some(packet) = pool.take() {
            if burst.push(packet).is_err() {
                break;
            }
        }
    }
    assert_eq!(allocations(), before);
    assert_eq!(pool.available(), 200);
}

#[test]
fn generator_ring_and_sink_allocate_nothing() {
    let mut pool = Pool::new(&Arena::anonymous(2 << 20).unwrap(), PoolConfig::new(200)).unwrap();
    let profile =
        Profile { frame_bytes: FrameBytes::Imix, rate: Rate::PerSecond(10_000_000), ..Profile::udp(500) };
    let mut generator = GeneratorPort::new("in", &profile).unwrap();
    let (mut sink, statistics) = SinkPort::verifying("out", [2; 6], 1_500);
    let (mut producer, mut consumer) = ring::<Packet>(128);
    let before = allocations();
    let (mut burst, mut other) = (Burst::new(), Burst::new());
    for round in 0..2_000 {
        generator.rx(&mut pool, Time(round * 3_000), &mut burst);
        producer.push_packets(&mut burst);
        consumer.pop_packets(&mut other);
        sink.tx(&mut pool, Time(0), &mut other);
    }
    assert_eq!(allocations(), before);
    assert_eq!(statistics.good(), generator.counters().rx_packets);
    assert!(statistics.good() > 50_000);
    assert_eq!(pool.available(), 200);
}
