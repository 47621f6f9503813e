//! The local files of an agent (identity, dirty map, spool) and of a vault in a directory.
//!
//! All access goes through [`Files`], so that tests can use a disk that tears writes, loses what
//! was not synced, fails and fills up.

#![allow(unsafe_code, reason = "the dirty map is memory-mapped")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use memmap2::MmapMut;
use rustix::fs::FlockOperation;

use super::MappedFile;
use super::rights::{directory_mode, directory_of, file_mode};
use crate::error::{Error, Result};

/// A file that is being written, from its begin on.
pub trait NewFile: Send {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content durable, but not the name. After a failure nothing in the file can be
    /// trusted.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file of fixed length as changeable memory.
pub trait MappedBytes: Send {
    /// Returns the whole content.
    fn bytes(&self) -> &[u8];
    /// Changes the content. A change may become durable at any time before it is synced.
    fn change(&mut self, change: &mut dyn FnMut(&mut [u8]));
    /// Makes a range durable.
    fn sync(&self, offset: usize, length: usize) -> io::Result<()>;
}

/// What a path names. A symbolic link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Kind of what is there.
    pub kind: FileKind,
    /// Length in bytes, of a regular file.
    pub length: u64,
    /// Time since its last change, if known.
    pub age: Option<Duration>,
}

/// Kinds of what a path can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Files by path, with the rules of POSIX: content is durable once it was synced, a name once its
/// directory was. May be used from any thread.
pub trait Files: Send + Sync {
    /// Makes one directory, without making its name durable; `AlreadyExists` if the path names
    /// something.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// Returns whether there is a directory at `path`, or a link to one.
    fn is_directory(&self, path: &Path) -> bool;
    /// Makes a directory and those above it, each durably. Does nothing if it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || self.is_directory(path) {
            return Ok(());
        }
        self.create_directory(directory_of(path))?;
        match self.make_directory(path) {
            Err(error)
                if error.kind() != io::ErrorKind::AlreadyExists || !self.is_directory(path) =>
            {
                return Err(error);
            }
            _ => {}
        }
        self.sync_directory(directory_of(path))
    }
    /// Locks a file until the result is dropped, and creates it if absent. `WouldBlock` while
    /// it is locked.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Creates a file; `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Returns the whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Returns the bytes `range` of a file, and its length. Reads nothing if the range passes the
    /// end.
    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<(Vec<u8>, u64)>;
    /// Maps a file that does not change any more, without reading it at once.
    fn map(&self, path: &Path) -> Result<Box<dyn AsRef<[u8]> + Send + Sync>>;
    /// Maps a file to change it in place. Its length stays.
    fn map_mut(&self, path: &Path) -> io::Result<Box<dyn MappedBytes>>;
    /// Returns whether `path` names something.
    fn exists(&self, path: &Path) -> bool;
    /// Returns what is at `path`.
    fn info(&self, path: &Path) -> io::Result<FileInfo>;
    /// Gives a file a second name; `AlreadyExists` if that names something.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file, and replaces what had the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name; `AlreadyExists` if that names something. Default: `Unsupported`.
    fn rename_new(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Hints that this file will not be read soon, so that the system can drop it from its cache.
    /// Default: does nothing.
    fn will_not_need(&self, _path: &Path) {}
    /// Lists the paths in a directory, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The files of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(directory_mode(path)).create(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mode = file_mode(path);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(mode).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mode = file_mode(path);
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        open_regular(path)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<(Vec<u8>, u64)> {
        let file = open_regular(path)?;
        let length = file.metadata()?.len();
        let wanted = if range.end <= length { range.end.saturating_sub(range.start) } else { 0 };
        let mut bytes = vec![0; wanted as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok((bytes, length))
    }

    fn map(&self, path: &Path) -> Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        Ok(Box::new(MappedFile::open(path)?))
    }

    fn map_mut(&self, path: &Path) -> io::Result<Box<dyn MappedBytes>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // SAFETY: the file has its full length, and the locked state directory keeps other agents
        // from changing it. Any byte is a valid value, so a change from outside gives a wrong bit,
        // not undefined behaviour.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        Ok(Box::new(map))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = match metadata.file_type() {
            sort if sort.is_file() => FileKind::Regular,
            sort if sort.is_dir() => FileKind::Directory,
            _ => FileKind::Other,
        };
        let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
        Ok(FileInfo { kind, length: metadata.len(), age })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn will_not_need(&self, path: &Path) {
        if let Ok(file) = open_regular(path) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(directory)?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

impl NewFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl MappedBytes for MmapMut {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn change(&mut self, change: &mut dyn FnMut(&mut [u8])) {
        change(self);
    }

    fn sync(&self, offset: usize, length: usize) -> io::Result<()> {
        self.flush_range(offset, length)
    }
}

/// Opens a regular file to read; `InvalidInput` for anything else, without waiting: a FIFO would
/// wait for its writer.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Removes a file. Does nothing if there is none.
pub(crate) fn remove_if_there(files: &dyn Files, path: &Path) -> Result<()> {
    try_remove(files, path).map_err(|error| Error::io("remove", path.display(), error))
}

fn try_remove(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a file durably. Writes under another name first, so that no crash leaves a part of it.
pub(crate) fn replace_file(
    files: &dyn Files,
    path: &Path,
    temporary: &Path,
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> io::Result<()> {
    try_remove(files, temporary)?;
    let mut file = files.create(temporary)?;
    for piece in pieces {
        file.append(piece.as_ref())?;
    }
    file.sync()?;
    drop(file);
    files.rename(temporary, path)?;
    files.sync_directory(directory_of(path))
}
