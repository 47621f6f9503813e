//! A regular file or raw block device.
//!
//! The descriptor bypasses the page cache where the file system allows it (direct I/O). Requests that are not
//! aligned for it are done by reading, changing and writing whole blocks under an exclusive lock; aligned ones share
//! that lock, so neither undoes the other. After a failed flush the device is poisoned: the kernel may have dropped
//! the pages that it could not write, so a second flush proves nothing.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::{
    Allocation, BlockDevice, Buffer, Discarded, Durability, RingTarget, Unmap, read_only_error,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::units::Timestamp;

/// Zeroes are written in pieces of this size where the file system cannot make holes.
const ZERO_BYTES: usize = 1 << 20;
/// Sizes must be multiples of this.
const SECTOR_BYTES: u64 = 512;
/// Allocation runs given at most by one call; the rest counts as allocated.
const RUNS_MAX: usize = 1 << 16;

/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system and the size allow it.
    #[default]
    Auto,
    /// Or fail with `Unsupported`.
    Always,
    /// Through the page cache.
    Never,
}

/// What the device is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    #[default]
    ReadWrite,
}

/// How to open a [`FileDevice`].
#[derive(Clone, Debug, Default)]
pub struct FileDeviceOptions {
    /// Default: read and write.
    pub access: Access,
    /// Default: direct where possible.
    pub direct: DirectIo,
    /// Take an advisory lock (and, on a block device, the exclusive claim that a mount takes too). Default: no.
    pub exclusive: bool,
    /// Create the file, sparse, with this size; an existing one must have it. Default: the file must exist.
    pub create_bytes: Option<u64>,
}

/// A disk in a regular file or on a block device.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    block_bytes: u32,
    /// 1 when the page cache is used.
    alignment_bytes: u32,
    read_only: bool,
    is_block_device: bool,
    poisoned: AtomicBool,
    /// Shared by aligned requests, exclusive for read-change-write.
    blocks: RwLock<()>,
}

impl FileDevice {
    /// Opens a file or block device. `InvalidInput` names a size that is zero or no multiple of 512 bytes; `Fenced` a
    /// device that another process uses.
    pub fn open(path: &Path, options: &FileDeviceOptions) -> Result<Self> {
        let io = |error| Error::io("open device", path.display(), error);
        let read_only = options.access == Access::ReadOnly;
        if let Some(size) = options.create_bytes {
            create(path, size)?;
        }
        let metadata = std::fs::metadata(path).map_err(io)?;
        let is_block_device = metadata.file_type().is_block_device();
        if !is_block_device && !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "open device", path.display())
                .expected("a regular file or block device")
                .found("something else"));
        }
        let flags =
            if options.exclusive && is_block_device { OFlags::EXCL } else { OFlags::empty() };
        let (file, direct) = open_file(path, read_only, flags, options.direct)?;
        if options.exclusive {
            lock(&file, path)?;
        }
        let size_bytes = size_of_file(&file, path)?;
        let block_bytes = if is_block_device {
            rustix::fs::ioctl_blksszget(&file).map_err(|error| io(error.into()))?
        } else {
            SECTOR_BYTES as u32
        };
        let mut device = Self {
            path: path.to_owned(),
            file,
            size_bytes,
            block_bytes,
            alignment_bytes: 1,
            read_only,
            is_block_device,
            poisoned: AtomicBool::new(false),
            blocks: RwLock::new(()),
        };
        if direct {
            device.settle_alignment(options.direct, flags)?;
        }
        Ok(device)
    }

    /// Path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the alignment that direct I/O needs; goes back to the page cache when the size does not fit it.
    fn settle_alignment(&mut self, direct: DirectIo, flags: OFlags) -> Result<()> {
        let mut buffer = Buffer::zeroed(8192);
        let fits = |alignment: u64| self.size_bytes.is_multiple_of(alignment);
        let alignment = [u64::from(self.block_bytes), 4096].into_iter().find(|alignment| {
            // A read at the alignment, of its length, tells whether the kernel takes it.
            let length = *alignment as usize;
            let at = if self.size_bytes >= alignment * 2 { *alignment } else { 0 };
            fits(*alignment) && self.file.read_at(&mut buffer[length..length * 2], at).is_ok()
        });
        match alignment {
            Some(alignment) => self.alignment_bytes = alignment as u32,
            None if direct == DirectIo::Always => {
                return Err(Error::new(ErrorKind::Unsupported, "open device", self.path.display())
                    .expected("a size that direct I/O can reach")
                    .found(self.size_bytes));
            }
            None => self.file = open_file(&self.path, self.read_only, flags, DirectIo::Never)?.0,
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str, offset: u64, error: std::io::Error) -> Error {
        Error::io(operation, self.path.display(), error).at(offset)
    }

    fn check(&self, extent: Extent, operation: &'static str) -> Result<()> {
        extent.check_within(self.size_bytes, operation, &self.path.display().to_string())
    }

    fn check_writable(&self, extent: Extent, operation: &'static str) -> Result<()> {
        self.check(extent, operation)?;
        if self.read_only {
            return Err(read_only_error(operation, self.path.display()));
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, operation, self.path.display())
                .message("an earlier flush failed; reopen the device"));
        }
        Ok(())
    }

    fn is_aligned(&self, extent: Extent, address: *const u8) -> bool {
        let alignment = u64::from(self.alignment_bytes);
        extent.offset.is_multiple_of(alignment)
            && extent.length.is_multiple_of(alignment)
            && address.addr().is_multiple_of(self.alignment_bytes as usize)
    }

    fn write_raw(&self, offset: u64, data: &[u8], durability: Durability) -> std::io::Result<()> {
        let flags = match durability {
            Durability::Cached => ReadWriteFlags::empty(),
            Durability::Durable => ReadWriteFlags::DSYNC,
        };
        let mut done = 0;
        while done < data.len() {
            let piece = [IoSlice::new(&data[done..])];
            match rustix::io::pwritev2(&self.file, &piece, offset + done as u64, flags) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads whole blocks around the range, and lets `change` have the range within them.
    fn bounce(&self, extent: Extent) -> std::io::Result<(Extent, Buffer)> {
        let around = extent.aligned_outwards(u64::from(self.alignment_bytes));
        let mut buffer = Buffer::zeroed(around.length as usize);
        self.file.read_exact_at(&mut buffer, around.offset)?;
        Ok((around, buffer))
    }

    fn write_unaligned(
        &self,
        offset: u64,
        data: &[u8],
        durability: Durability,
    ) -> std::io::Result<()> {
        let _alone = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        for (piece, at) in data.chunks(ZERO_BYTES).zip((offset..).step_by(ZERO_BYTES)) {
            let extent = Extent { offset: at, length: piece.len() as u64 };
            let (around, mut buffer) = self.bounce(extent)?;
            let start = (at - around.offset) as usize;
            buffer[start..start + piece.len()].copy_from_slice(piece);
            self.write_raw(around.offset, &buffer, durability)?;
        }
        Ok(())
    }

    /// Asks the file system to zero or free a range; false when it cannot.
    fn fallocate(&self, flags: FallocateFlags, extent: Extent) -> std::io::Result<bool> {
        loop {
            match rustix::fs::fallocate(&self.file, flags, extent.offset, extent.length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV | Errno::NOSYS) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl BlockDevice for FileDevice {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let extent = Extent { offset, length: buffer.len() as u64 };
        self.check(extent, "read from")?;
        if self.is_aligned(extent, buffer.as_ptr()) {
            return self
                .file
                .read_exact_at(buffer, offset)
                .map_err(|error| self.failed("read from", offset, error));
        }
        for (piece, at) in buffer.chunks_mut(ZERO_BYTES).zip((offset..).step_by(ZERO_BYTES)) {
            let extent = Extent { offset: at, length: piece.len() as u64 };
            let (around, bounced) =
                self.bounce(extent).map_err(|error| self.failed("read from", at, error))?;
            let start = (at - around.offset) as usize;
            piece.copy_from_slice(&bounced[start..start + piece.len()]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        let extent = Extent { offset, length: data.len() as u64 };
        self.check_writable(extent, "write to")?;
        let whole_blocks = Extent { offset, length: extent.length };
        let result = if self.is_aligned(whole_blocks, data.as_ptr()) {
            let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            self.write_raw(offset, data, durability)
        } else {
            self.write_unaligned(offset, data, durability)
        };
        result.map_err(|error| self.failed("write to", offset, error))
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.check_writable(extent, "zero")?;
        if extent.is_empty() {
            return Ok(());
        }
        let failed = |error| self.failed("zero", extent.offset, error);
        let keep = FallocateFlags::KEEP_SIZE;
        let flags = match unmap {
            Unmap::Allowed => FallocateFlags::PUNCH_HOLE | keep,
            Unmap::Forbidden => FallocateFlags::ZERO_RANGE | keep,
        };
        let done = {
            let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
            self.fallocate(flags, extent).map_err(failed)?
        };
        if !done {
            let zeroes = Buffer::zeroed(ZERO_BYTES);
            let mut at = extent.offset;
            while at < extent.end() {
                let length = (extent.end() - at).min(ZERO_BYTES as u64);
                self.write(at, &zeroes[..length as usize], Durability::Cached)?;
                at += length;
            }
        }
        if durability == Durability::Durable { self.flush() } else { Ok(()) }
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.check_writable(extent, "discard")?;
        if extent.is_empty() {
            return Ok(Discarded::Ignored);
        }
        // On a block device too the kernel frees with this only where freed blocks read as zeroes.
        let _shared = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let done = self
            .fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, extent)
            .map_err(|error| self.failed("discard", extent.offset, error))?;
        Ok(if done { Discarded::Zeroes } else { Discarded::Ignored })
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.check_writable(Extent::default(), "flush")?;
        self.file.sync_data().map_err(|error| {
            self.poison();
            Error::io("flush", self.path.display(), error)
        })
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        self.check(extent, "map")?;
        if self.is_block_device || extent.is_empty() {
            return Ok(vec![Allocation { extent, allocated: true }]);
        }
        let mut runs = Vec::new();
        let mut at = extent.offset;
        while at < extent.end() {
            let full = runs.len() >= RUNS_MAX;
            let (end, allocated) = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) if data > at && !full => (data, false),
                Ok(_) if full => (extent.end(), true),
                Ok(_) => match rustix::fs::seek(&self.file, SeekFrom::Hole(at)) {
                    Ok(hole) if hole > at => (hole, true),
                    _ => (extent.end(), true),
                },
                Err(Errno::NXIO) => (extent.end(), false),
                Err(_) => (extent.end(), true),
            };
            let end = end.min(extent.end());
            runs.push(Allocation { extent: Extent::from_bounds(at, end), allocated });
            at = end;
        }
        Ok(runs)
    }

    fn ring_target(&self) -> Option<RingTarget<'_>> {
        Some(RingTarget { fd: self.file.as_fd(), alignment_bytes: self.alignment_bytes })
    }

    fn modified(&self) -> Option<Timestamp> {
        let metadata = self.file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Timestamp(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()))
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

/// Opens with direct I/O where asked and possible; says which it became.
fn open_file(
    path: &Path,
    read_only: bool,
    flags: OFlags,
    direct: DirectIo,
) -> Result<(File, bool)> {
    let open = |extra: OFlags| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags((flags | extra).bits().cast_signed())
            .open(path)
    };
    let busy = |error: std::io::Error| {
        if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
            return in_use(path);
        }
        Error::io("open device", path.display(), error)
    };
    match direct {
        DirectIo::Never => open(OFlags::empty()).map(|file| (file, false)).map_err(busy),
        DirectIo::Always => open(OFlags::DIRECT).map(|file| (file, true)).map_err(busy),
        DirectIo::Auto => match open(OFlags::DIRECT) {
            Ok(file) => Ok((file, true)),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                open(OFlags::empty()).map(|file| (file, false)).map_err(busy)
            }
            Err(error) => Err(busy(error)),
        },
    }
}

fn in_use(path: &Path) -> Error {
    Error::new(ErrorKind::Fenced, "open device", path.display())
        .message("it is in use by another process")
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(in_use(path)),
        Err(error) => Err(Error::io("lock device", path.display(), error.into())),
    }
}

/// Creates a sparse file; an existing one is left as it is and must have the size.
fn create(path: &Path, size_bytes: u64) -> Result<()> {
    let io = |error| Error::io("create device", path.display(), error);
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => {
            file.set_len(size_bytes).map_err(io)?;
            file.sync_all().map_err(io)?;
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new("."))).and_then(|d| d.sync_all()).map_err(io)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::metadata(path).map_err(io)?.len();
            if found == size_bytes {
                return Ok(());
            }
            Err(Error::new(ErrorKind::AlreadyExists, "create device", path.display())
                .expected(format_args!("a size of {size_bytes} bytes"))
                .found(found))
        }
        Err(error) => Err(io(error)),
    }
}

fn size_of_file(file: &File, path: &Path) -> Result<u64> {
    let size = rustix::fs::seek(file, SeekFrom::End(0))
        .map_err(|error| Error::io("size device", path.display(), error.into()))?;
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        return Err(Error::new(ErrorKind::InvalidInput, "open device", path.display())
            .message("extend the file to whole sectors, for example with truncate(1)")
            .expected("a size above zero and a multiple of 512 bytes")
            .found(format_args!("{size} bytes")));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    fn make(direct: DirectIo) -> impl Fn(u64) -> Arc<dyn BlockDevice> {
        // Not in /tmp, which may be a memory file system without direct I/O.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("directory");
        let count = AtomicU64::new(0);
        move |size| {
            let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
            let options =
                FileDeviceOptions { direct, create_bytes: Some(size), ..Default::default() };
            Arc::new(FileDevice::open(&path, &options).expect("open"))
        }
    }

    #[test]
    fn the_contract_holds_with_and_without_the_page_cache() {
        crate::device::conformance::check(&make(DirectIo::Auto));
        crate::device::conformance::check(&make(DirectIo::Never));
    }

    #[test]
    fn odd_sizes_and_other_users_are_refused_by_name() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("disk");
        for size in [0, 1000] {
            std::fs::write(&path, vec![0; size]).expect("write");
            let error = FileDevice::open(&path, &FileDeviceOptions::default()).expect_err("size");
            assert!(error.to_string().contains(&format!("{size} bytes")), "{error}");
        }
        std::fs::write(&path, vec![0; 4096]).expect("write");
        let options = FileDeviceOptions { exclusive: true, ..Default::default() };
        let first = FileDevice::open(&path, &options).expect("first");
        let error = FileDevice::open(&path, &options).expect_err("second");
        assert_eq!(error.kind(), ErrorKind::Fenced);
        drop(first);
        FileDevice::open(&path, &options).expect("after the first is gone");
    }
}
