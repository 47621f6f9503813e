//! What the threads of a gateway share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hrl::vault::PackedStore;
use hrl::{Error, ErrorKind, Result, Timestamp};
use hrl_audit::Audit;
use hrl_tls::rustls::ServerConfig;
use hrl_tls::{Enrolled, EnrolledClient, fingerprint};

use crate::cache::Cache;
use crate::continuation::Continuation;
use crate::limits::Limits;
use crate::newness::Newness;
use crate::options::{Acknowledge, GatewayOptions};
use crate::quota::Quota;
use crate::refusals::Refusals;
use crate::revoked::Revoked;
use crate::sockets::Sockets;

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
    /// Requests that the client had no right to.
    pub refused: u64,
    /// Segments under whose names the vault had other bytes; they were moved aside.
    pub conflicts: u64,
    /// When the gateway's certificate expires.
    pub certificate_expires: Timestamp,
    /// When the first certificate of a connected client expires.
    pub client_certificate_expires: Option<Timestamp>,
}

/// Counters behind [`GatewayStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub refused: AtomicU64,
    pub conflicts: AtomicU64,
    pub connections_refused: AtomicU64,
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub forwarded_objects: AtomicU64,
    pub forwarded_puts: AtomicU64,
    pub vault_unavailable: AtomicBool,
}

/// State that the threads of a gateway share.
pub(crate) struct Shared {
    pub options: GatewayOptions,
    pub limits: Limits,
    pub tls: Arc<ServerConfig>,
    pub vault: Arc<PackedStore>,
    pub cache: Option<Cache>,
    pub counters: Counters,
    pub audit: Audit,
    pub refusals: Refusals,
    pub quota: Quota,
    pub newness: Newness,
    pub continuation: Continuation,
    pub revoked: Revoked,
    pub sockets: Arc<Sockets>,
    pub plain_sockets: Arc<Sockets>,
    pub certificate_expires: Timestamp,
    pub stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn stats(&self) -> GatewayStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let (cached_objects, cached_bytes) = self.cache.as_ref().map_or((0, 0), Cache::size);
        GatewayStats {
            connections: self.sockets.count(),
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
            refused: get(&counters.refused),
            conflicts: get(&counters.conflicts),
            certificate_expires: self.certificate_expires,
            client_certificate_expires: self.sockets.first_expiry(),
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

    /// Returns the client with a certificate. `Denied` if it may not use the gateway now.
    pub(crate) fn find_client(&self, certificate: &[u8]) -> Result<EnrolledClient> {
        self.find_among(&Enrolled::read(&self.options.pki)?, certificate)
    }

    /// Returns the client with a certificate among those that are enrolled, as
    /// [`Shared::find_client`] does.
    pub(crate) fn find_among(
        &self,
        enrolled: &Enrolled,
        certificate: &[u8],
    ) -> Result<EnrolledClient> {
        let denied = |why: &str| Error::new(ErrorKind::Denied, "serve", "client").message(why);
        let client = enrolled
            .find(certificate)
            .map_err(|error| denied("its certificate cannot be used").caused_by(error))?
            .ok_or_else(|| denied("its certificate is not enrolled at this gateway"))?;
        if self.revoked.has(&fingerprint(certificate)) {
            return Err(denied("its certificate is revoked").found(&client.name));
        }
        if client.expires <= self.options.clock.now() {
            return Err(denied("its certificate has expired").found(&client.name));
        }
        Ok(client)
    }

    /// Reads the clients that are enrolled now.
    pub(crate) fn enrolled(&self) -> Result<Enrolled> {
        Enrolled::read(&self.options.pki)
    }
}
