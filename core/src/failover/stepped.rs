//! Failover that stands still between steps: for simulations, which choose the order. Feature `testing`.
//!
//! As [`SteppedProtection`], with the copy behind the reads as one more task. What waits for the source of a planned failover
//! calls a closure, in which a simulation lets that source go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cancel::cancel_in;
use super::follow::{CatchUp, Follower};
use super::options::FailoverOptions;
use super::over::{Hydrator, Started, leave_plain};
use crate::agent::SteppedProtection;
use crate::agent::state::StateDirectory;
use crate::clock::Clock;
use crate::device::{BlockDevice, Files};
use crate::error::Result;
use crate::event::EventSink;
use crate::parallel::stay_on_this_thread;
use crate::policy::Policy;
use crate::replica::{InstantDisk, Progress};
use crate::vault::Vault;

/// A volume that failed over to here, in parts.
pub struct SteppedFailover {
    /// How it began.
    pub started: Started,
    /// Its protection, on the disk below.
    pub protection: SteppedProtection,
    /// The copy behind the reads.
    pub copy: SteppedCopy,
    /// The disk to read and write.
    pub disk: Arc<InstantDisk>,
}

/// Copies what the disk lacks, a frame a step, and one more in each step: what a frame lacks may come with a later one.
pub struct SteppedCopy {
    hydrator: Hydrator,
    steps: u64,
}

impl SteppedFailover {
    /// Begins as [`FailoverOptions::start`] does, and starts no thread. The policy's lower limits are not checked.
    pub fn start(options: FailoverOptions) -> Result<Self> {
        stay_on_this_thread();
        let (options, state, hydrator, started, _) = Hydrator::of(options.serve()?);
        let disk = hydrator.disk.clone();
        let protection = SteppedProtection::open_with(options, state)?;
        let copy = hydrator.of_protection(&protection.retention_waits());
        Ok(Self { started, protection, copy: SteppedCopy { hydrator: copy, steps: 0 }, disk })
    }

    /// As [`cancel`](super::cancel()), with the state directory among `files`.
    pub fn cancel(
        files: Arc<dyn Files>,
        vault: &Vault,
        volume: &str,
        state: &Path,
        clock: &dyn Clock,
    ) -> Result<()> {
        cancel_in(vault, volume, &StateDirectory::open(files, state)?, clock)
    }

    /// Leaves the disk of a volume that failed over, whose protection ended cleanly after the commit, as a plain one:
    /// what [`FailedOver::detach`](super::FailedOver::detach) does last.
    pub fn leave_plain(disk: &InstantDisk, files: Arc<dyn Files>, state: &Path) -> Result<()> {
        leave_plain(disk, files, state)
    }
}

impl SteppedCopy {
    /// One step; when to step again at the latest. `None`: the disk is whole.
    pub fn step(&mut self) -> Option<Duration> {
        self.steps += 1;
        let calls = AtomicU64::new(0);
        self.hydrator.step(&|| calls.fetch_add(1, Ordering::Relaxed) + 1 < self.steps)
    }
}

impl Follower {
    /// As [`Follower::open`], with the state directory among `files` and something else than sleep to wait with.
    pub fn open_stepped(
        volume: &str,
        vault: Vault,
        state: &Path,
        disk: Arc<dyn BlockDevice>,
        clock: Arc<dyn Clock>,
        files: Arc<dyn Files>,
        wait: Arc<dyn Fn(Duration) + Send + Sync>,
    ) -> Result<Self> {
        stay_on_this_thread();
        let mut follower = Self::open_in(files, volume, vault, state, disk, clock)?;
        follower.waits(wait);
        Ok(follower)
    }

    /// As [`Follower::fail_back`], without a thread.
    pub fn fail_back_stepped(
        self,
        planned: Option<Duration>,
        policy: Policy,
        events: EventSink,
        progress: Progress<'_>,
    ) -> Result<(SteppedProtection, CatchUp)> {
        let (options, state, done) = self.come_home(planned, policy, events, progress)?;
        let protection = SteppedProtection::open_with(options, state)?;
        protection.commit_failover()?;
        Ok((protection, done))
    }
}
