//! Stores that Python code implements: objects with the methods of `hrl.Store`.

use std::ops::Range;

use hrl::store::{ObjectInfo, PutOutcome, Store, check_name};
use hrl::{Error, ErrorKind};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::Incoming;
use crate::callback::{Object, need};
use crate::errors::{from_callback, shutting_down};

/// A store whose verbs are the methods of a Python object.
pub(crate) struct CallbackStore {
    object: Object,
}

impl CallbackStore {
    /// `TypeError` names a missing verb.
    pub(crate) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        need(object, "a store", &["put_if_absent", "get", "list", "head", "delete"])?;
        Ok(Self { object: Object::new(object, ErrorKind::Unavailable)? })
    }

    /// Calls a verb on an object of the store. A `KeyError`, as a dict raises it, means that
    /// the object is absent.
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
