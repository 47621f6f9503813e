//! What the connections of a server share: exports, limits, counters, and the pool of threads.

use std::sync::atomic::{AtomicU64, Ordering};

use hrl_front::Pool;

use crate::{Export, NbdEngine};

/// Limits that bound what the clients of a server can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdLimits {
    /// Connections at once; any further one is closed immediately. Default 128.
    pub connections_max: u32,
    /// Connections of one address, or of one IPv6 network of 64 bits; further ones are closed.
    /// Default 64.
    pub address_connections_max: u32,
    /// Connections in their handshake; a further one takes the place of the oldest. Default 32.
    pub handshakes_max: u32,
    /// Requests of a connection at once; more wait in the socket. Default 128.
    pub requests_in_flight_max: u32,
    /// Bytes of a read or write; a longer one is refused with `EINVAL`, and a longer write ends the
    /// connection, because its data cannot be skipped within bounds. Default 32 MiB.
    pub request_bytes_max: u32,
    /// Time for the whole handshake, in seconds. Default 10.
    pub handshake_seconds_max: u32,
    /// Bytes of requests and replies buffered for a connection; beyond it nothing more is read from
    /// it. Default 64 MiB.
    pub backlog_bytes_max: u64,
    /// Whether a server without TLS may listen at an address that other machines reach. Whoever
    /// reaches it reads and writes the disk. Default: false.
    pub insecure: bool,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections_max: 128,
            address_connections_max: 64,
            handshakes_max: 32,
            requests_in_flight_max: 128,
            request_bytes_max: 32 << 20,
            handshake_seconds_max: 10,
            backlog_bytes_max: 64 << 20,
            insecure: false,
        }
    }
}

/// Counters of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NbdStats {
    /// Connections open now.
    pub connections: u64,
    /// Connections refused at the limit or by TLS.
    pub connections_refused: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes of data sent.
    pub bytes_read: u64,
    /// Bytes of data received.
    pub bytes_written: u64,
}

/// Counters under way; [`NbdStats`] documents each.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
}

impl Counters {
    /// Returns the counts as of now.
    pub(crate) fn stats(&self) -> NbdStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NbdStats {
            connections: get(&self.connections),
            connections_refused: get(&self.connections_refused),
            requests: get(&self.requests),
            errors: get(&self.errors),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
        }
    }
}

/// What every connection of a server uses.
pub(crate) struct Service {
    pub(crate) exports: Vec<Export>,
    pub(crate) limits: NbdLimits,
    pub(crate) counters: Counters,
    pub(crate) pool: Pool,
    pub(crate) engine: NbdEngine,
}
