//! Marks of recovery points in the write order, and holds under which several volumes are marked as one.
//!
//! A mark is taken in `Ordered` mode only. One that has to prove itself stays in the queue, with all that comes after it,
//! until it is settled; what is asked before it is placed is asked under the lock that orders the writes.

use std::task::Waker;
use std::time::Duration;

use super::{QueuedBody, QueuedRecord, Tap, TapState, closed_error};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::journal::{Mark, PointKind};
use crate::units::{Sequence, Timestamp};

/// A hold of a tap, see [`Tap::barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    number: u64,
}

/// A hold in force.
pub(super) struct BarrierState {
    number: u64,
    since: Duration,
    until: Duration,
}

impl Tap {
    /// Marks a recovery point. `NotOrdered` outside `Ordered` mode.
    pub fn mark(&self, mark: Mark) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        self.push_mark(&mut state, mark)
    }

    /// Marks a recovery point that still has to prove itself, if `still_quiesced` says so at that instant. The journal gets it, and
    /// what comes after it, once [`Tap::confirm`] was called, which the caller must do soon: the queue grows meanwhile.
    ///
    /// `still_quiesced` is asked under the lock that orders the writes. Whoever lets applications go on makes it say no *before* it
    /// does so; then none of what they write afterwards comes before the mark. `Unavailable` while another mark waits.
    pub(crate) fn mark_unconfirmed(
        &self,
        mark: Mark,
        still_quiesced: impl FnOnce() -> Result<()>,
    ) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        if state.unconfirmed.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", "volume")
                .message("another application-consistent point is being made"));
        }
        still_quiesced()?;
        let (sequence, time) = self.push_mark(&mut state, mark)?;
        state.unconfirmed = Some(sequence);
        Ok((sequence, time))
    }

    /// Ends the wait of [`Tap::mark_unconfirmed`]: the mark is what it says, or else a crash-consistent one without a label,
    /// which any place in the write order may be.
    pub(crate) fn confirm(&self, sequence: Sequence, good: bool) {
        let mut state = self.lock();
        if state.unconfirmed == Some(sequence) {
            state.unconfirmed = None;
        }
        // Where the journal lost its queue, the mark went with it.
        let found = state.queue.iter_mut().find(|record| record.sequence == sequence);
        if let Some(QueuedRecord { body: QueuedBody::Mark(mark), .. }) = found
            && !good
        {
            mark.kind = PointKind::Crash;
            mark.label.clear();
        }
        self.queued.notify_all();
    }

    /// Gives no more tickets until [`Tap::release`], or until `limit` is over, whichever is first. Changes under way go on
    /// to their end. For a cut across several volumes: with every volume held, what is marked in each was there before
    /// anything that a writer did in the knowledge of it.
    ///
    /// Whoever holds must call [`Tap::release`] at the limit at the latest: that wakes those who wait. `NotOrdered` outside
    /// `Ordered` mode, `AlreadyExists` while another hold is in force, `InvalidInput` when the tap is closed.
    pub fn barrier(&self, limit: Duration) -> Result<Barrier> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed_error());
        }
        Self::check_ordered(&state, "hold")?;
        if self.is_barred(&state) {
            return Err(Error::new(ErrorKind::AlreadyExists, "hold", "volume")
                .message("another hold is in force"));
        }
        let since = self.clock.elapsed();
        state.barriers += 1;
        let number = state.barriers;
        state.barrier = Some(BarrierState { number, since, until: since.saturating_add(limit) });
        Ok(Barrier { number })
    }

    /// Marks a recovery point under a hold, if `still_quiesced`, which is asked under the lock that orders the writes, is fine with
    /// it. `NotOrdered` outside `Ordered` mode; `Unavailable` when the hold is over.
    pub fn mark_at_barrier(
        &self,
        hold: Barrier,
        mark: Mark,
        still_quiesced: impl FnOnce() -> Result<()>,
    ) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        if !self.is_barred(&state) || state.barrier.as_ref().is_none_or(|h| h.number != hold.number)
        {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", "volume")
                .message("the hold was over before the mark"));
        }
        still_quiesced()?;
        self.push_mark(&mut state, mark)
    }

    /// Ends a hold; how long it was in force, `None` when it had ended before.
    pub fn release(&self, hold: Barrier) -> Option<Duration> {
        let mut state = self.lock();
        let held = state.barrier.take_if(|held| held.number == hold.number)?;
        let wakers = std::mem::take(&mut state.barrier_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Some(self.clock.elapsed().min(held.until).saturating_sub(held.since))
    }

    /// A hold whose limit is over is none, whether it was released or not.
    pub(super) fn is_barred(&self, state: &TapState) -> bool {
        state.barrier.as_ref().is_some_and(|hold| self.clock.elapsed() < hold.until)
    }

    fn check_ordered(state: &TapState, operation: &'static str) -> Result<()> {
        if state.mode == Mode::Ordered {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotOrdered, operation, "volume")
            .expected("ordered mode")
            .found(format_args!("{} mode ({})", state.mode.name(), state.cause)))
    }

    fn push_mark(&self, state: &mut TapState, mark: Mark) -> Result<(Sequence, Timestamp)> {
        Self::check_ordered(state, "mark point of")?;
        let time = self.clock.now();
        state.push(time, QueuedBody::Mark(mark));
        self.queued.notify_all();
        Ok((state.last_sequence, time))
    }
}
