//! Deletion that can be taken back, and the purge of what is due.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use engine::{SystemClock, Timestamp};
use hrl_maintain::{MaintainOptions, Maintainer, UndeleteOptions, Undeleted};
use hrl_stores::open_for_maintenance;

use crate::boundary::{HRL_OK, guard, hrl_status, status_of};
use crate::callbacks::needed;
use crate::handle::{Out, Text};
use crate::keys::hrl_key;
use crate::points::{HRL_LABEL_CHARS, HRL_NAME_CHARS, visit};
use crate::report::report;

report! {
    /// Reports what came back of a volume, or would.
    pub struct hrl_undeleted from done: Undeleted {
        /// Name of the volume; empty for objects of no volume.
        volume: [c_char; HRL_NAME_CHARS] = done.volume.clone().unwrap_or_default(),
        /// Objects that were deleted and are back.
        objects: u64,
        /// Their bytes.
        bytes: u64,
        /// Objects that gave way, because they had taken the names of deleted ones.
        replaced: u64 = done.replaced.len() as u64,
        /// Objects that are gone all the same.
        lost: u64 = done.lost.len() as u64,
        /// Whether the volume had been shredded.
        was_shredded: bool,
        /// Points that the catalog lists again.
        points: u64 = done.points.len() as u64,
        /// Segments that the catalog lists again.
        segments: u64,
        /// Pins and legal holds in force again.
        pins: u64,
        /// Folds that stay, because what they were made of is gone.
        folds_left: u64,
        /// Catalog version that says it again; 0 if it needs none, or in a dry run.
        version: u64 = done.version.unwrap_or_default(),
        /// HRL_OK, or the status of the error of this volume.
        status: hrl_status = done.failure.as_ref().map_or(HRL_OK, |error| status_of(error.kind())),
        /// That error as a sentence, cut if it does not fit; empty without an error.
        failure: [c_char; HRL_LABEL_CHARS] = failure_text(done),
    }
}

fn failure_text(done: &Undeleted) -> String {
    done.failure.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Receives what came back of one volume, which lives until it returns; returns false to stop.
pub type hrl_undeleted_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, volume: *const hrl_undeleted) -> bool>;

/// Brings back what was deleted from the vault at `url` since a time, and passes the result of every
/// volume to `each`. With `dry_run` nothing is changed. `url` is what a gateway would be given.
/// Without the key of an encrypted volume objects come back, and folds are not undone. Run it again
/// after any failure.
/// Statuses: HRL_ERROR_INVALID_INPUT (also a gateway), HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE,
/// HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_undelete(
    url: Text<'_>,
    key: Option<&hrl_key>,
    since_ns: i64,
    dry_run: bool,
    each: hrl_undeleted_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        needed(each, "each")?;
        let key = key.map(|key| key.inner.clone());
        let options = UndeleteOptions { dry_run, ..UndeleteOptions::new(Timestamp(since_ns)) };
        let done = hrl_stores::undelete(url.read("url")?, key.as_ref(), &options)?;
        visit(done.iter().map(hrl_undeleted::from), each, user)
    })
}

/// Sets for how long what is deleted from the vault at `url` can be brought back; 0: not at all.
/// What is deleted already keeps its own delay.
/// Statuses: HRL_ERROR_INVALID_INPUT (also a gateway), HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE,
/// HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_set_deletion_delay(url: Text<'_>, delay_ms: u64) -> hrl_status {
    guard(|| {
        let store = open_for_maintenance(url.read("url")?)?;
        hrl_maintain::set_delay(&*store, Duration::from_millis(delay_ms))
    })
}

/// Maintains the vault at `url` once: retention by `policy` (NULL: none) of the volumes that the key
/// opens, old catalog versions, and the purge of what was deleted and whose delay is over. `failed`,
/// which may be NULL, is the number of volumes that could not be maintained.
/// Statuses: HRL_ERROR_INVALID_INPUT (also a gateway, or a bad policy), HRL_ERROR_NOT_FOUND,
/// HRL_ERROR_UNAVAILABLE (also a clock that jumped), HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_vault_maintain(
    url: Text<'_>,
    key: Option<&hrl_key>,
    policy: Text<'_>,
    failed: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let store = open_for_maintenance(url.read("url")?)?;
        let retention = policy.optional("policy")?.map(str::parse).transpose()?;
        let options = MaintainOptions { retention, ..MaintainOptions::default() };
        let key = key.map(|key| key.inner.clone());
        let mut maintainer = Maintainer::new(store, key, SystemClock::shared(), options)?;
        let (volumes, _) = maintainer.run(&|| true)?;
        let count = volumes.iter().filter(|volume| volume.failure.is_some()).count();
        failed.put_optional(count as u64);
        Ok(())
    })
}
