//! A disk and a dirty map's file that report to [`Facts`], and let other threads run meanwhile.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::facts::{BLOCK_BYTES, Facts, blocks_of, stamp_of};
use crate::device::{
    BlockDevice, Discarded, Durability, FileInfo, Files, MappedBytes, NewFile, Unmap,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::sync::choose;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::thread::switch;

/// Bytes of the header of a dirty map.
const HEADER_BYTES: usize = 4096;

/// The facts of a model. The lock is std's, because no thread is suspended while it has it.
#[derive(Clone)]
pub(super) struct Known(Arc<Mutex<Facts>>);

impl Known {
    pub(super) fn new(regions: usize) -> Self {
        Self(Arc::new(Mutex::new(Facts::new(regions))))
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock()
    }
}

/// A disk with a volatile cache.
pub(super) struct Disk {
    pub known: Known,
    pub size_bytes: u64,
    /// One of this many writes fails, and every other read after it. Zero: none fails.
    pub failing: u32,
}

impl Disk {
    fn fails(&self, of: u32) -> bool {
        self.failing > 0 && choose(of) == 0
    }

    fn error(operation: &'static str) -> Error {
        Error::new(ErrorKind::Io, operation, "disk of a model").message("it fails")
    }
}

impl BlockDevice for Disk {
    fn name(&self) -> String {
        "disk of a model".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        BLOCK_BYTES as u32
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        switch();
        if self.fails(2) {
            return Err(Self::error("read"));
        }
        let extent = Extent { offset, length: buffer.len() as u64 };
        for (number, bytes) in blocks_of(extent).zip(buffer.chunks_mut(BLOCK_BYTES as usize)) {
            let stamp = self.known.facts().content(number);
            bytes[..8].copy_from_slice(&stamp.to_le_bytes());
        }
        switch();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        let stamp = stamp_of(data);
        self.known.facts().begin_change(extent, stamp);
        switch();
        if self.fails(self.failing) {
            self.known.facts().tear_change(extent, || choose(2) == 0);
            return Err(Self::error("write"));
        }
        self.known.facts().end_change(extent, stamp);
        Ok(())
    }

    fn zero(&self, _extent: Extent, _unmap: Unmap, _durability: Durability) -> Result<()> {
        unreachable!("models write")
    }

    fn discard(&self, _extent: Extent) -> Result<Discarded> {
        unreachable!("models write")
    }

    fn flush(&self) -> Result<()> {
        let flushed = self.known.facts().begin_flush();
        switch();
        self.known.facts().end_flush(&flushed);
        Ok(())
    }
}

/// The only file that a dirty map needs.
pub(super) struct MapFile {
    pub known: Known,
    pub content: Arc<Mutex<Vec<u8>>>,
}

struct NewMap(Arc<Mutex<Vec<u8>>>);

impl NewFile for NewMap {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Mapped {
    known: Known,
    bytes: Vec<u8>,
}

impl MappedBytes for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn change(&mut self, change: &mut dyn FnMut(&mut [u8])) {
        change(&mut self.bytes);
        self.known.facts().map_changed(&self.bytes[HEADER_BYTES..]);
    }

    fn sync(&self, offset: usize, length: usize) -> io::Result<()> {
        switch();
        if let Some(first) = offset.checked_sub(HEADER_BYTES) {
            let regions = first * 8..(first + length) * 8;
            self.known.facts().map_synced(regions, &self.bytes[HEADER_BYTES..]);
        }
        switch();
        Ok(())
    }
}

impl Files for MapFile {
    fn make_directory(&self, _path: &Path) -> io::Result<()> {
        unreachable!("a dirty map makes none")
    }

    fn is_directory(&self, _path: &Path) -> bool {
        unreachable!("a dirty map makes none")
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        unreachable!("a dirty map has none")
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(NewMap(self.content.clone())))
    }

    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        unreachable!("a dirty map is mapped")
    }

    fn read_range(&self, _path: &Path, _range: Range<u64>) -> io::Result<(Vec<u8>, u64)> {
        unreachable!("a dirty map is mapped")
    }

    fn map(&self, _path: &Path) -> Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        unreachable!("a dirty map is changed")
    }

    fn map_mut(&self, _path: &Path) -> io::Result<Box<dyn MappedBytes>> {
        let bytes = self.content.lock().clone();
        Ok(Box::new(Mapped { known: self.known.clone(), bytes }))
    }

    fn exists(&self, _path: &Path) -> bool {
        false
    }

    fn info(&self, _path: &Path) -> io::Result<FileInfo> {
        unreachable!("a dirty map asks for none")
    }

    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        unreachable!("a dirty map has one name")
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn list(&self, _directory: &Path) -> io::Result<Vec<PathBuf>> {
        unreachable!("a dirty map lists nothing")
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }
}
