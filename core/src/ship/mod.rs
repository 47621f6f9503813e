//! Shipping: sealed segments wait in a spool on the local disk until they are in the vault and its catalog.
//!
//! Invariants: segments leave in write order; one leaves the spool only after the catalog names it; a crash anywhere
//! repeats a put at most, which put-if-absent makes harmless. When the vault does not answer, shipping tries again with
//! growing pauses for as long as it takes; the spool's limit is what capture falls back on.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentSummary;
use crate::replica::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity};
use crate::store::{PutOutcome, Store};
use crate::units::{Sequence, Timestamp};

/// Catalog entries made by one append at most.
const BATCH_MAX: usize = 64;

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
    bytes_max: u64,
}

impl Spool {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    pub(crate) fn push(&self, spooled: Spooled) {
        let mut state = self.lock();
        state.bytes += spooled.summary.stored_bytes;
        state.queue.push_back(spooled);
        self.changed.notify_all();
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

    /// The oldest segments, at most `count`; waits up to `wait` for the first.
    pub(crate) fn oldest_batch(&self, count: usize, wait: Duration) -> Vec<Spooled> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.iter().take(count).cloned().collect()
    }

    /// Waits up to `wait` for the spool to be empty.
    pub(crate) fn wait_empty(&self, wait: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.queue.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.queue.is_empty()
    }

    /// Wakes those who wait, so that they see a stop.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// The `count` oldest segments are in the vault: they are forgotten and their files removed.
    fn shipped(&self, count: usize) {
        let gone: Vec<_> = {
            let mut state = self.lock();
            let gone: Vec<_> = state.queue.drain(..count).collect();
            state.bytes -= gone.iter().map(|spooled| spooled.summary.stored_bytes).sum::<u64>();
            gone
        };
        for spooled in gone {
            // A file that stays is found at the next start to be in the catalog already, and removed then.
            let _ = std::fs::remove_file(&spooled.path);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves segments from the spool to the vault.
pub(crate) struct Shipper {
    store: Arc<dyn Store>,
    volume: String,
    catalog: Mutex<Catalog>,
    source: SourceIdentity,
    puts_in_flight_max: usize,
}

impl Shipper {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        volume: String,
        catalog: Catalog,
        source: SourceIdentity,
        puts_in_flight_max: u32,
    ) -> Self {
        let puts_in_flight_max = puts_in_flight_max as usize;
        Self { store, volume, catalog: Mutex::new(catalog), source, puts_in_flight_max }
    }

    /// The catalog as this source knows it.
    pub(crate) fn catalog(&self) -> Catalog {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ships what waits, oldest first; returns the last sequence now in the catalog, `None` when nothing waited.
    pub(crate) fn ship(&self, spool: &Spool, wait: Duration) -> Result<Option<Sequence>> {
        let batch = spool.oldest_batch(BATCH_MAX, wait);
        if batch.is_empty() {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(batch.len());
        for chunk in batch.chunks(self.puts_in_flight_max) {
            let results: Vec<_> = std::thread::scope(|scope| {
                let puts: Vec<_> =
                    chunk.iter().map(|spooled| scope.spawn(|| self.put(spooled))).collect();
                puts.into_iter()
                    .map(|put| put.join().unwrap_or_else(|_| Err(put_panicked())))
                    .collect()
            });
            for result in results {
                entries.push(result?);
            }
        }
        let count = entries.len();
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.append(&self.source, vec![CatalogEdit::Segments(entries)])?;
        let last = catalog.last_sequence();
        drop(catalog);
        spool.shipped(count);
        Ok(Some(last))
    }

    fn put(&self, spooled: &Spooled) -> Result<SegmentEntry> {
        let object = segment_object(&self.volume, &spooled.summary);
        if self.store.put_file(&object, &spooled.path)? == PutOutcome::AlreadyExists {
            let found = self.store.head(&object)?.map_or(0, |info| info.length);
            let length = spooled.summary.stored_bytes;
            if found != length {
                return Err(Error::new(ErrorKind::Corrupt, "ship segment", object)
                    .message("another object of its name is in the vault")
                    .expected(format_args!("{length} bytes"))
                    .found(found));
            }
        }
        Ok(SegmentEntry { object, summary: spooled.summary.clone() })
    }
}

/// Name of a segment's object in the vault.
pub(crate) fn segment_object(volume: &str, summary: &SegmentSummary) -> String {
    format!("volumes/{volume}/segments/{}", summary.object_name())
}

/// Path of a sealed segment in a spool directory.
pub(crate) fn spool_path(directory: &Path, summary: &SegmentSummary) -> PathBuf {
    directory.join(summary.object_name())
}

fn put_panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "ship segment", "vault").message("the store panicked")
}
