//! Replicas: points, views, restores, change sets and verification of one volume in a vault.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use engine::replica::{
    At, CatalogVersion, ChangeRun, ChangeSet, Expected, Replica, RestoreReport, RestoreTarget,
    VerifyReport, ViewOptions,
};
use engine::{Error, ErrorKind, ExtentSet, Result};

use hrl_attach::DiskChanges;

use crate::boundary::{guard, guard_value, hrl_status};
use crate::callbacks::{hrl_progress_fn, progress_of};
use crate::device::hrl_device;
use crate::handle::{self, Out, Room, Text};
use crate::points::{
    hrl_point, hrl_point_fn, hrl_timeline_entry, hrl_timeline_fn, hrl_volume_info, visit,
};
use crate::report::report;
use crate::vault::hrl_vault;
use engine::sync::lock::{RwLock, RwLockReadGuard};

/// One volume in a vault, as of the version of its catalog that was read last. All threads may use
/// it at once.
pub struct hrl_replica {
    pub(crate) inner: RwLock<Replica>,
}

impl hrl_replica {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Replica> {
        self.inner.read()
    }
}

/// Opens a volume of a vault. "VOLUME@EPOCH" is the branch of an ended epoch. Reading never writes
/// to the vault. Free it with `hrl_replica_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_open(
    vault: Option<&hrl_vault>,
    name: Text<'_>,
    out: Out<'_, *mut hrl_replica>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let name = name.read("name")?;
        let replica = handle::given(vault, "vault")?.inner.replica(name)?;
        out.give(hrl_replica { inner: RwLock::new(replica) })
    })
}

/// Reads the newest version of the catalog.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_CORRUPT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_refresh(replica: Option<&hrl_replica>) -> hrl_status {
    guard(|| {
        let replica = handle::given(replica, "replica")?;
        replica.inner.write().refresh()
    })
}

/// Describes the volume, as the vault records it.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_info(
    replica: Option<&hrl_replica>,
    info: Room<'_, hrl_volume_info>,
) -> hrl_status {
    guard(|| {
        let info = info.needed("info")?;
        info.fill(hrl_volume_info::from(handle::given(replica, "replica")?.read().info()));
        Ok(())
    })
}

/// Passes every recovery point to `each` on the calling thread, oldest first.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_points(
    replica: Option<&hrl_replica>,
    each: hrl_point_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let points = handle::given(replica, "replica")?.read().points();
        visit(points.iter().map(hrl_point::from), each, user)
    })
}

/// Passes the history in stretches, ordered and unordered, to `each` on the calling thread.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_timeline(
    replica: Option<&hrl_replica>,
    each: hrl_timeline_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let timeline = handle::given(replica, "replica")?.read().timeline();
        visit(timeline.iter().map(hrl_timeline_entry::from), each, user)
    })
}

/// Finds the sequence of a recovery state. `at` is "newest", "newest-good", the label or identity of
/// a point, a sequence, or a time as RFC 3339. A label that exists wins over what else the text may
/// mean, except the first two; "label:TEXT", "point:DIGITS" (the beginning of an identity),
/// "sequence:N" and "time:T" mean nothing but that. "newest-good" is the newest point that checks
/// found good, else the newest application-consistent point, else the newest.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_NOT_ORDERED (inside a gap), HRL_ERROR_INVALID_INPUT.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_resolve(
    replica: Option<&hrl_replica>,
    at: Text<'_>,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let at = state(at)?;
        let found = handle::given(replica, "replica")?.read().resolve(&at)?;
        sequence.put(found.0, "sequence")
    })
}

/// Opens the volume at the state `at` (see `hrl_replica_resolve`) as a read-only device, without a
/// restore. Free it with `hrl_device_free`. The replica may be freed before.
/// Statuses: those of `hrl_replica_resolve`, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE,
/// HRL_ERROR_UNSUPPORTED (tracked without data). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_view(
    replica: Option<&hrl_replica>,
    at: Text<'_>,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let at = state(at)?;
        let replica = handle::given(replica, "replica")?.read().clone();
        let view = replica.view(&at, &ViewOptions::default())?;
        out.give(hrl_device::new(Arc::new(view)))
    })
}

/// Flag of `hrl_replica_restore`: replace an existing file, once the restore is complete.
pub const HRL_RESTORE_OVERWRITE: u32 = 1;
/// Flag of `hrl_replica_restore`: overwrite all of an existing file or block device.
pub const HRL_RESTORE_DEVICE: u32 = 2;

report! {
    /// Reports what a restore did.
    pub struct hrl_restore_report from done: RestoreReport {
        /// Sequence of the restored state.
        sequence: u64,
        /// Bytes of data written.
        bytes_written: u64,
        /// Size of the volume in bytes.
        volume_bytes: u64,
        /// Segments read.
        segments: u64,
    }
}

/// Writes the volume at the state `at` (see `hrl_replica_resolve`) to a new sparse file. The file
/// gets its name once it is complete and durable. A flag writes over an existing file or device
/// instead. `progress` and `report` may be NULL.
/// Statuses: those of `hrl_replica_view`, HRL_ERROR_ALREADY_EXISTS, HRL_ERROR_FULL, HRL_ERROR_IO,
/// HRL_ERROR_UNAVAILABLE (stopped by `progress`). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_restore(
    replica: Option<&hrl_replica>,
    at: Text<'_>,
    path: Text<'_>,
    flags: u32,
    progress: hrl_progress_fn,
    user: *mut c_void,
    report: Room<'_, hrl_restore_report>,
) -> hrl_status {
    guard(|| {
        let report = report.optional()?;
        let at = state(at)?;
        let path = Path::new(path.read("path")?).to_owned();
        if flags & !(HRL_RESTORE_OVERWRITE | HRL_RESTORE_DEVICE) != 0 {
            return Err(crate::boundary::bad_argument("flags")
                .expected("HRL_RESTORE_ flags")
                .found(flags));
        }
        let target = if flags & HRL_RESTORE_DEVICE != 0 {
            RestoreTarget::Device(path)
        } else {
            RestoreTarget::File { path, overwrite: flags & HRL_RESTORE_OVERWRITE != 0 }
        };
        let replica = handle::given(replica, "replica")?.read().clone();
        let done = replica.restore(&at, &target, &progress_of(progress, user))?;
        report.fill(hrl_restore_report::from(&done));
        Ok(())
    })
}

report! {
    /// Reports what a verification found.
    pub struct hrl_verify_report from done: VerifyReport {
        /// Segments checked.
        segments: u64,
        /// Bytes checked.
        bytes: u64,
        /// Recovery points offered.
        points: u64,
        /// Objects that are not as they were written; 0 if the replica is sound.
        findings: u64,
        /// Objects that the catalog does not list; they do no harm.
        strays: u64,
        /// What is ignored, see `hrl_replica_notes`.
        notes: u64,
    }
}

/// Receives the name of an object that is not as it was written, and a sentence about the
/// difference. Both live until it returns.
pub type hrl_finding_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, object: *const c_char, message: *const c_char)>;

/// Receives one sentence; the text lives until it returns.
pub type hrl_note_fn = Option<unsafe extern "C" fn(user: *mut c_void, text: *const c_char)>;

/// Passes an object and a sentence to a callback, unless it is NULL.
pub(crate) fn pass_to(callback: hrl_finding_fn, user: *mut c_void, object: &str, message: &str) {
    if let Some(callback) = callback {
        let (object, message) = (handle::c_text(object), handle::c_text(message));
        // SAFETY: a function of this type, called as the header says; the texts live during the
        // call.
        unsafe { callback(user, object.as_ptr(), message.as_ptr()) }
    }
}

/// Passes notes on what a reader ignores to `note` on the calling thread: markers that nothing
/// proves, and gates of a mirror. They are counted in `hrl_verify_report`, too.
/// Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_notes(
    replica: Option<&hrl_replica>,
    note: hrl_note_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let replica = handle::given(replica, "replica")?.read().clone();
        let note = note.ok_or_else(|| crate::boundary::bad_argument("note"))?;
        for text in replica.notes()? {
            let text = handle::c_text(&text);
            // SAFETY: a function of this type, called as the header says; the text lives during the
            // call.
            unsafe { note(user, text.as_ptr()) }
        }
        Ok(())
    })
}

report! {
    /// A version of a volume's catalog, as `hrl_replica_version` returns it.
    pub struct hrl_catalog_version from version: CatalogVersion {
        /// Its number; 0 for a volume without a catalog.
        number: u64,
        /// The last sequence that it lists.
        sequence: u64,
        /// Time of its newest record or heartbeat in nanoseconds since 1970; 0 before both.
        time_ns: i64 = version.time.unwrap_or_default(),
        /// Its text for `hrl_replica_check_at_least`, such as "v12:" and the hash of its object.
        text: [c_char; 96] = version.to_string(),
    }
}

/// Describes the catalog version that was read last.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_version(
    replica: Option<&hrl_replica>,
    version: Room<'_, hrl_catalog_version>,
) -> hrl_status {
    guard(|| {
        let version = version.needed("version")?;
        version
            .fill(hrl_catalog_version::from(&handle::given(replica, "replica")?.read().version()));
        Ok(())
    })
}

/// Checks that the volume has at least what is expected, so that an old copy of a vault is noticed.
/// `expected` is the `text` of an `hrl_catalog_version` that was seen before, a version such as
/// "v12", a time as RFC 3339 (a record or heartbeat of then or later), a sequence, or a point (see
/// `hrl_replica_resolve`).
/// Statuses: HRL_ERROR_DIVERGED (the vault went back, or is an old copy), HRL_ERROR_INVALID_INPUT,
/// HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_check_at_least(
    replica: Option<&hrl_replica>,
    expected: Text<'_>,
) -> hrl_status {
    guard(|| {
        let expected = Expected::parse(expected.read("expected")?)?;
        let replica = handle::given(replica, "replica")?.read().clone();
        replica.check_at_least(&expected)
    })
}

/// Reads and checks everything that the catalog lists: checksums, encryption, chain. Each damaged
/// object is passed to `found` (may be NULL) and counted in `report`. The status is HRL_OK if all
/// was checked, sound or not. `progress` may be NULL.
/// Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_verify(
    replica: Option<&hrl_replica>,
    progress: hrl_progress_fn,
    found: hrl_finding_fn,
    user: *mut c_void,
    report: Room<'_, hrl_verify_report>,
) -> hrl_status {
    guard(|| {
        let report = report.needed("report")?;
        let replica = handle::given(replica, "replica")?.read().clone();
        let done = replica.verify(&progress_of(progress, user))?;
        for finding in &done.findings {
            pass_to(found, user, &finding.object, &finding.error.to_string());
        }
        report.fill(hrl_verify_report::from(&done));
        Ok(())
    })
}

/// Frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_free(replica: Option<Box<hrl_replica>>) {
    guard_value((), || drop(replica));
}

/// The extents that changed between two states of a volume, or two checkpoints of a disk that is
/// tracked. All threads may use it at once.
pub struct hrl_changes {
    pub(crate) inner: Changes,
}

/// Where changes come from.
pub(crate) enum Changes {
    Recorded(Box<ChangeSet>),
    Tracked { found: DiskChanges, everything: Option<CString> },
}

impl Changes {
    pub(crate) fn extents(&self) -> &ExtentSet {
        match self {
            Self::Recorded(set) => set.extents(),
            Self::Tracked { found, .. } => &found.extents,
        }
    }

    fn runs(&self) -> Vec<ChangeRun> {
        match self {
            Self::Recorded(set) => set.runs(),
            Self::Tracked { found, .. } => {
                found.extents.iter().map(|extent| ChangeRun { extent, zero: false }).collect()
            }
        }
    }
}

/// Finds the extents written after state `from`, up to state `to` (see `hrl_replica_resolve`). Free
/// it with `hrl_changes_free`.
/// Statuses: those of `hrl_replica_resolve`, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_replica_changes(
    replica: Option<&hrl_replica>,
    from: Text<'_>,
    to: Text<'_>,
    out: Out<'_, *mut hrl_changes>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let (from, to) = (state(from)?, state(to)?);
        let replica = handle::given(replica, "replica")?.read().clone();
        out.give(hrl_changes { inner: Changes::Recorded(Box::new(replica.changes(&from, &to)?)) })
    })
}

/// Returns the number of bytes that changed; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_changes_total_bytes(changes: Option<&hrl_changes>) -> u64 {
    guard_value(0, || {
        handle::given(changes, "changes").map_or(0, |c| c.inner.extents().total_bytes())
    })
}

report! {
    /// One run of a change set.
    pub struct hrl_change from run: ChangeRun {
        /// First byte.
        offset: u64 = run.extent.offset,
        /// Bytes.
        length: u64 = run.extent.length,
        /// Whether it reads as zeroes in the later state.
        zero: bool,
    }
}

/// Receives one run of a change set; returns false to stop.
pub type hrl_change_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, change: *const hrl_change) -> bool>;

/// Passes the runs, in order of their offsets, to `each` on the calling thread.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_changes_runs(
    changes: Option<&hrl_changes>,
    each: hrl_change_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let runs = handle::given(changes, "changes")?.inner.runs();
        visit(runs.iter().map(hrl_change::from), each, user)
    })
}

/// Writes the changed bytes, each at its own offset, to a new sparse file of the volume's size.
/// `bytes`, which may be NULL, receives their number.
/// Statuses: HRL_ERROR_ALREADY_EXISTS, HRL_ERROR_UNSUPPORTED (tracked without data, or of a tracker),
/// HRL_ERROR_FULL, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_changes_write_to_file(
    changes: Option<&hrl_changes>,
    path: Text<'_>,
    bytes: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let path = Path::new(path.read("path")?);
        let written = match &handle::given(changes, "changes")?.inner {
            Changes::Recorded(set) => set.write_to_file(path)?,
            Changes::Tracked { found, .. } => {
                return Err(Error::new(ErrorKind::Unsupported, "write changes since", &found.from)
                    .message("a tracker keeps no data: read the disk"));
            }
        };
        bytes.put_optional(written);
        Ok(())
    })
}

/// Returns the reason why changes of a tracker are the whole disk, which lives as long as the handle.
/// NULL if they are exact, and for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_changes_everything(changes: Option<&hrl_changes>) -> *const c_char {
    guard_value(std::ptr::null(), || match changes.map(|changes| &changes.inner) {
        Some(Changes::Tracked { everything: Some(why), .. }) => why.as_ptr(),
        _ => std::ptr::null(),
    })
}

/// Frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_changes_free(changes: Option<Box<hrl_changes>>) {
    guard_value((), || drop(changes));
}

fn state(at: Text<'_>) -> Result<At> {
    At::parse(at.read("at")?)
}
