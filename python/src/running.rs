//! Handles with threads of their own, which must end before the interpreter does: a thread that the interpreter finds in a
//! callback when it shuts down would take the process down.
//!
//! What still runs when the program ends is ended then, the newest first, as if it had been forgotten: a protection leaves
//! what a crash would leave.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pyo3::prelude::*;

/// Something that runs until it is taken.
pub(crate) struct Running<T: Send + 'static>(Mutex<Option<T>>);

trait End: Send + Sync {
    fn end(&self);
}

static RUNNING: Mutex<Vec<Weak<dyn End>>> = Mutex::new(Vec::new());

impl<T: Send + 'static> Running<T> {
    /// It is ended at the exit of the process, if nobody takes it before.
    pub(crate) fn new(value: T) -> Arc<Self> {
        let running = Arc::new(Self(Mutex::new(Some(value))));
        let known: Arc<dyn End> = running.clone();
        let mut all = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&known));
        running
    }

    /// Gives it out to be ended, the first time.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts back what was taken for a while.
    pub(crate) fn put_back(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// Looks at it; `None` once it was taken.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }
}

impl<T: Send + 'static> Drop for Running<T> {
    fn drop(&mut self) {
        // Its threads may be in a callback: they are waited for without the interpreter's lock.
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

/// Has it alone: another thread may be in a call, which ends soon, because every wait has a limit.
pub(crate) fn alone<T>(mut handle: Arc<T>) -> T {
    loop {
        match Arc::try_unwrap(handle) {
            Ok(value) => return value,
            Err(shared) => handle = shared,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a class a context manager: `with` gives the handle itself, and the end of its block does this.
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

/// Ends everything that runs.
#[pyfunction]
pub(crate) fn end_all(py: Python<'_>) {
    let all = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    // Their threads may be waiting for the interpreter's lock.
    py.detach(|| all.iter().rev().filter_map(Weak::upgrade).for_each(|running| running.end()));
}
