//! TCP of real kernels over ports that lose, reorder and duplicate packets: what is sent arrives, whole, and the connection
//! tracker takes no segment for a stranger that is only late.

mod common;

use std::time::Instant;

use common::edge::{Edge, Kind, python};
use common::net::may_make_namespaces;
use common::wait::wait_until;
/// Whom the client sends to, and how many bytes in all, by so many connections at a time.
const TRANSFERS: [(&str, usize); 2] = [("10.2.0.2", 100_000_000), ("fd00:2::2", 20_000_000)];
const STREAMS: usize = 8;

/// Of each packet at each of the two ports in each direction.
const FAULT: &str = "fault = { loss = 0.05, reorder = 0.1, duplicate = 0.05, seed = SEED }\n";

/// Sends or receives over several connections; prints the number, bytes and SHA-256 of each.
const PROGRAM: &str = "
import hashlib, socket, sys, threading
mode, address, size, streams = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
results = {}
def sender(number):
    digest, block = hashlib.sha256(), hashlib.shake_128(bytes([number])).digest(65521)
    s = socket.socket(family, socket.SOCK_STREAM)
    # One that backs off at each loss, and one that does not.
    try: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, [b'reno', b'bbr'][number % 2])
    except OSError: pass
    s.settimeout(60); s.connect((address, 5001))
    s.sendall(bytes([number])); sent = 0
    while sent < size:
        data = block[:size - sent]; s.sendall(data); digest.update(data); sent += len(data)
    s.shutdown(socket.SHUT_WR); s.recv(1); s.close()
    results[number] = (sent, digest.hexdigest())
def receiver(s):
    s.settimeout(60)
    number, digest, got = s.recv(1)[0], hashlib.sha256(), 0
    while data := s.recv(1 << 18):
        got += len(data); digest.update(data)
    s.close()
    results[number] = (got, digest.hexdigest())
if mode == 'listen':
    server = socket.create_server((address, 5001), family=family, backlog=64)
    threads = []
    for _ in range(streams):
        s, _ = server.accept()
        threads.append(threading.Thread(target=receiver, args=(s,), daemon=True)); threads[-1].start()
else:
    threads = [threading.Thread(target=sender, args=(n,), daemon=True) for n in range(streams)]
    for t in threads: t.start()
for t in threads: t.join()
for number in range(streams): print(number, *results[number], flush=True)
";

fn transfers(kind: Kind) {
    let name = kind.name();
    if !may_make_namespaces(name) {
        return;
    }
    let edge = Edge::new(kind);
    let text = edge.text(FAULT, "").replacen("SEED", "11", 1).replace("SEED", "12");
    let running = edge.start(&text);
    for (host, interface, number) in [(&edge.client, "mr-lan", 1), (&edge.outside, "mr-wan", 2)] {
        let interface = kind.host_interface(interface);
        // Of the least timeout of 200 ms a sender with a small window would wait hundreds of times.
        for gateway in [format!("10.{number}.0.1"), format!("fd00:{number}::1")] {
            host.run(&format!("ip route change default via {gateway} dev {interface} rto_min 5ms"));
        }
    }
    for (target, in_all) in TRANSFERS {
        let start = Instant::now();
        let (size, streams) = ((in_all / STREAMS).to_string(), STREAMS.to_string());
        let run = |host, mode| python(host, PROGRAM, &[mode, target, &size, &streams]);
        let server = run(&edge.outside, "listen");
        wait_until("the server listens", || edge.outside.output("ss -Hltn sport = :5001").contains("5001"));
        let client = run(&edge.client, "connect");
        let ends = [client, server].map(|end| end.wait_with_output().unwrap());
        assert!(ends.iter().all(|end| end.status.success()), "{name} {target}: {ends:?}");
        let [sent, received] = ends.map(|end| String::from_utf8(end.stdout).unwrap());
        assert_eq!(sent, received, "{name} {target}: what arrived is not what was sent");
        let bytes = |text: &str| -> usize {
            text.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()).sum()
        };
        assert_eq!(bytes(&received), in_all);
        println!("{name}: {in_all} bytes to {target} in {:.1?}", start.elapsed());
    }
    // `stop` checks the sums (R13).
    let account = running.stop();
    for port in account["ports"].as_array().unwrap() {
        for column in ["rx_drops", "tx_drops", "rx_copied", "tx_copied"] {
            assert!(port[column].as_u64().unwrap() > 200, "{column} of {port}");
        }
    }
    let drops = account["drops"].as_array().unwrap();
    println!("{name}: {drops:?}");
    let strangers = drops.iter().find(|row| row["reason"] == "tcp_invalid");
    assert_eq!(strangers, None, "{name}: every segment is one of its connection, however late");
}

#[test]
fn streams_over_bad_links_arrive_whole_by_af_xdp() {
    transfers(Kind::AfXdp);
}

#[test]
fn streams_over_bad_links_arrive_whole_by_af_packet() {
    transfers(Kind::AfPacket);
}

#[test]
fn streams_over_bad_links_arrive_whole_by_tap() {
    transfers(Kind::Tap);
}
