//! Handles with threads, which must end before the interpreter does: a thread in a callback would crash the process when the
//! interpreter shuts down.
//!
//! At the exit of the process running handles are dropped, the newest first. A protection then leaves what a crash leaves.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hrl::sync::lock::Mutex;
use pyo3::prelude::*;

/// A value with threads, which run until it is taken.
pub(crate) struct Running<T: Send + 'static>(Mutex<Option<T>>);

trait End: Send + Sync {
    fn end(&self);
}

static RUNNING: Mutex<Vec<Weak<dyn End>>> = Mutex::new(Vec::new());

impl<T: Send + 'static> Running<T> {
    /// A value that is dropped at the exit of the process, unless it is taken before.
    pub(crate) fn new(value: T) -> Arc<Self> {
        let running = Arc::new(Self(Mutex::new(Some(value))));
        let known: Arc<dyn End> = running.clone();
        let mut all = RUNNING.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&known));
        running
    }

    /// Takes it, in order to end it. Later calls give `None`.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }

    /// Puts back a value that was taken for a while.
    pub(crate) fn put_back(&self, value: T) {
        *self.0.lock() = Some(value);
    }

    /// Calls `look` with it; `None` once it was taken.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().as_ref().map(look)
    }
}

impl<T: Send + 'static> Drop for Running<T> {
    fn drop(&mut self) {
        // Its threads may be in a callback, so the drop waits for them without the interpreter's lock.
        if let Some(value) = self.take() {
            Python::attach(|py| py.detach(move || drop(value)));
        }
    }
}

impl<T: Send + 'static> End for Running<T> {
    fn end(&self) {
        drop(self.take());
    }
}

/// Waits until no other thread uses it. Their calls end soon, because every wait has a
/// limit.
pub(crate) fn alone<T>(mut handle: Arc<T>) -> T {
    loop {
        match Arc::try_unwrap(handle) {
            Ok(value) => return value,
            Err(shared) => handle = shared,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a class a context manager. `with` gives the handle itself, and the end of the
/// block runs `$end`.
macro_rules! ends_with_block {
    ($class:ty, |$handle:ident, $py:ident| $end:expr) => {
        #[pymethods]
        impl $class {
            fn __enter__(slf: Py<Self>) -> Py<Self> {
                slf
            }

            fn __exit__(
                &self,
                $py: Python<'_>,
                _kind: &Bound<'_, PyAny>,
                _value: &Bound<'_, PyAny>,
                _trace: &Bound<'_, PyAny>,
            ) -> PyResult<()> {
                let $handle = self;
                $end;
                Ok(())
            }
        }
    };
}
pub(crate) use ends_with_block;

/// Drops every running value.
#[pyfunction]
pub(crate) fn end_all(py: Python<'_>) {
    let all = std::mem::take(&mut *RUNNING.lock());
    // Their threads may wait for the interpreter's lock.
    py.detach(|| all.iter().rev().filter_map(Weak::upgrade).for_each(|running| running.end()));
}
