//! Taking frames, giving them back, moving packets between bursts and through rings, generating and sinking them
//! allocates nothing.

use millrace_dataplane::counting::{CountingAllocator, allocations};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::packet::{Burst, Packet};
use millrace_dataplane::port::Port;
use millrace_dataplane::port::generator::{FrameBytes, GeneratorPort, Profile, Rate};
use millrace_dataplane::port::sink::SinkPort;
use millrace_dataplane::ring::ring;
use millrace_dataplane::time::Time;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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
