//! Retention of a replica: compaction and pins.

use std::ffi::c_void;
use std::path::Path;

use engine::Result;
use engine::Timestamp;
use engine::replica::{At, CompactOptions, CompactReport, Replica};
use engine::vault::PinUntil;

use crate::boundary::{bad_argument, guard, hrl_status};
use crate::callbacks::{hrl_progress_fn, progress_of};
use crate::handle::{self, Out, Room, Text};
use crate::replica::hrl_replica;
use crate::report::report;

/// Flag of `hrl_replica_compact`: change nothing, and report the effect that a compaction would
/// have.
pub const HRL_COMPACT_DRY_RUN: u32 = 1;
/// Flag of `hrl_replica_compact`: fold everything that the policy does not keep, even if that saves
/// few bytes.
pub const HRL_COMPACT_ALL: u32 = 2;
/// Flag of `hrl_replica_compact`: also rewrite what was folded under an earlier volume key.
pub const HRL_COMPACT_REKEY: u32 = 4;

report! {
    /// Reports what a compaction did, or would do in a dry run.
    pub struct hrl_compact_report from done: CompactReport {
        /// States beyond the full window that stay.
        states_kept: u64,
        /// Segments before.
        segments_before: u64,
        /// Segments after.
        segments_after: u64,
        /// Folds made.
        folds: u64,
        /// Points that the folds dropped.
        points_dropped: u64,
        /// Bytes of the segments folded.
        bytes_read: u64,
        /// Bytes of the segments that took their place.
        bytes_written: u64,
        /// Objects deleted because their grace was over.
        objects_deleted: u64,
        /// Objects that wait for the end of their grace.
        objects_waiting: u64,
        /// Objects that no catalog lists and that were retired.
        strays_retired: u64,
        /// Bytes above the limit of the policy, before the compaction.
        over_budget_bytes: u64,
        /// Segments that could not be folded because they are not as they were written.
        findings: u64,
        /// Whether another compaction or pin came first. Then compact again.
        lost_race: bool,
    }
}

/// Carries retention out once. Folds segments between the states that the policy keeps, and deletes
/// objects that were replaced longer ago than their grace. It is safe beside sources, restores,
/// views and other compactions.
/// `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; NULL: the default.
/// `flags` are of HRL_COMPACT_. `scratch` is a directory for temporary files; NULL: that of the
/// system. `progress` and `report` may be NULL. The replica then shows the states that are left.
/// Statuses: HRL_ERROR_INVALID_INPUT (identifies the part that is not understood),
/// HRL_ERROR_UNAVAILABLE (also if `progress` stopped it), HRL_ERROR_FULL, HRL_ERROR_CORRUPT. Since
/// 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_compact(
    replica: Option<&hrl_replica>,
    retention: Text<'_>,
    flags: u32,
    scratch: Text<'_>,
    progress: hrl_progress_fn,
    user: *mut c_void,
    report: Room<'_, hrl_compact_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        let policy = match retention.optional("retention")? {
            Some(text) => text.parse()?,
            None => engine::RetentionPolicy::default(),
        };
        if flags & !(HRL_COMPACT_DRY_RUN | HRL_COMPACT_ALL | HRL_COMPACT_REKEY) != 0 {
            return Err(bad_argument("flags").expected("HRL_COMPACT_ flags").found(flags));
        }
        let scratch = scratch.optional("scratch")?;
        let options = CompactOptions {
            dry_run: flags & HRL_COMPACT_DRY_RUN != 0,
            fold_all: flags & HRL_COMPACT_ALL != 0,
            rekey: flags & HRL_COMPACT_REKEY != 0,
            scratch: scratch.map(|path| Path::new(path).to_owned()),
            ..CompactOptions::default()
        };
        let progress = progress_of(progress, user);
        let done = amend(replica, |replica| replica.compact(&policy, &options, &progress))?;
        report.fill(hrl_compact_report::from(&done));
        Ok(())
    })
}

/// Value for `until_ns` of `hrl_replica_pin`: until it is unpinned.
pub const HRL_PIN_FOREVER: i64 = 0;
/// Value for `until_ns` of `hrl_replica_pin`: legal hold, which only `hrl_replica_unpin` with
/// `hold` lifts.
pub const HRL_PIN_LEGAL_HOLD: i64 = -1;

/// Keeps a recovery point (see `hrl_replica_resolve`) through retention. `until_ns` is a time in
/// nanoseconds since 1970 in UTC, or one of HRL_PIN_. `reason` is for people and may be NULL.
/// Durable when it returns.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT, HRL_ERROR_FULL (too many pins),
/// HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_pin(
    replica: Option<&hrl_replica>,
    point: Text<'_>,
    until_ns: i64,
    reason: Text<'_>,
) -> hrl_status {
    guard(|| {
        let at = At::parse(point.read("point")?)?;
        let reason = reason.optional("reason")?.unwrap_or_default();
        let until = match until_ns {
            HRL_PIN_FOREVER => PinUntil::Forever,
            HRL_PIN_LEGAL_HOLD => PinUntil::LegalHold,
            until if until > 0 => PinUntil::Time(Timestamp(until)),
            other => {
                return Err(bad_argument("until_ns")
                    .expected("a time after 1970 or a HRL_PIN_ value")
                    .found(other));
            }
        };
        amend(replica, |replica| replica.pin(&at, until, reason)).map(drop)
    })
}

/// Declares the suspicious points of a replica to be good, and removes the pin that their change has
/// set. `text` is for people and may be NULL. `points`, which may be NULL, receives their number.
/// Points that are taken later are suspicious only after another change.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_trust(
    replica: Option<&hrl_replica>,
    text: Text<'_>,
    points: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let text = text.optional("text")?.unwrap_or_default();
        let trusted = amend(replica, |replica| hrl_suspicion::trust(replica, text))?;
        points.put_optional(trusted.len() as u64);
        Ok(())
    })
}

/// Removes the pin of a point, or with `hold` its legal hold. Neither removes the other. Through a
/// gateway an `admin` alone lifts a legal hold.
/// Statuses: HRL_ERROR_NOT_FOUND (no such point, or no pin), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_unpin(
    replica: Option<&hrl_replica>,
    point: Text<'_>,
    hold: bool,
) -> hrl_status {
    guard(|| {
        let at = At::parse(point.read("point")?)?;
        amend(replica, |replica| replica.unpin(&at, hold))
    })
}

/// Works on a copy, so that other threads can read meanwhile, and then shows the result.
pub(crate) fn amend<R>(
    replica: Option<&hrl_replica>,
    work: impl FnOnce(&mut Replica) -> Result<R>,
) -> Result<R> {
    let handle = handle::given(replica, "replica")?;
    let mut copy = handle.read().clone();
    let result = work(&mut copy);
    *handle.inner.write() = copy;
    result
}
