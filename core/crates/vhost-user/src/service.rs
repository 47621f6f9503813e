//! What the queues of a server share: the disk, limits, counters, and the pool of threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hrl_front::{Disk, Pool};

/// Limits that bound what a client can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserLimits {
    /// Queues that are offered, 1 to 64. Default 4.
    pub queues: u16,
    /// Bytes of a read or write; a longer one is an error. Default 32 MiB.
    pub request_bytes_max: u32,
    /// Bytes of the requests of one queue at once; more wait in it. Default 64 MiB.
    pub backlog_bytes_max: u64,
    /// Refuses changes, even if the disk would accept them. Default: false.
    pub read_only: bool,
}

impl Default for VhostUserLimits {
    fn default() -> Self {
        Self {
            queues: 4,
            request_bytes_max: 32 << 20,
            backlog_bytes_max: 64 << 20,
            read_only: false,
        }
    }
}

/// Counters of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VhostUserStats {
    /// Whether a client is connected.
    pub connected: bool,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes of data read.
    pub bytes_read: u64,
    /// Bytes of data written.
    pub bytes_written: u64,
}

/// Counters under way; [`VhostUserStats`] documents each.
#[derive(Default)]
pub(crate) struct Counters {
    pub connected: AtomicBool,
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// The client has asked for a change.
    pub has_changed: AtomicBool,
}

impl Counters {
    /// Counts a request that is answered: whether it was carried out, its bytes read and written.
    pub(crate) fn count(&self, is_done: bool, read: u64, written: u64, is_change: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(!is_done), Ordering::Relaxed);
        self.bytes_read.fetch_add(read, Ordering::Relaxed);
        self.bytes_written.fetch_add(written, Ordering::Relaxed);
        self.has_changed.fetch_or(is_change, Ordering::Relaxed);
    }

    /// Returns the counts as of now.
    pub(crate) fn stats(&self) -> VhostUserStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        VhostUserStats {
            connected: self.connected.load(Ordering::Relaxed),
            requests: get(&self.requests),
            errors: get(&self.errors),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
        }
    }
}

/// What all queues of a server share.
pub(crate) struct Service {
    pub disk: Disk,
    pub name: String,
    pub read_only: bool,
    pub limits: VhostUserLimits,
    pub counters: Counters,
    pub pool: Pool,
}
