//! The resync task: reads the regions that capture could not follow, and brings the volume back to `Ordered`.

use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::Shared;
use super::task::{Next, Task};
use crate::capture::{Change, Ticket};
use crate::device::{BlockDevice, Buffer};
use crate::error::{ErrorKind, Result};
use crate::event::{EventKind, Mode};
use crate::extent::{Extent, block_runs};
use crate::policy::CaptureContent;
use crate::replica::{View, is_zero};
use crate::units::Sequence;

/// Blocks of this size are compared and journaled.
const BLOCK_BYTES: usize = 4096;
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
        Self { baseline, stage: Stage::Idle, losses: 0 }
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
        let ticket = match shared.tap.begin_resync(extent, waker) {
            Poll::Pending => return Next::Later(WAIT),
            Poll::Ready(ticket) => ticket,
        };
        self.stage = Stage::Reading(region + 1);
        match ticket.and_then(|ticket| resync_region(shared, &self.baseline, region, ticket)) {
            Ok(()) => Next::Now,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    // Retention took away what the view is made of; without it everything is sent.
                    self.baseline = Baseline::Unknown;
                }
                shared.event(EventKind::TaskFailed, format!("resync: {error}"));
                Next::Later(RETRY)
            }
        }
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
        self.baseline = Baseline::Unknown;
        self.stage = Stage::Idle;
        // Where the journal cannot be written, reading the disk again at once would only lose it again.
        if shared.journal().losses == self.losses { Next::Now } else { Next::Later(RETRY) }
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

fn resync_region(shared: &Shared, baseline: &Baseline, region: u64, ticket: Ticket) -> Result<()> {
    let extent = ticket.extent();
    if shared.policy.content == CaptureContent::ExtentsOnly {
        shared.tap.complete_resync(ticket, region, vec![(extent, Change::Zero)]);
        return Ok(());
    }
    let known = if shared.tap.may_compare() { baseline } else { &Baseline::Unknown };
    match read_changes(shared, known, extent) {
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

/// The journal follows.
fn has_room(shared: &Shared) -> bool {
    shared.tap.has_room() && shared.spool.has_room()
}

/// What the disk holds in `extent` that the replica lacks, and how many bytes were read to find out.
fn read_changes(
    shared: &Shared,
    known: &Baseline,
    extent: Extent,
) -> Result<(Vec<(Extent, Change)>, u64)> {
    let device = shared.volume.device();
    if matches!(known, Baseline::Empty)
        && device.allocation(extent)?.iter().all(|run| !run.allocated)
    {
        return Ok((Vec::new(), 0));
    }
    let mut found = Buffer::zeroed(extent.length as usize);
    device.read(extent.offset, &mut found)?;
    let mut expected = Vec::new();
    if let Baseline::View(view) = known {
        expected.resize(found.len(), 0);
        view.read(extent.offset, &mut expected)?;
    }
    let sort = |start: usize, block: &[u8]| -> Block {
        let same = match known {
            Baseline::Empty => is_zero(block),
            Baseline::View(_) => *block == expected[start..start + block.len()],
            Baseline::Unknown => false,
        };
        match (same, is_zero(block)) {
            (true, _) => Block::Same,
            (false, true) => Block::Zero,
            (false, false) => Block::Data,
        }
    };
    let changes = block_runs(&found, BLOCK_BYTES, sort)
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Same,
    Zero,
    Data,
}
