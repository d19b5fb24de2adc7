use super::*;
use crate::memory::{Arena, Pool, PoolConfig};
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
