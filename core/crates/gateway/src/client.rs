//! A store behind gateways: HTTPS with client certificates, several gateways side by side.
//!
//! A request goes to the gateway that answered last. If that one does not answer, the next is
//! tried; after all were tried the error is `Unavailable`. A put whose answer was lost may have
//! taken effect: the next try then finds the object (`AlreadyExists`), as the contract of a store
//! permits.
//!
//! A gateway may have a segment in its cache, and puts a catalog version after the segments in *its
//! own* cache. So a catalog version must go to the gateway that took the segments since the version
//! before. If another gateway is in use now, the put is not sent and fails with `Changed`: the
//! caller must put the segments again. That is reported once, so a handle belongs to one `Vault`
//! and its clones, which report it to each of their writers.
//!
//! Limits: [`CONNECTIONS_MAX`] connections to each gateway, one request at a time on each (further
//! requests wait), and time limits on connecting and on every wait.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store, check_name};
use hrl::sync::lock::{Condvar, Mutex};
use hrl::vault::{LegalHold, layout};
use hrl::{Clock, Error, ErrorKind, Result, SystemClock};
use hrl_tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use hrl_tls::{CertificateRights, Role, ServerAddress};

use crate::http::{self, check_length, error_of, read_body, read_response, write_request};

/// Most connections to each gateway, and most idle connections that are kept.
pub const CONNECTIONS_MAX: usize = 32;
/// Default port of gateways.
pub const GATEWAY_PORT: u16 = 9443;
/// Most objects that one request deletes.
pub(crate) const DELETED_AT_ONCE_MAX: usize = 1000;
/// Largest object that is read or written whole.
pub(crate) const OBJECT_BYTES_MAX: u64 = 4 << 30;
const LIST_BYTES_MAX: u64 = 256 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a part of an answer, including a put through to a slow vault.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long the legal holds of a volume are known without a look; the gateway decides.
const HOLDS_KNOWN: Duration = Duration::from_secs(10);

const IF_ABSENT: &str = "if-none-match";

/// Transport of a connection: TLS, or anything in tests.
pub trait GatewayStream: Read + Write + Send {}

impl<T: Read + Write + Send> GatewayStream for T {}

type Connection = BufReader<Box<dyn GatewayStream>>;
/// Makes a connection.
#[cfg(any(test, feature = "testing"))]
type Dial = Box<dyn Fn() -> std::io::Result<Box<dyn GatewayStream>> + Send + Sync>;

struct Endpoint {
    address: ServerAddress,
    idle: Mutex<Vec<Connection>>,
    /// Requests under way.
    busy: Mutex<usize>,
    free: Condvar,
}

/// A request under way.
struct Turn<'a>(&'a Endpoint);

impl Endpoint {
    /// Waits until fewer requests than the limit are under way.
    fn turn(&self) -> Turn<'_> {
        let busy = self.busy.lock();
        let mut waited = self.free.wait_while(busy, |busy| *busy >= CONNECTIONS_MAX);
        *waited += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.busy.lock() -= 1;
        self.0.free.notify_one();
    }
}

/// A store behind gateways.
pub struct RemoteStore {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last.
    current: AtomicUsize,
    tls: Arc<ClientConfig>,
    /// Whether the role of the certificate permits deleting.
    may_delete: bool,
    /// Whether the gateway refuses to delete what legal holds keep.
    respects_holds: bool,
    /// The legal holds of volumes, and when they were listed.
    holds: Mutex<HashMap<String, (Duration, Vec<LegalHold>)>>,
    clock: Arc<dyn Clock>,
    /// For each volume: the gateways that may have its segments in their caches.
    cached_at: Mutex<HashMap<String, HashMap<usize, CachedAt>>>,
    puts: AtomicU64,
    #[cfg(any(test, feature = "testing"))]
    dial: Option<Dial>,
}

/// A request, which may be sent to several gateways.
struct Request<'a> {
    method: &'static str,
    target: &'a str,
    headers: &'a [(&'a str, String)],
    body: &'a [u8],
    answer_bytes_max: u64,
}

/// An answer: head and body.
struct Answer {
    head: http::ResponseHead,
    body: Vec<u8>,
}

/// A gateway with segments in its cache.
struct CachedAt {
    /// Identity of the cache.
    cache: String,
    /// Number of the put of the newest segment.
    put: u64,
}

/// The role of a put for the order of puts.
enum Part<'a> {
    Segment(&'a str),
    Version(&'a str),
    Other,
}

fn part_of(name: &str) -> Part<'_> {
    let Some((volume, _)) = layout::split_volume(name) else { return Part::Other };
    if name.starts_with(&layout::segments_prefix(volume)) {
        Part::Segment(volume)
    } else if name.starts_with(&layout::catalog_prefix(volume)) {
        Part::Version(volume)
    } else {
        Part::Other
    }
}

impl RemoteStore {
    /// Opens the store behind the gateways at `addresses` (`host` or `host:port`), for the client
    /// that owns the bundle (see `hrl_tls::enroll_client`). Connects with the first request.
    ///
    /// `InvalidInput` if there is no address, or an address or the bundle is invalid.
    pub fn open(addresses: &[String], bundle: &Path) -> Result<Self> {
        let endpoints = addresses.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "open store", "gateway")
                .expected("at least one address")
                .found("none"));
        }
        let tls = hrl_tls::client_config(bundle)?;
        let rights = CertificateRights::of_file(&bundle.join("client.pem"))?;
        let role = rights.role.unwrap_or_default();
        let (current, puts) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self {
            endpoints,
            current,
            tls,
            may_delete: role.deletes(),
            respects_holds: role == Role::Maintainer,
            holds: Mutex::default(),
            clock: SystemClock::shared(),
            cached_at: Mutex::default(),
            puts,
            #[cfg(any(test, feature = "testing"))]
            dial: None,
        })
    }

    /// Uses connections that `dial` makes, without TLS. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn dial_with(
        mut self,
        dial: impl Fn() -> std::io::Result<Box<dyn GatewayStream>> + Send + Sync + 'static,
    ) -> Self {
        self.dial = Some(Box::new(dial));
        self
    }

    /// Puts a catalog version at the gateway that has the volume's segments in its cache.
    fn put_version(&self, volume: &str, name: &str, content: &[u8]) -> Result<Answer> {
        let current = self.current.load(Ordering::Relaxed);
        let number = self.puts.fetch_add(1, Ordering::SeqCst);
        let cache = {
            let mut cached_at = self.cached_at.lock();
            let known = cached_at.get(volume);
            let Some(known) = known.filter(|known| !known.is_empty()) else {
                drop(cached_at);
                return self.object("PUT", name, &[(IF_ABSENT, "*".to_owned())], content);
            };
            let Some(place) = known.get(&current).filter(|_| known.len() == 1) else {
                cached_at.remove(volume);
                return Err(Error::new(ErrorKind::Changed, "put to store", name).message(
                    "another gateway answers than the one that took the segments before it; put them again",
                ));
            };
            place.cache.clone()
        };
        check_name(name)?;
        let endpoint = &self.endpoints[current];
        let request = Request {
            method: "PUT",
            target: &format!("/v1/objects/{name}"),
            headers: &[(IF_ABSENT, "*".to_owned()), (http::CACHE_HEADER, cache)],
            body: content,
            answer_bytes_max: OBJECT_BYTES_MAX,
        };
        match self.request_at(endpoint, &request) {
            Ok(answer) => {
                if matches!(answer.head.status, 201 | 412) {
                    // The gateway forwarded all earlier segments before the version.
                    let mut cached_at = self.cached_at.lock();
                    if let Some(known) = cached_at.get_mut(volume) {
                        known.retain(|_, place| place.put > number);
                    }
                } else if answer.head.header(http::KIND_HEADER) == Some(ErrorKind::Changed.name()) {
                    // The cache was lost.
                    self.cached_at.lock().remove(volume);
                }
                Ok(answer)
            }
            Err(error) => {
                self.current.store((current + 1) % self.endpoints.len(), Ordering::Relaxed);
                Err(Error::new(ErrorKind::Unavailable, "reach gateway", endpoint.address.as_str())
                    .caused_by(error))
            }
        }
    }

    /// Records that a gateway took a segment into its cache. Without a cache the segment is in the
    /// vault.
    fn record_cached(&self, volume: &str, endpoint: usize, cache: Option<&str>) {
        let Some(cache) = cache else { return };
        let put = self.puts.fetch_add(1, Ordering::SeqCst);
        let mut cached_at = self.cached_at.lock();
        let known = cached_at.entry(volume.to_owned()).or_default();
        let place = known.entry(endpoint).or_insert(CachedAt { cache: cache.to_owned(), put });
        place.put = put;
        // Two caches at one address: the gateway has at most one of them, and refuses a version
        // that names both.
        if place.cache != cache {
            "another".clone_into(&mut place.cache);
        }
    }

    /// Sends a request to the gateways in turn until one answers.
    fn request(&self, request: &Request<'_>) -> Result<Answer> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failure = None;
        for step in 0..self.endpoints.len() {
            let number = (first + step) % self.endpoints.len();
            let endpoint = &self.endpoints[number];
            match self.request_at(endpoint, request) {
                // This gateway cannot serve the request now; perhaps another can.
                Ok(answer) if answer.head.status == 503 && step + 1 < self.endpoints.len() => {}
                Ok(answer) => {
                    self.current.store(number, Ordering::Relaxed);
                    let name = request.target.strip_prefix("/v1/objects/");
                    if let ("PUT", Some(name)) = (request.method, name)
                        && let Part::Segment(volume) = part_of(name)
                    {
                        self.record_cached(volume, number, answer.head.header(http::CACHE_HEADER));
                    }
                    return Ok(answer);
                }
                Err(error) => failure = Some((endpoint, error)),
            }
        }
        let (endpoint, error) = failure.expect("an answer of the last gateway is returned");
        Err(Error::new(ErrorKind::Unavailable, "reach gateway", endpoint.address.as_str())
            .caused_by(error))
    }

    fn request_at(&self, endpoint: &Endpoint, request: &Request<'_>) -> std::io::Result<Answer> {
        let _turn = endpoint.turn();
        let kept = endpoint.idle.lock().pop();
        if let Some(connection) = kept {
            // The gateway may have closed an idle connection, which is no failure of the gateway.
            if let Ok(answer) = exchange(connection, endpoint, request) {
                return Ok(answer);
            }
        }
        exchange(self.connect(endpoint)?, endpoint, request)
    }

    fn connect(&self, endpoint: &Endpoint) -> std::io::Result<Connection> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(dial) = &self.dial {
            return dial().map(BufReader::new);
        }
        let socket = endpoint.address.connect(CONNECT_LIMIT)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.set_write_timeout(Some(ANSWER_LIMIT))?;
        let tls = ClientConnection::new(self.tls.clone(), endpoint.address.name())
            .map_err(std::io::Error::other)?;
        Ok(BufReader::new(Box::new(StreamOwned::new(tls, socket))))
    }

    fn object(
        &self,
        method: &'static str,
        name: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> Result<Answer> {
        check_name(name)?;
        self.request(&Request {
            method,
            target: &format!("/v1/objects/{name}"),
            headers,
            body,
            answer_bytes_max: OBJECT_BYTES_MAX,
        })
    }
}

/// Sends a request, reads the answer, and keeps the connection for further requests.
fn exchange(
    mut connection: Connection,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> std::io::Result<Answer> {
    let Request { method, target, headers, body, answer_bytes_max } = *request;
    write_request(connection.get_mut(), method, target, headers, body)?;
    let head = read_response(&mut connection)?;
    let length = check_length(head.content_length(), answer_bytes_max, "read answer", target)
        .map_err(std::io::Error::other)?;
    let body = if method == "HEAD" { Vec::new() } else { read_body(&mut connection, length)? };
    let mut idle = endpoint.idle.lock();
    if idle.len() < CONNECTIONS_MAX && head.header("connection") != Some("close") {
        idle.push(connection);
    }
    Ok(Answer { head, body })
}

fn endpoint(text: &str) -> Result<Endpoint> {
    let address = ServerAddress::parse(text, GATEWAY_PORT).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "open store", text)
            .expected("HOST or HOST:PORT of a gateway")
            .found(text)
    })?;
    let (idle, busy, free) = (Mutex::default(), Mutex::default(), Condvar::new());
    Ok(Endpoint { address, idle, busy, free })
}

impl Store for RemoteStore {
    fn name(&self) -> String {
        let addresses: Vec<&str> = self.endpoints.iter().map(|e| e.address.as_str()).collect();
        format!("gateway://{}", addresses.join(","))
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let answer = match part_of(name) {
            Part::Version(volume) => self.put_version(volume, name, content)?,
            Part::Segment(_) | Part::Other => {
                self.object("PUT", name, &[(IF_ABSENT, "*".to_owned())], content)?
            }
        };
        match answer.head.status {
            201 => Ok(PutOutcome::Created),
            412 => Ok(PutOutcome::AlreadyExists),
            _ => Err(error_of(&answer.head, &answer.body, "put to store", name)),
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        if range.is_empty() {
            // No range header can ask for zero bytes.
            let length = self
                .head(name)?
                .map(|info| info.length)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "get from store", name))?;
            if range.start <= range.end && range.end <= length {
                return Ok(Vec::new());
            }
            return Err(Error::new(ErrorKind::InvalidInput, "get from store", name)
                .at(range.start)
                .expected(format_args!("a range within {length} bytes"))
                .found(format_args!("{}..{}", range.start, range.end)));
        }
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = self.object("GET", name, &[("range", bytes)], &[])?;
        if answer.head.status != 206 {
            return Err(error_of(&answer.head, &answer.body, "get from store", name));
        }
        if answer.body.len() as u64 != range.end - range.start {
            return Err(Error::new(ErrorKind::Corrupt, "get from store", name)
                .expected(format_args!("{} bytes", range.end - range.start))
                .found(answer.body.len()));
        }
        Ok(answer.body)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        // Prefixes are parts of names, which need no escapes.
        let answer = self.request(&Request {
            method: "GET",
            target: &format!("/v1/list?prefix={prefix}"),
            headers: &[],
            body: &[],
            answer_bytes_max: LIST_BYTES_MAX,
        })?;
        if answer.head.status != 200 {
            return Err(error_of(&answer.head, &answer.body, "list store", prefix));
        }
        let bad = || {
            Error::new(ErrorKind::Corrupt, "list store", prefix)
                .message("the gateway's list is not understood")
        };
        let text = String::from_utf8(answer.body).map_err(|_| bad())?;
        text.lines()
            .map(|line| {
                let (length, name) = line.split_once(' ').ok_or_else(bad)?;
                let length = length.parse().map_err(|_| bad())?;
                // Names become names of local files.
                if !name.starts_with(prefix) || check_name(name).is_err() {
                    return Err(bad().expected(format_args!("names that begin with {prefix:?}")));
                }
                Ok(ObjectInfo { name: name.to_owned(), length })
            })
            .collect()
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let answer = self.object("HEAD", name, &[], &[])?;
        match answer.head.status {
            200 => {
                let length = answer.head.content_length().unwrap_or_default();
                Ok(Some(ObjectInfo { name: name.to_owned(), length }))
            }
            404 => Ok(None),
            _ => Err(error_of(&answer.head, &answer.body, "look into store", name)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        let answer = self.object("DELETE", name, &[], &[])?;
        match answer.head.status {
            204 => Ok(()),
            _ => Err(error_of(&answer.head, &answer.body, "delete from store", name)),
        }
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| check_name(name))?;
        for some in names.chunks(DELETED_AT_ONCE_MAX) {
            let answer = self.request(&Request {
                method: "POST",
                target: "/v1/delete",
                headers: &[],
                body: some.join("\n").as_bytes(),
                answer_bytes_max: 1 << 20,
            })?;
            if answer.head.status != 204 {
                return Err(error_of(&answer.head, &answer.body, "delete from store", &some[0]));
            }
        }
        Ok(())
    }

    fn may_delete(&self) -> bool {
        self.may_delete
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        let Some((volume, _)) = layout::split_volume(name).filter(|_| self.respects_holds) else {
            return Ok(false);
        };
        let now = self.clock.elapsed();
        let mut known = self.holds.lock();
        let is_known =
            known.get(volume).is_some_and(|(at, _)| now.saturating_sub(*at) < HOLDS_KNOWN);
        if !is_known {
            known.insert(volume.to_owned(), (now, LegalHold::list(self, volume)?));
        }
        Ok(known[volume].1.iter().any(|hold| hold.keeps(name)))
    }
}
