//! The tap: gives every change of a volume its place in the write order, without I/O of its own.
//!
//! A caller asks to change an extent ([`Tap::begin`]), changes its device, and reports what it did
//! ([`Tap::complete`]); all of that is in this file. The journal drains the queue (`queue`), points
//! are marked in it (`marks`), and regions are set dirty, cleaned and read again (`regions`).
//!
//! Invariants kept:
//! - two overlapping changes are never in flight together, so completion order is write order
//!   (promise 1);
//! - a ticket is given only for regions that are durably dirty (promise 4);
//! - the queue is in sequence order, and what is not queued is in the resync set (promise 4);
//! - `complete` never waits: over the budget the mode falls to `Dirty`, and a resync reads the
//!   region later (promise 6);
//! - a mark is placed in `Ordered` mode only (promise 7);
//! - while a barrier is in force no ticket is given, so no change that began after it completes
//!   before its end (promise 7, groups).
//!
//! Locks are held for a few hundred nanoseconds. Wakers are called outside of them.

mod in_flight;
mod marks;
mod observed;
mod outside;
mod queue;
mod queued;
mod regions;
mod state;
mod uncaptured;

use std::sync::Arc;
use std::task::{Poll, Waker};

pub use self::marks::Barrier;
pub use self::queued::{QueuedBody, QueuedRecord};
pub use self::state::ModeChange;
use self::state::TapState;
use super::region::RegionRange;
use crate::clock::Clock;
use crate::device::{Buffer, Discarded};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::policy::{CaptureContent, Policy, WhenFull};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::units::{Sequence, Timestamp};

/// Changes to one block of this size exclude each other even if their bytes do not overlap, because
/// a device may have to read, change and write the whole block for each.
const BLOCK_BYTES: u64 = 4096;
/// The journal is woken at once when so much is queued. Below it the journal looks by itself.
const WAKE_BYTES: u64 = 256 << 10;

/// Permission to change an extent of the device. It ends with exactly one of [`Tap::complete`],
/// [`Tap::fail`] and [`Tap::cancel`].
#[must_use = "a ticket keeps its extent until it is completed, failed or cancelled"]
#[derive(Debug)]
pub struct Ticket {
    extent: Extent,
}

impl Ticket {
    /// Returns the bytes that may be changed.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Turns the ticket into its extent, for callers that cannot store it, such as another
    /// language. The change stays in flight until [`Tap::resume`] returns its ticket and that ends.
    pub fn into_extent(self) -> Extent {
        self.extent
    }
}

/// Says what was done to the device under a ticket.
#[derive(Debug)]
pub enum Change {
    /// Exactly these bytes, as long as the ticket's extent, were written.
    Write(Buffer),
    /// The extent was made to read as zeroes.
    Zero,
    /// The extent was discarded. `Ignored` means that nothing changed.
    Discard(Discarded),
}

/// Counters of a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapStats {
    /// Present mode.
    pub mode: Mode,
    /// Newest sequence.
    pub last_sequence: Sequence,
    /// Completed changes (writes, zeroes, discards).
    pub changes: u64,
    /// Bytes of data queued for the journal since the start.
    pub bytes_captured: u64,
    /// Present memory of the queue, in bytes.
    pub queue_bytes: u64,
    /// Dirty regions: a resync would read them after a crash at this moment.
    pub marked_regions: u64,
    /// Regions that wait for a resync.
    pub resync_regions: u64,
    /// Time of the oldest record in the queue.
    pub oldest_queued: Option<Timestamp>,
}

/// Puts the changes of one volume in order. All methods may be called from any thread.
pub struct Tap {
    state: Mutex<TapState>,
    /// Signalled when the journal should drain.
    queued: Condvar,
    /// Signalled when regions are wanted, and when the mode changes.
    work: Condvar,
    device_bytes: u64,
    region_shift: u32,
    memory_budget_bytes: u64,
    when_full: WhenFull,
    content: CaptureContent,
    clock: Arc<dyn Clock>,
}

impl Tap {
    /// Makes a tap for a device of `device_bytes`, in `Ordered` mode. Its first record comes after
    /// `last_sequence`.
    pub fn new(
        device_bytes: u64,
        last_sequence: Sequence,
        policy: &Policy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let regions = device_bytes.div_ceil(policy.region_bytes).max(1);
        Self {
            state: Mutex::new(TapState::new(regions, last_sequence)),
            queued: Condvar::new(),
            work: Condvar::new(),
            device_bytes,
            region_shift: policy.region_bytes.trailing_zeros(),
            memory_budget_bytes: policy.memory_budget_bytes,
            when_full: policy.when_full,
            content: policy.content,
            clock,
        }
    }

    /// Asks to change `extent`, which is not empty.
    ///
    /// `Pending` if an overlapping change is in flight, the regions are not durably dirty yet, a
    /// barrier is in force, or the queue is full in strict mode. `waker` is then woken once, when
    /// it is worth asking again. `InvalidInput` if the extent is empty or not within the volume, or
    /// the tap is closed. `Fenced` after a hand-over.
    pub fn begin(&self, extent: Extent, waker: &Waker) -> Poll<Result<Ticket>> {
        self.begin_for(extent, waker, false)
    }

    /// Does the same for a resync, which only reads and so goes on while changes are refused.
    pub(crate) fn begin_resync(&self, extent: Extent, waker: &Waker) -> Poll<Result<Ticket>> {
        self.begin_for(extent, waker, true)
    }

    fn begin_for(&self, extent: Extent, waker: &Waker, resync: bool) -> Poll<Result<Ticket>> {
        if let Err(error) = self.check(extent) {
            return Poll::Ready(Err(error));
        }
        let range = self.regions_of(extent);
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(Err(closed_error()));
        }
        if state.refuses && !resync {
            return Poll::Ready(Err(handed_over_error()));
        }
        if self.is_barred(&state) {
            add_waiter(&mut state.barrier_waiters, waker);
            return Poll::Pending;
        }
        let blocks = extent.aligned_outwards(BLOCK_BYTES);
        if let Some(busy) = state.in_flight.overlapping(blocks) {
            add_waiter(&mut busy.waiters, waker);
            return Poll::Pending;
        }
        if !state.regions.is_dirty(range) {
            if !state.wanted.contains(&range) {
                state.wanted.push(range);
            }
            add_waiter(&mut state.dirty_waiters, waker);
            self.work.notify_all();
            return Poll::Pending;
        }
        let full = state.queue_bytes >= self.memory_budget_bytes;
        if full && self.when_full == WhenFull::Block && state.mode == Mode::Ordered {
            add_waiter(&mut state.room_waiters, waker);
            self.queued.notify_all();
            return Poll::Pending;
        }
        state.in_flight.insert(blocks);
        if resync {
            state.reading = Some(range.first);
        }
        Poll::Ready(Ok(Ticket { extent }))
    }

    /// Refuses changes from now on (`Fenced`), or admits them again, when the volume is handed over
    /// to a failover. Changes in flight end as usual.
    pub fn refuse(&self, yes: bool) {
        let mut state = self.lock();
        state.refuses = yes;
        let wakers = state.take_waiters();
        drop(state);
        // The waiting ones ask again and get the error.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether no change is in flight.
    pub fn is_idle(&self) -> bool {
        self.lock().in_flight.is_empty()
    }

    /// Returns the ticket of an extent from [`Ticket::into_extent`]. Call it once for each.
    /// `InvalidInput` if no such change is in flight.
    pub fn resume(&self, extent: Extent) -> Result<Ticket> {
        self.check(extent)?;
        if self.lock().in_flight.contains(extent.aligned_outwards(BLOCK_BYTES)) {
            return Ok(Ticket { extent });
        }
        Err(Error::new(ErrorKind::InvalidInput, "end change of", "volume")
            .at(extent.offset)
            .message("no such change is in flight: it ended already, or never began")
            .found(format_args!("{} bytes", extent.length)))
    }

    /// Ends a change that the device completed: gives it its place in the write order and queues
    /// it. Never waits.
    ///
    /// Returns the sequence of the newest record, which is the change's own if it was captured.
    ///
    /// # Panics
    /// If written data is not as long as the ticket's extent.
    pub fn complete(&self, ticket: Ticket, change: Change) -> Sequence {
        if let Change::Write(data) = &change {
            assert_eq!(
                data.len() as u64,
                ticket.extent.length,
                "data must fill the ticket's extent"
            );
        }
        let time = self.clock.now();
        let range = self.regions_of(ticket.extent);
        let mut state = self.lock();
        let changed = !matches!(change, Change::Discard(Discarded::Ignored));
        if changed {
            state.changes += 1;
            state.changed_since_flush = true;
            self.capture(&mut state, range, time, self.body_of(ticket.extent, change));
        }
        Self::end(state, ticket)
    }

    /// Ends a change that the device failed. The content of the extent is unknown, so a resync
    /// reads it again, and the volume is not `Ordered` until then.
    pub fn fail(&self, ticket: Ticket) {
        let range = self.regions_of(ticket.extent);
        let time = self.clock.now();
        let mut state = self.lock();
        self.fall(&mut state, Cause::DeviceError, time);
        state.leave_to_resync(range, time);
        Self::end(state, ticket);
    }

    /// Ends a change that did not reach the device.
    pub fn cancel(&self, ticket: Ticket) {
        let state = self.lock();
        Self::end(state, ticket);
    }

    /// Records that the writer flushed. Call it after the device's own flush returned. Returns the
    /// newest sequence.
    ///
    /// No mark needs it. Before a region counts as clean, and at a stop, the protection flushes its
    /// device itself.
    pub fn flush(&self) -> Sequence {
        let time = self.clock.now();
        let mut state = self.lock();
        if state.changed_since_flush && state.mode != Mode::Dirty {
            state.changed_since_flush = false;
            state.push(time, QueuedBody::Flush);
        }
        state.last_sequence
    }

    /// Returns the present mode.
    pub fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// Returns the present counters.
    pub fn stats(&self) -> TapStats {
        let state = self.lock();
        TapStats {
            mode: state.mode,
            last_sequence: state.last_sequence,
            changes: state.changes,
            bytes_captured: state.bytes_captured,
            queue_bytes: state.queue_bytes,
            marked_regions: state.regions.dirty_count(),
            resync_regions: state.regions.resync.count(),
            oldest_queued: state.queue.front().map(|record| record.time),
        }
    }

    /// Returns the time of the oldest change that is not captured, or was lost by the journal, and
    /// that a replica of everything up to `replicated` lacks. `None` if it lacks nothing but the
    /// queue and what the journal still has.
    pub fn uncaptured_since(&self, replicated: Sequence) -> Option<Timestamp> {
        self.lock().uncaptured.since(replicated)
    }

    /// Closes the tap, because its queue is not drained and no region is set dirty any more. No
    /// ticket is given from now on, and every wait for one ends. Tickets given before end as usual.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut wakers = state.take_waiters();
        wakers.append(&mut state.in_flight.take_waiters());
        self.queued.notify_all();
        self.work.notify_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns the mode changes since the last call, oldest first.
    pub fn take_mode_changes(&self) -> Vec<ModeChange> {
        std::mem::take(&mut self.lock().mode_changes)
    }

    /// Returns the clock of the tap's limits.
    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn check(&self, extent: Extent) -> Result<()> {
        extent.check_within(self.device_bytes, "change", "volume")?;
        if extent.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "change", "volume")
                .at(extent.offset)
                .expected("at least one byte")
                .found("an empty range"));
        }
        Ok(())
    }

    fn regions_of(&self, extent: Extent) -> RegionRange {
        RegionRange {
            first: extent.offset >> self.region_shift,
            last: (extent.end() - 1) >> self.region_shift,
        }
    }

    fn body_of(&self, extent: Extent, change: Change) -> QueuedBody {
        match (self.content, change) {
            (CaptureContent::ExtentsOnly, _) => QueuedBody::Touch(extent),
            (CaptureContent::Data, Change::Write(data)) => QueuedBody::Write(extent.offset, data),
            (CaptureContent::Data, Change::Zero) => QueuedBody::Zero(extent),
            (CaptureContent::Data, Change::Discard(what)) => QueuedBody::Discard(extent, what),
        }
    }

    /// Queues a change, or leaves it to a resync if it cannot or need not be queued.
    fn capture(&self, state: &mut TapState, range: RegionRange, time: Timestamp, body: QueuedBody) {
        let over =
            state.queue_bytes >= self.memory_budget_bytes && self.when_full == WhenFull::Degrade;
        if over {
            let pressure = state.pressure;
            self.fall(state, pressure, time);
        }
        if state.mode == Mode::Dirty || over {
            state.leave_to_resync(range, time);
            return;
        }
        // A region that waits for its resync will be read in any case. Capturing a part of it would
        // make the resync's comparison with the replica wrong, so a change that reaches one such
        // region is left to the resync as a whole.
        if state.mode == Mode::Resync
            && state.regions.resync.next(range.first).is_some_and(|region| region <= range.last)
        {
            state.leave_to_resync(range, time);
            return;
        }
        state.push(time, body);
        state.regions.changed(range, state.last_sequence);
        // Only at the step over the limit: beyond it the journal was woken already.
        if state.journal_waits && state.queue_bytes >= WAKE_BYTES {
            state.journal_waits = false;
            self.queued.notify_one();
        }
    }

    /// Leaves `Ordered` mode, if the volume is in it. `since` is the time of the first change that
    /// is not captured: from then on no state can be restored.
    fn fall(&self, state: &mut TapState, cause: Cause, since: Timestamp) {
        if state.mode == Mode::Ordered {
            state.push(since, QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
            self.work.notify_all();
        }
    }

    fn end(mut state: MutexGuard<'_, TapState>, ticket: Ticket) -> Sequence {
        let sequence = state.last_sequence;
        let waiters = state.in_flight.remove(ticket.extent.aligned_outwards(BLOCK_BYTES));
        drop(state);
        let waiters = waiters.expect("a ticket is given once and ends once");
        waiters.into_iter().for_each(Waker::wake);
        sequence
    }

    fn lock(&self) -> MutexGuard<'_, TapState> {
        self.state.lock()
    }
}

/// Adds a waker, unless it is there already.
fn add_waiter(waiters: &mut Vec<Waker>, waker: &Waker) {
    if !waiters.iter().any(|known| known.will_wake(waker)) {
        waiters.push(waker.clone());
    }
}

fn handed_over_error() -> Error {
    Error::new(ErrorKind::Fenced, "change", "volume")
        .message("it was handed over to a failover, and is not written to here any more")
}

fn closed_error() -> Error {
    Error::new(ErrorKind::InvalidInput, "change", "volume").message("its protection has ended")
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tap({:?})", self.stats())
    }
}
