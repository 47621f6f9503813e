//! Changed blocks of disks in use, between named checkpoints.

use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};

use hrl_attach::{Checkpoint, Checkpoints, Everything, TrackOptions, TrackStatus};

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, Out, Room, Text, fixed_text};
use crate::points::{HRL_LABEL_CHARS, HRL_NAME_CHARS, visit};
use crate::replica::{Changes, hrl_changes};
use crate::report::{Shown, report};

/// The checkpoints of a disk or partition that is tracked. All threads may use it at once, and any
/// number of processes.
pub struct hrl_tracker {
    inner: Checkpoints,
}

/// Begins to track which blocks of a disk or partition in use change, whoever changes them. No data
/// is kept, and nothing is installed. It is tracked until `hrl_tracker_stop`, or until the machine
/// boots, whatever processes end. `state` is the directory of the checkpoints of all disks; NULL:
/// "/var/lib/hrl/track". Free it with `hrl_tracker_free`.
/// Statuses: HRL_ERROR_ALREADY_EXISTS (it is tracked), HRL_ERROR_DENIED (CAP_BPF, CAP_PERFMON or
/// CAP_SYS_ADMIN is missing), HRL_ERROR_UNSUPPORTED (the kernel or the disk; the message says what
/// helps), HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_start(
    disk: Text<'_>,
    state: Text<'_>,
    out: Out<'_, *mut hrl_tracker>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let disk = Path::new(disk.read("disk")?);
        out.give(hrl_tracker { inner: Checkpoints::start(disk, &options(state)?)? })
    })
}

/// Opens a disk that is tracked, or was tracked before the machine booted. `state` is as for
/// `hrl_tracker_start`. Free it with `hrl_tracker_free`.
/// Statuses: HRL_ERROR_NOT_FOUND (it is not tracked). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_open(
    disk: Text<'_>,
    state: Text<'_>,
    out: Out<'_, *mut hrl_tracker>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let disk = Path::new(disk.read("disk")?);
        out.give(hrl_tracker { inner: Checkpoints::open(disk, &options(state)?)? })
    })
}

fn options(state: Text<'_>) -> engine::Result<TrackOptions> {
    let mut options = TrackOptions::default();
    if let Some(state) = state.optional("state")? {
        options.state = PathBuf::from(state);
    }
    Ok(options)
}

/// The reason, or empty text.
impl Shown<[c_char; HRL_LABEL_CHARS]> for Option<Everything> {
    fn shown(&self) -> [c_char; HRL_LABEL_CHARS] {
        self.map_or([0; HRL_LABEL_CHARS], |why| fixed_text(&why.to_string()))
    }
}

report! {
    /// A named instant of a disk that is tracked.
    pub struct hrl_checkpoint from checkpoint: Checkpoint {
        /// Its name.
        name: [c_char; HRL_NAME_CHARS],
        /// Time at which it was made, in nanoseconds since 1970 in UTC.
        time_ns: i64 = checkpoint.time,
        /// Size of the disk in bytes.
        disk_bytes: u64,
        /// Bytes that changed since the checkpoint before it, or since tracking began.
        bytes_changed: u64,
        /// Reason why those are the whole disk; empty if they are exact.
        everything: [c_char; HRL_LABEL_CHARS],
        /// Whether changes since it are known. They are not if the machine has booted since.
        is_current: bool,
    }
}

/// Receives one checkpoint, which lives until it returns; returns false to stop.
pub type hrl_checkpoint_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, checkpoint: *const hrl_checkpoint) -> bool>;

/// Makes a checkpoint: changes after it are apart from those before. Make it first, then read the
/// disk. `checkpoint`, which may be NULL, receives it. If changes could not be audited, its set is
/// the whole disk, and `everything` says why.
/// Statuses: HRL_ERROR_ALREADY_EXISTS (the name is taken), HRL_ERROR_INVALID_INPUT (a name above 64
/// bytes), HRL_ERROR_CHANGED (the machine has booted since the start), HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_checkpoint(
    tracker: Option<&hrl_tracker>,
    name: Text<'_>,
    checkpoint: Room<'_, hrl_checkpoint>,
) -> hrl_status {
    guard(|| {
        let checkpoint = checkpoint.optional()?;
        let made = handle::given(tracker, "tracker")?.inner.checkpoint(name.read("name")?)?;
        checkpoint.fill(hrl_checkpoint::from(&made));
        Ok(())
    })
}

/// Passes the checkpoints, oldest first, to `each` on the calling thread.
/// Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_checkpoints(
    tracker: Option<&hrl_tracker>,
    each: hrl_checkpoint_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let listed = handle::given(tracker, "tracker")?.inner.list()?;
        visit(listed.iter().map(hrl_checkpoint::from), each, user)
    })
}

/// Finds what changed after checkpoint `from`, up to checkpoint `to`; NULL: up to now. The runs are
/// whole blocks of 4 KiB, and `zero` is false in all. Ask `hrl_changes_everything` whether they are
/// exact. Free it with `hrl_changes_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (`to` is earlier), HRL_ERROR_CHANGED
/// (everything may have changed, because the machine has booted since `from`), HRL_ERROR_CORRUPT,
/// HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_changes(
    tracker: Option<&hrl_tracker>,
    from: Text<'_>,
    to: Text<'_>,
    out: Out<'_, *mut hrl_changes>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let (from, to) = (from.read("from")?, to.optional("to")?);
        let found = handle::given(tracker, "tracker")?.inner.changes(from, to)?;
        let everything = found.everything.map(|why| handle::c_text(&why.to_string()));
        out.give(hrl_changes { inner: Changes::Tracked { found, everything } })
    })
}

/// Forgets a checkpoint. Its changes count for the next one, so those since others stay exact.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_forget(
    tracker: Option<&hrl_tracker>,
    name: Text<'_>,
) -> hrl_status {
    guard(|| handle::given(tracker, "tracker")?.inner.forget(name.read("name")?))
}

report! {
    /// How a disk is tracked.
    pub struct hrl_tracker_status from status: TrackStatus {
        /// The kernel's name of the disk, such as "sda".
        disk: [c_char; HRL_NAME_CHARS],
        /// Size of the disk in bytes.
        disk_bytes: u64,
        /// Time at which tracking began, in nanoseconds since 1970 in UTC.
        since_ns: i64 = status.since,
        /// Memory of the maps in bytes. It is never swapped.
        memory_bytes: u64,
        /// Bytes that changed since the last checkpoint, or since tracking began.
        bytes_changed: u64,
        /// Reason why it is not tracked any more; empty if it is.
        lost: [c_char; HRL_LABEL_CHARS] = status.lost.clone().unwrap_or_default(),
    }
}

/// Reports how the disk is tracked.
/// Statuses: HRL_ERROR_NOT_FOUND (it is not tracked any more), HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_status_get(
    tracker: Option<&hrl_tracker>,
    status: Room<'_, hrl_tracker_status>,
) -> hrl_status {
    guard(|| {
        let status = status.needed("status")?;
        let now = handle::given(tracker, "tracker")?.inner.status()?;
        status.fill(hrl_tracker_status::from(&now));
        Ok(())
    })
}

/// Stops to track the disk, and forgets its checkpoints. Nothing stays in the kernel. The handle is
/// freed by `hrl_tracker_free`.
/// Statuses: HRL_ERROR_NOT_FOUND (it is not tracked any more), HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_stop(tracker: Option<&hrl_tracker>) -> hrl_status {
    guard(|| handle::given(tracker, "tracker")?.inner.clone().stop())
}

/// Frees the handle; NULL is fine. The disk is tracked on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_tracker_free(tracker: Option<Box<hrl_tracker>>) {
    guard_value((), || drop(tracker));
}
