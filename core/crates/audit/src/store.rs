//! A store that records what is deleted through it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hrl::Result;
use hrl::store::{ObjectInfo, PutOutcome, Store};

use crate::entry::Entry;
use crate::writer::Audit;

/// Marks of the clock, of which each purge leaves a newer one. Their deletion is not recorded.
const CLOCK_MARKS: &str = "deleted/clock-";

/// A store over another one, for a program that deletes: each delete is in the audit log before it
/// is carried out. Puts are counted.
pub struct AuditedStore {
    inner: Arc<dyn Store>,
    audit: Arc<Audit>,
    client: String,
    role: String,
}

impl AuditedStore {
    /// Records what is done to `inner` by `client` in its role.
    pub fn new(inner: Arc<dyn Store>, audit: Arc<Audit>, client: &str, role: &str) -> Self {
        Self { inner, audit, client: client.to_owned(), role: role.to_owned() }
    }

    fn deleting(&self, names: &[String], delete: impl FnOnce() -> Result<()>) -> Result<()> {
        let is_of_interest = |name: &&String| !name.starts_with(CLOCK_MARKS);
        let names: Vec<_> = names.iter().filter(is_of_interest).cloned().collect();
        if names.is_empty() {
            return delete();
        }
        let now = self.audit.now();
        let entry = Entry::new(now, &self.client, &self.role, "delete", &names);
        self.audit.permit(&entry)?;
        delete().inspect_err(|error| self.audit.record(entry.failed(error)))
    }

    fn counted(&self, name: &str, outcome: PutOutcome, bytes: u64) -> PutOutcome {
        if outcome == PutOutcome::Created {
            self.audit.count(&self.client, &self.role, "put", name, bytes);
        }
        outcome
    }
}

impl Store for AuditedStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let outcome = self.inner.put(name, content)?;
        Ok(self.counted(name, outcome, content.len() as u64))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        let bytes = path.metadata().map_or(0, |known| known.len());
        let outcome = self.inner.put_file(name, path)?;
        Ok(self.counted(name, outcome, bytes))
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.deleting(&[name.to_owned()], || self.inner.delete(name))
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        self.deleting(names, || self.inner.delete_many(names))
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
        self.inner.local_path(name)
    }
}
