//! Failover: a volume goes on elsewhere and comes home; its life cycle and its branches.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::time::Duration;

use engine::failover::{
    CatchUp, FailedOver, FailoverOptions, Follower, Started, abandon, begin_test, cancel, end_test,
};
use engine::replica::{At, Hydration};
use engine::vault::{Branch, Stage, Step, StepKind};
use engine::{Epoch, Error, ErrorKind, ProtectionStats, Result, SystemClock};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::callbacks::{hrl_progress_fn, progress_of};
use crate::device::hrl_device;
use crate::handle::{self, In, Out, Room, Text, versioned};
use crate::points::{HRL_ID_CHARS, HRL_LABEL_CHARS, hrl_point, visit};
use crate::protection::{hrl_protection, hrl_protection_options, hrl_stats};
use crate::quiesce;
use crate::replica::hrl_replica;
use crate::report::{micros, report};
use crate::retention::amend;
use crate::vault::hrl_vault;
use engine::sync::lock::RwLock;

/// Stage of a volume in its life cycle.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_stage {
    /// Its source protects it.
    HRL_STAGE_PROTECTED = 1,
    /// A planned failover waits for the source.
    HRL_STAGE_REQUESTED = 2,
    /// The source handed it over and waits.
    HRL_STAGE_HANDED_OVER = 3,
    /// It is served elsewhere; nothing is final.
    HRL_STAGE_FAILED_OVER = 4,
    /// The failover is final.
    HRL_STAGE_COMMITTED = 5,
    /// Committed, and the disk at the old site follows.
    HRL_STAGE_REPROTECTED = 6,
}

fn stage_code(stage: Stage) -> u32 {
    let stage = match stage {
        Stage::Protected => hrl_stage::HRL_STAGE_PROTECTED,
        Stage::Requested => hrl_stage::HRL_STAGE_REQUESTED,
        Stage::HandedOver => hrl_stage::HRL_STAGE_HANDED_OVER,
        Stage::FailedOver => hrl_stage::HRL_STAGE_FAILED_OVER,
        Stage::Committed => hrl_stage::HRL_STAGE_COMMITTED,
        Stage::Reprotected => hrl_stage::HRL_STAGE_REPROTECTED,
    };
    stage as u32
}

/// Room for the name of a step.
pub const HRL_STEP_CHARS: usize = 16;

report! {
    /// A step in the life cycle of a volume, as it was recorded.
    pub struct hrl_step from step: Step {
        /// Name of the step: "request", "hand-over", "start", "commit", "cancel", "reprotect",
        /// "fail-back", "test-begin" or "test-end".
        kind: [c_char; HRL_STEP_CHARS] = step.kind.name(),
        /// Identity of the failover or test that it belongs to, in hexadecimal digits.
        failover: [c_char; HRL_ID_CHARS],
        /// Time of the step, in nanoseconds since 1970 in UTC.
        time_ns: i64 = step.time,
        /// Host that recorded it.
        host: [c_char; HRL_LABEL_CHARS],
        /// Sequence of the recovery state that the step is about.
        sequence: u64 = step.at,
        /// Time of that recovery state.
        state_time_ns: i64 = step.at_time,
        /// Recovery point of that state, in hexadecimal digits; empty if the state is at no point.
        point: [c_char; HRL_ID_CHARS],
        /// Epoch of the volume after the failover.
        epoch: u32,
        /// Name of a test, or a reason.
        note: [c_char; HRL_LABEL_CHARS],
    }
}

/// Receives one step, which lives until it returns; returns false to stop.
pub type hrl_step_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, step: *const hrl_step) -> bool>;

/// Returns the stage of the volume, as of the catalog that the replica read last. `stage` receives
/// a `hrl_stage`, and `epoch` (may be NULL) the epoch. The newest steps, oldest first, are passed
/// to `each` (may be NULL) on the calling thread.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_lifecycle(
    replica: Option<&hrl_replica>,
    stage: Out<'_, u32>,
    epoch: Out<'_, u32>,
    each: hrl_step_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let replica = handle::given(replica, "replica")?.read().clone();
        let lifecycle = replica.catalog().lifecycle();
        stage.put(stage_code(lifecycle.stage()), "stage")?;
        epoch.put_optional(replica.catalog().epoch().0);
        if each.is_none() {
            return Ok(());
        }
        visit(lifecycle.steps().iter().map(hrl_step::from), each, user)
    })
}

report! {
    /// Changes that the source of an ended epoch made after the failover. `hrl_replica_open` with
    /// the name "VOLUME@EPOCH" reads them.
    pub struct hrl_branch from branch: Branch {
        /// Ended epoch.
        epoch: u32,
        /// Sequence at which the epoch ended.
        from_sequence: u64 = branch.at,
        /// Last sequence of the branch.
        last_sequence: u64 = branch.last_sequence(),
        /// Segments of the branch.
        segments: u64,
        /// Stored bytes.
        stored_bytes: u64 = branch.stored_bytes(),
        /// Time at which the epoch was ended, in nanoseconds since 1970 in UTC.
        ended_ns: i64 = branch.time,
        /// Host of the source that wrote the branch.
        source: [c_char; HRL_LABEL_CHARS] = branch.source.as_ref().map_or("", |s| s.host.as_str()),
    }
}

/// Receives one branch, which lives until it returns; returns false to stop.
pub type hrl_branch_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, branch: *const hrl_branch) -> bool>;

/// Passes the branches of the volume, oldest first, to `each` on the calling thread.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_branches(
    replica: Option<&hrl_replica>,
    each: hrl_branch_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let replica = handle::given(replica, "replica")?.read().clone();
        visit(replica.catalog().branches().iter().map(hrl_branch::from), each, user)
    })
}

/// Gives a branch up: retention deletes its data. Durable when it returns.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_drop_branch(
    replica: Option<&hrl_replica>,
    epoch: u32,
) -> hrl_status {
    guard(|| amend(replica, |replica| replica.drop_branch(Epoch(epoch))))
}

/// Records that the test failover `name` begins at the state `at` (see `hrl_replica_resolve`; NULL:
/// "newest-good"), and keeps that state through retention. `sequence` receives it: open it with
/// `hrl_replica_view` and lay an overlay over it.
/// Statuses: those of `hrl_replica_resolve`, HRL_ERROR_ALREADY_EXISTS (of another host),
/// HRL_ERROR_FULL, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_begin_test(
    replica: Option<&hrl_replica>,
    name: Text<'_>,
    at: Text<'_>,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let (name, at) = (name.read("name")?, optional_state(at)?);
        let clock = SystemClock::shared();
        let test = amend(replica, |replica| begin_test(replica, name, &at, &*clock))?;
        sequence.put(test.begin.at.0, "sequence")
    })
}

/// Records that a test failover is cleaned up.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_end_test(
    replica: Option<&hrl_replica>,
    name: Text<'_>,
) -> hrl_status {
    guard(|| {
        let name = name.read("name")?;
        amend(replica, |replica| end_test(replica, name, &*SystemClock::shared()))
    })
}

/// Options of a failover. Fill it with zeroes, then set the fields that you need; everything is
/// copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_failover_options<'a> {
    /// `sizeof(hrl_failover_options)`.
    pub struct_bytes: usize,
    /// Recovery state, see `hrl_replica_resolve`. NULL: "newest-good".
    pub at: Text<'a>,
    /// Time to wait for the source to hand over the rest. 0: unplanned.
    pub planned_ms: u64,
    /// Change the point of the failover that is under way in the state directory. Changes written
    /// since are dropped.
    pub change_point: bool,
    /// Whether the disk reads as zeroes, as a new sparse file does.
    pub disk_reads_zero: bool,
}

versioned!(hrl_failover_options<'_>);

/// A volume that failed over to here, running. All threads may use it at once.
pub struct hrl_failover {
    inner: RwLock<Option<FailedOver>>,
}

fn with<T>(
    failover: Option<&hrl_failover>,
    work: impl FnOnce(&FailedOver) -> Result<T>,
) -> Result<T> {
    let handle = handle::given(failover, "failover")?;
    let guard = handle.inner.read();
    work(guard.as_ref().ok_or_else(|| bad_argument("failover").message("it was ended"))?)
}

fn end(failover: Option<&hrl_failover>, work: impl FnOnce(FailedOver) -> Result<()>) -> Result<()> {
    let handle = handle::given(failover, "failover")?;
    let taken = handle.inner.write().take();
    taken.map_or(Ok(()), work)
}

/// Fails over. Serves the volume writable at a recovery state at once, copies it to the disk behind
/// the reads, and captures every write. `where` has volume, disk (its content is lost), vault,
/// state directory, policy and events, as for a protection. `options` may be NULL. A failover under
/// way in the state directory goes on as it was. Nothing is final before `hrl_failover_commit`.
/// Free it with `hrl_failover_free`.
/// Statuses: HRL_ERROR_FENCED (another failover), HRL_ERROR_NOT_FOUND and HRL_ERROR_NOT_ORDERED
/// (the state), HRL_ERROR_UNAVAILABLE (the vault, or the source did not hand over),
/// HRL_ERROR_INVALID_INPUT, HRL_ERROR_WRONG_KEY, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_start(
    r#where: Option<&hrl_protection_options>,
    options: In<'_, hrl_failover_options<'_>>,
    out: Out<'_, *mut hrl_failover>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let given = handle::given(r#where, "where")?;
        let mut failover = FailoverOptions::new(
            &given.volume,
            given.vault.clone(),
            given.state.clone(),
            given.device()?,
        )
        .policy(given.policy.clone());
        if let Some(events) = &given.events {
            failover = failover.events(events.clone());
        }
        if let Some(applications) = quiesce::of_policy(&given.policy)? {
            failover = failover.applications(applications);
        }
        if let Some(options) = options.optional()? {
            failover = failover
                .at(optional_state(options.at)?)
                .change_point(options.change_point)
                .disk_reads_zero(options.disk_reads_zero);
            if options.planned_ms > 0 {
                failover = failover.planned(Duration::from_millis(options.planned_ms));
            }
        }
        out.give(hrl_failover { inner: RwLock::new(Some(failover.start()?)) })
    })
}

type Condition = (Started, Hydration, ProtectionStats);

report! {
    /// Reports how a failover began, and its progress.
    pub struct hrl_failover_status from (started, hydration, now): Condition {
        /// Sequence of the recovery state that the volume was served at.
        sequence: u64 = started.sequence,
        /// Time of that state, in nanoseconds since 1970 in UTC.
        state_time_ns: i64 = started.time,
        /// Recovery point of that state, in hexadecimal digits; empty if the state is at no point.
        point: [c_char; HRL_ID_CHARS] = started.point,
        /// Microseconds from the call of `hrl_failover_start` until the volume could be read and
        /// written.
        took_us: u64 = micros(started.took),
        /// Bytes of data that the disk has.
        hydrated_bytes: u64 = hydration.data_bytes - hydration.missing_bytes,
        /// Bytes of data that the disk must have.
        hydrate_bytes: u64 = hydration.data_bytes,
        /// Whether the disk is complete. Then the replica is not read any more.
        whole: bool = hydration.is_whole(),
        /// Whether the failover is committed.
        committed: bool = !now.provisional,
    }
}

/// Reports how the failover began, and its progress. `stats` may be NULL.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_get_status(
    failover: Option<&hrl_failover>,
    status: Room<'_, hrl_failover_status>,
    stats: Room<'_, hrl_stats>,
) -> hrl_status {
    guard(|| {
        let (status, stats) = (status.needed("status")?, stats.optional()?);
        let parts = with(failover, |over| {
            Ok((over.started().clone(), over.hydration(), over.protection().stats()))
        })?;
        stats.fill(hrl_stats::from(&parts.2));
        status.fill(hrl_failover_status::from(&parts));
        Ok(())
    })
}

/// Returns the volume as a device: writes to it are captured. Free it with `hrl_device_free`,
/// before the failover is ended.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_device(
    failover: Option<&hrl_failover>,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let volume = with(failover, |over| Ok(over.volume().clone()))?;
        out.give(hrl_device::of_volume(volume))
    })
}

/// Marks a crash-consistent point; `label` and `point` may be NULL.
/// Statuses: those of `hrl_protection_mark`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_mark(
    failover: Option<&hrl_failover>,
    label: Text<'_>,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let label = label.optional("label")?.unwrap_or_default();
        let kind = engine::journal::PointKind::Crash;
        let marked = with(failover, |over| over.protection().mark(kind, label))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

/// Makes the failover final. The old source is fenced, its later writes are a branch, and the
/// writes here are shipped. Durable when it returns; may be repeated.
/// Statuses: HRL_ERROR_FENCED (cancelled, or another came first), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_commit(failover: Option<&hrl_failover>) -> hrl_status {
    guard(|| with(failover, FailedOver::commit))
}

/// Waits until everything captured before the call is in the vault; not before the commit.
/// `sequence` may be NULL.
/// Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_wait_replicated(
    failover: Option<&hrl_failover>,
    limit_ms: u64,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let limit = Duration::from_millis(limit_ms);
        let newest = with(failover, |over| over.protection().wait_replicated(limit))?;
        sequence.put_optional(newest.0);
        Ok(())
    })
}

/// Waits until the disk is complete.
/// Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_wait_hydrated(
    failover: Option<&hrl_failover>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| with(failover, |over| over.wait_hydrated(Duration::from_millis(limit_ms))))
}

/// Gives the failover up before the commit. Writes to it are dropped, and the source goes on as
/// before. Afterwards only `hrl_failover_free` is of use.
/// Statuses: HRL_ERROR_INVALID_INPUT (it was committed), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_cancel(failover: Option<&hrl_failover>) -> hrl_status {
    guard(|| end(failover, FailedOver::cancel))
}

/// Ends the session cleanly. `hrl_failover_start` with the same state directory goes on. Every
/// writer must be gone.
/// Statuses: those of `hrl_protection_stop`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_stop(
    failover: Option<&hrl_failover>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| end(failover, |over| over.stop(Duration::from_millis(limit_ms))))
}

/// Ends the session and leaves the disk as a plain one, for a protection with the same state
/// directory.
/// Statuses: HRL_ERROR_UNAVAILABLE (the disk is not complete; the session is ended), and those of
/// `hrl_protection_stop`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_detach(
    failover: Option<&hrl_failover>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| end(failover, |over| over.detach(Duration::from_millis(limit_ms))))
}

/// Frees the handle; NULL is fine. A failover that was not ended is left as by a crash: it can go
/// on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_failover_free(failover: Option<Box<hrl_failover>>) {
    guard_value((), || drop(failover));
}

/// Gives up a failover that is not committed and whose process has ended.
/// Statuses: HRL_ERROR_FENCED (it runs), HRL_ERROR_INVALID_INPUT (it was committed),
/// HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_cancel_failover(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
    state: Text<'_>,
) -> hrl_status {
    guard(|| {
        let vault = &handle::given(vault, "vault")?.inner;
        let (volume, state) = (volume.read("volume")?, state.read("state")?);
        cancel(vault, volume, Path::new(state), &*SystemClock::shared())
    })
}

/// Gives up the failover that is under way, after its site and state directory were lost.
/// Statuses: HRL_ERROR_NOT_FOUND (none is under way), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_abandon_failover(
    vault: Option<&hrl_vault>,
    volume: Text<'_>,
) -> hrl_status {
    guard(|| {
        let vault = &handle::given(vault, "vault")?.inner;
        let volume = volume.read("volume")?;
        abandon(vault, volume, &*SystemClock::shared())?.map(drop).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "abandon failover of", volume)
                .message("none is under way")
        })
    })
}

/// A disk at the old site that follows the volume. One thread at a time uses it.
pub struct hrl_follower {
    inner: Option<Follower>,
}

report! {
    /// Reports what catching up did.
    pub struct hrl_catch_up from done: CatchUp {
        /// Sequence that the disk was at before, except where it differed.
        from_sequence: u64 = done.from,
        /// Sequence that the disk is at now.
        to_sequence: u64 = done.to,
        /// Bytes in which the disk may have differed.
        bytes_diverged: u64,
        /// Bytes written: those that differed, and those that changed between the two sequences.
        bytes_written: u64,
    }
}

/// Makes the disk of an old source follow the volume. `where` has volume, disk, vault, and the
/// state directory of the agent that protected the disk and has ended. Its policy and events are
/// those of `hrl_follower_fail_back`. First the spool of the agent is handed in to the branch of
/// its epoch. Free it with `hrl_follower_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT (no agent's directory, or it still has the volume),
/// HRL_ERROR_FENCED (it runs), HRL_ERROR_CHANGED, HRL_ERROR_UNAVAILABLE, HRL_ERROR_DIVERGED (the disk
/// followed what the vault has lost). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_follower_open(
    r#where: Option<&hrl_protection_options>,
    out: Out<'_, *mut hrl_follower>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let given = handle::given(r#where, "where")?;
        let (vault, disk, clock) = (given.vault.clone(), given.device()?, SystemClock::shared());
        let follower = Follower::open(&given.volume, vault, &given.state, disk, clock)?;
        out.give(hrl_follower { inner: Some(follower) })
    })
}

/// Brings the disk to the state `at` (NULL: "newest"), writing only the blocks that differ, and
/// records that it follows. May be called again and again. `progress` and `done` may be NULL.
/// Statuses: those of `hrl_replica_resolve`, HRL_ERROR_IO, HRL_ERROR_UNAVAILABLE (also if
/// `progress` stopped it): call it again. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_follower_catch_up(
    follower: Option<&mut hrl_follower>,
    at: Text<'_>,
    progress: hrl_progress_fn,
    user: *mut c_void,
    done: Room<'_, hrl_catch_up>,
) -> hrl_status {
    guard(|| {
        let done = done.optional()?;
        let at = at.optional("at")?.map_or(Ok(At::Newest), At::parse)?;
        let follower = follower_of(follower)?;
        let report = follower.catch_up(&at, &progress_of(progress, user))?;
        follower.record()?;
        done.fill(hrl_catch_up::from(&report));
        Ok(())
    })
}

/// Takes the volume home. Catches up, has the other site hand over within `planned_ms`, catches up
/// with the rest, commits, and protects the disk. `planned_ms` of 0 does not ask the other site,
/// because it is gone. Afterwards only `hrl_follower_free` is of use here. `where` is that of
/// `hrl_follower_open`. `progress` and `done` may be NULL. Free the protection as one of
/// `hrl_protection_open`.
/// Statuses: those of `hrl_follower_catch_up` and `hrl_protection_open`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_follower_fail_back(
    follower: Option<&mut hrl_follower>,
    r#where: Option<&hrl_protection_options>,
    planned_ms: u64,
    progress: hrl_progress_fn,
    user: *mut c_void,
    done: Room<'_, hrl_catch_up>,
    out: Out<'_, *mut hrl_protection>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let done = done.optional()?;
        let given = handle::given(r#where, "where")?;
        let applications = quiesce::of_policy(&given.policy)?;
        let taken = handle::given(follower, "follower")?.inner.take();
        let mut follower = taken.ok_or_else(ended)?;
        if let Some(applications) = applications {
            follower = follower.applications(applications);
        }
        let planned = (planned_ms > 0).then(|| Duration::from_millis(planned_ms));
        let events = given.events.clone().unwrap_or_else(engine::no_events);
        let progress = progress_of(progress, user);
        let (protection, report) =
            follower.fail_back(planned, given.policy.clone(), events, &progress)?;
        done.fill(hrl_catch_up::from(&report));
        out.give(hrl_protection::of(protection))
    })
}

/// Frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_follower_free(follower: Option<Box<hrl_follower>>) {
    guard_value((), || drop(follower));
}

fn follower_of(follower: Option<&mut hrl_follower>) -> Result<&mut Follower> {
    handle::given(follower, "follower")?.inner.as_mut().ok_or_else(ended)
}

fn ended() -> engine::Error {
    bad_argument("follower").message("it failed back, and is of no more use")
}

fn optional_state(at: Text<'_>) -> Result<At> {
    at.optional("at")?.map_or(Ok(At::NewestGood), At::parse)
}

/// The names of steps fit.
const _: () = {
    let mut at = 0;
    while at < StepKind::ALL.len() {
        assert!(StepKind::ALL[at].name().len() < HRL_STEP_CHARS);
        at += 1;
    }
};
