//! The other end of the management socket.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{ANSWER_BYTES_MAX, Answer, REQUEST_BYTES_MAX, Request, read_line};

/// Longest wait for an answer: changes of a large configuration take a while.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the instance behind `socket`.
///
/// # Errors
/// Nobody listens there, or what comes back is no answer.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut answer = None;
    follow(socket, request, |said| {
        answer = Some(said);
        Ok(false)
    })?;
    answer.ok_or_else(|| io::Error::other("the instance gave no answer"))
}

/// Connects to the instance behind `socket`.
///
/// # Errors
/// Nobody listens there.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "; root and the configured group may use it",
            _ => "; is `millrace run` running, and is this its `management.socket`?",
        };
        io::Error::new(error.kind(), format!("connect to {}: {error}{hint}", socket.display()))
    })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Asks the instance behind `socket`; `each` takes its answers for as long as it says so.
///
/// # Errors
/// Nobody listens there, what comes back is no answer, or what `each` says.
pub fn follow(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(Answer) -> io::Result<bool>,
) -> io::Result<()> {
    let mut stream = connect(socket)?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    if line.len() as u64 > REQUEST_BYTES_MAX {
        let message = format!("the request has {} bytes; an instance takes {REQUEST_BYTES_MAX}", line.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // An instance that refuses a request before all of it has arrived says why before it closes.
    let written = stream.write_all(&line);
    let mut reader = BufReader::new(&stream);
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "the instance closed the connection");
    loop {
        let read = read_line(&mut reader, ANSWER_BYTES_MAX).and_then(|line| line.ok_or_else(closed));
        let line = match (&written, read) {
            (_, Ok(line)) => line,
            (Ok(()), Err(error)) => return Err(error),
            (Err(error), Err(_)) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("the instance took no more of the request: {error}"),
                ));
            }
        };
        let answer =
            serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if !each(answer)? {
            return Ok(());
        }
    }
}
