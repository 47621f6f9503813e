//! Devices, stores, quiescing and hosts of plans that Python code implements: objects with the methods of `hrl.BlockDevice`,
//! `hrl.Store`, `hrl.Quiesce` and `hrl.PlanHost`.
//!
//! The interpreter's lock is taken inside each call and only there, so such an object may be used from any thread of
//! ours; two calls may still run at once where its methods release the lock themselves. What it gives is checked before
//! it is believed. An exception becomes an error with the exception as its source.

use std::ops::Range;

use hrl::device::{BlockDevice, Discarded, Durability, Unmap};
use hrl::store::{ObjectInfo, PutOutcome, Store, check_name};
use hrl::{Error, ErrorKind, Extent, PointId, Quiesce, QuiesceRequest, Sequence, Timestamp};
use hrl_plan::{Member, PlanHost, StartRequest, Started};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffer::Incoming;
use crate::errors::{from_callback, shutting_down};
use crate::plan::{PlanMember, PlanRequest};

/// Zeroes are written in pieces of this size where the device has no `zero`.
const ZEROES_BYTES: u64 = 1 << 20;

/// An object of the caller's.
struct Object {
    object: Py<PyAny>,
    name: String,
    /// The kind of an exception that tells nothing.
    otherwise: ErrorKind,
}

impl Object {
    fn new(object: &Bound<'_, PyAny>, otherwise: ErrorKind) -> PyResult<Self> {
        let name = match object.getattr("name").and_then(|name| name.extract::<String>()) {
            Ok(name) => name,
            Err(_) => object.get_type().qualname()?.to_string(),
        };
        Ok(Self { object: object.clone().unbind(), name, otherwise })
    }

    /// Runs `work` with the interpreter's lock.
    fn call<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> hrl::Result<T> {
        let done = Python::try_attach(|py| {
            work(self.object.bind(py))
                .map_err(|raised| from_callback(py, raised, operation, &self.name, self.otherwise))
        });
        done.unwrap_or_else(|| Err(shutting_down(operation, &self.name)))
    }

    fn wrong(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::InvalidInput, operation, &self.name)
    }
}

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
    /// Asks the object for what never changes. `TypeError` names a method that it lacks.
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
            return Err(crate::errors::raise(
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

/// `TypeError` unless the object has all of `names`.
fn need(object: &Bound<'_, PyAny>, expected: &str, names: &[&str]) -> PyResult<()> {
    for name in names {
        if !object.hasattr(*name)? {
            return Err(PyTypeError::new_err(format!(
                "expected {expected} with {}; {} has no {name}",
                names.join(", "),
                object.get_type().qualname()?
            )));
        }
    }
    Ok(())
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

/// What a discard left, by its name.
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

/// The name of what a discard left.
pub(crate) fn discarded_name(discarded: Discarded) -> &'static str {
    match discarded {
        Discarded::Zeroes => "zeroes",
        Discarded::Undefined => "undefined",
        Discarded::Ignored => "ignored",
    }
}

/// A store whose verbs are the methods of a Python object.
pub(crate) struct CallbackStore {
    object: Object,
}

impl CallbackStore {
    /// `TypeError` names a verb that the object lacks.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "a store", &["put_if_absent", "get", "list", "head", "delete"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }

    /// Calls a verb on an object of the store; `KeyError`, as of a dict, says that it is absent.
    fn call<T>(
        &self,
        operation: &'static str,
        name: &str,
        work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> hrl::Result<T> {
        let done = Python::try_attach(|py| {
            work(self.object.object.bind(py)).map_err(|raised| {
                let absent = raised.is_instance_of::<PyKeyError>(py);
                let kind = if absent { ErrorKind::NotFound } else { self.object.otherwise };
                from_callback(py, raised, operation, name, kind)
            })
        });
        done.unwrap_or_else(|| Err(shutting_down(operation, name)))
    }
}

impl Store for CallbackStore {
    fn name(&self) -> String {
        self.object.name.clone()
    }

    fn put(&self, name: &str, content: &[u8]) -> hrl::Result<PutOutcome> {
        check_name(name)?;
        let created = self.call("put object", name, |store| {
            let content = PyBytes::new(store.py(), content);
            store.call_method1("put_if_absent", (name, content))?.extract::<bool>()
        })?;
        Ok(if created { PutOutcome::Created } else { PutOutcome::AlreadyExists })
    }

    fn get(&self, name: &str, range: Range<u64>) -> hrl::Result<Vec<u8>> {
        check_name(name)?;
        let length = range.end.saturating_sub(range.start);
        let content = self.call("get object", name, |store| {
            let given = store.call_method1("get", (name, range.start, length))?;
            Incoming::with(&given, |data| Ok(data.to_vec(store.py())))
        })?;
        if content.len() as u64 == length {
            return Ok(content);
        }
        Err(Error::new(ErrorKind::InvalidInput, "get object", name)
            .at(range.start)
            .expected(format_args!("{length} bytes"))
            .found(content.len()))
    }

    fn list(&self, prefix: &str) -> hrl::Result<Vec<ObjectInfo>> {
        let mut found = self.call("list objects", prefix, |store| {
            let listed = store.call_method1("list", (prefix,))?;
            listed
                .try_iter()?
                .map(|item| {
                    let (name, length) = item?.extract()?;
                    Ok(ObjectInfo { name, length })
                })
                .collect::<PyResult<Vec<_>>>()
        })?;
        if let Some(stray) = found.iter().find(|info| !info.name.starts_with(prefix)) {
            return Err(self
                .object
                .wrong("list objects of")
                .expected(format_args!("names that begin with {prefix}"))
                .found(&stray.name));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn head(&self, name: &str) -> hrl::Result<Option<ObjectInfo>> {
        check_name(name)?;
        let length = self.call("look up object", name, |store| {
            store.call_method1("head", (name,))?.extract::<Option<u64>>()
        });
        match length {
            Ok(length) => Ok(length.map(|length| ObjectInfo { name: name.to_owned(), length })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn delete(&self, name: &str) -> hrl::Result<()> {
        check_name(name)?;
        match self
            .call("delete object", name, |store| store.call_method1("delete", (name,)).map(drop))
        {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// A host of plans whose methods are those of a Python object.
pub(crate) struct CallbackHost {
    object: Object,
}

impl CallbackHost {
    /// `TypeError` names a method that the object lacks.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "a host of plans", &["start", "commit", "clean_up"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }

    fn ask<T>(
        &self,
        method: &'static str,
        member: &Member,
        request: &StartRequest<'_>,
        read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> hrl::Result<T> {
        let done = Python::try_attach(|py| {
            let arguments = (PlanMember::from(member), PlanRequest::from(request));
            let given = self.object.object.bind(py).call_method1(method, arguments);
            given.and_then(|given| read(&given)).map_err(|raised| {
                from_callback(py, raised, method, &member.volume, self.object.otherwise)
            })
        });
        done.unwrap_or_else(|| Err(shutting_down(method, &member.volume)))
    }
}

impl PlanHost for CallbackHost {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<Started> {
        self.ask("start", member, request, started)
    }

    fn commit(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<()> {
        self.ask("commit", member, request, |_| Ok(()))
    }

    fn clean_up(&self, member: &Member, request: &StartRequest<'_>) -> hrl::Result<()> {
        self.ask("clean_up", member, request, |_| Ok(()))
    }
}

/// What a host says of a volume that is up: a mapping.
fn started(given: &Bound<'_, PyAny>) -> PyResult<Started> {
    let wrong = |name: &str, found: &str| {
        PyValueError::new_err(format!("start gave no good {name}: {found:?}"))
    };
    let point: Option<String> = given.get_item("point")?.extract()?;
    let time: String = given.get_item("point_time")?.extract()?;
    Ok(Started {
        uri: given.get_item("uri")?.extract()?,
        point: point
            .map(|text| PointId::parse(&text).ok_or_else(|| wrong("point", &text)))
            .transpose()?,
        sequence: Sequence(given.get_item("sequence")?.extract()?),
        point_time: Timestamp::parse(&time).map_err(|_| wrong("point_time", &time))?,
    })
}

/// An application that a Python object quiesces.
pub(crate) struct CallbackQuiesce {
    object: Object,
}

impl CallbackQuiesce {
    /// `TypeError` names a method that the object lacks.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "an object", &["quiesce", "release"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }
}

impl Quiesce for CallbackQuiesce {
    fn name(&self) -> String {
        self.object.name.clone()
    }

    fn quiesce(&self, request: &QuiesceRequest) -> hrl::Result<()> {
        self.object.call("quiesce", |object| {
            object.call_method1("quiesce", (request.limit.as_secs_f64(),)).map(drop)
        })
    }

    fn release(&self) -> hrl::Result<()> {
        self.object.call("release", |object| object.call_method0("release").map(drop))
    }
}
