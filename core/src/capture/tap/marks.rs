//! Marks of recovery points in the write order, and holds under which several volumes are marked as one.
//!
//! A mark is taken in `Ordered` mode only. One that has to prove itself stays in the queue, with all that comes after it,
//! until it is settled; what is asked before it is placed is asked under the lock that orders the writes.

use std::task::Waker;
use std::time::Duration;

use super::{QueuedBody, QueuedRecord, State, Tap, closed_error};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::journal::{Mark, PointKind};
use crate::units::{Sequence, Timestamp};

/// A hold of a tap, see [`Tap::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    number: u64,
}

/// A hold in force.
pub(super) struct HoldState {
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

    /// Marks a recovery point that still has to prove itself, if `holds` says so at that instant. The journal gets it, and
    /// what comes after it, once [`Tap::settle`] was called, which the caller must do soon: the queue grows meanwhile.
    ///
    /// `holds` is asked under the lock that orders the writes. Whoever lets applications go on makes it say no *before* it
    /// does so; then none of what they write afterwards comes before the mark. `Unavailable` while another mark waits.
    pub(crate) fn mark_unsettled(
        &self,
        mark: Mark,
        holds: impl FnOnce() -> Result<()>,
    ) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        if state.unsettled.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", "volume")
                .message("another application-consistent point is being made"));
        }
        holds()?;
        let (sequence, time) = self.push_mark(&mut state, mark)?;
        state.unsettled = Some(sequence);
        Ok((sequence, time))
    }

    /// Ends the wait of [`Tap::mark_unsettled`]: the mark is what it says, or else a crash-consistent one without a label,
    /// which any place in the write order may be.
    pub(crate) fn settle(&self, sequence: Sequence, good: bool) {
        let mut state = self.lock();
        if state.unsettled == Some(sequence) {
            state.unsettled = None;
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
    pub fn hold(&self, limit: Duration) -> Result<Hold> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed_error());
        }
        Self::check_ordered(&state, "hold")?;
        if self.is_held(&state) {
            return Err(Error::new(ErrorKind::AlreadyExists, "hold", "volume")
                .message("another hold is in force"));
        }
        let since = self.clock.elapsed();
        state.holds += 1;
        let number = state.holds;
        state.hold = Some(HoldState { number, since, until: since.saturating_add(limit) });
        Ok(Hold { number })
    }

    /// Marks a recovery point under a hold, if `holds`, which is asked under the lock that orders the writes, is fine with
    /// it. `NotOrdered` outside `Ordered` mode; `Unavailable` when the hold is over.
    pub fn mark_held(
        &self,
        hold: Hold,
        mark: Mark,
        holds: impl FnOnce() -> Result<()>,
    ) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        if !self.is_held(&state) || state.hold.as_ref().is_none_or(|h| h.number != hold.number) {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", "volume")
                .message("the hold was over before the mark"));
        }
        holds()?;
        self.push_mark(&mut state, mark)
    }

    /// Ends a hold; how long it was in force, `None` when it had ended before.
    pub fn release(&self, hold: Hold) -> Option<Duration> {
        let mut state = self.lock();
        let held = state.hold.take_if(|held| held.number == hold.number)?;
        let wakers = std::mem::take(&mut state.hold_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Some(self.clock.elapsed().min(held.until).saturating_sub(held.since))
    }

    /// A hold whose limit is over is none, whether it was released or not.
    pub(super) fn is_held(&self, state: &State) -> bool {
        state.hold.as_ref().is_some_and(|hold| self.clock.elapsed() < hold.until)
    }

    fn check_ordered(state: &State, operation: &'static str) -> Result<()> {
        if state.mode == Mode::Ordered {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotOrdered, operation, "volume")
            .expected("ordered mode")
            .found(format_args!("{} mode ({})", state.mode.name(), state.cause)))
    }

    fn push_mark(&self, state: &mut State, mark: Mark) -> Result<(Sequence, Timestamp)> {
        Self::check_ordered(state, "mark point of")?;
        let time = self.clock.now();
        state.push(time, QueuedBody::Mark(mark));
        self.queued.notify_all();
        Ok((state.last_sequence, time))
    }
}
