//! Handles that can be closed: by `close`, by the end of a `with` block, or by what they belong to.
//!
//! A call that is under way when its handle is closed ends as usual: it works on a reference of its own.

use std::sync::{PoisonError, RwLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Something shared that can be closed.
pub(crate) struct Handle<T> {
    /// For the message of a call after the close, such as "the volume".
    what: &'static str,
    inner: RwLock<Option<T>>,
}

impl<T: Clone> Handle<T> {
    pub(crate) fn new(what: &'static str, inner: T) -> Self {
        Self { what, inner: RwLock::new(Some(inner)) }
    }

    /// `ValueError` after the close, as files do.
    pub(crate) fn get(&self) -> PyResult<T> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| PyValueError::new_err(format!("{} is closed", self.what)))
    }

    /// Takes the place of what is open; nothing after the close.
    pub(crate) fn replace(&self, inner: T) {
        let mut held = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            *held = Some(inner);
        }
    }

    /// Gives out what was open, the first time.
    pub(crate) fn close(&self) -> Option<T> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
