//! Memory of Python objects, in both directions; the only unsafe code of the package.
//!
//! In: any C-contiguous buffer. Immutable ones (`bytes`, a `memoryview` of `bytes` or of a record's data) are borrowed.
//! Others are copied once, with the interpreter's lock held. The copy goes to the device *and* to the journal, so a thread
//! that changes the caller's buffer meanwhile changes neither (promise 2).
//!
//! Out: `readinto` reads straight into the caller's memory, as `io.RawIOBase.readinto` does. The data of a record is shown
//! read-only and without a copy. It lives as long as a view of it.

#![allow(unsafe_code, reason = "memory that another language owns")]

use std::ffi::c_int;
use std::ops::Range;
use std::sync::Arc;

use hrl::device::Buffer;
use hrl::journal::Frame;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

/// Bytes that a caller gave.
pub(crate) enum Incoming<'a> {
    /// They cannot change while the caller's reference lives.
    Fixed(&'a [u8]),
    /// They may change at any time.
    Changing(Exported),
}

/// The memory of a buffer, held in place by its export.
pub(crate) struct Exported {
    buffer: PyUntypedBuffer,
}

impl Incoming<'_> {
    /// `BufferError` for memory with gaps, `TypeError` for what has no buffer.
    pub(crate) fn with<R>(
        data: &Bound<'_, PyAny>,
        work: impl FnOnce(Incoming<'_>) -> PyResult<R>,
    ) -> PyResult<R> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return work(Incoming::Fixed(bytes.as_bytes()));
        }
        let exported = Exported::new(data)?;
        if !shows_fixed_memory(data) {
            return work(Incoming::Changing(exported));
        }
        let (start, length) = (exported.buffer.buf_ptr().cast::<u8>(), exported.length());
        if length == 0 {
            return work(Incoming::Fixed(&[]));
        }
        // SAFETY: the export, which lives until after `work`, holds `length` bytes from `start` in place. They are the
        // memory of a bytes object or a journal frame, which nothing changes once it exists.
        work(Incoming::Fixed(unsafe { std::slice::from_raw_parts(start, length) }))
    }

    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes.len(),
            Self::Changing(exported) => exported.length(),
        }
    }

    /// Copies all of it into a buffer that can be journaled.
    pub(crate) fn into_buffer(self, py: Python<'_>) -> Buffer {
        match self {
            Self::Fixed(bytes) => Buffer::copy_of(bytes),
            Self::Changing(exported) => exported.copy(py, 0..exported.length()),
        }
    }

    /// Copies all of it.
    pub(crate) fn to_vec(&self, py: Python<'_>) -> Vec<u8> {
        let mut copy = vec![0; self.length()];
        self.fill(py, &mut copy);
        copy
    }

    /// Copies it to `target` when it is exactly as long; gives its length.
    pub(crate) fn fill(&self, py: Python<'_>, target: &mut [u8]) -> usize {
        if self.length() == target.len() {
            match self {
                Self::Fixed(bytes) => target.copy_from_slice(bytes),
                Self::Changing(exported) => exported.copy_to(py, 0, target),
            }
        }
        self.length()
    }
}

/// Whether it is a view of an object whose bytes never change. (`readonly` says less: it
/// is set for views of a bytearray, too.)
fn shows_fixed_memory(data: &Bound<'_, PyAny>) -> bool {
    data.is_exact_instance_of::<PyMemoryView>()
        && data.getattr("obj").is_ok_and(|owner| {
            owner.is_exact_instance_of::<PyBytes>() || owner.is_exact_instance_of::<RecordData>()
        })
}

impl Exported {
    fn new(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        // Some exporters, such as ctypes, leave fields out that a memoryview fills in.
        let buffer = PyUntypedBuffer::get(data).or_else(|error| {
            let view = PyMemoryView::from(data).map_err(|_| error)?;
            PyUntypedBuffer::get(view.as_any())
        })?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not contiguous"));
        }
        Ok(Self { buffer })
    }

    pub(crate) fn length(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// Copies a part of it now.
    pub(crate) fn copy(&self, py: Python<'_>, part: Range<usize>) -> Buffer {
        let mut copy = Buffer::zeroed(part.len());
        self.copy_to(py, part.start, &mut copy);
        copy
    }

    /// Copies what it holds now, from byte `start` on. The token says that the interpreter's
    /// lock is held.
    fn copy_to(&self, _py: Python<'_>, start: usize, target: &mut [u8]) {
        let end = start.checked_add(target.len());
        assert!(end.is_some_and(|end| end <= self.length()), "a part of the buffer");
        if target.is_empty() {
            return;
        }
        // SAFETY: the export holds `length` bytes in place, and what is read is within them; `target` is memory of ours
        // that is not exported, so the two do not overlap. No reference to the caller's memory is made: code that runs
        // without the interpreter's lock may change it while it is read, and then some bytes are old and some new.
        unsafe {
            let from = self.buffer.buf_ptr().cast::<u8>().add(start);
            from.copy_to_nonoverlapping(target.as_mut_ptr(), target.len());
        }
    }
}

/// Memory of the caller that a read fills.
pub(crate) struct Target {
    buffer: PyUntypedBuffer,
}

impl Target {
    /// `BufferError` unless it is writable and contiguous.
    pub(crate) fn new(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Exported { buffer } = Exported::new(data)?;
        if buffer.readonly() {
            return Err(PyBufferError::new_err("the buffer is read-only"));
        }
        Ok(Self { buffer })
    }

    pub(crate) fn length(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// The first `length` bytes of it, at least one.
    pub(crate) fn first(&mut self, length: usize) -> &mut [u8] {
        assert!((1..=self.length()).contains(&length), "within the buffer");
        // SAFETY: the export, which lives as long as `self`, holds at least `length` writable bytes in place, and `self`
        // is borrowed for as long as the slice lives. That no other thread uses them during the call is the contract of
        // `readinto`, here as in `io`; devices only write to what they are given to fill, so one that does all the same
        // finds old and new bytes mixed, and nothing else.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.buf_ptr().cast(), length) }
    }
}

/// The data of one record, as an object that `memoryview` looks into. It keeps the frame
/// alive, not the segment.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct RecordData {
    frame: Arc<Frame>,
    part: Range<usize>,
}

impl RecordData {
    /// A read-only view of `part` of the frame's data area.
    pub(crate) fn view(
        py: Python<'_>,
        frame: Arc<Frame>,
        part: Range<usize>,
    ) -> PyResult<Bound<'_, PyMemoryView>> {
        PyMemoryView::from(Bound::new(py, Self { frame, part })?.as_any())
    }
}

#[pymethods]
impl RecordData {
    /// Shows the bytes, read-only.
    ///
    /// # Safety
    /// `view` is null or valid, as the interpreter passes it.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let data = slf.get();
        let bytes = &data.frame.data()[data.part.clone()];
        // SAFETY: `view` is the interpreter's. The bytes belong to the frame, which is never changed and which the object
        // holds; the view holds a reference to the object. Writable views are refused (the 1).
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len().cast_signed(),
                1,
                flags,
            )
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
