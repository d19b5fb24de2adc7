//! The server: one thread accepts, each connection has its own with timeouts.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::{Answer, REQUEST_BYTES_MAX, Request, read_line};
use super::socket::Socket;
use super::{clear, show};
use crate::capture;
use crate::connections::{ACCEPT_PAUSE, AcceptErrors, Deadline, Places};
use crate::explain;
use crate::instance::{Control, InstanceError};
use crate::supervised::{Pulse, Supervised, panic_message};
use crate::trace::serve::{Wanted, serve as follow};

/// Most connections at a time; more are told so and closed.
const CONNECTIONS_MAX: usize = 8;
/// Longest silence of a client, and longest wait for it to take bytes.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a client to take one answer, however it trickles out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for one request to arrive, however it trickles in.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a client that is refused to take its answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(100);
/// How often the server looks whether it shall end.
const ACCEPT_EVERY: Duration = Duration::from_millis(20);
/// Longest time between two looks at the socket, before another thread takes over.
const STALL_TIME: Duration = Duration::from_secs(5);

/// A running server; it ends, and its socket goes, when this is dropped.
#[derive(Debug)]
pub struct Server(Supervised);

impl Server {
    /// Serves `control` on `socket`.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(socket: Socket, control: Arc<Control>) -> io::Result<Self> {
        let places = Places::new(CONNECTIONS_MAX);
        let body = move |pulse: &Pulse| accept(&socket, &control, &places, pulse);
        Supervised::start("management", STALL_TIME, body).map(Self)
    }

    /// Its thread.
    pub fn thread(&mut self) -> &mut Supervised {
        &mut self.0
    }
}

fn accept(socket: &Socket, control: &Arc<Control>, places: &Places, pulse: &Pulse) {
    let mut errors = AcceptErrors::default();
    while pulse.goes_on() {
        match socket.listener.accept() {
            Ok((stream, _)) => {
                let Some(place) = places.take() else {
                    refuse(&stream, "too many connections are open");
                    continue;
                };
                let control = Arc::clone(control);
                let serve = move || {
                    let _place = place;
                    if let Err(error) = serve(&stream, &control) {
                        tracing::debug!(%error, "a management connection ended");
                    }
                };
                if let Err(error) =
                    std::thread::Builder::new().name("management-client".to_owned()).spawn(serve)
                {
                    tracing::error!(%error, "no thread for a management connection");
                }
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    std::thread::sleep(ACCEPT_EVERY);
                    continue;
                }
                if let Some(left_out) = errors.note(Instant::now()) {
                    let left_out = (left_out > 0).then_some(left_out);
                    tracing::warn!(%error, left_out, "a management connection could not be accepted");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn refuse(stream: &UnixStream, why: &str) {
    // Best effort: who asks too often need not read the answer.
    let _ = write(stream, &Answer::Refused(why.to_owned()), REFUSAL_TIMEOUT, REFUSAL_TIMEOUT);
}

fn serve(stream: &UnixStream, control: &Control) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(Deadline::new(stream, REQUEST_TIMEOUT, CLIENT_TIMEOUT));
    loop {
        reader.get_mut().renew(REQUEST_TIMEOUT);
        let line = match read_line(&mut reader, REQUEST_BYTES_MAX) {
            Ok(None) => return Ok(()),
            Ok(Some(line)) => line,
            Err(error) => {
                answer(stream, &Answer::Refused(format!("the request can't be read: {error}")))?;
                return Err(error);
            }
        };
        match read(&line) {
            Ok(Request::Trace { filter, count, every, seconds }) => {
                let wanted = Wanted { filter, count, every, seconds };
                follow(control, &wanted, |said| answer(stream, said))?;
            }
            Ok(Request::Capture(wanted)) => return capture::serve::serve(control, &wanted, stream),
            Ok(request) => answer(stream, &handle_or_refuse(control, request))?,
            Err(refusal) => answer(stream, &refusal)?,
        }
    }
}

fn answer(stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    write(stream, answer, ANSWER_TIMEOUT, CLIENT_TIMEOUT)
}

/// Writes an answer in `time`, of which no single wait is longer than `silence_max`.
fn write(stream: &UnixStream, answer: &Answer, time: Duration, silence_max: Duration) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::from)?;
    line.push(b'\n');
    Deadline::new(stream, time, silence_max).write_all(&line)
}

/// The answer to a line that arrived, whatever it is.
pub fn respond(control: &Control, line: &str) -> Answer {
    read(line).map_or_else(|refusal| refusal, |request| handle_or_refuse(control, request))
}

fn read(line: &str) -> Result<Request, Answer> {
    serde_json::from_str(line).map_err(|error| Answer::Refused(format!("no request: {error}")))
}

/// A request whose handling panics is refused; the connection, the instance and its packets go on.
fn handle_or_refuse(control: &Control, request: Request) -> Answer {
    // What a request changes is changed by the worker, or replaced whole at its end (see `Control::apply`).
    catch_unwind(AssertUnwindSafe(|| handle(control, request))).unwrap_or_else(|panic| {
        let panic = panic_message(panic.as_ref());
        tracing::error!(panic, "a management request panicked");
        Answer::Refused(format!("the request failed inside Millrace, which goes on: {panic}"))
    })
}

fn handle(control: &Control, request: Request) -> Answer {
    let said = match request {
        Request::Show { topic, filter, limit, offset } => {
            show::show(control, topic, &filter, limit, offset).map(Answer::Rows)
        }
        Request::ClearSessions { filter } => clear::sessions(control, &filter).map(Answer::Done),
        Request::Explain { input, subject } => explain::look::explain(control, &input, &subject)
            .map(|report| Answer::Explained(Box::new(report))),
        Request::Trace { .. } => Err("a trace has more than one answer".to_owned()),
        Request::Capture(_) => Err("a capture has more than one answer".to_owned()),
        Request::Apply { path, text } => {
            return match control.apply(path.as_ref(), &text) {
                Ok(applied) => Answer::Applied(applied),
                Err(InstanceError::Invalid(report)) => Answer::invalid(&report),
                Err(error) => Answer::Refused(error.to_string()),
            };
        }
    };
    said.unwrap_or_else(Answer::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A reader that takes a little now and then is given up, however often it does.
    #[test]
    fn a_slow_reader_does_not_stay() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let big = Answer::Refused("x".repeat(8 << 20));
        let reader = std::thread::spawn(move || {
            let mut taken = 0;
            while let Ok(count @ 1..) = there.read(&mut [0; 4_096]) {
                taken += count;
                std::thread::sleep(Duration::from_millis(10));
            }
            taken
        });
        let start = Instant::now();
        let said = write(&here, &big, Duration::from_millis(500), Duration::from_secs(5));
        assert!(said.is_err() && start.elapsed() < Duration::from_secs(4), "{said:?} {:?}", start.elapsed());
        drop(here);
        assert!(reader.join().unwrap() < 8 << 20);
    }
}
