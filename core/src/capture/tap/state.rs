//! What a tap knows, under its one lock.
//!
//! Invariants kept: the queue is in sequence order, and `queue_bytes` is its cost; changes in
//! flight are disjoint; a region that waits for its resync is dirty.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use super::in_flight::InFlightSet;
use super::queued::{QueuedBody, QueuedRecord};
use super::uncaptured::Uncaptured;
use crate::capture::region::{RegionRange, RegionTable};
use crate::event::{Cause, Mode};
use crate::journal::RECORD_DATA_BYTES_MAX;
use crate::units::{Sequence, Timestamp};

/// A change of the capture mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// Mode before.
    pub from: Mode,
    /// Mode after.
    pub to: Mode,
    /// Cause of the change.
    pub cause: Cause,
}

/// A barrier that was neither released nor replaced. It is in force until `until`.
pub(super) struct BarrierState {
    pub number: u64,
    pub since: Duration,
    pub until: Duration,
}

#[derive(Default)]
pub(super) struct TapState {
    pub in_flight: InFlightSet,
    pub regions: RegionTable,
    /// Regions that writers wait for.
    pub wanted: Vec<RegionRange>,
    pub dirty_waiters: Vec<Waker>,
    pub room_waiters: Vec<Waker>,
    pub barrier: Option<BarrierState>,
    pub barrier_waiters: Vec<Waker>,
    /// Barriers so far, which numbers them.
    pub barriers: u64,
    pub queue: VecDeque<QueuedRecord>,
    pub queue_bytes: u64,
    /// Sequence that the journal took last.
    pub drained: Sequence,
    /// A mark in the queue that is unconfirmed: the journal gets nothing from it on.
    pub unconfirmed: Option<Sequence>,
    /// The queue contains something that the journal should not be late for.
    pub urgent: bool,
    pub last_sequence: Sequence,
    pub mode: Mode,
    pub cause: Cause,
    /// The cause to give if the queue overflows.
    pub pressure: Cause,
    pub mode_changes: Vec<ModeChange>,
    pub uncaptured: Uncaptured,
    /// A region that may have been captured since the resync began waits for it again.
    pub dropped_in_resync: bool,
    /// The region that the resync reads now, unless it must be read again since it began.
    pub reading: Option<u64>,
    pub changed_since_flush: bool,
    pub closed: bool,
    /// The volume was handed over: no more changes.
    pub refuses: bool,
    /// Whether the outside writer is in sync, if there is one.
    pub in_sync: Option<bool>,
    /// An observer journals the changes, and ends each unordered interval by a point.
    pub observed: bool,
    /// How often regions were given to a resync. What an observer copied before it may be older than
    /// what that reads.
    pub readings: u64,
    /// The journal sleeps until there is enough to drain.
    pub journal_waits: bool,
    pub changes: u64,
    pub bytes_captured: u64,
}

impl TapState {
    pub fn new(regions: u64, last_sequence: Sequence) -> Self {
        Self {
            regions: RegionTable::new(regions),
            drained: last_sequence,
            last_sequence,
            pressure: Cause::MemoryBudget,
            ..Self::default()
        }
    }

    /// Takes the wakers that wait for anything but a change in flight.
    pub fn take_waiters(&mut self) -> Vec<Waker> {
        let waiters = [&mut self.room_waiters, &mut self.dirty_waiters, &mut self.barrier_waiters];
        waiters.into_iter().flat_map(std::mem::take).collect()
    }

    /// Gives the record the next sequence (one per chunk of a long write) and queues it.
    #[inline]
    pub fn push(&mut self, time: Timestamp, body: QueuedBody) {
        let sequences = match &body {
            QueuedBody::Write(_, data) => {
                self.bytes_captured += data.len() as u64;
                data.len().div_ceil(RECORD_DATA_BYTES_MAX) as u64
            }
            _ => 1,
        };
        assert!(sequences > 0, "an empty write has no place in the write order");
        self.urgent |= matches!(body, QueuedBody::Mark(_) | QueuedBody::UnorderedEnd);
        self.last_sequence = Sequence(self.last_sequence.0 + sequences);
        let record = QueuedRecord { sequence: self.last_sequence, time, body };
        self.queue_bytes += record.cost_bytes();
        self.queue.push_back(record);
    }

    /// Takes the oldest `count` records off the queue.
    #[inline]
    pub fn take_front(&mut self, count: usize) -> Vec<QueuedRecord> {
        let records: Vec<_> = self.queue.drain(..count).collect();
        self.queue_bytes -= records.iter().map(QueuedRecord::cost_bytes).sum::<u64>();
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            assert!(self.drained < first.sequence, "the journal gets each sequence once");
            assert!(last.sequence <= self.last_sequence, "no sequence comes out of nothing");
            assert!(
                self.unconfirmed.is_none_or(|mark| last.sequence < mark),
                "the journal gets nothing from an unconfirmed mark on"
            );
            self.drained = last.sequence;
        }
        assert!(!self.queue.is_empty() || self.queue_bytes == 0, "an empty queue costs nothing");
        records
    }

    /// Returns whether the next record for the journal is, or follows, an unconfirmed mark.
    pub fn awaits_confirmation(&self) -> bool {
        let next = self.queue.front();
        next.is_some_and(|record| self.unconfirmed.is_some_and(|mark| mark <= record.sequence))
    }

    /// Leaves a change of this time to a resync of its regions.
    pub fn leave_to_resync(&mut self, range: RegionRange, time: Timestamp) {
        self.uncaptured.begin(time);
        self.read_again(range);
    }

    /// Lets the regions wait for a resync from now on.
    pub fn read_again(&mut self, range: RegionRange) {
        self.readings += 1;
        // One that does not wait already may have been captured since the resync began.
        if self.mode == Mode::Resync {
            let waits = |region| self.regions.resync.contains(region);
            self.dropped_in_resync |= !(range.first..=range.last).all(waits);
        }
        self.reading = self.reading.filter(|region| !(range.first..=range.last).contains(region));
        self.regions.resync.insert_range(range);
    }

    /// Ends the unordered interval: what was changed in it is in the queue.
    pub fn end_interval(&mut self, time: Timestamp) {
        self.push(time, QueuedBody::UnorderedEnd);
        self.uncaptured.end(self.last_sequence);
        self.set_mode(Mode::Ordered, self.cause);
    }

    pub fn set_mode(&mut self, to: Mode, cause: Cause) {
        assert!(
            to != Mode::Ordered || self.regions.resync.count() == 0,
            "a volume with regions to read again is not in order"
        );
        let from = std::mem::replace(&mut self.mode, to);
        self.cause = cause;
        if from != to {
            self.mode_changes.push(ModeChange { from, to, cause });
        }
    }
}
