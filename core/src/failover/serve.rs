//! Serves a volume as of a recovery state: everything of a failover up to the protection of the
//! disk.
//!
//! Each step is durable in the state directory before the next one begins. After a crash,
//! [`FailoverOptions::serve`] finds there how far the last call came, and goes on from that step.

use std::sync::Arc;
use std::time::Duration;

use super::chosen::{ChosenState, chosen};
use super::options::FailoverOptions;
use super::prepare::{prepare, take_identity};
use super::request::{request, requested_id};
use crate::agent::provisional::Provisional;
use crate::agent::state::StateDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::replica::{
    At, InstantBase, InstantDisk, InstantOptions, Replica, TargetContent, ViewOptions,
};
use crate::units::{PointId, Sequence, Timestamp};
use crate::vault::StepKind;

/// How a failover began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Sequence of the recovery state that the volume was served as of.
    pub sequence: Sequence,
    /// The recovery point at that sequence, if there is one.
    pub point: Option<PointId>,
    /// Time of the recovery state.
    pub time: Timestamp,
    /// Time from the call until the volume could be read and written: the library's part of the
    /// recovery time.
    pub took: Duration,
}

/// A disk that can be read and written as of the recovery state, and is not protected yet.
pub(super) struct Served {
    pub options: FailoverOptions,
    pub state: StateDirectory,
    pub disk: InstantDisk,
    pub started: Started,
    /// When the call began.
    pub begun: Duration,
}

impl FailoverOptions {
    /// Chooses the recovery state, records the failover and opens the disk, or goes on with what a
    /// crash left.
    pub(super) fn serve(self) -> Result<Served> {
        let begun = self.clock.elapsed();
        let state = StateDirectory::open(self.files.clone(), &self.state)?;
        let mut replica = self.vault.replica(&self.volume)?;
        replica.catalog_mut().end_gates()?;
        self.check_size(&replica)?;
        if let Some(known) = state.identity()? {
            known.check_volume(replica.info(), "fail over")?;
        }
        if self.change_point {
            // A commit whose answer was lost does not arrive after this version.
            replica.catalog_mut().amend(&[], &|| Ok(()))?;
        }
        let under_way = match self.not_committed(&state, &replica)? {
            Some(under_way) if self.change_point => {
                let chosen = self.state_of(&replica)?;
                // Without a dirty map the disk is not trusted, wherever this is interrupted.
                state.forget_dirty_map()?;
                state.remove(&state.presence_log())?;
                state.clear_spool()?;
                Some(self.prepare(&state, &replica, under_way.failover, chosen, under_way.home)?)
            }
            Some(under_way) => Some(under_way),
            // Committed, but the disk is not a whole copy yet.
            None if self.files.exists(&state.presence_log()) => None,
            None => Some(self.begin(&state, &mut replica)?),
        };
        let shown = match under_way {
            Some(mut under_way) => {
                loop {
                    take_identity(&state, &replica, &under_way)?;
                    self.record_start(&mut replica, &under_way)?;
                    if !self.is_gone(&state, &replica, &under_way) {
                        break;
                    }
                    let chosen = self.state_of(&replica)?;
                    under_way =
                        self.prepare(&state, &replica, under_way.failover, chosen, false)?;
                }
                let (sequence, time) = (under_way.at, under_way.at_time);
                // The disk hydrates from it, for as long as it is not whole.
                state.write_text(&state.base(), format!("{sequence}\n"))?;
                ChosenState { sequence, time, point: under_way.point }
            }
            None => chosen(&replica, read_base(&state)?),
        };
        let disk = self.open_disk(&state, &replica, shown.sequence)?;
        let started = Started {
            sequence: shown.sequence,
            point: shown.point,
            time: shown.time,
            took: self.clock.elapsed().saturating_sub(begun),
        };
        Ok(Served { options: self, state, disk, started, begun })
    }

    /// Returns the failover to here that is under way. Removes the record of a committed one, which
    /// a crash may leave.
    fn not_committed(
        &self,
        state: &StateDirectory,
        replica: &Replica,
    ) -> Result<Option<Provisional>> {
        let Some(under_way) = Provisional::read(state)? else { return Ok(None) };
        if !under_way.is_committed(replica.catalog()) {
            return Ok(Some(under_way));
        }
        if self.change_point {
            return Err(Error::new(ErrorKind::InvalidInput, "change point of", &self.volume)
                .message("the failover was committed; fail over again to go back")
                .found(format_args!("epoch {}", under_way.epoch)));
        }
        Provisional::forget(state)?;
        Ok(None)
    }

    /// Begins a new failover: chooses its recovery state and writes `STATE/failover`.
    fn begin(&self, state: &StateDirectory, replica: &mut Replica) -> Result<Provisional> {
        if let Some(known) = state.identity()? {
            return Err(Error::new(ErrorKind::InvalidInput, "fail over with", state.path().display())
                .message(
                    "an agent has used the directory, which records how its disk differs: make that disk follow \
                     (reprotect) and fail back to it, or give an empty directory",
                )
                .found(format_args!("the state of {}", known.volume_name)));
        }
        let failover = requested_id(state, replica, &*self.clock)?;
        let chosen = match self.planned {
            Some(limit) => {
                let (clock, wait) = (&*self.clock, &self.wait);
                let at = request(&self.vault, replica, failover, limit, clock, wait)?;
                chosen(replica, at)
            }
            None => self.state_of(replica)?,
        };
        self.prepare(state, replica, failover, chosen, false)
    }

    fn prepare(
        &self,
        state: &StateDirectory,
        replica: &Replica,
        failover: PointId,
        chosen: ChosenState,
        home: bool,
    ) -> Result<Provisional> {
        prepare(state, replica, failover, chosen, home, self.policy.region_bytes, &*self.clock)
    }

    fn record_start(&self, replica: &mut Replica, under_way: &Provisional) -> Result<()> {
        if replica.catalog().epoch() >= under_way.epoch {
            // Committed here or elsewhere: opening the protection finds out which.
            return Ok(());
        }
        replica.catalog_mut().record_step(&under_way.step(StepKind::Start, &*self.clock))
    }

    /// Returns whether retention removed the recovery state before the catalog recorded the
    /// failover, and before the disk was served. Another state is to be chosen then.
    fn is_gone(&self, state: &StateDirectory, replica: &Replica, under_way: &Provisional) -> bool {
        let was_served = under_way.home || self.files.exists(&state.presence_log());
        let is_over = replica.catalog().epoch() >= under_way.epoch;
        let found = || replica.resolve(&At::Sequence(under_way.at));
        !was_served
            && !is_over
            && found().is_err_and(|error| {
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOrdered)
            })
    }

    fn open_disk(
        &self,
        state: &StateDirectory,
        replica: &Replica,
        at: Sequence,
    ) -> Result<InstantDisk> {
        let log = state.presence_log();
        let content = if self.disk_reads_zero && !self.files.exists(&log) {
            TargetContent::Zeroes
        } else {
            TargetContent::Unknown
        };
        let view = Arc::new(replica.view(&At::Sequence(at), &ViewOptions::default())?);
        let (clock, files) = (self.clock.clone(), self.files.clone());
        let options = InstantOptions { clock, files, ..InstantOptions::default() };
        InstantDisk::over(InstantBase::view(view), self.disk.clone(), content, &log, options)
    }
}

fn read_base(state: &StateDirectory) -> Result<Sequence> {
    let path = state.base();
    let base = state.read_text(&path, "a sequence", |text| text.trim().parse().ok())?;
    let missing = || Error::new(ErrorKind::NotFound, "read", path.display()).expected("a sequence");
    base.map(Sequence).ok_or_else(missing)
}
