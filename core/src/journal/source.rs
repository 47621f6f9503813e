//! Inputs of a segment: a mapped file, an object of a store, or memory.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::{Files, MappedFile, SystemFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::sync::lock::Mutex;

/// Reads the bytes of a segment at any place. May be used from any thread.
pub trait SegmentSource: Send + Sync {
    /// Returns a name for errors.
    fn name(&self) -> String;
    /// Returns the length in bytes, which does not change.
    fn length(&self) -> u64;
    /// Reads the bytes of `range`; `Corrupt` if it passes the end.
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;
    /// Returns whether each read is a request to another machine, so that many at once are faster.
    /// Default: no.
    fn is_remote(&self) -> bool {
        false
    }
    /// Frees what was read ahead. Default: does nothing.
    fn forget(&self) {}
}

/// A segment in memory, or in a file that is mapped.
pub struct BytesSource {
    name: String,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
}

impl BytesSource {
    /// Makes a source over `bytes`.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes: Box::new(bytes) }
    }
}

impl SegmentSource for BytesSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> u64 {
        (*self.bytes).as_ref().len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        check_range(&range, self.length(), &self.name)?;
        let bytes = (*self.bytes).as_ref();
        Ok(Cow::Borrowed(&bytes[range.start as usize..range.end as usize]))
    }
}

/// A mapped file that somebody else may cut short or whose disk may fail: reading copies.
struct CopiedSource {
    name: String,
    map: MappedFile,
}

impl SegmentSource for CopiedSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> u64 {
        self.map.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        check_range(&range, self.length(), &self.name)?;
        let bytes = self.map.copy(range.start as usize..range.end as usize);
        bytes.map(Cow::Owned).map_err(|error| unreadable(&self.name, range.start, error))
    }
}

/// A file that is opened for each read, where a sandbox forbids the call of [`MappedFile::copy`].
struct FileSource {
    name: String,
    path: PathBuf,
    length: u64,
}

impl SegmentSource for FileSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        check_range(&range, self.length, &self.name)?;
        match SystemFiles.read_range(&self.path, range.clone()) {
            Ok((bytes, length)) => {
                check_range(&range, length, &self.name)?;
                Ok(Cow::Owned(bytes))
            }
            Err(error) => Err(unreadable(&self.name, range.start, error)),
        }
    }
}

fn unreadable(name: &str, at: u64, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "read segment", name)
        .at(at)
        .expected("the bytes that the file had when it was opened")
        .caused_by(error)
}

/// Opens a local file whose content does not change. If it is cut short all the same, reads fail.
pub fn open_mapped(path: &Path) -> Result<Box<dyn SegmentSource>> {
    open_copied(path.display().to_string(), path)
}

fn open_copied(name: String, path: &Path) -> Result<Box<dyn SegmentSource>> {
    let map = MappedFile::open(path)?;
    if map.copy(0..map.len().min(1)).is_ok() {
        return Ok(Box::new(CopiedSource { name, map }));
    }
    Ok(Box::new(FileSource { name, path: path.to_owned(), length: map.len() as u64 }))
}

/// Opens a file of a state directory, which nobody else changes, among these files. Reading copies
/// nothing.
pub(crate) fn open_mapped_in(files: &dyn Files, path: &Path) -> Result<Box<dyn SegmentSource>> {
    Ok(Box::new(BytesSource { name: path.display().to_string(), bytes: files.map(path)? }))
}

/// Bytes at the end of an object that are read when it is opened. One request gets a small segment
/// whole, and footer, notes and index of most others.
const TAIL_BYTES: u64 = 64 << 10;

/// An object of a store, read by ranges.
pub struct ObjectSource {
    store: Arc<dyn Store>,
    name: String,
    length: u64,
    /// The end of the object; empty once it was freed.
    tail: Mutex<Vec<u8>>,
}

impl ObjectSource {
    /// Opens an object, by memory map if the store has a local file for it. `NotFound` if it is
    /// absent.
    pub fn open(store: &Arc<dyn Store>, name: &str) -> Result<Box<dyn SegmentSource>> {
        if let Some(source) = Self::mapped(store, name)? {
            return Ok(source);
        }
        let info = store
            .head(name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "open segment", name))?;
        Self::open_sized(store, name, info.length)
    }

    /// Opens an object of known length, which saves a request. `Corrupt` if the object is shorter.
    pub fn open_sized(
        store: &Arc<dyn Store>,
        name: &str,
        length: u64,
    ) -> Result<Box<dyn SegmentSource>> {
        if let Some(source) = Self::mapped(store, name)? {
            return Ok(source);
        }
        let tail_at = length.saturating_sub(TAIL_BYTES);
        let tail = Mutex::new(get_exactly(&**store, name, tail_at..length)?);
        Ok(Box::new(Self { store: store.clone(), name: name.to_owned(), length, tail }))
    }

    fn mapped(store: &Arc<dyn Store>, name: &str) -> Result<Option<Box<dyn SegmentSource>>> {
        let Some(path) = store.local_path(name) else { return Ok(None) };
        open_copied(name.to_owned(), &path).map(Some)
    }
}

impl SegmentSource for ObjectSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        check_range(&range, self.length, &self.name)?;
        {
            let tail = self.tail.lock();
            let tail_at = self.length - tail.len() as u64;
            if let Some(start) = range.start.checked_sub(tail_at) {
                let end = range.end - tail_at;
                return Ok(Cow::Owned(tail[start as usize..end as usize].to_vec()));
            }
        }
        get_exactly(&*self.store, &self.name, range).map(Cow::Owned)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn forget(&self) {
        *self.tail.lock() = Vec::new();
    }
}

/// Reads exactly `range`: a store that answers less would shift every later place in the segment.
fn get_exactly(store: &dyn Store, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
    let (at, expected) = (range.start, range.end - range.start);
    let short = || {
        let error = Error::new(ErrorKind::Corrupt, "read segment", name).at(at);
        error.expected(format_args!("{expected} bytes"))
    };
    match store.get(name, range) {
        // The object ends before the length that the caller knew.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(short().caused_by(error)),
        Ok(bytes) if bytes.len() as u64 != expected => Err(short().found(bytes.len())),
        read => read,
    }
}

fn check_range(range: &Range<u64>, length: u64, name: &str) -> Result<()> {
    if range.start <= range.end && range.end <= length {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "read segment", name)
        .at(range.start)
        .expected(format_args!("bytes up to {} within the segment", range.end))
        .found(format_args!("a segment of {length} bytes; it may have been cut off")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_or_vanishes_is_an_error_of_the_read() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("segment");
        let write = || std::fs::write(&path, [7; 100_000]).expect("write");
        write();
        let mapped = open_mapped(&path).expect("open");
        let by_path: Box<dyn SegmentSource> =
            Box::new(FileSource { name: "segment".into(), path: path.clone(), length: 100_000 });
        for source in [&mapped, &by_path] {
            assert_eq!(source.length(), 100_000);
            assert_eq!(*source.read(5..90_000).expect("read"), [7; 89_995]);
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
            file.set_len(50_000).expect("cut short");
            let error = source.read(5..90_000).expect_err("cut short");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            file.set_len(0).expect("empty");
            assert_eq!(source.read(5..10).expect_err("empty").kind(), ErrorKind::Corrupt);
            write();
        }
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(by_path.read(5..10).expect_err("gone").kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_is_no_file_in_the_place_of_a_segment_is_an_error_and_nothing_waits_for_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).expect("a FIFO");
        for path in [path.as_path(), directory.path()] {
            let error = open_mapped(path).err().expect("no segment");
            assert!(error.object() == path.display().to_string(), "{error}");
        }
    }
}
