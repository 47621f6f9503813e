//! The spool: closed segments on the local disk, oldest first, until the vault's catalog names them.
//!
//! Invariants: segments leave in the order of their writes, and only after the catalog names them. Its limit is what
//! capture falls back on.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::device::Files;
use crate::journal::SegmentSummary;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::units::Timestamp;

/// A sealed segment in the spool.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub path: PathBuf,
    pub summary: SegmentSummary,
}

#[derive(Default)]
struct SpoolState {
    queue: VecDeque<Spooled>,
    bytes: u64,
}

/// Sealed segments on the local disk, oldest first.
pub(crate) struct Spool {
    state: Mutex<SpoolState>,
    changed: Condvar,
    files: Arc<dyn Files>,
    bytes_max: u64,
}

impl Spool {
    pub(crate) fn new(files: Arc<dyn Files>, bytes_max: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), files, bytes_max }
    }

    pub(crate) fn push(&self, spooled: Spooled) {
        let mut state = self.lock();
        state.bytes += spooled.summary.stored_bytes;
        state.queue.push_back(spooled);
        self.changed.notify_all();
    }

    /// Above half of its limit.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().bytes > self.bytes_max / 2
    }

    /// Below its limit.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().bytes < self.bytes_max
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Time of the oldest record in the spool.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.lock().queue.front().map(|spooled| spooled.summary.first_time)
    }

    /// The oldest segments but the first `skipped`, at most `count`.
    pub(super) fn oldest_batch(&self, skipped: usize, count: usize) -> Vec<Spooled> {
        self.lock().queue.iter().skip(skipped).take(count).cloned().collect()
    }

    /// Waits up to `wait` for a segment after the first `skipped`.
    pub(super) fn wait_for_more(&self, skipped: usize, wait: Duration) {
        let state = self.lock();
        if state.queue.len() <= skipped {
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Waits up to `wait` for the spool to be empty.
    pub(crate) fn wait_empty(&self, wait: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.queue.is_empty());
        waited.0.queue.is_empty()
    }

    /// Forgets what is left; its files belong to somebody else now.
    pub(crate) fn forget(&self) {
        *self.lock() = SpoolState::default();
        self.changed.notify_all();
    }

    /// Wakes those who wait, so that they see a stop.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// The `count` oldest segments are in the vault: they are forgotten and their files removed.
    pub(super) fn shipped(&self, count: usize) {
        let gone: Vec<_> = {
            let mut state = self.lock();
            let gone: Vec<_> = state.queue.drain(..count).collect();
            state.bytes -= gone.iter().map(|spooled| spooled.summary.stored_bytes).sum::<u64>();
            gone
        };
        for spooled in gone {
            // A file that stays is found at the next start to be in the catalog already, and removed then.
            let _ = self.files.remove(&spooled.path);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock()
    }
}

/// Path of a sealed segment in a spool directory.
pub(crate) fn spool_path(directory: &Path, summary: &SegmentSummary) -> PathBuf {
    directory.join(summary.object_name())
}
