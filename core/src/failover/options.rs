//! Options of a failover, and a preview of what it would do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::chosen::{ChosenState, chosen};
use super::request::{Wait, by_sleeping};
use crate::clock::{Clock, SystemClock};
use crate::device::{BlockDevice, Files, SystemFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventSink, no_events};
use crate::macros::setters;
use crate::point::Quiesce;
use crate::policy::Policy;
use crate::replica::{At, Replica};
use crate::units::{Epoch, PointId, Sequence, Timestamp};
use crate::vault::{Stage, Vault};

/// Options to fail a volume over: required arguments in [`FailoverOptions::new`], the rest chained.
pub struct FailoverOptions {
    pub(super) volume: String,
    pub(super) vault: Vault,
    pub(super) state: PathBuf,
    pub(super) disk: Arc<dyn BlockDevice>,
    pub(super) at: At,
    pub(super) planned: Option<Duration>,
    pub(super) change_point: bool,
    pub(super) disk_reads_zero: bool,
    pub(super) policy: Policy,
    pub(super) applications: Option<Arc<dyn Quiesce>>,
    pub(super) events: EventSink,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) files: Arc<dyn Files>,
    pub(super) wait: Wait,
}

impl FailoverOptions {
    /// Fails `volume` of `vault` over to `disk`, a file or device of at least its size. What the
    /// disk held before is lost.
    ///
    /// `state` is the state directory of the new agent, as for
    /// [`ProtectionOptions`](crate::ProtectionOptions).
    pub fn new(
        volume: &str,
        vault: Vault,
        state: impl Into<PathBuf>,
        disk: Arc<dyn BlockDevice>,
    ) -> Self {
        Self {
            volume: volume.to_owned(),
            vault,
            state: state.into(),
            disk,
            at: At::NewestGood,
            planned: None,
            change_point: false,
            disk_reads_zero: false,
            policy: Policy::default(),
            applications: None,
            events: no_events(),
            clock: SystemClock::shared(),
            files: Arc::new(SystemFiles),
            wait: by_sleeping(),
        }
    }

    setters! {
        /// Sets the recovery state to fail over to. A planned failover ignores it: the source chooses.
        /// Default: [`At::NewestGood`].
        at: At;

        /// Asks the source to hand the volume over, so that nothing is lost, and waits up to `limit`
        /// for it. Default: unplanned.
        planned: Duration => Some;

        /// Changes the recovery state of the failover under way in the state directory. What was
        /// written since it began is dropped. Default: no, the failover goes on as it was.
        change_point: bool;

        /// Declares that the disk reads as zeroes, as a new sparse file does, so zeroes need not be
        /// written. Default: no.
        disk_reads_zero: bool;

        /// Sets the policy of the protection after the failover. Default: [`Policy::default`].
        policy: Policy;

        /// Sets what is quiesced for application-consistent points after the failover, as
        /// [`ProtectionOptions::applications`](crate::ProtectionOptions::applications) does. Default:
        /// none.
        applications: Arc<dyn Quiesce> => Some;

        /// Sets where events go. Default: nowhere.
        events: EventSink;

        /// Sets the source of time and entropy. Default: the system's.
        clock: Arc<dyn Clock>;
    }

    /// Sets the files that the state directory is among. Default: the system's. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    /// Sets how to wait between two looks at whether the source handed over. Default: by sleeping.
    /// Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn waiting(mut self, wait: Arc<dyn Fn(Duration) + Send + Sync>) -> Self {
        self.wait = wait;
        self
    }

    /// Returns what [`FailoverOptions::start`] would do now. Changes nothing.
    ///
    /// Fails as `start` would: `NotFound`, `NotOrdered`, `Fenced`, `WrongKey`, `Unavailable`.
    pub fn preview(&self) -> Result<Preview> {
        let replica = self.vault.replica(&self.volume)?;
        self.check_size(&replica)?;
        let at = self.state_of(&replica)?;
        let lifecycle = replica.catalog().lifecycle();
        let newest = replica.catalog().last_sequence();
        let newest_time = replica.catalog().segments().last().map(|e| e.summary.last_time);
        let later = newest_time.unwrap_or(at.time).nanos_since(at.time);
        let owner = replica.catalog().source();
        let owner = owner.map_or_else(|| "nobody".to_owned(), |source| source.host.clone());
        let mut steps = Vec::new();
        if self.planned.is_some() {
            steps.push(format!(
                "ask the source on {owner} to refuse writes and hand over what is left; the point will be newer then"
            ));
        }
        steps.push(format!(
            "serve {} writable as of {} (sequence {}, {}), and copy it to the disk behind the reads",
            self.volume,
            at.point.map_or_else(|| "a state".to_owned(), |point| format!("point {point}")),
            at.sequence,
            at.time,
        ));
        let epoch = Epoch(replica.catalog().epoch().0 + 1);
        let kept = newest.0.saturating_sub(at.sequence.0);
        steps.push(format!(
            "at commit: begin epoch {epoch}, fence the source on {owner}, and keep the {kept} later records as the branch of \
             epoch {}",
            replica.catalog().epoch()
        ));
        Ok(Preview {
            stage: lifecycle.stage(),
            owner,
            sequence: at.sequence,
            point: at.point,
            time: at.time,
            epoch,
            records_later: kept,
            time_later: Duration::from_nanos(later),
            steps,
        })
    }

    pub(super) fn check_size(&self, replica: &Replica) -> Result<()> {
        let (expected, found) = (replica.info().device_bytes, self.disk.size_bytes());
        if found >= expected {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "fail over to", self.disk.name())
            .expected(format_args!("at least {expected} bytes"))
            .found(found))
    }

    /// Returns the recovery state that the options ask for.
    pub(super) fn state_of(&self, replica: &Replica) -> Result<ChosenState> {
        let sequence = replica.resolve(&self.at)?;
        Ok(chosen(replica, sequence))
    }
}

/// What a failover would do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Stage of the volume's life cycle.
    pub stage: Stage,
    /// Host of the source that owns the volume.
    pub owner: String,
    /// Sequence of the recovery state.
    pub sequence: Sequence,
    /// The recovery point at that sequence, if there is one.
    pub point: Option<PointId>,
    /// Time of the recovery state.
    pub time: Timestamp,
    /// Epoch that a commit begins.
    pub epoch: Epoch,
    /// Later records in the vault: they become the branch.
    pub records_later: u64,
    /// How much later than the recovery state the newest of them is.
    pub time_later: Duration,
    /// The steps of the failover, in sentences.
    pub steps: Vec<String>,
}
