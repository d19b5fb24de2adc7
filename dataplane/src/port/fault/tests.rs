use super::*;
use crate::memory::{Arena, PoolConfig};
use crate::port::MacAddress;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// A port that receives numbered packets and remembers what it sends.
#[derive(Default)]
struct Loop {
    info: Option<PortInfo>,
    next: u32,
    count: u32,
    sent: Arc<Mutex<VecDeque<Vec<u8>>>>,
    counters: PortCounters,
}

fn contents(number: u32) -> Vec<u8> {
    let mut bytes = vec![number as u8; 200];
    bytes[20..24].copy_from_slice(&number.to_be_bytes());
    bytes
}

impl Port for Loop {
    fn rx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        while self.next < self.count && !burst.is_full() {
            let Some(mut packet) = pool.take() else { return };
            packet.set_contents(&contents(self.next)).unwrap();
            self.next += 1;
            self.counters.rx_packets += 1;
            burst.push(packet).unwrap();
        }
    }

    fn tx(&mut self, pool: &mut Pool, _now: Time, burst: &mut Burst) {
        self.counters.tx_packets += burst.len() as u64;
        self.sent.lock().unwrap().extend(burst.iter().map(|packet| packet.bytes().to_vec()));
        pool.put_all(burst);
    }

    fn info(&self) -> &PortInfo {
        self.info.as_ref().unwrap()
    }

    fn counters(&mut self) -> PortCounters {
        self.counters.clone()
    }

    fn close(&mut self, _pool: Option<&mut Pool>) {}
}

fn port(config: &FaultConfig, count: u32) -> (FaultPort, Arc<Mutex<VecDeque<Vec<u8>>>>) {
    let mac: MacAddress = [2; 6];
    let info =
        PortInfo { name: "x".to_owned(), description: "loop".to_owned(), mac, mtu: 1_500, link_up: true };
    let inner = Loop { info: Some(info), count, ..Loop::default() };
    let sent = Arc::clone(&inner.sent);
    (FaultPort::new(Box::new(inner), config), sent)
}

fn pool() -> Pool {
    Pool::new(&Arena::anonymous(8 << 20).unwrap(), PoolConfig { frames: 2_048, frame_bytes: 2_048 }).unwrap()
}

fn everything(seed: u64) -> FaultConfig {
    FaultConfig {
        loss: Probability::new(0.05),
        duplicate: Probability::new(0.04),
        reorder: Probability::new(0.03),
        corrupt: Probability::new(0.02),
        truncate: Probability::new(0.01),
        delay: Probability::new(0.1),
        delay_time: Duration::from_millis(2),
        seed,
        direction: Direction::Both,
    }
}

/// Sends received packets back, in bursts of `burst`, and returns what came back with the counters. Sums hold at every step.
fn run(config: &FaultConfig, count: u32, burst_packets: usize) -> (Vec<Vec<u8>>, PortCounters) {
    let mut pool = pool();
    let (mut port, sent) = port(config, count);
    let (mut given, mut turns) = (0, 0);
    let mut quiet = 0;
    while quiet < 20 {
        let mut burst = Burst::with_limit(burst_packets);
        turns += 1;
        let now = Time::from_millis(turns);
        port.rx(&mut pool, now, &mut burst);
        quiet = if burst.is_empty() { quiet + 1 } else { 0 };
        given += burst.len() as u64;
        port.tx(&mut pool, now, &mut burst);
        assert!(burst.is_empty());
        let counters = port.counters();
        let taken = counters.tx_packets + counters.tx_drops.total() + port.buffered() - counters.tx_copied;
        assert_eq!((taken, counters.rx_packets), (given, given));
    }
    port.close(Some(&mut pool));
    assert_eq!(pool.available(), pool.capacity());
    let counters = port.counters();
    assert_eq!(port.buffered(), 0);
    assert_eq!(counters.rx_packets + counters.rx_drops.total(), u64::from(count) + counters.rx_copied);
    (sent.lock().unwrap().drain(..).collect(), counters)
}

#[test]
fn a_seed_decides_and_bursts_do_not() {
    let timeless = FaultConfig { delay: Probability::default(), ..everything(7) };
    // Without time to wait for, nothing depends on the turns.
    let fixed = FaultConfig { reorder: Probability::default(), ..timeless.clone() };
    let reference = run(&fixed, 3_000, 64);
    assert_eq!(run(&fixed, 3_000, 64), reference);
    assert_eq!(run(&fixed, 3_000, 1).0, reference.0);
    assert_eq!(run(&timeless, 3_000, 64), run(&timeless, 3_000, 64));
    assert_eq!(run(&everything(7), 3_000, 32), run(&everything(7), 3_000, 32));
    assert_ne!(run(&FaultConfig { seed: 8, ..fixed }, 3_000, 64).0, reference.0);
}

#[test]
fn each_fault_happens_as_often_as_it_should() {
    const COUNT: u32 = 40_000;
    let expected = |count: u64, fraction: f64| {
        let mean = f64::from(COUNT) * fraction;
        // Five standard deviations, of a fixed seed.
        assert!((count as f64 - mean).abs() < 5.0 * mean.sqrt(), "{count} for {mean}");
    };
    let one = |set: fn(&mut FaultConfig)| {
        let mut config = FaultConfig { seed: 3, direction: Direction::Rx, ..FaultConfig::default() };
        set(&mut config);
        run(&config, COUNT, 64)
    };
    let original = |packet: &Vec<u8>| u32::from_be_bytes(packet[20..24].try_into().unwrap());

    let (packets, counters) = one(|config| config.loss = Probability::new(0.05));
    expected(counters.rx_drops.get(DropReason::FaultInjected), 0.05);
    assert!(packets.windows(2).all(|pair| original(&pair[0]) < original(&pair[1])));

    let (packets, counters) = one(|config| config.duplicate = Probability::new(0.05));
    expected(counters.rx_copied, 0.05);
    let twice = packets.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    assert_eq!((twice, packets.len() as u64), (counters.rx_copied, u64::from(COUNT) + twice));

    let (packets, _) = one(|config| config.reorder = Probability::new(0.05));
    let mut highest = 0;
    let late = packets.iter().filter(|packet| {
        let number = original(packet);
        highest = highest.max(number);
        // No more than three overtake it, and those that are overtaken meanwhile.
        assert!(highest - number <= 12, "{number} came after {highest}");
        number < highest
    });
    expected(late.count() as u64, 0.05);
    assert_eq!(packets.len(), COUNT as usize);

    let (packets, _) = one(|config| config.corrupt = Probability::new(0.05));
    let flipped = |(number, packet): (usize, &Vec<u8>)| -> u32 {
        packet.iter().zip(contents(number as u32)).map(|(a, b)| (a ^ b).count_ones()).sum()
    };
    let bits: Vec<u32> = packets.iter().enumerate().map(flipped).collect();
    expected(bits.iter().map(|&bits| u64::from(bits)).sum(), 0.05);
    assert!(bits.iter().all(|&bits| bits <= 1));

    let (packets, _) = one(|config| config.truncate = Probability::new(0.05));
    expected(packets.iter().filter(|packet| packet.len() < 200).count() as u64, 0.05);
    assert!(packets.iter().all(|packet| packet.len() >= 14));
}

#[test]
fn delayed_packets_come_when_it_is_time() {
    let mut pool = pool();
    let delay_time = Duration::from_millis(5);
    let config = FaultConfig { delay: Probability::ONE, delay_time, ..FaultConfig::default() };
    let (mut port, sent) = port(&config, 10);
    let mut burst = Burst::new();
    port.rx(&mut pool, Time::from_millis(1), &mut burst);
    assert!(burst.is_empty() && port.is_pending() && port.buffered() == 0);
    port.rx(&mut pool, Time::from_millis(5), &mut burst);
    assert!(burst.is_empty());
    port.rx(&mut pool, Time::from_millis(6), &mut burst);
    assert_eq!(burst.len(), 10);
    port.tx(&mut pool, Time::from_millis(6), &mut burst);
    assert_eq!((port.buffered(), sent.lock().unwrap().len()), (10, 0));
    port.tx(&mut pool, Time::from_millis(11), &mut burst);
    assert_eq!((port.buffered(), sent.lock().unwrap().len(), port.is_pending()), (0, 10, false));
}

#[test]
fn what_is_held_is_bounded_and_comes_back() {
    let mut pool = pool();
    let delay_time = Duration::from_secs(60);
    let config = FaultConfig { delay: Probability::ONE, delay_time, ..FaultConfig::default() };
    let (mut port, _) = port(&config, 1_500);
    for _ in 0..100 {
        let mut burst = Burst::new();
        port.rx(&mut pool, Time(0), &mut burst);
        assert!(burst.is_empty());
    }
    let drops = port.counters().rx_drops;
    assert_eq!(drops.get(DropReason::FaultInjected), 1_500 - HELD_MAX as u64);
    assert_eq!(pool.outstanding(), HELD_MAX);
    port.close(None);
    assert_eq!(pool.outstanding(), 0);
    assert_eq!(port.counters().rx_drops.get(DropReason::Shutdown), HELD_MAX as u64);
}

#[test]
fn probabilities_are_exact_at_their_ends() {
    assert_eq!(Probability::new(1.0), Probability::ONE);
    assert_eq!(Probability::new(7.0), Probability::ONE);
    assert_eq!(Probability::new(f64::NAN), Probability::default());
    assert!(Probability::ONE.hits(u64::MAX) && !Probability::default().hits(0));
    assert!((Probability::new(0.3).fraction() - 0.3).abs() < 1e-9);
}
