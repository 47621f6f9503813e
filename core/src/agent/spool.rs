//! The spool: closed segments on the local disk, until the vault's catalog lists them.
//!
//! Invariants: each segment continues the one before. Segments leave oldest first, and only once
//! the catalog lists them. The bytes are those of the segments inside.
//!
//! Behaviour on failure: a file that cannot be removed stays, and the next start removes it,
//! because the catalog lists its segment.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::device::Files;
use crate::journal::SegmentSummary;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::units::{ChainHash, Sequence, Timestamp};
use crate::vault::SegmentEntry;

/// A closed segment in the spool.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub path: PathBuf,
    pub summary: SegmentSummary,
}

#[derive(Default)]
struct SpoolState {
    queue: VecDeque<Spooled>,
    bytes: u64,
    /// Chain hash and last sequence of the newest segment that came in.
    newest: Option<(ChainHash, Sequence)>,
}

/// Closed segments on the local disk, oldest first, with a limit in bytes.
pub(crate) struct Spool {
    state: Mutex<SpoolState>,
    changed: Condvar,
    files: Arc<dyn Files>,
    bytes_max: u64,
}

impl Spool {
    /// Makes an empty spool. It is crowded beyond half of `bytes_max`.
    pub(crate) fn new(files: Arc<dyn Files>, bytes_max: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), files, bytes_max }
    }

    /// Adds the segment that continues the newest one.
    pub(crate) fn push(&self, spooled: Spooled) {
        let mut state = self.state.lock();
        let summary = &spooled.summary;
        if let Some((chain, last_sequence)) = state.newest {
            assert!(summary.previous == chain, "a segment continues the one before");
            assert!(summary.first_sequence > last_sequence, "sequences grow");
        }
        state.newest = Some((summary.chain, summary.last_sequence));
        state.bytes += spooled.summary.stored_bytes;
        state.queue.push_back(spooled);
        self.changed.notify_all();
    }

    /// Returns whether more than half of the limit is used.
    pub(super) fn is_crowded(&self) -> bool {
        self.state.lock().bytes > self.bytes_max / 2
    }

    /// Returns whether no segment is inside.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Returns the bytes of the segments inside.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Returns the time of the oldest record in the spool.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.state.lock().queue.front().map(|spooled| spooled.summary.first_time)
    }

    /// Returns up to `count` segments, oldest first, after the first `skipped`.
    pub(super) fn oldest_batch(&self, skipped: usize, count: usize) -> Vec<Spooled> {
        self.state.lock().queue.iter().skip(skipped).take(count).cloned().collect()
    }

    /// Returns whether a segment of this chain hash is inside.
    pub(super) fn contains(&self, chain: ChainHash) -> bool {
        self.state.lock().queue.iter().any(|spooled| spooled.summary.chain == chain)
    }

    /// Returns whether the oldest segment, if there is one, continues this chain hash.
    pub(super) fn follows(&self, chain: ChainHash) -> bool {
        self.state.lock().queue.front().is_none_or(|oldest| oldest.summary.previous == chain)
    }

    /// Takes all segments out without removing their files.
    pub(super) fn take_all(&self) -> Vec<Spooled> {
        let taken = std::mem::take(&mut *self.state.lock());
        self.changed.notify_all();
        taken.queue.into()
    }

    /// Waits up to `wait` for a segment after the first `skipped`.
    pub(super) fn wait_for_more(&self, skipped: usize, wait: Duration) {
        let state = self.state.lock();
        if state.queue.len() <= skipped {
            drop(self.changed.wait_timeout(state, wait));
        }
    }

    /// Waits up to `wait` for the spool to be empty.
    pub(crate) fn wait_empty(&self, wait: Duration) -> bool {
        let state = self.state.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.queue.is_empty());
        waited.0.queue.is_empty()
    }

    /// Wakes those who wait, so that they see a stop.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Removes the oldest segments with their files. They must be those that the catalog lists as
    /// `entries`.
    pub(super) fn remove_published(&self, entries: &[SegmentEntry]) {
        let state = self.state.lock();
        for (spooled, entry) in state.queue.iter().zip(entries) {
            let listed = spooled.summary.chain == entry.summary.chain;
            assert!(listed, "only a segment that the catalog lists leaves the spool");
        }
        self.remove_oldest(state, entries.len());
    }

    /// Removes the segments up to the one with this chain hash, with their files; none if it is not
    /// inside. The catalog must have listed all of them.
    pub(super) fn remove_through(&self, chain: ChainHash) {
        let state = self.state.lock();
        let last = state.queue.iter().position(|spooled| spooled.summary.chain == chain);
        self.remove_oldest(state, last.map_or(0, |last| last + 1));
    }

    fn remove_oldest(&self, mut state: MutexGuard<'_, SpoolState>, count: usize) {
        let gone: Vec<_> = {
            let gone: Vec<_> = state.queue.drain(..count).collect();
            let bytes: u64 = gone.iter().map(|spooled| spooled.summary.stored_bytes).sum();
            assert!(state.bytes >= bytes, "the spool counts the bytes of all its segments");
            state.bytes -= bytes;
            assert!(!state.queue.is_empty() || state.bytes == 0, "an empty spool has no bytes");
            drop(state);
            gone
        };
        for spooled in gone {
            // The next start removes a file that stays: the catalog lists its segment.
            let _ = self.files.remove(&spooled.path);
        }
        self.changed.notify_all();
    }
}

/// Returns the path of a closed segment in a spool directory.
pub(crate) fn spool_path(directory: &Path, summary: &SegmentSummary) -> PathBuf {
    directory.join(summary.object_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SystemFiles;
    use crate::journal::SegmentKind;
    use crate::units::{Epoch, VolumeId};

    fn entry(first: u64, previous: u8) -> SegmentEntry {
        let summary = SegmentSummary {
            kind: SegmentKind::Log,
            volume: VolumeId([1; 16]),
            epoch: Epoch(1),
            first_sequence: Sequence(first),
            last_sequence: Sequence(first + 9),
            first_time: Timestamp(first as i64),
            last_time: Timestamp(first as i64),
            salt: [0; 16],
            previous: ChainHash([previous; 32]),
            chain: ChainHash([previous + 1; 32]),
            records: 10,
            data_bytes: 0,
            stored_bytes: 100,
            marks: Vec::new(),
            order_changes: Vec::new(),
        };
        SegmentEntry { object: summary.object_name(), summary }
    }

    fn spool_of(entries: &[SegmentEntry]) -> Spool {
        let spool = Spool::new(Arc::new(SystemFiles), 250);
        for SegmentEntry { object, summary } in entries {
            let path = Path::new("/nowhere").join(object);
            spool.push(Spooled { path, summary: summary.clone() });
        }
        spool
    }

    #[test]
    fn segments_leave_oldest_first_and_take_their_bytes_along() {
        let entries = [entry(1, 0), entry(11, 1), entry(21, 2)];
        let spool = spool_of(&entries);
        assert!(spool.bytes() == 300 && spool.is_crowded());
        spool.remove_published(&entries[..2]);
        assert_eq!((spool.bytes(), spool.oldest()), (100, Some(Timestamp(21))));
        spool.remove_published(&entries[2..]);
        assert_eq!((spool.bytes(), spool.oldest()), (0, None));
        assert!(spool.is_empty());
    }

    #[test]
    #[should_panic(expected = "only a segment that the catalog lists")]
    fn no_segment_leaves_that_the_catalog_does_not_list() {
        let entries = [entry(1, 0), entry(11, 1)];
        spool_of(&entries).remove_published(&entries[1..]);
    }

    #[test]
    #[should_panic(expected = "continues the one before")]
    fn no_segment_comes_in_after_a_missing_one() {
        spool_of(&[entry(1, 0), entry(21, 2)]);
    }
}
