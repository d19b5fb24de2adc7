//! Network namespaces, each held by a process that ends when its input does: nothing stays, however a test ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Whether this process may make namespaces; says so if not.
pub fn may_make_namespaces(test: &str) -> bool {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        println!("SKIPPED {test}: it makes network namespaces, which needs root");
    }
    root
}

/// A network namespace without IPv6 chatter.
pub struct Namespace(Child);

impl Namespace {
    pub fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let namespace = Self(child);
        for scope in ["all", "default"] {
            namespace.run(&format!("sysctl -qw net.ipv6.conf.{scope}.disable_ipv6=1"));
        }
        namespace.run("ip link set lo up");
        namespace
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Makes `command` start in this namespace. The process is the command's own.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.pid().to_string(), "-n"])
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// What a command (split at blanks) prints. It must succeed.
    pub fn output(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let mut plain = Command::new(words.next().unwrap());
        let output = self.enter(plain.args(words)).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{command}` failed: {out}{error}");
        out.into_owned()
    }

    /// Runs a command that must succeed.
    pub fn run(&self, command: &str) {
        self.output(command);
    }

    /// Runs a line of bash that must succeed.
    pub fn bash(&self, line: &str) {
        let output = self.enter(Command::new("bash").args(["-c", line])).output().unwrap();
        assert!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Joins a host to this namespace by a veth pair with `queues` queues at both ends: `interface` here, `eth0` with
    /// `address` there. The host finishes the checksums of what it sends.
    pub fn connect(&self, host: &Self, interface: &str, address: &str, queues: u32) {
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        let peer = host.pid();
        self.run(&format!("ip link add {interface} {count} type veth peer name eth0 {count} netns {peer}"));
        self.run(&format!("ip link set dev {interface} up"));
        host.run(&format!("ip address add {address} dev eth0"));
        host.run("ip link set dev eth0 up");
        host.run("ethtool -K eth0 tx off");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
