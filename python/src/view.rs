//! `View`: a read-only device that shows a recovery state.

use std::sync::{Arc, Weak};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::device::{Device, Disk};
use crate::extent::Extent;
use crate::value::Shown;

/// A read-only device that shows a recovery state of a volume, without a restore.
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct View {
    /// Last change that it shows.
    #[pyo3(get)]
    sequence: u64,
    view: Weak<hrl::replica::View>,
}

impl View {
    pub(crate) fn of(py: Python<'_>, view: Arc<hrl::replica::View>) -> PyResult<Py<Self>> {
        let shown = Self { sequence: view.sequence().0, view: Arc::downgrade(&view) };
        let device = Device::of("the view", Disk::Device(view));
        Py::new(py, PyClassInitializer::from(device).add_subclass(shown))
    }
}

#[pymethods]
impl View {
    /// Returns the ranges that hold data, by offset. Everything else reads as zeroes.
    fn data_extents(&self, py: Python<'_>) -> PyResult<Vec<Extent>> {
        let closed = || PyValueError::new_err("the view is closed");
        let view = self.view.upgrade().ok_or_else(closed)?;
        Ok(py.detach(|| view.data_extents().map(Shown::shown).collect()))
    }
}
