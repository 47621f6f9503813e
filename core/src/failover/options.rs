//! What a failover is to do, and a look at what it would do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::start::{Wait, by_sleeping};
use crate::clock::{Clock, SystemClock};
use crate::device::{BlockDevice, Files, SystemFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventSink, no_events};
use crate::point::Quiesce;
use crate::policy::Policy;
use crate::replica::{At, Replica};
use crate::units::{Epoch, PointId, Sequence, Timestamp};
use crate::vault::{Stage, Vault};

/// How to fail a volume over: required arguments in [`FailoverOptions::new`], the rest chained.
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
    /// Fails `volume` of `vault` over to `disk`, a file or device of at least its size whose content is lost. `state` is the
    /// local directory of the new agent, as for a [`ProtectionOptions`](crate::ProtectionOptions).
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

    /// The state to fail over to. Default: [`At::NewestGood`]. A planned failover has its own.
    pub fn at(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    /// Planned: ask the source to hand the volume over, so that nothing is lost, and wait for it up to `limit`. Default:
    /// unplanned.
    pub fn planned(mut self, limit: Duration) -> Self {
        self.planned = Some(limit);
        self
    }

    /// Change the point of the failover that is under way in the state directory: what was written since it began is
    /// dropped. Default: no, a failover under way goes on as it was.
    pub fn change_point(mut self, yes: bool) -> Self {
        self.change_point = yes;
        self
    }

    /// The disk reads as zeroes, as a new sparse file does: what the volume does not hold is left alone. Default: no.
    pub fn disk_reads_zero(mut self, yes: bool) -> Self {
        self.disk_reads_zero = yes;
        self
    }

    /// Limits and choices of the protection from here on. Default: [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets what is quiesced for application-consistent points from here on, as
    /// [`ProtectionOptions::applications`](crate::ProtectionOptions::applications) does. Default: none.
    pub fn applications(mut self, applications: Arc<dyn Quiesce>) -> Self {
        self.applications = Some(applications);
        self
    }

    /// Where events go. Default: nowhere.
    pub fn events(mut self, sink: EventSink) -> Self {
        self.events = sink;
        self
    }

    /// Time and entropy. Default: those of the system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where the state directory is. Default: the files of the system. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    /// What is done between two looks whether the source handed over, for so long. Default: sleeping. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn waiting(mut self, wait: Arc<dyn Fn(Duration) + Send + Sync>) -> Self {
        self.wait = wait;
        self
    }

    /// What [`FailoverOptions::start`] would do now; nothing is changed.
    ///
    /// Errors are those that `start` would begin with: `NotFound`, `NotOrdered`, `Fenced`, `WrongKey`, `Unavailable`.
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

    /// The state that is meant: the end of a segment, or inside of one.
    pub(super) fn state_of(&self, replica: &Replica) -> Result<ChosenState> {
        let sequence = replica.resolve(&self.at)?;
        Ok(chosen(replica, sequence))
    }
}

/// A state that a failover goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChosenState {
    pub sequence: Sequence,
    pub time: Timestamp,
    pub point: Option<PointId>,
}

/// What is known of the state at `sequence`.
pub(super) fn chosen(replica: &Replica, sequence: Sequence) -> ChosenState {
    let points = replica.points();
    let point = points.iter().rev().find(|point| point.sequence == sequence);
    let entries = replica.catalog().segments();
    let after = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
    let summary = after.checked_sub(1).map(|before| &entries[before].summary);
    // Sequences between two segments were never recorded: the state is the end of the one before.
    let sequence = summary.map_or(sequence, |summary| sequence.min(summary.last_sequence));
    let time = match (point, summary) {
        (Some(point), _) => point.time,
        (None, Some(summary)) => summary.last_time,
        (None, None) => replica.info().created,
    };
    ChosenState { sequence, time, point: point.map(|point| point.id) }
}

/// What a failover would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Where the volume is now.
    pub stage: Stage,
    /// Host of the source that has it.
    pub owner: String,
    /// The state.
    pub sequence: Sequence,
    /// The recovery point that it is; `None` where it is none.
    pub point: Option<PointId>,
    /// Its time.
    pub time: Timestamp,
    /// The epoch that a commit begins.
    pub epoch: Epoch,
    /// Records in the vault that are later: they become the branch.
    pub records_later: u64,
    /// The newest of them is this much later than the state.
    pub time_later: Duration,
    /// What would be done, in sentences.
    pub steps: Vec<String>,
}
