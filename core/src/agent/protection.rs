//! [`Protection`], the handle of a protected volume that runs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use super::shared::Shared;
use super::stats::ProtectionStats;
use crate::capture::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Mode};
use crate::journal::PointKind;
use crate::point::Quiesce;
use crate::replica::RecoveryPoint;
use crate::units::Sequence;
use crate::vault::{TimelineEntry, VolumeInfo};

/// Longest pause between two looks at what a caller waits for.
const LOOK: Duration = Duration::from_millis(100);
/// Shortest time that a stop gives a journal that can go on.
const JOURNAL_WAIT_MIN: Duration = Duration::from_secs(10);

/// One protected volume, running. May be used from any thread.
pub struct Protection {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

impl Protection {
    /// Returns the volume to write to. Nothing else may write to its device.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// Returns what the vault records of the volume.
    pub fn info(&self) -> &VolumeInfo {
        &self.shared.info
    }

    /// Takes a recovery point now, and returns once it is durable in the local journal.
    ///
    /// `kind` is [`PointKind::Crash`], or [`PointKind::Declared`] at a transaction boundary of the
    /// caller's own. Points of the other kinds are made by [`Protection::mark_quiesced`],
    /// [`Protection::mark_app`] and [`VolumeCut`](super::VolumeCut).
    ///
    /// `NotOrdered` during initial replication, resync or overflow, `InvalidInput` if the label is
    /// too long or for another kind, `Fenced` if another source owns the volume or it was handed
    /// over.
    pub fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        self.shared.wait_durable(&self.shared.place(kind, label)?)
    }

    /// Takes an application-consistent point: quiesces, flushes, marks and releases, in this order.
    /// Returns once the point is durable in the local journal, long after the release.
    ///
    /// On failure there is no point, and the application is released. `Unavailable` if quiesce to
    /// mark takes more than `limit`; also the error of the provider, and those of
    /// [`Protection::mark`].
    pub fn mark_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<RecoveryPoint> {
        self.shared.wait_durable(&self.shared.place_quiesced(provider, label, limit)?)
    }

    /// Does what [`Protection::mark_quiesced`] does, with the applications of the options and the
    /// limit of the policy. `InvalidInput` if the options have no applications.
    pub fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        self.shared.wait_durable(&self.shared.place_app(label)?)
    }

    /// Returns a snapshot of the protection.
    pub fn stats(&self) -> ProtectionStats {
        self.shared.stats()
    }

    /// Returns the history in the vault, in intervals.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        self.shared.shipping.shipper.catalog().timeline()
    }

    /// Waits until the volume is `Ordered` and everything captured before the call is in the vault.
    /// Returns the newest sequence there. `Unavailable` at the limit.
    pub fn wait_replicated(&self, limit: Duration) -> Result<Sequence> {
        self.wait_ordered(limit)?;
        let target = self.shared.tap.stats().last_sequence;
        self.wait(limit, "replicate", || {
            let done = self.shared.shipping.replicated() >= target;
            self.shared.requests.hurry_until(done);
            done
        })?;
        Ok(self.shared.shipping.replicated())
    }

    /// Waits until initial replication or resync is complete. `Unavailable` at the limit.
    pub fn wait_ordered(&self, limit: Duration) -> Result<()> {
        self.wait(limit, "wait for order of", || self.shared.tap.mode() == Mode::Ordered)
    }

    /// Begins a resync of the whole disk, while writes go on. Older points stay usable; none is
    /// taken until it is complete.
    pub fn resync(&self) -> Result<()> {
        self.shared.require_resync(Cause::Requested)
    }

    /// Says whether the outside writer is in sync ([`ProtectionOptions::outside_writer`]).
    ///
    /// From `true` on its writes are in order: the unordered interval ends once what must be read again
    /// is read. Call it after the writer's driver has said so, such as QEMU by `actively-synced`. With
    /// `false` an unordered interval begins. The NBD server begins one too when a client that wrote goes
    /// away or a change fails. `InvalidInput` if the volume has no outside writer.
    ///
    /// [`ProtectionOptions::outside_writer`]: super::ProtectionOptions::outside_writer
    pub fn set_writer_in_sync(&self, yes: bool) -> Result<()> {
        let tap = &self.shared.tap;
        let is_outside = if yes { tap.writer_is_in_sync() } else { tap.writer_lost_sync() };
        if is_outside {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "set order of", &self.shared.info.name)
            .expected("a volume that was opened with an outside writer")
            .found("one whose writers keep their order by themselves"))
    }

    /// Makes a failover to here final: fences the old source, and ships what was captured since the
    /// failover began. Does nothing if no failover is under way.
    ///
    /// The commit is durable once this returns. After any failure it may be repeated. `Fenced` if
    /// the failover was cancelled or another one was committed, `Unavailable` if the vault does not
    /// answer.
    pub fn commit_failover(&self) -> Result<()> {
        self.shared.commit_failover()
    }

    /// Returns the flag that makes retention wait, for those who read what it might remove.
    pub(crate) fn retention_waits(&self) -> Arc<AtomicBool> {
        self.shared.session.retention_waits().clone()
    }

    /// Ends the session cleanly, so that the next one reads nothing again.
    ///
    /// Closes the open segment, ships what there is, and flushes the disk. What the vault does not
    /// take within `limit` stays in the spool, and so does all of it before a failover is
    /// committed. Every writer must be gone before: stop an NBD server first.
    ///
    /// `Unavailable` if the journal cannot be closed within `limit` because the spool stays full or
    /// its disk fails. The next session then reads the dirty regions again, as after a crash. A
    /// journal that can go on gets at least 10 s. `Fenced` if another source owns the volume. What
    /// was captured here was then handed in to a branch, as far as the vault answered.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        let shared = self.shared.clone();
        shared.begin_stop()?;
        let start = shared.clock.elapsed();
        let passed = || shared.clock.elapsed().saturating_sub(start);
        let mut journaled = self.wait(limit, "journal", || shared.is_journaled());
        if journaled.is_err() && !shared.journal.is_stalled() {
            let rest = JOURNAL_WAIT_MIN.saturating_sub(passed());
            journaled = self.wait(rest, "journal", || shared.is_journaled());
        }
        // Before a failover is committed nothing leaves the spool.
        if !shared.session.is_provisional() {
            shared.shipping.spool.wait_empty(limit.saturating_sub(passed()));
        }
        self.end();
        journaled?;
        shared.leave_clean()?;
        shared.check_not_fenced("stop")
    }

    fn wait(&self, limit: Duration, what: &'static str, done: impl Fn() -> bool) -> Result<()> {
        let (shared, progress) = (&self.shared, &self.shared.progress);
        let start = shared.clock.elapsed();
        loop {
            let seen = progress.now();
            if done() {
                return Ok(());
            }
            shared.check_not_fenced(what)?;
            let left = limit.saturating_sub(shared.clock.elapsed().saturating_sub(start));
            if left.is_zero() {
                let stats = self.stats();
                return Err(Error::new(ErrorKind::Unavailable, what, &self.shared.info.name)
                    .expected(format_args!("it done within {limit:?}"))
                    .found(format_args!(
                        "mode {}, sequence {} of {} replicated",
                        stats.mode.name(),
                        stats.replicated_sequence,
                        stats.last_sequence
                    )));
            }
            progress.wait(seen, left.min(LOOK));
        }
    }

    fn end(&mut self) {
        self.shared.end();
        for task in self.tasks.drain(..) {
            // A task that panicked left what a crash would leave, and std printed why.
            let _ = task.join();
        }
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.end();
    }
}
