//! What goes over the management socket: a JSON object a line, one answer a request.

use std::io::{self, BufRead, Read};

use super::topic::Topic;
use crate::capture::Wanted;
use crate::config::{FILE_BYTES_MAX, LeftOut, Report};
use crate::explain::{self, Subject};
use crate::instance::Applied;
use crate::listing::Listing;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most bytes of a request's line: the largest configuration with its path. Of what TOML allows, no byte takes more than two in JSON.
pub const REQUEST_BYTES_MAX: u64 = 2 * FILE_BYTES_MAX + (64 << 10);
/// Most bytes of an answer's line.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Most rows of one answer.
pub const ROWS_MAX: usize = 10_000;
/// Rows of an answer when nothing else is asked.
pub const ROWS_DEFAULT: usize = 100;

/// What is asked of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Rows about something.
    Show {
        /// About what.
        topic: Topic,
        /// Terms `key=value`, all of which a row must match.
        #[serde(default)]
        filter: Vec<String>,
        /// Most rows; at most [`ROWS_MAX`].
        #[serde(default)]
        limit: Option<usize>,
        /// Matching rows that are left out at the beginning.
        #[serde(default)]
        offset: usize,
    },
    /// Ends the sessions that match all terms.
    ClearSessions {
        /// Terms `key=value`; none ends all sessions.
        filter: Vec<String>,
    },
    /// What would become of a packet, and why. Nothing changes.
    Explain {
        /// The port that it comes in by.
        input: String,
        /// The packet.
        subject: Subject,
    },
    /// Follows packets. The answers are one [`Answer::Explained`] for each, [`Answer::Tracing`] while none comes, and
    /// [`Answer::TraceEnded`].
    Trace {
        /// Terms `key=value`, all of which a packet must match.
        filter: Vec<String>,
        /// How many packets are followed.
        count: usize,
        /// One packet in so many is looked at.
        every: usize,
        /// The trace ends after so many seconds.
        seconds: usize,
    },
    /// Copies packets. The answer is [`Answer::Capturing`], and parts follow it: see [`crate::capture::stream`]. The connection is closed
    /// behind the last one, whose answer is [`Answer::CaptureEnded`].
    Capture(Wanted),
    /// Changes the instance to another configuration.
    Apply {
        /// The file's path: for messages, and relative paths in it start there.
        path: String,
        /// The text of the file.
        text: String,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Rows.
    Rows(Listing),
    /// It was done; what it did.
    Done(Vec<String>),
    /// A configuration is in force; what changed.
    Applied(Applied),
    /// What would become of a packet.
    Explained(Box<explain::Report>),
    /// A trace goes on.
    Tracing,
    /// A trace is over.
    TraceEnded {
        /// Packets that were followed.
        followed: u64,
        /// Packets that matched and were not followed, for want of time or room.
        left_out: u64,
    },
    /// A capture begins.
    Capturing,
    /// A capture is over.
    CaptureEnded {
        /// Packets that were sent.
        packets: u64,
        /// Packets that were not looked at for want of time.
        no_time: u64,
        /// Packets that were wanted and found no room.
        no_room: u64,
        /// What ended it, if that was neither asked for nor the client.
        why: Option<String>,
    },
    /// It was refused; nothing changed.
    Refused(String),
    /// A configuration was refused; nothing changed.
    Invalid {
        /// What is wrong, for people.
        text: String,
        /// The same by place.
        diagnostics: Vec<Value>,
        /// How many of each kind are not among them.
        #[serde(default)]
        left_out: LeftOut,
    },
}

impl Answer {
    /// That a configuration was refused.
    pub fn invalid(report: &Report) -> Self {
        let diagnostics = report.diagnostics.iter().filter_map(|it| serde_json::to_value(it).ok()).collect();
        Self::Invalid { text: report.to_string(), diagnostics, left_out: report.left_out }
    }
}

/// Reads one line of at most `bytes_max` bytes; none at the end.
///
/// # Errors
/// What the socket answers; `InvalidData` for a line that is longer, or no UTF-8.
pub fn read_line(reader: &mut impl BufRead, bytes_max: u64) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = reader.take(bytes_max + 1).read_line(&mut line)?;
    if read as u64 > bytes_max {
        let message = format!("a line is longer than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok((read > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded() {
        assert_eq!(read_line(&mut &b"abc\ndef"[..], 10).unwrap().as_deref(), Some("abc\n"));
        assert_eq!(read_line(&mut &b""[..], 10).unwrap(), None);
        assert!(read_line(&mut &b"0123456789\n"[..], 10).is_err());
        assert!(read_line(&mut &b"\xff\xfe\n"[..], 10).is_err());
    }

    #[test]
    fn requests_come_back_as_they_were_and_unknown_keys_are_errors() {
        let request = Request::Show {
            topic: Topic::Sessions,
            filter: vec!["port=80".into()],
            limit: Some(5),
            offset: 3,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert!(serde_json::from_str::<Request>(r#"{"request":"show","topic":"ports","what":1}"#).is_err());
    }
}
