use super::*;
use crate::memory::{Arena, Pool, PoolConfig};
use crate::packet::Gso;
use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const ETHERNET: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// What a frame to be cut looks like.
#[derive(Clone, Debug)]
struct Shape {
    is_ipv6: bool,
    vlan: bool,
    ip_options: Vec<u8>,
    tcp_options: Vec<u8>,
    flags: u8,
    sequence: u32,
    identification: u16,
    dscp_ecn: u8,
    payload: Vec<u8>,
    size: u16,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let options = |most: usize| {
        proptest::collection::vec(any::<u8>(), 0..=most).prop_map(|mut bytes| {
            bytes.truncate(bytes.len() / 4 * 4);
            bytes
        })
    };
    let first = (any::<bool>(), any::<bool>(), options(40), options(40), any::<u8>(), any::<u32>());
    let rest = (any::<u16>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 1..20_000), 50u16..3_000);
    (first, rest).prop_map(|(first, rest)| {
        let (is_ipv6, vlan, ip_options, tcp_options, flags, sequence) = first;
        let (identification, dscp_ecn, payload, size) = rest;
        Shape {
            is_ipv6,
            vlan,
            ip_options,
            tcp_options,
            flags,
            sequence,
            identification,
            dscp_ecn,
            payload,
            size,
        }
    })
}

impl Shape {
    /// The frame as a kernel would hand it over, by the independent builder; with the transport's offset.
    fn frame(&self, transport: &[u8], protocol: IpNumber) -> (Vec<u8>, usize) {
        let mut frame = Vec::new();
        frame.extend_from_slice(&ETHERNET.1);
        frame.extend_from_slice(&ETHERNET.0);
        if self.vlan {
            frame.extend_from_slice(&[0x81, 0, 0x60, 7]);
        }
        if self.is_ipv6 {
            let ip = etherparse::Ipv6Header {
                traffic_class: self.dscp_ecn,
                flow_label: 77.try_into().unwrap(),
                payload_length: transport.len() as u16,
                next_header: protocol,
                hop_limit: 60,
                source: [0xfd; 16],
                destination: [0xfe; 16],
            };
            frame.extend_from_slice(&[0x86, 0xdd]);
            frame.extend_from_slice(&ip.to_bytes());
        } else {
            let mut ip = etherparse::Ipv4Header::new(
                transport.len() as u16,
                60,
                protocol,
                [10, 0, 0, 1],
                [10, 0, 0, 2],
            )
            .unwrap();
            ip.dscp = (self.dscp_ecn >> 2).try_into().unwrap();
            ip.ecn = (self.dscp_ecn & 3).try_into().unwrap();
            ip.identification = self.identification;
            ip.options = self.ip_options.as_slice().try_into().unwrap();
            ip.total_len = ip.header_len() as u16 + transport.len() as u16;
            ip.header_checksum = ip.calc_header_checksum();
            frame.extend_from_slice(&[8, 0]);
            frame.extend_from_slice(&ip.to_bytes());
        }
        let l4 = frame.len();
        frame.extend_from_slice(transport);
        (frame, l4)
    }

    fn tcp(&self) -> (Vec<u8>, VnetHeader) {
        let mut tcp = etherparse::TcpHeader::new(4_000, 80, self.sequence, 500);
        tcp.acknowledgment_number = 99;
        tcp.set_options_raw(&self.tcp_options).unwrap();
        let mut transport = tcp.to_bytes().to_vec();
        transport[13] = self.flags;
        transport.extend_from_slice(&self.payload);
        let (frame, l4) = self.frame(&transport, IpNumber::TCP);
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: if self.is_ipv6 { GSO_TCP6 } else { GSO_TCP4 }
                | if self.flags & 0x80 != 0 { GSO_ECN } else { 0 },
            header_bytes: 0,
            gso_size: self.size,
            checksum_start: l4 as u16,
            checksum_offset: 16,
        };
        (frame, header)
    }

    fn udp(&self) -> (Vec<u8>, VnetHeader) {
        let mut transport = vec![0x0f, 0xa0, 0, 53, 0, 0, 0, 0];
        transport.extend_from_slice(&self.payload);
        let (frame, l4) = self.frame(&transport, IpNumber::UDP);
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_UDP,
            header_bytes: 0,
            gso_size: self.size,
            checksum_start: l4 as u16,
            checksum_offset: 6,
        };
        (frame, header)
    }
}

fn cut(frame: &[u8], header: &VnetHeader) -> Result<Vec<Vec<u8>>, DropReason> {
    let kind = header.segmentation()?.unwrap();
    let mut cut = Cut::plan(frame, header, kind)?;
    let mut packets = Vec::new();
    while let Some(bytes) = cut.next_bytes() {
        let mut packet = vec![0xaa; bytes];
        cut.write_next(frame, &mut packet);
        packets.push(packet);
    }
    Ok(packets)
}

/// What translation does to a frame of either family: other addresses, another source port, a hop less. Written as the replay does it,
/// with updates that count on a whole checksum.
fn translate(frame: &mut [u8], l4: usize, field: usize, is_ipv6: bool, new: &[u8; 34]) {
    let (addresses, ttl) = if is_ipv6 {
        (l4 - 32..l4, l4 - 33)
    } else {
        let l3 = network_header_of(frame);
        (l3 + 12..l3 + 20, l3 + 8)
    };
    let mut set = |at: std::ops::Range<usize>, value: &[u8], is_covered: bool| {
        let old = checksum::sum(&frame[at.clone()]);
        frame[at].copy_from_slice(value);
        if is_covered {
            let before = u16::from_ne_bytes([frame[field], frame[field + 1]]);
            let after = checksum::apply(before, checksum::delta(old, checksum::sum(value)));
            frame[field..field + 2].copy_from_slice(&after.to_ne_bytes());
        }
    };
    let length = addresses.len();
    set(addresses, &new[..length], true);
    set(l4..l4 + 2, &new[32..], true);
    set(ttl..ttl + 1, &[59], false);
    if !is_ipv6 {
        let l3 = network_header_of(frame);
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[l3..l4]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_ne_bytes());
    }
}

fn network_header_of(frame: &[u8]) -> usize {
    segment::network_header(frame).unwrap().0
}

/// Checks lengths and checksums by the other library, and returns identification and payload.
fn checked(packet: &[u8]) -> (u16, TransportSlice<'_>, u8) {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let (identification, traffic) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            (header.identification(), header.dcp().value() << 2 | header.ecn().value())
        }
        NetSlice::Ipv6(ip) => (0, ip.header().traffic_class()),
        NetSlice::Arp(_) => panic!("no ARP was built"),
    };
    let transport = sliced.transport.unwrap();
    match (&transport, sliced.net.unwrap()) {
        (TransportSlice::Tcp(tcp), NetSlice::Ipv4(ip)) => assert_eq!(
            tcp.checksum(),
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
        ),
        (TransportSlice::Tcp(tcp), NetSlice::Ipv6(ip)) => assert_eq!(
            tcp.checksum(),
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
        ),
        (TransportSlice::Udp(udp), NetSlice::Ipv4(ip)) => {
            assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            let header = ip.header().to_header();
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
        }
        (TransportSlice::Udp(udp), NetSlice::Ipv6(ip)) => {
            assert_eq!(usize::from(udp.length()), 8 + udp.payload().len());
            let header = ip.header().to_header();
            assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap());
        }
        other => panic!("{other:?}"),
    }
    (identification, transport, traffic)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tcp_is_cut_as_the_other_library_reads_it(shape in shapes()) {
        let (frame, header) = shape.tcp();
        let packets = cut(&frame, &header).unwrap();
        let size = usize::from(shape.size);
        prop_assert_eq!(packets.len(), shape.payload.len().div_ceil(size));
        let mut payload = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            let is_last = index + 1 == packets.len();
            let (identification, transport, traffic) = checked(packet);
            let TransportSlice::Tcp(tcp) = transport else { panic!("no TCP") };
            if !shape.is_ipv6 {
                prop_assert_eq!(identification, shape.identification.wrapping_add(index as u16));
            }
            prop_assert_eq!(traffic, shape.dscp_ecn);
            prop_assert_eq!(tcp.sequence_number(), shape.sequence.wrapping_add(payload.len() as u32));
            prop_assert_eq!(tcp.options(), shape.tcp_options.as_slice());
            let mut flags = shape.flags;
            if !is_last { flags &= !0x09; }
            if index > 0 { flags &= !0x80; }
            let l4 = tcp.slice();
            prop_assert_eq!(l4[13], flags);
            prop_assert!(tcp.payload().len() == size || is_last);
            payload.extend_from_slice(tcp.payload());
            // Nothing in front of the IP header is touched.
            let link = if shape.vlan { 18 } else { 14 };
            prop_assert_eq!(&packet[..link], &frame[..link]);
        }
        prop_assert_eq!(payload, shape.payload);
    }

    #[test]
    fn udp_is_cut_into_datagrams(shape in shapes()) {
        let (frame, header) = shape.udp();
        let packets = cut(&frame, &header).unwrap();
        let mut payload = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            let (identification, transport, _) = checked(packet);
            let TransportSlice::Udp(udp) = transport else { panic!("no UDP") };
            if !shape.is_ipv6 {
                prop_assert_eq!(identification, shape.identification.wrapping_add(index as u16));
            }
            prop_assert!(udp.payload().len() == usize::from(shape.size) || index + 1 == packets.len());
            payload.extend_from_slice(udp.payload());
        }
        prop_assert_eq!(payload, shape.payload);
    }

    #[test]
    fn a_partial_checksum_is_completed(shape in shapes(), is_tcp: bool) {
        let shape = Shape { payload: shape.payload[..shape.payload.len().min(1_400)].to_vec(), ..shape };
        let (mut frame, header) = if is_tcp { shape.tcp() } else { shape.udp() };
        let header = VnetHeader { gso_type: 0, gso_size: 0, ..header };
        let l4 = usize::from(header.checksum_start);
        let field = l4 + usize::from(header.checksum_offset);
        let length = frame.len() - l4;
        if !is_tcp {
            frame[l4 + 4..l4 + 6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        let addresses = if shape.is_ipv6 { l4 - 32..l4 } else {
            let l3 = l4 - 20 - shape.ip_options.len();
            l3 + 12..l3 + 20
        };
        let pseudo = checksum::pseudo_header(&frame[addresses], if is_tcp { 6 } else { 17 }, length);
        frame[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
        finish_checksum(&mut frame, &header).unwrap();
        // A sum of zero is written as all ones, which means the same; the other library writes TCP's as zero.
        if frame[field..field + 2] != [0xff, 0xff] {
            checked(&frame);
        }
    }

    /// A frame is carried whole and translated on the way. What becomes of it is what would have become of its packets: cut by us, and
    /// cut and completed by a kernel, whose work the header and the sum of the pseudo-header are for.
    #[test]
    fn a_frame_that_was_translated_whole_is_cut_and_left_as_its_packets_would_be(
        shape in shapes(), is_tcp: bool, new: [u8; 32], port: [u8; 2],
    ) {
        let (mut frame, header) = if is_tcp { shape.tcp() } else { shape.udp() };
        let l4 = usize::from(header.checksum_start);
        let field = l4 + usize::from(header.checksum_offset);
        if !is_tcp {
            // It lies; nobody asks a frame that is cut.
            let length = ((frame.len() - l4) as u16).wrapping_add(9);
            frame[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes());
        }
        let mut values = [0; 34];
        values[..32].copy_from_slice(&new);
        values[32..].copy_from_slice(&port);
        let mut expected = cut(&frame, &header).unwrap();
        for packet in &mut expected {
            translate(packet, l4, field, shape.is_ipv6, &values);
            // Of what sums to zero an update makes what would say that a datagram has no checksum (RFC 768).
            if !is_tcp && packet[field..field + 2] == [0, 0] {
                packet[field..field + 2].fill(0xff);
            }
        }
        translate(&mut frame, l4, field, shape.is_ipv6, &values);
        let gso = Gso { kind: header.gso_type, size: header.gso_size };

        let mut plan = Cut::plan_whole(&frame, gso).unwrap();
        prop_assert_eq!(plan.count(), expected.len());
        prop_assert_eq!(plan.next_ip_bytes(), expected[0].len() - network_header_of(&frame));
        let mut packets = Vec::new();
        while let Some(bytes) = plan.next_bytes() {
            prop_assert_eq!(plan.count(), expected.len() - packets.len());
            let mut packet = vec![0xaa; bytes];
            plan.write_next(&frame, &mut packet);
            checked(&packet);
            packets.push(packet);
        }
        prop_assert_eq!(plan.count(), 0);
        prop_assert_eq!(&packets, &expected);

        let plan = Cut::plan_whole(&frame, gso).unwrap();
        plan.write_partial_checksum(&mut frame);
        if !is_tcp {
            prop_assert_eq!(&frame[l4 + 4..l4 + 6], &((frame.len() - l4) as u16).to_be_bytes()[..]);
        }
        let left = plan.header(gso);
        prop_assert_eq!(VnetHeader::parse(&left.to_bytes()), left);
        prop_assert_eq!(
            (left.checksum_start, left.checksum_offset, left.gso_size, left.gso_type, left.needs_checksum()),
            (header.checksum_start, header.checksum_offset, header.gso_size, header.gso_type, true)
        );
        prop_assert_eq!(usize::from(left.header_bytes), expected[0].len() - shape.payload.len().min(shape.size.into()));
        // A kernel goes by header and field alone.
        prop_assert_eq!(&cut(&frame, &left).unwrap(), &expected);
        let whole = VnetHeader { gso_type: 0, ..left };
        finish_checksum(&mut frame, &whole).unwrap();
        if frame[field..field + 2] != [0xff, 0xff] {
            checked(&frame);
        }
    }

    #[test]
    fn what_is_left_out_is_counted_like_what_is_cut(shape in shapes(), lost in 0usize..6) {
        let (frame, header) = shape.tcp();
        let gso = Gso { kind: header.gso_type, size: header.gso_size };
        let all = cut(&frame, &header).unwrap();
        let mut plan = Cut::plan_whole(&frame, gso).unwrap();
        for (at, expected) in all.iter().enumerate() {
            let bytes = plan.next_bytes().unwrap();
            if at == lost {
                plan.skip();
                continue;
            }
            let mut packet = vec![0; bytes];
            plan.write_next(&frame, &mut packet);
            prop_assert_eq!(&packet, expected);
        }
        prop_assert_eq!((plan.next_bytes(), plan.count()), (None, 0));
    }

    #[test]
    fn nothing_that_a_kernel_says_panics(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        words: [u16; 4], kind in 0u8..8, flags in 0u8..4, ether_type in 0usize..4, small: bool,
    ) {
        if frame.len() > 40 {
            frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [1, 2]][ether_type]);
            frame[14] = [0x45, 0x60, 0x46, 0x4f][ether_type];
            frame[20..22].fill(0);
            frame[23] = 6;
        }
        let limit = |word: u16| if small { word % 80 } else { word };
        let header = VnetHeader {
            flags,
            gso_type: kind,
            header_bytes: words[0],
            gso_size: limit(words[1]),
            checksum_start: limit(words[2]),
            checksum_offset: limit(words[3]),
        };
        if let Ok(Some(_)) = header.segmentation()
            && let Ok(packets) = cut(&frame, &header)
        {
            prop_assert!(packets.len() <= 200);
        }
        if let Ok(plan) = Cut::plan_whole(&frame, Gso { kind, size: header.gso_size }) {
            prop_assert!(plan.count() <= 200);
            plan.write_partial_checksum(&mut frame);
        }
        let _ = finish_checksum(&mut frame, &header);
    }
}

#[test]
fn what_cannot_be_finished_says_so() {
    let shape = Shape {
        is_ipv6: false,
        vlan: false,
        ip_options: Vec::new(),
        tcp_options: Vec::new(),
        flags: 0x10,
        sequence: 1,
        identification: 1,
        dscp_ecn: 0,
        payload: vec![7; 3_000],
        size: 1_000,
    };
    let (frame, header) = shape.tcp();
    assert_eq!(cut(&frame, &header).unwrap().len(), 3);
    // A tunnel: the checksum that is named lies in the inner packet.
    let tunnel = VnetHeader { checksum_start: header.checksum_start + 50, ..header };
    let wrong = [
        tunnel,
        VnetHeader { gso_size: 0, ..header },
        VnetHeader { gso_type: GSO_TCP6, ..header },
        VnetHeader { gso_type: GSO_UDP, ..header },
        VnetHeader { gso_type: 3, ..header },
    ];
    for header in wrong {
        assert_eq!(cut(&frame, &header), Err(DropReason::OffloadUnfinished), "{header:?}");
    }
    let mut fragment = frame.clone();
    fragment[20] = 0x20;
    assert!(cut(&fragment, &header).is_err());
    let mut sctp = frame;
    sctp[23] = PROTOCOL_SCTP;
    let header = VnetHeader { gso_type: 0, checksum_offset: 8, ..header };
    assert_eq!(finish_checksum(&mut sctp, &header), Err(DropReason::OffloadUnfinished));
}

#[test]
fn a_tag_goes_back_behind_the_addresses() {
    let mut pool = Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(4)).unwrap();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(ETHERNET.0, ETHERNET.1).ipv4([1; 4], [2; 4], 64).udp(1, 2);
    builder.write(&mut frame, b"payload").unwrap();
    let mut packet = pool.take().unwrap();
    packet.set_contents(&frame).unwrap();
    insert_tag(&mut packet, 0x8100, 0x6007).unwrap();
    let mut expected = Vec::new();
    let builder = PacketBuilder::ethernet2(ETHERNET.0, ETHERNET.1)
        .vlan(etherparse::VlanHeader::Single(etherparse::SingleVlanHeader {
            pcp: 3.try_into().unwrap(),
            drop_eligible_indicator: false,
            vlan_id: 7.try_into().unwrap(),
            ether_type: etherparse::EtherType::IPV4,
        }))
        .ipv4([1; 4], [2; 4], 64)
        .udp(1, 2);
    builder.write(&mut expected, b"payload").unwrap();
    assert_eq!(packet.bytes(), expected);
    packet.truncate(11);
    assert_eq!(insert_tag(&mut packet, 0x8100, 1), Err(NoRoom));
    pool.put(packet);
}

fn tcp_shape(payload: usize, size: u16) -> Shape {
    Shape {
        is_ipv6: false,
        vlan: true,
        ip_options: Vec::new(),
        tcp_options: Vec::new(),
        flags: 0x18,
        sequence: 1,
        identification: 1,
        dscp_ecn: 0,
        payload: (0..payload).map(|at| at as u8).collect(),
        size,
    }
}

#[test]
fn pieces_come_from_the_pool_and_those_that_find_no_frame_are_said_to_be_lost() {
    let arena = Arena::anonymous(1 << 20).unwrap();
    let mut pool = Pool::new(&arena, PoolConfig::new(3)).unwrap();
    pool.add_large(&arena, 1).unwrap();
    let (frame, header) = tcp_shape(50_000, 1_400).tcp();
    let expected = cut(&frame, &header).unwrap();
    let mut whole = pool.take_large().unwrap();
    whole.set_contents(&frame).unwrap();
    whole.set_gso(Gso { kind: header.gso_type, size: header.gso_size });
    whole.set_port(crate::port::PortId(7));
    assert_eq!(segment_ip_bytes(&whole), Some(20 + 20 + 1_400));
    let mut pieces = Pieces::of(whole).unwrap();
    assert_eq!(pieces.count(), 36);
    let (mut held, mut lost, mut at) = (Vec::new(), 0, 0);
    while let Some(piece) = pieces.next(&mut pool) {
        match piece {
            Ok(packet) => {
                assert_eq!((packet.bytes(), packet.port().0), (expected[at].as_slice(), 7));
                held.push(packet);
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::PoolExhausted);
                lost += 1;
                // Room for one more: the next piece is itself, not the one that was lost.
                if lost == 10 {
                    held.drain(..1).for_each(|packet| pool.put(packet));
                }
            }
        }
        at += 1;
    }
    assert_eq!((at, lost, held.len()), (36, 32, 3));
    held.into_iter().for_each(|packet| pool.put(packet));
    pool.put(pieces.into_frame());
    assert_eq!((pool.available(), pool.large_frames()), (3, (1, 1)));
}

#[test]
fn a_frame_with_something_new_in_front_is_not_cut_as_before() {
    let (frame, header) = tcp_shape(3_000, 1_000).tcp();
    let gso = Gso { kind: header.gso_type, size: header.gso_size };
    assert!(Cut::plan_whole(&frame, gso).is_ok());
    // A tunnel: outer headers end with UDP, not with what shall be cut.
    let mut tunnel = Vec::new();
    PacketBuilder::ethernet2(ETHERNET.0, ETHERNET.1)
        .ipv4([1; 4], [2; 4], 64)
        .udp(1, 4_789)
        .write(&mut tunnel, &frame)
        .unwrap();
    assert_eq!(Cut::plan_whole(&tunnel, gso).err(), Some(DropReason::OffloadUnfinished));
    assert_eq!(Cut::plan_whole(&frame, Gso::default()).err(), Some(DropReason::OffloadUnfinished));
}
