//! The journal's side of the tap: the queue of captured records.
//!
//! The queue is in sequence order. Whoever drains it takes nothing from a mark on that still has to prove itself.

use std::task::Waker;
use std::time::Duration;

use super::{Tap, TapState, WAKE_BYTES};
use crate::device::{Buffer, Discarded};
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::journal::Mark;
use crate::sync::MutexGuard;
use crate::units::{Sequence, Timestamp};

/// Memory that a queued record takes beside its data, as counted against the budget.
const RECORD_OVERHEAD_BYTES: u64 = 128;

/// What a queued record says.
#[derive(Debug)]
pub enum QueuedBody {
    /// Data at an offset. Data above [`RECORD_DATA_BYTES_MAX`](crate::journal::RECORD_DATA_BYTES_MAX) has taken one sequence number per piece of that
    /// size; the record carries the last of them.
    Write(u64, Buffer),
    /// Reads as zeroes.
    Zero(Extent),
    /// Discarded.
    Discard(Extent, Discarded),
    /// Changed, data not captured.
    Touch(Extent),
    /// The writer flushed.
    Flush,
    /// A recovery point.
    Mark(Mark),
    /// Unordered from here.
    UnorderedBegin(Cause),
    /// Ordered again.
    UnorderedEnd,
}

/// A record on its way to the journal.
#[derive(Debug)]
pub struct QueuedRecord {
    /// Its place in the write order.
    pub sequence: Sequence,
    /// When it was captured.
    pub time: Timestamp,
    /// What it says.
    pub body: QueuedBody,
}

impl QueuedRecord {
    pub(super) fn cost_bytes(&self) -> u64 {
        RECORD_OVERHEAD_BYTES
            + if let QueuedBody::Write(_, data) = &self.body { data.capacity() as u64 } else { 0 }
    }
}

impl Tap {
    /// Takes records off the queue, oldest first, at least one and up to about `bytes_max`. Waits up to `wait`
    /// for the first; may return none. Those waiting for room are woken.
    pub fn drain(&self, bytes_max: u64, wait: Duration) -> Vec<QueuedRecord> {
        let mut state = self.wait_queued(wait);
        let mut bytes = 0;
        let end = state.unconfirmed.unwrap_or(Sequence(u64::MAX));
        let count = state
            .queue
            .iter()
            .take_while(|record| record.sequence < end)
            .take_while(|record| {
                let take = bytes == 0 || bytes + record.cost_bytes() <= bytes_max;
                bytes += record.cost_bytes();
                take
            })
            .count();
        let records: Vec<_> = state.queue.drain(..count).collect();
        state.urgent &= !state.queue.is_empty();
        state.queue_bytes -= records.iter().map(QueuedRecord::cost_bytes).sum::<u64>();
        let wakers = if state.queue_bytes < self.memory_budget_bytes {
            std::mem::take(&mut state.room_waiters)
        } else {
            Vec::new()
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        records
    }

    /// Waits up to `wait` until there is enough in the queue to be worth draining.
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

    /// The cause to give when the queue overflows from now on: what keeps the journal from draining.
    pub fn set_pressure(&self, cause: Cause) {
        self.lock().pressure = cause;
    }

    /// The journal lost everything after `durable`, the queue included: those regions are read again.
    /// Returns the newest sequence; the journal goes on after it.
    pub fn journal_lost(&self, durable: Sequence, cause: Cause) {
        let time = self.clock.now();
        let mut state = self.lock();
        state.queue.clear();
        state.queue_bytes = 0;
        state.regions.lose_after(durable);
        if state.mode == Mode::Ordered {
            self.fall(&mut state, cause, time);
        } else {
            // The begin of this interval may be among what was lost.
            state.push(time, QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
            self.work.notify_all();
        }
        let wakers = std::mem::take(&mut state.room_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Half of the budget is free.
    pub fn has_room(&self) -> bool {
        self.lock().queue_bytes <= self.memory_budget_bytes / 2
    }
}

impl TapState {
    /// The next record for the journal waits to be settled.
    fn awaits_confirmation(&self) -> bool {
        let next = self.queue.front();
        next.is_some_and(|record| self.unconfirmed.is_some_and(|mark| mark <= record.sequence))
    }
}
