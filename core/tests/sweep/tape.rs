//! A tape of every change that a machine makes to its disks and files, and of every sync.
//!
//! Disks and files are alike here: an inode with content. A write is in the cache until a sync of
//! its inode covers it, a change of names until its directory is synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hrl::device::{
    BlockDevice, Discarded, Durability, FileInfo, Files, MappedBytes, NewFile, Unmap,
};
use hrl::{Extent, Result};

/// What is written whole or not at all.
pub const SECTOR: usize = 512;
const PAGE: usize = 4096;

pub type Inode = usize;

/// Each path that changed, and what it names now.
pub type Names = Vec<(PathBuf, Option<Inode>)>;

#[derive(Clone, Debug)]
pub enum Op {
    Write { inode: Inode, offset: usize, bytes: Vec<u8> },
    Names(Names),
    Sync { inode: Inode, range: Range<usize> },
    SyncDirectory(PathBuf),
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    names: BTreeMap<PathBuf, Inode>,
    /// Whether each inode is a directory.
    inodes: Vec<bool>,
}

/// The operations, in order.
#[derive(Default)]
pub struct Tape(Mutex<State>);

impl Tape {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread")
    }

    pub fn length(&self) -> usize {
        self.lock().ops.len()
    }

    /// Returns all operations, and which inodes are directories.
    pub fn take(&self) -> (Vec<Op>, Vec<bool>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.ops), std::mem::take(&mut state.inodes))
    }

    pub fn new_inode(&self, is_directory: bool) -> Inode {
        let mut state = self.lock();
        state.inodes.push(is_directory);
        state.inodes.len() - 1
    }

    fn inode(&self, path: &Path) -> Inode {
        self.lock().names[path]
    }

    fn add(&self, op: Op) {
        let mut state = self.lock();
        if let Op::Names(names) = &op {
            for (path, inode) in names {
                match inode {
                    Some(inode) => drop(state.names.insert(path.clone(), *inode)),
                    None => drop(state.names.remove(path)),
                }
            }
        }
        state.ops.push(op);
    }
}

/// Files whose changes are recorded on a tape.
pub struct TapedFiles {
    pub inner: Arc<dyn Files>,
    pub tape: Arc<Tape>,
}

impl Files for TapedFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.inner.make_directory(path)?;
        let inode = self.tape.new_inode(true);
        self.tape.add(Op::Names(vec![(path.to_owned(), Some(inode))]));
        Ok(())
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.inner.is_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = self.inner.create(path)?;
        let inode = self.tape.new_inode(false);
        self.tape.add(Op::Names(vec![(path.to_owned(), Some(inode))]));
        Ok(Box::new(TapedFile { file, inode, length: 0, tape: self.tape.clone() }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> io::Result<(Vec<u8>, u64)> {
        self.inner.read_range(path, range)
    }

    fn map(&self, path: &Path) -> Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        self.inner.map(path)
    }

    fn map_mut(&self, path: &Path) -> io::Result<Box<dyn MappedBytes>> {
        let map = self.inner.map_mut(path)?;
        Ok(Box::new(TapedMap { map, inode: self.tape.inode(path), tape: self.tape.clone() }))
    }

    fn exists(&self, path: &Path) -> bool {
        self.inner.exists(path)
    }

    fn info(&self, path: &Path) -> io::Result<FileInfo> {
        self.inner.info(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)?;
        let inode = self.tape.inode(from);
        self.tape.add(Op::Names(vec![(to.to_owned(), Some(inode))]));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let inode = self.tape.inode(from);
        self.tape.add(Op::Names(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)?;
        self.tape.add(Op::Names(vec![(path.to_owned(), None)]));
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.inner.sync_directory(directory)?;
        self.tape.add(Op::SyncDirectory(directory.to_owned()));
        Ok(())
    }
}

struct TapedFile {
    file: Box<dyn NewFile>,
    inode: Inode,
    length: usize,
    tape: Arc<Tape>,
}

impl NewFile for TapedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        let (inode, offset) = (self.inode, self.length);
        self.tape.add(Op::Write { inode, offset, bytes: bytes.to_vec() });
        self.length += bytes.len();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.tape.add(Op::Sync { inode: self.inode, range: 0..usize::MAX });
        Ok(())
    }
}

struct TapedMap {
    map: Box<dyn MappedBytes>,
    inode: Inode,
    tape: Arc<Tape>,
}

impl MappedBytes for TapedMap {
    fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    fn change(&mut self, change: &mut dyn FnMut(&mut [u8])) {
        let before = self.map.bytes().to_vec();
        self.map.change(change);
        // Each sector reaches the disk as a whole, at any time.
        for (number, sector) in self.map.bytes().chunks(SECTOR).enumerate() {
            let offset = number * SECTOR;
            if before[offset..offset + sector.len()] != *sector {
                self.tape.add(Op::Write { inode: self.inode, offset, bytes: sector.to_vec() });
            }
        }
    }

    fn sync(&self, offset: usize, length: usize) -> io::Result<()> {
        self.map.sync(offset, length)?;
        // Whole pages reach the disk.
        let range = offset / PAGE * PAGE..(offset + length).next_multiple_of(PAGE);
        self.tape.add(Op::Sync { inode: self.inode, range });
        Ok(())
    }
}

/// A disk in memory whose changes are recorded on a tape, if there is one.
pub struct TapedDisk {
    content: Mutex<Vec<u8>>,
    reads: Mutex<Vec<Extent>>,
    tape: Option<(Arc<Tape>, Inode)>,
}

impl TapedDisk {
    pub fn new(content: Vec<u8>, tape: Option<(Arc<Tape>, Inode)>) -> Arc<Self> {
        Arc::new(Self { content: Mutex::new(content), reads: Mutex::default(), tape })
    }

    pub fn content(&self) -> Vec<u8> {
        self.content.lock().expect("one thread").clone()
    }

    /// Returns what was read since the last call.
    pub fn take_reads(&self) -> Vec<Extent> {
        std::mem::take(&mut self.reads.lock().expect("one thread"))
    }

    fn put(&self, offset: u64, data: &[u8], durability: Durability) {
        let offset = offset as usize;
        self.content.lock().expect("one thread")[offset..offset + data.len()].copy_from_slice(data);
        let Some((tape, inode)) = &self.tape else { return };
        tape.add(Op::Write { inode: *inode, offset, bytes: data.to_vec() });
        if durability == Durability::Durable {
            tape.add(Op::Sync { inode: *inode, range: offset..offset + data.len() });
        }
    }
}

impl BlockDevice for TapedDisk {
    fn name(&self) -> String {
        "disk".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.content.lock().expect("one thread").len() as u64
    }

    fn block_bytes(&self) -> u32 {
        SECTOR as u32
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u64;
        self.reads.lock().expect("one thread").push(Extent { offset, length });
        let content = self.content.lock().expect("one thread");
        buffer.copy_from_slice(&content[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.put(offset, data, durability);
        Ok(())
    }

    fn zero(&self, extent: Extent, _unmap: Unmap, durability: Durability) -> Result<()> {
        self.put(extent.offset, &vec![0; extent.length as usize], durability);
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.put(extent.offset, &vec![0; extent.length as usize], Durability::Cached);
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        if let Some((tape, inode)) = &self.tape {
            tape.add(Op::Sync { inode: *inode, range: 0..usize::MAX });
        }
        Ok(())
    }
}
