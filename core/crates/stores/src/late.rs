//! A store that is opened at the first request which can open it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{Error, ErrorKind, Result};

use crate::open_url;

/// A store that is known to exist and may be away. Each request tries to open it, until one can.
pub(crate) struct LateStore {
    url: String,
    opened: OnceLock<Arc<dyn Store>>,
}

impl LateStore {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), opened: OnceLock::new() }
    }

    /// Opens the store. `Unavailable` if it is not there.
    fn store(&self) -> Result<&dyn Store> {
        if let Some(opened) = self.opened.get() {
            return Ok(&**opened);
        }
        match open_url(&self.url) {
            Ok(store) => Ok(&**self.opened.get_or_init(|| store)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Unavailable, "open store", &self.url)
                    .message("the store is not there: is its file system mounted?")
                    .caused_by(error))
            }
            Err(error) => Err(error),
        }
    }
}

impl Store for LateStore {
    fn name(&self) -> String {
        self.opened.get().map_or_else(|| self.url.clone(), |opened| opened.name())
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.store()?.put(name, content)
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        self.store()?.put_file(name, path)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.store()?.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.store()?.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.store()?.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.store()?.delete(name)
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        self.store()?.delete_many(names)
    }

    fn may_delete(&self) -> bool {
        // Unknown until it is opened; a store that refuses says so then.
        self.opened.get().is_none_or(|opened| opened.may_delete())
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        self.store()?.is_locked(name)
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.store()?.renew_locks(prefix, is_unwanted)
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.opened.get()?.local_path(name)
    }
}
