//! `Key`: a key-encryption key, whose bytes are never shown.

use std::path::PathBuf;

use hrl::journal::WrappingKey;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::run;

/// A key-encryption key, which wraps the keys of volumes. Its text and `repr` show its
/// `id`, never the key.
///
/// `content` is 32 bytes, or 64 hexadecimal digits with white space around them. Errors
/// name `origin` instead of it.
///
/// >>> hrl.Key(bytes(32))
/// Key(ea32c149309af722583f4ee84182d50e)
#[pyclass(frozen, eq, module = "hrl")]
#[derive(Clone, PartialEq)]
pub(crate) struct Key(pub(crate) WrappingKey);

#[pymethods]
impl Key {
    #[new]
    #[pyo3(signature = (content, *, origin="the key given"))]
    fn new(py: Python<'_>, content: &Bound<'_, PyAny>, origin: &str) -> PyResult<Self> {
        let content = match (content.extract::<Vec<u8>>(), content.extract::<String>()) {
            (Ok(bytes), _) => bytes,
            (_, Ok(text)) => text.into_bytes(),
            _ => return Err(PyTypeError::new_err("a key is bytes or str")),
        };
        run(py, || WrappingKey::from_text(&content, origin)).map(Self)
    }

    /// Reads a key file.
    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        run(py, || WrappingKey::from_file(&path)).map(Self)
    }

    /// Identity of the key, by which errors name the key that is needed. It reveals nothing of
    /// the key.
    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    fn __repr__(&self) -> String {
        format!("Key({})", self.0.id())
    }
}
