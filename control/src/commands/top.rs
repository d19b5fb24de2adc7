//! `millrace top`: the live view of a running instance.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::manage::Instance;
use super::values::duration;
use crate::live::dashboard::{self, Settings};
use crate::live::draw::{self, Palette};
use crate::live::source::Source;
use crate::live::view::View;

/// Width of the picture where there is no terminal that has one.
const WIDTH: u16 = 120;
/// Shortest time between two samples: each holds up packets for some microseconds.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Time between two looks, in seconds or with a unit, as 500ms; at least 100ms.
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = duration)]
    pub interval: Duration,
    /// Print the tables once, after that time, and end; so it does where standard output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Which instance.
    #[command(flatten)]
    pub instance: Instance,
}

/// Status 0 when its user ended it, 1 when the instance can't be reached at the start.
pub fn run(arguments: &Arguments) -> ExitCode {
    let interval = arguments.interval.max(INTERVAL_MIN);
    let socket = &arguments.instance.socket;
    let title = format!("millrace top  {}", socket.display());
    let shown = if arguments.once || !io::stdout().is_terminal() {
        once(socket.clone(), title, interval)
    } else {
        // Who can't be reached is told of on the plain screen.
        let source = Source::Socket(socket.clone());
        source.sample().and_then(|_| {
            let settings = Settings { title, interval, palette: Palette::from_environment() };
            dashboard::run(source, &settings, None, || true).map(|_| ()).map_err(|error| error.to_string())
        })
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Two samples as text.
fn once(socket: PathBuf, title: String, interval: Duration) -> Result<(), String> {
    let source = Source::Socket(socket);
    let mut view = View::new(title);
    view.take(Ok(source.sample()?));
    std::thread::sleep(interval);
    view.take(Ok(source.sample()?));
    let width = ratatui::crossterm::terminal::size().map_or(WIDTH, |(width, _)| width.max(1));
    let text = draw::text(&view, if io::stdout().is_terminal() { width } else { WIDTH });
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
