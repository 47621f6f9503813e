//! How far the journal is closed, for the tasks and callers that wait for it.
//!
//! Invariant: each closed segment continues the one before, by its chain hash and with later
//! sequences.

use std::time::Duration;

use crate::journal::SegmentSummary;
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::units::{ChainHash, PointId, Sequence, Timestamp};

/// Newest points whose chain hashes are stored for those who wait for them.
const POINTS_MAX: usize = 1024;

/// What became of a mark.
pub(super) enum Fate {
    /// Its segment is closed, and has this chain hash.
    Durable(ChainHash),
    /// It is in the queue or in the open segment.
    Open,
    /// The journal lost it.
    Lost,
}

/// What keeps the journal from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// The spool has no room for the next record.
    SpoolFull,
    /// The last segment was lost, and none was closed since.
    Failing,
}

/// The journal as far as it is closed. Read it through [`JournalProgress::now`].
#[derive(Default)]
pub(super) struct JournalState {
    /// Last sequence of the newest closed segment.
    pub durable: Sequence,
    /// Chain hash of the newest closed segment.
    pub chain: ChainHash,
    /// Time of the oldest record that was taken from the queue for a segment that is not closed.
    pub open_since: Option<Timestamp>,
    /// Bytes of the segments that were closed in this session.
    pub bytes_stored: u64,
    /// How often the open segment was lost.
    pub losses: u64,
    /// What keeps the journal from going on.
    pub stall: Option<Stall>,
    /// The journal closes no more segments in this session.
    pub is_drained: bool,
    points: Vec<(PointId, ChainHash)>,
}

impl JournalState {
    /// Returns what became of a mark that was placed when there had been `losses`.
    fn fate_of(&self, point: PointId, losses: u64) -> Fate {
        match self.points.iter().rev().find(|(id, _)| *id == point) {
            Some((_, chain)) => Fate::Durable(*chain),
            None if self.losses == losses => Fate::Open,
            None => Fate::Lost,
        }
    }

    fn record_point(&mut self, point: PointId, chain: ChainHash) {
        if self.points.len() >= POINTS_MAX {
            self.points.drain(..POINTS_MAX / 2);
        }
        self.points.push((point, chain));
    }
}

/// Progress of the journal, shared between the journal task and those who wait for it.
pub(super) struct JournalProgress {
    state: Mutex<JournalState>,
    changed: Condvar,
}

impl JournalProgress {
    /// Begins a session whose newest closed segment ends at `durable` and has the hash `chain`.
    pub fn new(durable: Sequence, chain: ChainHash) -> Self {
        let state = JournalState { durable, chain, ..JournalState::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Returns the journal as it is now. Nothing is closed or lost while the guard is there.
    pub fn now(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock()
    }

    /// Records that a segment is to be opened for a record of `first_time`.
    pub fn opens(&self, first_time: Timestamp) {
        let mut state = self.state.lock();
        assert!(state.open_since.is_none(), "one segment is open at a time");
        assert!(!state.is_drained, "nothing is journaled after the drain");
        state.open_since = Some(first_time);
    }

    /// Records that the open segment is closed and in the spool.
    pub fn closed(&self, summary: &SegmentSummary) {
        let mut state = self.state.lock();
        assert!(summary.previous == state.chain, "a segment continues the chain");
        assert!(summary.first_sequence > state.durable, "sequences grow");
        assert!(summary.last_sequence >= summary.first_sequence, "a segment has records");
        state.durable = summary.last_sequence;
        state.chain = summary.chain;
        state.open_since = None;
        state.stall = None;
        state.bytes_stored += summary.stored_bytes;
        for mark in &summary.marks {
            state.record_point(mark.mark.point, summary.chain);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Records that the open segment, or the record that it was to be opened for, is lost. Returns
    /// the last sequence that is not, and the time of the oldest lost record.
    pub fn lost(&self) -> (Sequence, Option<Timestamp>) {
        let mut state = self.state.lock();
        state.losses += 1;
        state.stall = Some(Stall::Failing);
        (state.durable, state.open_since.take())
    }

    /// Records whether the spool has no room for the next record.
    pub fn set_spool_full(&self, yes: bool) {
        let mut state = self.state.lock();
        if state.stall != Some(Stall::Failing) {
            state.stall = yes.then_some(Stall::SpoolFull);
        }
    }

    /// Returns whether the journal cannot go on at present.
    pub fn is_stalled(&self) -> bool {
        self.state.lock().stall.is_some()
    }

    /// Records that the journal goes on after another segment, and that what it closed since that
    /// one is of no more use. Returns the last sequence closed, and the time of the oldest record
    /// that was lost with the open segment.
    pub fn goes_on_after(&self, chain: ChainHash) -> (Sequence, Option<Timestamp>) {
        let mut state = self.state.lock();
        state.chain = chain;
        state.points.clear();
        drop(state);
        self.lost()
    }

    /// Wakes those who wait, after the tap learned of a loss.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Records that the journal closes no more segments.
    pub fn drained(&self) {
        self.state.lock().is_drained = true;
    }

    /// Returns whether the journal closes no more segments.
    pub fn is_drained(&self) -> bool {
        self.state.lock().is_drained
    }

    /// Returns what became of a mark that was placed when there had been `losses`.
    pub fn fate_of(&self, point: PointId, losses: u64) -> Fate {
        self.state.lock().fate_of(point, losses)
    }

    /// Waits up to `limit` for a mark to be durable or lost.
    pub fn wait_for_fate(&self, point: PointId, losses: u64, limit: Duration) -> Fate {
        let (state, _) = self.changed.wait_timeout_while(self.state.lock(), limit, |state| {
            matches!(state.fate_of(point, losses), Fate::Open)
        });
        state.fate_of(point, losses)
    }
}
