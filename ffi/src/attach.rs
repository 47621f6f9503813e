//! Attachments: disks in use that are protected by points at intervals.

use std::path::Path;
use std::time::Duration;

use engine::Result;
use engine::sync::lock::RwLock;
use hrl_attach::{Attachment, AttachmentOptions, AttachmentStats};
use hrl_suspicion::Suspicion;

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::handle::{self, Out, Room, Text};
use crate::points::{hrl_point, kind_of};
use crate::protection::{hrl_protection_options, hrl_stats};
use crate::quiesce;
use crate::report::{millis, report};

/// A disk in use, protected by points at intervals. All threads may use it at once.
pub struct hrl_attachment {
    inner: RwLock<Option<Attachment>>,
}

fn with<T>(
    attachment: Option<&hrl_attachment>,
    work: impl FnOnce(&Attachment) -> Result<T>,
) -> Result<T> {
    let guard = handle::given(attachment, "attachment")?.inner.read();
    work(guard.as_ref().ok_or_else(|| bad_argument("attachment").message("it was stopped"))?)
}

/// Attaches to the block device `disk`, which others write to, and begins the first copy or goes on.
/// Nobody is slowed down, stopped or remounted. `options` are those of a protection, made with NULL
/// for the device; the policy's "crash_point_interval" says how often a point is made: at least 5 s,
/// or 0 for points on demand. Neither the state directory nor the vault may lie on the disk.
///
/// Each point is a clean, audited cut: every write that was completed before it is in it, and none
/// that began after. Between points nothing can be restored. If no cut is clean within the policy's
/// "cut_limit", the file systems on the disk are frozen for at most its "freeze_limit"; 0 freezes
/// none. Free the attachment with `hrl_attach_free`, after `hrl_attach_stop`.
/// Statuses: HRL_ERROR_UNSUPPORTED (a disk that cannot be observed, or an old kernel), HRL_ERROR_DENIED
/// (capabilities are missing), HRL_ERROR_INVALID_INPUT (the agent would write to the disk), and those
/// of `hrl_protection_open`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_open(
    options: Option<&hrl_protection_options>,
    disk: Text<'_>,
    out: Out<'_, *mut hrl_attachment>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let options = attachment_options(handle::given(options, "options")?, disk.read("disk")?)?;
        out.give(hrl_attachment { inner: RwLock::new(Some(options.open()?)) })
    })
}

/// Attaches `count` disks of a machine, whose points are one cut: no disk has a write whose cause
/// another one lacks. `options` and `disks` are those of each, as for `hrl_attach_open`; `out` has room
/// for as many attachments, in their order. Each has a state directory of its own. Policies must agree
/// in the intervals of points and in their limits; the applications of all are quiesced.
///
/// Each point is one of the group `group`. A point that any of the attachments makes is made of all
/// disks. Stop and free each of them; the first that is stopped makes the last point of all.
/// Statuses: those of `hrl_attach_open`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_open_together(
    group: Text<'_>,
    options: *const Option<&hrl_protection_options>,
    disks: *const Text<'_>,
    count: usize,
    out: *mut *mut hrl_attachment,
) -> hrl_status {
    guard(|| {
        let group = group.read("group")?;
        // SAFETY: the caller has `count` elements of each (the header asks for it).
        let options = unsafe { handle::array(options, count, "options")? };
        // SAFETY: as above.
        let disks = unsafe { handle::array(disks, count, "disks")? };
        // SAFETY: as above; they need not be initialized, and pointers have no invalid values to drop.
        let room = unsafe { handle::places(out, count, "out")? };
        let all: Vec<AttachmentOptions> = options
            .iter()
            .zip(disks)
            .map(|(given, disk)| {
                attachment_options(handle::given(*given, "options")?, disk.read("disks")?)
            })
            .collect::<Result<_>>()?;
        let opened = AttachmentOptions::open_together(group, all)?;
        for (place, attachment) in room.into_iter().zip(opened) {
            place.give(hrl_attachment { inner: RwLock::new(Some(attachment)) })?;
        }
        Ok(())
    })
}

/// Returns the options of an attachment from those of a protection.
fn attachment_options(given: &hrl_protection_options, disk: &str) -> Result<AttachmentOptions> {
    let vault = given.vault.clone();
    let events = given.events.clone().unwrap_or_else(engine::no_events);
    let mut options =
        AttachmentOptions::new(&given.volume, disk, vault.clone(), given.state.clone())
            .policy(given.policy.clone())
            .take_over(given.take_over)
            .adopt_disk(given.adopt_disk)
            .events(events.clone());
    if let Some(applications) = quiesce::of_policy(&given.policy)? {
        options = options.applications(applications);
    }
    if given.suspicion {
        let suspicion = Suspicion::begin(&given.volume, vault, &given.state, events);
        options = options.inspector(suspicion);
    }
    Ok(options)
}

/// Makes a point now, and returns once it is durable in the local journal. Every write that was
/// completed before the call is in it. `kind` is HRL_POINT_CRASH or HRL_POINT_DECLARED. `label` and
/// `point` may be NULL.
/// Statuses: HRL_ERROR_NOT_ORDERED (first copy or resync), HRL_ERROR_UNAVAILABLE (no cut was clean in
/// time, or an audit failed), HRL_ERROR_INVALID_INPUT, HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_mark(
    attachment: Option<&hrl_attachment>,
    kind: u32,
    label: Text<'_>,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let (kind, label) = (kind_of(kind)?, label.optional("label")?.unwrap_or_default());
        let marked = with(attachment, |attachment| attachment.mark(kind, label))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

/// Makes an application-consistent point with the applications of the policy: copies most of what
/// changed, quiesces, cuts and releases. `label` and `point` may be NULL.
/// Statuses: those of `hrl_attach_mark`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_mark_app(
    attachment: Option<&hrl_attachment>,
    label: Text<'_>,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let label = label.optional("label")?.unwrap_or_default();
        let marked = with(attachment, |attachment| attachment.mark_app(label))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

#[allow(clippy::cast_sign_loss, reason = "a ratio of sizes")]
fn percent(ratio: f64) -> u64 {
    (ratio * 100.0) as u64
}

report! {
    /// Reports what the cuts of an attachment have taken, as of the last one.
    pub struct hrl_attach_stats from now: AttachmentStats {
        /// Time of the last point of this session, in nanoseconds since 1970 in UTC; 0 before. Later
        /// changes are not in the replica.
        last_point_time_ns: i64 = now.last_point.unwrap_or_default(),
        /// How long the last cut took, until its point was durable.
        last_cut_ms: u64 = millis(now.last_took),
        /// Cuts that were tried for the last point.
        last_cut_tries: u32 = now.last_tries,
        /// Bytes that were copied for the last point.
        last_cut_bytes_copied: u64 = now.last_bytes_copied,
        /// Bytes that were copied after the flip of the last point.
        last_cut_bytes_in_cut: u64 = now.last_bytes_in_cut,
        /// Bytes copied for each byte of the blocks that had changed, in hundredths; at least 100.
        read_amplification_percent: u64 = percent(now.read_amplification),
        /// Bytes that were copied in this session, without those of a compared disk.
        bytes_copied: u64,
        /// Memory of the maps of changed blocks, in bytes. It is never swapped.
        map_bytes: u64,
        /// Points of this session that were made by cuts.
        cuts: u64 = now.points,
        /// Points that were due and could not be made.
        skipped: u64,
        /// Audits that failed: the whole disk was compared after each.
        audits_failed: u64,
        /// Points for which file systems were frozen, because no cut was clean without that.
        freezes: u64,
        /// Whether the programs and their maps outlive this process.
        pinned: bool,
    }
}

/// Reports what cuts have taken, as of the last one.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_get_stats(
    attachment: Option<&hrl_attachment>,
    stats: Room<'_, hrl_attach_stats>,
) -> hrl_status {
    guard(|| {
        let stats = stats.needed("stats")?;
        stats.fill(hrl_attach_stats::from(&with(attachment, |attachment| Ok(attachment.stats()))?));
        Ok(())
    })
}

/// Reports the condition of the journal, the spool and shipping now. Its `rpo_ms` counts from the
/// last point that is in the vault.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_protection_stats(
    attachment: Option<&hrl_attachment>,
    stats: Room<'_, hrl_stats>,
) -> hrl_status {
    guard(|| {
        let stats = stats.needed("stats")?;
        let now = with(attachment, |attachment| Ok(attachment.protection().stats()))?;
        stats.fill(hrl_stats::from(&now));
        Ok(())
    })
}

/// Waits until a point was made in this session by the policy or `hrl_attach_mark`.
/// Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_wait_point(
    attachment: Option<&hrl_attachment>,
    limit_ms: u64,
) -> hrl_status {
    let limit = Duration::from_millis(limit_ms);
    guard(|| with(attachment, |attachment| attachment.wait_point(limit)))
}

/// Waits until everything of the last point is in the vault. `sequence`, which may be NULL, receives
/// the newest sequence there.
/// Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_wait_replicated(
    attachment: Option<&hrl_attachment>,
    limit_ms: u64,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let limit = Duration::from_millis(limit_ms);
        let newest = with(attachment, |attachment| attachment.protection().wait_replicated(limit))?;
        sequence.put_optional(newest.0);
        Ok(())
    })
}

/// Reads the whole disk again. Older points stay usable; none is made until it is complete.
/// Statuses: HRL_ERROR_IO, HRL_ERROR_FULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_resync(attachment: Option<&hrl_attachment>) -> hrl_status {
    guard(|| with(attachment, |attachment| attachment.protection().resync()))
}

/// Makes a last point if one is clean soon, and ends the session cleanly, waiting for the vault up to
/// `limit_ms`. The programs stay in the kernel and go on marking, so that the next session reads only
/// what changes until then. Afterwards every function but `hrl_attach_free` returns
/// HRL_ERROR_INVALID_INPUT. A second stop does nothing.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_FENCED, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_stop(
    attachment: Option<&hrl_attachment>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| {
        let handle = handle::given(attachment, "attachment")?;
        let taken = handle.inner.write().take();
        taken.map_or(Ok(()), |running| running.stop(Duration::from_millis(limit_ms)))
    })
}

/// Takes the programs and maps of a state directory out of the kernel; does nothing if there are none.
/// The next attachment compares the whole disk with the replica.
/// Statuses: HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_detach(state: Text<'_>) -> hrl_status {
    guard(|| Attachment::detach(Path::new(state.read("state")?)))
}

/// Frees the attachment; NULL is fine. Without a stop before it ends as if it were killed: the next
/// one goes on from the marks. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_attach_free(attachment: Option<Box<hrl_attachment>>) {
    guard_value((), || drop(attachment));
}
