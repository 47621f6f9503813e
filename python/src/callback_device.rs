//! Devices that Python code implements: objects with the methods of `hrl.BlockDevice`.

use hrl::device::{BlockDevice, Discarded, Durability, Unmap};
use hrl::{Error, ErrorKind, Extent};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffer::Incoming;
use crate::callback::{Object, need};
use crate::errors::raise;

/// Zeroes are written in chunks of this size where the device has no `zero`.
const ZEROES_BYTES: u64 = 1 << 20;

/// A device whose methods are those of a Python object.
pub(crate) struct CallbackDevice {
    object: Object,
    size_bytes: u64,
    block_bytes: u32,
    read_only: bool,
    zeroes: bool,
    discards: bool,
}

impl CallbackDevice {
    /// Asks the object for what never changes. `TypeError` names a missing method.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(
            object,
            "a path, a device of hrl or an object",
            &["size_bytes", "read", "write", "flush"],
        )?;
        let optional = |name: &str| object.getattr_opt(name);
        let block_bytes = optional("block_bytes")?.map_or(Ok(512), |value| value.extract())?;
        let size_bytes: u64 = object.getattr("size_bytes")?.extract()?;
        let device = Self {
            object: Object::new(object, ErrorKind::Io)?,
            size_bytes,
            block_bytes,
            read_only: optional("read_only")?.map_or(Ok(false), |value| value.extract())?,
            zeroes: optional("zero")?.is_some(),
            discards: optional("discard")?.is_some(),
        };
        if !block_bytes.is_power_of_two() || !size_bytes.is_multiple_of(block_bytes.into()) {
            return Err(raise(
                &device
                    .object
                    .wrong("use device")
                    .expected("a block size that is a power of two and divides the size")
                    .found(format_args!("blocks of {block_bytes} in {size_bytes} bytes")),
            ));
        }
        Ok(device)
    }

    fn check(&self, extent: Extent, operation: &'static str) -> hrl::Result<()> {
        extent.check_within(self.size_bytes, operation, &self.object.name)
    }
}

fn durably(py: Python<'_>, durability: Durability) -> PyResult<Bound<'_, PyDict>> {
    let options = PyDict::new(py);
    options.set_item("durable", durability == Durability::Durable)?;
    Ok(options)
}

impl BlockDevice for CallbackDevice {
    fn name(&self) -> String {
        self.object.name.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> hrl::Result<()> {
        self.check(Extent { offset, length: buffer.len() as u64 }, "read from")?;
        if buffer.is_empty() {
            return Ok(());
        }
        let given = self.object.call("read from", |object| {
            let given = object.call_method1("read", (offset, buffer.len()))?;
            Incoming::with(&given, |data| Ok(data.fill(object.py(), buffer)))
        })?;
        if given == buffer.len() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "read from", &self.object.name)
            .at(offset)
            .expected(format_args!("{} bytes", buffer.len()))
            .found(given))
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> hrl::Result<()> {
        self.check(Extent { offset, length: data.len() as u64 }, "write to")?;
        if data.is_empty() {
            return Ok(());
        }
        self.object.call("write to", |object| {
            let py = object.py();
            let options = durably(py, durability)?;
            object.call_method("write", (offset, PyBytes::new(py, data)), Some(&options))?;
            Ok(())
        })
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> hrl::Result<()> {
        self.check(extent, "zero")?;
        if extent.is_empty() {
            return Ok(());
        }
        if self.zeroes {
            return self.object.call("zero", |object| {
                let options = durably(object.py(), durability)?;
                options.set_item("unmap", unmap == Unmap::Allowed)?;
                object.call_method("zero", (extent.offset, extent.length), Some(&options))?;
                Ok(())
            });
        }
        let zeroes = vec![0; extent.length.min(ZEROES_BYTES) as usize];
        let mut at = extent.offset;
        while at < extent.end() {
            let length = (extent.end() - at).min(ZEROES_BYTES);
            self.write(at, &zeroes[..length as usize], durability)?;
            at += length;
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> hrl::Result<Discarded> {
        self.check(extent, "discard")?;
        if !self.discards || extent.is_empty() {
            return Ok(Discarded::Ignored);
        }
        self.object.call("discard", |object| {
            let left = object.call_method1("discard", (extent.offset, extent.length))?;
            discarded(&left.extract::<String>()?)
        })
    }

    fn flush(&self) -> hrl::Result<()> {
        self.object.call("flush", |object| object.call_method0("flush").map(drop))
    }
}

/// The result of a discard by its name.
pub(crate) fn discarded(name: &str) -> PyResult<Discarded> {
    [Discarded::Zeroes, Discarded::Undefined, Discarded::Ignored]
        .into_iter()
        .find(|known| discarded_name(*known) == name)
        .ok_or_else(|| {
            PyValueError::new_err(format!(
                "{name:?} is none of 'zeroes', 'undefined' and 'ignored'"
            ))
        })
}

/// The name of a discard's result.
pub(crate) fn discarded_name(discarded: Discarded) -> &'static str {
    match discarded {
        Discarded::Zeroes => "zeroes",
        Discarded::Undefined => "undefined",
        Discarded::Ignored => "ignored",
    }
}
