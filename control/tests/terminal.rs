//! The live view on a real terminal, a pseudo-terminal of script(1): it comes, it listens to keys, and the terminal is given back.

mod common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{Site, millrace};
use millrace_control::live::screen::Screen;

const PATIENCE: Duration = Duration::from_secs(30);
/// To the alternate screen and back (xterm's control sequences).
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// A shell on a terminal of its own; killed if the test fails.
struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    /// Runs a line of shell; after it the terminal's settings are printed.
    fn run(line: &str, environment: &[(&str, &str)]) -> Self {
        let line = format!("stty cols 110 rows 40; {line}; echo \"status=$?\"; stty -a");
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(environment.iter().copied());
        let mut child = command.spawn().unwrap();
        let (sender, output) = channel();
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, output, seen: String::new() }
    }

    /// Waits until `text` was printed after the first `from` bytes. Says where it ends.
    fn wait_for(&mut self, text: &str, from: usize) -> usize {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen[from..].find(text) {
                return from + at + text.len();
            }
            assert!(start.elapsed() < PATIENCE, "no {text:?} in {:?}", &self.seen[from..]);
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(100)) {
                // What is cut in the middle of a character is none that is looked for.
                self.seen += &String::from_utf8_lossy(&bytes);
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end of the line: the view is gone, and the terminal is as it was.
    fn assert_given_back(&mut self, from: usize, status: &str) {
        let left = self.wait_for(LEAVE, from);
        let ended = self.wait_for(&format!("status={status}"), left);
        let settings = self.wait_for("extproc", ended);
        let settings = &self.seen[ended..settings];
        for flag in ["isig icanon", " echo "] {
            assert!(settings.contains(flag), "{flag}: {settings}");
        }
    }
}

fn command(arguments: &str) -> String {
    format!("{} {arguments}", millrace().get_program().display())
}

#[test]
fn run_shows_a_table_that_updates_and_q_drains() {
    let site = Site::new();
    let run = command(&format!("run {}", site.path("run.toml").display()));
    let mut terminal = Terminal::run(&run, &[]);
    let at = terminal.wait_for(ENTER, 0);
    for text in
        ["millrace", "q quit", "port", "busy", "latency p50", "source", "drain", "measured", "running"]
    {
        terminal.wait_for(text, at);
    }
    // Colours, since nobody wants none.
    assert!(terminal.seen.contains("\u{1b}[38;5;"), "{:?}", terminal.seen);
    terminal.press("p");
    let at = terminal.wait_for("paused", at);
    terminal.press("p\tsq");
    terminal.assert_given_back(at, "0");
    // The accounting is on the plain screen.
    let left = terminal.seen.rfind(LEAVE).unwrap();
    terminal.wait_for("sums hold: yes", left);
}

#[test]
fn run_prints_lines_on_a_terminal_if_it_is_asked_to() {
    let site = Site::new();
    let run =
        command(&format!("run --plain --interval 200ms --duration 2 {}", site.path("run.toml").display()));
    let mut terminal = Terminal::run(&run, &[]);
    terminal.wait_for("status=0", 0);
    assert!(terminal.seen.contains("source rx") && !terminal.seen.contains(ENTER), "{}", terminal.seen);
}

#[test]
fn top_shows_a_running_instance_without_colours_and_ends_by_control_c() {
    let site = Site::new();
    let running = site.start();
    let socket = site.path("m.sock").display().to_string();
    let mut terminal = Terminal::run(&command(&format!("top --socket {socket}")), &[("NO_COLOR", "1")]);
    let at = terminal.wait_for(ENTER, 0);
    terminal.wait_for("measured", at);
    terminal.press("\u{3}");
    terminal.assert_given_back(at, "0");
    let coloured = ["\u{1b}[38;", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[36m"];
    assert!(!coloured.iter().any(|colour| terminal.seen.contains(colour)), "{:?}", terminal.seen);
    // Without a terminal it is text, once.
    let output = site.ask(&["top", "--interval", "500ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains('\u{1b}'), "{text}");
    let source = text.lines().find(|line| line.starts_with("source ")).unwrap();
    assert!(source.contains(" up ") && text.contains("latency p50"), "{text}");
    println!("{text}");
    running.stop();
    let gone = site.ask(&["top"]);
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(gone.status.code() == Some(1) && said.contains("connect to"), "{said}");
}

/// What the next test runs on a terminal; nothing by itself.
#[test]
fn child_that_panics() {
    if std::env::var_os("MILLRACE_TEST_PANICS").is_none() {
        return;
    }
    let view = || {
        let _screen = Screen::take().unwrap();
        panic!("of the test");
    };
    let thread = std::thread::Builder::new().name("live".to_owned()).spawn(view).unwrap();
    assert!(thread.join().is_err());
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    let own = std::env::current_exe().unwrap();
    let line = format!("{} --exact child_that_panics --nocapture", own.display());
    let mut terminal = Terminal::run(&line, &[("MILLRACE_TEST_PANICS", "1"), ("RUST_BACKTRACE", "0")]);
    let at = terminal.wait_for(ENTER, 0);
    terminal.assert_given_back(at, "0");
    let (left, told) = (terminal.seen.find(LEAVE).unwrap(), terminal.seen.find("of the test").unwrap());
    assert!(left < told, "{:?}", terminal.seen);
    assert_eq!(terminal.seen.matches(LEAVE).count(), 1);
}
