//! The resync task: reads the regions that capture could not follow, and brings the volume back to `Ordered`.
//!
//! What the replica holds already is not journaled again. A stretch of the volume is looked up at once, by the frames of the
//! replica, as a hash for each block; so the time does not depend on the order in which the blocks were written.

use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::Shared;
use super::task::{Next, Task};
use crate::capture::{Change, Ticket};
use crate::device::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, Mode};
use crate::extent::{Extent, block_runs};
use crate::policy::CaptureContent;
use crate::replica::{COMPARED_BYTES, Fingerprints, View, is_zero};
use crate::units::Sequence;

/// What the replica holds is looked up for so much of the volume at once.
const LOOKED_UP_BYTES: u64 = 256 << 20;
const POLL: Duration = Duration::from_millis(10);
/// Longest wait until everything is looked at again.
const WAIT: Duration = Duration::from_millis(200);
/// Pause after the device failed a read.
const RETRY: Duration = Duration::from_millis(500);

/// What the replica is known to hold in the regions that wait.
pub(super) enum Baseline {
    /// Nothing was ever replicated: zeroes.
    Empty,
    /// This.
    View(Box<View>),
    /// Not known.
    Unknown,
}

/// Runs until the protection stops.
pub(super) struct Resync {
    /// Serves the first resync only.
    baseline: Baseline,
    /// Of the baseline, in the regions that are read next.
    prints: Option<Fingerprints>,
    stage: Stage,
    /// Losses of the journal when the resync began.
    losses: u64,
}

enum Stage {
    /// The volume is in order, as far as is known.
    Idle,
    /// Regions are read, the next one at or after this one.
    Reading(u64),
    /// Everything was read; it is to be durable in the journal up to here, without a loss more than so many. Only then is
    /// the volume `Ordered` again.
    Settling(Sequence, u64),
}

impl Resync {
    pub(super) fn new(baseline: Baseline) -> Self {
        Self { baseline, prints: None, stage: Stage::Idle, losses: 0 }
    }

    fn begin(&mut self, shared: &Shared) -> Next {
        if shared.is_fenced() {
            return Next::Later(WAIT);
        }
        if shared.tap.mode() == Mode::Ordered {
            return Next::Work(WAIT);
        }
        if !has_room(shared) {
            return Next::Later(POLL);
        }
        let cause = shared.tap.start_resync();
        let bytes = shared.tap.stats().resync_regions * shared.policy.region_bytes;
        let bytes = bytes.min(shared.info.device_bytes);
        let message = format!("reading {bytes} bytes again ({cause})");
        shared.event(EventKind::ResyncStarted { bytes, cause }, message);
        shared.reset_resync_counters();
        self.losses = shared.journal().losses;
        self.stage = Stage::Reading(0);
        Next::Now
    }

    /// Reads one region.
    fn read(&mut self, shared: &Shared, cursor: u64, waker: &Waker) -> Next {
        if shared.tap.mode() != Mode::Resync {
            return self.end(shared);
        }
        let next = shared.tap.next_resync(cursor).or_else(|| shared.tap.next_resync(0));
        let Some((region, extent)) = next else {
            let target = shared.tap.stats().last_sequence;
            self.stage = Stage::Settling(target, shared.journal().losses);
            return Next::Now;
        };
        if !has_room(shared) {
            return Next::Later(POLL);
        }
        // Before the ticket, which writers wait for.
        if let Err(error) = self.look_up(shared, region, extent) {
            return self.failed(shared, &error);
        }
        let ticket = match shared.tap.begin_resync(extent, waker) {
            Poll::Pending => return Next::Later(WAIT),
            Poll::Ready(ticket) => ticket,
        };
        self.stage = Stage::Reading(region + 1);
        match ticket.and_then(|ticket| self.resync_region(shared, region, ticket)) {
            Ok(()) => Next::Now,
            Err(error) => self.failed(shared, &error),
        }
    }

    fn failed(&mut self, shared: &Shared, error: &Error) -> Next {
        if error.kind() == ErrorKind::NotFound {
            // Retention took away what the view is made of; without it everything is sent.
            self.forget();
        }
        shared.event(EventKind::TaskFailed, format!("resync: {error}"));
        Next::Later(RETRY)
    }

    fn forget(&mut self) {
        self.baseline = Baseline::Unknown;
        self.prints = None;
    }

    /// Finds out what the replica holds in this region, and in the next ones that wait.
    fn look_up(&mut self, shared: &Shared, region: u64, extent: Extent) -> Result<()> {
        let Baseline::View(view) = &self.baseline else { return Ok(()) };
        if !shared.tap.may_compare() || self.prints.as_ref().is_some_and(|p| p.cover(extent)) {
            return Ok(());
        }
        let end = extent.offset.saturating_add(LOOKED_UP_BYTES);
        let mut extents = vec![extent];
        let mut next = shared.tap.next_resync(region + 1);
        while let Some((region, extent)) = next.filter(|(_, extent)| extent.end() <= end) {
            extents.push(extent);
            next = shared.tap.next_resync(region + 1);
        }
        self.prints = Fingerprints::take(view, extents, &|| !shared.is_stopping())?;
        Ok(())
    }

    fn settle(&mut self, shared: &Shared, target: Sequence, losses: u64) -> Next {
        let (durable, lost) = {
            let journal = shared.journal();
            (journal.durable, journal.losses != losses)
        };
        if durable < target && !lost {
            shared.seal_now.store(true, Ordering::Release);
            return Next::Later(POLL);
        }
        if lost || !shared.tap.finish_resync() {
            self.stage = Stage::Reading(0);
            return Next::Now;
        }
        let (bytes_read, bytes_journaled) = shared.resync_counters();
        let message = format!("read {bytes_read} bytes, {bytes_journaled} of them had changed");
        shared.event(EventKind::ResyncFinished { bytes_read, bytes_journaled }, message);
        self.end(shared)
    }

    fn end(&mut self, shared: &Shared) -> Next {
        self.forget();
        self.stage = Stage::Idle;
        // Where the journal cannot be written, reading the disk again at once would only lose it again.
        if shared.journal().losses == self.losses { Next::Now } else { Next::Later(RETRY) }
    }

    fn resync_region(&self, shared: &Shared, region: u64, ticket: Ticket) -> Result<()> {
        let extent = ticket.extent();
        if shared.policy.content == CaptureContent::ExtentsOnly {
            shared.tap.complete_resync(ticket, region, vec![(extent, Change::Zero)]);
            return Ok(());
        }
        match self.read_changes(shared, extent) {
            Ok((changes, bytes_read)) => {
                let journaled = changes.iter().map(|(extent, _)| extent.length).sum();
                shared.count_resync(bytes_read, journaled);
                shared.tap.complete_resync(ticket, region, changes);
                Ok(())
            }
            Err(error) => {
                // The region keeps waiting.
                shared.tap.cancel(ticket);
                Err(error)
            }
        }
    }

    /// What the disk holds in `extent` that the replica lacks, and how many bytes were read to find out.
    fn read_changes(
        &self,
        shared: &Shared,
        extent: Extent,
    ) -> Result<(Vec<(Extent, Change)>, u64)> {
        let device = shared.volume.device();
        let may_compare = shared.tap.may_compare();
        let is_empty = may_compare && matches!(self.baseline, Baseline::Empty);
        if is_empty && device.allocation(extent)?.iter().all(|run| !run.allocated) {
            return Ok((Vec::new(), 0));
        }
        let mut found = Buffer::zeroed(extent.length as usize);
        device.read(extent.offset, &mut found)?;
        let same = match (&self.baseline, &self.prints) {
            (Baseline::View(view), Some(prints)) if may_compare && prints.cover(extent) => {
                prints.compare(view, extent, &found)?
            }
            _ => Vec::new(),
        };
        let sort = |start: usize, block: &[u8]| -> Block {
            let zero = is_zero(block);
            let same = same.get(start / COMPARED_BYTES).copied().unwrap_or(is_empty && zero);
            match (same, zero) {
                (true, _) => Block::Same,
                (false, true) => Block::Zero,
                (false, false) => Block::Data,
            }
        };
        let changes = block_runs(&found, COMPARED_BYTES, sort)
            .filter(|(_, kind)| *kind != Block::Same)
            .map(|(run, kind)| {
                let extent =
                    Extent { offset: extent.offset + run.start as u64, length: run.len() as u64 };
                let change = match kind {
                    Block::Zero => Change::Zero,
                    _ => Change::Write(Buffer::copy_of(&found[run])),
                };
                (extent, change)
            })
            .collect();
        Ok((changes, extent.length))
    }
}

impl Task for Resync {
    fn name(&self) -> &'static str {
        "resync"
    }

    fn step(&mut self, shared: &Shared, waker: &Waker) -> Next {
        if shared.is_stopping() {
            return Next::Ended;
        }
        match self.stage {
            Stage::Idle => self.begin(shared),
            _ if shared.is_fenced() => self.end(shared),
            Stage::Reading(cursor) => self.read(shared, cursor, waker),
            Stage::Settling(target, losses) => self.settle(shared, target, losses),
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.tap.wait_unordered(limit);
    }
}

/// The journal follows.
fn has_room(shared: &Shared) -> bool {
    shared.tap.has_room() && shared.spool.has_room()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Same,
    Zero,
    Data,
}
