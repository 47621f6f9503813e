//! A protection whose tasks run only when a simulation steps them. Feature `testing`.
//!
//! No thread is started. With simulated clock, devices, files and stores, runs of one seed are
//! identical. Policies below the lower limits are accepted: small limits are reached sooner.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Waker;
use std::time::Duration;

use super::next::Next;
use super::open::{ProtectionOptions, tasks};
use super::points::PlacedMark;
use super::shared::Shared;
use super::state;
use super::stats::ProtectionStats;
use super::task::Task;
use crate::capture::Volume;
use crate::error::Result;
use crate::journal::PointKind;
use crate::parallel::stay_on_this_thread;
use crate::point::Quiesce;
use crate::replica::RecoveryPoint;
use crate::units::{ChainHash, PointId, Sequence};

/// One protected volume that does nothing between steps.
pub struct SteppedProtection {
    shared: Arc<Shared>,
    tasks: Vec<Box<dyn Task>>,
}

/// One of the tasks. It is separate from the protection, so that others can step while it does.
pub struct SteppedTask {
    shared: Arc<Shared>,
    task: Box<dyn Task>,
}

/// A recovery point that is in the write order, and may not be durable yet.
pub struct PlacedPoint(PlacedMark);

impl PlacedPoint {
    /// Returns its identity.
    pub fn id(&self) -> PointId {
        self.0.point
    }

    /// Returns its place in the write order.
    pub fn sequence(&self) -> Sequence {
        self.0.sequence
    }
}

impl SteppedProtection {
    /// Makes the calling thread do all of its requests itself, one after the other, from now on.
    pub fn stay_on_this_thread() {
        stay_on_this_thread();
    }

    /// Opens as [`ProtectionOptions::open`] does, but starts no thread. Also does what
    /// [`SteppedProtection::stay_on_this_thread`] does.
    pub fn open(options: ProtectionOptions) -> Result<Self> {
        stay_on_this_thread();
        let state = state::StateDirectory::open(options.files.clone(), &options.state)?;
        options.check_whole(&state)?;
        Self::open_with(options, state)
    }

    /// Opens as [`SteppedProtection::open`] does, with a state directory that is open already.
    pub(crate) fn open_with(
        options: ProtectionOptions,
        state: state::StateDirectory,
    ) -> Result<Self> {
        let (shared, baseline) = options.recover(state)?;
        let tasks = tasks(&shared, baseline);
        Ok(Self { shared, tasks })
    }

    /// Returns the tasks, for the caller to step.
    pub fn take_tasks(&mut self) -> Vec<SteppedTask> {
        let tasks = std::mem::take(&mut self.tasks).into_iter();
        tasks.map(|task| SteppedTask { shared: self.shared.clone(), task }).collect()
    }

    /// Returns the volume to write to.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// Returns a snapshot of the protection.
    pub fn stats(&self) -> ProtectionStats {
        self.shared.stats()
    }

    /// Places a point, as [`Protection::mark`](super::Protection::mark) does, without waiting for
    /// it.
    pub fn place(&self, kind: PointKind, label: &str) -> Result<PlacedPoint> {
        self.shared.place_mark(kind, label, |mark| self.shared.tap.mark(mark)).map(PlacedPoint)
    }

    /// Places a point, as [`Protection::mark_quiesced`](super::Protection::mark_quiesced) does,
    /// without waiting for it. The applications are released once this returns.
    pub fn place_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<PlacedPoint> {
        self.shared.place_quiesced(provider, label, limit).map(PlacedPoint)
    }

    /// Returns what became of a point; `None` while it may still become durable.
    pub fn outcome(&self, placed: &PlacedPoint) -> Option<Result<RecoveryPoint>> {
        self.shared.outcome(&placed.0)
    }

    /// Does what [`Protection::resync`](super::Protection::resync) does.
    pub fn resync(&self) -> Result<()> {
        self.shared.require_resync(crate::event::Cause::Requested)
    }

    /// Does what [`Protection::commit_failover`](super::Protection::commit_failover) does.
    pub fn commit_failover(&self) -> Result<()> {
        self.shared.commit_failover()
    }

    pub(crate) fn retention_waits(&self) -> Arc<AtomicBool> {
        self.shared.session.retention_waits().clone()
    }

    /// Returns the last sequence in spool or catalog. The next one that is given may be higher: no
    /// sequence is given again.
    pub fn newest_closed(&self) -> Sequence {
        let spooled = self.shared.shipping.spool.oldest_batch(0, usize::MAX);
        let newest = spooled.last().map(|spooled| spooled.summary.last_sequence);
        newest.unwrap_or_else(|| self.shared.anchor.now().published.sequence)
    }

    /// Returns the chain hash of the segment that was published last.
    pub fn published_chain(&self) -> ChainHash {
        self.shared.anchor.now().published.chain
    }

    /// Returns how often the journal lost what it had not closed.
    pub fn journal_losses(&self) -> u64 {
        self.shared.journal.now().losses
    }

    /// Returns whether a vault that went back was looked at, and the journal does not continue it yet.
    pub fn is_going_back(&self) -> bool {
        self.shared.session.is_going_back()
    }

    /// Asks to close, ship and publish everything without waiting for the policy's intervals.
    pub fn hurry(&self) {
        self.shared.requests.hurry_until(false);
    }

    /// Begins a clean stop: no more points are taken and no resync begins.
    pub fn begin_stop(&self) -> Result<()> {
        self.shared.begin_stop()
    }

    /// Returns whether everything captured is durable in the local journal, so that the stop can
    /// end.
    pub fn is_journaled(&self) -> bool {
        self.shared.is_journaled()
    }

    /// Ends the tasks and leaves a clean dirty map.
    pub fn end_stop(self) -> Result<()> {
        self.shared.end();
        self.shared.leave_clean()
    }
}

impl SteppedTask {
    /// Returns its name.
    pub fn name(&self) -> &'static str {
        self.task.name()
    }

    /// Takes one step. Returns the longest pause before the next; `None` after the last.
    pub fn step(&mut self) -> Option<Duration> {
        match self.task.step(&self.shared, Waker::noop()) {
            Next::Now => Some(Duration::ZERO),
            Next::Work(limit) | Next::Later(limit) => Some(limit),
            Next::Ended => None,
        }
    }
}
