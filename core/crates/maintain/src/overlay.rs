//! A vault as it would be with what was deleted: a store to read, over the real one.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{Error, ErrorKind, Result};

/// The store below, with objects out of tombstones over it. Nothing can be written.
pub(crate) struct Overlay {
    pub inner: Arc<dyn Store>,
    /// Objects out of tombstones, which win over those below.
    pub restored: BTreeMap<String, Arc<[u8]>>,
    /// Objects of the store below that are not shown.
    pub hidden: HashSet<String>,
}

impl Overlay {
    fn shows_below(&self, name: &str) -> bool {
        !self.restored.contains_key(name) && !self.hidden.contains(name)
    }
}

fn read_only(operation: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::ReadOnly, operation, name)
        .message("a vault as it would be with what was deleted can only be read")
}

impl Store for Overlay {
    fn name(&self) -> String {
        format!("{} with what was deleted", self.inner.name())
    }

    fn put(&self, name: &str, _content: &[u8]) -> Result<PutOutcome> {
        Err(read_only("put", name))
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let Some(content) = self.restored.get(name) else {
            if self.hidden.contains(name) {
                return Err(Error::new(ErrorKind::NotFound, "get", name));
            }
            return self.inner.get(name, range);
        };
        let within = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = within.and_then(|(start, end)| content.get(start..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "get", name)
                .expected(format_args!("a range within {} bytes", content.len()))
                .found(format_args!("{} to {}", range.start, range.end))
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = self.inner.list(prefix)?;
        found.retain(|info| self.shows_below(&info.name));
        let restored = self.restored.iter().filter(|(name, _)| name.starts_with(prefix));
        found.extend(restored.map(|(name, content)| ObjectInfo {
            name: name.clone(),
            length: content.len() as u64,
        }));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        match self.restored.get(name) {
            Some(content) => {
                Ok(Some(ObjectInfo { name: name.to_owned(), length: content.len() as u64 }))
            }
            None if self.hidden.contains(name) => Ok(None),
            None => self.inner.head(name),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        Err(read_only("delete", name))
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        if self.shows_below(name) { self.inner.local_path(name) } else { None }
    }
}
