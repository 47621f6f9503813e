//! A protection whose tasks step when they are told to: for simulations, which choose the order. Feature `testing`.
//!
//! Nothing runs by itself and no thread is started, so with a clock, devices, files and stores that are simulated too, a run
//! with one seed is always the same. The policy's lower limits are not checked: small limits are reached sooner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::task::{Next, Task};
use super::{PlacedMark, ProtectionOptions, ProtectionStats, Shared, state, tasks};
use crate::capture::Volume;
use crate::error::Result;
use crate::journal::PointKind;
use crate::parallel::stay_on_this_thread;
use crate::point::Quiesce;
use crate::replica::RecoveryPoint;
use crate::units::{PointId, Sequence};

/// One protected volume that stands still between steps.
pub struct SteppedProtection {
    shared: Arc<Shared>,
    tasks: Vec<Box<dyn Task>>,
}

/// One of the tasks, taken out of its protection so that others can step while it does.
pub struct SteppedTask {
    shared: Arc<Shared>,
    task: Box<dyn Task>,
}

/// A recovery point that is in the write order and perhaps not durable.
pub struct PlacedPoint(PlacedMark);

impl PlacedPoint {
    /// Its identity.
    pub fn id(&self) -> PointId {
        self.0.point
    }

    /// Its place in the write order.
    pub fn sequence(&self) -> Sequence {
        self.0.sequence
    }
}

impl SteppedProtection {
    /// From now on the calling thread does all of its requests itself, one after the other.
    pub fn stay_on_this_thread() {
        stay_on_this_thread();
    }

    /// Opens as [`ProtectionOptions::open`] does, and starts nothing. As [`SteppedProtection::stay_on_this_thread`].
    pub fn open(options: ProtectionOptions) -> Result<Self> {
        stay_on_this_thread();
        let state = state::StateDirectory::open(options.files.clone(), &options.state)?;
        options.check_whole(&state)?;
        Self::open_with(options, state)
    }

    /// As [`SteppedProtection::open`], with a state directory that is open already.
    pub(crate) fn open_with(
        options: ProtectionOptions,
        state: state::StateDirectory,
    ) -> Result<Self> {
        let (shared, baseline) = options.recover(state)?;
        let tasks = tasks(&shared, baseline);
        Ok(Self { shared, tasks })
    }

    /// The tasks; whoever has them steps them.
    pub fn take_tasks(&mut self) -> Vec<SteppedTask> {
        let tasks = std::mem::take(&mut self.tasks).into_iter();
        tasks.map(|task| SteppedTask { shared: self.shared.clone(), task }).collect()
    }

    /// The volume to write to.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// How it is doing.
    pub fn stats(&self) -> ProtectionStats {
        self.shared.stats()
    }

    /// Begins what [`Protection::mark`](super::Protection::mark) does.
    pub fn place(&self, kind: PointKind, label: &str) -> Result<PlacedPoint> {
        self.shared.place_mark(kind, label, |mark| self.shared.tap.mark(mark)).map(PlacedPoint)
    }

    /// Begins what [`Protection::mark_quiesced`](super::Protection::mark_quiesced) does; the application was released.
    pub fn place_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<PlacedPoint> {
        self.shared.place_quiesced(provider, label, limit).map(PlacedPoint)
    }

    /// What became of a point; `None` while that is open.
    pub fn outcome(&self, placed: &PlacedPoint) -> Option<Result<RecoveryPoint>> {
        self.shared.confirmed(&placed.0)
    }

    /// As [`Protection::resync`](super::Protection::resync).
    pub fn resync(&self) -> Result<()> {
        self.shared.resync()
    }

    /// As [`Protection::commit_failover`](super::Protection::commit_failover).
    pub fn commit_failover(&self) -> Result<()> {
        self.shared.commit_failover()
    }

    pub(crate) fn retention_waits(&self) -> Arc<AtomicBool> {
        self.shared.retention_waits.clone()
    }

    /// Asks for everything to be sealed, shipped and named without waiting for the policy's intervals.
    pub fn hurry(&self) {
        self.shared.seal_now.store(true, Ordering::Release);
        self.shared.name_now.store(true, Ordering::Release);
    }

    /// Begins a clean stop: no more points and resyncs.
    pub fn begin_stop(&self) -> Result<()> {
        self.shared.begin_stop()
    }

    /// Everything captured is durable in the local journal, so that the stop can be ended.
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
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.task.name()
    }

    /// One step; when to step again at the latest. `None`: never.
    pub fn step(&mut self) -> Option<Duration> {
        match self.task.step(&self.shared, Waker::noop()) {
            Next::Now => Some(Duration::ZERO),
            Next::Work(limit) | Next::Later(limit) => Some(limit),
            Next::Ended => None,
        }
    }
}
