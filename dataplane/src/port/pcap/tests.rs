use super::*;
use crate::memory::{Arena, PoolConfig};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::name_resolution::NameResolutionBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::{DataLink, Endianness, TsResolution};
use proptest::prelude::*;
use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

fn pool() -> Pool {
    Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig::new(100)).unwrap()
}

fn config(input: Option<&Path>, output: Option<&Path>, pace: Pace) -> PcapConfig {
    PcapConfig {
        name: "capture".into(),
        mac: [2; 6],
        mtu: 1_500,
        input: input.map(Into::into),
        output: output.map(Into::into),
        pace,
        epoch_ns: 0,
    }
}

fn read_all(bytes: Vec<u8>) -> (Vec<(Record, Vec<u8>)>, Option<CaptureError>) {
    let mut reader = match CaptureReader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let (mut records, mut buffer) = (Vec::new(), Vec::new());
    loop {
        match reader.next_record(&mut buffer) {
            Ok(Some(record)) => records.push((record, buffer.clone())),
            Ok(None) => return (records, None),
            Err(error) => {
                assert_eq!(reader.next_record(&mut buffer).unwrap(), None);
                return (records, Some(error));
            }
        }
    }
}

fn pcap(endianness: Endianness, ts_resolution: TsResolution, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let header = PcapHeader { endianness, ts_resolution, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (time, bytes) in packets {
        let packet = PcapPacket::new(Duration::from_nanos(*time), bytes.len() as u32, bytes);
        writer.write_packet(&packet).unwrap();
    }
    writer.into_writer()
}

fn pcapng(endianness: Endianness, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness).unwrap();
    let mut interface = InterfaceDescriptionBlock::new(DataLink::RAW, 0);
    writer.write_pcapng_block(interface.clone()).unwrap();
    interface.linktype = DataLink::ETHERNET;
    interface.options = vec![
        InterfaceDescriptionOption::IfName(Cow::Borrowed("eth")),
        InterfaceDescriptionOption::IfTsResol(9),
        InterfaceDescriptionOption::IfTsOffset(2),
    ];
    writer.write_pcapng_block(interface).unwrap();
    writer.write_pcapng_block(NameResolutionBlock { records: vec![], options: vec![] }).unwrap();
    for (time, bytes) in packets {
        let block = EnhancedPacketBlock {
            interface_id: 1,
            timestamp: Duration::from_nanos(*time),
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    let simple = SimplePacketBlock { original_len: 3, data: Cow::Borrowed(b"abc") };
    writer.write_pcapng_block(simple).unwrap();
    writer.into_inner()
}

fn packets() -> Vec<(u64, Vec<u8>)> {
    (0..5).map(|n| (1_700_000_000_123_456_000 + n * 1_000_000, vec![n as u8; 60 + n as usize])).collect()
}

#[test]
fn both_byte_orders_and_resolutions_are_read() {
    for endianness in [Endianness::Little, Endianness::Big] {
        for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
            let (records, problem) = read_all(pcap(endianness, resolution, &packets()));
            assert!(problem.is_none());
            let found: Vec<_> = records.into_iter().map(|(record, bytes)| (record.time.0, bytes)).collect();
            assert_eq!(found, packets());
        }
        let (records, problem) = read_all(pcapng(endianness, &packets()));
        assert!(problem.is_none(), "{problem:?}");
        for ((record, bytes), (time, expected)) in records.iter().zip(packets()) {
            assert_eq!(record.time.0, time + 2_000_000_000, "the interface's offset is 2 s");
            assert_eq!((bytes, record.original_length, record.ethernet), (&expected, expected.len(), true));
        }
        let (last, bytes) = records.last().unwrap();
        assert_eq!((records.len(), &bytes[..], last.ethernet), (6, &b"abc"[..], false));
    }
}

#[test]
fn fcs_is_taken_off() {
    let mut file = pcap(Endianness::Little, TsResolution::NanoSecond, &[(1, vec![7; 64])]);
    file[20..24].copy_from_slice(&(1u32 | 1 << 26 | 2 << 28).to_le_bytes());
    let (records, _) = read_all(file);
    assert_eq!((records[0].1.len(), records[0].0.original_length), (60, 60));
}

#[test]
fn what_is_no_capture_says_what_it_is() {
    let message = |bytes: &[u8]| read_all(bytes.to_vec()).1.unwrap().to_string();
    assert!(message(&[0x1f, 0x8b, 8, 0, 0]).contains("gzip"));
    assert!(message(b"hello").contains("not a capture file"));
    assert!(message(b"").contains("ends at byte 0"));
    let mut raw = pcap(Endianness::Big, TsResolution::NanoSecond, &packets());
    raw[23] = 101;
    assert!(message(&raw).contains("link type 101 is not Ethernet"));
    let mut long = pcap(Endianness::Little, TsResolution::NanoSecond, &packets());
    long[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(message(&long).contains("at byte 24: the captured length is 4294967295"));
}

proptest! {
    #[test]
    fn a_file_cut_anywhere_ends_with_an_error(cut: prop::sample::Index, big: bool, ng: bool) {
        let endianness = if big { Endianness::Big } else { Endianness::Little };
        let whole = if ng {
            pcapng(endianness, &packets())
        } else {
            pcap(endianness, TsResolution::NanoSecond, &packets())
        };
        let cut = cut.index(whole.len());
        let (records, problem) = read_all(whole[..cut].to_vec());
        prop_assert!(records.len() <= 6);
        match problem {
            Some(CaptureError::CutOff { offset }) => prop_assert!(offset <= cut as u64),
            Some(other) => prop_assert!(false, "{other}"),
            // Cut between two records.
            None => prop_assert!(cut >= 24),
        }
    }

    #[test]
    fn any_bytes_are_read_to_an_end(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ng: bool,
    ) {
        let mut file = if ng {
            pcapng(Endianness::Little, &packets())
        } else {
            pcap(Endianness::Big, TsResolution::MicroSecond, &packets())
        };
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        let (records, _) = read_all(file);
        prop_assert!(records.len() < 100);
    }
}

#[test]
fn a_port_delivers_by_the_clock_and_writes_what_it_sends() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    std::fs::write(&input, pcap(Endianness::Little, TsResolution::NanoSecond, &packets())).unwrap();
    let mut pool = pool();
    let mut port = PcapPort::open(&config(Some(&input), Some(&output), Pace::UpToNow)).unwrap();
    let mut burst = Burst::new();
    port.rx(&mut pool, Time(1), &mut burst);
    assert!(burst.is_empty() && !port.exhausted());
    let mut times = Vec::new();
    while let Some(time) = port.next_timestamp() {
        port.rx(&mut pool, time, &mut burst);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst.as_slice()[0].timestamp(), time);
        times.push(time.0);
        port.tx(&mut pool, time, &mut burst);
    }
    assert!(port.exhausted() && port.problem().is_none());
    assert_eq!(times, packets().iter().map(|packet| packet.0).collect::<Vec<_>>());
    let counters = port.counters();
    assert_eq!((counters.rx_packets, counters.tx_packets), (5, 5));
    assert_eq!((counters.rx_bytes, counters.tx_bytes), (310, 310));
    port.close(Some(&mut pool));
    assert_eq!(pool.available(), pool.capacity());
    let mut reader = PcapReader::new(File::open(&output).unwrap()).unwrap();
    assert_eq!(reader.header().ts_resolution, TsResolution::NanoSecond);
    for (time, bytes) in packets() {
        let packet = reader.next_packet().unwrap().unwrap();
        assert_eq!((packet.timestamp, &packet.data[..]), (Duration::from_nanos(time), &bytes[..]));
    }
    assert!(reader.next_packet().is_none());
}

#[test]
fn recorded_pace_keeps_intervals() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.pcap");
    std::fs::write(&input, pcap(Endianness::Little, TsResolution::NanoSecond, &packets())).unwrap();
    let mut pool = pool();
    let mut port = PcapPort::open(&config(Some(&input), None, Pace::Recorded)).unwrap();
    let mut burst = Burst::new();
    for (now, expected) in [(500, 1), (1_000_499, 1), (1_000_500, 2), (9_000_000, 5)] {
        port.rx(&mut pool, Time(now), &mut burst);
        assert_eq!(burst.len(), expected, "at {now}");
    }
    port.tx(&mut pool, Time(0), &mut burst);
    assert_eq!((port.counters().tx_packets, pool.available()), (5, 100));
}

#[test]
fn what_cannot_be_delivered_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.pcap");
    let header = PcapHeader { endianness: Endianness::Little, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    let snapped = PcapPacket::new(Duration::ZERO, 100, &[1; 60]);
    let jumbo = PcapPacket::new(Duration::ZERO, 9_000, &[2; 9_000]);
    let good = PcapPacket::new(Duration::ZERO, 60, &[3; 60]);
    for packet in [&snapped, &jumbo, &good, &good] {
        writer.write_packet(packet).unwrap();
    }
    let mut file = writer.into_writer();
    file.truncate(file.len() - 10);
    std::fs::write(&input, file).unwrap();
    let mut pool = pool();
    let mut port = PcapPort::open(&config(Some(&input), None, Pace::Unpaced)).unwrap();
    let mut burst = Burst::new();
    port.rx(&mut pool, Time(0), &mut burst);
    assert_eq!(burst.len(), 1);
    let counters = port.counters();
    assert_eq!(counters.rx_packets, 1);
    assert_eq!(counters.rx_drops.get(DropReason::Truncated), 2, "one by its snap length, one cut off");
    assert_eq!(counters.rx_drops.get(DropReason::MtuExceeded), 1);
    assert!(matches!(port.problem(), Some(CaptureError::CutOff { .. })));
    assert!(port.exhausted());
    drop(burst);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn an_exhausted_pool_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("in.pcap");
    std::fs::write(&input, pcap(Endianness::Little, TsResolution::NanoSecond, &packets())).unwrap();
    let mut pool =
        Pool::new(&Arena::anonymous(1 << 20).unwrap(), PoolConfig { frames: 2, frame_bytes: 576 }).unwrap();
    let mut port = PcapPort::open(&config(Some(&input), None, Pace::Unpaced)).unwrap();
    for received in [2, 4, 5] {
        let mut burst = Burst::new();
        port.rx(&mut pool, Time(0), &mut burst);
        assert_eq!(port.counters().rx_packets, received);
        pool.put_all(&mut burst);
    }
    assert_eq!((port.counters().rx_drops.total(), pool.available()), (0, 2));
}

#[test]
fn open_errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.pcap");
    let error = PcapPort::open(&config(Some(&missing), None, Pace::Unpaced)).err().unwrap().to_string();
    assert!(error.contains("port capture: open") && error.contains("missing.pcap"), "{error}");
    std::fs::write(&missing, b"no capture at all").unwrap();
    let error = PcapPort::open(&config(Some(&missing), None, Pace::Unpaced)).err().unwrap().to_string();
    assert!(error.contains("not a capture file"), "{error}");
}

#[test]
fn a_full_disk_is_a_counted_drop() {
    let mut pool = pool();
    let mut port = PcapPort::open(&config(None, Some(Path::new("/dev/full")), Pace::Unpaced)).unwrap();
    let mut sent = 0;
    for _ in 0..20 {
        let mut burst = Burst::new();
        pool.take_bulk(&mut burst, 64);
        for packet in &mut burst {
            packet.extend(1_000).unwrap().fill(1);
            sent += 1;
        }
        port.tx(&mut pool, Time(0), &mut burst);
        assert!(burst.is_empty());
    }
    port.close(Some(&mut pool));
    // None of them reached the disk, whenever that was found out.
    let counters = port.counters();
    assert_eq!((counters.tx_packets, counters.tx_drops.get(DropReason::TxFailed)), (0, sent));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn what_a_last_flush_loses_is_no_packet_sent() {
    let mut pool = pool();
    let mut port = PcapPort::open(&config(None, Some(Path::new("/dev/full")), Pace::Unpaced)).unwrap();
    let mut burst = Burst::new();
    pool.take_bulk(&mut burst, 4);
    port.tx(&mut pool, Time(0), &mut burst);
    port.close(Some(&mut pool));
    let counters = port.counters();
    assert_eq!((counters.tx_packets, counters.tx_drops.get(DropReason::TxFailed)), (0, 4));
}
