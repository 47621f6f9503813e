//! `Tap` and `Ticket`, for agents that do the I/O themselves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hrl::capture::Change;
use hrl::{Error, ErrorKind, Extent};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::Incoming;
use crate::callback::discarded;
use crate::errors::{raise, run};
use crate::handle::Handle;
use crate::running::ends_with_block;

/// Signals of the process, such as Ctrl-C, are looked at this often during a wait.
pub(crate) const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// The write order of a volume.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Tap {
    inner: Handle<Arc<hrl::capture::Tap>>,
}

impl Tap {
    pub(crate) fn of(tap: Arc<hrl::capture::Tap>) -> Self {
        Self { inner: Handle::new("the tap", tap) }
    }

    pub(crate) fn close(&self) {
        self.inner.close();
    }
}

#[pymethods]
impl Tap {
    #[pyo3(signature = (offset, length, *, limit=None))]
    fn begin(
        &self,
        py: Python<'_>,
        offset: u64,
        length: u64,
        limit: Option<f64>,
    ) -> PyResult<Ticket> {
        let tap = self.inner.get()?;
        let extent = Extent { offset, length };
        let mut left = limit.map_or(Ok(Duration::MAX), seconds)?;
        loop {
            let slice = left.min(SIGNAL_CHECK);
            match py.detach(|| tap.begin_within(extent, slice)) {
                Ok(ticket) => return Ok(Ticket { tap, extent, inner: Mutex::new(Some(ticket)) }),
                Err(error) if error.kind() != ErrorKind::Unavailable => return Err(raise(&error)),
                Err(_) => {}
            }
            py.check_signals()?;
            left = left.saturating_sub(slice);
            if left.is_zero() {
                return Err(raise(
                    &Error::new(ErrorKind::Unavailable, "change", "volume")
                        .at(offset)
                        .expected(format_args!("a ticket within {} s", limit.unwrap_or_default()))
                        .found("an overlapping change in flight, or a region not marked yet"),
                ));
            }
        }
    }

    fn flush(&self, py: Python<'_>) -> PyResult<u64> {
        let tap = self.inner.get()?;
        Ok(py.detach(|| tap.flush()).0)
    }

    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        Ok(self.inner.get()?.mode().name())
    }

    #[getter]
    fn last_sequence(&self) -> PyResult<u64> {
        Ok(self.inner.get()?.stats().last_sequence.0)
    }
}

/// A wait in seconds, of any length.
pub(crate) fn seconds(limit: f64) -> PyResult<Duration> {
    if limit.is_nan() {
        return Err(PyValueError::new_err("a limit is a number of seconds"));
    }
    Ok(Duration::try_from_secs_f64(limit.max(0.0)).unwrap_or(Duration::MAX))
}

/// Permission to change a range. One that is dropped without a word counts as failed.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Ticket {
    tap: Arc<hrl::capture::Tap>,
    extent: Extent,
    inner: Mutex<Option<hrl::capture::Ticket>>,
}

impl Ticket {
    fn take(&self) -> Option<hrl::capture::Ticket> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn end<T: Send>(
        &self,
        py: Python<'_>,
        end: impl FnOnce(&hrl::capture::Tap, hrl::capture::Ticket) -> T + Send,
    ) -> PyResult<T> {
        let ticket = self.take().ok_or_else(|| PyValueError::new_err("the ticket has ended"))?;
        run(py, || Ok(end(&self.tap, ticket)))
    }
}

#[pymethods]
impl Ticket {
    #[getter]
    fn offset(&self) -> u64 {
        self.extent.offset
    }

    #[getter]
    fn length(&self) -> u64 {
        self.extent.length
    }

    fn complete(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let data = Incoming::with(data, |data| {
            if data.length() as u64 == self.extent.length {
                return Ok(data.into_buffer(py));
            }
            Err(PyValueError::new_err(format!(
                "the ticket is for {} bytes, and {} are given",
                self.extent.length,
                data.length()
            )))
        })?;
        self.end(py, |tap, ticket| tap.complete(ticket, Change::Write(data)).0)
    }

    fn zeroed(&self, py: Python<'_>) -> PyResult<u64> {
        self.end(py, |tap, ticket| tap.complete(ticket, Change::Zero).0)
    }

    fn discarded(&self, py: Python<'_>, left: &str) -> PyResult<u64> {
        let left = discarded(left)?;
        self.end(py, |tap, ticket| tap.complete(ticket, Change::Discard(left)).0)
    }

    fn fail(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::capture::Tap::fail)
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::capture::Tap::cancel)
    }
}

ends_with_block!(Ticket, |it, _py| {
    if let Some(ticket) = it.take() {
        it.tap.fail(ticket);
    }
});

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nobody said what was done, so the range is read again.
        if let Some(ticket) = self.take() {
            self.tap.fail(ticket);
        }
    }
}
