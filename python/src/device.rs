//! `Device` and its kinds: memory, file, overlay, and the volume of a protection.
//!
//! `Device` has the methods of everything that can be read and written, and each kind adds how it is opened. A call that takes
//! a device also takes a path, or an object with the methods of `hrl.BlockDevice`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use hrl::Extent;
use hrl::device::{Access, BlockDevice, DirectIo, Durability, FileDeviceOptions, Unmap};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{Incoming, Target};
use crate::callback_device::{CallbackDevice, discarded_name};
use crate::errors::run;
use crate::extent::Extent as Range;
use crate::handle::Handle;
use crate::running::ends_with_block;
use crate::value::Shown;

/// Changing memory is copied and written in chunks of this size.
const CHUNK_BYTES: usize = 4 << 20;

/// The device behind a handle.
#[derive(Clone)]
pub(crate) enum Disk {
    Device(Arc<dyn BlockDevice>),
    Volume(Arc<hrl::capture::Volume>),
}

impl Disk {
    pub(crate) fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Device(device) => &**device,
            Self::Volume(volume) => &**volume,
        }
    }

    pub(crate) fn into_device(self) -> Arc<dyn BlockDevice> {
        match self {
            Self::Device(device) => device,
            Self::Volume(volume) => volume,
        }
    }

    fn write_changing(
        &self,
        py: Python<'_>,
        offset: u64,
        data: &crate::buffer::Exported,
        durability: Durability,
    ) -> PyResult<()> {
        let length = data.length();
        // Checked here, so that a write past the end changes nothing.
        let extent = Extent { offset, length: length as u64 };
        run(py, || {
            extent.check_within(self.device().size_bytes(), "write to", &self.device().name())
        })?;
        for start in (0..length).step_by(CHUNK_BYTES) {
            let chunk = data.copy(py, start..length.min(start + CHUNK_BYTES));
            let at = offset + start as u64;
            run(py, || match self {
                Self::Device(device) => device.write(at, &chunk, durability),
                Self::Volume(volume) => volume.write_buffer(at, chunk, durability),
            })?;
        }
        Ok(())
    }
}

/// A disk. It has no constructor of its own; its kinds do.
///
/// Any offset and length within the size is accepted. A call that reaches outside raises
/// `HrlError` and changes nothing.
#[pyclass(frozen, subclass, module = "hrl")]
pub(crate) struct Device {
    disk: Handle<Disk>,
}

impl Device {
    pub(crate) fn of(what: &'static str, disk: Disk) -> Self {
        Self { disk: Handle::new(what, disk) }
    }

    pub(crate) fn disk(&self) -> PyResult<Disk> {
        self.disk.get()
    }

    /// Closes it without waiting. Drop the result without the interpreter's lock.
    pub(crate) fn take(&self) -> Option<Disk> {
        self.disk.close()
    }
}

/// The durability that `durable=` asks for.
pub(crate) fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Cached }
}

#[pymethods]
impl Device {
    /// Name for errors and listings, such as a path.
    #[getter]
    fn name(&self) -> PyResult<String> {
        Ok(self.disk()?.device().name())
    }

    /// Size in bytes, which never changes.
    #[getter]
    fn size_bytes(&self) -> PyResult<u64> {
        Ok(self.disk()?.device().size_bytes())
    }

    /// Logical block size in bytes, a power of two. A write of one block is never torn.
    #[getter]
    fn block_bytes(&self) -> PyResult<u32> {
        Ok(self.disk()?.device().block_bytes())
    }

    /// Whether it refuses writes.
    #[getter]
    fn read_only(&self) -> PyResult<bool> {
        Ok(self.disk()?.device().is_read_only())
    }

    /// Whether it was closed, or the handle that it belongs to was stopped.
    #[getter]
    fn closed(&self) -> bool {
        self.disk.is_closed()
    }

    /// Returns `length` bytes from `offset`.
    pub(crate) fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let disk = self.disk()?;
        let device = disk.device();
        if length as u64 > device.size_bytes() {
            return Err(PyValueError::new_err(format!(
                "{length} bytes are more than {} has",
                device.name()
            )));
        }
        PyBytes::new_with(py, length, |buffer| run(py, || device.read(offset, buffer)))
    }

    /// Fills a writable, contiguous buffer from `offset` without a copy, and returns the number
    /// of bytes.
    ///
    /// The number is smaller than the buffer at the end of the disk only. No other thread may
    /// use the buffer meanwhile.
    ///
    /// >>> disk = hrl.MemoryDevice(1 << 20)
    /// >>> disk.write((1 << 20) - 3, b"end")
    /// >>> buffer = bytearray(b"........")
    /// >>> disk.readinto((1 << 20) - 3, buffer)
    /// 3
    /// >>> buffer
    /// bytearray(b'end.....')
    fn readinto(&self, py: Python<'_>, offset: u64, buffer: &Bound<'_, PyAny>) -> PyResult<usize> {
        let disk = self.disk()?;
        let device = disk.device();
        let mut target = Target::new(buffer)?;
        let left = device.size_bytes().saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(target.length());
        if length == 0 {
            return Ok(0);
        }
        let memory = target.first(length);
        run(py, || device.read(offset, memory))?;
        Ok(length)
    }

    /// Writes any contiguous buffer at `offset`. With `durable` it is on stable storage when
    /// the call returns.
    ///
    /// Immutable buffers (`bytes`, or a `memoryview` of them) are not copied here. Others are
    /// copied in chunks of 4 MiB while the interpreter's lock is held. The copy goes to the
    /// device and to the journal, so the two never differ even if another thread changes the
    /// buffer.
    #[pyo3(signature = (offset, data, *, durable=false))]
    pub(crate) fn write(
        &self,
        py: Python<'_>,
        offset: u64,
        data: &Bound<'_, PyAny>,
        durable: bool,
    ) -> PyResult<()> {
        let disk = self.disk()?;
        Incoming::with(data, |data| match data {
            Incoming::Fixed(bytes) => {
                run(py, || disk.device().write(offset, bytes, durability(durable)))
            }
            Incoming::Changing(data) => disk.write_changing(py, offset, &data, durability(durable)),
        })
    }

    /// Makes a range read as zeroes. With `unmap` blocks may become holes, which is cheaper.
    #[pyo3(signature = (offset, length, *, unmap=true, durable=false))]
    fn zero(
        &self,
        py: Python<'_>,
        offset: u64,
        length: u64,
        unmap: bool,
        durable: bool,
    ) -> PyResult<()> {
        let disk = self.disk()?;
        let unmap = if unmap { Unmap::Allowed } else { Unmap::Forbidden };
        run(py, || disk.device().zero(Extent { offset, length }, unmap, durability(durable)))
    }

    /// Reports to the device that a range is not needed any more.
    ///
    /// Returns how the range reads afterwards: as "zeroes", as anything ("undefined"), or as
    /// before ("ignored").
    fn discard(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<&'static str> {
        let disk = self.disk()?;
        run(py, || disk.device().discard(Extent { offset, length })).map(discarded_name)
    }

    /// Makes every finished write durable. After a failed flush the device refuses writes until
    /// it is reopened.
    pub(crate) fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let disk = self.disk()?;
        run(py, || disk.device().flush())
    }

    /// Closes the device. Calls under way end as usual.
    fn close(&self, py: Python<'_>) {
        let taken = self.take();
        py.detach(move || drop(taken));
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type().qualname()?;
        Ok(match slf.get().disk() {
            Ok(disk) => {
                let device = disk.device();
                format!("<{class} {}, {} bytes>", device.name(), device.size_bytes())
            }
            Err(_) => format!("<{class}, closed>"),
        })
    }
}

ends_with_block!(Device, |it, py| it.close(py));

/// A sparse disk in memory, for tests, benchmarks and scratch space. Unwritten ranges read
/// as zeroes.
///
/// >>> with hrl.MemoryDevice(1 << 40) as disk:
/// ...     disk.write(4096, b"hello")
/// ...     disk.read(4095, 7)
/// b'\x00hello\x00'
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct MemoryDevice;

#[pymethods]
impl MemoryDevice {
    #[new]
    fn new(size_bytes: u64) -> PyClassInitializer<Self> {
        let device = Arc::new(hrl::device::MemoryDevice::new(size_bytes));
        PyClassInitializer::from(Device::of("the device", Disk::Device(device))).add_subclass(Self)
    }
}

/// A disk in a regular file or on a block device.
///
/// `create_bytes` creates a sparse file of that size unless it exists. `direct` bypasses
/// the page cache: "always", "never", or "auto" if the file system supports it. `exclusive`
/// refuses a device that another process has opened in this way.
///
/// >>> with hrl.FileDevice("disk.img", create_bytes=1 << 20) as disk:
/// ...     disk.write(0, b"on disk", durable=True)
/// >>> open("disk.img", "rb").read(7)
/// b'on disk'
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct FileDevice;

#[pymethods]
impl FileDevice {
    #[new]
    #[pyo3(signature = (path, *, create_bytes=None, read_only=false, direct="auto", exclusive=false))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        create_bytes: Option<u64>,
        read_only: bool,
        direct: &str,
        exclusive: bool,
    ) -> PyResult<PyClassInitializer<Self>> {
        let direct = match direct {
            "auto" => DirectIo::Auto,
            "always" => DirectIo::Always,
            "never" => DirectIo::Never,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "direct={direct:?} is none of 'auto', 'always' and 'never'"
                )));
            }
        };
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        let options = FileDeviceOptions { access, direct, create_bytes, exclusive };
        let device = open_file(py, path, options)?;
        Ok(PyClassInitializer::from(Device::of("the device", Disk::Device(device)))
            .add_subclass(Self))
    }
}

fn open_file(
    py: Python<'_>,
    path: PathBuf,
    options: FileDeviceOptions,
) -> PyResult<Arc<dyn BlockDevice>> {
    run(py, || Ok(Arc::new(hrl::device::FileDevice::open(&path, &options)?) as _))
}

/// A writable device over another one, which stays as it is. Changes go to `scratch`.
///
/// Either may be a device or a path. A scratch file is created sparse, as large as the
/// base. The overlay reads from the scratch device only what it wrote there.
///
/// >>> base = hrl.MemoryDevice(1 << 20)
/// >>> trial = hrl.Overlay(base, hrl.MemoryDevice(1 << 20))
/// >>> trial.write(8192, b"a try")
/// >>> trial.read(8192, 5), base.read(8192, 5)
/// (b'a try', b'\x00\x00\x00\x00\x00')
/// >>> trial.changed()
/// [Extent(offset=8192, length=4096)]
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct Overlay {
    overlay: Weak<hrl::replica::Overlay>,
}

#[pymethods]
impl Overlay {
    #[new]
    fn new(base: Source, scratch: Source, py: Python<'_>) -> PyResult<PyClassInitializer<Self>> {
        let base =
            base.open(py, FileDeviceOptions { access: Access::ReadOnly, ..Default::default() })?;
        let scratch = scratch.open(py, scratch_options(base.size_bytes()))?;
        let overlay = Arc::new(run(py, || hrl::replica::Overlay::new(base, scratch))?);
        let device = Device::of("the overlay", Disk::Device(overlay.clone()));
        let overlay = Arc::downgrade(&overlay);
        Ok(PyClassInitializer::from(device).add_subclass(Self { overlay }))
    }

    /// Returns the blocks changed so far, by offset.
    fn changed(&self, py: Python<'_>) -> PyResult<Vec<Range>> {
        let closed = || PyValueError::new_err("the overlay is closed");
        let overlay = self.overlay.upgrade().ok_or_else(closed)?;
        let changed = py.detach(|| overlay.changed());
        Ok(changed.iter().map(Shown::shown).collect())
    }
}

/// Options for the scratch file of an overlay: created sparse, and cached, because its
/// loss does no harm.
pub(crate) fn scratch_options(size_bytes: u64) -> FileDeviceOptions {
    FileDeviceOptions {
        direct: DirectIo::Never,
        create_bytes: Some(size_bytes),
        ..Default::default()
    }
}

/// The volume of a protection, which captures every change through it. It is closed when
/// the protection is stopped.
///
/// A write that fails on the device is read back and journaled, or left to a resync. The
/// caller gets the error.
#[pyclass(frozen, extends = Device, module = "hrl")]
pub(crate) struct Volume;

impl Volume {
    pub(crate) fn of(py: Python<'_>, volume: Arc<hrl::capture::Volume>) -> PyResult<Py<Self>> {
        let device = Device::of("the volume", Disk::Volume(volume));
        Py::new(py, PyClassInitializer::from(device).add_subclass(Self))
    }
}

#[pymethods]
impl Volume {
    /// Opens a volume without protection, whose writes go straight to the device.
    #[staticmethod]
    fn unprotected(py: Python<'_>, device: Source) -> PyResult<Py<Self>> {
        let device =
            device.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        Self::of(py, Arc::new(hrl::capture::Volume::unprotected(device)))
    }

    /// Whether changes through it are captured.
    #[getter]
    fn is_protected(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match slf.as_super().get().disk()? {
            Disk::Volume(volume) => Ok(volume.tap().is_some()),
            Disk::Device(_) => Ok(false),
        }
    }
}

/// A device as a caller gives it.
pub(crate) enum Source {
    Open(Disk),
    Path(PathBuf),
    Callback(Arc<CallbackDevice>),
}

impl<'py> FromPyObject<'_, 'py> for Source {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(device) = given.cast::<Device>() {
            return Ok(Self::Open(device.get().disk()?));
        }
        if let Ok(path) = given.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        Ok(Self::Callback(Arc::new(CallbackDevice::new(&given)?)))
    }
}

impl Source {
    /// Opens the device. `options` apply to a path.
    pub(crate) fn open(
        self,
        py: Python<'_>,
        options: FileDeviceOptions,
    ) -> PyResult<Arc<dyn BlockDevice>> {
        match self {
            Self::Open(disk) => Ok(disk.into_device()),
            Self::Path(path) => open_file(py, path, options),
            Self::Callback(device) => Ok(device),
        }
    }
}
