//! The tap's view of regions: the dirty map sets them dirty and cleans them, a resync reads them
//! again.

use std::task::Waker;
use std::time::Duration;

use super::queued::QueuedBody;
use super::state::TapState;
use super::{Change, Tap, Ticket};
use crate::capture::region::RegionRange;
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::sync::MutexGuard;
use crate::units::{Sequence, Timestamp};

impl Tap {
    /// Takes the regions that writers wait for. Waits up to `wait` for the first.
    pub fn wanted(&self, wait: Duration) -> Vec<RegionRange> {
        std::mem::take(&mut self.wait_wanted(wait).wanted)
    }

    /// Waits up to `wait` until writers want regions.
    pub(crate) fn wait_to_set_dirty(&self, wait: Duration) {
        drop(self.wait_wanted(wait));
    }

    fn wait_wanted(&self, wait: Duration) -> MutexGuard<'_, TapState> {
        let mut state = self.lock();
        if state.wanted.is_empty() && !state.closed && !wait.is_zero() {
            state = self.work.wait_timeout(state, wait).0;
        }
        state
    }

    /// Lets the writers of these regions go on, which are durable in the dirty map now.
    pub fn set_dirty(&self, ranges: &[RegionRange]) {
        let mut state = self.lock();
        let now = state.last_sequence;
        for range in ranges {
            state.regions.set_dirty(*range, now);
        }
        let wakers = std::mem::take(&mut state.dirty_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Forgets the regions last changed at or before `through` that no change in flight touches,
    /// and returns them. The caller clears them in the dirty map *before* it sets the next ones
    /// dirty.
    ///
    /// The caller guarantees that everything up to `through` is durable on the disk and in the
    /// journal.
    pub fn clean(&self, through: Sequence) -> Vec<RegionRange> {
        let mut state = self.lock();
        let TapState { regions, in_flight, .. } = &mut *state;
        let shift = self.region_shift;
        regions.clean(through, |range| {
            let start = range.first << shift;
            let end = (range.last + 1) << shift;
            in_flight.overlaps(Extent::from_bounds(start, end))
        })
    }

    /// Returns the number of dirty regions last changed at or before `through`, which is about what
    /// a cleaning would free.
    pub(crate) fn changed_through(&self, through: Sequence) -> u64 {
        self.lock().regions.changed_through(through)
    }

    /// Returns a sequence up to which cleaning would free about half of the dirty regions.
    pub fn half_way(&self) -> Sequence {
        self.lock().regions.half_way()
    }
}

impl Tap {
    /// Begins an unordered interval in which `ranges`, set dirty already, are read again.
    ///
    /// `since` is the first time at which a change may be missing, if that is earlier than now.
    /// From then on no state can be restored. With `None` nothing is missing.
    pub fn require_resync(&self, ranges: &[RegionRange], cause: Cause, since: Option<Timestamp>) {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(since) = since {
            state.uncaptured.begin(since);
        }
        // What the observer journaled may be in the replica by then, so the resync compares anew.
        if state.observed && state.mode == Mode::Resync {
            state.push(since.unwrap_or(now), QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
        }
        for range in ranges {
            let last = range.last.min(state.regions.regions() - 1);
            state.read_again(RegionRange { first: range.first, last });
        }
        self.fall(&mut state, cause, since.unwrap_or(now));
    }

    /// Waits up to `wait` for a mode other than `Ordered`. Returns whether the mode is another.
    pub fn wait_unordered(&self, wait: Duration) -> bool {
        let mut state = self.lock();
        if state.mode == Mode::Ordered && !state.closed {
            state = self.work.wait_timeout(state, wait).0;
        }
        state.mode != Mode::Ordered
    }

    /// Goes from `Dirty` to `Resync`: writes outside of the resync regions are captured again.
    /// Returns the cause of the interval.
    pub fn start_resync(&self) -> Cause {
        let mut state = self.lock();
        let cause = state.cause;
        if state.mode == Mode::Dirty {
            state.dropped_in_resync = false;
            state.set_mode(Mode::Resync, cause);
        }
        cause
    }

    /// Returns whether no waiting region can have records newer than the begin of the unordered
    /// interval. Then its content may be compared with the replica as of that begin.
    pub fn may_compare(&self) -> bool {
        let state = self.lock();
        state.mode == Mode::Resync && !state.dropped_in_resync
    }

    /// Returns the first region at or after `region` that waits for its resync, and its extent.
    pub fn next_resync(&self, region: u64) -> Option<(u64, Extent)> {
        let region = self.lock().regions.resync.next(region)?;
        let start = region << self.region_shift;
        let end = ((region + 1) << self.region_shift).min(self.device_bytes);
        Some((region, Extent::from_bounds(start, end)))
    }

    /// Ends the ticket of a region that was read, and queues `changes`: the extents of it that
    /// differ from the replica. They are queued even over the budget, so wait for [`Tap::has_room`]
    /// first. A region that must be read again since the ticket began goes on waiting, and nothing
    /// is queued.
    pub fn complete_resync(&self, ticket: Ticket, region: u64, changes: Vec<(Extent, Change)>) {
        let time = self.clock.now();
        let mut state = self.lock();
        // What the region is compared with when it is read again may lack these changes.
        if state.reading == Some(region) {
            for (extent, change) in changes {
                assert!(
                    ticket.extent.contains(extent),
                    "a resync changes only its ticket's extent"
                );
                state.push(time, self.body_of(extent, change));
            }
            let sequence = state.last_sequence;
            state.regions.resynced(region, sequence);
        }
        Self::end(state, ticket);
    }

    /// Ends the unordered interval if no region waits any more. Returns false if some do, if there is
    /// no resync, or if an outside writer is not in sync.
    pub fn finish_resync(&self) -> bool {
        let time = self.clock.now();
        let mut state = self.lock();
        let is_read = state.mode == Mode::Resync && state.regions.resync.count() == 0;
        if !is_read || state.in_sync == Some(false) {
            return false;
        }
        state.end_interval(time);
        self.queued.notify_all();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::clock::SystemClock;
    use crate::policy::Policy;

    /// What was compared may be another replica than the one that the second resync is for.
    #[test]
    fn promise_3_a_region_that_is_to_be_read_again_while_it_is_read_waits_on() {
        let policy = Policy::default();
        let bytes = 2 * policy.region_bytes;
        let tap = Tap::new(bytes, Sequence(0), &policy, SystemClock::shared());
        let all = RegionRange { first: 0, last: 1 };
        tap.set_dirty(&[all]);
        tap.require_resync(&[all], Cause::Crash, None);
        tap.start_resync();
        let read = |meanwhile: &dyn Fn()| {
            let (region, extent) = tap.next_resync(0).expect("one waits");
            let Poll::Ready(Ok(ticket)) = tap.begin_resync(extent, Waker::noop()) else {
                panic!("nothing is in flight");
            };
            meanwhile();
            tap.complete_resync(ticket, region, Vec::new());
            tap.next_resync(0).map(|(region, _)| region)
        };
        assert_eq!(read(&|| tap.require_resync(&[all], Cause::VaultWentBack, None)), Some(0));
        let other = RegionRange { first: 1, last: 1 };
        assert_eq!(read(&|| tap.require_resync(&[other], Cause::Requested, None)), Some(1));
        assert_eq!(read(&|| {}), None);
    }

    /// A vault that went back lacks what was compared with the vault before.
    #[test]
    fn promise_3_nothing_is_queued_of_a_region_that_is_to_be_read_again() {
        let policy = Policy::default();
        let tap = Tap::new(policy.region_bytes, Sequence(0), &policy, SystemClock::shared());
        let all = RegionRange { first: 0, last: 0 };
        tap.set_dirty(&[all]);
        tap.require_resync(&[all], Cause::Crash, None);
        let queued_of_a_read = |meanwhile: &dyn Fn()| {
            tap.start_resync();
            let (region, extent) = tap.next_resync(0).expect("it waits");
            let Poll::Ready(Ok(ticket)) = tap.begin_resync(extent, Waker::noop()) else {
                panic!("nothing is in flight");
            };
            meanwhile();
            tap.complete_resync(ticket, region, vec![(extent, Change::Zero)]);
            let queued = tap.drain(u64::MAX, Duration::ZERO);
            queued.iter().any(|record| matches!(record.body, QueuedBody::Zero(_)))
        };
        assert!(!queued_of_a_read(&|| tap.require_resync(&[all], Cause::Requested, None)));
        let lost = || tap.journal_lost(Sequence(0), None, Cause::VaultWentBack);
        assert!(!queued_of_a_read(&lost));
        assert!(queued_of_a_read(&|| {}));
    }
}
