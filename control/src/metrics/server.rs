//! The server: one thread accepts, each connection has its own, with bounds on all that a client can do.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::exposition::Format;
use super::http::{self, Request, Response};
use super::reading::Readings;
use super::tell::tell;
use crate::connections::{ACCEPT_PAUSE, AcceptErrors, Deadline, Places};
use crate::instance::Control;
use crate::supervised::{Pulse, Supervised};

/// Where the metrics are.
pub const PATH: &str = "/metrics";

/// Most connections at a time; more are told so and closed.
const CONNECTIONS_MAX: usize = 8;
/// Longest time for a request to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Longest time for a client to take its answer.
const RESPONSE_TIME: Duration = Duration::from_secs(10);
/// How long, and for how many bytes, what a client still sends is taken, so that it reads its answer before the connection ends.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 << 10;
/// How often the server looks whether it shall end.
const ACCEPT_EVERY: Duration = Duration::from_millis(20);
/// Longest time between two looks at the listener, before another thread takes over.
const STALL_TIME: Duration = Duration::from_secs(5);

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    thread: Supervised,
    address: SocketAddr,
}

/// What connections share.
#[derive(Debug)]
struct Site {
    control: Arc<Control>,
    readings: Readings,
    start: SystemTime,
}

impl Server {
    /// Serves the metrics of `control` at `address`.
    ///
    /// # Errors
    /// The address can't be had, or no thread.
    pub fn start(address: SocketAddr, control: Arc<Control>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site { control, readings: Readings::default(), start: SystemTime::now() });
        let places = Places::new(CONNECTIONS_MAX);
        let body = move |pulse: &Pulse| accept(&listener, &site, &places, pulse);
        Ok(Self { thread: Supervised::start("metrics", STALL_TIME, body)?, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its thread.
    pub fn thread(&mut self) -> &mut Supervised {
        &mut self.thread
    }
}

fn accept(listener: &TcpListener, site: &Arc<Site>, places: &Places, pulse: &Pulse) {
    let mut errors = AcceptErrors::default();
    while pulse.goes_on() {
        match listener.accept() {
            Ok((stream, _)) => {
                let Some(place) = places.take() else {
                    let busy = Response::plain("503 Service Unavailable", "too many connections are open");
                    // Best effort: the kernel takes these few bytes at once or never.
                    let _ = stream.set_nonblocking(true).and_then(|()| busy.write(false, &mut &stream));
                    continue;
                };
                let site = Arc::clone(site);
                let serve = move || {
                    let _place = place;
                    if let Err(error) = serve(&stream, &site) {
                        tracing::debug!(%error, "a metrics connection ended");
                    }
                };
                if let Err(error) = std::thread::Builder::new().name("metrics-client".to_owned()).spawn(serve)
                {
                    tracing::error!(%error, "no thread for a metrics connection");
                }
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    std::thread::sleep(ACCEPT_EVERY);
                    continue;
                }
                if let Some(left_out) = errors.note(Instant::now()) {
                    let left_out = (left_out > 0).then_some(left_out);
                    tracing::warn!(%error, left_out, "a metrics connection could not be accepted");
                }
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve(stream: &TcpStream, site: &Site) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let request = http::read(&mut Deadline::new(stream, REQUEST_TIME, REQUEST_TIME))?;
    let head = request.as_ref().is_ok_and(|request| request.method == "HEAD");
    let response = request.map_or_else(|wrong| wrong, |request| respond(&request, site));
    response.write(head, &mut Deadline::new(stream, RESPONSE_TIME, RESPONSE_TIME))?;
    stream.shutdown(Shutdown::Write)?;
    let rest = Deadline::new(stream, LINGER_TIME, LINGER_TIME);
    io::copy(&mut rest.take(LINGER_BYTES), &mut io::sink()).map(|_| ())
}

fn respond(request: &Request, site: &Site) -> Response {
    if !matches!(&*request.method, "GET" | "HEAD") {
        return Response::plain("405 Method Not Allowed", "metrics can only be read");
    }
    if request.path != PATH {
        return Response::plain("404 Not Found", "the metrics are at /metrics");
    }
    let format = Format::accepted(request.accept.as_deref());
    match site.readings.fresh(&site.control) {
        Ok(reading) => Response {
            status: "200 OK",
            content_type: format.content_type(),
            body: tell(&reading, site.start, format),
        },
        Err(error) => Response::plain("503 Service Unavailable", &error.to_string()),
    }
}
