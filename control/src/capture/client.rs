//! Asks an instance for a capture, and hands on what comes.

use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Wanted;
use super::stream::{Kind, read};
use crate::management::client::connect;
use crate::management::protocol::{ANSWER_BYTES_MAX, read_line};
use crate::management::{Answer, Request};

/// Asks the instance behind `socket`. `each` takes the parts as they come, with whether another one is here already, and says whether
/// it wants more; `stop` ends the capture as soon as a part comes, which is each second. Returns the answer at the end.
///
/// # Errors
/// Nobody listens there, the capture is refused, or what `each` says.
pub fn capture(
    socket: &Path,
    wanted: &Wanted,
    stop: &AtomicBool,
    mut each: impl FnMut(Kind, &[u8], bool) -> io::Result<bool>,
) -> io::Result<Answer> {
    let mut stream = &connect(socket)?;
    let mut line = serde_json::to_vec(&Request::Capture(wanted.clone())).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the instance ended the capture");
    let line = read_line(&mut reader, ANSWER_BYTES_MAX)?.ok_or_else(closed)?;
    match serde_json::from_str(&line)? {
        Answer::Capturing => {}
        Answer::Refused(why) => return Err(io::Error::other(why)),
        _ => return Err(io::Error::other("the instance answered something else")),
    }
    let mut bytes = Vec::new();
    let mut goes_on = true;
    loop {
        let kind = match read(&mut reader, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(closed()),
            other => other?,
        };
        if kind == Kind::End {
            return Ok(serde_json::from_slice(&bytes)?);
        }
        let more = each(kind, &bytes, !reader.buffer().is_empty())?;
        if goes_on && (!more || stop.load(Ordering::Relaxed)) {
            goes_on = false;
            stream.shutdown(Shutdown::Write)?;
        }
    }
}
