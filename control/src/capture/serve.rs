//! A capture for a client of the management socket.

use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_dataplane::capture::Moment;
use millrace_dataplane::port::pcap::blocks::{
    Blocks, Direction, Interface, PacketBlock, Section, Statistics,
};
use millrace_dataplane::time::Time;

use super::Wanted;
use super::comments::{of_followed, of_record};
use super::points::{PointSet, Shows};
use super::source::{Seen, Source, Total};
use super::stream::{Kind, write};
use super::window::Window;
use crate::config::Config;
use crate::instance::Control;
use crate::instance::functions::PortFacts;
use crate::management::Answer;

/// How long a packet waits for earlier ones of other workers.
const WINDOW: Duration = Duration::from_millis(100);
/// How often the workers' records are collected.
const COLLECT_EVERY: Duration = Duration::from_millis(10);
/// A client is told this often what was counted, which finds out whether it is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Longest wait for a client to take bytes. Meanwhile packets are left out.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 256 << 10;

/// Serves a capture until it ends; the connection is to be closed then.
///
/// # Errors
/// What the socket answers.
pub fn serve(control: &Control, wanted: &Wanted, stream: &UnixStream) -> io::Result<()> {
    let started = wanted.check().and_then(|()| {
        let ports = control.ports();
        let config = control.config();
        let set = PointSet::parse(&wanted.points, &config, &ports)?;
        let source = Source::start(control, wanted, &set)?;
        Ok(Capture::new(control, wanted, set, source, config, ports))
    });
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    match started {
        Ok(mut capture) => capture.run(stream),
        Err(why) => answer(stream, &Answer::Refused(why)),
    }
}

fn answer(mut target: impl Write, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::from)?;
    line.push(b'\n');
    target.write_all(&line)
}

struct Capture<'a> {
    control: &'a Control,
    wanted: &'a Wanted,
    set: PointSet,
    source: Source,
    config: Config,
    ports: Vec<PortFacts>,
    window: Window,
    /// By point, packets that were sent to the client.
    delivered: Vec<u64>,
    started: Instant,
    started_ns: u64,
}

impl<'a> Capture<'a> {
    fn new(
        control: &'a Control,
        wanted: &'a Wanted,
        set: PointSet,
        source: Source,
        config: Config,
        ports: Vec<PortFacts>,
    ) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Self {
            control,
            wanted,
            delivered: vec![0; set.points.len()],
            set,
            source,
            config,
            ports,
            window: Window::default(),
            started: Instant::now(),
            started_ns: u64::try_from(since_1970).unwrap_or(u64::MAX),
        }
    }

    fn run(&mut self, stream: &UnixStream) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, stream);
        answer(&mut out, &Answer::Capturing)?;
        write(&mut out, Kind::Head, &self.head())?;
        // So that the client knows how long it is.
        write(&mut out, Kind::Tail, &self.tail())?;
        let deadline = self.wanted.seconds.map(|seconds| self.started + Duration::from_secs(seconds as u64));
        let mut told = Instant::now();
        let mut why = None;
        loop {
            out.flush()?;
            if has_ended(stream)? || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let any = self.collect();
            let until = self.now_ns().saturating_sub(WINDOW.as_nanos() as u64);
            if self.send(&mut out, until)? {
                break;
            }
            if told.elapsed() >= SIGN_OF_LIFE {
                told = Instant::now();
                write(&mut out, Kind::Tail, &self.tail())?;
                self.ports = self.control.ports();
                if let Some(name) = self.set.changed(&self.ports) {
                    why = Some(format!("{name} is gone"));
                    break;
                }
            }
            if !any {
                std::thread::sleep(COLLECT_EVERY);
            }
        }
        self.source.stop();
        self.collect();
        self.send(&mut out, u64::MAX)?;
        write(&mut out, Kind::Tail, &self.tail())?;
        let mut totals: Vec<_> = (0..self.set.points.len()).map(|point| self.total(point)).collect();
        let chains = (0..self.set.chains.len()).map(|chain| self.source.followed(chain));
        totals.retain(|(is_followed, _)| !is_followed);
        let totals = totals.into_iter().map(|(_, total)| total).chain(chains);
        let left_out = totals.fold(Total::default(), |sum, it| Total {
            passed: sum.passed + it.passed,
            no_time: sum.no_time + it.no_time,
            no_room: sum.no_room + it.no_room,
        });
        let ended = Answer::CaptureEnded {
            packets: self.delivered.iter().sum(),
            no_time: left_out.no_time,
            no_room: left_out.no_room,
            why,
        };
        write(&mut out, Kind::End, &serde_json::to_vec(&ended).map_err(io::Error::from)?)?;
        out.flush()
    }

    fn now_ns(&self) -> u64 {
        self.started_ns.saturating_add(self.started.elapsed().as_nanos() as u64)
    }

    /// Section and interfaces.
    fn head(&self) -> Vec<u8> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let mut bytes = Vec::new();
        let mut blocks = Blocks(&mut bytes);
        blocks.section(&Section {
            hardware: model.trim_start_matches([':', ' ', '\t']),
            system: &format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            application: concat!("millrace ", env!("CARGO_PKG_VERSION")),
        });
        for point in &self.set.points {
            blocks.interface(&Interface {
                name: &point.name,
                description: &point.description,
                mac: point.port.as_ref().map(|port| port.mac),
                snap_bytes: self.wanted.snap as u32,
            });
        }
        bytes
    }

    /// What passed a point; whether its packets are followed.
    fn total(&self, point: usize) -> (bool, Total) {
        let chains = self.set.points.get(point).map(|it| self.set.chains_of(it, &self.config));
        match chains.unwrap_or_default().as_slice() {
            [] => (false, self.source.recorded(point)),
            chains => {
                let mut total = Total::default();
                for it in chains.iter().map(|chain| self.source.followed(*chain)) {
                    total.passed += it.passed;
                    total.no_time += it.no_time;
                    total.no_room += it.no_room;
                }
                (true, total)
            }
        }
    }

    /// The statistics of all interfaces, as they are now.
    fn tail(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (point, delivered) in self.delivered.iter().enumerate() {
            let (_, total) = self.total(point);
            Blocks(&mut bytes).statistics(&Statistics {
                interface: point as u32,
                span: (Time(self.started_ns), Time(self.now_ns())),
                received: total.passed,
                dropped: total.no_time,
                system_dropped: total.no_room,
                delivered: *delivered,
            });
        }
        bytes
    }

    /// Takes what the workers saw into the window.
    fn collect(&mut self) -> bool {
        let Self { source, window, ports, set, wanted, .. } = self;
        source.collect(|time, seen| match seen {
            Seen::Recorded(record) => {
                let direction = match (record.reason, record.moment) {
                    (None, Moment::Received) => Direction::Inbound,
                    (None, Moment::Sent) => Direction::Outbound,
                    _ => Direction::Unknown,
                };
                let bytes = block(&PacketBlock {
                    interface: record.interface.into(),
                    time: Time(time),
                    direction,
                    bytes: record.bytes,
                    length: record.length.into(),
                    comments: &of_record(&record, ports),
                });
                window.push(time, (record.moment as u8) * 2 + u8::from(record.reason.is_some()), bytes);
            }
            Seen::Followed(followed) => {
                let shows = set.points.iter().map(|point| &point.shows);
                let shows: Vec<&Shows> = shows.collect();
                for shown in of_followed(followed, shows.into_iter(), ports) {
                    let bytes = block(&PacketBlock {
                        interface: shown.point as u32,
                        time: Time(time),
                        direction: Direction::Unknown,
                        bytes: &shown.frame[..shown.frame.len().min(wanted.snap)],
                        length: shown.frame.len() as u32,
                        comments: &shown.comments,
                    });
                    window.push(time, 1, bytes);
                }
            }
        })
    }

    /// Sends what is not later than `until`. True if no more is wanted.
    fn send(&mut self, out: &mut impl Write, until: u64) -> io::Result<bool> {
        let most = self.wanted.count.map_or(u64::MAX, |count| count as u64);
        let mut sent: u64 = self.delivered.iter().sum();
        while sent < most {
            let Some(block) = self.window.pop(until) else { return Ok(false) };
            write(&mut *out, Kind::Packet, &block)?;
            // The interface follows the block's type and length.
            let interface = block.get(8..12).and_then(|bytes| bytes.first_chunk::<4>());
            let point = interface.map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
            self.delivered.get_mut(point).into_iter().for_each(|delivered| *delivered += 1);
            sent += 1;
        }
        Ok(true)
    }
}

fn block(packet: &PacketBlock<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.bytes.len() + 256);
    Blocks(&mut bytes).packet(packet);
    bytes
}

/// Whether the client wants no more: it says so by ending its side, or is gone.
fn has_ended(mut stream: &UnixStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 16]);
    stream.set_nonblocking(false)?;
    match read {
        Ok(count) => Ok(count == 0),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}
