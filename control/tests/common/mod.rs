//! What tests of the command share: the command itself, a site with a running instance, and network namespaces.
#![allow(dead_code, reason = "not every test needs all of it")]

pub mod cores;
pub mod edge;
pub mod hosts;
pub mod killed;
pub mod net;
pub mod streams;
pub mod wait;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The command under test: of this build, or the one that `MILLRACE` names.
pub fn millrace() -> Command {
    Command::new(std::env::var_os("MILLRACE").unwrap_or_else(|| env!("CARGO_BIN_EXE_millrace").into()))
}

/// A directory with a configuration: a generator sends through all functions into a sink.
pub struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        site.write("run.toml", &site.text());
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub fn text(&self) -> String {
        format!(
            r#"
[memory]
hugepages = "off"
[management]
socket = "{}"
[metrics]
listen = "off"
[sessions]
capacity = 4096
[ports.source]
kind = "generator"
flows = 3000
rate = 50000
[ports.drain]
kind = "sink"
[chains.measured]
functions = ["firewall", "nat", "router"]
zones.inside = ["source"]
zones.outside = ["drain"]
[functions.firewall]
kind = "firewall"
[[functions.firewall.rules]]
name = "all"
action = "allow"
from = "inside"
[functions.nat]
kind = "nat"
pool = ["203.0.113.16/28"]
[functions.router]
kind = "router"
routes = [{{ prefix = "198.19.0.0/16", via = "203.0.113.2" }}]
[functions.router.interfaces.source]
addresses = ["192.0.2.1/24"]
[functions.router.interfaces.drain]
addresses = ["203.0.113.1/24"]
neighbours = [{{ address = "203.0.113.2", mac = "02:00:00:00:01:02" }}]
"#,
            self.path("m.sock").display()
        )
    }

    /// The command that runs `run.toml`.
    pub fn command(&self) -> Command {
        let mut command = millrace();
        command.args(["run", "--json", "--interval", "0"]).arg(self.path("run.toml")).stdout(Stdio::piped());
        command
    }

    /// The same in a namespace.
    pub fn command_in(&self, namespace: &net::Namespace) -> Command {
        let mut inside = namespace.enter(&self.command());
        inside.stdout(Stdio::piped());
        inside
    }

    pub fn start(&self) -> Running {
        self.start_as(self.command())
    }

    pub fn start_in(&self, namespace: &net::Namespace) -> Running {
        self.start_as(self.command_in(namespace))
    }

    /// Starts an instance and waits until it answers.
    pub fn start_as(&self, command: Command) -> Running {
        self.start_with_stderr(command, Stdio::piped())
    }

    /// The same, with its standard error going elsewhere.
    pub fn start_with_stderr(&self, mut command: Command, stderr: impl Into<Stdio>) -> Running {
        let mut running = Running(Some(command.stderr(stderr).spawn().unwrap()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.path("m.sock")).is_err() || self.show("ports").is_none() {
            assert!(Instant::now() < deadline, "the instance did not start");
            let child = running.0.as_mut().unwrap();
            if child.try_wait().unwrap().is_some() {
                let output = running.0.take().unwrap().wait_with_output().unwrap();
                panic!("the instance ended: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        millrace().args(arguments).arg("--socket").arg(self.path("m.sock")).output().unwrap()
    }

    /// The command that applies this text, which it finds as `change.toml`.
    pub fn apply_command(&self, text: &str) -> Command {
        let mut command = millrace();
        command.arg("apply").arg(self.write("change.toml", text));
        command
    }

    /// Applies it.
    pub fn apply(&self, text: &str) -> Output {
        self.apply_command(text).output().unwrap()
    }

    /// Applies what must be accepted; what is said of it.
    pub fn applied(&self, text: &str) -> Value {
        let output = self.apply_command(text).arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&said).unwrap()
    }

    pub fn show(&self, topic: &str) -> Option<Vec<Value>> {
        let output = self.ask(&["show", topic, "--json", "--limit", "10000"]);
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(answer["rows"].as_array()?.clone())
    }
}

/// A running instance; killed if the test fails.
pub struct Running(pub Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&mut self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.child().id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// SIGTERM, and the accounting that it prints. Fails unless the status is 0.
    pub fn stop(mut self) -> Value {
        self.signal("TERM");
        accounting(&self.end())
    }
}

/// The accounting that `run` or `replay` printed last; fails unless the status is 0 and the sums hold.
pub fn accounting(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let accounting: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(accounting["sums_hold"], true, "{accounting}");
    assert_eq!(accounting["pool"]["free"], accounting["pool"]["frames"]);
    accounting
}
