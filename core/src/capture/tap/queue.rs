//! The journal's side of the tap: the queue of captured records.
//!
//! The queue is in sequence order. The journal drains nothing from an unconfirmed mark on.

use std::task::Waker;
use std::time::Duration;

use super::queued::{QueuedBody, QueuedRecord};
use super::state::TapState;
use super::{Tap, WAKE_BYTES};
use crate::event::{Cause, Mode};
use crate::sync::MutexGuard;
use crate::units::{Sequence, Timestamp};

impl Tap {
    /// Takes records off the queue, oldest first: at least one, up to about `bytes_max`, and none
    /// if that is zero. Waits up to `wait` for the first, and may return none. Wakes writers that
    /// wait for room, and those of a barrier that expired.
    pub fn drain(&self, bytes_max: u64, wait: Duration) -> Vec<QueuedRecord> {
        let mut state = self.wait_queued(wait);
        let mut bytes = 0;
        let end = state.unconfirmed.unwrap_or(Sequence(u64::MAX));
        let count = state
            .queue
            .iter()
            .take_while(|record| record.sequence < end)
            .take_while(|record| {
                let take =
                    bytes_max > 0 && (bytes == 0 || bytes + record.cost_bytes() <= bytes_max);
                bytes += record.cost_bytes();
                take
            })
            .count();
        let records = state.take_front(count);
        state.urgent &= !state.queue.is_empty();
        let mut wakers = if state.queue_bytes < self.memory_budget_bytes {
            std::mem::take(&mut state.room_waiters)
        } else {
            Vec::new()
        };
        // Nobody is obliged to come back for these before the end of the barrier.
        if !state.barrier_waiters.is_empty() && !self.is_barred(&state) {
            wakers.append(&mut state.barrier_waiters);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        records
    }

    /// Returns the cost in bytes of the next record that [`Tap::drain`] would take; `None` if there
    /// is none.
    pub fn next_bytes(&self) -> Option<u64> {
        let state = self.lock();
        let next = state.queue.front().filter(|_| !state.awaits_confirmation());
        next.map(QueuedRecord::cost_bytes)
    }

    /// Waits up to `wait` until the queue is worth draining.
    pub(crate) fn wait_to_drain(&self, wait: Duration) {
        drop(self.wait_queued(wait));
    }

    fn wait_queued(&self, wait: Duration) -> MutexGuard<'_, TapState> {
        let mut state = self.lock();
        let idle = state.queue_bytes < WAKE_BYTES && !state.urgent && !state.closed;
        if (idle || state.awaits_confirmation()) && !wait.is_zero() {
            state.journal_waits = true;
            state = self.queued.wait_timeout(state, wait).0;
            state.journal_waits = false;
        }
        state
    }

    /// Sets the cause to give if the queue overflows: what keeps the journal from draining.
    pub fn set_pressure(&self, cause: Cause) {
        self.lock().pressure = cause;
    }

    /// Gives no sequence up to this one from now on.
    pub fn skip_to(&self, sequence: Sequence) {
        let mut state = self.lock();
        state.last_sequence = state.last_sequence.max(sequence);
    }

    /// Empties the queue after the journal lost everything after `durable`. The regions changed
    /// since are read again, and so is the one that a resync reads now.
    ///
    /// `taken_since` is the time of the oldest record that the journal took from the queue and
    /// lost. The unordered interval begins with it, because the state of any later time is unknown.
    pub fn journal_lost(&self, durable: Sequence, taken_since: Option<Timestamp>, cause: Cause) {
        let now = self.clock.now();
        let mut state = self.lock();
        let queued_since = state.queue.front().map(|record| record.time);
        let since = taken_since.into_iter().chain(queued_since).min().unwrap_or(now);
        state.uncaptured.lost(durable, since);
        state.queue.clear();
        state.queue_bytes = 0;
        state.regions.lose_after(durable);
        state.reading = None;
        state.readings += 1;
        if state.mode == Mode::Ordered {
            self.fall(&mut state, cause, since);
        } else {
            // The begin of this interval may be among what was lost.
            state.push(since, QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
            self.work.notify_all();
        }
        let wakers = std::mem::take(&mut state.room_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether half of the budget is free.
    pub fn has_room(&self) -> bool {
        self.lock().queue_bytes <= self.memory_budget_bytes / 2
    }
}
