//! Programs replayed on packets that differ from the one they were compiled from in every bit outside the key (R4), and what
//! they compute for each packet: lengths, ECN, checksums, sequence numbers. Results are held against checksums from scratch.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::flow::field::{Field, Reads};
use millrace_dataplane::flow::key::{KEY_WORDS_MAX, KeySchema, NARROW_WORDS};
use millrace_dataplane::flow::program::{Program, ProgramBuilder, RecipeKey};
use millrace_dataplane::flow::replay::{blend, replay};
use millrace_dataplane::flow::template::{Fixup, IMAGE_WORDS, Templates};
use millrace_dataplane::memory::{Arena, Pool, PoolConfig};
use millrace_dataplane::outputs::Outputs;
use millrace_dataplane::packet::parse::parse;
use millrace_dataplane::packet::{Layout, Shape, Verify};
use millrace_dataplane::port::PortId;
use proptest::prelude::*;

const OUT: PortId = PortId(0);

/// Replays `program` on `frame`: what left by ports 0 and 1, or why it was dropped.
fn run(program: &Program, frame: &[u8]) -> [Vec<Vec<u8>>; 2] {
    let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(16)).unwrap();
    let mut outputs = Outputs::new(2);
    let mut packet = pool.take().unwrap();
    packet.set_contents(frame).unwrap();
    outputs.sums.received = 1;
    let deltas = (program.l3_delta, program.l4_delta);
    replay(&program.template, &program.operands, deltas, packet, &mut pool, &mut outputs);
    assert_eq!(outputs.sums.balance(), 0, "R13");
    let sent = [0, 1].map(|port| {
        let burst = outputs.burst(PortId(port)).unwrap();
        let sent = burst.iter().map(|packet| packet.bytes().to_vec()).collect();
        pool.put_all(burst);
        sent
    });
    assert_eq!(pool.available(), pool.capacity());
    sent
}

fn layout(frame: &[u8]) -> Layout {
    parse(frame, Verify::None).unwrap()
}

/// The one packet that left.
fn only(program: &Program, frame: &[u8]) -> Vec<u8> {
    let [mut sent, other] = run(program, frame);
    assert_eq!((sent.len(), other.len()), (1, 0));
    sent.remove(0)
}

fn udp(v6: bool, ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    if v6 { start.ipv6([0x20; 16], [0x30; 16], ttl) } else { start.ipv4([10, 0, 0, 1], [8, 8, 8, 8], ttl) }
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn tcp(v6: bool, sequence: u32, acknowledgment: u32, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    if v6 { start.ipv6([0x20; 16], [0x30; 16], 64) } else { start.ipv4([10, 0, 0, 1], [8, 8, 8, 8], 64) }
        .tcp(1000, 80, sequence, 5000)
        .ack(acknowledgment)
        .options_raw(options)
        .unwrap()
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// The checksums of a frame are what etherparse computes from scratch.
fn checksums_are_right(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let addresses = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.to_vec(), header.destination.to_vec())
        }
        etherparse::NetSlice::Ipv6(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
        other => panic!("no IP: {other:?}"),
    };
    let v4 = addresses.0.len() == 4;
    let four = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).unwrap();
    let sixteen = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).unwrap();
    match sliced.transport.unwrap() {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let expected = if v4 {
                header.calc_checksum_ipv4_raw(four(&addresses.0), four(&addresses.1), udp.payload())
            } else {
                header.calc_checksum_ipv6_raw(sixteen(&addresses.0), sixteen(&addresses.1), udp.payload())
            };
            assert_eq!(header.checksum, expected.unwrap());
        }
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let expected = if v4 {
                header.calc_checksum_ipv4_raw(four(&addresses.0), four(&addresses.1), tcp.payload())
            } else {
                header.calc_checksum_ipv6_raw(sixteen(&addresses.0), sixteen(&addresses.1), tcp.payload())
            };
            assert_eq!(header.checksum, expected.unwrap());
        }
        other => panic!("unexpected {other:?}"),
    }
}

/// Fields of IP and transport that a checksum covers or that lie beside one.
const SETTABLE: [Field; 14] = [
    Field::EthernetDestination,
    Field::EthernetSource,
    Field::Ipv4Source,
    Field::Ipv4Destination,
    Field::Ipv6Source,
    Field::Ipv6Destination,
    Field::Dscp,
    Field::Ecn,
    Field::FlowLabel,
    Field::SourcePort,
    Field::DestinationPort,
    Field::TcpSequence,
    Field::TcpAcknowledgment,
    Field::TcpWindow,
];

/// Those, and what a usual program may set beside.
const EDITABLE: [Field; 20] = {
    let mut fields = [Field::Ttl; 20];
    let mut at = 0;
    while at < SETTABLE.len() {
        fields[at] = SETTABLE[at];
        at += 1;
    }
    (fields[14], fields[15], fields[16]) = (Field::VlanOuter, Field::VlanInner, Field::TcpFlags);
    (fields[17], fields[18]) = (Field::IcmpIdentifier, Field::Protocol);
    fields
};

fn echo(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [8, 8, 8, 8], 64)
        .icmpv4_echo_reply(1, 2)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// The value that a field of `frame` has.
fn value(field: Field, frame: &[u8]) -> Option<u128> {
    let layout = layout(frame);
    let location = field.locate(layout.shape, layout.l3.into(), layout.l4.into())?;
    let bytes = &frame[location.offset..location.offset + location.bytes];
    let all = bytes.iter().fold(0u128, |value, &byte| value << 8 | u128::from(byte));
    Some((all & location.mask) >> location.shift())
}

/// A packet whose key is that of `frame`, while all else differs: payload, identification, TTL, ECN, numbers.
fn twin(frame: &[u8], is_tcp: bool, v6: bool, keyed: &[Field], noise: u32, payload: &[u8]) -> Vec<u8> {
    let mut twin = if is_tcp {
        tcp(v6, noise, !noise, &[], payload)
    } else {
        udp(v6, (9, 10), noise as u8 | 2, payload)
    };
    let mut builder_fields: Vec<(Field, u128)> = SETTABLE
        .iter()
        .filter(|field| !keyed.contains(field))
        .map(|&f| (f, u128::from(noise) * 7919))
        .collect();
    builder_fields.extend(keyed.iter().filter_map(|&field| Some((field, value(field, frame)?))));
    let at = layout(&twin);
    for (field, value) in builder_fields {
        if let Some(location) = field.locate(at.shape, at.l3.into(), at.l4.into()) {
            for i in 0..location.bytes {
                let shift = 8 * (location.bytes - 1 - i);
                let mask = (location.mask >> shift) as u8;
                let byte = ((value << location.shift()) >> shift) as u8;
                let target = &mut twin[location.offset + i];
                *target = *target & !mask | byte & mask;
            }
        }
    }
    fix(&mut twin);
    twin
}

/// Checksums from scratch, written by this test's own loop.
fn fix(frame: &mut [u8]) {
    let at = layout(frame);
    let (l3, l4, end) = (usize::from(at.l3), usize::from(at.l4), usize::from(at.end));
    let v4 = frame[l3] >> 4 == 4;
    let sum = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0))).sum()
    };
    let finish = |mut sum: u64| {
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    if v4 {
        frame[l3 + 10..l3 + 12].fill(0);
        let checksum = finish(sum(&frame[l3..l4]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    let (protocol, addresses) =
        if v4 { (frame[l3 + 9], l3 + 12..l3 + 20) } else { (frame[l3 + 6], l3 + 8..l3 + 40) };
    let field = l4 + if protocol == 6 { 16 } else { 6 };
    frame[field..field + 2].fill(0);
    let total = sum(&frame[addresses]) + u64::from(protocol) + (end - l4) as u64 + sum(&frame[l4..end]);
    let checksum = match finish(total) {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// R1, R4: what was set is set in every packet of the key, nothing else changes, and checksums stay right.
    #[test]
    fn sets_hold_for_every_packet_of_the_key(
        is_tcp: bool, v6: bool, keyed in proptest::sample::subsequence(&SETTABLE[..], 0..14),
        edits in proptest::collection::vec((proptest::sample::select(&SETTABLE[..]), any::<u128>()), 1..8),
        decrement: bool, noise: u32, payload in proptest::collection::vec(any::<u8>(), 0..90),
    ) {
        let first = if is_tcp { tcp(v6, 1, 2, &[], b"first") } else { udp(v6, (1000, 53), 64, b"first") };
        let schema = KeySchema::new(PortId(3), 1, Reads::none().with(&keyed));
        let gather = schema.gather(layout(&first).shape).unwrap();
        let mut program = Program::default();
        let mut builder = ProgramBuilder::new(&mut program, &first, layout(&first), Some(gather));
        for &(field, value) in &edits {
            builder.set(field, value);
        }
        if decrement {
            builder.decrement_ttl();
        }
        builder.output(OUT);
        let program = builder.finish().unwrap();
        let other = twin(&first, is_tcp, v6, &keyed, noise, &payload);
        let (mut key, mut same) = ([0; KEY_WORDS_MAX], [0; KEY_WORDS_MAX]);
        gather.gather(&first, &mut key);
        gather.gather(&other, &mut same);
        prop_assert_eq!(key, same, "the twin is of another flow");
        for frame in [&first, &other] {
            let sent = only(program, frame);
            checksums_are_right(&sent);
            prop_assert_eq!(sent.len(), frame.len());
            for field in SETTABLE {
                let Some(before) = value(field, frame) else { continue };
                let at = layout(frame);
                let location = field.locate(at.shape, at.l3.into(), at.l4.into()).unwrap();
                let width = location.mask >> location.shift();
                let expected = edits.iter().rev().find(|(f, _)| *f == field).map_or(before, |(_, v)| v & width);
                prop_assert_eq!(value(field, &sent), Some(expected), "{:?}", field);
            }
            let ttl = value(Field::Ttl, frame).unwrap() - u128::from(decrement);
            prop_assert_eq!(value(Field::Ttl, &sent), Some(ttl));
            let l4 = usize::from(layout(frame).l4) + if is_tcp { 20 } else { 8 };
            prop_assert_eq!(&sent[l4..], &frame[l4..]);
        }
    }

    /// R1: a TTL that is set and decremented is so in this order, in every packet of the key.
    #[test]
    fn a_ttl_is_edited_in_order(
        v6: bool, keyed: bool, edits in proptest::collection::vec(proptest::option::of(6u8..), 1..6), other in 6u8..,
    ) {
        let first = udp(v6, (1000, 53), 64, b"payload");
        let reads = if keyed { Reads::none().with(&[Field::Ttl]) } else { Reads::none() };
        let schema = KeySchema::new(PortId(3), 1, reads);
        let mut program = Program::default();
        let gather = schema.gather(layout(&first).shape);
        let mut builder = ProgramBuilder::new(&mut program, &first, layout(&first), gather);
        for edit in &edits {
            match edit {
                Some(ttl) => builder.set(Field::Ttl, u128::from(*ttl)),
                None => builder.decrement_ttl(),
            };
        }
        builder.output(OUT);
        builder.finish().unwrap();
        for ttl in [64, if keyed { 64 } else { other }] {
            let sent = only(&program, &udp(v6, (1000, 53), ttl, b"payload"));
            checksums_are_right(&sent);
            let expected = edits.iter().fold(ttl, |ttl, edit| edit.unwrap_or_else(|| ttl.wrapping_sub(1)));
            prop_assert_eq!(value(Field::Ttl, &sent), Some(expected.into()));
        }
    }

    /// R4: the usual form of the replay does what the general one does, whatever lies behind the packet, and touches nothing there.
    #[test]
    fn a_blend_is_the_replay(
        kind in 0usize..3, v6: bool, tags in 0usize..3,
        keyed in prop_oneof![Just(EDITABLE.to_vec()), proptest::sample::subsequence(&EDITABLE[..], 0..EDITABLE.len())],
        edits in proptest::collection::vec((proptest::sample::select(&EDITABLE[..]), any::<u128>()), 0..8),
        decrement in 0usize..9, ttl in 1u8.., no_checksum: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..60), left: [u8; 64],
    ) {
        let mut frame = match kind {
            0 => udp(v6, (1000, 53), ttl, &payload),
            1 => tcp(v6, 1, 2, &[], &payload),
            _ => echo(&payload),
        };
        if no_checksum && kind == 0 && !v6 {
            frame[40..42].fill(0);
        }
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0, 0, 7]);
        }
        let at = layout(&frame);
        let schema = KeySchema::new(PortId(3), 1, Reads::none().with(&keyed));
        let mut program = Program::default();
        let mut builder = ProgramBuilder::new(&mut program, &frame, at, schema.gather(at.shape));
        for (index, &(field, value)) in edits.iter().enumerate() {
            if index == decrement {
                builder.decrement_ttl();
            }
            builder.set(field, value);
        }
        builder.output(OUT);
        builder.finish().unwrap();
        let mut templates = Templates::default();
        let id = templates.intern(&program.template).unwrap();
        let usual = templates.usual(id).unwrap();
        if usual.port != OUT || at.ttl < program.template.ttl_min {
            return Ok(());
        }
        let expected = only(&program, &frame);
        // Without an image, what lies in its place is of an earlier entry.
        let mut image: [u64; IMAGE_WORDS] =
            program.operands.first_chunk().copied().unwrap_or([0x5a5a_5a5a_5a5a_5a5a; IMAGE_WORDS]);
        if usual.narrow {
            image[NARROW_WORDS..].fill(0x5a5a_5a5a_5a5a_5a5a);
        }
        let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(16)).unwrap();
        let mut packet = pool.take().unwrap();
        packet.set_contents(&[&frame[..], &left].concat()).unwrap();
        packet.truncate(frame.len());
        let mut halves = image.as_chunks().0.iter();
        let mut half = || halves.next().unwrap();
        let image = (half(), half());
        prop_assert!(blend(usual, image, (program.l3_delta, program.l4_delta), packet.reach_mut(), frame.len()));
        prop_assert_eq!(packet.bytes(), &expected[..]);
        prop_assert_eq!(&packet.reach_mut()[frame.len()..][..64], &left);
        pool.put(packet);
    }

    /// A program that is refilled for a packet of another flow is the one that would be built for it. That goes where values
    /// alone tell the programs apart: what a checksum covers is keyed.
    #[test]
    fn a_refilled_program_is_as_if_built(
        is_tcp: bool, v6: bool, keyed in proptest::sample::subsequence(&SETTABLE[..], 0..14),
        fields in proptest::sample::subsequence(&SETTABLE[..], 1..9).prop_shuffle(),
        values: [[u128; 8]; 2], decrement: bool, noise: u32,
    ) {
        let first = if is_tcp { tcp(v6, 1, 2, &[], b"first") } else { udp(v6, (1000, 53), 64, b"first") };
        let second = twin(&first, is_tcp, v6, &[], noise, b"second");
        let at = layout(&first);
        let schema = KeySchema::new(PortId(3), 1, Reads::none().with(&keyed));
        let gather = schema.gather(at.shape).unwrap();
        let key = RecipeKey { gather: gather.identity(), edits: 1, rest: 2 };
        let build = |frame: &[u8], values: &[u128]| {
            let mut program = Program::default();
            let mut builder = ProgramBuilder::new(&mut program, frame, layout(frame), Some(gather));
            for (&field, &value) in fields.iter().zip(values) {
                builder.set(field, value);
            }
            if decrement {
                builder.decrement_ttl();
            }
            builder.output(OUT);
            builder.finish_as(Some(key)).unwrap();
            program
        };
        let mut program = build(&first, &values[0]);
        let other = RecipeKey { rest: 3, ..key };
        prop_assert!(!program.refill(&other, &second, values[1].into_iter()));
        let tells = |field: &Field| {
            let coverage = field.coverage(at.shape);
            let is_there = field.locate(at.shape, at.l3.into(), at.l4.into()).is_some();
            is_there && (!(coverage.l3 || coverage.l4) || keyed.contains(field))
        };
        let refills = program.refill(&key, &second, values[1].into_iter());
        prop_assert_eq!(refills, fields.iter().all(tells));
        if refills {
            prop_assert_eq!(program, build(&second, &values[1]));
        }
    }

    /// Sequence numbers, acknowledgments and SACK blocks at any offset move; the checksum follows.
    #[test]
    fn numbers_shift_with_selective_acknowledgments(
        v6: bool, lead in 0usize..4, edges: [u32; 4], numbers: (u32, u32), deltas: (u32, u32),
        payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut options = vec![1; lead];
        options.extend([5, 18]);
        edges.iter().for_each(|edge| options.extend(edge.to_be_bytes()));
        options.resize(options.len().next_multiple_of(4), 0);
        let frame = tcp(v6, numbers.0, numbers.1, &options, &payload);
        let at = layout(&frame);
        let mut program = Program::default();
        let mut builder = ProgramBuilder::new(&mut program, &frame, at, None);
        builder.shift_sequence(deltas.0).shift_acknowledgment(deltas.1).output(OUT);
        let sent = only(builder.finish().unwrap(), &frame);
        checksums_are_right(&sent);
        let word = |at: usize| u32::from_be_bytes(sent[at..at + 4].try_into().unwrap());
        let l4 = usize::from(at.l4);
        prop_assert_eq!(word(l4 + 4), numbers.0.wrapping_add(deltas.0));
        prop_assert_eq!(word(l4 + 8), numbers.1.wrapping_add(deltas.1));
        for (i, edge) in edges.iter().enumerate() {
            prop_assert_eq!(word(l4 + 20 + lead + 2 + 4 * i), edge.wrapping_add(deltas.1));
        }
    }

    /// A datagram without a checksum leaves without one (RFC 768), whatever is set.
    #[test]
    fn no_udp_checksum_stays_none(address: u32, port: u16, keyed: bool) {
        let mut frame = udp(false, (1000, 53), 64, b"payload");
        frame[40..42].fill(0);
        let reads = if keyed { Reads::none().with(&[Field::Ipv4Source, Field::SourcePort]) } else { Reads::none() };
        let schema = KeySchema::new(PortId(0), 1, reads);
        let mut program = Program::default();
        let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), schema.gather(layout(&frame).shape));
        builder.set(Field::Ipv4Source, address.into()).set(Field::SourcePort, port.into()).output(OUT);
        let sent = only(builder.finish().unwrap(), &frame);
        prop_assert_eq!(&sent[40..42], &[0, 0]);
    }
}

/// R11: copies that left are not touched by later edits.
#[test]
fn earlier_copies_are_untouched() {
    let frame = udp(false, (1000, 53), 64, b"payload");
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), None);
    builder.set(Field::DestinationPort, 1).output(PortId(1));
    builder.set(Field::DestinationPort, 2).set(Field::Ipv4Source, 0x0102_0304).output(PortId(0));
    builder.set(Field::SourcePort, 3).output(PortId(1));
    let [zero, one] = run(builder.finish().unwrap(), &frame);
    zero.iter().chain(&one).for_each(|sent| checksums_are_right(sent));
    let seen = |frame: &[u8]| {
        [Field::SourcePort, Field::DestinationPort, Field::Ipv4Source].map(|f| value(f, frame).unwrap())
    };
    assert_eq!(zero.iter().map(|f| seen(f)).collect::<Vec<_>>(), [[1000, 2, 0x0102_0304]]);
    assert_eq!(
        one.iter().map(|f| seen(f)).collect::<Vec<_>>(),
        [[1000, 1, 0x0a00_0001], [3, 2, 0x0102_0304]]
    );
}

/// R1: decrements add up, and the guard asks for as many hops.
#[test]
fn two_decrements_are_two() {
    let frame = udp(false, (1000, 53), 64, b"payload");
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), None);
    builder.decrement_ttl().decrement_ttl().output(OUT);
    let program = builder.finish().unwrap();
    let sent = only(program, &frame);
    checksums_are_right(&sent);
    assert_eq!((sent[22], program.template.ttl_min), (62, 3));
}

/// An outer header of a tunnel over UDP, without lengths and checksums.
fn outer(v6: bool, ecn: u8) -> Vec<u8> {
    let mut frame = udp(v6, (50_000, 4789), 64, &[8, 0, 0, 0, 0, 0, 7, 0]);
    if v6 {
        frame[15] |= ecn << 4;
    } else {
        frame[15] |= ecn;
    }
    frame
}

/// Tags and tunnel headers go on and come off; lengths, identification and checksums are computed for each packet, and the
/// inner code points are copied out (RFC 6040 section 4.1).
#[test]
fn tunnel_headers_are_pushed_and_popped() {
    for (v6, bytes) in [(false, 50), (true, 70)] {
        for payload in [0usize, 1, 700] {
            let mut inner = udp(false, (1000, 53), 64, &vec![7; payload]);
            inner[15] = 46 << 2 | 1;
            fix(&mut inner);
            let push = outer(v6, 0);
            assert_eq!(push.len(), bytes);
            let (ip, udp_at) = (14u16, if v6 { 54 } else { 34 });
            let mut fixups = vec![
                Fixup::Length { offset: if v6 { 18 } else { 16 }, less: if v6 { 54 } else { 14 } },
                Fixup::Length { offset: udp_at + 4, less: udp_at },
                Fixup::CopyTrafficClass { from: bytes as u16 + 14, to: ip },
            ];
            if !v6 {
                fixups.extend([Fixup::Ipv4Identification { offset: 18 }, Fixup::Ipv4Checksum { offset: ip }]);
            }
            fixups.push(Fixup::UdpChecksum { ip, udp: udp_at });
            let mut program = Program::default();
            let mut builder = ProgramBuilder::new(&mut program, &inner, layout(&inner), None);
            let after = layout(&push);
            builder.splice(0, 0, &push, &fixups, after).output(OUT);
            let sent = only(builder.finish().unwrap(), &inner);
            assert_eq!(&sent[bytes..], &inner[..]);
            checksums_are_right(&sent);
            assert_eq!((value(Field::Dscp, &sent), value(Field::Ecn, &sent)), (Some(46), Some(1)));
            // And off again.
            let mut program = Program::default();
            let mut builder = ProgramBuilder::new(&mut program, &sent, layout(&sent), None);
            builder.splice(0, bytes as u16, &[], &[], layout(&inner)).output(OUT);
            assert_eq!(only(builder.finish().unwrap(), &sent), inner);
        }
    }
}

/// A tag is pushed, rewritten around and popped.
#[test]
fn tags_are_pushed_and_popped() {
    let frame = udp(false, (1000, 53), 64, b"payload");
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), None);
    let tagged_layout = Layout {
        l3: 18,
        l4: 38,
        end: frame.len() as u16 + 4,
        shape: Shape::new(1, layout(&frame).shape.l3(), layout(&frame).shape.l4()),
        ..layout(&frame)
    };
    builder.splice(12, 0, &[0x81, 0, 0x20, 7], &[], tagged_layout).set(Field::SourcePort, 9).output(OUT);
    let tagged = only(builder.finish().unwrap(), &frame);
    assert_eq!(&tagged[12..18], &[0x81, 0, 0x20, 7, 8, 0]);
    checksums_are_right(&tagged);
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &tagged, layout(&tagged), None);
    builder.set(Field::SourcePort, 1000).splice(12, 4, &[], &[], layout(&frame)).output(OUT);
    assert_eq!(only(builder.finish().unwrap(), &tagged), frame);
}

/// RFC 6040 figure 4, all of it.
#[test]
fn ecn_is_combined_as_the_figure_says() {
    const DROP: u8 = 4;
    // Rows: inner Not-ECT, ECT(1), ECT(0), CE as numbers 0 to 3; columns: outer 0 to 3.
    let figure = [[0, 0, 0, DROP], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    for (inner_ecn, row) in figure.iter().enumerate() {
        for (outer_ecn, &expected) in row.iter().enumerate() {
            for v6 in [false, true] {
                let mut inner = udp(false, (1000, 53), 64, b"payload");
                inner[15] = 10 << 2 | inner_ecn as u8;
                fix(&mut inner);
                let outer = outer(v6, outer_ecn as u8);
                let frame = [outer.clone(), inner.clone()].concat();
                let mut program = Program::default();
                let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&outer), None);
                builder.combine_ecn(14, outer.len() as u16 + 14);
                builder.splice(0, outer.len() as u16, &[], &[], layout(&inner)).output(OUT);
                let program = builder.finish().unwrap();
                if expected == DROP {
                    assert_eq!(run(program, &frame), [Vec::<Vec<u8>>::new(), Vec::new()]);
                    continue;
                }
                let sent = only(program, &frame);
                checksums_are_right(&sent);
                assert_eq!(
                    value(Field::Ecn, &sent),
                    Some(expected.into()),
                    "inner {inner_ecn} outer {outer_ecn}"
                );
                assert_eq!(value(Field::Dscp, &sent), Some(10));
            }
        }
    }
}

/// Edits without an output, and pushes beyond the headroom, are drops with a reason.
#[test]
fn what_cannot_leave_is_dropped() {
    let frame = udp(false, (1000, 53), 64, b"payload");
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), None);
    builder.set(Field::SourcePort, 1);
    assert_eq!(run(builder.finish().unwrap(), &frame), [Vec::<Vec<u8>>::new(), Vec::new()]);
    let mut program = Program::default();
    let mut builder = ProgramBuilder::new(&mut program, &frame, layout(&frame), None);
    builder.output(OUT).drop_packet(DropReason::Blackhole);
    assert_eq!(run(builder.finish().unwrap(), &frame)[0].len(), 1);
}

/// Replays many programs on one pool.
struct Bench {
    pool: Pool,
    outputs: Outputs,
}

impl Bench {
    fn new() -> Self {
        let pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(16)).unwrap();
        Self { pool, outputs: Outputs::new(2) }
    }

    /// What `frame` becomes when `field` is set to `value`; `keyed`: by a program for all packets of the key.
    fn set(&mut self, frame: &[u8], field: Field, value: u128, keyed: Option<&KeySchema>) -> Vec<u8> {
        let (mut program, layout) = (Program::default(), layout(frame));
        let gather = keyed.and_then(|schema| schema.gather(layout.shape));
        let mut builder = ProgramBuilder::new(&mut program, frame, layout, gather);
        builder.set(field, value).output(OUT);
        let program = builder.finish().unwrap();
        let mut packet = self.pool.take().unwrap();
        packet.set_contents(frame).unwrap();
        let deltas = (program.l3_delta, program.l4_delta);
        replay(&program.template, &program.operands, deltas, packet, &mut self.pool, &mut self.outputs);
        let burst = self.outputs.burst(OUT).unwrap();
        let sent = burst.iter().next().unwrap().bytes().to_vec();
        self.pool.put_all(burst);
        sent
    }
}

/// RFC 1624 section 3: every identifier from every corner, held against a checksum from scratch. Among the results are the field
/// 0x0000 (the sum is all ones) and, where an echo reply is nothing but zeros, 0xffff.
#[test]
fn icmp_checksums_are_right_in_all_corners() {
    let schema = KeySchema::new(PortId(0), 1, Reads::none().with(&[Field::IcmpIdentifier, Field::IcmpType]));
    let mut bench = Bench::new();
    let mut seen = std::collections::HashSet::new();
    for (old, sequence, payload) in [
        (5u16, 0u16, &[0u8; 8][..]),
        (0, 0, &[]),
        (0, 0, &[0; 1400]),
        (0xffff, 0, &[0; 3]),
        (1, 0xfffe, &[0; 8]),
        (0x8000, 0x7fff, &[0xff; 64]),
    ] {
        let echo = etherparse::IcmpEchoHeader { id: old, seq: sequence };
        for kind in [etherparse::Icmpv4Type::EchoReply(echo), etherparse::Icmpv4Type::EchoRequest(echo)] {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [2; 6])
                .ipv4([10, 0, 0, 1], [8, 8, 8, 8], 64)
                .icmpv4(kind)
                .write(&mut frame, payload)
                .unwrap();
            // Padding is no part of it.
            frame.resize(frame.len().max(60), 0xaa);
            for new in 0..=u16::MAX {
                for keyed in [None, Some(&schema)] {
                    if keyed.is_some() && new % 251 > 4 && new > 16 && new < 0xfff0 {
                        continue;
                    }
                    let sent = bench.set(&frame, Field::IcmpIdentifier, u128::from(new), keyed);
                    let mut expected = frame.clone();
                    expected[38..40].copy_from_slice(&new.to_be_bytes());
                    let sliced =
                        etherparse::Icmpv4Slice::from_slice(&expected[34..42 + payload.len()]).unwrap();
                    let checksum = sliced.icmp_type().calc_checksum(payload);
                    expected[36..38].copy_from_slice(&checksum.to_be_bytes());
                    assert_eq!(sent, expected, "{old:#x} to {new:#x}, {} bytes", payload.len());
                    seen.insert(checksum);
                }
            }
        }
    }
    assert!(seen.contains(&0) && seen.contains(&0xffff));
}

/// The same for UDP, whose field is never zero when there is a checksum, and stays zero when there is none.
#[test]
fn udp_checksums_are_right_in_all_corners() {
    let schema = KeySchema::new(PortId(0), 1, Reads::none().with(&[Field::SourcePort]));
    let mut bench = Bench::new();
    for v6 in [false, true] {
        let mut ones = 0;
        let frame = udp(v6, (5, 53), 64, &[0; 4]);
        let start = if v6 { 54 } else { 34 };
        // The frame whose own field is all ones comes from the first pass.
        let mut corner = None;
        for new in 0..=u16::MAX {
            let keyed = (new % 2 == 0).then_some(&schema);
            let sent = bench.set(&frame, Field::SourcePort, u128::from(new), keyed);
            checksums_are_right(&sent);
            if sent[start + 6..start + 8] == [0xff, 0xff] {
                ones += 1;
                corner = Some(sent);
            }
        }
        assert_eq!(ones, 1);
        let corner = corner.unwrap();
        for new in 0..=u16::MAX {
            checksums_are_right(&bench.set(&corner, Field::SourcePort, u128::from(new), Some(&schema)));
        }
        let mut none = frame;
        none[start + 6..start + 8].fill(0);
        for new in [0, 1, 5, 0x7fff, 0xffff] {
            let sent = bench.set(&none, Field::SourcePort, new, None);
            assert_eq!(sent[start + 6..start + 8], [0, 0]);
        }
    }
}
