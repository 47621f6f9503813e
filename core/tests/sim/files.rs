//! Simulated local files. A kill leaves everything that was written. A power failure leaves what
//! was synced and any part of the rest, torn at 512 bytes.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use hrl::device::{FileInfo, FileKind, Files, MappedBytes, NewFile};

use crate::world::{Incarnation, Random, World};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// A failed sync: data written until then is never made durable by a later one.
    broken: bool,
    is_directory: bool,
}

/// A change of names that is not durable: each path and what it names now.
type NameChange = Vec<(PathBuf, Option<usize>)>;

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
    locked: Vec<PathBuf>,
    bytes_max: usize,
}

/// The file system of a machine. It survives the machine.
#[derive(Default)]
pub struct FileSystem(Mutex<State>);

/// The files as a running machine sees them.
pub struct SimFiles {
    system: Arc<FileSystem>,
    machine: Arc<Incarnation>,
}

impl FileSystem {
    pub fn new() -> Arc<Self> {
        let system = Self::default();
        let mut state = system.lock();
        state.bytes_max = usize::MAX;
        // Directories above a state directory exist from the beginning.
        for above in std::env::temp_dir().ancestors().collect::<Vec<_>>().into_iter().rev() {
            if above.parent().is_some() {
                state.add(above, true).expect("nothing is there");
            }
        }
        state.durable_names = state.names.clone();
        state.pending.clear();
        drop(state);
        Arc::new(system)
    }

    pub fn mount(self: &Arc<Self>, machine: &Arc<Incarnation>) -> Arc<SimFiles> {
        Arc::new(SimFiles { system: self.clone(), machine: machine.clone() })
    }

    /// Returns the files as they are at this instant.
    pub fn copy(&self) -> Arc<Self> {
        let mut state = self.lock().clone();
        state.locked.clear();
        Arc::new(Self(Mutex::new(state)))
    }

    /// Limits the space to this many bytes in all.
    pub fn set_room(&self, bytes_max: usize) {
        self.lock().bytes_max = bytes_max;
    }

    pub fn bytes(&self) -> usize {
        let state = self.lock();
        state.names.values().map(|inode| state.inodes[*inode].content.len()).sum()
    }

    /// Returns the content of a file, without a request.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(path).map(|inode| state.inodes[*inode].content.clone())
    }

    /// Returns whether there is a file, without a request.
    pub fn has(&self, path: &Path) -> bool {
        self.lock().names.contains_key(path)
    }

    /// Returns whether nothing is in a directory, without a request.
    pub fn is_empty(&self, directory: &Path) -> bool {
        !self.lock().names.keys().any(|path| path.parent() == Some(directory))
    }

    /// Alters a closed segment in `directory`: a bit, a sector meant for another place, or a lost
    /// end. Returns false if there is none.
    pub fn rot(&self, random: &Random, directory: &Path) -> bool {
        let mut state = self.lock();
        let is_segment = |path: &&PathBuf| {
            path.parent() == Some(directory) && path.extension().is_some_and(|e| e == "hrl")
        };
        let inodes: Vec<usize> =
            state.names.keys().filter(is_segment).map(|p| state.names[p]).collect();
        if inodes.is_empty() {
            return false;
        }
        let donor = state.inodes[random.pick(&inodes)].content.clone();
        let inode = &mut state.inodes[random.pick(&inodes)];
        if inode.content.is_empty() || donor.is_empty() {
            return false;
        }
        let before = inode.content.clone();
        let at = random.below(inode.content.len() as u64) as usize;
        match random.below(3) {
            0 => inode.content[at] ^= 1 << random.below(8),
            1 => inode.content.truncate(at),
            _ => {
                let at = at / SECTOR * SECTOR;
                let length = SECTOR.min(inode.content.len() - at).min(donor.len());
                let from = random.below((donor.len() - length) as u64 + 1) as usize;
                inode.content[at..at + length].copy_from_slice(&donor[from..from + length]);
            }
        }
        inode.durable.clone_from(&inode.content);
        inode.content != before
    }

    /// The machine is killed: the page cache stays.
    pub fn killed(&self) {
        self.lock().locked.clear();
    }

    /// The power fails.
    pub fn power_failed(&self, random: &Random) {
        let mut state = self.lock();
        state.locked.clear();
        let pending = std::mem::take(&mut state.pending);
        // Most file systems journal names in order; some do not.
        let in_order = !random.one_in(4);
        let kept = random.below(pending.len() as u64 + 1) as usize;
        for (number, change) in pending.into_iter().enumerate() {
            if if in_order { number < kept } else { random.one_in(2) } {
                apply(&mut state.durable_names, change);
            }
        }
        state.names = state.durable_names.clone();
        // A directory whose own name was lost contains nothing.
        let lost: Vec<_> =
            state.names.keys().filter(|path| !state.is_inside(path)).cloned().collect();
        for path in lost {
            state.names.remove(&path);
            state.durable_names.remove(&path);
        }
        for inode in &mut state.inodes {
            inode.content = torn(inode, random);
            inode.durable.clone_from(&inode.content);
            inode.broken = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread")
    }
}

/// Returns what a power failure leaves of a file.
fn torn(inode: &Inode, random: &Random) -> Vec<u8> {
    let (cached, durable) = (&inode.content, &inode.durable);
    if cached == durable {
        return durable.clone();
    }
    let length = match random.below(4) {
        0 => durable.len(),
        1 => cached.len(),
        _ => {
            let (low, high) = (durable.len().min(cached.len()), durable.len().max(cached.len()));
            random.within(low as u64, high as u64) as usize
        }
    };
    let style = random.below(4);
    let mut left = vec![0; length];
    for (number, sector) in left.chunks_mut(SECTOR).enumerate() {
        let at = number * SECTOR;
        let old = durable.get(at..).unwrap_or_default();
        let new = cached.get(at..).unwrap_or_default();
        let keeps_new = match style {
            0 => false,
            1 => true,
            _ => random.one_in(2),
        };
        let from = if keeps_new { new } else { old };
        let bytes = from.len().min(sector.len());
        sector[..bytes].copy_from_slice(&from[..bytes]);
        // A sector that was never written before may contain anything.
        if old.is_empty() && style == 3 && random.one_in(4) {
            sector.fill_with(|| random.next() as u8);
        }
    }
    left
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: NameChange) {
    for (path, inode) in change {
        match inode {
            Some(inode) => drop(names.insert(path, inode)),
            None => drop(names.remove(&path)),
        }
    }
}

impl State {
    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.pending.push(change);
    }

    fn find(&self, path: &Path) -> Result<usize> {
        self.names.get(path).copied().ok_or_else(|| Error::from(ErrorKind::NotFound))
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.parent().is_none()
            || self.find(path).is_ok_and(|inode| self.inodes[inode].is_directory)
    }

    /// Returns whether all directories above `path` exist.
    fn is_inside(&self, path: &Path) -> bool {
        path.ancestors().skip(1).all(|above| self.is_directory(above))
    }

    fn add(&mut self, path: &Path, is_directory: bool) -> Result<usize> {
        if self.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !self.is_inside(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode { is_directory, ..Inode::default() });
        self.change(vec![(path.to_owned(), Some(inode))]);
        Ok(inode)
    }

    fn room(&self) -> usize {
        let used: usize = self.names.values().map(|inode| self.inodes[*inode].content.len()).sum();
        self.bytes_max.saturating_sub(used)
    }
}

impl SimFiles {
    /// Every request to the files passes here.
    fn request(&self, what: &'static str) -> Result<()> {
        let world = World::current();
        if !world.request(&self.machine) {
            return Err(dead());
        }
        world.note(what, 0, 0);
        if world.strikes(world.faults.get().file_error, "file error") {
            return Err(Error::other("injected"));
        }
        Ok(())
    }

    /// The request was carried out; its answer may be lost.
    fn done(&self) -> Result<()> {
        if World::current().request(&self.machine) { Ok(()) } else { Err(dead()) }
    }
}

fn dead() -> Error {
    Error::other("the machine is dead")
}

impl Files for SimFiles {
    fn make_directory(&self, path: &Path) -> Result<()> {
        self.request("make directory")?;
        self.system.lock().add(path, true)?;
        self.done()
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.system.lock().is_directory(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Send + Sync>> {
        let mut state = self.system.lock();
        if state.locked.iter().any(|locked| locked == path) {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.locked.push(path.to_owned());
        let (system, path) = (self.system.clone(), path.to_owned());
        Ok(Box::new(Unlock { system, path, machine: self.machine.clone() }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn NewFile>> {
        self.request("create file")?;
        let inode = self.system.lock().add(path, false)?;
        self.done()?;
        let files = Self { system: self.system.clone(), machine: self.machine.clone() };
        Ok(Box::new(SimFile { files, inode }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.request("read file")?;
        let state = self.system.lock();
        let inode = state.find(path)?;
        Ok(state.inodes[inode].content.clone())
    }

    fn read_range(&self, path: &Path, range: Range<u64>) -> Result<(Vec<u8>, u64)> {
        let content = self.read(path)?;
        let bytes = content.get(range.start as usize..range.end as usize).unwrap_or_default();
        Ok((bytes.to_vec(), content.len() as u64))
    }

    fn map(&self, path: &Path) -> hrl::Result<Box<dyn AsRef<[u8]> + Send + Sync>> {
        let content = self.read(path).map_err(|e| hrl::Error::io("map", path.display(), e))?;
        Ok(Box::new(content))
    }

    fn map_mut(&self, path: &Path) -> Result<Box<dyn MappedBytes>> {
        self.request("map file")?;
        let state = self.system.lock();
        let inode = state.find(path)?;
        let bytes = state.inodes[inode].content.clone();
        drop(state);
        let files = Self { system: self.system.clone(), machine: self.machine.clone() };
        Ok(Box::new(SimMap { files, inode, bytes }))
    }

    fn exists(&self, path: &Path) -> bool {
        self.system.lock().names.contains_key(path)
    }

    fn info(&self, path: &Path) -> Result<FileInfo> {
        let state = self.system.lock();
        let inode = &state.inodes[state.find(path)?];
        let kind = if inode.is_directory { FileKind::Directory } else { FileKind::Regular };
        Ok(FileInfo { kind, length: inode.content.len() as u64, age: None })
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.request("link file")?;
        let mut state = self.system.lock();
        let inode = state.find(from)?;
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.change(vec![(to.to_owned(), Some(inode))]);
        drop(state);
        self.done()
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.request("rename file")?;
        let mut state = self.system.lock();
        let inode = state.find(from)?;
        state.change(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        drop(state);
        self.done()
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.request("remove file")?;
        let mut state = self.system.lock();
        state.find(path)?;
        state.change(vec![(path.to_owned(), None)]);
        drop(state);
        self.done()
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        self.request("list files")?;
        let state = self.system.lock();
        let inside = |path: &&PathBuf| path.parent() == Some(directory);
        Ok(state.names.keys().filter(inside).cloned().collect())
    }

    fn sync_directory(&self, directory: &Path) -> Result<()> {
        self.request("sync directory")?;
        let world = World::current();
        if world.strikes(world.faults.get().directory_sync_error, "directory sync error") {
            return Err(Error::other("injected"));
        }
        let mut state = self.system.lock();
        let touches =
            |change: &NameChange| change.iter().any(|(path, _)| path.parent() == Some(directory));
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(touches);
        state.pending = later;
        now.into_iter().for_each(|change| apply(&mut state.durable_names, change));
        drop(state);
        self.done()
    }
}

struct Unlock {
    system: Arc<FileSystem>,
    path: PathBuf,
    machine: Arc<Incarnation>,
}

impl Drop for Unlock {
    fn drop(&mut self) {
        if self.machine.is_alive() {
            self.system.lock().locked.retain(|locked| *locked != self.path);
        }
    }
}

struct SimFile {
    files: SimFiles,
    inode: usize,
}

impl SimFile {
    fn sync_inode(files: &SimFiles, inode: usize, from: usize, length: usize) -> Result<()> {
        files.request("sync file")?;
        let world = World::current();
        let mut state = files.system.lock();
        let Inode { content, durable, broken, .. } = &mut state.inodes[inode];
        if world.strikes(world.faults.get().file_sync_error, "file sync error") {
            *broken = true;
            return Err(Error::other("injected"));
        }
        if !*broken {
            // Whole pages reach the disk.
            let first = from / 4096 * 4096;
            let end = (from + length).next_multiple_of(4096).min(content.len());
            durable.resize(durable.len().max(end), 0);
            durable[first.min(end)..end].copy_from_slice(&content[first.min(end)..end]);
        }
        drop(state);
        files.done()
    }
}

impl NewFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let world = World::current();
        let whole = self.files.request("append to file");
        let mut state = self.files.system.lock();
        let room = state.room();
        let kept = match &whole {
            Ok(()) => bytes.len().min(room),
            // A failed write may have been done in part.
            Err(_) => world.random.below(bytes.len().min(room) as u64 + 1) as usize,
        };
        if self.files.machine.is_alive() || whole.is_ok() {
            state.inodes[self.inode].content.extend_from_slice(&bytes[..kept]);
        }
        drop(state);
        whole?;
        if kept < bytes.len() {
            world.inject("full disk under the spool");
            return Err(ErrorKind::StorageFull.into());
        }
        self.files.done()
    }

    fn sync(&mut self) -> Result<()> {
        let length = self.files.system.lock().inodes[self.inode].content.len();
        Self::sync_inode(&self.files, self.inode, 0, length)
    }
}

struct SimMap {
    files: SimFiles,
    inode: usize,
    bytes: Vec<u8>,
}

impl MappedBytes for SimMap {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn change(&mut self, change: &mut dyn FnMut(&mut [u8])) {
        change(&mut self.bytes);
        // The machine died: later data is not stored.
        if self.files.machine.is_alive() {
            self.files.system.lock().inodes[self.inode].content.clone_from(&self.bytes);
        }
    }

    fn sync(&self, offset: usize, length: usize) -> Result<()> {
        SimFile::sync_inode(&self.files, self.inode, offset, length)
    }
}
