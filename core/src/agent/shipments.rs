//! What is on its way to the vault, and what has arrived there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::shipper::Shipper;
use super::spool::Spool;
use crate::sync::lock::Mutex;
use crate::units::{Sequence, Timestamp};

/// The spool, the shipper that empties it, and how far the vault is.
pub(super) struct Shipments {
    pub spool: Spool,
    pub shipper: Shipper,
    replicated: AtomicU64,
    vault_available: AtomicBool,
    /// The newest catalog version and its time, when nobody appended.
    version: Mutex<(u64, Option<Timestamp>)>,
}

impl Shipments {
    /// Begins with a catalog whose newest sequence is `replicated`.
    pub fn new(spool: Spool, shipper: Shipper, replicated: Sequence) -> Self {
        Self {
            spool,
            shipper,
            replicated: AtomicU64::new(replicated.0),
            vault_available: AtomicBool::new(true),
            version: Mutex::default(),
        }
    }

    /// Returns the newest sequence in the vault's catalog.
    pub fn replicated(&self) -> Sequence {
        Sequence(self.replicated.load(Ordering::Acquire))
    }

    /// Returns the newest catalog version and its time; those before while it is appended to.
    pub fn newest_version(&self) -> (u64, Option<Timestamp>) {
        let newest = self.shipper.peek(|catalog| (catalog.version(), catalog.time()));
        let mut known = self.version.lock();
        *known = newest.unwrap_or(*known);
        *known
    }

    /// Records that the catalog lists everything up to `last`. Returns whether the vault was
    /// unavailable before.
    pub fn published(&self, last: Sequence) -> bool {
        let before = self.replicated.swap(last.0, Ordering::AcqRel);
        assert!(last.0 >= before, "a catalog lists what it listed before");
        !self.vault_available.swap(true, Ordering::Relaxed)
    }

    /// Records that the vault went back to `last`.
    pub fn went_back(&self, last: Sequence) {
        self.replicated.store(last.0, Ordering::Release);
    }

    /// Records that the vault does not answer. Returns whether it did before.
    pub fn vault_failed(&self) -> bool {
        self.vault_available.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the vault answered last.
    pub fn is_vault_available(&self) -> bool {
        self.vault_available.load(Ordering::Relaxed)
    }
}
