//! `Key`: a key-encryption key, which never shows itself.

use std::path::PathBuf;

use hrl::journal::WrappingKey;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::run;

/// A key-encryption key.
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

    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        run(py, || WrappingKey::from_file(&path)).map(Self)
    }

    #[getter]
    fn id(&self) -> String {
        self.0.id().to_string()
    }

    fn __repr__(&self) -> String {
        format!("Key({})", self.0.id())
    }
}
