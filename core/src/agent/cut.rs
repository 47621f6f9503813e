//! One volume's part in a cut across several volumes.
//!
//! Invariant: a mark is placed only behind a barrier that is still up. So barriers on every volume
//! before the first mark give one cut. See [`VolumeCut`] for the steps and why.
//!
//! Behaviour on failure: a barrier ends at its limit whatever happens, and `mark` then fails. Marks
//! without a commitment are crash-consistent points of their volumes and no point of a group. A
//! dropped handle lifts its barrier and releases its applications.

use std::sync::Arc;
use std::time::Duration;

use super::protection::Protection;
use super::shared::Shared;
use crate::capture::Barrier;
use crate::clock::{Clock, random_bytes};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::journal::{LABEL_BYTES_MAX, Mark, PointKind};
use crate::point::{GroupMark, Quiesce, commitment};
use crate::sync::lock::Mutex;
use crate::units::PointId;

/// One volume's part in cuts across several volumes; made by [`Protection::cut`].
///
/// A cut is a state in which no write is present without every write that was acknowledged before
/// it began, on whichever volume. To make one, take these steps, each on every volume before the
/// next begins:
///
/// 1. [`VolumeCut::quiesce`], for an application-consistent point only;
/// 2. [`VolumeCut::raise_barrier`]: no new change begins;
/// 3. [`VolumeCut::mark`];
/// 4. [`VolumeCut::lift_barrier`] and [`VolumeCut::release`];
/// 5. [`VolumeCut::wait_durable`];
/// 6. [`VolumeCut::commit`]: from now on the marks are a point of the group.
///
/// Steps 2 to 4 are one cut because every mark is placed while every volume is behind its barrier.
/// A write B that began after A was acknowledged, and is ordered before its volume's mark, began
/// before that volume's barrier. So A was acknowledged before any mark was placed, and is ordered
/// before its own volume's mark.
///
/// The handle serves any number of cuts, one after the other, and may be used from any thread.
/// Dropped, it lifts the barrier and releases the applications.
pub struct VolumeCut {
    shared: Arc<Shared>,
    applications: Option<Arc<dyn Quiesce>>,
    progress: Mutex<Progress>,
}

/// How far the cut under way is.
#[derive(Default)]
struct Progress {
    /// The applications were asked to quiesce and are not released.
    quiesced: bool,
    barrier: Option<Barrier>,
    /// The journal's losses when the mark was placed.
    losses: u64,
}

impl Protection {
    /// Returns a handle for cuts across this volume and others. It quiesces the applications of the
    /// options, if any.
    pub fn cut(&self) -> VolumeCut {
        let (shared, progress) = (self.shared.clone(), Mutex::default());
        VolumeCut { applications: shared.points.applications().cloned(), shared, progress }
    }
}

impl VolumeCut {
    /// Sets what [`VolumeCut::quiesce`] quiesces, in place of the applications of the options.
    pub fn applications(mut self, applications: Arc<dyn Quiesce>) -> Self {
        self.applications = Some(applications);
        self
    }

    /// Returns the name of the volume.
    pub fn volume(&self) -> &str {
        &self.shared.info.name
    }

    /// Returns the clock of the protection, for limits.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Quiesces the applications within `limit` and flushes the disk. Without applications it only
    /// flushes. After a failure too, call [`VolumeCut::release`].
    pub fn quiesce(&self, limit: Duration) -> Result<()> {
        if let Some(applications) = &self.applications {
            self.progress.lock().quiesced = true;
            applications.quiesce(&self.shared.quiesce_request("", limit))?;
        }
        self.shared.volume.flush()
    }

    /// Releases the applications; does nothing if they are not quiesced. Fails if they may have
    /// gone on before: then the mark is not application-consistent.
    pub fn release(&self) -> Result<()> {
        let quiesced = std::mem::take(&mut self.progress.lock().quiesced);
        match &self.applications {
            Some(applications) if quiesced => applications.release(),
            _ => Ok(()),
        }
    }

    /// Lets no new change of the volume begin until [`VolumeCut::lift_barrier`], or for `limit`.
    /// Never blocks.
    ///
    /// Call [`VolumeCut::lift_barrier`] at the limit at the latest: it wakes the writers that wait.
    /// `NotOrdered` in an unordered interval, `Fenced` if another agent owns the volume,
    /// `AlreadyExists` if a barrier is up.
    pub fn raise_barrier(&self, limit: Duration) -> Result<()> {
        self.shared.check_not_fenced("raise barrier on")?;
        self.shared.check_owns_volume("raise barrier on")?;
        let barrier = self.shared.tap.barrier(limit)?;
        self.progress.lock().barrier = Some(barrier);
        Ok(())
    }

    /// Places a mark of the group point `group` behind the barrier. Never blocks.
    ///
    /// `kind` is [`PointKind::GroupCrash`], or [`PointKind::GroupApp`] if the applications must
    /// still be quiesced. `Unavailable` if the barrier is over, `InvalidInput` for a label that is
    /// too long and for another kind.
    pub fn mark(&self, group: PointId, kind: PointKind, label: &str) -> Result<GroupMark> {
        let mut progress = self.progress.lock();
        let Some(barrier) = progress.barrier else {
            return Err(self.refused(ErrorKind::Unavailable, "no barrier is up"));
        };
        if !matches!(kind, PointKind::GroupApp | PointKind::GroupCrash) {
            return Err(self.refused(ErrorKind::InvalidInput, "the kind is not that of a group"));
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(self.refused(ErrorKind::InvalidInput, "the label is too long"));
        }
        progress.losses = self.shared.journal.now().losses;
        let point = PointId(random_bytes(&*self.shared.clock));
        let mark = Mark { point, kind, label: label.to_owned(), group: Some(group) };
        let still_quiesced = || match &self.applications {
            Some(applications) if kind == PointKind::GroupApp => applications.still_quiesced(),
            _ => Ok(()),
        };
        let (sequence, time) = self.shared.tap.mark_at_barrier(barrier, mark, still_quiesced)?;
        Ok(GroupMark { volume: self.volume().to_owned(), point, sequence, time })
    }

    /// Lets changes begin again. Returns how long they could not; `None` if no barrier was up.
    /// Never blocks.
    pub fn lift_barrier(&self) -> Option<Duration> {
        let barrier = self.progress.lock().barrier.take()?;
        self.shared.tap.release(barrier)
    }

    /// Waits until the mark `point` is durable in the local journal. Fails if the journal lost it.
    pub fn wait_durable(&self, point: PointId) -> Result<()> {
        let losses = self.progress.lock().losses;
        self.shared.wait_for_point(point, losses).map(drop)
    }

    /// Journals that the marks of `group` are a point of the group `name` with `members` volumes.
    /// Call it only once the marks of all volumes are durable. May be repeated.
    ///
    /// `NotOrdered` in an unordered interval: repeat it later.
    pub fn commit(&self, group: PointId, kind: PointKind, name: &str, members: u16) -> Result<()> {
        self.shared.tap.mark(commitment(group, kind, name, members)).map(drop)
    }

    /// Raises the event `point-skipped`: why there is no point of the group.
    pub fn skipped(&self, reason: &str) {
        self.shared.event(EventKind::PointSkipped, format!("group: {reason}"));
    }

    fn refused(&self, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, "mark point of", self.volume()).message(message)
    }
}

impl Drop for VolumeCut {
    fn drop(&mut self) {
        self.lift_barrier();
        // The applications go on; there is no point that the failure could spoil.
        let _ = self.release();
    }
}
