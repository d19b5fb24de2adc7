//! Frames that are carried whole through a chain: what leaves is what would have left had the port cut them, packet by packet.

mod common;

use common::*;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::engine::{EngineConfig, Foreseen, Observed, Observer, Outcome};
use millrace_dataplane::flow::state::FlowState;
use millrace_dataplane::limits::{LARGE_FRAMES_TURN, LARGE_PACKETS_MAX};
use millrace_dataplane::memory::Arena;
use millrace_dataplane::packet::{Burst, Gso, Packet, Verify};
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::offload::Pieces;
use millrace_dataplane::port::verify::{ChecksumVerdict, verify_checksums};
use millrace_dataplane::time::Time;
use millrace_nf::chain::{ChainBuilder, Chains};
use millrace_nf::firewall::rule_set::RuleSet;
use millrace_nf::firewall::rules::{Action, Rule, RuleId};
use millrace_nf::firewall::{Firewall, Policy};
use millrace_nf::nat::{Capacity, Nat, NatConfig, NatPlan, NatSettings, PoolRange, Secret};
use millrace_nf::router::icmp_limit::IcmpLimitConfig;
use millrace_nf::zone::ZoneId;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

const CLIENT: &str = "10.0.0.5";
const SERVER: &str = "198.51.100.7";
const POOL: &str = "192.0.2.100";
const CLIENT6: &str = "2001:db8:1::5";
const SERVER6: &str = "2001:db8:2::9";
const LARGE: usize = 3;

/// A firewall, a NAT and a forwarder for packets of 1,500 bytes.
fn harness() -> Harness {
    let config = EngineConfig { budget: BudgetConfig::UNLIMITED, ..EngineConfig::default() };
    harness_with(config, LARGE)
}

/// The same with an engine that is set so, and so many large frames.
fn harness_with(config: EngineConfig, large: usize) -> Harness {
    let arena = Arena::anonymous(8 << 20).unwrap();
    let out = Rule { from_zone: Some(ZoneId(0)), ..Rule::any(RuleId(1), 1 << 32, "out", Action::Allow) };
    let policy = Policy::new(&RuleSet::new(vec![out]).unwrap(), Action::Deny).unwrap();
    let address: Ipv4Addr = POOL.parse().unwrap();
    let settings = NatSettings {
        pool: vec![PoolRange { first: address, last: address }],
        ports: (1024, 65_535),
        ..NatSettings::default()
    };
    let capacity = Capacity { mappings: 4096, mappings_static: 16, subscribers: 256, contacts: 256 };
    let plan = NatConfig::new(Arc::new(NatPlan::new(settings).unwrap()));
    let nat = Nat::new(plan, &capacity, &Secret::from_key([1, 2]), &arena).unwrap();
    let chain = ChainBuilder::new("whole", &["inside", "outside"])
        .function("firewall", Firewall::new(policy, IcmpLimitConfig::default()))
        .function("nat", nat)
        .forwarder("wire", Wire::default());
    let mut it = Harness::with_engine(chain, 4_096, config);
    it.pool.add_large(&arena, large).unwrap();
    it
}

/// A stream in which the client has sent nothing yet; where what the server sends arrives from outside.
fn open(it: &mut Harness, client: &str, server: &str, port: u16) -> (String, u16) {
    let sent = it.send_one(INSIDE, &tcp(client, server, (port, 80), segment("S", 1_000, 0)));
    assert_eq!(sent.len(), 1);
    let (source, _) = addresses(&sent[0].1);
    let ip_bytes = if source.is_ipv6() { 40 } else { 20 };
    let from = u16::from_be_bytes([sent[0].1[14 + ip_bytes], sent[0].1[15 + ip_bytes]]);
    let source = source.to_string();
    assert!(it.passes(OUTSIDE, &tcp(server, &source, (80, from), segment("SA", 5_000, 1_001))));
    assert!(it.passes(INSIDE, &tcp(client, server, (port, 80), segment("A", 1_001, 5_001))));
    (source, from)
}

/// A frame that a port would deliver whole: its checksum is none.
fn frame(client: &str, server: &str, port: u16, flags: &str, bytes: usize, sequence: u32) -> Vec<u8> {
    let payload: Vec<u8> = (0..bytes).map(|at| (at * 13 + at / 256) as u8).collect();
    let segment = Segment { flags, sequence, acknowledgment: 5_001, payload: &payload };
    let mut frame = tcp(client, server, (port, 80), segment);
    let field = 14 + if client.contains(':') { 40 } else { 20 } + 16;
    frame[field..field + 2].copy_from_slice(&[0x12, 0x34]);
    frame
}

fn whole(it: &mut Harness, bytes: &[u8], size: u16) -> Packet {
    let mut packet = it.pool.take_large().unwrap();
    packet.extend(bytes.len()).unwrap().copy_from_slice(bytes);
    packet.set_gso(Gso { kind: if bytes[12] == 0x86 { 4 } else { 1 }, size });
    packet
}

fn pieces(it: &mut Harness, frame: Packet) -> Vec<Vec<u8>> {
    let mut pieces = Pieces::of(frame).unwrap();
    let mut all = Vec::new();
    while let Some(piece) = pieces.next(&mut it.pool) {
        let piece = piece.unwrap();
        assert_eq!(verify_checksums(piece.bytes()), ChecksumVerdict::Good);
        all.push(piece.bytes().to_vec());
        it.pool.put(piece);
    }
    it.pool.put(pieces.into_frame());
    all
}

/// Takes frames through the chain in one burst. What left, cut where it is whole, and how many frames left whole.
fn carry(it: &mut Harness, port: u16, frames: &[(Vec<u8>, u16)]) -> (Sent, usize) {
    let mut burst = Burst::new();
    for (bytes, size) in frames {
        let packet = whole(it, bytes, *size);
        burst.push(packet).unwrap();
    }
    it.engine.process(PortId(port), &mut burst, &mut it.pool, it.now);
    it.engine.run_stages(&mut it.pool, it.now);
    let (mut sent, mut count) = (Sent::new(), 0);
    for port in 0..it.ports {
        loop {
            let mut left = Burst::new();
            left.append(it.engine.outputs.burst(PortId(port)).unwrap());
            for packet in left.drain_all() {
                if packet.is_whole() {
                    count += 1;
                    sent.extend(pieces(it, packet).into_iter().map(|bytes| (port, bytes)));
                } else {
                    sent.push((port, packet.bytes().to_vec()));
                    it.pool.put(packet);
                }
            }
            if !it.engine.outputs.refill(PortId(port)) {
                break;
            }
        }
    }
    (sent, count)
}

/// The same to a chain whose port cuts them.
fn carry_cut(it: &mut Harness, port: u16, frames: &[(Vec<u8>, u16)]) -> Sent {
    let mut sent = Sent::new();
    for (bytes, size) in frames {
        let packet = whole(it, bytes, *size);
        for chunk in pieces(it, packet).chunks(64) {
            sent.extend(it.send(port, chunk));
        }
    }
    sent
}

/// Two chains that differ in who cuts, and whose packets must not.
struct Twins {
    whole: Harness,
    cut: Harness,
    frames: u64,
}

impl Twins {
    fn new() -> Self {
        Self { whole: harness(), cut: harness(), frames: 0 }
    }

    fn open(&mut self, client: &str, server: &str, port: u16) -> (String, u16) {
        let end = open(&mut self.whole, client, server, port);
        assert_eq!(open(&mut self.cut, client, server, port), end);
        end
    }

    /// Frames to both; what leaves must be the same. Returns the packets that left, and how many frames left whole.
    fn carry(&mut self, port: u16, frames: &[(Vec<u8>, u16)]) -> (usize, usize) {
        self.frames += frames.len() as u64;
        let (sent, count) = carry(&mut self.whole, port, frames);
        let expected = carry_cut(&mut self.cut, port, frames);
        assert_eq!(sent.len(), expected.len());
        let other = sent.iter().zip(&expected).position(|(one, other)| one != other);
        assert_eq!(other, None, "the first packet that differs");
        (sent.len(), count)
    }

    fn drops(&self, reason: DropReason) -> u64 {
        assert_eq!(self.whole.drops(reason), self.cut.drops(reason), "{reason:?}");
        self.whole.drops(reason)
    }

    /// R13, and all frames are back; both chains know the same traffic.
    fn finish(self) {
        let Self { mut whole, mut cut, .. } = self;
        for it in [&mut whole, &mut cut] {
            assert_eq!(it.pool.large_frames(), (LARGE, LARGE));
            it.fold();
        }
        let sums = [&whole, &cut].map(|it| it.engine.outputs.sums.clone());
        assert_eq!(sums[0].drops, sums[1].drops);
        whole.finish();
        cut.finish();
    }
}

#[test]
fn a_hit_carries_a_frame_whole() {
    let mut it = Twins::new();
    for (client, server, port) in [(CLIENT, SERVER, 4_000), (CLIENT6, SERVER6, 4_001)] {
        let (end, end_port) = it.open(client, server, port);
        let before = it.whole.counters();
        // What an IPv4 header's 20 bytes and TCP's leave of 1,500, and less for IPv6.
        let size = if client == CLIENT { 1_460 } else { 1_440 };
        let frames = [
            (frame(client, server, port, "A", 20_000, 1_001), size),
            (frame(client, server, port, "AP", 30_000, 21_001), size),
        ];
        assert_eq!(it.carry(INSIDE, &frames), (14 + 21, 2));
        // And back, where both ends are the NAT's to translate.
        let mut back = frame(server, &end, end_port, "A", 40_000, 5_001);
        let tcp = 14 + if client == CLIENT { 20 } else { 40 };
        back[tcp..tcp + 4].copy_from_slice(&[0, 80, (end_port >> 8) as u8, end_port as u8]);
        back[tcp + 8..tcp + 12].copy_from_slice(&51_001u32.to_be_bytes());
        assert_eq!(it.carry(OUTSIDE, &[(back, size)]), (40_000usize.div_ceil(size.into()), 1));
        let after = it.whole.counters();
        assert_eq!((after.hits - before.hits, after.misses, after.alone), (3, before.misses, before.alone));
    }
    let sums = &it.whole.engine.outputs.sums;
    assert_eq!((sums.copied, sums.drops.total()), (0, 0));
    it.finish();
}

#[test]
fn what_one_packet_may_not_do_none_of_a_frame_does() {
    let mut it = Twins::new();
    for port in 4_000..4_006 {
        it.open(CLIENT, SERVER, port);
    }
    // Packets of 1,501 bytes.
    let long = frame(CLIENT, SERVER, 4_000, "A", 20_000, 1_001);
    assert_eq!(it.carry(INSIDE, &[(long, 1_461)]).1, 0);
    assert!(it.drops(DropReason::MtuExceeded) > 0);
    // The last hop.
    let mut late = frame(CLIENT, SERVER, 4_001, "A", 20_000, 1_001);
    late[22] = 1;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&late[14..]).unwrap().to_header();
    late[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    assert_eq!(it.carry(INSIDE, &[(late, 1_460)]), (0, 0));
    assert!(it.drops(DropReason::TtlExceeded) > 0);
    // The end of a stream is for the tracker: the frame is cut, and its last packet says so.
    let last = frame(CLIENT, SERVER, 4_002, "AFP", 20_000, 1_001);
    assert_eq!(it.carry(INSIDE, &[(last, 1_460)]), (14, 0));
    // No connection.
    let stray = frame(CLIENT, SERVER, 5_000, "A", 20_000, 1_001);
    assert_eq!(it.carry(INSIDE, &[(stray, 1_460)]), (0, 0));
    assert_eq!(it.drops(DropReason::TcpInvalid), 14);
    // Half of it lies beyond the window.
    let far = frame(CLIENT, SERVER, 4_003, "A", 60_000, 1_001 + 30_000);
    let (sent, count) = it.carry(INSIDE, &[(far, 1_460)]);
    assert!((1..42).contains(&sent) && count == 0, "{sent}");
    assert!(it.drops(DropReason::TcpInvalid) > 14);
    // Behind all that, what is as usual is carried whole, in its place.
    let frames = [
        (frame(CLIENT, SERVER, 4_004, "A", 10_000, 1_001), 1_400),
        (frame(CLIENT, SERVER, 4_004, "A", 10_000, 11_001), 1_461),
        (frame(CLIENT, SERVER, 4_004, "A", 10_000, 11_001), 1_400),
    ];
    // Of the second, seven packets, the last one is short enough.
    assert_eq!(it.carry(INSIDE, &frames), (8 + 1 + 8, 2));
    it.finish();
}

/// Frames of two packets, no longer than one may be: their second packets lie beyond the window earlier than the first ones.
#[test]
fn the_packets_of_a_short_frame_are_each_held_against_the_window() {
    let mut it = Twins::new();
    it.open(CLIENT, SERVER, 4_000);
    let (mut parted, mut refused) = (0, 0);
    for at in 0..300 {
        let short = frame(CLIENT, SERVER, 4_000, "A", 2 * 536, 1_001 + at * 500);
        match it.carry(INSIDE, &[(short, 536)]) {
            (2, count) => assert_eq!((count, parted + refused), (1, 0)),
            (1, 0) => parted += 1,
            other => {
                assert_eq!(other, (0, 0));
                refused += 1;
            }
        }
    }
    assert!(parted > 0 && refused > 0, "{parted} parted, {refused} refused");
    it.finish();
}

/// The checksum of a frame is written when it leaves, so there is none to verify before.
#[test]
fn where_all_checksums_are_verified_frames_are_carried_whole() {
    let budget = BudgetConfig::UNLIMITED;
    let config = EngineConfig { verify: Verify::All, budget, ..EngineConfig::default() };
    let mut it = harness_with(config, LARGE);
    for (client, server, port, size) in [(CLIENT, SERVER, 4_000, 1_460), (CLIENT6, SERVER6, 4_001, 1_440)] {
        open(&mut it, client, server, port);
        let large = frame(client, server, port, "A", 10 * usize::from(size), 1_001);
        let (sent, count) = carry(&mut it, INSIDE, &[(large, size)]);
        assert_eq!((sent.len(), count), (10, 1));
        // Of a packet they are.
        let wrong = frame(client, server, port, "A", 100, 1_001 + 10 * u32::from(size));
        assert!(it.send_one(INSIDE, &wrong).is_empty());
    }
    assert_eq!(it.drops(DropReason::BadL4Checksum), 2);
    it.finish();
}

/// R12: as many frames as come in a turn are a full burst, beside which walks get their share.
#[test]
fn whole_frames_are_protected_from_floods() {
    let budget = BudgetConfig { share_percent: 20, burst_nanos: 10_000 };
    let mut it = harness_with(EngineConfig { budget, ..EngineConfig::default() }, LARGE_FRAMES_TURN);
    open(&mut it, CLIENT, SERVER, 4_000);
    let mut next = 1_001;
    for turn in 0..60 {
        let mut frames = Vec::new();
        for at in 0..LARGE_FRAMES_TURN as u32 {
            // In the end, three of four are of connections that nobody knows.
            if turn == 59 && at % 4 > 0 {
                frames.push((frame(CLIENT, SERVER, 5_000 + at as u16, "A", 20_000, 1), 1_000));
            } else {
                frames.push((frame(CLIENT, SERVER, 4_000, "A", 50, next), 25));
                next += 50;
            }
        }
        assert_eq!(it.drops(DropReason::MissBudget), 0);
        carry(&mut it, INSIDE, &frames);
    }
    let dropped = it.drops(DropReason::MissBudget);
    assert!((60..6 * 20).contains(&dropped), "{dropped} of 120");
    it.finish();
}

/// Whatever falls out of the cache walks as packets do, and the frames behind it are carried again.
#[test]
fn a_frame_whose_entry_fell_is_cut_and_renews_it() {
    let mut it = Twins::new();
    it.open(CLIENT, SERVER, 4_000);
    for it in [&mut it.whole, &mut it.cut] {
        let engine = &mut it.engine;
        engine.state.flush();
        engine.settle();
    }
    let at = |from: u32| (frame(CLIENT, SERVER, 4_000, "A", 10_000, from), 1_000);
    assert_eq!(it.carry(INSIDE, &[at(1_001), at(11_001), at(21_001)]), (30, 2));
    assert_eq!(it.whole.engine.outputs.sums.copied, 9);
    it.finish();
}

#[test]
fn packets_of_a_frame_that_find_no_buffer_are_counted() {
    let mut it = harness();
    open(&mut it, CLIENT, SERVER, 4_000);
    it.engine.state.flush();
    it.engine.settle();
    let mut held = Vec::new();
    while it.pool.available() > 5 {
        held.extend(it.pool.take());
    }
    let bytes = frame(CLIENT, SERVER, 4_000, "A", 20_000, 1_001);
    let (sent, count) = carry(&mut it, INSIDE, &[(bytes, 1_000)]);
    assert_eq!((sent.len(), count), (5, 0));
    assert_eq!((it.drops(DropReason::PoolExhausted), it.engine.outputs.sums.copied), (15, 19));
    held.into_iter().for_each(|packet| it.pool.put(packet));
    assert_eq!(it.pool.large_frames(), (LARGE, LARGE));
    it.finish();
}

/// As many packets as a port delivers whole, more than an output's burst.
#[test]
fn many_packets_of_a_frame_wait_in_order() {
    let mut it = Twins::new();
    it.open(CLIENT, SERVER, 4_000);
    let bytes = LARGE_PACKETS_MAX * 300;
    let late = frame(CLIENT, SERVER, 4_000, "AF", bytes, 1_001);
    assert_eq!(it.carry(INSIDE, &[(late, 300)]), (LARGE_PACKETS_MAX, 0));
    it.finish();
}

/// Wants one packet, and notes what it was and what became of it.
struct Once(Arc<Mutex<Vec<(usize, Foreseen, u64)>>>);

impl Observer<Chains> for Once {
    fn first_wanted(&mut self, _port: PortId, _packets: &[Packet], _now: Time) -> Option<usize> {
        Some(0)
    }
    fn before(&mut self, _slow: &mut Chains, _state: &FlowState, packet: &Observed<'_>) {
        self.0.lock().unwrap().push((packet.bytes.len(), packet.foreseen.as_ref().unwrap().0, 0));
    }
    fn after(&mut self, outcome: Outcome) {
        self.0.lock().unwrap()[0].2 = outcome.counters[1].hits - outcome.counters[0].hits;
    }
    fn is_done(&self) -> bool {
        !self.0.lock().unwrap().is_empty()
    }
}

/// Who follows a packet sees one as a wire has it, and the cache's answer to that; the next frame is carried whole again.
#[test]
fn a_frame_that_is_followed_is_cut() {
    let mut it = Twins::new();
    it.open(CLIENT, SERVER, 4_000);
    let seen = Arc::new(Mutex::new(Vec::new()));
    it.whole.engine.observe(Some(Box::new(Once(Arc::clone(&seen)))));
    let at = |from: u32| (frame(CLIENT, SERVER, 4_000, "A", 10_000, from), 1_000);
    assert_eq!(it.carry(INSIDE, &[at(1_001), at(11_001)]), (20, 1));
    assert_eq!(*seen.lock().unwrap(), [(14 + 40 + 1_000, Foreseen::Hit, 1)]);
    assert_eq!(it.whole.engine.outputs.sums.copied, 9);
    it.finish();
}
