//! Errors of the crate as Python exceptions, and exceptions of the caller's own devices and stores as errors.
//!
//! The classes are those of `hrl/errors.py`. They are imported with the first error, because the package imports this
//! module before it is complete. An exception of a callback travels as the source of an error, and becomes the `__cause__`
//! of the exception that the caller sees. One that is not an `Exception`, such as `KeyboardInterrupt`, is raised again.

use std::error::Error as _;

use hrl::ErrorKind;
use pyo3::exceptions::{
    PyConnectionError, PyException, PyFileNotFoundError, PyNotImplementedError, PyOSError,
    PyTimeoutError,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error.
pub(crate) fn raise(error: &hrl::Error) -> PyErr {
    Python::attach(|py| exception(py, error).unwrap_or_else(|failure| failure))
}

/// Runs work that may block, without the interpreter's lock.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> hrl::Result<T> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(&error))
}

/// The error for an exception of a callback. `otherwise` is its kind unless the
/// exception says which.
pub(crate) fn from_callback(
    py: Python<'_>,
    raised: PyErr,
    operation: &'static str,
    object: &str,
    otherwise: ErrorKind,
) -> hrl::Error {
    let kind = kind_of(py, &raised).unwrap_or(otherwise);
    hrl::Error::new(kind, operation, object).caused_by(raised)
}

/// The error of a callback that cannot run because the interpreter shuts down.
pub(crate) fn shutting_down(operation: &'static str, object: &str) -> hrl::Error {
    hrl::Error::new(ErrorKind::Unavailable, operation, object)
        .message("the interpreter is shutting down")
}

fn exception(py: Python<'_>, error: &hrl::Error) -> PyResult<PyErr> {
    let cause = raised_cause(error);
    if let Some(cause) = cause.filter(|cause| !cause.is_instance_of::<PyException>(py)) {
        return Ok(cause.clone_ref(py));
    }
    let classes = py.import("hrl.errors")?;
    let kind = error.kind().name();
    let by_kind = classes.getattr("BY_KIND")?;
    let class = by_kind.call_method1("get", (kind, classes.getattr("HrlError")?))?;
    let details = PyDict::new(py);
    details.set_item("kind", kind)?;
    details.set_item("operation", error.operation())?;
    details.set_item("object", error.object())?;
    details.set_item("offset", error.place())?;
    let code = error.os_code().or_else(|| errno(py, cause?));
    details.set_item("errno", code)?;
    let raised = PyErr::from_value(class.call((error.to_string(),), Some(&details))?);
    raised.set_cause(py, cause.map(|cause| cause.clone_ref(py)));
    Ok(raised)
}

/// The exception of a callback among the sources of an error.
fn raised_cause(error: &hrl::Error) -> Option<&PyErr> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(raised) = source.downcast_ref::<PyErr>() {
            return Some(raised);
        }
        next = source.source();
    }
    None
}

fn errno(py: Python<'_>, raised: &PyErr) -> Option<i32> {
    raised.value(py).getattr("errno").ok()?.extract().ok()
}

/// The kind of error that an exception stands for.
fn kind_of(py: Python<'_>, raised: &PyErr) -> Option<ErrorKind> {
    let named =
        raised.value(py).getattr("kind").ok().and_then(|kind| kind.extract::<String>().ok());
    if let Some(kind) = named {
        return ErrorKind::ALL.into_iter().find(|known| known.name() == kind);
    }
    if raised.is_instance_of::<PyNotImplementedError>(py) {
        return Some(ErrorKind::Unsupported);
    }
    if !raised.is_instance_of::<PyOSError>(py) {
        return None;
    }
    if let Some(code) = errno(py, raised) {
        let error = std::io::Error::from_raw_os_error(code);
        return Some(hrl::Error::io("call", "", error).kind());
    }
    if raised.is_instance_of::<PyFileNotFoundError>(py) {
        return Some(ErrorKind::NotFound);
    }
    let passing = raised.is_instance_of::<PyConnectionError>(py)
        || raised.is_instance_of::<PyTimeoutError>(py);
    passing.then_some(ErrorKind::Unavailable)
}
