//! TCP streams through a relay, between hosts whose kernels leave checksums and segmentation to devices.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use millrace_dataplane::port::verify::{ChecksumVerdict, verify_checksums};

use crate::net::{Host, rest_of_output, wait_for_line};

/// What is sent: large enough for a window that makes the kernel hand over its largest frames.
pub const STREAM_BYTES: usize = 16 << 20;

/// The bytes that both ends make, and their sum (FNV-1a).
const PROGRAM: &str = "
import socket, sys, hashlib
mode, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
block = bytes((i * 31 + i // 256) % 256 for i in range(65521))
digest = hashlib.sha256()
with socket.socket(family, socket.SOCK_STREAM) as s:
    if mode == 'listen':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, 5001)); s.listen(); print('ready', flush=True)
        c, _ = s.accept(); got = 0
        while data := c.recv(1 << 20):
            got += len(data); digest.update(data)
    else:
        s.settimeout(15); s.connect((address, 5001)); got = 0
        while got < size:
            data = block[:size - got]; s.sendall(data); got += len(data); digest.update(data)
        s.shutdown(socket.SHUT_WR); s.recv(1)
print(got, digest.hexdigest(), flush=True)
";

fn start(command: &mut Command, mode: &str, address: &str) -> Child {
    command.args(["-c", PROGRAM, mode, address, &STREAM_BYTES.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Two ends of a stream; both must end with the same sum.
pub struct Stream {
    server: Child,
    client: Child,
}

impl Stream {
    /// From `client` to `server` at `address`.
    pub fn start(client: &Host, server: &Host, address: &str) -> Self {
        let mut server = start(&mut server.command("python3"), "listen", address);
        wait_for_line(&mut server, "ready");
        let client = start(&mut client.command("python3"), "connect", address);
        Self { server, client }
    }

    /// Waits for both ends and compares what they say.
    pub fn finish(mut self) {
        let said = [rest_of_output(&mut self.client), rest_of_output(&mut self.server)];
        for child in [&mut self.client, &mut self.server] {
            assert!(child.wait().unwrap().success(), "{said:?}");
        }
        assert!(said[0].starts_with(&STREAM_BYTES.to_string()), "{said:?}");
        assert_eq!(said[0], said[1], "what arrived is not what was sent");
    }
}

/// Runs a stream while `relay` moves its packets, which ends when what it is given says so, also if the stream fails.
pub fn with_stream(from: &Host, to: &Host, address: &str, relay: impl FnOnce(&dyn Fn() -> bool)) {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            Stream::start(from, to, address).finish();
        });
        relay(&|| done.load(Ordering::Acquire));
    });
}

/// What a relay saw: packets that stations on a link may send, and how many of them have a wrong checksum.
#[derive(Default)]
pub struct Seen {
    pub packets: u64,
    pub wrong: u64,
}

impl Seen {
    pub fn check(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= 1_514, "a packet of {} bytes was delivered", bytes.len());
        let verdict = verify_checksums(bytes);
        self.packets += 1;
        self.wrong += u64::from(!matches!(verdict, ChecksumVerdict::Good | ChecksumVerdict::Unchecked));
    }

    /// After a stream: it was no less than its bytes need, and all of it right.
    pub fn judge(&self) {
        assert!(self.packets > STREAM_BYTES as u64 / 1_460, "{} packets", self.packets);
        assert_eq!(self.wrong, 0, "of {} packets", self.packets);
    }
}

/// Joins a host to our namespace by a veth pair that leaves all to the device: `interface` here, `eth0` there.
pub fn connect(host: &Host, interface: &str, addresses: &[&str]) {
    crate::net::run(&format!("ip link add {interface} type veth peer name eth0 netns {}", host.pid()));
    crate::net::run(&format!("ip link set dev {interface} up"));
    set_up(host, "eth0", addresses);
}

/// Gives an interface of a host its addresses, of both families, at once.
pub fn set_up(host: &Host, interface: &str, addresses: &[&str]) {
    host.run(&format!("sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        host.run(&format!("ip address add {address} dev {interface}{nodad}"));
    }
    host.run(&format!("ip link set dev {interface} up"));
}
