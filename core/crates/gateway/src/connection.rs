//! One connection of a gateway: TLS, the client's identity, and requests one after the other.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store, check_name};
use hrl::vault::layout;
use hrl::{Error, ErrorKind, Result};
use hrl_tls::rustls::{ServerConnection, StreamOwned};
use hrl_tls::{EnrolledClient, find_client, fingerprint};

use crate::cache::Cache;
use crate::client::DELETED_AT_ONCE_MAX;
use crate::http::{
    CACHE_HEADER, KIND_HEADER, MESSAGE_HEADER, RequestHead, read_body, read_request, status_of,
    write_response,
};
use crate::server::Shared;

/// A connection that is silent for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Time limit of a handshake and of each part of a request.
const PART_LIMIT: Duration = Duration::from_secs(30);
/// How long a catalog version waits for the segments before it.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// Up to this length a refused body is read, so that the answer reaches the client.
const SKIPPED_BYTES_MAX: u64 = 1 << 20;

/// Answer to a request.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Length to state in an answer without a body (to a HEAD).
    length: Option<u64>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None }
    }

    fn of_error(error: &Error) -> Self {
        let mut reply = Self::new(status_of(error.kind()), error.to_string());
        reply.headers.push((KIND_HEADER, error.kind().name().to_owned()));
        reply.headers.push((MESSAGE_HEADER, error.to_string().chars().take(1000).collect()));
        reply
    }
}

/// Serves a client until it leaves, breaks the protocol, or the gateway stops.
pub(crate) fn run(shared: &Arc<Shared>, socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PART_LIMIT))?;
    socket.set_write_timeout(Some(PART_LIMIT))?;
    let waiting = socket.try_clone()?;
    let mut tls = ServerConnection::new(shared.tls.clone()).map_err(io::Error::other)?;
    let mut socket = socket;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).inspect_err(|_| refused(shared))?;
    }
    let certificate = tls.peer_certificates().and_then(|chain| chain.first());
    let known = certificate.map(|certificate| fingerprint(certificate));
    let client = match known.map(|known| find_client(shared.pki(), &known)) {
        Some(Ok(client)) => client,
        _ => None,
    };
    let mut stream = BufReader::new(StreamOwned::new(tls, socket));
    let place = client.as_ref().map(|client| shared.limits.connection(&client.name));
    loop {
        waiting.set_read_timeout(Some(IDLE_LIMIT))?;
        // The first byte may take long; the rest may not.
        if io::BufRead::fill_buf(&mut stream)?.is_empty() {
            return Ok(());
        }
        waiting.set_read_timeout(Some(PART_LIMIT))?;
        let Some(head) = read_request(&mut stream)? else { return Ok(()) };
        let Some(client) = &client else {
            // An answer rather than a closed connection, so that the agent can report it to its
            // operator.
            refused(shared);
            let error = Error::new(ErrorKind::Denied, "serve", "client")
                .message("its certificate is not enrolled at this gateway");
            return send(&mut stream, &head, &Reply::of_error(&error));
        };
        if place.as_ref().is_some_and(Option::is_none) {
            refused(shared);
            let error = Error::new(ErrorKind::Unavailable, "serve", &client.name).expected(
                format_args!("at most {} connections", shared.options.client_connections_max),
            );
            return send(&mut stream, &head, &Reply::of_error(&error));
        }
        if !serve(shared, client, &head, &mut stream)? {
            return Ok(());
        }
    }
}

/// Answers the requests of an enrolled client until it leaves or breaks the protocol, without TLS.
/// Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn converse<S: Read + Write>(
    shared: &Shared,
    client: &EnrolledClient,
    stream: S,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_request(&mut stream)? {
        if !serve(shared, client, &head, &mut stream)? {
            break;
        }
    }
    Ok(())
}

/// Answers one request, whose body is still unread. Returns false if the connection ends with it.
fn serve<S: Read + Write>(
    shared: &Shared,
    client: &EnrolledClient,
    head: &RequestHead,
    stream: &mut BufReader<S>,
) -> io::Result<bool> {
    // Taken until the answer is sent.
    let room = shared.limits.room(&client.name, bytes_of(shared, head));
    let (reply, body_read) = match room {
        Some(_) => answer(shared, client, head, stream),
        None => (Reply::of_error(&no_room(shared, client)), false),
    };
    shared.counters.requests.fetch_add(1, Ordering::Relaxed);
    if reply.status >= 400 && !matches!(reply.status, 404 | 412) {
        shared.counters.errors.fetch_add(1, Ordering::Relaxed);
    }
    send(stream, head, &reply)?;
    Ok(body_read && !head.closes() && !shared.is_stopping())
}

fn refused(shared: &Shared) {
    shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
}

fn send<S: Read + Write>(
    stream: &mut BufReader<S>,
    head: &RequestHead,
    reply: &Reply,
) -> io::Result<()> {
    let body: &[u8] = if head.method == "HEAD" { &[] } else { &reply.body };
    let length = reply.length.or((head.method == "HEAD").then_some(reply.body.len() as u64));
    write_response(stream.get_mut(), reply.status, &reply.headers, body, length)
}

/// Returns about how much memory a request and its answer take.
fn bytes_of(shared: &Shared, head: &RequestHead) -> u64 {
    let limit = shared.options.request_bytes_max;
    let answer = head.range().map_or(0, |(first, last)| last.saturating_sub(first));
    head.content_length().unwrap_or(0).min(limit) + answer.min(limit)
}

fn no_room(shared: &Shared, client: &EnrolledClient) -> Error {
    let limit = shared.options.client_bytes_max;
    Error::new(ErrorKind::Unavailable, "serve", &client.name)
        .expected(format_args!("at most {limit} bytes of its requests at once"))
}

/// Reads the body and carries the request out. Returns false if the body was not read, so that the
/// connection is of no more use.
fn answer<S: Read + Write>(
    shared: &Shared,
    client: &EnrolledClient,
    head: &RequestHead,
    stream: &mut BufReader<S>,
) -> (Reply, bool) {
    let length = head.content_length();
    let limit = shared.options.request_bytes_max;
    let Some(length) = length.filter(|length| *length <= limit) else {
        // A little is read and dropped: a client that is still sending would not see the answer.
        let _ = io::copy(&mut stream.by_ref().take(SKIPPED_BYTES_MAX), &mut io::sink());
        let error = Error::new(ErrorKind::InvalidInput, "serve", &head.target)
            .expected(format_args!("a body of at most {limit} bytes, with its length"))
            .found(length.map_or("no length".to_owned(), |length| format!("{length} bytes")));
        return (Reply { status: 413, ..Reply::of_error(&error) }, false);
    };
    let Ok(body) = read_body(stream, length) else { return (Reply::new(503, ""), false) };
    shared.counters.bytes_received.fetch_add(length, Ordering::Relaxed);
    let reply = route(shared, client, head, &body).unwrap_or_else(|error| Reply::of_error(&error));
    shared.counters.bytes_sent.fetch_add(reply.body.len() as u64, Ordering::Relaxed);
    (reply, true)
}

fn route(
    shared: &Shared,
    client: &EnrolledClient,
    head: &RequestHead,
    body: &[u8],
) -> Result<Reply> {
    if head.method == "GET" && matches!(head.target.as_str(), "/metrics" | "/healthz") {
        return Ok(report(shared, &head.target));
    }
    if let Some(prefix) = head.target.strip_prefix("/v1/list?prefix=") {
        return match head.method.as_str() {
            "GET" => list(shared, client, prefix),
            _ => Ok(Reply::new(405, "a list can be read alone")),
        };
    }
    if head.target == "/v1/delete" {
        return match head.method.as_str() {
            "POST" => delete_many(shared, client, body),
            _ => Ok(Reply::new(405, "a list of names can be posted alone")),
        };
    }
    let Some(name) = head.target.strip_prefix("/v1/objects/") else {
        return Ok(Reply::new(404, "no such resource"));
    };
    let writes = matches!(head.method.as_str(), "PUT" | "DELETE");
    check_right(client, name, writes)?;
    match head.method.as_str() {
        "PUT" => put(shared, head, name, body),
        "GET" => get(shared, head, name),
        "HEAD" => Ok(match find(shared, name)? {
            Some(info) => Reply { length: Some(info.length), ..Reply::new(200, "") },
            None => Reply::new(404, ""),
        }),
        "DELETE" => shared.vault.delete(name).map(|()| Reply::new(204, "")),
        _ => Ok(Reply::new(405, "GET, HEAD, PUT and DELETE are understood")),
    }
}

/// Deletes the objects whose names are the lines of the body; none if the client may not delete one
/// of them.
fn delete_many(shared: &Shared, client: &EnrolledClient, body: &[u8]) -> Result<Reply> {
    let bad = |found: String| {
        Error::new(ErrorKind::InvalidInput, "serve", "/v1/delete")
            .expected(format_args!("at most {DELETED_AT_ONCE_MAX} names, a line each"))
            .found(found)
    };
    let text = std::str::from_utf8(body).map_err(|error| bad(error.to_string()))?;
    let names: Vec<String> =
        text.lines().take(DELETED_AT_ONCE_MAX + 1).map(str::to_owned).collect();
    if names.len() > DELETED_AT_ONCE_MAX {
        return Err(bad("more".into()));
    }
    names.iter().try_for_each(|name| check_right(client, name, true))?;
    shared.vault.delete_many(&names).map(|()| Reply::new(204, ""))
}

fn check_right(client: &EnrolledClient, name: &str, writes: bool) -> Result<()> {
    check_name(name)?;
    if may_touch(client, name, writes) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "serve", name)
        .message(format_args!("client {} has no right to it", client.name)))
}

/// Returns whether a client may touch an object: those of its own volumes, and for reading the
/// vault's marker.
fn may_touch(client: &EnrolledClient, name: &str, writes: bool) -> bool {
    let own = layout::split_volume(name)
        .is_some_and(|(volume, _)| client.volumes.iter().any(|allowed| allowed == volume));
    own || (!writes && name == layout::MARKER)
}

fn put(shared: &Shared, head: &RequestHead, name: &str, body: &[u8]) -> Result<Reply> {
    if head.header("if-none-match") != Some("*") {
        return Err(Error::new(ErrorKind::InvalidInput, "put", name)
            .expected("the header If-None-Match: *, because objects never change")
            .found("none"));
    }
    let created = |outcome| match outcome {
        PutOutcome::Created => Reply::new(201, ""),
        PutOutcome::AlreadyExists => Reply::new(412, ""),
    };
    let cached = |cache: &Cache, outcome| {
        let mut reply = created(outcome);
        reply.headers.push((CACHE_HEADER, cache.identity().to_owned()));
        reply
    };
    let volume = layout::split_volume(name).map_or("", |(volume, _)| volume);
    if name.starts_with(&layout::segments_prefix(volume)) {
        return match shared.acknowledging_cache() {
            Some(cache) => cache.put(name, body).map(|outcome| cached(cache, outcome)),
            None => shared.vault.put(name, body).map(created),
        };
    }
    let ours = shared.cache.as_ref().map_or("", Cache::identity);
    if let Some(theirs) = head.header(CACHE_HEADER).filter(|theirs| *theirs != ours) {
        return Err(Error::new(ErrorKind::Changed, "put", name)
            .message("the segments before it went into a cache that is not there any more; put them again")
            .expected(format_args!("cache {theirs}"))
            .found(ours));
    }
    // Objects that name segments go to the vault after them.
    let drained = |cache: &Cache| cache.wait_drained(volume, DRAIN_LIMIT);
    if !shared.cache.as_ref().is_none_or(drained) {
        return Err(Error::new(ErrorKind::Unavailable, "put", name)
            .message("segments before it are not in the vault yet"));
    }
    shared.vault.put(name, body).map(created)
}

fn find(shared: &Shared, name: &str) -> Result<Option<ObjectInfo>> {
    match shared.cache.as_ref().and_then(|cache| cache.head(name)) {
        Some(info) => Ok(Some(info)),
        None => shared.vault.head(name),
    }
}

fn get(shared: &Shared, head: &RequestHead, name: &str) -> Result<Reply> {
    let Some((first, last)) = head.range() else {
        return Err(Error::new(ErrorKind::InvalidInput, "get", name)
            .expected("a header Range: bytes=A-B")
            .found("none"));
    };
    let end = last
        .checked_add(1)
        .filter(|end| first < *end)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "get", name).at(first).found(last))?;
    if end - first > shared.options.request_bytes_max {
        return Err(Error::new(ErrorKind::InvalidInput, "get", name)
            .expected(format_args!("at most {} bytes at once", shared.options.request_bytes_max))
            .found(end - first));
    }
    if let Some(cache) = &shared.cache {
        if cache.head(name).is_some() {
            match cache.get(name, first..end) {
                Ok(bytes) => return Ok(Reply::new(206, bytes)),
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
                // The object may move to the vault at this moment; it is found there.
                Err(_) => {}
            }
        }
    }
    shared.vault.get(name, first..end).map(|bytes| Reply::new(206, bytes))
}

fn list(shared: &Shared, client: &EnrolledClient, prefix: &str) -> Result<Reply> {
    // Only volumes of the client are listed.
    let mut found = Vec::new();
    for volume in &client.volumes {
        let own = layout::volume_prefix(volume);
        let wanted = if own.starts_with(prefix) { own.as_str() } else { prefix };
        if wanted.starts_with(&own) {
            // The cache first: an object that moves meanwhile is found in the vault.
            found.extend(shared.cache.iter().flat_map(|cache| cache.list(wanted)));
            found.extend(shared.vault.list(wanted)?);
        }
    }
    if layout::MARKER.starts_with(prefix) {
        found.extend(shared.vault.head(layout::MARKER)?);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    let mut text = String::new();
    for object in found {
        let _ = writeln!(text, "{} {}", object.length, object.name);
    }
    Ok(Reply::new(200, text))
}

/// Serves the plain listener: metrics and health, one request on each connection.
pub(crate) fn run_plain(shared: &Shared, socket: TcpStream) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut stream = BufReader::new(socket);
    let Some(head) = read_request(&mut stream)? else { return Ok(()) };
    let reply = match (head.method.as_str(), head.target.as_str()) {
        ("GET", "/metrics" | "/healthz") => report(shared, &head.target),
        _ => Reply::new(404, "/metrics and /healthz are here"),
    };
    send(&mut stream, &head, &reply)
}

/// Returns metrics in the Prometheus text format, or health: 200 if the vault takes segments.
fn report(shared: &Shared, target: &str) -> Reply {
    let stats = shared.stats();
    if target == "/healthz" {
        return if stats.vault_available {
            Reply::new(200, "ok\n")
        } else {
            Reply::new(503, "the vault does not take segments\n")
        };
    }
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ =
            writeln!(text, "# HELP hrl_gateway_{name} {help}\n# TYPE hrl_gateway_{name} {kind}");
        let _ = writeln!(text, "hrl_gateway_{name} {value}");
    };
    metric("connections", "gauge", "Connections open now.", stats.connections);
    metric(
        "connections_refused_total",
        "counter",
        "Connections refused at the limit or without an enrolled certificate.",
        stats.connections_refused,
    );
    metric("requests_total", "counter", "Requests answered.", stats.requests);
    metric("errors_total", "counter", "Requests refused or failed.", stats.errors);
    metric("received_bytes_total", "counter", "Bytes of objects received.", stats.bytes_received);
    metric("sent_bytes_total", "counter", "Bytes of objects sent.", stats.bytes_sent);
    metric("cached_objects", "gauge", "Objects not in the vault yet.", stats.cached_objects);
    metric("cached_bytes", "gauge", "Bytes not in the vault yet.", stats.cached_bytes);
    metric(
        "forwarded_objects_total",
        "counter",
        "Objects moved from the cache to the vault.",
        stats.forwarded_objects,
    );
    metric(
        "forwarded_puts_total",
        "counter",
        "Puts that moved them; fewer where small ones were packed.",
        stats.forwarded_puts,
    );
    metric(
        "vault_available",
        "gauge",
        "1 when the vault took the last object.",
        u64::from(stats.vault_available),
    );
    let mut reply = Reply::new(200, text);
    reply.headers.push(("content-type", "text/plain; version=0.0.4".to_owned()));
    reply
}
