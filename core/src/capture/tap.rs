//! The tap: gives every change of a volume its place in the write order, without doing any I/O itself.
//!
//! A caller asks to change an extent ([`Tap::begin`]), changes its device, and tells what it did
//! ([`Tap::complete`]). The journal drains the queue; a keeper marks regions in the dirty map.
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

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::region::{RegionRange, RegionTable};
use crate::clock::Clock;
use crate::device::{Buffer, Discarded};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Mode};
use crate::extent::Extent;
use crate::journal::{Mark, PointKind, RECORD_DATA_BYTES_MAX};
use crate::policy::{CaptureContent, Policy, WhenFull};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::units::{Sequence, Timestamp};

/// Memory that a queued record takes beside its data, as counted against the budget.
const RECORD_OVERHEAD_BYTES: u64 = 128;
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

/// What a queued record says.
#[derive(Debug)]
pub enum QueuedBody {
    /// Data at an offset. Data above [`RECORD_DATA_BYTES_MAX`] has taken one sequence number per piece of that
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
    fn cost_bytes(&self) -> u64 {
        RECORD_OVERHEAD_BYTES
            + if let QueuedBody::Write(_, data) = &self.body { data.capacity() as u64 } else { 0 }
    }
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

struct InFlight {
    start: u64,
    end: u64,
    waiters: Vec<Waker>,
}

/// Extents being changed: disjoint, sorted by offset. A plain array: there are tens of them, so moving some costs less
/// than the allocations of a tree.
#[derive(Default)]
struct InFlightSet(Vec<InFlight>);

impl InFlightSet {
    /// Position of the first one that ends after `offset`.
    fn first_ending_after(&self, offset: u64) -> usize {
        self.0.partition_point(|busy| busy.end <= offset)
    }

    /// The first one that overlaps `extent`.
    fn overlapping(&mut self, extent: Extent) -> Option<&mut InFlight> {
        let at = self.first_ending_after(extent.offset);
        self.0.get_mut(at).filter(|busy| busy.start < extent.end())
    }

    fn overlaps(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| busy.start < extent.end())
    }

    /// Exactly this extent is in it.
    fn holds(&self, extent: Extent) -> bool {
        let first = self.0.get(self.first_ending_after(extent.offset));
        first.is_some_and(|busy| (busy.start, busy.end) == (extent.offset, extent.end()))
    }

    /// Adds an extent that overlaps none.
    fn insert(&mut self, extent: Extent) {
        let at = self.first_ending_after(extent.offset);
        let busy = InFlight { start: extent.offset, end: extent.end(), waiters: Vec::new() };
        self.0.insert(at, busy);
    }

    /// Takes the extent that starts at `offset` out; those that wait for it.
    fn remove(&mut self, offset: u64) -> Option<Vec<Waker>> {
        let at = self.first_ending_after(offset);
        let found = self.0.get(at).is_some_and(|busy| busy.start == offset);
        found.then(|| self.0.remove(at).waiters)
    }
}

/// A hold of a tap, see [`Tap::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    number: u64,
}

struct HoldState {
    number: u64,
    since: Duration,
    until: Duration,
}

struct State {
    in_flight: InFlightSet,
    regions: RegionTable,
    wanted: Vec<RegionRange>,
    mark_waiters: Vec<Waker>,
    room_waiters: Vec<Waker>,
    hold: Option<HoldState>,
    hold_waiters: Vec<Waker>,
    holds: u64,
    queue: VecDeque<QueuedRecord>,
    queue_bytes: u64,
    /// A mark in the queue that has not proved itself yet: the journal gets nothing from it on.
    unsettled: Option<Sequence>,
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
    state: Mutex<State>,
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
            state: Mutex::new(State {
                in_flight: InFlightSet::default(),
                regions: RegionTable::new(regions),
                wanted: Vec::new(),
                mark_waiters: Vec::new(),
                room_waiters: Vec::new(),
                hold: None,
                hold_waiters: Vec::new(),
                holds: 0,
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
                unsettled: None,
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
        if self.is_held(&state) {
            add_waiter(&mut state.hold_waiters, waker);
            return Poll::Pending;
        }
        let blocks = extent.aligned_outwards(BLOCK_BYTES);
        if let Some(busy) = state.in_flight.overlapping(blocks) {
            add_waiter(&mut busy.waiters, waker);
            return Poll::Pending;
        }
        if !state.regions.is_marked(range) {
            if !state.wanted.contains(&range) {
                state.wanted.push(range);
            }
            add_waiter(&mut state.mark_waiters, waker);
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
                std::mem::take(&mut state.hold_waiters),
                std::mem::take(&mut state.mark_waiters),
                std::mem::take(&mut state.room_waiters),
            ]
        };
        // Those that wait ask again, and are told.
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// No change is in flight.
    pub fn is_idle(&self) -> bool {
        self.lock().in_flight.0.is_empty()
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
            return Err(Error::new(ErrorKind::Unavailable, "mark point", "volume")
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
            return Err(Error::new(ErrorKind::Unavailable, "mark point", "volume")
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
            marked_regions: state.regions.marked_count(),
            resync_regions: state.regions.resync.count(),
            oldest_queued: state.queue.front().map(|record| record.time),
        }
    }

    // --- the journal's side ---

    /// Takes records off the queue, oldest first, at least one and up to about `bytes_max`. Waits up to `wait`
    /// for the first; may return none. Those waiting for room are woken.
    pub fn drain(&self, bytes_max: u64, wait: Duration) -> Vec<QueuedRecord> {
        let mut state = self.wait_queued(wait);
        let mut bytes = 0;
        let end = state.unsettled.unwrap_or(Sequence(u64::MAX));
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

    fn wait_queued(&self, wait: Duration) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let idle = state.queue_bytes < WAKE_BYTES && !state.urgent && !state.closed;
        if (idle || state.is_held_up()) && !wait.is_zero() {
            state.journal_waits = true;
            state = self.queued.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
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

    /// Nobody drains the queue and marks regions any more: no ticket is given from now on, and nobody waits for one.
    /// Those given before end as they would.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut wakers = std::mem::take(&mut state.room_waiters);
        wakers.append(&mut state.mark_waiters);
        wakers.append(&mut state.hold_waiters);
        state.in_flight.0.iter_mut().for_each(|busy| wakers.append(&mut busy.waiters));
        self.queued.notify_all();
        self.work.notify_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    // --- the dirty map's side ---

    /// Regions that writers wait for; waits up to `wait` for the first.
    pub fn wanted(&self, wait: Duration) -> Vec<RegionRange> {
        std::mem::take(&mut self.wait_wanted(wait).wanted)
    }

    /// Waits up to `wait` until writers want regions.
    pub(crate) fn wait_to_mark(&self, wait: Duration) {
        drop(self.wait_wanted(wait));
    }

    fn wait_wanted(&self, wait: Duration) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.wanted.is_empty() && !state.closed && !wait.is_zero() {
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// These regions are durable in the dirty map now: their writers go on.
    pub fn marked(&self, ranges: &[RegionRange]) {
        let mut state = self.lock();
        let now = state.last_sequence;
        for range in ranges {
            state.regions.marked(*range, now);
        }
        let wakers = std::mem::take(&mut state.mark_waiters);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Forgets the regions last changed at or before `through` that no change in flight touches, and returns
    /// them: the caller clears them in the dirty map *before* it next marks any.
    ///
    /// The caller vouches that everything up to `through` is durable on the disk and in the journal.
    pub fn clean(&self, through: Sequence) -> Vec<RegionRange> {
        let mut state = self.lock();
        let State { regions, in_flight, .. } = &mut *state;
        let shift = self.region_shift;
        regions.clean(through, |range| {
            let start = range.first << shift;
            let end = (range.last + 1) << shift;
            in_flight.overlaps(Extent::from_bounds(start, end))
        })
    }

    /// A sequence up to which cleaning would free about half of the marked regions.
    pub fn half_way(&self) -> Sequence {
        self.lock().regions.half_way()
    }

    // --- the resync's side ---

    /// Begins an unordered interval in which `ranges`, marked in the dirty map already, are to be read again.
    pub fn require_resync(&self, ranges: &[RegionRange], cause: Cause) {
        let time = self.clock.now();
        let mut state = self.lock();
        for range in ranges {
            let last = range.last.min(state.regions.regions() - 1);
            state.read_again(RegionRange { first: range.first, last });
        }
        self.fall(&mut state, cause, time);
    }

    /// Waits up to `wait` for a mode other than `Ordered`; true when it is.
    pub fn wait_unordered(&self, wait: Duration) -> bool {
        let mut state = self.lock();
        if state.mode == Mode::Ordered && !state.closed {
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.mode != Mode::Ordered
    }

    /// Goes from `Dirty` to `Resync`: writes outside the resync regions are captured again.
    pub fn start_resync(&self) -> Cause {
        let mut state = self.lock();
        let cause = state.cause;
        if state.mode == Mode::Dirty {
            state.dropped_in_resync = false;
            state.set_mode(Mode::Resync, cause);
        }
        cause
    }

    /// True while no region that waits can have records newer than the begin of the unordered interval, so that its
    /// content may be compared with the replica as of then.
    pub fn may_compare(&self) -> bool {
        let state = self.lock();
        state.mode == Mode::Resync && !state.dropped_in_resync
    }

    /// The first region at or after `region` that waits for its resync, as an extent of the volume.
    pub fn next_resync(&self, region: u64) -> Option<(u64, Extent)> {
        let region = self.lock().regions.resync.next(region)?;
        let start = region << self.region_shift;
        let end = ((region + 1) << self.region_shift).min(self.device_bytes);
        Some((region, Extent::from_bounds(start, end)))
    }

    /// The region under the ticket was read; `changes` are the parts of it that the replica lacks, each with its
    /// extent. They are queued even over the budget: wait for [`Tap::has_room`] first.
    pub fn complete_resync(&self, ticket: Ticket, region: u64, changes: Vec<(Extent, Change)>) {
        let time = self.clock.now();
        let mut state = self.lock();
        for (extent, change) in changes {
            debug_assert!(ticket.extent.contains(extent));
            state.push(time, self.body_of(extent, change));
        }
        let sequence = state.last_sequence;
        state.regions.resynced(region, sequence);
        Self::end(state, ticket);
    }

    /// Half of the budget is free.
    pub fn has_room(&self) -> bool {
        self.lock().queue_bytes <= self.memory_budget_bytes / 2
    }

    /// Ends the unordered interval when no region waits any more; false when there are some, or none was open.
    pub fn finish_resync(&self) -> bool {
        let time = self.clock.now();
        let mut state = self.lock();
        if state.mode != Mode::Resync || state.regions.resync.count() > 0 {
            return false;
        }
        state.push(time, QueuedBody::UnorderedEnd);
        let cause = state.cause;
        state.set_mode(Mode::Ordered, cause);
        self.queued.notify_all();
        true
    }

    /// The mode changes since the last call, oldest first.
    pub fn take_mode_changes(&self) -> Vec<ModeChange> {
        std::mem::take(&mut self.lock().mode_changes)
    }

    // --- helpers ---

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

    /// A hold whose limit is over is none, whether it was released or not.
    fn is_held(&self, state: &State) -> bool {
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
        Self::check_ordered(state, "mark point")?;
        let time = self.clock.now();
        state.push(time, QueuedBody::Mark(mark));
        self.queued.notify_all();
        Ok((state.last_sequence, time))
    }

    /// Queues a change, or leaves it to the resync when it cannot be or need not be queued.
    fn capture(&self, state: &mut State, range: RegionRange, time: Timestamp, body: QueuedBody) {
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
    fn fall(&self, state: &mut State, cause: Cause, time: Timestamp) {
        if state.mode == Mode::Ordered {
            state.push(time, QueuedBody::UnorderedBegin(cause));
            state.set_mode(Mode::Dirty, cause);
            self.work.notify_all();
        }
    }

    fn end(mut state: MutexGuard<'_, State>, ticket: Ticket) -> Sequence {
        let sequence = state.last_sequence;
        let waiters = state.in_flight.remove(ticket.extent.aligned_outwards(BLOCK_BYTES).offset);
        drop(state);
        let waiters = waiters.expect("a ticket is given once and ends once");
        waiters.into_iter().for_each(Waker::wake);
        sequence
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

impl State {
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

    /// The next record for the journal waits to be settled.
    fn is_held_up(&self) -> bool {
        let next = self.queue.front();
        next.is_some_and(|record| self.unsettled.is_some_and(|mark| mark <= record.sequence))
    }

    fn set_mode(&mut self, to: Mode, cause: Cause) {
        let from = std::mem::replace(&mut self.mode, to);
        self.cause = cause;
        if from != to {
            self.mode_changes.push(ModeChange { from, to, cause });
        }
    }
}
