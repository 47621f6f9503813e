//! Options of a gateway.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::{Clock, Error, ErrorKind, Result, SystemClock};

use crate::refusals::RefusalSink;

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

/// Options of a [`Gateway`](crate::Gateway).
#[derive(Clone)]
pub struct GatewayOptions {
    pub(crate) listen: String,
    pub(crate) pki: PathBuf,
    pub(crate) acknowledge: Option<Acknowledge>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) cache_bytes_max: u64,
    pub(crate) pack_bytes: Option<u64>,
    pub(crate) pack_wait_max: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections_max: u64,
    pub(crate) address_connections_max: u64,
    pub(crate) unknown_connections_max: u64,
    pub(crate) client_cache_bytes_max: u64,
    pub(crate) client_stored_bytes_max: Option<u64>,
    pub(crate) refused: RefusalSink,
    pub(crate) client_connections_max: u64,
    pub(crate) client_bytes_max: u64,
    pub(crate) request_bytes_max: u64,
    pub(crate) metrics: Option<String>,
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
            address_connections_max: 256,
            unknown_connections_max: 128,
            client_cache_bytes_max: u64::MAX,
            client_stored_bytes_max: None,
            refused: Arc::new(|_| {}),
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

    /// Sets the most connections of one address, or of one IPv6 network of 64 bits; further ones are
    /// closed. Default 256.
    pub fn address_connections_max(mut self, connections: u64) -> Self {
        self.address_connections_max = connections;
        self
    }

    /// Sets the most connections whose client has not shown a certificate yet; a further one takes
    /// the place of the oldest. Default 128.
    pub fn unknown_connections_max(mut self, connections: u64) -> Self {
        self.unknown_connections_max = connections;
        self
    }

    /// Sets the most bytes of the cache that one client may use; beyond it segments are refused with
    /// `Full`. Default: all of the cache.
    pub fn client_cache_bytes_max(mut self, bytes: u64) -> Self {
        self.client_cache_bytes_max = bytes;
        self
    }

    /// Sets the most bytes that one client may store in the vault; beyond it segments are refused
    /// with `Full`. Default: no limit.
    pub fn client_stored_bytes_max(mut self, bytes: u64) -> Self {
        self.client_stored_bytes_max = Some(bytes);
        self
    }

    /// Sets the callback that gets a line for people about each refusal, on the thread of the
    /// connection. Default: none.
    pub fn on_refused(mut self, sink: RefusalSink) -> Self {
        self.refused = sink;
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
}
