//! The gateway: a store served over HTTPS with client certificates, in front of another store.
//!
//! Any number of gateways may stand side by side before one vault; they share only the vault. A
//! client may touch only its own volumes, and only as its role permits (see `rights`). With [`Acknowledge::Gateway`] a segment is acknowledged
//! once it is durable in the cache. A catalog version always goes through to the vault, after the
//! segments that came to this gateway before it. So the catalog never names what the vault lacks.
//!
//! Limits: connections in all, of an address, of unknown clients and of each client; bytes of a
//! request, of a client's requests under way, of the cache, of a client's share of it, and of what
//! a client stores; time of a handshake and of a request. At each limit the client gets an error
//! and keeps its data in its spool.
//!
//! Who changes what is in the audit log of the vault. What is deleted is there before it is
//! deleted, so while the log takes no entry nothing is.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::store::Store;
use hrl::vault::{PACK_DATA_BYTES_MAX, PackedStore, layout};
use hrl::{Error, ErrorKind, Result};
use hrl_audit::Audit;
#[cfg(any(test, feature = "testing"))]
use hrl_tls::EnrolledClient;
use hrl_tls::{CertificateRights, server_config};

use crate::cache::{Cache, Packing};
use crate::connection;
use crate::continuation::Continuation;
use crate::limits::Limits;
use crate::newness::Newness;
use crate::options::{Acknowledge, GatewayOptions};
use crate::quota::Quota;
use crate::refusals::Refusals;
use crate::revoked::Revoked;
use crate::shared::{Counters, GatewayStats, Shared};
use crate::sockets::{SocketLimits, Sockets};
use crate::tasks;

/// Limits of the plain listener of metrics.
const PLAIN_LIMITS: SocketLimits =
    SocketLimits { connections_max: 64, address_connections_max: 16, unknown_max: 64 };
/// Default bytes of a pack, before stores whose requests cost money.
const PACK_BYTES: u64 = 8 << 20;

impl GatewayOptions {
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
        let certificate_expires = CertificateRights::of_file(&self.pki.join("server.pem"))?.expires;
        let clock = self.clock.clone();
        let sockets = Sockets::new(SocketLimits {
            connections_max: self.connections_max,
            address_connections_max: self.address_connections_max,
            unknown_max: self.unknown_connections_max,
        });
        let shared = Arc::new(Shared {
            limits: Limits::new(self.client_connections_max, self.client_bytes_max),
            audit: Audit::new(vault.clone(), &format!("gateway {address}"), clock.clone()),
            refusals: Refusals::new(self.refused.clone(), clock.clone()),
            quota: Quota::new(self.client_stored_bytes_max, clock.clone()),
            newness: Newness::new(clock),
            continuation: Continuation::default(),
            revoked: Revoked::default(),
            sockets,
            plain_sockets: Sockets::new(PLAIN_LIMITS),
            certificate_expires,
            options: self,
            tls,
            vault: PackedStore::over(vault),
            cache,
            counters: Counters::default(),
            stopping: AtomicBool::new(false),
        });
        if let Err(error) = shared.revoked.read(&*shared.vault) {
            shared.refusals.line("", &format!("the list of revoked certificates: {error}"));
        }
        let mut tasks = vec![
            spawn(&shared, "accept", move |shared| {
                tasks::accept(shared, &listener, &shared.sockets, connection::run);
            })?,
            spawn(&shared, "watch", tasks::watch)?,
        ];
        if shared.cache.is_some() {
            tasks.push(spawn(&shared, "forward", tasks::forward)?);
        }
        if let Some(listener) = metrics {
            tasks.push(spawn(&shared, "metrics", move |shared| {
                let run =
                    |shared: &Arc<Shared>, socket, _: &_| connection::run_plain(shared, socket);
                tasks::accept(shared, &listener, &shared.plain_sockets, run);
            })?);
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

    /// Answers requests of a client without TLS, until it leaves or breaks the protocol. Feature
    /// `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn converse(
        &self,
        client: &EnrolledClient,
        stream: impl std::io::Read + std::io::Write,
    ) -> std::io::Result<()> {
        connection::converse(&self.shared, client, stream)
    }

    /// Stops listening, lets requests under way end, and empties the cache for up to `limit`.
    /// Returns whether the cache is empty.
    pub fn stop(self, limit: Duration) -> bool {
        let is_empty = self.shared.cache.as_ref().is_none_or(|cache| cache.wait_drained("", limit));
        // A failure is no reason to stay; what was deleted is in the log already.
        let _ = self.shared.audit.flush();
        is_empty
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.sockets.end_all();
        self.shared.plain_sockets.end_all();
        // Wakes the threads that wait for a connection.
        for address in [Some(self.address), self.metrics_address].into_iter().flatten() {
            let _ = TcpStream::connect_timeout(&reachable(address), tasks::POLL);
        }
        for task in self.tasks.drain(..) {
            let _ = task.join();
        }
    }
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
