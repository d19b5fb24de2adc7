use super::*;
use crate::memory::{Arena, PoolConfig};
use crate::packet::Packet;
use crate::port::verify::{ChecksumVerdict, verify_checksums};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::IpAddr;

fn pool(mtu: u16) -> Pool {
    Pool::new(&Arena::anonymous(4 << 20).unwrap(), PoolConfig::for_mtu(128, mtu)).unwrap()
}

fn ipv6(profile: Profile) -> Profile {
    let range = |text: &str, count| AddressRange { first: text.parse().unwrap(), count };
    let mut profile = profile;
    profile.source.addresses = range("2001:db8::ffff:fffe", 200);
    profile.target.addresses = range("2001:db8:1::1", 3);
    profile
}

/// Sends `count` packets and shows each one.
fn send(generator: &mut GeneratorPort, pool: &mut Pool, count: usize, mut see: impl FnMut(usize, &Packet)) {
    let mut seen = 0;
    while seen < count {
        let mut burst = Burst::new();
        generator.rx(pool, Time(0), &mut burst);
        assert!(!burst.is_empty());
        for packet in burst.iter().take(count - seen) {
            see(seen, packet);
            seen += 1;
        }
        generator.tx(pool, Time(0), &mut burst);
    }
    assert_eq!(pool.available(), pool.capacity());
}

/// The frame that another maker builds for a flow, with the payload of `frame`.
fn expected(profile: &Profile, flow: u64, frame: &[u8]) -> Vec<u8> {
    let [source, target] = profile.flow(flow);
    let (from, to) = if profile.reversed { (target, source) } else { (source, target) };
    let (from_mac, to_mac) = if profile.reversed {
        (profile.target.mac, profile.source.mac)
    } else {
        (profile.source.mac, profile.target.mac)
    };
    let payload = &frame[profile.header_bytes()..];
    let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
    let ip = match (profile.vlan, from.0, to.0) {
        (None, IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), profile.ttl),
        (None, IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), profile.ttl),
        (Some(vlan), IpAddr::V4(from), IpAddr::V4(to)) => {
            ethernet.single_vlan(vlan.try_into().unwrap()).ipv4(from.octets(), to.octets(), profile.ttl)
        }
        (Some(vlan), IpAddr::V6(from), IpAddr::V6(to)) => {
            ethernet.single_vlan(vlan.try_into().unwrap()).ipv6(from.octets(), to.octets(), profile.ttl)
        }
        _ => unreachable!("the profile has one version"),
    };
    let mut out = Vec::new();
    match profile.protocol {
        Protocol::Udp => ip.udp(from.1, to.1).write(&mut out, payload),
        Protocol::Tcp(fields) => {
            let mut tcp = ip.tcp(from.1, to.1, fields.sequence, fields.window);
            if fields.flags & 0x02 != 0 {
                tcp = tcp.syn();
            }
            if fields.flags & 0x10 != 0 {
                tcp = tcp.ack(fields.acknowledgement);
            }
            tcp.write(&mut out, payload)
        }
        Protocol::IcmpEcho => match (profile.is_ipv6(), profile.reversed) {
            (false, false) => ip.icmpv4_echo_request(source.1, 1).write(&mut out, payload),
            (false, true) => ip.icmpv4_echo_reply(source.1, 1).write(&mut out, payload),
            (true, false) => ip.icmpv6_echo_request(source.1, 1).write(&mut out, payload),
            (true, true) => ip.icmpv6_echo_reply(source.1, 1).write(&mut out, payload),
        },
    }
    .unwrap();
    out
}

fn profiles() -> impl Strategy<Value = Profile> {
    let protocols = prop::sample::select(vec![
        Protocol::Udp,
        Protocol::Tcp(TcpFields::SYN),
        Protocol::Tcp(TcpFields::SYN_ACK),
        Protocol::Tcp(TcpFields { sequence: u32::MAX, ..TcpFields::ACK }),
        Protocol::IcmpEcho,
    ]);
    let lengths = prop_oneof![
        (100usize..2_000).prop_map(FrameBytes::Fixed),
        Just(FrameBytes::Imix),
        (78usize..300, 0usize..300).prop_map(|(shortest, more)| FrameBytes::Range(shortest, shortest + more)),
    ];
    let choice = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (protocols, lengths, choice, 1usize..300, any::<u64>(), any::<u8>()).prop_map(
        |(protocol, frame_bytes, (version6, reversed, tagged, permuted), flows, seed, ttl)| Profile {
            protocol,
            frame_bytes,
            seed,
            ttl,
            reversed,
            vlan: tagged.then_some(77),
            order: if permuted { Order::Permuted } else { Order::Sequential },
            ..if version6 { ipv6(Profile::udp(flows)) } else { Profile::udp(flows) }
        },
    )
}

proptest! {
    #[test]
    fn frames_equal_those_of_another_maker(profile in profiles()) {
        prop_assert_eq!(profile.check(), Ok(()));
        let mut generator = GeneratorPort::new("in", &profile).unwrap();
        let mut pool = pool(2_000);
        let lap = match profile.order {
            Order::Sequential => (0..profile.flows as u32).collect(),
            Order::Permuted => Random::new(profile.seed).permutation(profile.flows as u32),
        };
        send(&mut generator, &mut pool, 700, |index, packet| {
            let flow = lap[index % lap.len()];
            assert_eq!(packet.bytes(), expected(&profile, flow.into(), packet.bytes()), "packet {index}");
            assert_eq!(verify_checksums(packet.bytes()), ChecksumVerdict::Good);
        });
    }

    #[test]
    fn a_permutation_has_every_number_once(count in 1u32..2_000, seed: u64) {
        let numbers: HashSet<u32> = Random::new(seed).permutation(count).into_iter().collect();
        prop_assert_eq!(numbers.len(), count as usize);
        prop_assert!(numbers.iter().all(|&number| number < count));
    }
}

#[test]
fn udp_checksums_are_never_zero() {
    let mut profile = Profile::udp(1);
    profile.flows = 65_000 * 3;
    profile.order = Order::Sequential;
    for frame_bytes in [FrameBytes::Fixed(60), FrameBytes::Range(60, 61)] {
        profile.frame_bytes = frame_bytes;
        let mut generator = GeneratorPort::new("in", &profile).unwrap();
        let mut ones = 0;
        send(&mut generator, &mut pool(1_500), profile.flows, |_, packet| {
            assert_ne!(packet.bytes()[40..42], [0, 0]);
            ones += u32::from(packet.bytes()[40..42] == [0xff, 0xff]);
        });
        assert!(ones > 0, "the case occurs");
    }
}

#[test]
fn each_flow_comes_once_a_lap() {
    let profile = Profile { flows: 1_000, ..Profile::udp(1_000) };
    let mut generator = GeneratorPort::new("in", &profile).unwrap();
    let mut laps = vec![Vec::new(); 3];
    send(&mut generator, &mut pool(1_500), 3_000, |index, packet| {
        laps[index / 1_000].push(packet.bytes()[26..38].to_vec());
    });
    assert_eq!(laps[0].iter().collect::<HashSet<_>>().len(), 1_000);
    assert!(laps[0] == laps[1] && laps[1] == laps[2], "one fixed permutation");
    let sequential = Profile { order: Order::Sequential, ..profile };
    let mut generator = GeneratorPort::new("in", &sequential).unwrap();
    send(&mut generator, &mut pool(1_500), 1_000, |index, packet| {
        let port = u16::from_be_bytes([packet.bytes()[34], packet.bytes()[35]]);
        assert_eq!(usize::from(port), 1_024 + index);
    });
}

#[test]
fn imix_is_seven_four_one() {
    let profile = Profile { frame_bytes: FrameBytes::Imix, ..Profile::udp(5) };
    let mut generator = GeneratorPort::new("in", &profile).unwrap();
    let mut counts = [0; 3];
    send(&mut generator, &mut pool(1_500), 1_200, |_, packet| match packet.len() {
        64 => counts[0] += 1,
        594 => counts[1] += 1,
        1_518 => counts[2] += 1,
        other => panic!("{other} bytes"),
    });
    assert_eq!(counts, [700, 400, 100]);
}

#[test]
fn the_rate_and_the_number_are_kept() {
    let profile = Profile { rate: Rate::PerSecond(1_000_000), packets: Some(5_000), ..Profile::udp(10) };
    let mut generator = GeneratorPort::new("in", &profile).unwrap();
    let mut pool = pool(1_500);
    let mut sent = 0;
    for microsecond in 0..4_000u64 {
        let mut burst = Burst::new();
        generator.rx(&mut pool, Time(microsecond * 1_000 + 50), &mut burst);
        sent += burst.len() as u64;
        assert_eq!(sent, microsecond + 1);
        pool.put_all(&mut burst);
    }
    // A pause of a second is made up for 1,024 packets, in bursts.
    for _ in 0..100 {
        let mut burst = Burst::new();
        generator.rx(&mut pool, Time(1_004_000_000), &mut burst);
        sent += burst.len() as u64;
        pool.put_all(&mut burst);
    }
    assert_eq!((sent, generator.exhausted()), (5_000, true), "the limit comes before the backlog ends");
    assert_eq!(generator.counters().rx_packets, 5_000);

    let slow = Profile { rate: Rate::PerSecond(3), ..Profile::udp(1) };
    let mut generator = GeneratorPort::new("in", &slow).unwrap();
    let mut burst = Burst::new();
    for now in [10_000_000_000, 10_333_333_333, 10_333_333_334, 10_666_666_667, 9, 10_999_999_999] {
        generator.rx(&mut pool, Time(now), &mut burst);
    }
    assert_eq!(burst.len(), 3, "no packet before its time, none for a clock that goes back");
    generator.rx(&mut pool, Time(11_000_000_000), &mut burst);
    assert_eq!(burst.len(), 4);
    pool.put_all(&mut burst);
}

#[test]
fn frames_too_long_for_the_pool_are_counted() {
    let profile = Profile { frame_bytes: FrameBytes::Imix, packets: Some(36), ..Profile::udp(5) };
    let mut generator = GeneratorPort::new("in", &profile).unwrap();
    let config = PoolConfig { frames: 64, frame_bytes: 1_024 };
    let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), config).unwrap();
    let mut burst = Burst::new();
    generator.rx(&mut pool, Time(0), &mut burst);
    let counters = generator.counters();
    assert_eq!(
        (burst.len(), counters.rx_packets, counters.rx_drops.get(DropReason::MtuExceeded)),
        (33, 33, 3)
    );
    assert!(burst.iter().all(|packet| !packet.is_empty()));
    assert_eq!(counters.rx_bytes, burst.iter().map(|packet| packet.len() as u64).sum::<u64>());
    pool.put_all(&mut burst);
    assert_eq!(pool.available(), 64);
}

#[test]
fn impossible_profiles_are_refused() {
    let udp = Profile::udp(10);
    let refused = |profile: Profile| GeneratorPort::new("in", &profile).unwrap_err();
    assert_eq!(
        refused(Profile { flows: 0, ..udp.clone() }),
        ProfileError::Flows { flows: 0, flows_max: FLOWS_MAX }
    );
    let mut few = udp.clone();
    (few.source.ports, few.source.addresses.count) = (PortRange::one(5), 9);
    assert_eq!(refused(few), ProfileError::Flows { flows: 10, flows_max: 9 });
    let mut empty = udp.clone();
    empty.target.ports = PortRange { first: 5, last: 4 };
    assert_eq!(refused(empty), ProfileError::EmptyRange("target"));
    let mut mixed = udp.clone();
    mixed.source = ipv6(udp.clone()).source;
    assert_eq!(refused(mixed), ProfileError::MixedVersions);
    assert_eq!(refused(Profile { vlan: Some(4_095), ..udp.clone() }), ProfileError::Vlan(4_095));
    assert_eq!(refused(Profile { rate: Rate::PerSecond(0), ..udp.clone() }), ProfileError::Rate);
    for frame_bytes in
        [FrameBytes::Fixed(41), FrameBytes::Fixed(9_023), FrameBytes::Range(100, 99), FrameBytes::Fixed(0)]
    {
        let error = refused(Profile { frame_bytes, ..udp.clone() });
        assert!(matches!(error, ProfileError::FrameBytes { least: 42, .. }), "{error}");
    }
}
