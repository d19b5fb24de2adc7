//! What a service manager is told, by the protocol of sd_notify(3): ready, reloading, stopping, and signs of life for its
//! watchdog. Without `NOTIFY_SOCKET` in the environment nothing is said.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Longest wait for a service manager that takes nothing.
const SEND_TIME: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// The one that this process was started by, if it wants to be told.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` names no socket that can be sent to.
    pub fn from_environment() -> io::Result<Self> {
        env::var_os("NOTIFY_SOCKET")
            .filter(|name| !name.is_empty())
            .map_or(Ok(Self::default()), |name| Self::to(&name))
    }

    /// The one that listens at `name`: a path, or `@` and a name of the abstract namespace.
    ///
    /// # Errors
    /// It is neither, or no socket can be made.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIME))?;
        Ok(Self(Some((socket, address))))
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, state, "the service manager could not be told");
        }
    }

    /// Packets flow; `status` says it for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The configuration is being changed until the answer is dropped.
    pub fn reloading(&self) -> Reloading<'_> {
        // The clock that a manager compares with its own (sd_notify(3), MONOTONIC_USEC).
        let now = clock_gettime(ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000));
        Reloading(self)
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }
}

/// A change under way; when this is dropped, it is over.
#[derive(Debug)]
pub struct Reloading<'a>(&'a Notifier);

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        self.0.tell("READY=1");
    }
}

/// Feeds the service manager's watchdog, but only while all that it is to watch lives.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    due: Instant,
    /// Turns of the worker when the watchdog was fed last.
    turns: Option<u64>,
}

impl Watchdog {
    /// The one that the environment asks this process for.
    pub fn from_environment() -> Self {
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let mine = env::var_os("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(std::process::id().into());
        Self::new(number("WATCHDOG_USEC").filter(|_| mine).map(Duration::from_micros))
    }

    /// One that barks after `time` without food; none never does.
    pub fn new(time: Option<Duration>) -> Self {
        // Twice as often as it has to be, as sd_watchdog_enabled(3) advises.
        Self {
            every: time.filter(|time| !time.is_zero()).map(|time| time / 2),
            due: Instant::now(),
            turns: None,
        }
    }

    /// To be called often: feeds it when it is time, if the worker has made `turns` since the last time and the control threads
    /// are `alive`.
    pub fn look(&mut self, notifier: &Notifier, now: Instant, turns: u64, alive: bool) {
        let Some(every) = self.every else { return };
        if now < self.due || !alive || self.turns == Some(turns) {
            return;
        }
        (self.due, self.turns) = (now + every, Some(turns));
        notifier.tell("WATCHDOG=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 256];
        socket.recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn manager(abstract_name: bool) -> (UnixDatagram, Notifier, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let (socket, name) = if abstract_name {
            let name = format!("millrace-test-{}", path.display());
            (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()), format!("@{name}"))
        } else {
            (UnixDatagram::bind(&path), path.display().to_string())
        };
        let socket = socket.unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, Notifier::to(name.as_ref()).unwrap(), directory)
    }

    #[test]
    fn a_manager_is_told_wherever_it_listens() {
        for abstract_name in [false, true] {
            let (socket, notifier, _directory) = manager(abstract_name);
            notifier.ready("all\nwell");
            assert_eq!(received(&socket).as_deref(), Some("READY=1\nSTATUS=all well"));
            let reloading = notifier.reloading();
            let told = received(&socket).unwrap();
            let micros: u64 = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
            assert!(micros > 0 && received(&socket).is_none());
            drop(reloading);
            assert_eq!(received(&socket).as_deref(), Some("READY=1"));
            notifier.stopping();
            assert_eq!(received(&socket).as_deref(), Some("STOPPING=1"));
        }
        assert!(Notifier::to("relative".as_ref()).is_err());
        // Nobody is told, and nothing fails.
        Notifier::default().ready("");
    }

    #[test]
    fn the_watchdog_starves_unless_all_live() {
        let (socket, notifier, _directory) = manager(false);
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(2)));
        let mut fed = |millis, turns, alive| {
            watchdog.look(&notifier, at(millis), turns, alive);
            received(&socket).is_some_and(|told| told == "WATCHDOG=1")
        };
        assert!(fed(10, 1, true), "at once");
        assert!(!fed(500, 2, true), "not before it is time");
        assert!(fed(1_010, 2, true));
        assert!(!fed(2_500, 2, true), "the worker stalls");
        assert!(!fed(3_500, 3, false), "a control thread stalls");
        assert!(fed(3_600, 3, true));
        let mut none = Watchdog::new(None);
        none.look(&notifier, at(9_000), 9, true);
        assert_eq!(received(&socket), None);
    }
}
