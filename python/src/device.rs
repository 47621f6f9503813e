//! `Device` and its kinds: memory, file, overlay, and the volume of a protection.
//!
//! One class has the methods, so that everything that can be read and written is used in the same way, and each kind adds
//! how it is opened. Anything that takes a device also takes a path, or an object with the methods of `hrl.BlockDevice`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use hrl::Extent;
use hrl::device::{Access, BlockDevice, DirectIo, Durability, FileDeviceOptions, Unmap};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{Incoming, Target};
use crate::callback::{CallbackDevice, discarded_name};
use crate::errors::run;
use crate::handle::Handle;
use crate::running::ends_with_block;

/// Changing memory is copied and written in pieces of this size.
const PIECE_BYTES: usize = 4 << 20;

/// What a handle reads and writes.
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
        // All or nothing, as far as that can be known before.
        let extent = Extent { offset, length: length as u64 };
        run(py, || {
            extent.check_within(self.device().size_bytes(), "write to", &self.device().name())
        })?;
        for start in (0..length).step_by(PIECE_BYTES) {
            let piece = data.copy(py, start..length.min(start + PIECE_BYTES));
            let at = offset + start as u64;
            run(py, || match self {
                Self::Device(device) => device.write(at, &piece, durability),
                Self::Volume(volume) => volume.write_buffer(at, piece, durability),
            })?;
        }
        Ok(())
    }
}

/// A disk. It has no constructor of its own.
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

    /// Closes without waiting; what it was is given out to be dropped without the interpreter's lock.
    pub(crate) fn take(&self) -> Option<Disk> {
        self.disk.close()
    }
}

/// The choice between `Cached` and `Durable`, as Python callers make it.
pub(crate) fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Cached }
}

#[pymethods]
impl Device {
    #[getter]
    fn name(&self) -> PyResult<String> {
        Ok(self.disk()?.device().name())
    }

    #[getter]
    fn size_bytes(&self) -> PyResult<u64> {
        Ok(self.disk()?.device().size_bytes())
    }

    #[getter]
    fn block_bytes(&self) -> PyResult<u32> {
        Ok(self.disk()?.device().block_bytes())
    }

    #[getter]
    fn read_only(&self) -> PyResult<bool> {
        Ok(self.disk()?.device().is_read_only())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.disk.is_closed()
    }

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

    fn discard(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<&'static str> {
        let disk = self.disk()?;
        run(py, || disk.device().discard(Extent { offset, length })).map(discarded_name)
    }

    pub(crate) fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let disk = self.disk()?;
        run(py, || disk.device().flush())
    }

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

/// A sparse disk in memory.
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

/// A writable device over another one, which it leaves as it is.
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

    /// Offset and length of each run of blocks that differ from the base, or may.
    fn changed(&self, py: Python<'_>) -> PyResult<Vec<(u64, u64)>> {
        let closed = || PyValueError::new_err("the overlay is closed");
        let overlay = self.overlay.upgrade().ok_or_else(closed)?;
        let changed = py.detach(|| overlay.changed());
        Ok(changed.iter().map(|extent| (extent.offset, extent.length)).collect())
    }
}

/// How the scratch file of an overlay is opened: created sparse, and cached, because losing it loses nothing.
pub(crate) fn scratch_options(size_bytes: u64) -> FileDeviceOptions {
    FileDeviceOptions {
        direct: DirectIo::Never,
        create_bytes: Some(size_bytes),
        ..Default::default()
    }
}

/// The volume of a protection: every change through it is captured.
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
    /// A volume without protection.
    #[staticmethod]
    fn unprotected(py: Python<'_>, device: Source) -> PyResult<Py<Self>> {
        let device =
            device.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        Self::of(py, Arc::new(hrl::capture::Volume::unprotected(device)))
    }

    /// Changes through it are captured.
    #[getter]
    fn is_protected(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match slf.as_super().get().disk()? {
            Disk::Volume(volume) => Ok(volume.tap().is_some()),
            Disk::Device(_) => Ok(false),
        }
    }
}

/// What a caller gives for a device.
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
    /// The device; `options` are for a path.
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
