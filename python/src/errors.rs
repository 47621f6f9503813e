//! Errors of the crate as a Python exception.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    hrl,
    HrlError,
    PyException,
    "An error of hrl; `kind` says what can be done about it."
);

/// The exception for an error.
pub(crate) fn raise(error: &hrl::Error) -> PyErr {
    let exception = HrlError::new_err(error.to_string());
    Python::attach(|py| {
        let value = exception.value(py);
        // Setting an attribute on a new exception of ours cannot fail for lack of a dictionary.
        let _ = value.setattr("kind", error.kind().name());
        let _ = value.setattr("operation", error.operation());
        let _ = value.setattr("object", error.object());
        let _ = value.setattr("offset", error.place());
        let _ = value.setattr("errno", error.os_code());
    });
    exception
}

/// Runs work that may block, without the interpreter's lock.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> hrl::Result<T> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(&error))
}
