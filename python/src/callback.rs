//! Calls of the caller's objects: devices, stores, applications and hosts of plans that Python code implements, and progress.
//!
//! The interpreter's lock is taken inside each call and only there, so such an object may be used from any thread of the
//! library. Two calls may run at once when a method releases the lock. Every answer is checked before it is used.

use hrl::sync::lock::Mutex;
use hrl::{Error, ErrorKind};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::{from_callback, raise, shutting_down};

/// An object of the caller's whose methods are called.
pub(crate) struct Object {
    pub(crate) object: Py<PyAny>,
    pub(crate) name: String,
    /// Kind of the error for an exception that does not say which.
    pub(crate) otherwise: ErrorKind,
}

impl Object {
    pub(crate) fn new(object: &Bound<'_, PyAny>, otherwise: ErrorKind) -> PyResult<Self> {
        let name = match object.getattr("name").and_then(|name| name.extract::<String>()) {
            Ok(name) => name,
            Err(_) => object.get_type().qualname()?.to_string(),
        };
        Ok(Self { object: object.clone().unbind(), name, otherwise })
    }

    /// Runs `work` with the interpreter's lock. An exception becomes an error with the
    /// exception as its source.
    pub(crate) fn call<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> hrl::Result<T> {
        let done = Python::try_attach(|py| {
            work(self.object.bind(py))
                .map_err(|raised| from_callback(py, raised, operation, &self.name, self.otherwise))
        });
        done.unwrap_or_else(|| Err(shutting_down(operation, &self.name)))
    }

    /// An error for an answer that breaks the contract.
    pub(crate) fn wrong(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::InvalidInput, operation, &self.name)
    }
}

/// Raises `TypeError` unless the object has all of `names`.
pub(crate) fn need(object: &Bound<'_, PyAny>, expected: &str, names: &[&str]) -> PyResult<()> {
    for name in names {
        if !object.hasattr(*name)? {
            return Err(PyTypeError::new_err(format!(
                "expected {expected} with {}; {} has no {name}",
                names.join(", "),
                object.get_type().qualname()?
            )));
        }
    }
    Ok(())
}

/// Reports the progress of a long call to a Python callable, which stops it by returning
/// False or raising.
pub(crate) struct Progress {
    callback: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Progress {
    /// Progress for `callback`, or for nobody.
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, raised: Mutex::new(None) }
    }

    /// Runs `work` without the interpreter's lock. An exception of the callable, or of a
    /// signal, comes out as itself.
    pub(crate) fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&(dyn Fn(u64, u64) -> bool + Sync)) -> hrl::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&|done, total| self.goes_on(done, total))).map_err(|error| {
            let raised = self.raised.lock().take();
            raised.unwrap_or_else(|| raise(&error))
        })
    }

    fn goes_on(&self, done: u64, total: u64) -> bool {
        let Some(callback) = &self.callback else { return true };
        let answer = Python::attach(|py| {
            py.check_signals()?;
            callback.call1(py, (done, total))?.bind(py).eq(false)
        });
        answer.map_or_else(
            |error| {
                *self.raised.lock() = Some(error);
                false
            },
            |stop| !stop,
        )
    }
}
