//! `millrace trace`: follows packets through a running instance.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::manage;
use super::values::integer;
use crate::management::{Answer, Request, client};
use crate::trace::{COUNT, EVERY, SECONDS};

/// Arguments of `trace`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// Terms KEY=VALUE that packets must match as they come in, as source=10.0.0.0/8 protocol=tcp; the keys are input (a port's name),
    /// source, destination, protocol and port. `all` follows any packet.
    #[arg(required = true, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// How many packets are followed, 1 to 10000.
    #[arg(long, value_name = "PACKETS", default_value_t = 10, value_parser = count)]
    pub count: usize,
    /// Look at one packet in so many only.
    #[arg(long, value_name = "PACKETS", default_value_t = 1, value_parser = every)]
    pub every: usize,
    /// End after so many seconds, if not enough packets came by then; 1 to 86400.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = seconds)]
    pub duration: usize,
    /// Print JSON, an object a line for each packet.
    #[arg(long)]
    pub json: bool,
    /// Which instance.
    #[command(flatten)]
    pub instance: manage::Instance,
}

fn count(text: &str) -> Result<usize, String> {
    integer(text, &COUNT)
}

fn every(text: &str) -> Result<usize, String> {
    integer(text, &EVERY)
}

fn seconds(text: &str) -> Result<usize, String> {
    integer(text, &SECONDS)
}

/// Status 0 when the trace came to its end, with as many packets as came.
pub fn run(arguments: &Arguments) -> ExitCode {
    let filter = &arguments.filter;
    let filter = if filter.len() == 1 && filter[0] == "all" { Vec::new() } else { filter.clone() };
    let (count, every, seconds) = (arguments.count, arguments.every, arguments.duration);
    let request = Request::Trace { filter, count, every, seconds };
    let mut ended = None;
    let told = client::follow(&arguments.instance.socket, &request, |answer| match answer {
        Answer::Explained(report) => {
            let mut out = io::stdout().lock();
            if arguments.json {
                writeln!(out, "{}", serde_json::to_string(&report)?)?;
            } else {
                writeln!(out, "{report}")?;
            }
            out.flush().map(|()| true)
        }
        Answer::Tracing => Ok(true),
        Answer::TraceEnded { followed, left_out } => {
            ended = Some((followed, left_out));
            Ok(false)
        }
        Answer::Refused(why) => Err(io::Error::other(why)),
        _ => Err(io::Error::other("the instance answered something else")),
    });
    match (told, ended) {
        (Ok(()), Some((followed, left_out))) => {
            complain!("packets followed: {followed}, left out: {left_out}");
            ExitCode::SUCCESS
        }
        // Who closes our output has seen enough.
        (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        (Err(error), _) => {
            complain!("error: {error}");
            ExitCode::FAILURE
        }
        (Ok(()), None) => {
            complain!("error: the instance ended the trace");
            ExitCode::FAILURE
        }
    }
}
