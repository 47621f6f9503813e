//! The part of HTTP/1.1 that gateways and their clients use: heads parsed by `httparse`, bodies by
//! `Content-Length` alone.
//!
//! Every length is bounded before anything is allocated. Chunked bodies, trailers and upgrades are
//! refused.

use std::io::{self, Read, Write};

use hrl::{Error, ErrorKind, Result};

/// Longest head of a request or response, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 32;
/// Header with the kind of a failure.
pub(crate) const KIND_HEADER: &str = "hrl-error";
/// Header with a failure's sentence, for answers without a body (to a HEAD).
pub(crate) const MESSAGE_HEADER: &str = "hrl-message";

/// Header with the identity of a cache: from a gateway, the cache that took a segment; from a
/// client, the cache of the segments before a catalog version.
pub(crate) const CACHE_HEADER: &str = "hrl-cache";

/// The head of a request.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub method: String,
    pub target: String,
    headers: Headers,
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub status: u16,
    headers: Headers,
}

#[derive(Debug)]
struct Headers(Vec<(String, String)>);

impl Headers {
    fn of(parsed: &[httparse::Header<'_>]) -> Self {
        let pair = |header: &httparse::Header<'_>| {
            (
                header.name.to_ascii_lowercase(),
                String::from_utf8_lossy(header.value).trim().to_owned(),
            )
        };
        Self(parsed.iter().map(pair).collect())
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the length of the body; `None` unless it is stated in the one supported way.
    fn content_length(&self) -> Option<u64> {
        let said = self.0.iter().filter(|(name, _)| name == "content-length").count();
        if said > 1 || self.find("transfer-encoding").is_some() {
            return None;
        }
        self.find("content-length").map_or(Some(0), |text| text.parse().ok())
    }
}

impl RequestHead {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.find(name)
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers.content_length()
    }

    /// Returns whether the client wants the connection closed afterwards.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Returns first and last byte of a `Range` of the form `bytes=A-B`.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

impl ResponseHead {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.find(name)
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers.content_length()
    }
}

/// Reads a head from a buffered stream; `None` if the peer closed before the first byte.
fn read_head(stream: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let available = stream.fill_buf()?;
        if available.is_empty() {
            if head.is_empty() {
                return Ok(None);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end may straddle two reads, so the last three bytes are searched again.
        let start = head.len().saturating_sub(3);
        let taken_before = head.len();
        head.extend_from_slice(available);
        let taken = available.len();
        if let Some(at) = head[start..].windows(4).position(|four| four == b"\r\n\r\n") {
            let end = start + at + 4;
            stream.consume(end - taken_before);
            head.truncate(end);
            check_head(&head)?;
            return Ok(Some(head));
        }
        stream.consume(taken);
        check_head(&head)?;
    }
}

fn check_head(head: &[u8]) -> io::Result<()> {
    if head.len() <= HEAD_BYTES_MAX {
        return Ok(());
    }
    Err(malformed("the head is too long"))
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads the next request; `None` if the client is done.
pub(crate) fn read_request(stream: &mut impl io::BufRead) -> io::Result<Option<RequestHead>> {
    let Some(bytes) = read_head(stream)? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&bytes).map_err(malformed)?;
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(malformed("the request line is not whole"));
    };
    Ok(Some(RequestHead {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: Headers::of(parsed.headers),
    }))
}

/// Reads the head of a response.
pub(crate) fn read_response(stream: &mut impl io::BufRead) -> io::Result<ResponseHead> {
    let Some(bytes) = read_head(stream)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&bytes).map_err(malformed)?;
    let Some(status) = parsed.code else { return Err(malformed("the status line is not whole")) };
    Ok(ResponseHead { status, headers: Headers::of(parsed.headers) })
}

/// Reads a body whose length was checked.
pub(crate) fn read_body(stream: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    // Grows with the received bytes, so that a stated length alone reserves nothing.
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Writes a request.
pub(crate) fn write_request(
    stream: &mut impl Write,
    method: &str,
    target: &str,
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: gateway\r\n");
    push_headers(&mut head, headers, body.len() as u64);
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

/// Writes a response. `length` is that of the object if the body is left out (to a HEAD).
pub(crate) fn write_response(
    stream: &mut impl Write,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    length: Option<u64>,
) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Error",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    push_headers(&mut head, headers, length.unwrap_or(body.len() as u64));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

fn push_headers(head: &mut String, headers: &[(&str, String)], length: u64) {
    use std::fmt::Write as _;
    for (name, value) in headers {
        let value = value.replace(['\r', '\n'], " ");
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {length}\r\n\r\n");
}

/// Kinds that are sent by name; the receiver takes any other as `Unavailable`.
const KINDS: [ErrorKind; 11] = [
    ErrorKind::Diverged,
    ErrorKind::Changed,
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::Corrupt,
    ErrorKind::Unsupported,
    ErrorKind::Unavailable,
    ErrorKind::Full,
    ErrorKind::Fenced,
    ErrorKind::ReadOnly,
    ErrorKind::Denied,
];

/// Returns the HTTP status of a failure.
pub(crate) fn status_of(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::InvalidInput => 416,
        ErrorKind::NotFound => 404,
        ErrorKind::Fenced | ErrorKind::Denied => 403,
        ErrorKind::Full => 507,
        _ => 503,
    }
}

/// Returns the error in a response.
pub(crate) fn error_of(
    head: &ResponseHead,
    body: &[u8],
    operation: &'static str,
    name: &str,
) -> Error {
    let name_of_kind = head.header(KIND_HEADER).unwrap_or_default();
    let kind = KINDS.into_iter().find(|kind| kind.name() == name_of_kind);
    let kind = kind.unwrap_or(ErrorKind::Unavailable);
    let text = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    let text =
        if text.is_empty() { head.header(MESSAGE_HEADER).unwrap_or_default() } else { &*text };
    Error::new(kind, operation, name)
        .message(format_args!("the gateway answered {}: {text}", head.status))
}

/// Returns the length of a body. Fails with `Corrupt` if it is unknown or above the limit.
pub(crate) fn check_length(
    length: Option<u64>,
    length_max: u64,
    operation: &'static str,
    name: &str,
) -> Result<u64> {
    length.filter(|length| *length <= length_max).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, operation, name)
            .expected(format_args!("a body of at most {length_max} bytes, with its length"))
            .found(length.map_or("none".to_owned(), |length| length.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn requests_and_responses_come_back() {
        let mut wire = Vec::new();
        let range = [("range", "bytes=3-9".to_owned())];
        write_request(&mut wire, "GET", "/v1/objects/a/b", &range, b"").expect("write");
        write_request(&mut wire, "PUT", "/v1/objects/c", &[], b"body").expect("write");
        // One byte at a time, so that every boundary is crossed.
        let mut stream = BufReader::with_capacity(1, &wire[..]);
        let first = read_request(&mut stream).expect("read").expect("one");
        assert_eq!((first.method.as_str(), first.range()), ("GET", Some((3, 9))));
        let second = read_request(&mut stream).expect("read").expect("two");
        assert_eq!((second.target.as_str(), second.content_length()), ("/v1/objects/c", Some(4)));
        assert_eq!(read_body(&mut stream, 4).expect("body"), b"body");
        assert!(read_request(&mut stream).expect("the end").is_none());

        let mut wire = Vec::new();
        let kind = [(KIND_HEADER, "full".to_owned())];
        write_response(&mut wire, 507, &kind, b"no room", None).expect("write");
        let mut stream = BufReader::new(&wire[..]);
        let head = read_response(&mut stream).expect("read");
        let error = error_of(&head, b"no room", "put", "x");
        assert_eq!((head.status, error.kind()), (507, ErrorKind::Full));
    }

    #[test]
    fn promise_11_what_cannot_be_bounded_is_refused() {
        let refused = |text: &str| {
            let mut stream = BufReader::new(text.as_bytes());
            match read_request(&mut stream) {
                Err(_) => true,
                Ok(Some(head)) => head.content_length().is_none(),
                Ok(None) => false,
            }
        };
        assert!(refused(&format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX))));
        assert!(refused("GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"));
        assert!(refused("\u{0}\u{1}\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\n"));
        let mut short = &b"abc"[..];
        assert!(read_body(&mut short, 4).is_err());
    }
}
