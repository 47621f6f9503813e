//! Beginning a failover, going on with it after a crash, and giving it up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::options::{ChosenState, FailoverOptions, chosen};
use super::over::{FailedOver, Started};
use crate::agent::provisional::{Provisional, cut};
use crate::agent::state::{Identity, StateDirectory, host, new_source};
use crate::capture::{DirtyMap, DirtyMapParams};
use crate::clock::{Clock, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::{
    At, InstantBase, InstantDisk, InstantOptions, Replica, TargetContent, ViewOptions,
};
use crate::units::{Epoch, PointId, Sequence, Timestamp};
use crate::vault::{Step, StepKind, Vault};

const POLL: Duration = Duration::from_millis(200);

/// Lets so much time pass.
pub(super) type Wait = Arc<dyn Fn(Duration) + Send + Sync>;

pub(super) fn by_sleeping() -> Wait {
    Arc::new(std::thread::sleep)
}

impl FailoverOptions {
    /// Fails over: returns when the volume can be read and written as of the state. Hydration goes on behind.
    ///
    /// A failover under way in the state directory goes on as it was; where it was killed before the volume was served and its
    /// state is gone since, the state is chosen again. `Fenced` when another one is under way or was
    /// committed, `NotFound` and `NotOrdered` for the state, `InvalidInput` when the disk is too small, `Unavailable` when the
    /// source did not hand over in time (the request is taken back) or the vault does not answer.
    pub fn start(self) -> Result<FailedOver> {
        self.policy.validate()?;
        crate::agent::check_applications(self.applications.as_ref(), &self.policy)?;
        FailedOver::run(self.serve()?)
    }

    /// Everything up to the protection: the disk can be read as of the state.
    pub(super) fn serve(self) -> Result<Served> {
        let begun = self.clock.elapsed();
        let state = StateDirectory::open(self.files.clone(), &self.state)?;
        let mut replica = self.vault.replica(&self.volume)?;
        self.check_size(&replica)?;
        if let Some(known) = state.identity()? {
            known.check_volume(replica.info(), "fail over")?;
        }
        let under_way = match self.not_committed(&state, &replica)? {
            Some(under_way) if self.change_point => {
                let chosen = self.state_of(&replica)?;
                // Without a dirty map nothing of the disk is believed, wherever this is interrupted.
                state.forget_dirty_map()?;
                state.remove(&state.presence_log())?;
                state.clear_spool()?;
                Some(self.prepare(&state, &replica, under_way.failover, chosen, under_way.home)?)
            }
            Some(under_way) => Some(under_way),
            // Committed; the disk is not whole yet.
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
                write_base(&state, sequence)?;
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

    /// The failover to here that is under way. The record of one that was committed is removed, where a crash left it.
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

    /// A new failover, up to its record in the state directory.
    fn begin(&self, state: &StateDirectory, replica: &mut Replica) -> Result<Provisional> {
        if let Some(known) = state.identity()? {
            return Err(Error::new(ErrorKind::InvalidInput, "fail over with", state.path().display())
                .message(
                    "the directory is that of an agent, which knows how its disk differs: make the disk follow \
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
            // Committed already, or by another: opening the protection tells.
            return Ok(());
        }
        replica.record_step(&under_way.step(StepKind::Start, &*self.clock))
    }

    /// Retention gave the state up before the catalog said that it is needed, and nobody was served as of it: another one is
    /// to be chosen.
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
        let options = InstantOptions { clock: self.clock.clone(), ..InstantOptions::default() };
        let (files, base) = (self.files.clone(), InstantBase::view(view));
        InstantDisk::over_in(files, base, self.disk.clone(), content, &log, options)
    }
}

/// A volume that failed over to here and is not protected yet.
pub(super) struct Served {
    pub options: FailoverOptions,
    pub state: StateDirectory,
    pub disk: InstantDisk,
    pub started: Started,
    /// When the call began.
    pub begun: Duration,
}

/// Makes the state directory that of a failover: a dirty map in which nothing is marked, and the record of what is being
/// done, which comes last.
pub(super) fn prepare(
    state: &StateDirectory,
    replica: &Replica,
    failover: PointId,
    chosen: ChosenState,
    home: bool,
    region_bytes: u64,
    clock: &dyn Clock,
) -> Result<Provisional> {
    let info = replica.info();
    let params = DirtyMapParams { volume: info.id, device_bytes: info.device_bytes, region_bytes };
    state.remove(&state.dirty_map())?;
    DirtyMap::create_in(&**state.files(), &state.dirty_map(), params, false)?;
    let cut = cut(state, replica, chosen.sequence, clock)?;
    let under_way = Provisional {
        failover,
        epoch: Epoch(replica.catalog().epoch().0.saturating_add(1)),
        at: chosen.sequence,
        at_time: chosen.time,
        point: chosen.point,
        home,
        cut,
        source: new_source(clock),
    };
    under_way.write(state)?;
    state.remove(&request_path(state))?;
    Ok(under_way)
}

/// From here on the directory is that of the new source.
pub(super) fn take_identity(
    state: &StateDirectory,
    replica: &Replica,
    under_way: &Provisional,
) -> Result<()> {
    state.set_identity(&Identity {
        volume_name: replica.info().name.clone(),
        volume: replica.info().id,
        source: under_way.source.clone(),
    })
}

/// Identity of the failover that this directory asked for, or a new one that is remembered before it is used.
pub(super) fn requested_id(
    state: &StateDirectory,
    replica: &Replica,
    clock: &dyn Clock,
) -> Result<PointId> {
    let lifecycle = replica.catalog().lifecycle();
    let is_over = |id: PointId| lifecycle.step_of(id, StepKind::Cancel).is_some();
    if let Some(id) = asked_for(state)?.filter(|id| !is_over(*id)) {
        return Ok(id);
    }
    let id = PointId(random_bytes(clock));
    state.write_text(&request_path(state), format!("{id}\n"))?;
    Ok(id)
}

/// The failover that this directory asked for and that has not begun.
pub(super) fn asked_for(state: &StateDirectory) -> Result<Option<PointId>> {
    let parse = |text: &str| Some(PointId::parse(text.trim()));
    Ok(state.read_text(&request_path(state), "a failover", parse)?.flatten())
}

/// A step of a planned failover that has no state yet.
pub(super) fn of_request(
    kind: StepKind,
    failover: PointId,
    note: String,
    clock: &dyn Clock,
) -> Step {
    Step {
        kind,
        failover,
        time: clock.now(),
        host: host(),
        at: Sequence::ZERO,
        point: None,
        at_time: Timestamp(0),
        epoch: Epoch(0),
        note,
    }
}

/// Asks the source to hand the volume over and waits for it; returns the state that it handed over.
pub(super) fn request(
    vault: &Vault,
    replica: &mut Replica,
    failover: PointId,
    limit: Duration,
    clock: &dyn Clock,
    wait: &Wait,
) -> Result<Sequence> {
    let name = replica.info().name.clone();
    let step = |kind, note| of_request(kind, failover, note, clock);
    replica.record_step(&step(StepKind::Request, String::new()))?;
    let begun = clock.elapsed();
    loop {
        replica.refresh()?;
        let lifecycle = replica.catalog().lifecycle();
        if let Some(handed) = lifecycle.step_of(failover, StepKind::HandOver) {
            let at = handed.at;
            *replica = vault.replica(&name)?;
            return Ok(at);
        }
        if clock.elapsed().saturating_sub(begun) >= limit {
            let reason = format!("the source did not hand over within {limit:?}");
            replica.record_step(&step(StepKind::Cancel, reason.clone()))?;
            return Err(Error::new(ErrorKind::Unavailable, "fail over as planned", &name)
                .message(format_args!(
                    "{reason}; fail over unplanned when it is gone, the newest point is in the vault"
                )));
        }
        wait(POLL.min(limit));
    }
}

/// Remembers which state the disk hydrates from, for as long as it is not whole.
fn write_base(state: &StateDirectory, at: Sequence) -> Result<()> {
    state.write_text(&state.base(), format!("{at}\n"))
}

fn read_base(state: &StateDirectory) -> Result<Sequence> {
    let path = state.base();
    let base = state.read_text(&path, "a sequence", |text| text.trim().parse().ok())?;
    let missing = || Error::new(ErrorKind::NotFound, "read", path.display()).expected("a sequence");
    base.map(Sequence).ok_or_else(missing)
}

pub(super) fn request_path(state: &StateDirectory) -> PathBuf {
    state.path().join("request")
}
