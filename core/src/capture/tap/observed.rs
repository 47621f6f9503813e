//! Changes of a disk that others write to, as an observer finds them.
//!
//! Invariants: the observer journals nothing while a resync has a region to read, because either may
//! have the newer content. Only the observer ends an interval.

use super::queued::QueuedBody;
use super::{Change, Tap};
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::journal::Mark;
use crate::units::{Sequence, Timestamp};

impl Tap {
    /// Leaves changes and the end of each unordered interval to an observer.
    pub(crate) fn observe(&self) {
        self.lock().observed = true;
    }

    /// Returns whether an observer ends the unordered intervals.
    pub(crate) fn is_observed(&self) -> bool {
        self.lock().observed
    }

    /// Begins an unordered interval with the changes after `since`, unless one is open.
    pub(crate) fn begin_observed(&self, since: Timestamp) {
        let mut state = self.lock();
        state.uncaptured.begin(since);
        self.fall(&mut state, Cause::Observed, since);
    }

    /// Returns the number of the readings so far, for [`Tap::complete_observed`]; `None` unless an
    /// interval is open and no resync has a region to read.
    pub(crate) fn observed(&self) -> Option<u64> {
        let state = self.lock();
        let is_read = state.regions.resync.count() == 0 && state.in_flight.is_empty();
        (state.observed && state.mode == Mode::Resync && is_read).then_some(state.readings)
    }

    /// Queues a change that was found under this number of readings. Returns false, and queues
    /// nothing, if a resync reads or has read since. Queued even over the budget, so wait for
    /// [`Tap::has_room`] first.
    pub(crate) fn complete_observed(
        &self,
        readings: u64,
        extent: Extent,
        change: Change,
        time: Timestamp,
    ) -> bool {
        let range = self.regions_of(extent);
        let mut state = self.lock();
        let is_current = state.mode == Mode::Resync && state.readings == readings;
        if is_current {
            state.changes += 1;
            state.push(time, self.body_of(extent, change));
            let sequence = state.last_sequence;
            state.regions.changed(range, sequence);
        }
        is_current
    }

    /// Ends the interval by a point of this time. Later changes count as missing from then on.
    /// Returns `None` if a resync reads or has read since.
    pub(crate) fn end_observed(
        &self,
        readings: u64,
        mark: Mark,
        time: Timestamp,
    ) -> Option<Sequence> {
        let mut state = self.lock();
        if state.mode != Mode::Resync || state.readings != readings {
            return None;
        }
        state.end_interval(time);
        state.uncaptured.begin(time);
        state.push(time, QueuedBody::Mark(mark));
        self.queued.notify_all();
        Some(state.last_sequence)
    }
    /// Places the commitment of a group's point behind that point, with its time. It changes nothing,
    /// so it is allowed between intervals. Returns `None` within one.
    pub(crate) fn commit_observed(&self, commitment: Mark, time: Timestamp) -> Option<Sequence> {
        let mut state = self.lock();
        if !state.observed || state.mode != Mode::Ordered {
            return None;
        }
        state.push(time, QueuedBody::Mark(commitment));
        self.queued.notify_all();
        Some(state.last_sequence)
    }
}
