//! The loop of the view: samples in, keys in, pictures out.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::draw::{LOG_LINES, Palette, draw};
use super::screen::Screen;
use super::source::{Sample, Source};
use super::view::{Action, View};
use crate::logging::Held;

/// How often keys are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A picture is drawn so often at least, for lines of the log.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// Most keys between two pictures.
const KEYS_MAX: usize = 64;

/// What the view shows beside samples.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is looked at, for people.
    pub title: String,
    /// From sample to sample.
    pub interval: Duration,
    /// Colours.
    pub palette: Palette,
}

/// Shows `source` on the terminal until its user ends it or `goes_on` says no. True if it was the user. `held`: lines of the log
/// that are shown.
///
/// # Errors
/// The terminal refuses, or no thread can be made.
pub fn run(
    source: Source,
    settings: &Settings,
    held: Option<&Held>,
    mut goes_on: impl FnMut() -> bool,
) -> io::Result<bool> {
    let mut screen = Screen::take()?;
    let samples = source.samples(settings.interval)?;
    let mut view = View::new(settings.title.as_str());
    let mut drawn: Option<Instant> = None;
    while goes_on() {
        let mut changed = take(&samples, &mut view) || drawn.is_none_or(|at| at.elapsed() >= DRAW_EVERY);
        for _ in 0..KEYS_MAX {
            if !event::poll(Duration::ZERO)? {
                break;
            }
            changed = true;
            // Other events are a new size, which the next picture finds by itself, or mean nothing here.
            let Event::Key(key) = event::read()? else { continue };
            match action(key) {
                Some(Action::Quit) => return Ok(true),
                Some(action) => view.act(action),
                None => {}
            }
        }
        if changed {
            view.log = held.map(|held| held.lines(LOG_LINES)).unwrap_or_default();
            screen.terminal.draw(|frame| draw(&view, settings.palette, frame.area(), frame.buffer_mut()))?;
            drawn = Some(Instant::now());
        }
        // Wakes when there is a key.
        event::poll(LOOK_EVERY)?;
    }
    Ok(false)
}

/// Takes what was sampled. False if that was nothing.
fn take(samples: &Receiver<Result<Sample, String>>, view: &mut View) -> bool {
    match samples.try_recv() {
        Ok(sample) => view.take(sample),
        Err(TryRecvError::Empty) => return false,
        Err(TryRecvError::Disconnected) => {
            view.take(Err("the thread that asks for figures has ended".to_owned()));
        }
    }
    true
}

/// What a key does.
fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        // In raw mode it is a key and no signal.
        KeyCode::Char('c') if control => Some(Action::Quit),
        KeyCode::Char('q') => Some(Action::Quit),
        KeyCode::Char('p' | ' ') => Some(Action::Pause),
        KeyCode::Tab => Some(Action::NextTable),
        KeyCode::Char('s') => Some(Action::Sort),
        KeyCode::Char('r') => Some(Action::Reverse),
        KeyCode::Down | KeyCode::Char('j') => Some(Action::Scroll(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(Action::Scroll(-1)),
        KeyCode::PageDown => Some(Action::Scroll(10)),
        KeyCode::PageUp => Some(Action::Scroll(-10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let plain = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('q')), Some(Action::Quit));
        assert_eq!(plain(KeyCode::Char('c')), None);
        assert_eq!(action(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Action::Quit));
        assert_eq!(plain(KeyCode::Char(' ')), Some(Action::Pause));
        assert_eq!(plain(KeyCode::Up), Some(Action::Scroll(-1)));
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(action(released), None);
    }
}
