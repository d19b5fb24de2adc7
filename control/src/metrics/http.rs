//! As much of HTTP/1.1 as a scrape needs, within bounds: one request a connection, at most [`REQUEST_BYTES_MAX`] bytes of it.

use std::io::{self, Read, Write};

/// Most bytes of a request's head.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path without query.
    pub path: String,
    /// The `Accept` headers, joined by commas.
    pub accept: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status with reason.
    pub status: &'static str,
    /// Content type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Response {
    /// A status and why, as text.
    pub fn plain(status: &'static str, why: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{why}\n") }
    }

    /// Sends it; without the body if only the `head` was asked for.
    ///
    /// # Errors
    /// What the connection answers.
    pub fn write(&self, head: bool, to: &mut impl Write) -> io::Result<()> {
        let Self { status, content_type, body } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let mut text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            body.len()
        );
        if !head {
            text += body;
        }
        to.write_all(text.as_bytes())?;
        to.flush()
    }
}

/// Reads a request's head. What can't be a request is answered with the response; what never arrives is an error.
///
/// # Errors
/// What the connection answers, or its end before that of the request.
pub fn read(from: &mut impl Read) -> io::Result<Result<Request, Response>> {
    let mut bytes = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        let room = (REQUEST_BYTES_MAX - bytes.len()).min(chunk.len());
        if room == 0 {
            return Ok(Err(Response::plain(
                "431 Request Header Fields Too Large",
                "the request is too large",
            )));
        }
        let read = from.read(&mut chunk[..room])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the request ends early"));
        }
        bytes.extend_from_slice(&chunk[..read]);
        if let Some(parsed) = parse(&bytes) {
            return Ok(parsed);
        }
    }
}

/// The request in `bytes`, or what is wrong with it; nothing while its end is missing.
pub fn parse(bytes: &[u8]) -> Option<Result<Request, Response>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default();
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            let accept = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
            let accept: Vec<_> = accept.filter_map(|header| std::str::from_utf8(header.value).ok()).collect();
            Some(Ok(Request {
                method: request.method.unwrap_or_default().to_owned(),
                path: path.to_owned(),
                accept: (!accept.is_empty()).then(|| accept.join(",")),
            }))
        }
        Err(httparse::Error::TooManyHeaders) => {
            Some(Err(Response::plain("431 Request Header Fields Too Large", "there are too many headers")))
        }
        Err(error) => Some(Err(Response::plain("400 Bad Request", &error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(mut bytes: &[u8]) -> Result<Request, String> {
        match read(&mut bytes) {
            Ok(Ok(request)) => Ok(request),
            Ok(Err(response)) => Err(response.status.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn requests_are_read_within_bounds() {
        let request =
            read_all(b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\naccept: a\r\nAccept: b;q=1\r\n\r\n").unwrap();
        let Request { method, path, accept } = request;
        assert_eq!((&*method, &*path, accept.as_deref()), ("GET", "/metrics", Some("a,b;q=1")));
        assert_eq!(read_all(b"GET / HTTP/1.1\r\nHost"), Err("the request ends early".to_owned()));
        assert_eq!(read_all(b"hello\r\n\r\n"), Err("400 Bad Request".to_owned()));
        assert_eq!(read_all(b"GET / HTTP/3\r\n\r\n"), Err("400 Bad Request".to_owned()));
        let too_large = "431 Request Header Fields Too Large".to_owned();
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(REQUEST_BYTES_MAX));
        assert_eq!(read_all(long.as_bytes()), Err(too_large.clone()));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(read_all(many.as_bytes()), Err(too_large));
    }

    #[test]
    fn responses_say_their_length() {
        let mut text = Vec::new();
        Response::plain("405 Method Not Allowed", "no").write(false, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n")
                && text.contains("\r\nAllow: GET, HEAD\r\n")
        );
        assert!(text.contains("\r\nContent-Length: 3\r\n") && text.ends_with("\r\n\r\nno\n"), "{text}");
        let mut head = Vec::new();
        Response::plain("200 OK", "body").write(true, &mut head).unwrap();
        assert!(String::from_utf8(head).unwrap().ends_with("\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..12_000)) {
            let _ = read_all(&bytes);
            let request = [b"GET /metrics HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat();
            let _ = read_all(&request);
        }
    }
}
