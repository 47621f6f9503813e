//! Marks of recovery points, and barriers under which several volumes are marked as one cut.
//!
//! A mark is placed in `Ordered` mode only. An unconfirmed mark stays in the queue, with everything
//! after it, until it is confirmed or demoted. The check before a mark runs under the lock that
//! orders writes.

use std::task::Waker;
use std::time::Duration;

use super::queued::{QueuedBody, QueuedRecord};
use super::state::{BarrierState, TapState};
use super::{Tap, closed_error};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Mode;
use crate::journal::{Mark, PointKind};
use crate::units::{Sequence, Timestamp};

/// Identifies a barrier of a tap, see [`Tap::barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    number: u64,
}

impl Tap {
    /// Places the mark of a recovery point. `NotOrdered` outside of `Ordered` mode.
    pub fn mark(&self, mark: Mark) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        self.push_mark(&mut state, mark)
    }

    /// Places an unconfirmed mark, if `still_quiesced` succeeds at that instant. The journal gets
    /// the mark and what follows after [`Tap::confirm`]; call that soon, because the queue grows
    /// meanwhile.
    ///
    /// `still_quiesced` runs under the lock that orders writes. The releasing side makes it fail
    /// *before* it lets applications go on; then none of their later writes comes before the mark.
    /// `Unavailable` while another mark is unconfirmed.
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

    /// Confirms the mark of [`Tap::mark_unconfirmed`] if it is `good`. Otherwise demotes it to a
    /// crash-consistent one without a label, which is true of any place in the write order.
    pub(crate) fn confirm(&self, sequence: Sequence, good: bool) {
        let mut state = self.lock();
        if state.unconfirmed == Some(sequence) {
            state.unconfirmed = None;
        }
        // If the journal lost its queue, the mark went with it.
        let found = state.queue.iter_mut().find(|record| record.sequence == sequence);
        if let Some(QueuedRecord { body: QueuedBody::Mark(mark), .. }) = found
            && !good
        {
            mark.kind = PointKind::Crash;
            mark.label.clear();
        }
        self.queued.notify_all();
    }

    /// Gives no tickets until [`Tap::release`] or until `limit` is over. Changes in flight go on to
    /// their end. Several volumes get one cut if each is marked while barriers are in force in all
    /// of them: then no mark comes after a change that a writer began in the knowledge of it.
    ///
    /// Call [`Tap::release`] at the limit at the latest: that wakes waiting writers at once.
    /// Without it they are woken when the journal next drains. `NotOrdered` outside of `Ordered`
    /// mode, `AlreadyExists` while another barrier is in force, `InvalidInput` if the tap is
    /// closed.
    pub fn barrier(&self, limit: Duration) -> Result<Barrier> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed_error());
        }
        Self::check_ordered(&state, "begin barrier of")?;
        if self.is_barred(&state) {
            return Err(Error::new(ErrorKind::AlreadyExists, "begin barrier of", "volume")
                .message("another one is in force"));
        }
        let since = self.clock.elapsed();
        state.barriers += 1;
        let number = state.barriers;
        state.barrier = Some(BarrierState { number, since, until: since.saturating_add(limit) });
        Ok(Barrier { number })
    }

    /// Places a mark under a barrier, if `still_quiesced` succeeds under the lock that orders
    /// writes. `NotOrdered` outside of `Ordered` mode, `Unavailable` if the barrier is over.
    pub fn mark_at_barrier(
        &self,
        barrier: Barrier,
        mark: Mark,
        still_quiesced: impl FnOnce() -> Result<()>,
    ) -> Result<(Sequence, Timestamp)> {
        let mut state = self.lock();
        let is_this = |other: &BarrierState| other.number == barrier.number;
        if !self.is_barred(&state) || !state.barrier.as_ref().is_some_and(is_this) {
            return Err(Error::new(ErrorKind::Unavailable, "mark point of", "volume")
                .message("the barrier was over before the mark"));
        }
        still_quiesced()?;
        self.push_mark(&mut state, mark)
    }

    /// Ends a barrier and returns how long it was in force; `None` if it was released before.
    pub fn release(&self, barrier: Barrier) -> Option<Duration> {
        let mut state = self.lock();
        let ended = state.barrier.take_if(|other| other.number == barrier.number)?;
        let wakers = std::mem::take(&mut state.barrier_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Some(self.clock.elapsed().min(ended.until).saturating_sub(ended.since))
    }

    /// Returns whether a barrier is in force. An expired one is not, even if it was not released.
    pub(super) fn is_barred(&self, state: &TapState) -> bool {
        state.barrier.as_ref().is_some_and(|barrier| self.clock.elapsed() < barrier.until)
    }

    fn check_ordered(state: &TapState, operation: &'static str) -> Result<()> {
        if state.observed {
            return Err(Error::new(ErrorKind::Unsupported, operation, "volume")
                .message("its disk is attached, so a cut of the attachment makes its points"));
        }
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
