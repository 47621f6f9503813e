//! A directory as a store.
//!
//! A put writes a temporary file, syncs it, and links it to its name: the link creates the object,
//! once and whole. A file system without hard links renames it, unless the name is taken. Then the directory is synced, so a put that returned survives a power failure.
//! Temporary names begin with `.`, which no object name does. When the store is opened it removes
//! old ones that crashes left. A FIFO, socket, device or link in the place of an object is listed,
//! and is an error of every other verb but `delete`; nothing waits for it.
//!
//! A root that has vanished (an unmounted disk) is an error of every verb, never an empty store. If
//! its path leads to another directory, such as the mount point below, that counts as vanished too,
//! unless the store's objects are there.

use std::collections::HashSet;
use std::io::ErrorKind as Os;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use super::{ObjectInfo, PutOutcome, Store, check_name};
use crate::device::{FileKind, Files, NewFile, SystemFiles, directory_of};
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;
use crate::sync::lock::Mutex;

/// Age from which a temporary file was left by a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);
/// Most directories that are remembered as durable.
const DURABLE_MAX: usize = 4096;

/// A directory as a store. Several processes may use one at once.
pub struct DirStore {
    root: PathBuf,
    temporary: AtomicU64,
    files: Arc<dyn Files>,
    /// Whether the files are those of the system, so that their paths can be memory-mapped.
    is_local: bool,
    /// Directories whose names are durable.
    durable: Mutex<HashSet<PathBuf>>,
    known: Mutex<Known>,
}

/// By what a root is known again.
#[derive(Default)]
struct Known {
    /// Numbers of its device and inode, of the system's files alone.
    id: Option<(u64, u64)>,
    /// One of the names in it.
    holds: Option<PathBuf>,
}

impl DirStore {
    /// Opens an existing directory. `NotFound` if it is absent, `InvalidInput` if it is something
    /// else.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_among(Arc::new(SystemFiles), root, true)
    }

    /// Opens the directory, and creates it durably if it is absent.
    pub fn create(root: &Path) -> Result<Self> {
        SystemFiles
            .create_directory(root)
            .map_err(|error| Error::io("create store", root.display(), error))?;
        Self::open(root)
    }

    /// Opens the directory among these files, like [`DirStore::open`]. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn open_in(files: Arc<dyn Files>, root: &Path) -> Result<Self> {
        Self::open_among(files, root, false)
    }

    fn open_among(files: Arc<dyn Files>, root: &Path, is_local: bool) -> Result<Self> {
        files.info(root).map_err(|error| Error::io("open store", root.display(), error))?;
        if !files.is_directory(root) {
            return Err(Error::new(ErrorKind::InvalidInput, "open store", root.display())
                .expected("a directory")
                .found("something else"));
        }
        sweep(&*files, root);
        let is_file = |path: &PathBuf| {
            files.info(path).is_ok_and(|info| info.kind == FileKind::Regular)
                && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        let holds = files.list(root).unwrap_or_default().into_iter().find(is_file);
        let known = Known { id: is_local.then(|| id_of(root)).flatten(), holds };
        Ok(Self {
            root: root.to_owned(),
            temporary: AtomicU64::new(0),
            files,
            is_local,
            durable: Mutex::default(),
            known: Mutex::new(known),
        })
    }

    /// Returns the path of the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns an error of the operating system; a distinct one if the whole root is gone.
    fn failed(&self, operation: &'static str, name: &str, error: std::io::Error) -> Error {
        match self.check_root(operation) {
            Err(lost) => lost.caused_by(error),
            Ok(()) => Error::io(operation, format_args!("{}/{name}", self.root.display()), error),
        }
    }

    fn check_root(&self, operation: &'static str) -> Result<()> {
        let gone = |message| {
            Err(Error::new(ErrorKind::Unavailable, operation, self.root.display()).message(message))
        };
        if !self.files.is_directory(&self.root) {
            return gone("the directory of the store is gone; is its disk mounted?");
        }
        let id = if self.is_local { id_of(&self.root) } else { None };
        let mut known = self.known.lock();
        if id != known.id {
            // The same store may be mounted anew, or have been replaced by a copy.
            if known.holds.as_ref().is_some_and(|path| !self.files.exists(path)) {
                return gone("its path leads to another directory now; is its disk mounted?");
            }
            known.id = id;
            self.durable.lock().clear();
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// Returns the path of an object to be created, with its directory in place.
    fn new_path(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name)?;
        self.check_root("put to store")?;
        self.make_directory(directory_of(&path))
            .map_err(|error| self.failed("put to store", name, error))?;
        let top = name.split('/').next().unwrap_or(name);
        self.known.lock().holds.get_or_insert_with(|| self.root.join(top));
        Ok(path)
    }

    /// Creates a directory and those above it, up to the root, and makes their names durable.
    /// Another process may have created one without having synced its name.
    fn make_directory(&self, directory: &Path) -> std::io::Result<()> {
        let is_durable = || self.durable.lock().contains(directory);
        if self.files.is_directory(directory) && is_durable() {
            return Ok(());
        }
        self.files.create_directory(directory)?;
        let above = directory.ancestors().take_while(|above| *above != self.root);
        for above in above.filter_map(Path::parent) {
            self.files.sync_directory(above)?;
        }
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_MAX {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(())
    }

    /// Writes the content to a temporary file and links it to `path`.
    fn publish(&self, path: &Path, content: &[u8]) -> std::io::Result<PutOutcome> {
        let directory = directory_of(path);
        let (temporary, mut file) = self.create_temporary(directory)?;
        let result = file.append(content).and_then(|()| file.sync()).and_then(|()| {
            match self.give_name(&temporary, path) {
                Ok(()) => Ok(PutOutcome::Created),
                Err(error) if error.kind() == Os::AlreadyExists => Ok(PutOutcome::AlreadyExists),
                Err(error) => Err(error),
            }
        });
        // A leftover is swept later; the outcome does not depend on it.
        let _ = self.files.remove(&temporary);
        // The loser of a race syncs too: it may act on an object whose name is not durable yet.
        self.files.sync_directory(directory)?;
        result
    }

    /// Gives a temporary file a name that is free. `AlreadyExists` if it is not.
    fn give_name(&self, temporary: &Path, path: &Path) -> std::io::Result<()> {
        match self.files.link(temporary, path) {
            Err(error) if has_no_links(&error) => {
                self.files.rename_new(temporary, path).map_err(|refused| match refused.kind() {
                    Os::AlreadyExists => refused,
                    _ => std::io::Error::new(
                        error.kind(),
                        "the file system has neither hard links nor a rename that replaces nothing, \
                         one of which a store needs",
                    ),
                })
            }
            linked => linked,
        }
    }

    fn no_object(&self, operation: &'static str, name: &str) -> Error {
        Error::new(ErrorKind::Corrupt, operation, format_args!("{}/{name}", self.root.display()))
            .expected("a regular file")
            .found("something else in its place")
    }

    /// Skips a name that a crashed process of the same number has left. In a container all
    /// processes have one number.
    fn create_temporary(&self, directory: &Path) -> std::io::Result<(PathBuf, Box<dyn NewFile>)> {
        loop {
            let number = self.temporary.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".put-{}-{number}", std::process::id()));
            match self.files.create(&path) {
                Err(error) if error.kind() == Os::AlreadyExists => {}
                created => return created.map(|file| (path, file)),
            }
        }
    }

    fn walk(
        &self,
        directory: &Path,
        prefix: &str,
        found: &mut Vec<ObjectInfo>,
    ) -> std::io::Result<()> {
        let paths = match self.files.list(directory) {
            Ok(paths) => paths,
            Err(error) if error.kind() == Os::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for path in paths {
            let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
                continue;
            };
            if check_name(name).is_err()
                || name.rsplit('/').next().is_some_and(|n| n.starts_with('.'))
            {
                continue;
            }
            let info = match self.files.info(&path) {
                Ok(info) => info,
                Err(error) if error.kind() == Os::NotFound => continue,
                Err(error) => return Err(error),
            };
            match info.kind {
                FileKind::Directory => {
                    let inside = format!("{name}/");
                    if inside.starts_with(prefix) || prefix.starts_with(&inside) {
                        self.walk(&path, prefix, found)?;
                    }
                }
                FileKind::Regular if name.starts_with(prefix) => {
                    found.push(ObjectInfo { name: name.to_owned(), length: info.length });
                }
                // Whoever reads it gets the error; a list without it would be one of less.
                FileKind::Other if name.starts_with(prefix) => {
                    found.push(ObjectInfo { name: name.to_owned(), length: 0 });
                }
                _ => {}
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
        let outcome = match self.files.link(source, &path) {
            Ok(()) => PutOutcome::Created,
            Err(error) if error.kind() == Os::AlreadyExists => PutOutcome::AlreadyExists,
            Err(_) => {
                let content = self
                    .files
                    .read(source)
                    .map_err(|error| Error::io("read file", source.display(), error))?;
                let outcome = self.put(name, &content)?;
                self.files.will_not_need(&path);
                return Ok(outcome);
            }
        };
        self.files
            .sync_directory(directory_of(&path))
            .map_err(|error| self.failed("put to store", name, error))?;
        // Segments come all the time and are rarely read: the memory has better uses.
        self.files.will_not_need(&path);
        Ok(outcome)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let path = self.path(name)?;
        let (bytes, length) =
            self.files.read_range(&path, range.clone()).map_err(|error| match error.kind() {
                Os::InvalidInput => self.no_object("get from store", name),
                _ => self.failed("get from store", name, error),
            })?;
        if range.start > range.end || range.end > length {
            return Err(Error::new(ErrorKind::InvalidInput, "get from store", name)
                .at(range.start)
                .expected(format_args!("a range within {length} bytes"))
                .found(format_args!("{}..{}", range.start, range.end)));
        }
        Ok(bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.check_root("list store")?;
        let mut found = Vec::new();
        // Starts at the deepest directory in the prefix, so that a listing does not walk the whole
        // vault.
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
        match self.files.info(&path) {
            Ok(info) if info.kind == FileKind::Regular => {
                Ok(Some(ObjectInfo { name: name.to_owned(), length: info.length }))
            }
            Ok(info) if info.kind == FileKind::Other => {
                Err(self.no_object("look into store", name))
            }
            // The directory of other objects.
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
        match self.files.remove(&path) {
            Ok(()) => self.files.sync_directory(directory_of(&path)).map_err(failed),
            Err(error) if error.kind() == Os::NotFound => self.check_root("delete from store"),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                let error = failed(error);
                Err(Error::new(ErrorKind::Denied, "delete from store", name)
                    .message("the file is immutable, or belongs to another user")
                    .caused_by(error))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.path(name).ok().filter(|_| self.is_local)
    }
}

shown!(DirStore, value => value.root.display());

/// Returns the numbers of the device and the inode of a directory.
fn id_of(root: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(root).ok().map(|found| (found.dev(), found.ino()))
}

/// Removes what crashed puts left. Failures do not matter: the files are invisible.
fn sweep(files: &dyn Files, directory: &Path) {
    for path in files.list(directory).unwrap_or_default() {
        let Ok(info) = files.info(&path) else { continue };
        let name = path.file_name().unwrap_or_default();
        if info.kind == FileKind::Directory {
            sweep(files, &path);
        } else if name.as_encoded_bytes().starts_with(b".put-")
            && info.age.is_some_and(|age| age > LEFTOVER_AGE)
        {
            let _ = files.remove(&path);
        }
    }
}

/// Returns whether a link failed because the file system has none. Linux says EPERM.
fn has_no_links(error: &std::io::Error) -> bool {
    let without = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS];
    without.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
    fn another_directory_in_the_place_of_the_root_is_unavailable_unless_it_has_the_objects() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (root, away) = (directory.path().join("vault"), directory.path().join("away"));
        let created = DirStore::create(&root).expect("create");
        created.put("marker", b"x").expect("put");
        let opened = DirStore::open(&root).expect("open");
        for store in [created, opened] {
            store.put("a/b", b"x").expect("put");
            fs::rename(&root, &away).expect("unmounted");
            fs::create_dir(&root).expect("its mount point");
            let kinds = [
                store.list("").expect_err("list").kind(),
                store.head("a/b").expect_err("head").kind(),
                store.get("a/b", 0..1).expect_err("get").kind(),
                store.put("a/c", b"y").expect_err("put").kind(),
                store.delete("a/b").expect_err("delete").kind(),
            ];
            assert_eq!(kinds, [ErrorKind::Unavailable; 5]);
            fs::remove_dir(&root).expect("nothing was put there");
            // Mounted again, it is another directory with the same objects.
            fs::create_dir(&root).expect("directory");
            fs::rename(away.join("marker"), root.join("marker")).expect("rename");
            fs::rename(away.join("a"), root.join("a")).expect("rename");
            fs::remove_dir(&away).expect("empty");
            assert_eq!(store.get("a/b", 0..1).expect("get"), b"x");
            store.put("a/c", b"y").expect("put");
            store.delete("a/c").expect("delete");
        }
    }

    #[test]
    fn what_is_no_file_in_the_place_of_an_object_is_an_error_and_nothing_waits_for_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = DirStore::open(directory.path()).expect("open");
        store.put("v/other", b"x").expect("put");
        let path = directory.path().join("v/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .expect("a FIFO");
        fs::create_dir(directory.path().join("v/directory")).expect("directory");
        std::os::unix::fs::symlink("other", directory.path().join("v/link")).expect("link");
        for name in ["v/fifo", "v/directory"] {
            let error = store.get(name, 0..1).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.object().ends_with(name), "{error}");
            assert_eq!(store.put(name, b"y").expect("put"), PutOutcome::AlreadyExists);
        }
        for name in ["v/fifo", "v/link"] {
            let error = store.head(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        assert_eq!(store.head("v/directory").expect("no object"), None);
        let names: Vec<_> = store.list("").expect("list").into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["v/fifo", "v/link", "v/other"]);
        store.delete("v/fifo").expect("delete");
        assert_eq!(store.head("v/fifo").expect("gone"), None);
    }

    /// A file system without hard links, and perhaps without a rename that replaces nothing.
    struct NoLinks {
        renames: bool,
    }

    impl Files for NoLinks {
        fn link(&self, _from: &Path, _to: &Path) -> std::io::Result<()> {
            Err(Errno::PERM.into())
        }
        fn rename_new(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            if self.renames { SystemFiles.rename_new(from, to) } else { Err(Errno::INVAL.into()) }
        }
        fn make_directory(&self, path: &Path) -> std::io::Result<()> {
            SystemFiles.make_directory(path)
        }
        fn is_directory(&self, path: &Path) -> bool {
            SystemFiles.is_directory(path)
        }
        fn lock(&self, path: &Path) -> std::io::Result<Box<dyn Send + Sync>> {
            SystemFiles.lock(path)
        }
        fn create(&self, path: &Path) -> std::io::Result<Box<dyn NewFile>> {
            SystemFiles.create(path)
        }
        fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            SystemFiles.read(path)
        }
        fn read_range(&self, path: &Path, range: Range<u64>) -> std::io::Result<(Vec<u8>, u64)> {
            SystemFiles.read_range(path, range)
        }
        fn map(&self, path: &Path) -> Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
            SystemFiles.map(path)
        }
        fn map_mut(&self, path: &Path) -> std::io::Result<Box<dyn crate::device::MappedBytes>> {
            SystemFiles.map_mut(path)
        }
        fn exists(&self, path: &Path) -> bool {
            SystemFiles.exists(path)
        }
        fn info(&self, path: &Path) -> std::io::Result<crate::device::FileInfo> {
            SystemFiles.info(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            SystemFiles.rename(from, to)
        }
        fn remove(&self, path: &Path) -> std::io::Result<()> {
            SystemFiles.remove(path)
        }
        fn list(&self, directory: &Path) -> std::io::Result<Vec<PathBuf>> {
            SystemFiles.list(directory)
        }
        fn sync_directory(&self, directory: &Path) -> std::io::Result<()> {
            SystemFiles.sync_directory(directory)
        }
    }

    #[test]
    fn the_contract_holds_without_hard_links() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let count = AtomicU64::new(0);
        super::super::conformance::check(&|| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let root = directory.path().join(format!("s{number}"));
            fs::create_dir(&root).expect("directory");
            Arc::new(DirStore::open_in(Arc::new(NoLinks { renames: true }), &root).expect("open"))
        });
    }

    #[test]
    fn a_file_system_that_can_neither_link_nor_rename_is_named_as_such() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = Arc::new(NoLinks { renames: false });
        let store = DirStore::open_in(files, directory.path()).expect("open");
        let error = store.put("v/a", b"x").expect_err("no way to put");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("hard links"), "{cause}");
        assert!(store.list("").expect("list").is_empty());
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

    #[test]
    fn what_a_crashed_put_of_the_same_process_number_left_is_in_nobodys_way() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let left = format!("v/.put-{}-0", std::process::id());
        fs::create_dir(directory.path().join("v")).expect("directory");
        fs::write(directory.path().join(&left), b"half").expect("write");
        let store = DirStore::open(directory.path()).expect("open");
        assert_eq!(store.put("v/a", b"x").expect("put"), PutOutcome::Created);
        assert_eq!(store.get("v/a", 0..1).expect("get"), b"x");
        assert!(directory.path().join(left).exists(), "it may be somebody else's");
    }
}
