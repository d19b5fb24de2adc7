//! Why an instance can't be made or changed.

use millrace_dataplane::memory::{ArenaError, PoolError};
use millrace_dataplane::port::PortError;

use crate::config::{Problem, Report};

/// What keeps a configuration from running.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The memory can't be had.
    #[error("memory: {0}")]
    Arena(#[from] ArenaError),
    /// The packet buffers can't be made.
    #[error("memory.frames: {0}")]
    Pool(#[from] PoolError),
    /// A port can't be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A port's settings don't fit.
    #[error("ports.{port}: {message}")]
    PortSettings {
        /// The port.
        port: String,
        /// What does not fit.
        message: String,
    },
    /// A function can't be made of its settings.
    #[error("functions.{function}: {message}")]
    Function {
        /// The function.
        function: String,
        /// What does not fit.
        message: String,
    },
    /// The configuration asks for what this version can't do, or what can't be changed while it runs.
    #[error("{key}: {message}")]
    Unsupported {
        /// The key.
        key: String,
        /// Why not.
        message: String,
    },
    /// The system refused something else.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// The configuration has errors, or can't replace the one in force: what is wrong, and where.
    #[error("{0}")]
    Invalid(Report),
    /// The worker does not answer.
    #[error("the worker does not answer")]
    WorkerGone,
    /// The change is in force, and these have not taken it in time.
    #[error(
        "the change is in force, but {} did not answer: what it works on goes by the old configuration until it goes on, and \
         then by the new one; cores change, and removed ports are closed, with the next `apply`",
        show_late(.shares, .functions)
    )]
    Late {
        /// Numbers of shares.
        shares: Vec<usize>,
        /// Names of functions on cores of their own.
        functions: Vec<String>,
    },
    /// The change is in force, and what comes behind it failed.
    #[error(
        "the change is in force, but {0}: cores change, and removed ports are closed, with the next `apply`"
    )]
    Unfinished(Box<Self>),
    /// A thread panicked.
    #[error("{what} panicked: {panic}")]
    Panicked {
        /// What the thread was doing.
        what: &'static str,
        /// What it said.
        panic: String,
    },
}

/// `share 1`, `shares 1, 3 and function ids`.
fn show_late(shares: &[usize], functions: &[String]) -> String {
    let numbers: Vec<String> = shares.iter().map(ToString::to_string).collect();
    let show = |what: &str, names: &[String]| {
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{what}{plural} {}", names.join(", ")))
    };
    let late = [show("share", &numbers), show("function", functions)];
    late.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

impl InstanceError {
    /// Something about a function.
    pub fn function(function: &str, message: impl Into<String>) -> Self {
        Self::Function { function: function.to_owned(), message: message.into() }
    }

    /// What is wrong, and with which key of the configuration.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Port(error) => {
                // A port may have any name that a key can be.
                Problem::new(format!("ports.{}", error.port), format!("{}: {}", error.action, error.source))
            }
            Self::PortSettings { port, message } => Problem::new(format!("ports.{port}"), message.as_str()),
            Self::Function { function, message } => {
                Problem::new(format!("functions.{function}"), message.as_str())
            }
            Self::Unsupported { key, message } => Problem::new(key.as_str(), message.as_str()),
            other => Problem::new("", other.to_string()),
        }
    }

    /// Something about a port.
    pub fn port(port: &str, message: impl Into<String>) -> Self {
        Self::PortSettings { port: port.to_owned(), message: message.into() }
    }

    /// Something that can't be done.
    pub fn unsupported(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Unsupported { key: key.into(), message: message.into() }
    }
}
