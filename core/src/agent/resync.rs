//! The resync task: journals dirty regions again and brings the volume back to `Ordered`.
//!
//! Blocks that the replica already has are not journaled again. The task looks up a long extent at
//! once, as a hash of each block, frame by frame of the replica. So the time does not depend on the
//! order in which the blocks were written.
//!
//! Invariant: the volume is `Ordered` again only once everything that was read is durable in the
//! journal, without a loss since.
//!
//! Behaviour on failure: a region whose read fails stays dirty and is read again after a pause.

use std::task::{Poll, Waker};
use std::time::Duration;

use super::baseline::Baseline;
use super::failures::RESYNC;
use super::next::Next;
use super::requests::Request;
use super::shared::Shared;
use super::task::Task;
use crate::capture::{Change, Ticket};
use crate::device::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, EventKind, Mode};
use crate::extent::{Extent, block_runs};
use crate::policy::CaptureContent;
use crate::replica::{COMPARED_BYTES, Fingerprints, is_zero};
use crate::units::Sequence;

/// Bytes of the volume that are looked up in the replica at once.
const LOOKED_UP_BYTES: u64 = 256 << 20;
const POLL: Duration = Duration::from_millis(10);
/// Longest pause of a task that waits for others.
const WAIT: Duration = Duration::from_millis(200);
/// Pause after the device failed a read, and after the journal lost a resync for the first time.
const RETRY: Duration = Duration::from_millis(500);
/// While the vault is away, regions up to this part of the spool's limit are journaled as they are.
const UNCOMPARED_ONE_IN: u64 = 4;
/// Longest pause after the journal lost a resync.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Runs until the protection stops.
pub(super) struct Resync {
    /// For one resync only.
    baseline: Baseline,
    /// Hashes of the baseline in the regions that are read next.
    prints: Option<Fingerprints>,
    stage: Stage,
    /// No resync has begun in this session.
    is_first: bool,
    /// Losses of the journal when the resync began.
    losses: u64,
    /// Last sequence that was durable then.
    durable: Sequence,
    /// Pause after the journal loses this resync.
    retry: Duration,
}

enum Stage {
    /// Nothing is under way.
    Idle,
    /// Regions are read. The next one is at or after this number.
    Reading(u64),
    /// Everything was read. The journal must become durable up to this sequence, with no more than
    /// this number of losses.
    Finishing(Sequence, u64),
}

impl Resync {
    pub(super) fn new(baseline: Baseline) -> Self {
        Self {
            baseline,
            prints: None,
            stage: Stage::Idle,
            is_first: true,
            losses: 0,
            durable: Sequence::ZERO,
            retry: RETRY,
        }
    }

    fn begin(&mut self, shared: &Shared) -> Next {
        if shared.session.is_fenced() {
            return Next::Later(WAIT);
        }
        if shared.tap.mode() == Mode::Ordered {
            return Next::Work(WAIT);
        }
        if !has_room(shared) {
            return Next::Later(POLL);
        }
        let bytes = shared.stats().resync_bytes_left;
        if self.is_first && waits_for_vault(shared, bytes) {
            if !shared.resync.wait() {
                let message = format!(
                    "{bytes} bytes are read once the vault answers; until then no point is taken"
                );
                shared.event(EventKind::VaultUnavailable, message);
            }
            return Next::Later(WAIT);
        }
        self.is_first = false;
        let cause = shared.tap.start_resync();
        if bytes > 0 || !matches!(cause, Cause::Observed | Cause::OutsideWriter) {
            let message = format!("reading {bytes} bytes again ({cause})");
            shared.event(EventKind::ResyncStarted { bytes, cause }, message);
        }
        shared.resync.begin();
        if let Some(baseline) = shared.resync.take_baseline() {
            (self.baseline, self.prints) = (baseline, None);
        }
        {
            let journal = shared.journal.now();
            (self.losses, self.durable) = (journal.losses, journal.durable);
        }
        self.stage = Stage::Reading(0);
        Next::Now
    }

    /// Reads and journals one region.
    fn read(&mut self, shared: &Shared, cursor: u64, waker: &Waker) -> Next {
        if shared.tap.mode() != Mode::Resync {
            return self.end(shared);
        }
        let next = shared.tap.next_resync(cursor).or_else(|| shared.tap.next_resync(0));
        let Some((region, extent)) = next else {
            let target = shared.tap.stats().last_sequence;
            self.stage = Stage::Finishing(target, shared.journal.now().losses);
            if shared.tap.is_observed() && shared.resync.bytes_read() > 0 {
                report_finished(shared);
            }
            return Next::Now;
        };
        if !has_room(shared) {
            return Next::Later(POLL);
        }
        // Before the ticket, because writers wait for that.
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
            // Retention removed a segment of the view; without a view everything is journaled.
            self.forget();
        }
        shared.failed(&RESYNC, error);
        Next::Later(RETRY)
    }

    fn forget(&mut self) {
        self.baseline = Baseline::Unknown;
        self.prints = None;
    }

    /// Looks up the replica's content in this region and in the next dirty ones.
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
        self.prints = Fingerprints::take(view, extents, &|| !shared.requests.is_stopping())?;
        Ok(())
    }

    fn finish(&mut self, shared: &Shared, target: Sequence, losses: u64) -> Next {
        if shared.tap.observed().is_some() || shared.tap.awaits_driver() {
            // Somebody else ends the interval.
            return Next::Later(POLL);
        }
        let (durable, lost) = {
            let journal = shared.journal.now();
            (journal.durable, journal.losses != losses)
        };
        if durable < target && !lost {
            shared.requests.ask(Request::Close);
            return Next::Later(POLL);
        }
        if lost || !shared.tap.finish_resync() {
            self.stage = Stage::Reading(0);
            return Next::Now;
        }
        self.retry = RETRY;
        shared.progress.moved();
        report_finished(shared);
        self.end(shared)
    }

    fn end(&mut self, shared: &Shared) -> Next {
        self.forget();
        self.stage = Stage::Idle;
        let (losses, durable) = {
            let journal = shared.journal.now();
            (journal.losses, journal.durable)
        };
        if losses == self.losses {
            return Next::Now;
        }
        // On a disk that is nearly full another resync at once would be lost too. What was closed
        // before the loss need not be read again.
        let pause = if durable > self.durable { RETRY } else { self.retry };
        self.retry = (2 * pause).min(RETRY_MAX);
        Next::Later(pause)
    }

    fn resync_region(&self, shared: &Shared, region: u64, ticket: Ticket) -> Result<()> {
        let extent = ticket.extent();
        if shared.policy.content == CaptureContent::ExtentsOnly {
            shared.tap.complete_resync(ticket, region, vec![(extent, Change::Zero)]);
            return Ok(());
        }
        match self.read_changes(shared, extent) {
            Ok((changes, bytes_read)) => {
                shared.works_again(&RESYNC);
                let journaled = changes.iter().map(|(extent, _)| extent.length).sum();
                shared.resync.add(bytes_read, journaled);
                shared.tap.complete_resync(ticket, region, changes);
                Ok(())
            }
            Err(error) => {
                // The region stays dirty.
                shared.tap.cancel(ticket);
                Err(error)
            }
        }
    }

    /// Returns what differs in `extent` between disk and replica, and the bytes that were read to
    /// find out.
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
        // Of a block that differs, whether it is zero now.
        let changed = |start: usize, block: &[u8]| {
            let zero = is_zero(block);
            let same = same.get(start / COMPARED_BYTES).copied().unwrap_or(is_empty && zero);
            (!same).then_some(zero)
        };
        let runs = block_runs(&found, COMPARED_BYTES, changed);
        let changes = runs.filter_map(|(run, zero)| {
            let (offset, length) = (extent.offset + run.start as u64, run.len() as u64);
            let data = || Change::Write(Buffer::copy_of(&found[run]));
            Some((Extent { offset, length }, if zero? { Change::Zero } else { data() }))
        });
        Ok((changes.collect(), extent.length))
    }
}

impl Task for Resync {
    fn name(&self) -> &'static str {
        "resync"
    }

    fn step(&mut self, shared: &Shared, waker: &Waker) -> Next {
        if shared.requests.is_stopping() {
            return Next::Ended;
        }
        match self.stage {
            Stage::Idle => self.begin(shared),
            _ if shared.session.is_fenced() => self.end(shared),
            Stage::Reading(cursor) => self.read(shared, cursor, waker),
            Stage::Finishing(target, losses) => self.finish(shared, target, losses),
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.tap.wait_unordered(limit);
    }
}

fn report_finished(shared: &Shared) {
    let (bytes_read, bytes_journaled) =
        (shared.resync.bytes_read(), shared.resync.bytes_journaled());
    let message = format!("read {bytes_read} bytes, {bytes_journaled} of them had changed");
    shared.event(EventKind::ResyncFinished { bytes_read, bytes_journaled }, message);
}

/// Returns whether the first resync is to wait until it can compare with the replica: without that
/// it would fill the spool.
fn waits_for_vault(shared: &Shared, bytes: u64) -> bool {
    shared.session.is_away()
        && shared.policy.content == CaptureContent::Data
        && bytes > shared.policy.spool_bytes_max / UNCOMPARED_ONE_IN
}

/// Returns whether the queue has room for more, and the journal empties it.
fn has_room(shared: &Shared) -> bool {
    shared.tap.has_room() && !shared.journal.is_stalled()
}
