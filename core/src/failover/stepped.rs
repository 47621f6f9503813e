//! Failover whose tasks run only when a simulation steps them. Feature `testing`.
//!
//! It is a [`SteppedProtection`] with the copy to the disk as one more task. A planned failover
//! waits for its source by calling a closure, in which the simulation lets the source go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cancel::cancel_in;
use super::follow::{CatchUp, Follower};
use super::options::FailoverOptions;
use super::over::{Hydrator, leave_plain};
use super::serve::Started;
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
    /// How the failover began.
    pub started: Started,
    /// The protection of the volume.
    pub protection: SteppedProtection,
    /// The copy to the disk.
    pub copy: SteppedCopy,
    /// The disk to read and write.
    pub disk: Arc<InstantDisk>,
}

/// Copies what the disk lacks. Each step may copy one frame more than the step before, so that the
/// copy ends even if a frame needs a later one.
pub struct SteppedCopy {
    hydrator: Hydrator,
    steps: u64,
}

impl SteppedFailover {
    /// Begins as [`FailoverOptions::start`] does, but starts no thread and accepts policies below
    /// the lower limits.
    pub fn start(options: FailoverOptions) -> Result<Self> {
        stay_on_this_thread();
        let (options, state, hydrator, started, _) = Hydrator::of(options.serve()?);
        let disk = hydrator.disk.clone();
        let protection = SteppedProtection::open_with(options, state)?;
        let copy = hydrator.of_protection(&protection.retention_waits());
        Ok(Self { started, protection, copy: SteppedCopy { hydrator: copy, steps: 0 }, disk })
    }

    /// Does what [`cancel`](super::cancel()) does, with the state directory among `files`.
    pub fn cancel(
        files: Arc<dyn Files>,
        vault: &Vault,
        volume: &str,
        state: &Path,
        clock: &dyn Clock,
    ) -> Result<()> {
        cancel_in(vault, volume, &StateDirectory::open(files, state)?, clock)
    }

    /// Makes the disk of a failover a plain one, as
    /// [`FailedOver::detach`](super::FailedOver::detach) does last. The failover must be committed,
    /// and its protection must have ended cleanly.
    pub fn leave_plain(disk: &InstantDisk, files: Arc<dyn Files>, state: &Path) -> Result<()> {
        leave_plain(disk, files, state)
    }
}

impl SteppedCopy {
    /// Takes one step. Returns the longest pause before the next; `None` once the disk is whole.
    pub fn step(&mut self) -> Option<Duration> {
        self.steps += 1;
        let calls = AtomicU64::new(0);
        self.hydrator.step(&|| calls.fetch_add(1, Ordering::Relaxed) + 1 < self.steps)
    }
}

impl Follower {
    /// Opens as [`Follower::open`] does, with the state directory among `files`, and waits by
    /// `wait`.
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

    /// Does what [`Follower::fail_back`] does, without a thread.
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
