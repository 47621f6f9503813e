//! `ChangeSet`: what was written between two recovery states.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::errors::run;
use crate::extent::ChangedRun;
use crate::value::Shown;

/// The exact ranges that were written after one recovery state, up to another. Iterating
/// it gives its `runs`.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct ChangeSet {
    inner: hrl::replica::ChangeSet,
}

impl ChangeSet {
    pub(crate) fn of(inner: hrl::replica::ChangeSet) -> Self {
        Self { inner }
    }

    pub(crate) fn extents(&self) -> Arc<hrl::ExtentSet> {
        Arc::new(self.inner.extents().clone())
    }
}

#[pymethods]
impl ChangeSet {
    /// Sequence of the earlier state.
    #[getter]
    fn since(&self) -> u64 {
        self.inner.from().0
    }

    /// Sequence of the later state.
    #[getter]
    fn until(&self) -> u64 {
        self.inner.to().0
    }

    /// Number of bytes that were written, zeroed or discarded.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.inner.extents().total_bytes()
    }

    /// Returns the changed ranges by offset.
    fn runs(&self) -> Vec<ChangedRun> {
        self.inner.runs().shown()
    }

    /// Writes the changed bytes at their own offsets into a new sparse file. Returns their
    /// number.
    fn write_to_file(&self, py: Python<'_>, path: PathBuf) -> PyResult<u64> {
        run(py, || self.inner.write_to_file(&path))
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        slf.get().runs().into_pyobject(slf.py())?.try_iter()
    }

    fn __len__(&self) -> usize {
        self.inner.runs().len()
    }

    fn __repr__(&self) -> String {
        format!("<ChangeSet {} to {}, {} bytes>", self.since(), self.until(), self.total_bytes())
    }
}
