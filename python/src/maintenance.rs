//! Deletion that can be taken back, and the maintenance of vaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hrl::store::{DirStore, Store};
use hrl::sync::lock::Mutex;
use hrl::{Clock, SystemClock};
use hrl_maintain::{MaintainOptions, UndeleteOptions};
use hrl_stores::open_for_maintenance;
use pyo3::prelude::*;

use crate::at::Moment;
use crate::errors::run;
use crate::key::Key;
use crate::retention::CompactReport;
use crate::value::{Shown, mirror};
use crate::wait::seconds;

mirror! {
    /// What came back of a volume, or would. The result of `undelete`.
    Undeleted(done: hrl_maintain::Undeleted) {
        /// Name of the volume; None for objects of no volume.
        volume: Option<String>,
        /// Number of objects that were deleted and are back.
        objects: u64,
        /// Their bytes.
        bytes: u64,
        /// Names that other objects had taken, which gave way.
        replaced: Vec<String>,
        /// Names of objects that are gone all the same.
        lost: Vec<String>,
        /// Whether the volume had been shredded.
        was_shredded: bool,
        /// Identities of the points that the catalog lists again.
        points: Vec<String>,
        /// Number of segments that the catalog lists again.
        segments: u64,
        /// Number of pins and legal holds in force again.
        pins: u64,
        /// Number of folds that stay, because what they were made of is gone.
        folds_left: u64,
        /// Catalog version that says it again; None if it needs none, or in a dry run.
        version: Option<u64>,
        /// Error of this volume; None if there was none.
        failure: Option<String> = done.failure.as_ref().map(ToString::to_string),
        /// Kind of that error.
        failure_kind: Option<&'static str> = done.failure.as_ref().map(|error| error.kind().name()),
    }
    shows volume objects points version failure;
}

mirror! {
    /// What can still be brought back of a volume. The result of `deleted`.
    DeletedVolume(entry: hrl_maintain::Deleted) {
        /// Name of the volume; None for objects of no volume.
        volume: Option<String>,
        /// Number of tombstones.
        tombstones: u64,
        /// Number of deleted segments and packs.
        objects: u64,
        /// Bytes that all of it takes.
        bytes: u64,
        /// Time of the first delete in UTC.
        since: String,
        /// When the first will be purged, in UTC.
        next_due: String,
    }
}

mirror! {
    /// What a purge did. Part of the result of `Maintainer.run`.
    PurgeReport(report: hrl_maintain::PurgeReport) {
        /// Number of tombstones removed.
        tombstones: u64,
        /// Number of objects removed.
        objects: u64,
        /// Bytes freed.
        bytes: u64,
        /// Number of tombstones whose delay is not over, or that the store keeps locked.
        waiting: u64,
        /// Number of objects that the store keeps locked; a later purge removes them.
        locked: u64,
        /// Deleted objects that catalogs list: somebody deleted what is in use.
        in_use: Vec<String>,
        /// Seconds by which the clock is too far ahead; None if it is believed.
        clock_ahead: Option<f64>,
        /// Tombstones that cannot be read.
        damaged: Vec<String>,
    }
}

mirror! {
    /// What maintenance did for one volume. Part of the result of `Maintainer.run`.
    MaintainedVolume(done: hrl_maintain::MaintainedVolume) {
        /// Name of the volume.
        volume: String,
        /// Catalog versions deleted that no reader needs.
        versions_deleted: u64,
        /// Error that ended the maintenance of this volume; None if there was none.
        failure: Option<String> = done.failure.as_ref().map(ToString::to_string),
        /// Kind of that error.
        failure_kind: Option<&'static str> = done.failure.as_ref().map(|error| error.kind().name()),
        /// What retention did; None without a policy or the key.
        compaction: Option<CompactReport>,
    }
    shows volume versions_deleted failure;
}

/// Brings back what was deleted from a vault since a time. With `dry_run`, the default, reports
/// what that would be.
///
/// `vault` is the directory or URL that a gateway would be given, `key` the key-encryption key of
/// encrypted volumes. Without the key objects come back, and folds are not undone. Run it again
/// after any failure. `name` is who does it, for the audit log.
#[pyfunction]
#[pyo3(signature = (vault, *, since, key=None, volumes=None, dry_run=true, name="undelete"))]
pub(crate) fn undelete(
    py: Python<'_>,
    vault: &str,
    since: Moment,
    key: Option<&Key>,
    volumes: Option<Vec<String>>,
    dry_run: bool,
    name: &str,
) -> PyResult<Vec<Undeleted>> {
    let options = UndeleteOptions { since: since.0, volumes, dry_run, by: name.to_owned() };
    let key = key.map(|key| key.0.clone());
    run(py, || hrl_stores::undelete(vault, key.as_ref(), &options)).map(Shown::shown)
}

/// Opens the store of a vault for its maintenance.
fn maintained(vault: &Path) -> hrl::Result<Arc<dyn Store>> {
    match vault.to_str() {
        Some(url) => open_for_maintenance(url),
        // Not a URL, but the name of a directory.
        None => Ok(Arc::new(DirStore::open(vault)?)),
    }
}

/// Returns what can still be brought back in a vault, by volume.
#[pyfunction]
pub(crate) fn deleted(py: Python<'_>, vault: PathBuf) -> PyResult<Vec<DeletedVolume>> {
    run(py, || hrl_maintain::deleted(&*maintained(&vault)?)).map(Shown::shown)
}

/// Returns the deletion delay of a vault in seconds; zero if it has none.
#[pyfunction]
pub(crate) fn deletion_delay(py: Python<'_>, vault: &str) -> PyResult<f64> {
    run(py, || hrl_maintain::delay_of(&*open_for_maintenance(vault)?)).map(Shown::shown)
}

/// Sets the deletion delay of a vault, in seconds. What is deleted already keeps its own.
#[pyfunction]
pub(crate) fn set_deletion_delay(py: Python<'_>, vault: &str, delay: f64) -> PyResult<()> {
    let delay = seconds(delay)?;
    run(py, || hrl_maintain::set_delay(&*open_for_maintenance(vault)?, delay))
}

/// Maintains a vault under an identity of its own: retention where it has the key, old catalog
/// versions, and the purge of what was deleted and whose delay is over.
///
/// `retention` is text such as "2h all; 24h hourly; 30d daily"; None means no retention. A vault
/// without a deletion delay gets `deletion_delay`, in seconds. `accept_clock` believes a clock
/// that is far ahead of the vault's own times. `name` is who does it, for tombstones and the
/// audit log.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Maintainer {
    inner: Mutex<hrl_maintain::Maintainer>,
    stopped: AtomicBool,
}

#[pymethods]
impl Maintainer {
    #[new]
    #[pyo3(signature = (vault, *, key=None, volumes=None, retention=None, deletion_delay=1_209_600.0, accept_clock=false, name="maintainer"))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        vault: &str,
        key: Option<&Key>,
        volumes: Option<Vec<String>>,
        retention: Option<&str>,
        deletion_delay: f64,
        accept_clock: bool,
        name: &str,
    ) -> PyResult<Self> {
        let deletion_delay = seconds(deletion_delay)?;
        let key = key.map(|key| key.0.clone());
        let inner = run(py, || {
            let options = MaintainOptions {
                volumes,
                retention: retention.map(str::parse).transpose()?,
                deletion_delay,
                accept_clock,
                by: name.to_owned(),
                ..MaintainOptions::default()
            };
            let clock: std::sync::Arc<dyn Clock> = SystemClock::shared();
            hrl_maintain::Maintainer::new(open_for_maintenance(vault)?, key, clock, options)
        })?;
        Ok(Self { inner: Mutex::new(inner), stopped: AtomicBool::new(false) })
    }

    /// Maintains every volume once, then purges. A failure of one volume is in its result and
    /// does not stop the others.
    fn run(&self, py: Python<'_>) -> PyResult<(Vec<MaintainedVolume>, PurgeReport)> {
        let (volumes, purged) = run(py, || {
            let mut maintainer = self.inner.lock();
            maintainer.run(&|| !self.stopped.load(Ordering::Relaxed))
        })?;
        Ok((volumes.shown(), purged.shown()))
    }

    /// Ends a run of another thread soon, and those that follow.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
