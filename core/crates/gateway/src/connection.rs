//! One connection of a gateway: TLS, the client's identity, and requests one after the other.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::vault::layout;
use hrl::{Error, ErrorKind, Result};
use hrl_audit::Entry;
use hrl_tls::rustls::{ServerConnection, StreamOwned};
use hrl_tls::{EnrolledClient, Role};

use crate::cache::Cache;
use crate::client::DELETED_AT_ONCE_MAX;
use crate::http::{
    CACHE_HEADER, KIND_HEADER, MESSAGE_HEADER, RequestHead, read_body, read_request, status_of,
    write_response,
};
use crate::refusals::Refused;
use crate::rights::{self, Part, Verb};
use crate::shared::Shared;
use crate::sockets::{Known, Place, Until};

/// A connection that is silent for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Time limit of a whole handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of a whole request without TLS, and of its answer.
const PLAIN_LIMIT: Duration = Duration::from_secs(4);
/// Time limit of each part of a request.
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

/// Serves a client until it leaves, breaks the protocol, or the gateway ends the connection.
pub(crate) fn run(shared: &Arc<Shared>, socket: TcpStream, place: &Place) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let peer = socket.peer_addr()?;
    let waiting = socket.try_clone()?;
    let mut tls = ServerConnection::new(shared.tls.clone()).map_err(io::Error::other)?;
    let mut until = Until::new(&waiting, &*shared.options.clock, HANDSHAKE_LIMIT);
    while tls.is_handshaking() {
        tls.complete_io(&mut until).inspect_err(|_| refused(shared))?;
    }
    socket.set_read_timeout(Some(PART_LIMIT))?;
    socket.set_write_timeout(Some(PART_LIMIT))?;
    let certificate = tls.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|certificate| certificate.to_vec()).unwrap_or_default();
    let client = shared.find_client(&certificate);
    let known = client.as_ref().ok().map(|client| Known { client: client.clone(), certificate });
    if known.is_some_and(|known| !place.is_of(known)) {
        return Ok(());
    }
    let mut stream = BufReader::new(StreamOwned::new(tls, socket));
    let client = match &client {
        Ok(client) => client,
        Err(error) => {
            // An answer rather than a closed connection, so that the agent can report it to its
            // operator.
            refused(shared);
            let who = Refused { client: "unknown", role: "", verb: "connect", object: "" };
            let object = peer.to_string();
            shared.refusals.refused(&shared.audit, Refused { object: &object, ..who }, error);
            return match read_request(&mut stream)? {
                Some(head) => send(&mut stream, &head, &Reply::of_error(error)),
                None => Ok(()),
            };
        }
    };
    let room = shared.limits.connection(&client.name);
    loop {
        waiting.set_read_timeout(Some(IDLE_LIMIT))?;
        // The first byte may take long; the rest may not.
        if io::BufRead::fill_buf(&mut stream)?.is_empty() {
            return Ok(());
        }
        waiting.set_read_timeout(Some(PART_LIMIT))?;
        let Some(head) = read_request(&mut stream)? else { return Ok(()) };
        if room.is_none() {
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
    let reply = route(shared, client, head, &body).unwrap_or_else(|error| {
        if error.kind() == ErrorKind::Denied {
            deny(shared, client, &error);
        }
        Reply::of_error(&error)
    });
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
    let verb = match head.method.as_str() {
        "PUT" => Verb::Put,
        "DELETE" => Verb::Delete,
        _ => Verb::Get,
    };
    rights::check(client, verb, name)?;
    match head.method.as_str() {
        "PUT" => put(shared, client, head, name, body),
        "GET" => get(shared, head, name),
        "HEAD" => Ok(match find(shared, name)? {
            Some(info) => Reply { length: Some(info.length), ..Reply::new(200, "") },
            None => Reply::new(404, ""),
        }),
        "DELETE" => {
            let names = [name.to_owned()];
            destroy(shared, client, &names, || shared.vault.delete(name))
        }
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
    names.iter().try_for_each(|name| rights::check(client, Verb::Delete, name))?;
    destroy(shared, client, &names, || shared.vault.delete_many(&names))
}

/// Deletes objects, once that is in the audit log.
fn destroy(
    shared: &Shared,
    client: &EnrolledClient,
    names: &[String],
    delete: impl FnOnce() -> Result<()>,
) -> Result<Reply> {
    rights::check_holds(client, &*shared.vault, names)?;
    let (audit, role) = (&shared.audit, client.role.name());
    let entry = Entry::new(audit.now(), &client.name, role, Verb::Delete.name(), names);
    audit.permit(&entry)?;
    match delete() {
        Ok(()) => Ok(Reply::new(204, "")),
        Err(error) => {
            audit.record(entry.failed(&error));
            Err(error)
        }
    }
}

/// Reports and records that a client has no right to what it asked for.
fn deny(shared: &Shared, client: &EnrolledClient, error: &Error) {
    shared.counters.refused.fetch_add(1, Ordering::Relaxed);
    let (verb, object) = (error.operation(), error.object());
    let who = Refused { client: &client.name, role: client.role.name(), verb, object };
    shared.refusals.refused(&shared.audit, who, error);
}

fn put(
    shared: &Shared,
    client: &EnrolledClient,
    head: &RequestHead,
    name: &str,
    body: &[u8],
) -> Result<Reply> {
    if head.header("if-none-match") != Some("*") {
        return Err(Error::new(ErrorKind::InvalidInput, "put", name)
            .expected("the header If-None-Match: *, because objects never change")
            .found("none"));
    }
    let volume = layout::split_volume(name).map_or("", |(volume, _)| volume);
    let reply = match rights::part_of(volume, name) {
        Part::Segment => put_segment(shared, client, volume, name, body),
        part => put_other(shared, client, head, (volume, part), name, body),
    }?;
    if reply.status == 201 {
        let (role, bytes) = (client.role.name(), body.len() as u64);
        shared.audit.count(&client.name, role, Verb::Put.name(), name, bytes);
    }
    Ok(reply)
}

fn created(outcome: PutOutcome) -> Reply {
    match outcome {
        PutOutcome::Created => Reply::new(201, ""),
        PutOutcome::AlreadyExists => Reply::new(412, ""),
    }
}

/// Puts a segment into the cache, or into the vault if there is none.
fn put_segment(
    shared: &Shared,
    client: &EnrolledClient,
    volume: &str,
    name: &str,
    body: &[u8],
) -> Result<Reply> {
    let bytes = body.len() as u64;
    shared.quota.check(&shared.vault, client, name, bytes)?;
    let reply = match shared.acknowledging_cache() {
        Some(cache) => {
            let share = shared.options.client_cache_bytes_max;
            let mut reply = created(cache.put(client, share, name, body)?);
            reply.headers.push((CACHE_HEADER, cache.identity().to_owned()));
            reply
        }
        None if shared.newness.is_new(&shared.vault, name)? => {
            created(shared.vault.put(name, body)?)
        }
        None => created(PutOutcome::AlreadyExists),
    };
    if reply.status == 201 {
        shared.quota.added(volume, bytes);
    }
    Ok(reply)
}

fn put_other(
    shared: &Shared,
    client: &EnrolledClient,
    head: &RequestHead,
    (volume, part): (&str, Part),
    name: &str,
    body: &[u8],
) -> Result<Reply> {
    let ours = shared.cache.as_ref().map_or("", Cache::identity);
    if let Some(theirs) = head.header(CACHE_HEADER).filter(|theirs| *theirs != ours) {
        return Err(Error::new(ErrorKind::Changed, "put", name)
            .message("the segments before it went into a cache that is not there any more; put them again")
            .expected(format_args!("cache {theirs}"))
            .found(ours));
    }
    let continued = match part {
        Part::Version if client.role == Role::Source => {
            let number = rights::version_number(&layout::catalog_prefix(volume), name);
            let number = number.expect("the part was found by it");
            match shared.continuation.check(&shared.vault, volume, number, body)? {
                None => return Ok(created(PutOutcome::AlreadyExists)),
                continued => continued,
            }
        }
        // Keys of a volume that exists are added by a rotation, which a source has no right to.
        Part::Key if client.role == Role::Source => {
            if shared.vault.head(&layout::volume_record(volume))?.is_some() {
                return Err(Error::new(ErrorKind::Denied, Verb::Put.name(), name).message(
                    format_args!(
                        "client {} ({}) has no right to add keys to a volume that exists",
                        client.name, client.role
                    ),
                ));
            }
            None
        }
        _ => None,
    };
    // Objects that name segments go to the vault after them.
    let drained = |cache: &Cache| cache.wait_drained(volume, DRAIN_LIMIT);
    if !shared.cache.as_ref().is_none_or(drained) {
        return Err(Error::new(ErrorKind::Unavailable, "put", name)
            .message("segments before it are not in the vault yet"));
    }
    let outcome = shared.vault.put(name, body)?;
    if let Some(continued) = continued.filter(|_| outcome == PutOutcome::Created) {
        shared.continuation.put(continued);
    }
    Ok(created(outcome))
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
    for wanted in listed_below(client, prefix) {
        // The cache first: an object that moves meanwhile is found in the vault.
        found.extend(shared.cache.iter().flat_map(|cache| cache.list(&wanted)));
        found.extend(shared.vault.list(&wanted)?);
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

/// Returns the prefixes below `prefix` that a client may list.
fn listed_below(client: &EnrolledClient, prefix: &str) -> Vec<String> {
    let mut own = if client.has_all_volumes() {
        vec![layout::VOLUMES.to_owned()]
    } else {
        client.volumes.iter().map(|volume| layout::volume_prefix(volume)).collect()
    };
    if rights::may_read_outside(client, layout::AUDIT) {
        own.push(layout::AUDIT.to_owned());
    }
    let wanted = own.into_iter().filter_map(|own| {
        if own.starts_with(prefix) {
            Some(own)
        } else {
            prefix.starts_with(&own).then(|| prefix.to_owned())
        }
    });
    wanted.collect()
}

/// Serves the plain listener: metrics and health, one request on each connection, all of it within
/// [`PLAIN_LIMIT`].
pub(crate) fn run_plain(shared: &Shared, socket: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(Until::new(&socket, &*shared.options.clock, PLAIN_LIMIT));
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
    metric("refused_total", "counter", "Requests that the client had no right to.", stats.refused);
    metric(
        "segments_moved_aside_total",
        "counter",
        "Segments under whose names the vault had other bytes.",
        stats.conflicts,
    );
    metric(
        "certificate_expires_seconds",
        "gauge",
        "When the gateway's certificate expires, in seconds since 1970.",
        u64::try_from(stats.certificate_expires.seconds()).unwrap_or_default(),
    );
    metric(
        "client_certificate_expires_seconds",
        "gauge",
        "When the first certificate of a connected client expires, in seconds since 1970; 0 if none is.",
        stats.client_certificate_expires.map_or(0, |at| u64::try_from(at.seconds()).unwrap_or(0)),
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
