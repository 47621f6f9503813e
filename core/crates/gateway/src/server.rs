//! The gateway: a store served over HTTPS with client certificates, in front of another store.
//!
//! Any number of gateways may stand side by side before one vault; they share only the vault. A
//! client may touch only its own volumes. With [`Acknowledge::Gateway`] a segment is acknowledged
//! once it is durable in the cache. A catalog version always goes through to the vault, after the
//! segments that came to this gateway before it. So the catalog never names what the vault lacks.
//!
//! Limits: connections in all and of each client, bytes of a request, bytes of a client's requests
//! under way, bytes of the cache, time of a request. At each limit the client gets an error and
//! keeps its data in its spool.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::store::Store;
use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::vault::{PACK_DATA_BYTES_MAX, PackedStore, layout};
use hrl::{Clock, Error, ErrorKind, Result, SystemClock};
use hrl_tls::rustls::ServerConfig;
use hrl_tls::server_config;

use crate::cache::{Cache, Packing};
use crate::connection;
use crate::limits::Limits;

const POLL: Duration = Duration::from_millis(200);
/// Default bytes of a pack, before stores whose requests cost money.
const PACK_BYTES: u64 = 8 << 20;

/// When a segment is acknowledged to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is durable in the vault. A cache takes no new segments then; it forwards what an
    /// earlier gateway left in it.
    Vault,
    /// Once it is durable in the gateway's cache.
    Gateway,
}

impl Acknowledge {
    /// Returns the policy of this name: `gateway` or `vault`. `InvalidInput` for another.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "gateway" => Ok(Self::Gateway),
            "vault" => Ok(Self::Vault),
            _ => Err(Error::new(ErrorKind::InvalidInput, "start gateway", "acknowledge")
                .expected("gateway or vault")
                .found(name)),
        }
    }
}

/// Options of a [`Gateway`].
#[derive(Clone)]
pub struct GatewayOptions {
    listen: String,
    pki: PathBuf,
    acknowledge: Option<Acknowledge>,
    cache: Option<PathBuf>,
    cache_bytes_max: u64,
    pack_bytes: Option<u64>,
    pack_wait_max: Duration,
    clock: Arc<dyn Clock>,
    connections_max: u64,
    pub(crate) client_connections_max: u64,
    pub(crate) client_bytes_max: u64,
    pub(crate) request_bytes_max: u64,
    metrics: Option<String>,
}

impl GatewayOptions {
    /// Describes a gateway that listens at `listen` (`HOST:PORT`, port 0 takes a free one) with the
    /// certificates in `pki` (see `hrl_tls::create_authority`).
    pub fn new(listen: &str, pki: impl Into<PathBuf>) -> Self {
        Self {
            listen: listen.to_owned(),
            pki: pki.into(),
            acknowledge: None,
            cache: None,
            cache_bytes_max: 16 << 30,
            pack_bytes: None,
            pack_wait_max: Duration::from_secs(10),
            clock: SystemClock::shared(),
            connections_max: 1024,
            client_connections_max: 64,
            client_bytes_max: 512 << 20,
            request_bytes_max: 256 << 20,
            metrics: None,
        }
    }

    /// Sets when segments are acknowledged. Default: [`Acknowledge::Gateway`] with a cache,
    /// [`Acknowledge::Vault`] without.
    pub fn acknowledge(mut self, when: Acknowledge) -> Self {
        self.acknowledge = Some(when);
        self
    }

    /// Keeps segments in this directory until the vault has them; creates it if absent. Default: no
    /// cache.
    pub fn cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Some(directory.into());
        self
    }

    /// Sets the bytes of the cache; at the limit segments are refused with `Full`. Default 16 GiB.
    pub fn cache_bytes_max(mut self, bytes: u64) -> Self {
        self.cache_bytes_max = bytes;
        self
    }

    /// Sets the bytes of a pack: small segments in the cache go to the vault together as one
    /// object, which saves requests. At most 64 MiB; 0 packs nothing. Default 8 MiB, and 0 before a
    /// store whose objects are local files.
    pub fn pack_bytes(mut self, bytes: u64) -> Self {
        self.pack_bytes = Some(bytes);
        self
    }

    /// Sets how long a segment may wait in the cache for others. A catalog version that names it
    /// ends the wait, so the agent's `catalog_interval` decides how many come together. Default 10
    /// s.
    pub fn pack_wait_max(mut self, time: Duration) -> Self {
        self.pack_wait_max = time;
        self
    }

    /// Sets the clock for pauses between tries and for packing. Default: the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the most connections; further ones are closed. Default 1,024.
    pub fn connections_max(mut self, connections: u64) -> Self {
        self.connections_max = connections;
        self
    }

    /// Sets the most connections of one client; further ones get `Unavailable`. Default 64, twice
    /// what a client opens.
    pub fn client_connections_max(mut self, connections: u64) -> Self {
        self.client_connections_max = connections;
        self
    }

    /// Sets the most bytes of one client's requests and answers in memory; more wait in the
    /// network. Default 512 MiB.
    pub fn client_bytes_max(mut self, bytes: u64) -> Self {
        self.client_bytes_max = bytes;
        self
    }

    /// Sets the most bytes of an object; a larger one is refused. Default 256 MiB.
    pub fn request_bytes_max(mut self, bytes: u64) -> Self {
        self.request_bytes_max = bytes;
        self
    }

    /// Also serves `/metrics` and `/healthz` without TLS at this address. Default: only behind
    /// client certificates.
    pub fn metrics(mut self, listen: &str) -> Self {
        self.metrics = Some(listen.to_owned());
        self
    }

    /// Starts to serve `vault`. `Fenced` if another program listens at the address, `Io` if it
    /// cannot be bound, `InvalidInput` for unusable certificates and for [`Acknowledge::Gateway`]
    /// without a cache.
    pub fn start(self, vault: Arc<dyn Store>) -> Result<Gateway> {
        if self.acknowledge == Some(Acknowledge::Gateway) && self.cache.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "start gateway", &self.listen)
                .expected("a cache, to acknowledge segments from")
                .found("none"));
        }
        let tls = server_config(&self.pki, true)?;
        let cache = self.open_cache(&*vault)?;
        let listener = listen(&self.listen)?;
        let address = local(&listener)?;
        let metrics = self.metrics.as_deref().map(listen).transpose()?;
        let metrics_address = metrics.as_ref().map(local).transpose()?;
        let shared = Arc::new(Shared {
            limits: Limits::new(self.client_connections_max, self.client_bytes_max),
            options: self,
            tls,
            vault: PackedStore::over(vault),
            cache,
            counters: Counters::default(),
            stopping: AtomicBool::new(false),
            sockets: Mutex::default(),
        });
        let mut tasks = vec![spawn(&shared, "accept", move |shared| accept(shared, &listener))?];
        if shared.cache.is_some() {
            tasks.push(spawn(&shared, "forward", forward)?);
        }
        if let Some(listener) = metrics {
            tasks.push(spawn(&shared, "metrics", move |shared| accept_plain(shared, &listener))?);
        }
        Ok(Gateway { shared, address, metrics_address, tasks })
    }

    fn open_cache(&self, vault: &dyn Store) -> Result<Option<Cache>> {
        let Some(directory) = &self.cache else { return Ok(None) };
        let free = vault.local_path(layout::MARKER).is_some();
        let bytes_max = self.pack_bytes.unwrap_or(if free { 0 } else { PACK_BYTES });
        if bytes_max > PACK_DATA_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "start gateway", "pack_bytes")
                .expected(format_args!("at most {PACK_DATA_BYTES_MAX} bytes"))
                .found(bytes_max));
        }
        let packing = Packing { bytes_max, wait_max: self.pack_wait_max };
        Cache::open(directory, self.cache_bytes_max, packing, self.clock.clone()).map(Some)
    }
}

/// Counters of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// Connections open now.
    pub connections: u64,
    /// Connections refused at the limit or without an enrolled certificate.
    pub connections_refused: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests refused or failed.
    pub errors: u64,
    /// Bytes of objects received.
    pub bytes_received: u64,
    /// Bytes of objects sent.
    pub bytes_sent: u64,
    /// Objects in the cache that the vault does not have yet.
    pub cached_objects: u64,
    /// Bytes of these objects.
    pub cached_bytes: u64,
    /// Objects moved from the cache to the vault.
    pub forwarded_objects: u64,
    /// Puts that moved them; fewer if small ones were packed.
    pub forwarded_puts: u64,
    /// Whether the vault took the last forwarded object.
    pub vault_available: bool,
}

/// A running gateway. Dropping it stops it; the next gateway with the same cache forwards what is
/// left in the cache.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Returns the address on which the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address that serves metrics without TLS, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns the counters.
    pub fn stats(&self) -> GatewayStats {
        self.shared.stats()
    }

    /// Answers requests of the client `name` for `volumes`, without TLS, until it leaves or breaks
    /// the protocol. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn converse(
        &self,
        name: &str,
        volumes: &[String],
        stream: impl std::io::Read + std::io::Write,
    ) -> std::io::Result<()> {
        let client = hrl_tls::EnrolledClient { name: name.to_owned(), volumes: volumes.to_vec() };
        connection::converse(&self.shared, &client, stream)
    }

    /// Stops listening, lets requests under way end, and empties the cache for up to `limit`.
    /// Returns whether the cache is empty.
    pub fn stop(self, limit: Duration) -> bool {
        let Some(cache) = &self.shared.cache else { return true };
        cache.wait_drained("", limit)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for socket in lock(&self.shared.sockets).iter().flatten() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the threads that wait for a connection.
        for address in [Some(self.address), self.metrics_address].into_iter().flatten() {
            let _ = TcpStream::connect_timeout(&reachable(address), POLL);
        }
        for task in self.tasks.drain(..) {
            let _ = task.join();
        }
    }
}

/// Counters behind [`GatewayStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    connections: AtomicU64,
    pub connections_refused: AtomicU64,
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    forwarded_objects: AtomicU64,
    forwarded_puts: AtomicU64,
    vault_unavailable: AtomicBool,
}

/// State that the threads of a gateway share.
pub(crate) struct Shared {
    pub options: GatewayOptions,
    pub limits: Limits,
    pub tls: Arc<ServerConfig>,
    pub vault: Arc<PackedStore>,
    pub cache: Option<Cache>,
    pub counters: Counters,
    stopping: AtomicBool,
    /// Open connections by slot, so that a stop can end them.
    sockets: Mutex<Vec<Option<TcpStream>>>,
}

impl Shared {
    pub(crate) fn stats(&self) -> GatewayStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let (cached_objects, cached_bytes) = self.cache.as_ref().map_or((0, 0), Cache::size);
        GatewayStats {
            connections: get(&counters.connections),
            connections_refused: get(&counters.connections_refused),
            requests: get(&counters.requests),
            errors: get(&counters.errors),
            bytes_received: get(&counters.bytes_received),
            bytes_sent: get(&counters.bytes_sent),
            cached_objects,
            cached_bytes,
            forwarded_objects: get(&counters.forwarded_objects),
            forwarded_puts: get(&counters.forwarded_puts),
            vault_available: !counters.vault_unavailable.load(Ordering::Relaxed),
        }
    }

    /// Returns the cache for new segments, if they are acknowledged from it.
    pub(crate) fn acknowledging_cache(&self) -> Option<&Cache> {
        let from_cache = self.options.acknowledge != Some(Acknowledge::Vault);
        self.cache.as_ref().filter(|_| from_cache)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn pki(&self) -> &Path {
        &self.options.pki
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

fn listen(address: &str) -> Result<TcpListener> {
    let io = |error| Error::io("listen on", address, error);
    let resolved: Vec<SocketAddr> = address.to_socket_addrs().map_err(io)?.collect();
    TcpListener::bind(&resolved[..]).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            return Error::new(ErrorKind::Fenced, "listen on", address)
                .message("another program listens there");
        }
        io(error)
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Error::io("listen on", "gateway", error))
}

/// Returns an address to connect to, for an address that is listened on.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn spawn(
    shared: &Arc<Shared>,
    name: &str,
    task: impl FnOnce(&Arc<Shared>) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(format!("hrl-gw-{name}"))
        .spawn(move || task(&shared))
        .map_err(|error| Error::io("start", "gateway", error))
}

/// Gives each connection a thread, up to the limit.
fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    std::thread::scope(|scope| {
        loop {
            let accepted = listener.accept();
            if shared.is_stopping() {
                return;
            }
            let Ok((socket, _)) = accepted else {
                std::thread::sleep(POLL);
                continue;
            };
            let counters = &shared.counters;
            if counters.connections.load(Ordering::Relaxed) >= shared.options.connections_max {
                counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let Ok(copy) = socket.try_clone() else { continue };
            counters.connections.fetch_add(1, Ordering::Relaxed);
            let slot = {
                let mut sockets = lock(&shared.sockets);
                let free = sockets.iter().position(Option::is_none);
                let slot = free.unwrap_or_else(|| {
                    sockets.push(None);
                    sockets.len() - 1
                });
                sockets[slot] = Some(copy);
                slot
            };
            let thread = std::thread::Builder::new().name("hrl-gw-conn".into());
            let started = thread.spawn_scoped(scope, move || {
                // A failure concerns only the client of the connection.
                let _ = connection::run(shared, socket);
                lock(&shared.sockets)[slot] = None;
                shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                lock(&shared.sockets)[slot] = None;
                counters.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    });
}

/// Answers `/metrics` and `/healthz`, one connection after the other.
fn accept_plain(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let accepted = listener.accept();
        if shared.is_stopping() {
            return;
        }
        if let Ok((socket, _)) = accepted {
            let _ = connection::run_plain(shared, socket);
        }
    }
}

/// Forwards the content of the cache to the vault.
fn forward(shared: &Arc<Shared>) {
    let Some(cache) = &shared.cache else { return };
    let counters = &shared.counters;
    while !shared.is_stopping() {
        let forwarded = cache.forward(&shared.vault, POLL);
        counters.forwarded_objects.fetch_add(forwarded.objects, Ordering::Relaxed);
        counters.forwarded_puts.fetch_add(forwarded.puts, Ordering::Relaxed);
        if forwarded.failure.is_some() || forwarded.puts > 0 {
            counters.vault_unavailable.store(forwarded.failure.is_some(), Ordering::Relaxed);
        }
    }
}
