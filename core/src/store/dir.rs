//! A directory as a store.
//!
//! A put writes a temporary file, syncs it, and links it to its name: the link is what makes it exist, once and whole.
//! Then the directory is synced, so a put that returned survives a power failure. Temporary names begin with `.`,
//! which no object name does; those that a crash left are removed when the store is opened by their age.
//! A root that has vanished (an unmounted disk) is an error of every verb, never an empty store.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Os, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{ObjectInfo, PutOutcome, Store, check_name};
use crate::error::{Error, ErrorKind, Result};

/// A temporary file older than this was left by a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// A directory as a store. Several processes may use one at once.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    temporary: AtomicU64,
}

impl DirStore {
    /// Opens an existing directory. `NotFound` when it is absent, `InvalidInput` when it is something else.
    pub fn open(root: &Path) -> Result<Self> {
        let metadata =
            fs::metadata(root).map_err(|error| Error::io("open store", root.display(), error))?;
        if !metadata.is_dir() {
            return Err(Error::new(ErrorKind::InvalidInput, "open store", root.display())
                .expected("a directory")
                .found("something else"));
        }
        let store = Self { root: root.to_owned(), temporary: AtomicU64::new(0) };
        sweep(root);
        Ok(store)
    }

    /// Opens the directory, and creates it durably when it is absent.
    pub fn create(root: &Path) -> Result<Self> {
        make_directories(root).map_err(|error| Error::io("create store", root.display(), error))?;
        Self::open(root)
    }

    /// Path of the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An error of the operating system, told apart from the loss of the whole root.
    fn failed(&self, operation: &'static str, name: &str, error: std::io::Error) -> Error {
        match self.check_root(operation) {
            Err(lost) => lost.source(error),
            Ok(()) => Error::io(operation, format_args!("{}/{name}", self.root.display()), error),
        }
    }

    fn check_root(&self, operation: &'static str) -> Result<()> {
        if self.root.is_dir() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, operation, self.root.display())
            .message("the directory of the store is gone; is its disk mounted?"))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// The path of an object to be made, its directory being there.
    fn new_path(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name)?;
        self.check_root("put to store")?;
        if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
            make_directories(directory)
                .map_err(|error| self.failed("put to store", name, error))?;
        }
        Ok(path)
    }

    /// Writes the content to a temporary file and links it to `path`.
    fn publish(&self, path: &Path, content: &[u8]) -> std::io::Result<PutOutcome> {
        let directory = path.parent().unwrap_or(&self.root);
        let temporary = directory.join(format!(
            ".put-{}-{}",
            std::process::id(),
            self.temporary.fetch_add(1, Ordering::Relaxed)
        ));
        let result = write_durably(&temporary, content).and_then(|()| {
            match fs::hard_link(&temporary, path) {
                Ok(()) => Ok(PutOutcome::Created),
                Err(error) if error.kind() == Os::AlreadyExists => Ok(PutOutcome::AlreadyExists),
                Err(error) => Err(error),
            }
        });
        // A leftover is swept later; the outcome does not depend on it.
        let _ = fs::remove_file(&temporary);
        // The loser of a race syncs too: it may act on an object whose name is not durable yet.
        sync_directory(directory)?;
        result
    }

    fn walk(
        &self,
        directory: &Path,
        prefix: &str,
        found: &mut Vec<ObjectInfo>,
    ) -> std::io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == Os::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
                continue;
            };
            if check_name(name).is_err()
                || name.rsplit('/').next().is_some_and(|n| n.starts_with('.'))
            {
                continue;
            }
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == Os::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                let inside = format!("{name}/");
                if inside.starts_with(prefix) || prefix.starts_with(&inside) {
                    self.walk(&path, prefix, found)?;
                }
            } else if metadata.is_file() && name.starts_with(prefix) {
                found.push(ObjectInfo { name: name.to_owned(), length: metadata.len() });
            }
        }
        Ok(())
    }
}

impl Store for DirStore {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let path = self.new_path(name)?;
        self.publish(&path, content).map_err(|error| self.failed("put to store", name, error))
    }

    fn put_file(&self, name: &str, source: &Path) -> Result<PutOutcome> {
        let path = self.new_path(name)?;
        // On one file system the file itself becomes the object, and nothing is copied.
        let outcome = match fs::hard_link(source, &path) {
            Ok(()) => PutOutcome::Created,
            Err(error) if error.kind() == Os::AlreadyExists => PutOutcome::AlreadyExists,
            Err(_) => {
                let content = fs::read(source)
                    .map_err(|error| Error::io("read file", source.display(), error))?;
                return self.put(name, &content);
            }
        };
        sync_directory(path.parent().unwrap_or(&self.root))
            .map_err(|error| self.failed("put to store", name, error))?;
        Ok(outcome)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let path = self.path(name)?;
        let failed = |error| self.failed("get from store", name, error);
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if range.start > range.end || range.end > length {
            return Err(Error::new(ErrorKind::InvalidInput, "get from store", name)
                .at(range.start)
                .expected(format_args!("a range within {length} bytes"))
                .found(format_args!("{}..{}", range.start, range.end)));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        Ok(bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.check_root("list store")?;
        let mut found = Vec::new();
        // The deepest directory that the prefix names, so that a listing does not walk the whole vault.
        let start = match prefix.rsplit_once('/') {
            Some((directory, _)) => self.path(directory)?,
            None => self.root.clone(),
        };
        self.walk(&start, prefix, &mut found)
            .map_err(|error| self.failed("list store", prefix, error))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let path = self.path(name)?;
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                Ok(Some(ObjectInfo { name: name.to_owned(), length: metadata.len() }))
            }
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), Os::NotFound | Os::NotADirectory) => {
                self.check_root("look into store").map(|()| None)
            }
            Err(error) => Err(self.failed("look into store", name, error)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        let failed = |error| self.failed("delete from store", name, error);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(path.parent().unwrap_or(&self.root)).map_err(failed),
            Err(error) if error.kind() == Os::NotFound => self.check_root("delete from store"),
            Err(error) => Err(failed(error)),
        }
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.path(name).ok()
    }
}

/// Removes what crashed puts left. Failures do not matter: the files are invisible.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            sweep(&path);
        } else if entry.file_name().as_encoded_bytes().starts_with(b".put-") {
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > LEFTOVER_AGE) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn write_durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory and its parents; each new name is synced in its parent.
fn make_directories(path: &Path) -> std::io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    make_directories(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == Os::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_contract_holds() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let count = AtomicU64::new(0);
        super::super::conformance::check(&|| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            Arc::new(
                DirStore::create(&directory.path().join(format!("s{number}/deep")))
                    .expect("create"),
            )
        });
    }

    #[test]
    fn a_vanished_root_is_unavailable_and_never_empty() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().join("vault");
        let store = DirStore::create(&root).expect("create");
        store.put("a/b", b"x").expect("put");
        fs::rename(&root, directory.path().join("gone")).expect("rename");
        let kinds = [
            store.list("").expect_err("list").kind(),
            store.head("a/b").expect_err("head").kind(),
            store.get("a/b", 0..1).expect_err("get").kind(),
            store.put("a/c", b"y").expect_err("put").kind(),
            store.delete("a/b").expect_err("delete").kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Unavailable; 5]);
        assert!(!root.exists(), "a put must not bring an empty vault into being");
    }

    #[test]
    fn what_a_crashed_put_left_is_not_seen() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = DirStore::create(directory.path()).expect("create");
        store.put("v/a", b"x").expect("put");
        fs::write(directory.path().join("v/.put-1-1"), b"half").expect("write");
        assert_eq!(store.list("").expect("list").len(), 1);
        assert!(store.list("v/.put").expect("list").is_empty());
    }
}
