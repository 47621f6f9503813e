//! The tap: gives every change of a volume its place in the write order, without doing any I/O itself.
//!
//! A caller asks to change an extent ([`Tap::begin`]), changes its device, and tells what it did
//! ([`Tap::complete`]), all of which is here. The journal drains the queue (`queue`), points are marked in it (`marks`), a
//! keeper marks regions in the dirty map and a resync reads them again (`regions`).
//!
//! Invariants kept:
//! - two overlapping changes are never in flight together, so completion order is write order (promise 1);
//! - a ticket is given only for regions whose mark is durable (promise 4);
//! - a queued record is in sequence order, and what is not queued is in the resync set (promise 4);
//! - `complete` never waits: over the budget the mode falls to `Dirty` and the region is resynced later (promise 6);
//! - a mark is taken in `Ordered` mode only (promise 7);
//! - while a hold is in force no ticket is given, so nothing that began after it can complete (promise 7, groups).
//!
//! Locks are held for a few hundred nanoseconds; wakers are called outside them.

mod in_flight;
mod marks;
mod queue;
mod regions;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use self::in_flight::InFlightSet;
pub use self::marks::Barrier;
use self::marks::BarrierState;
pub use self::queue::{QueuedBody, QueuedRecord};
use super::region::{RegionRange, RegionTable};
use crate::clock::Clock;
use crate::device::{Buffer, Discarded};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::journal::RECORD_DATA_BYTES_MAX;
use crate::policy::{CaptureContent, Policy, WhenFull};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::units::{Sequence, Timestamp};

/// Changes to one block of this size exclude each other, also when their bytes do not overlap: a device may have to
/// read, change and write the whole block for each.
const BLOCK_BYTES: u64 = 4096;
/// The journal is woken at once when this much is queued; below it, it comes by itself.
const WAKE_BYTES: u64 = 256 << 10;

/// Permission to change an extent of the device; ends with exactly one of
/// [`Tap::complete`], [`Tap::fail`] and [`Tap::cancel`].
#[must_use = "a ticket holds its extent until it is completed, failed or cancelled"]
#[derive(Debug)]
pub struct Ticket {
    extent: Extent,
}

impl Ticket {
    /// The bytes that may be changed.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Lets go of the ticket, for a caller who cannot hold it, such as another language. The change stays in flight until
    /// [`Tap::resume`] takes it up and ends it.
    pub fn into_extent(self) -> Extent {
        self.extent
    }
}

/// What was done to the device under a ticket.
#[derive(Debug)]
pub enum Change {
    /// Exactly these bytes, as long as the ticket's extent, were written.
    Write(Buffer),
    /// The extent was made to read as zeroes.
    Zero,
    /// The extent was discarded; `Ignored` means that nothing changed.
    Discard(Discarded),
}

/// A change of the capture mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// Mode before.
    pub from: Mode,
    /// Mode after.
    pub to: Mode,
    /// Why.
    pub cause: Cause,
}

/// Counters of a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapStats {
    /// Mode now.
    pub mode: Mode,
    /// Sequence given last.
    pub last_sequence: Sequence,
    /// Changes completed (writes, zeroes, discards).
    pub changes: u64,
    /// Bytes of data queued for the journal since the start.
    pub bytes_captured: u64,
    /// Memory of the queue now.
    pub queue_bytes: u64,
    /// Regions that a crash now would have to read again.
    pub marked_regions: u64,
    /// Regions waiting for a resync.
    pub resync_regions: u64,
    /// Time of the oldest record in the queue.
    pub oldest_queued: Option<Timestamp>,
}

struct TapState {
    in_flight: InFlightSet,
    regions: RegionTable,
    wanted: Vec<RegionRange>,
    dirty_waiters: Vec<Waker>,
    room_waiters: Vec<Waker>,
    barrier: Option<BarrierState>,
    barrier_waiters: Vec<Waker>,
    barriers: u64,
    queue: VecDeque<QueuedRecord>,
    queue_bytes: u64,
    /// A mark in the queue that has not proved itself yet: the journal gets nothing from it on.
    unconfirmed: Option<Sequence>,
    /// The queue holds something that the journal should not be late for.
    urgent: bool,
    last_sequence: Sequence,
    mode: Mode,
    cause: Cause,
    pressure: Cause,
    mode_changes: Vec<ModeChange>,
    /// A region that may have been captured since the resync began waits for it again.
    dropped_in_resync: bool,
    changed_since_flush: bool,
    closed: bool,
    /// The volume was handed over: no more changes.
    refuses: bool,
    /// The journal sleeps until there is enough to drain.
    journal_waits: bool,
    changes: u64,
    bytes_captured: u64,
}

/// The capture state machine of one volume. All methods may be called from any thread.
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
    /// A tap for a device of `device_bytes`, `Ordered`, whose next record comes after `last_sequence`.
    pub fn new(
        device_bytes: u64,
        last_sequence: Sequence,
        policy: &Policy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let regions = device_bytes.div_ceil(policy.region_bytes).max(1);
        Self {
            state: Mutex::new(TapState {
                in_flight: InFlightSet::default(),
                regions: RegionTable::new(regions),
                wanted: Vec::new(),
                dirty_waiters: Vec::new(),
                room_waiters: Vec::new(),
                barrier: None,
                barrier_waiters: Vec::new(),
                barriers: 0,
                queue: VecDeque::new(),
                queue_bytes: 0,
                urgent: false,
                last_sequence,
                mode: Mode::Ordered,
                cause: Cause::Requested,
                pressure: Cause::MemoryBudget,
                mode_changes: Vec::new(),
                dropped_in_resync: false,
                changed_since_flush: false,
                closed: false,
                refuses: false,
                journal_waits: false,
                unconfirmed: None,
                changes: 0,
                bytes_captured: 0,
            }),
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
    /// `Pending`: an overlapping change is in flight, the dirty map does not have the regions yet, a hold is in force, or
    /// (strict mode) the queue is full. `waker` is then woken once, when it is worth asking again.
    /// `InvalidInput` when the extent is empty or not within the volume, or the tap is closed.
    pub fn begin(&self, extent: Extent, waker: &Waker) -> Poll<Result<Ticket>> {
        self.begin_for(extent, waker, false)
    }

    /// As [`Tap::begin`] for a resync, which reads only: it goes on when changes are refused.
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
        Poll::Ready(Ok(Ticket { extent }))
    }

    /// Refuses changes from now on (`Fenced`), or no longer: the volume was handed over to a failover. Changes in flight end
    /// as usual.
    pub fn refuse(&self, yes: bool) {
        let wakers = {
            let mut state = self.lock();
            state.refuses = yes;
            [
                std::mem::take(&mut state.barrier_waiters),
                std::mem::take(&mut state.dirty_waiters),
                std::mem::take(&mut state.room_waiters),
            ]
        };
        // Those that wait ask again, and are told.
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// No change is in flight.
    pub fn is_idle(&self) -> bool {
        self.lock().in_flight.is_empty()
    }

    /// Takes up a ticket that was let go with [`Ticket::into_extent`]; to be done once for each. `InvalidInput` when no
    /// such change is in flight.
    pub fn resume(&self, extent: Extent) -> Result<Ticket> {
        self.check(extent)?;
        if self.lock().in_flight.holds(extent.aligned_outwards(BLOCK_BYTES)) {
            return Ok(Ticket { extent });
        }
        Err(Error::new(ErrorKind::InvalidInput, "end change of", "volume")
            .at(extent.offset)
            .message("no such change is in flight: it ended already, or never began")
            .found(format_args!("{} bytes", extent.length)))
    }

    /// The device did it: gives the change its place in the write order and queues it. Never waits.
    ///
    /// Returns the sequence of the newest record, which is the change's own when it was captured.
    ///
    /// # Panics
    /// When written data is not as long as the ticket's extent.
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

    /// The device failed: the content of the extent is unknown and will be read again. The volume is not
    /// `Ordered` until then.
    pub fn fail(&self, ticket: Ticket) {
        let range = self.regions_of(ticket.extent);
        let time = self.clock.now();
        let mut state = self.lock();
        self.fall(&mut state, Cause::DeviceError, time);
        state.read_again(range);
        Self::end(state, ticket);
    }

    /// Nothing was done to the device.
    pub fn cancel(&self, ticket: Ticket) {
        let state = self.lock();
        Self::end(state, ticket);
    }

    /// Records that the writer flushed. Call it after the device's own flush returned.
    pub fn flush(&self) -> Sequence {
        let time = self.clock.now();
        let mut state = self.lock();
        if state.changed_since_flush && state.mode != Mode::Dirty {
            state.changed_since_flush = false;
            state.push(time, QueuedBody::Flush);
        }
        state.last_sequence
    }

    /// Mode now.
    pub fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// Counters now.
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

    /// Nobody drains the queue and marks regions any more: no ticket is given from now on, and nobody waits for one.
    /// Those given before end as they would.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut wakers = std::mem::take(&mut state.room_waiters);
        wakers.append(&mut state.dirty_waiters);
        wakers.append(&mut state.barrier_waiters);
        wakers.append(&mut state.in_flight.take_waiters());
        self.queued.notify_all();
        self.work.notify_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The mode changes since the last call, oldest first.
    pub fn take_mode_changes(&self) -> Vec<ModeChange> {
        std::mem::take(&mut self.lock().mode_changes)
    }

    /// The clock of the tap's limits.
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

    /// Queues a change, or leaves it to the resync when it cannot be or need not be queued.
    fn capture(&self, state: &mut TapState, range: RegionRange, time: Timestamp, body: QueuedBody) {
        let over =
            state.queue_bytes >= self.memory_budget_bytes && self.when_full == WhenFull::Degrade;
        if over {
            let pressure = state.pressure;
            self.fall(state, pressure, time);
        }
        if state.mode == Mode::Dirty || over {
            state.read_again(range);
            return;
        }
        // A region that waits for its resync will be read in any case. Capturing a part of it would make the resync's
        // comparison with the replica wrong, so a change that reaches one such region is left to it whole.
        if state.mode == Mode::Resync
            && state.regions.resync.next(range.first).is_some_and(|region| region <= range.last)
        {
            state.read_again(range);
            return;
        }
        state.push(time, body);
        state.regions.changed(range, state.last_sequence);
        // Only at the step over the limit: one that is over it already has been told.
        if state.journal_waits && state.queue_bytes >= WAKE_BYTES {
            state.journal_waits = false;
            self.queued.notify_one();
        }
    }

    /// Leaves `Ordered` mode, if it is in it.
    fn fall(&self, state: &mut TapState, cause: Cause, time: Timestamp) {
        if state.mode == Mode::Ordered {
            state.push(time, QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
            self.work.notify_all();
        }
    }

    fn end(mut state: MutexGuard<'_, TapState>, ticket: Ticket) -> Sequence {
        let sequence = state.last_sequence;
        let waiters = state.in_flight.remove(ticket.extent.aligned_outwards(BLOCK_BYTES).offset);
        drop(state);
        let waiters = waiters.expect("a ticket is given once and ends once");
        waiters.into_iter().for_each(Waker::wake);
        sequence
    }

    fn lock(&self) -> MutexGuard<'_, TapState> {
        self.state.lock()
    }
}

/// Adds a waker, once however often its owner asks.
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

impl TapState {
    /// Gives the record the next sequence number (one per piece of a long write) and queues it.
    fn push(&mut self, time: Timestamp, body: QueuedBody) {
        let pieces = match &body {
            QueuedBody::Write(_, data) => {
                self.bytes_captured += data.len() as u64;
                data.len().div_ceil(RECORD_DATA_BYTES_MAX) as u64
            }
            _ => 1,
        };
        self.urgent |= matches!(body, QueuedBody::Mark(_) | QueuedBody::UnorderedEnd);
        self.last_sequence = Sequence(self.last_sequence.0 + pieces);
        let record = QueuedRecord { sequence: self.last_sequence, time, body };
        self.queue_bytes += record.cost_bytes();
        self.queue.push_back(record);
    }

    /// The regions wait for a resync from now on.
    fn read_again(&mut self, range: RegionRange) {
        // One that does not wait already may have been captured since the resync began.
        if self.mode == Mode::Resync {
            let waits = |region| self.regions.resync.contains(region);
            self.dropped_in_resync |= !(range.first..=range.last).all(waits);
        }
        self.regions.resync.insert_range(range);
    }

    fn set_mode(&mut self, to: Mode, cause: Cause) {
        let from = std::mem::replace(&mut self.mode, to);
        self.cause = cause;
        if from != to {
            self.mode_changes.push(ModeChange { from, to, cause });
        }
    }
}
