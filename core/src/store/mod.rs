//! Object stores: where segments, images and catalogs lie between two hops and in the vault.
//!
//! A store needs five verbs. "Put if absent" is the only conditional one, and the only
//! compare-and-swap that the crate needs. Names are `/`-separated parts of `A-Z a-z 0-9 . _ -`,
//! none of which begins with `.`.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod dir;
#[cfg(any(test, feature = "testing"))]
mod fault;
mod probe;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use dir::DirStore;
#[cfg(any(test, feature = "testing"))]
pub use fault::{FaultStore, StoreFault};
pub(crate) use probe::{PREFIX as PROBE_PREFIX, check_put_if_absent};

use crate::error::{Error, ErrorKind, Result};

/// Longest object name in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// Outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is new and durable.
    Created,
    /// An object of this name was there already and stays as it was.
    AlreadyExists,
}

/// Name and size of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Full name in the store.
    pub name: String,
    /// Size in bytes.
    pub length: u64,
}

/// A place for immutable objects.
///
/// Contract, checked by `store::conformance::check`:
/// - `put` creates the object whole and durably, or not at all; when several race on one name
///   exactly one creates it;
/// - an object never changes after its creation; `get` within its length returns exactly the bytes
///   asked for;
/// - `list` gives every object whose put returned before the call, sorted by name;
/// - `delete` of an absent object succeeds; of one that the store must keep for now it is `Denied`;
/// - a store that lost segments which it acknowledged (a gateway without its cache) reports that
///   once: it answers the next catalog version of the volume through the same handle with `Changed`
///   and does not put it;
/// - when the store cannot answer now the kind is `Unavailable` (or `Full`, `ReadOnly`), never
///   `NotFound`.
///
/// All methods may be called from any thread at once.
pub trait Store: Send + Sync {
    /// Returns a name for errors, for example a URL.
    fn name(&self) -> String;
    /// Creates `name` with `content` unless it exists. Durable when it returns.
    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome>;
    /// Creates `name` with the content of a local file, as `put` does. The file is durable and
    /// never changes again; it may be removed afterwards. Default: reads the file and puts its
    /// content.
    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        let content =
            std::fs::read(path).map_err(|error| Error::io("read file", path.display(), error))?;
        self.put(name, &content)
    }
    /// Returns the bytes `range` of an object. `InvalidInput` if the range exceeds its length,
    /// `NotFound` if it is absent.
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>>;
    /// Returns every object whose name starts with `prefix`, sorted by name.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;
    /// Returns the object's size; `None` if it is absent.
    fn head(&self, name: &str) -> Result<Option<ObjectInfo>>;
    /// Removes an object.
    fn delete(&self, name: &str) -> Result<()>;
    /// Removes many objects. All are gone when it returns; after an error any of them may be, and
    /// the call can be repeated. Default: one after the other. Stores that can remove many with one
    /// request do so.
    fn delete_many(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.delete(name))
    }
    /// Returns whether deleting is permitted to this handle. If it is not, as for a source behind a
    /// gateway, retention is left to others.
    fn may_delete(&self) -> bool {
        true
    }
    /// Returns whether the store must keep an object for now. Default false, for stores without
    /// locks.
    fn is_locked(&self, _name: &str) -> Result<bool> {
        Ok(false)
    }
    /// Renews the locks of objects whose names start with `prefix`, except those for which
    /// `is_unwanted` is true. Default: does nothing.
    fn renew_locks(&self, _prefix: &str, _is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        Ok(())
    }
    /// Returns the path of the object if it is a local file that can be memory-mapped.
    fn local_path(&self, _name: &str) -> Option<PathBuf> {
        None
    }
}

/// Deletes objects. Returns those that the store keeps for now, because they are locked or it says
/// `Denied`; try them again later.
pub fn delete_unlocked(store: &dyn Store, names: &[String]) -> Result<HashSet<String>> {
    let mut kept = HashSet::new();
    for name in names {
        if store.is_locked(name)? {
            kept.insert(name.clone());
        }
    }
    let free: Vec<_> = names.iter().filter(|name| !kept.contains(*name)).cloned().collect();
    let is_denied = |error: &Error| error.kind() == ErrorKind::Denied;
    match store.delete_many(&free) {
        Err(error) if is_denied(&error) => {}
        other => return other.map(|()| kept),
    }
    for name in free {
        match store.delete(&name) {
            Err(error) if is_denied(&error) => _ = kept.insert(name),
            other => other?,
        }
    }
    Ok(kept)
}

/// Reads a whole object of at most `length_max` bytes; `Corrupt` if it is longer.
pub fn get_all(store: &dyn Store, name: &str, length_max: u64) -> Result<Vec<u8>> {
    let info =
        store.head(name)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "read object", name))?;
    if info.length > length_max {
        return Err(Error::new(ErrorKind::Corrupt, "read object", name)
            .expected(format_args!("at most {length_max} bytes"))
            .found(info.length));
    }
    store.get(name, 0..info.length)
}

/// Returns `InvalidInput` unless `name` follows the rules at the head of this module.
pub fn check_name(name: &str) -> Result<()> {
    let part_is_good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.len() <= NAME_BYTES_MAX && name.split('/').all(part_is_good) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "name object", name)
        .expected("parts of A-Z a-z 0-9 . _ - separated by single slashes, at most 512 bytes"))
}
