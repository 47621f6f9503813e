//! What the tasks of a protection share, and what they and its callers do with all of it.
//!
//! Each part has its own lock, and holds it briefly. Only the two that keep callers apart, for a
//! quiesce and for a commit, are held for longer; the others may be taken meanwhile.

use std::sync::Arc;

use super::anchor::AnchorFile;
use super::clean_stop::clean_stop;
use super::failures::{Failures, Work};
use super::inspector::Inspector;
use super::journal_progress::JournalProgress;
use super::points::Points;
use super::progress::Progress;
use super::provisional::Provisional;
use super::requests::{Request, Requests};
use super::resync_progress::ResyncProgress;
use super::session::Session;
use super::shipments::Shipments;
use super::state::StateDirectory;
use super::witness::{Moment, leave};
use crate::capture::{DirtyMap, RegionRange, Tap, Volume, require_resync};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cause, Event, EventKind, EventSink};
use crate::journal::KeyRing;
use crate::policy::Policy;
use crate::sync;
use crate::units::Epoch;
use crate::vault::{Vault, VolumeInfo};

/// What the tasks share.
pub(super) struct Shared {
    pub vault: Vault,
    pub info: VolumeInfo,
    pub epoch: Epoch,
    pub keys: KeyRing,
    pub policy: Policy,
    pub clock: Arc<dyn Clock>,
    pub events: EventSink,
    pub inspector: Option<Arc<dyn Inspector>>,
    pub state: StateDirectory,
    pub anchor: Arc<AnchorFile>,
    pub tap: Arc<Tap>,
    pub volume: Arc<Volume>,
    pub dirty: sync::Mutex<DirtyMap>,
    pub journal: JournalProgress,
    pub points: Points,
    pub resync: ResyncProgress,
    pub shipping: Shipments,
    pub session: Session,
    pub requests: Requests,
    pub progress: Progress,
    pub failures: Failures,
}

impl Shared {
    /// Commits the failover to here; does nothing if there is none.
    pub fn commit_failover(&self) -> Result<()> {
        let _one = self.session.begin_commit();
        // Callers of `stats` do not wait for the vault: the session is not locked meanwhile.
        let Some(under_way) = self.session.provisional() else { return Ok(()) };
        let replica = self.vault.replica_with_keys(&self.info, &self.keys)?;
        let catalog = under_way.commit(&self.state, &self.vault, replica, &*self.clock)?;
        let (at, epoch) = (under_way.at, under_way.epoch);
        self.shipping.shipper.set_catalog(catalog);
        self.session.committed();
        // The next start removes what this fails to remove: the catalog shows that the failover is
        // over.
        let _ = Provisional::forget(&self.state);
        let message = format!("epoch {epoch} begins after sequence {at}");
        self.event(EventKind::FailoverCommitted, message);
        Ok(())
    }

    /// Makes all regions dirty because of `cause`, so that a resync reads them.
    pub fn require_resync(&self, cause: Cause) -> Result<()> {
        require_resync(&self.tap, &self.dirty, self.all_regions(), cause)
    }

    /// Makes all regions dirty because of `cause`. If the dirty map cannot be written, it goes, so
    /// that the next session reads the whole disk.
    pub fn require_resync_of_all(&self, cause: Cause) -> Result<()> {
        if self.require_resync(cause).is_err() {
            self.state.forget_dirty_map()?;
            self.tap.require_resync(&[self.all_regions()], cause, None);
        }
        Ok(())
    }

    fn all_regions(&self) -> RegionRange {
        let regions = self.info.device_bytes.div_ceil(self.policy.region_bytes).max(1);
        RegionRange { first: 0, last: regions - 1 }
    }

    /// Begins a clean stop, once a point that is being taken is complete, and flushes the disk.
    pub fn begin_stop(&self) -> Result<()> {
        self.requests.ask(Request::Stop);
        drop(self.points.begin_quiesce());
        self.volume.device().flush()
    }

    /// Returns whether everything captured is durable in the journal.
    pub fn is_journaled(&self) -> bool {
        self.journal.now().durable >= self.tap.stats().last_sequence
    }

    /// Makes the tasks return.
    pub fn end(&self) {
        self.requests.ask(Request::End);
        self.tap.close();
        self.shipping.spool.wake();
    }

    /// Records in the dirty map that the session ended cleanly.
    pub fn leave_clean(&self) -> Result<()> {
        let last = self.tap.stats().last_sequence;
        let durable = self.journal.now().durable;
        let cleaned = self.tap.clean(durable);
        let stop = clean_stop(&**self.volume.device(), last)?;
        self.anchor.promise(last)?;
        let mut dirty = self.dirty.lock();
        dirty.clear(&cleaned)?;
        leave(&self.state, &**self.volume.device(), Moment::Stop(dirty.generation()))?;
        dirty.end_session(stop)
    }

    /// Reports a failure, unless one of the same cause was reported within the last minute.
    pub fn failed(&self, work: &'static Work, error: &Error) {
        if self.failures.add(work, error.kind(), self.clock.elapsed()) {
            self.event(EventKind::TaskFailed, format!("{}: {error}", work.fails));
        }
    }

    /// Reports that something works again, if its failure was reported.
    pub fn works_again(&self, work: &'static Work) {
        if self.failures.end(work) {
            self.event(EventKind::TaskRecovered, work.works.to_owned());
        }
    }

    /// Reports an event.
    pub fn event(&self, kind: EventKind, message: String) {
        let (time, volume) = (self.clock.now(), self.info.name.clone());
        (self.events)(&Event { time, volume, kind, message });
    }

    /// Fails with `Fenced` if another source owns the volume.
    pub fn check_not_fenced(&self, operation: &'static str) -> Result<()> {
        if self.session.is_fenced() { Err(self.fenced_error(operation)) } else { Ok(()) }
    }

    /// Fails with `Fenced` while the volume is handed over. The last point of a source is that of
    /// its hand-over: a later one would be on a branch, or nowhere.
    pub fn check_owns_volume(&self, operation: &'static str) -> Result<()> {
        if self.session.handed_over().is_none() || self.session.is_fenced() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, operation, &self.info.name)
            .message("it was handed over for a planned failover, which is neither committed nor cancelled here yet"))
    }

    /// Returns the error of a source that was fenced.
    pub fn fenced_error(&self, operation: &'static str) -> Error {
        // A volume that was handed over may leave the vault.
        if self.session.is_lost() && self.session.handed_over().is_none() {
            return Error::new(ErrorKind::Diverged, operation, &self.info.name)
                .message("the vault has no record of the volume any more; nothing is replicated");
        }
        Error::new(ErrorKind::Fenced, operation, &self.info.name).message(
            "another source has taken the volume; nothing is replicated from here any more",
        )
    }
}
