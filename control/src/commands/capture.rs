//! `millrace capture`: copies packets of a running instance into a capture file or a pipe.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::manage;
use super::signals;
use super::values::integer;
use crate::capture::file::{Limits, Target};
use crate::capture::stream::Kind;
use crate::capture::{BUDGET, COUNT, EVERY, SECONDS, SNAP, Wanted, client, wanted};
use crate::config::units;
use crate::management::Answer;

/// Most bytes of a file, if nothing else is said: a disk is not filled by accident.
const BYTES_MAX: u64 = 1 << 30;
/// Least bytes of a file in a row: one packet fits.
const ROTATE_MIN: u64 = 64 << 10;

/// Arguments of `capture`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Arguments {
    /// Where packets are copied: port:NAME (or port:NAME/rx, port:NAME/tx), ports, chain:NAME, function:NAME, drops, drops:REASON. And
    /// terms KEY=VALUE that packets must match, as `trace` has them.
    #[arg(required = true, value_name = "POINT|KEY=VALUE")]
    pub points: Vec<String>,
    /// End after so many packets.
    #[arg(long, value_name = "PACKETS", value_parser = count)]
    pub count: Option<usize>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<usize>,
    /// Keep so many bytes of each frame at most, 14 to 9022.
    #[arg(long, value_name = "BYTES", default_value_t = *SNAP.end(), value_parser = snap)]
    pub snap: usize,
    /// Look at one packet in N only, at each point.
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = sample)]
    pub sample: usize,
    /// The file; `-` is standard output, for a pipe into tshark or Wireshark.
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Begin another file before one has more than so many bytes, as 10MiB: FILE becomes a row of numbered files.
    #[arg(long, value_name = "BYTES", value_parser = rotate)]
    pub rotate: Option<u64>,
    /// With --rotate: keep so many files, the latest ones.
    #[arg(long, value_name = "FILES", default_value_t = 10, requires = "rotate", value_parser = files)]
    pub files: usize,
    /// End before there are more bytes than this; 1GiB if nothing is said, for a single file.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// Percent of a worker's time that the capture may take; packets beyond are left out and counted.
    #[arg(long, value_name = "PERCENT", default_value_t = wanted::budget(), value_parser = budget)]
    pub budget: usize,
    /// Print what was captured and left out as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which instance.
    #[command(flatten)]
    pub instance: manage::Instance,
}

fn count(text: &str) -> Result<usize, String> {
    integer(text, &COUNT)
}

fn seconds(text: &str) -> Result<usize, String> {
    integer(text, &SECONDS)
}

fn snap(text: &str) -> Result<usize, String> {
    integer(text, &SNAP)
}

fn budget(text: &str) -> Result<usize, String> {
    integer(text, &BUDGET)
}

fn files(text: &str) -> Result<usize, String> {
    integer(text, &(1..=99_999))
}

fn sample(text: &str) -> Result<usize, String> {
    integer(text.strip_prefix("1/").unwrap_or(text), &EVERY)
        .map_err(|_| format!("expected 1/N or N, with N from {} to {}", EVERY.start(), EVERY.end()))
}

fn bytes(text: &str) -> Result<u64, String> {
    units::size_of(text).ok_or_else(|| "expected bytes, as 1000000, 10MiB or 1GiB".to_owned())
}

fn rotate(text: &str) -> Result<u64, String> {
    let least = |bytes: &u64| *bytes >= ROTATE_MIN;
    bytes(text).ok().filter(least).ok_or_else(|| "expected 64KiB or more, as 10MiB".to_owned())
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        let (filter, points) = self.points.iter().cloned().partition(|text| text.contains('='));
        Wanted {
            points,
            filter,
            count: self.count,
            seconds: self.seconds,
            snap: self.snap,
            every: self.sample,
            budget: self.budget,
        }
    }

    fn target(&self) -> io::Result<Target> {
        let to_file = self.output.as_os_str() != "-";
        if !to_file && self.rotate.is_some() {
            return Err(io::Error::other("standard output can't be rotated: give --output FILE"));
        }
        if !to_file && io::stdout().is_terminal() {
            return Err(io::Error::other(
                "a capture is no text for a terminal: give --output FILE, or pipe it into `tshark -i -`",
            ));
        }
        let alone = to_file && self.rotate.is_none();
        let limits = Limits {
            rotate: self.rotate,
            files: self.files,
            bytes: self.max_bytes.or(alone.then_some(BYTES_MAX)),
        };
        Target::open(to_file.then_some(self.output.as_path()), limits)
    }
}

/// Status 0 when the capture came to its end, also by a signal or a limit.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut kept = 0;
    match capture(arguments, &mut kept) {
        Ok(Answer::CaptureEnded { no_time, no_room, why, .. }) => {
            tell(arguments.json, kept, no_time, no_room, why.as_deref());
            ExitCode::SUCCESS
        }
        // Who closes our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe && kept > 0 => ExitCode::SUCCESS,
        Ok(_) => {
            complain!("error: the instance answered something else");
            ExitCode::FAILURE
        }
        Err(error) => {
            let before =
                if kept > 0 { format!("; {kept} packets were captured before") } else { String::new() };
            complain!("error: {error}{before}");
            ExitCode::FAILURE
        }
    }
}

fn capture(arguments: &Arguments, kept: &mut u64) -> io::Result<Answer> {
    let wanted = arguments.wanted();
    let stop = signals::handle()?;
    let mut target: Option<Target> = None;
    let mut is_full = false;
    let ended = client::capture(&arguments.instance.socket, &wanted, &stop, |kind, bytes, is_more_here| {
        match kind {
            // Not before the instance has agreed: a refusal leaves no file.
            Kind::Head => target.insert(arguments.target()?).head(bytes)?,
            Kind::Packet if !is_full => {
                if let Some(target) = &mut target {
                    is_full = !target.packet(bytes)?;
                }
            }
            Kind::Tail => target.iter_mut().for_each(|target| target.tail(bytes)),
            Kind::Packet | Kind::End => {}
        }
        if let (false, Some(target)) = (is_more_here, &mut target) {
            let flushed = target.flush();
            *kept = target.packets();
            flushed?;
        }
        Ok(!is_full)
    });
    if let Some(mut target) = target {
        let finished = if ended.is_ok() { target.finish() } else { Ok(()) };
        *kept = target.packets();
        finished?;
    }
    match ended {
        Ok(Answer::CaptureEnded { packets, no_time, no_room, why }) => {
            let full = is_full.then(|| "the limit of bytes is reached".to_owned());
            Ok(Answer::CaptureEnded { packets, no_time, no_room, why: full.or(why) })
        }
        other => other,
    }
}

/// Standard output may be the capture itself.
fn tell(json: bool, packets: u64, no_time: u64, no_room: u64, why: Option<&str>) {
    let left_out = no_time + no_room;
    if json {
        complain!(
            "{}",
            serde_json::json!({
                "packets": packets, "left_out": left_out, "no_time": no_time, "no_room": no_room, "ended": why,
            })
        );
        return;
    }
    if let Some(why) = why {
        complain!("the capture ended: {why}");
    }
    let details = if left_out > 0 {
        format!(" (for want of time {no_time}, of room {no_room})")
    } else {
        String::new()
    };
    complain!("packets captured: {packets}, left out: {left_out}{details}");
}
