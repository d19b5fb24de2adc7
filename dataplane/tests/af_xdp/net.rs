//! Network namespaces for tests. Each test runs on a thread with a namespace of its own, and other hosts are
//! processes that hold one; all of them go with the test process, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// Runs a test body in a new network namespace without IPv6 chatter. Without root it says that it does not.
pub fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    // SAFETY: takes no argument.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED {test}: it makes network namespaces, which needs root");
        return;
    }
    let inside = move || {
        // SAFETY: moves this thread alone to a new namespace; takes no pointer.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare: {}", last_error());
        quiet(run);
        body();
    };
    let handle = thread::Builder::new().name(test.to_owned()).spawn(inside).unwrap();
    if let Err(panic) = handle.join() {
        std::panic::resume_unwind(panic);
    }
}

fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}

fn quiet(run: impl Fn(&str)) {
    for scope in ["all", "default"] {
        run(&format!("sysctl -qw net.ipv6.conf.{scope}.disable_ipv6=1"));
    }
    run("ip link set lo up");
}

fn checked(command: &str, output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`{command}` failed: {stdout}{stderr}");
    stdout.into_owned()
}

/// Runs a command (split at blanks) in this thread's namespace and returns what it prints. It must succeed.
pub fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    checked(command, &output.unwrap_or_else(|error| panic!("`{command}`: {error}")))
}

/// Runs a command that must succeed.
pub fn run(command: &str) {
    output(command);
}

/// Whether an XDP program is attached to an interface of this namespace.
pub fn has_program(interface: &str) -> bool {
    output(&format!("ip -d link show dev {interface}")).contains("xdp")
}

/// Whether the interface has no XDP program, now or soon: a child that another test starts at this moment holds our file
/// descriptors between its fork and its exec, and with them the program.
pub fn loses_program(interface: &str) -> bool {
    let start = std::time::Instant::now();
    while has_program(interface) {
        if start.elapsed() > std::time::Duration::from_secs(5) {
            return false;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    true
}

/// A pair of interfaces of this namespace, both up.
pub fn veth_pair(a: &str, b: &str, queues: u32) {
    let count = format!("numrxqueues {queues} numtxqueues {queues}");
    run(&format!("ip link add {a} {count} type veth peer name {b} {count}"));
    for interface in [a, b] {
        run(&format!("ip link set dev {interface} up"));
    }
}

/// A namespace of its own, held by a process that ends when its input does.
pub struct Host(Child);

impl Host {
    pub fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_line(&mut child, "ready");
        let host = Self(child);
        quiet(|command| host.run(command));
        host
    }

    /// The process that holds the namespace.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A command that runs in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", program]);
        command
    }

    pub fn run(&self, command: &str) {
        let mut words = command.split_whitespace();
        let output = self.command(words.next().unwrap()).args(words).output().unwrap();
        checked(command, &output);
    }

    /// Joins this host to our namespace by a veth pair: `interface` here, `eth0` with `address` there. The host
    /// finishes the checksums of what it sends.
    pub fn connect(&self, interface: &str, address: &str) {
        run(&format!("ip link add {interface} type veth peer name eth0 netns {}", self.pid()));
        run(&format!("ip link set dev {interface} up"));
        self.run(&format!("ip address add {address} dev eth0"));
        self.run("ip link set dev eth0 up");
        self.run("ethtool -K eth0 tx off");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the child's output up to a line that contains `text`.
pub fn wait_for_line(child: &mut Child, text: &str) {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the child ended without saying `{text}`");
    }
    child.stdout = Some(reader.into_inner());
}

/// What the child still prints, up to its end.
pub fn rest_of_output(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}
