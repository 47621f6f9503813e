//! `Tracker`: the changed blocks of a disk in use, between named checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hrl_attach::{Checkpoints, TrackOptions};
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::errors::run;
use crate::extent::Extent;
use crate::value::{Shown, mirror};

mirror! {
    /// A named instant of a disk that is tracked.
    Checkpoint(checkpoint: hrl_attach::Checkpoint) {
        /// Its name.
        name: String,
        /// Time at which it was made, in UTC.
        time: String,
        /// Size of the disk in bytes.
        disk_bytes: u64,
        /// Bytes that changed since the checkpoint before it, or since tracking began.
        bytes_changed: u64,
        /// Reason why those are the whole disk; None if they are exact.
        everything: Option<String> = checkpoint.everything.map(|why| why.to_string()),
        /// Whether changes since it are known. They are not if the machine has booted since.
        is_current: bool,
    }
}

mirror! {
    /// How a disk is tracked.
    TrackerStatus(status: hrl_attach::TrackStatus) {
        /// The kernel's name of the disk, such as "sda".
        disk: String,
        /// Size of the disk in bytes.
        disk_bytes: u64,
        /// Time at which tracking began, in UTC.
        since: String,
        /// Memory of the maps in bytes. It is never swapped.
        memory_bytes: u64,
        /// Bytes that changed since the last checkpoint, or since tracking began.
        bytes_changed: u64,
        /// Reason why it is not tracked any more; None if it is.
        lost: Option<String>,
    }
}

/// What changed on a disk between two checkpoints, or since one. Iterating it gives its
/// `runs`.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct DiskChanges {
    inner: hrl_attach::DiskChanges,
}

impl DiskChanges {
    pub(crate) fn extents(&self) -> Arc<hrl::ExtentSet> {
        Arc::new(self.inner.extents.clone())
    }
}

#[pymethods]
impl DiskChanges {
    /// Name of the earlier checkpoint.
    #[getter]
    fn since(&self) -> &str {
        &self.inner.from
    }

    /// Name of the later checkpoint; None for now.
    #[getter]
    fn until(&self) -> Option<&str> {
        self.inner.to.as_deref()
    }

    /// Whether an audit proved that nothing is missing. Otherwise the changes are the whole
    /// disk.
    #[getter]
    fn exact(&self) -> bool {
        self.inner.everything.is_none()
    }

    /// Reason why the changes are the whole disk; None if they are exact.
    #[getter]
    fn everything(&self) -> Option<String> {
        self.inner.everything.map(|why| why.to_string())
    }

    /// Number of bytes in the changed blocks.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.extents.total_bytes()
    }

    /// Returns the changed ranges by offset, in blocks of 4 KiB.
    fn runs(&self) -> Vec<Extent> {
        self.inner.extents.iter().collect::<Vec<_>>().shown()
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        slf.get().runs().into_pyobject(slf.py())?.try_iter()
    }

    fn __len__(&self) -> usize {
        self.inner.extents.count()
    }

    fn __repr__(&self) -> String {
        let to = self.inner.to.as_deref().unwrap_or("now");
        let exact = if self.exact() { "" } else { ", not exact" };
        format!("<DiskChanges {} to {to}, {} bytes{exact}>", self.inner.from, self.total_bytes())
    }
}

/// Tracks which blocks of a disk or partition in use change, between named checkpoints, for
/// backup programs. No data is kept, and nothing is installed.
///
/// Opens a disk that `Tracker.start` has begun to track. `state` is the directory of the
/// checkpoints of all disks. Any number of processes may use it. Make a checkpoint first,
/// then read the disk.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Tracker {
    inner: Checkpoints,
}

fn options(state: Option<PathBuf>) -> TrackOptions {
    let default = TrackOptions::default();
    TrackOptions { state: state.unwrap_or(default.state), ..default }
}

#[pymethods]
impl Tracker {
    #[new]
    #[pyo3(signature = (disk, *, state=None))]
    fn new(py: Python<'_>, disk: PathBuf, state: Option<PathBuf>) -> PyResult<Self> {
        Ok(Self { inner: run(py, || Checkpoints::open(&disk, &options(state)))? })
    }

    /// Begins to track a disk or partition. It is tracked until `stop`, or until the machine
    /// boots, whatever processes end. `state` defaults to "/var/lib/hrl/track".
    #[staticmethod]
    #[pyo3(signature = (disk, *, state=None))]
    fn start(py: Python<'_>, disk: PathBuf, state: Option<PathBuf>) -> PyResult<Self> {
        Ok(Self { inner: run(py, || Checkpoints::start(&disk, &options(state)))? })
    }

    /// Returns a tracker for each disk that is tracked with a state directory.
    #[staticmethod]
    #[pyo3(signature = (*, state=None))]
    fn all(py: Python<'_>, state: Option<PathBuf>) -> PyResult<Vec<Self>> {
        let found = run(py, || Checkpoints::all(&options(state)))?;
        Ok(found.into_iter().map(|inner| Self { inner }).collect())
    }

    /// Path of the disk.
    #[getter]
    fn disk(&self) -> &Path {
        self.inner.disk()
    }

    /// Makes a checkpoint: changes after it are apart from those before.
    fn checkpoint(&self, py: Python<'_>, name: &str) -> PyResult<Checkpoint> {
        run(py, || self.inner.checkpoint(name)).map(Shown::shown)
    }

    /// Returns the checkpoints, oldest first.
    fn checkpoints(&self, py: Python<'_>) -> PyResult<Vec<Checkpoint>> {
        run(py, || self.inner.list()).map(Shown::shown)
    }

    /// Returns what changed after checkpoint `since`, up to checkpoint `until`, or up to now.
    ///
    /// Raises an `HrlError` of the kind "changed" if everything may have changed, because the
    /// machine has booted since.
    #[pyo3(signature = (since, until=None))]
    fn changes(&self, py: Python<'_>, since: &str, until: Option<&str>) -> PyResult<DiskChanges> {
        Ok(DiskChanges { inner: run(py, || self.inner.changes(since, until))? })
    }

    /// Forgets a checkpoint. Its changes count for the next one, so those since others stay
    /// exact.
    fn forget(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        run(py, || self.inner.forget(name))
    }

    /// Returns how the disk is tracked.
    fn status(&self, py: Python<'_>) -> PyResult<TrackerStatus> {
        run(py, || self.inner.status()).map(Shown::shown)
    }

    /// Stops to track the disk, and forgets its checkpoints. Nothing stays in the kernel.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        run(py, || self.inner.clone().stop())
    }

    fn __repr__(&self) -> String {
        format!("<Tracker of {}>", self.inner.disk().display())
    }
}
