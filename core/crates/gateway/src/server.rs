//! The gateway: a store served over HTTPS with client certificates, in front of another store.
//!
//! Any number of gateways may stand side by side before one vault: they share nothing but the vault. A client touches its
//! own volumes alone. With [`Acknowledge::Gateway`] a segment is acknowledged when it is durable in the cache here; a
//! catalog version always goes through to the vault, after the segments that came before it here, so that the catalog
//! never names what the vault does not have.
//!
//! Limits: connections in all and of each client, bytes of a request, bytes of a client's requests under way, bytes of the
//! cache, time of a request. At each the client is told, and its
//! own spool holds what it has.

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
/// Bytes of a pack where nothing else was asked for, before stores whose requests cost money.
const PACK_BYTES: u64 = 8 << 20;

/// When a client is told that its segment is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// When it is durable in the vault. A cache takes nothing new then: what an earlier gateway left in it is forwarded.
    Vault,
    /// When it is durable in the gateway's cache.
    Gateway,
}

impl Acknowledge {
    /// The policy of this name: `gateway` or `vault`. `InvalidInput` for another.
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

/// How to start a [`Gateway`].
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
    /// Listens at `listen` (`HOST:PORT`, port 0 takes a free one) with the certificates in `pki`
    /// (see `hrl_tls::create_authority`).
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

    /// When segments are acknowledged. Default: [`Acknowledge::Gateway`] with a cache, [`Acknowledge::Vault`] without.
    pub fn acknowledge(mut self, when: Acknowledge) -> Self {
        self.acknowledge = Some(when);
        self
    }

    /// Keeps segments in this directory, which is created when it is absent, until the vault has them. Default: no cache.
    pub fn cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Some(directory.into());
        self
    }

    /// Bytes of the cache; at the limit segments are refused with `Full`. Default 16 GiB.
    pub fn cache_bytes_max(mut self, bytes: u64) -> Self {
        self.cache_bytes_max = bytes;
        self
    }

    /// Bytes of a pack: small segments that wait in the cache go to the vault together, as one object, which costs fewer
    /// requests. At most 64 MiB; 0 packs nothing. Default 8 MiB, and 0 before a store whose objects are local files.
    pub fn pack_bytes(mut self, bytes: u64) -> Self {
        self.pack_bytes = Some(bytes);
        self
    }

    /// Longest time that a segment waits in the cache for company. A catalog version that names it does not wait: the
    /// agent's `catalog_interval` says how many come together. Default 10 s.
    pub fn pack_wait_max(mut self, time: Duration) -> Self {
        self.pack_wait_max = time;
        self
    }

    /// Time for the pauses between tries and for packing. Default: that of the system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Connections at once; one more is closed. Default 1,024.
    pub fn connections_max(mut self, connections: u64) -> Self {
        self.connections_max = connections;
        self
    }

    /// Connections of one client at once; on one more it is told `Unavailable`. Default 64, twice what a client opens.
    pub fn client_connections_max(mut self, connections: u64) -> Self {
        self.client_connections_max = connections;
        self
    }

    /// Bytes of one client's requests and answers in memory at once; more wait in the network. Default 512 MiB.
    pub fn client_bytes_max(mut self, bytes: u64) -> Self {
        self.client_bytes_max = bytes;
        self
    }

    /// Bytes of an object; a larger one is refused. Default 256 MiB.
    pub fn request_bytes_max(mut self, bytes: u64) -> Self {
        self.request_bytes_max = bytes;
        self
    }

    /// Also serves `/metrics` and `/healthz` without TLS at this address. Default: nowhere but behind client certificates.
    pub fn metrics(mut self, listen: &str) -> Self {
        self.metrics = Some(listen.to_owned());
        self
    }

    /// Starts to serve `vault`. `Fenced` when another program listens at the address, `Io` when it cannot be taken,
    /// `InvalidInput` for certificates that cannot be used and for [`Acknowledge::Gateway`] without a cache.
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
    /// Connections refused: at the limit, or without an enrolled certificate.
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
    /// Their bytes.
    pub cached_bytes: u64,
    /// Objects moved from the cache to the vault.
    pub forwarded_objects: u64,
    /// Puts that moved them: fewer where small ones were packed.
    pub forwarded_puts: u64,
    /// The vault took the last object that was forwarded.
    pub vault_available: bool,
}

/// A running gateway. Dropping it stops it; what its cache holds is forwarded by the next one with the same cache.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves metrics without TLS.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Counters now.
    pub fn stats(&self) -> GatewayStats {
        self.shared.stats()
    }

    /// Answers requests as those of the client `name` that may touch `volumes`, without TLS, until it leaves or breaks the
    /// protocol. Feature `testing`.
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

    /// Stops listening, lets requests under way end, and, with a cache, tries to empty it for up to `limit`; true when
    /// nothing is left in it.
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

/// What is counted for [`GatewayStats`].
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

/// What the threads of a gateway share.
pub(crate) struct Shared {
    pub options: GatewayOptions,
    pub limits: Limits,
    pub tls: Arc<ServerConfig>,
    pub vault: Arc<PackedStore>,
    pub cache: Option<Cache>,
    pub counters: Counters,
    stopping: AtomicBool,
    /// Open connections, so that a stop can end them; by slot.
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

    /// The cache that new segments go to.
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

/// An address to connect to for one that is listened on.
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
                // What goes wrong with one connection is its client's business alone.
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

/// Moves what the cache holds to the vault.
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
