//! `millrace explain`: what would become of a packet, without sending it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::port::MacAddress;
use millrace_dataplane::port::pcap::CaptureReader;

use super::replay::{SEED, START, advance, mac_assignment, replace_ports};
use super::{load_or_report, manage};
use crate::config::Host;
use crate::explain::{Report, Subject, look};
use crate::instance::clock::SharedClock;
use crate::instance::{Instance, Options};
use crate::management::{Answer, Request};

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// The configuration, a TOML file. The devices of its ports are not touched. Without it the running instance is asked,
    /// with the sessions and neighbours that it has; nothing of it changes.
    pub config: Option<PathBuf>,
    /// The port that the packet comes in by.
    #[arg(long, value_name = "PORT")]
    pub input: String,
    /// The packet in words, addressed to the port: "tcp 10.0.0.2:4000 > 198.51.100.7:443 syn", "icmp fd00::2 >
    /// 2001:db8::7". Further words: ack, fin, rst, psh, urg; reply, id NUMBER;
    /// ttl NUMBER, length BYTES, dscp NUMBER, fragmentable.
    #[arg(long, value_name = "PACKET", required_unless_present = "capture", conflicts_with = "capture")]
    pub packet: Option<String>,
    /// A capture file to take the packet from, pcap or pcapng.
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Which frame of it, the first being 1.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "capture", value_parser = clap::value_parser!(u64).range(1..))]
    pub frame: u64,
    /// A port's own address, as in the capture: PORT=MAC; frames to others are dropped as `not_for_us`. Otherwise it is as
    /// configured, or made from the port's number.
    #[arg(long, value_name = "PORT=MAC", value_parser = mac_assignment, requires = "config")]
    pub mac: Vec<(String, MacAddress)>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Which instance, if no configuration is given.
    #[command(flatten)]
    pub instance: manage::Instance,
}

/// Status 0 when the packet is explained, whatever becomes of it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let said = subject(arguments).and_then(|subject| match &arguments.config {
        Some(config) => of_configuration(config, arguments, &subject),
        None => of_instance(arguments, subject).map(Some),
    });
    match said {
        Ok(Some(report)) => print(&report, arguments.json),
        Ok(None) => ExitCode::FAILURE,
        Err(error) => {
            complain!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn subject(arguments: &Arguments) -> Result<Subject, String> {
    match (&arguments.packet, &arguments.capture) {
        (Some(words), _) => Ok(Subject::Packet(words.clone())),
        (None, Some(capture)) => captured(capture, arguments.frame).map(Subject::Frame),
        (None, None) => Err("neither --packet nor --capture is given".to_owned()),
    }
}

/// The frame of this number in a capture.
fn captured(path: &Path, number: u64) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut reader = CaptureReader::new(file).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    for seen in 0..number {
        match reader.next_record(&mut bytes).map_err(|error| failed(&error))? {
            None => return Err(failed(&format!("there is no frame {number}; it has {seen}"))),
            Some(record) if seen + 1 == number && !record.ethernet => {
                return Err(failed(&format!("frame {number} is no Ethernet frame")));
            }
            Some(_) => {}
        }
    }
    Ok(bytes)
}

/// As in `replay`, nothing of this machine is touched, and all that is random repeats. None if the configuration is wrong, which
/// was said.
fn of_configuration(path: &Path, arguments: &Arguments, subject: &Subject) -> Result<Option<Report>, String> {
    let Some(mut config) = load_or_report(path, &Host::default()) else { return Ok(None) };
    config.keep_one_worker();
    replace_ports(&mut config, &[], &[], &arguments.mac).map_err(|error| error.to_string())?;
    let clock = SharedClock::default();
    let options = Options {
        clock: Box::new(clock.clone()),
        seed: Some(SEED),
        budget: BudgetConfig::UNLIMITED,
        captures_ahead_ns: None,
        pinned: false,
    };
    let built = Instance::build(config, options).and_then(Instance::into_one);
    let (mut worker, control) = built.map_err(|error| error.to_string())?;
    advance(&mut worker, &clock, START);
    look::explain_here(&mut worker, &control.ports(), &arguments.input, subject).map(Some)
}

fn of_instance(arguments: &Arguments, subject: Subject) -> Result<Report, String> {
    let request = Request::Explain { input: arguments.input.clone(), subject };
    match crate::management::client::ask(&arguments.instance.socket, &request) {
        Ok(Answer::Explained(report)) => Ok(*report),
        Ok(Answer::Refused(why)) => Err(why),
        Ok(_) => Err("the instance answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn print(report: &Report, json: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let printed = if json {
        serde_json::to_string(report).map_err(io::Error::from).and_then(|line| writeln!(out, "{line}"))
    } else {
        write!(out, "{report}")
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
