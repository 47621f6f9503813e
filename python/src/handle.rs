//! Handles that are closed by `close`, by the end of a `with` block, or with their owner.
//!
//! A call under way has a reference of its own, so that it ends as usual when its handle is closed.

use hrl::sync::lock::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A shared value that can be closed.
pub(crate) struct Handle<T> {
    /// Subject of the error of a call after the close, such as "the volume".
    what: &'static str,
    inner: RwLock<Option<T>>,
}

impl<T: Clone> Handle<T> {
    pub(crate) fn new(what: &'static str, inner: T) -> Self {
        Self { what, inner: RwLock::new(Some(inner)) }
    }

    /// The value. `ValueError` after the close, as files raise it.
    pub(crate) fn get(&self) -> PyResult<T> {
        let inner = self.inner.read();
        inner.clone().ok_or_else(|| PyValueError::new_err(format!("{} is closed", self.what)))
    }

    /// Replaces the value, unless the handle is closed.
    pub(crate) fn replace(&self, inner: T) {
        let mut current = self.inner.write();
        if current.is_some() {
            *current = Some(inner);
        }
    }

    /// Closes it and gives the value out. Later calls give `None`.
    pub(crate) fn close(&self) -> Option<T> {
        self.inner.write().take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.read().is_none()
    }
}

/// Gives a class whose field `inner` is a [`Handle`] the attribute `closed`, the method `close`
/// with the doc given, and `with` blocks that close it.
macro_rules! closes_handle {
    ($(#[$about:meta])* $class:ty) => {
        #[pymethods]
        impl $class {
            /// Whether it was closed.
            #[getter]
            fn closed(&self) -> bool {
                self.inner.is_closed()
            }

            $(#[$about])*
            fn close(&self, py: Python<'_>) {
                let taken = self.inner.close();
                py.detach(move || drop(taken));
            }
        }

        $crate::running::ends_with_block!($class, |it, py| it.close(py));
    };
}
pub(crate) use closes_handle;
