//! Counts what a resync reads and journals, and has what the next one compares with.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::baseline::Baseline;
use crate::sync::lock::Mutex;

/// Bytes of the resync under way, or of the last one.
#[derive(Default)]
pub(super) struct ResyncProgress {
    read: AtomicU64,
    journaled: AtomicU64,
    baseline: Mutex<Option<Baseline>>,
    waits: AtomicBool,
}

impl ResyncProgress {
    /// Sets what the next resync compares with. The journal must continue it from now on.
    pub fn offer(&self, baseline: Baseline) {
        *self.baseline.lock() = Some(baseline);
    }

    /// Takes what the resync that begins is to compare with.
    pub fn take_baseline(&self) -> Option<Baseline> {
        self.baseline.lock().take()
    }

    /// Records that the first resync waits for the vault, and has read nothing. Returns whether it
    /// waited before.
    pub fn wait(&self) -> bool {
        self.waits.swap(true, Ordering::AcqRel)
    }

    /// Returns whether the first resync waits for the vault, or did.
    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Begins a resync.
    pub fn begin(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.journaled.store(0, Ordering::Relaxed);
    }

    /// Adds a region of which `read` bytes were read and `journaled` bytes had changed.
    pub fn add(&self, read: u64, journaled: u64) {
        self.read.fetch_add(read, Ordering::Relaxed);
        self.journaled.fetch_add(journaled, Ordering::Relaxed);
    }

    /// Returns the bytes read.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Returns the bytes that had changed, and were journaled.
    pub fn bytes_journaled(&self) -> u64 {
        self.journaled.load(Ordering::Relaxed)
    }
}
