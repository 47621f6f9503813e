//! `Tap` and `Ticket`, for programs that do the I/O themselves.

use std::sync::Arc;

use hrl::capture::Change;
use hrl::sync::lock::Mutex;
use hrl::{Error, ErrorKind, Extent};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::Incoming;
use crate::callback_device::discarded;
use crate::errors::run;
use crate::handle::Handle;
use crate::running::ends_with_block;
use crate::wait::{in_slices, seconds_or_ever};

/// The write order of a protected volume, for callers that do the I/O themselves. It is
/// closed with the protection.
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
    /// Asks for permission to change a range.
    ///
    /// Waits while an overlapping change is in flight, or while the regions are not durably
    /// marked as dirty. Raises `UnavailableError` after `limit` seconds; None waits without a
    /// limit.
    ///
    /// >>> vault = hrl.Vault("vault", create=True)
    /// >>> disk = hrl.MemoryDevice(1 << 20)
    /// >>> with hrl.Protection(disk, vault=vault, state="state", volume="v") as protection:
    /// ...     protection.wait_ordered()
    /// ...     with protection.tap.begin(4096, 5) as ticket:
    /// ...         disk.write(4096, b"hello")  # in your own way
    /// ...         sequence = ticket.complete(b"hello")
    /// ...     point = protection.mark()
    /// ...     sequence == protection.wait_replicated() - 1
    /// True
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
        let left = seconds_or_ever(limit)?;
        let ticket = in_slices(
            py,
            left,
            |slice| tap.begin_within(extent, slice),
            || {
                Error::new(ErrorKind::Unavailable, "change", "volume")
                    .at(offset)
                    .expected(format_args!("a ticket within {} s", limit.unwrap_or_default()))
                    .found("an overlapping change in flight, or a region not marked yet")
            },
        )?;
        Ok(Ticket { tap, extent, inner: Mutex::new(Some(ticket)) })
    }

    /// Records a flush of the writer and returns the newest sequence. Call it after the
    /// device's own flush.
    fn flush(&self, py: Python<'_>) -> PyResult<u64> {
        let tap = self.inner.get()?;
        Ok(py.detach(|| tap.flush()).0)
    }

    /// Mode of capture.
    #[getter]
    fn mode(&self) -> PyResult<&'static str> {
        Ok(self.inner.get()?.mode().name())
    }

    /// Newest sequence.
    #[getter]
    fn last_sequence(&self) -> PyResult<u64> {
        Ok(self.inner.get()?.stats().last_sequence.0)
    }

    fn __repr__(&self) -> String {
        match self.inner.get() {
            Ok(tap) => {
                format!("<Tap, {}, sequence {}>", tap.mode().name(), tap.stats().last_sequence)
            }
            Err(_) => "<Tap, closed>".to_owned(),
        }
    }
}

/// Permission to change a range. It ends with one of `complete`, `zeroed`, `discarded`,
/// `fail` and `cancel`.
///
/// A `with` block that ends without any of them counts as `fail`, and so does a ticket that
/// is garbage-collected.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Ticket {
    tap: Arc<hrl::capture::Tap>,
    extent: Extent,
    inner: Mutex<Option<hrl::capture::Ticket>>,
}

impl Ticket {
    fn take(&self) -> Option<hrl::capture::Ticket> {
        self.inner.lock().take()
    }

    /// Fails the ticket unless it has ended: what was done is not known, so the range is
    /// read again.
    fn abandon(&self) {
        if let Some(ticket) = self.take() {
            self.tap.fail(ticket);
        }
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
    /// First byte that may be changed.
    #[getter]
    fn offset(&self) -> u64 {
        self.extent.offset
    }

    /// Number of bytes that may be changed.
    #[getter]
    fn length(&self) -> u64 {
        self.extent.length
    }

    /// Reports that the device holds these bytes, as many as the ticket is for. Never waits.
    ///
    /// The bytes are copied now and must be those that were written. Returns the sequence of
    /// the newest record.
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

    /// Reports that the range reads as zeroes now. Returns the sequence of the newest
    /// record.
    fn zeroed(&self, py: Python<'_>) -> PyResult<u64> {
        self.end(py, |tap, ticket| tap.complete(ticket, Change::Zero).0)
    }

    /// Reports that the range was discarded and now reads as `left` says. Returns the sequence
    /// of the newest record.
    fn discarded(&self, py: Python<'_>, left: &str) -> PyResult<u64> {
        let left = discarded(left)?;
        self.end(py, |tap, ticket| tap.complete(ticket, Change::Discard(left)).0)
    }

    /// Reports that the device failed. The range is read again, and no point is taken until
    /// then.
    fn fail(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::capture::Tap::fail)
    }

    /// Reports that nothing was done to the device.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, hrl::capture::Tap::cancel)
    }

    fn __repr__(&self) -> String {
        let Extent { offset, length } = self.extent;
        format!("<Ticket for {length} bytes at {offset}>")
    }
}

ends_with_block!(Ticket, |it, py| py.detach(|| it.abandon()));

impl Drop for Ticket {
    fn drop(&mut self) {
        // A thread that reports an event may have the tap and wait for the interpreter's lock.
        Python::attach(|py| py.detach(|| self.abandon()));
    }
}
