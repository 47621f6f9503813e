//! A store that fails on demand, for tests.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{ObjectInfo, PutOutcome, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock::Mutex;

/// How a put fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Nothing is stored, and the error has this kind.
    Refused(ErrorKind),
    /// The object is stored, but the answer is lost: `Unavailable`.
    AnswerLost,
}

/// A store over another one, with faults switched on and off while it is used.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    down: AtomicBool,
    puts: AtomicU64,
    fault: Mutex<Option<(StoreFault, u64)>>,
    calls: AtomicU64,
    calls_max: AtomicU64,
}

impl FaultStore {
    /// Passes everything on to `inner`, until faults are set.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            down: AtomicBool::new(false),
            puts: AtomicU64::new(0),
            fault: Mutex::new(None),
            calls: AtomicU64::new(0),
            calls_max: AtomicU64::new(u64::MAX),
        }
    }

    /// Sets whether every verb fails with `Unavailable`.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Makes the next `count` puts fail this way.
    pub fn fail_puts(&self, fault: StoreFault, count: u64) {
        *self.fault.lock() = Some((fault, count));
    }

    /// Passes `count` more calls of any verb on, and fails every later one with `Unavailable`, as a
    /// crash between two calls does. `u64::MAX` removes the limit.
    pub fn fail_after(&self, count: u64) {
        self.calls.store(0, Ordering::SeqCst);
        self.calls_max.store(count, Ordering::SeqCst);
    }

    /// Returns the number of calls since the last [`FaultStore::fail_after`], failed ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns the number of puts passed on so far.
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    fn check(&self, operation: &'static str, name: &str) -> Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) || number >= self.calls_max.load(Ordering::SeqCst) {
            return Err(
                Error::new(ErrorKind::Unavailable, operation, name).message("the store is down")
            );
        }
        Ok(())
    }

    fn take_fault(&self) -> Option<StoreFault> {
        let mut fault = self.fault.lock();
        let (kind, left) = (*fault)?;
        *fault = (left > 1).then_some((kind, left - 1));
        Some(kind)
    }
}

impl Store for FaultStore {
    fn name(&self) -> String {
        format!("faulty {}", self.inner.name())
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.check("put to store", name)?;
        match self.take_fault() {
            Some(StoreFault::Refused(kind)) => {
                Err(Error::new(kind, "put to store", name).message("refused"))
            }
            Some(StoreFault::AnswerLost) => {
                self.inner.put(name, content)?;
                Err(Error::new(ErrorKind::Unavailable, "put to store", name)
                    .message("the answer was lost"))
            }
            None => {
                self.puts.fetch_add(1, Ordering::SeqCst);
                self.inner.put(name, content)
            }
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.check("get from store", name)?;
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.check("list store", prefix)?;
        self.inner.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.check("look into store", name)?;
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.check("delete from store", name)?;
        self.inner.delete(name)
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        self.check("delete from store", names.first().map_or("", |name| name))?;
        self.inner.delete_many(names)
    }

    fn may_delete(&self) -> bool {
        self.inner.may_delete()
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        self.inner.is_locked(name)
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.inner.renew_locks(prefix, is_unwanted)
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        if self.down.load(Ordering::SeqCst) { None } else { self.inner.local_path(name) }
    }
}
