//! Errors of the crate as Python exceptions.
//!
//! The classes are those of `hrl/errors.py`, imported when the first error is raised: by then the package, which
//! imports this module, is complete.

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error.
pub(crate) fn raise(error: &hrl::Error) -> PyErr {
    Python::attach(|py| exception(py, error).unwrap_or_else(|failure| failure))
}

fn exception(py: Python<'_>, error: &hrl::Error) -> PyResult<PyErr> {
    let classes = py.import("hrl.errors")?;
    let kind = error.kind().name();
    let by_kind = classes.getattr("BY_KIND")?;
    let class = by_kind.call_method1("get", (kind, classes.getattr("HrlError")?))?;
    let details = PyDict::new(py);
    details.set_item("kind", kind)?;
    details.set_item("operation", error.operation())?;
    details.set_item("object", error.object())?;
    details.set_item("offset", error.place())?;
    details.set_item("errno", error.os_code())?;
    Ok(PyErr::from_value(class.call((error.to_string(),), Some(&details))?))
}

/// Runs work that may block, without the interpreter's lock.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> hrl::Result<T> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(&error))
}
