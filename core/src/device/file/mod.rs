//! A regular file or raw block device.
//!
//! The descriptor bypasses the page cache if the file system allows it (direct I/O). Requests that
//! are not aligned for it read, change and write whole blocks under an exclusive lock. Aligned
//! requests share that lock, so neither undoes the other. There is one descriptor, because a
//! second, buffered one would not be coherent with it. Batches go through io_uring.
//!
//! After a failed flush the device is poisoned: the kernel may have dropped the pages that it could
//! not write, so a second flush proves nothing. A failed durable write counts as a failed flush,
//! because the kernel may report the loss of earlier writes through it.

#![allow(unsafe_code, reason = "an ioctl for which there is no safe call")]

mod flush;
mod open;
mod ring;
mod witness;

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

pub(crate) use self::flush::FlushTurns;
use self::open::Opened;
pub use self::open::{Access, DirectIo, FileDeviceOptions};
use self::ring::{Outcome, Rings};
use super::{
    Allocation, BlockDevice, Buffer, Discarded, Durability, Operation, RingTarget, Unmap, Witness,
    read_only_error,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::sync::lock::RwLock;
use crate::units::Timestamp;

/// Size of the chunks in which unaligned memory is copied and zeroes are written.
const CHUNK_BYTES: usize = 1 << 20;
/// Sizes must be multiples of this.
const SECTOR_BYTES: u64 = 512;
/// Most allocation runs that one call returns; the rest counts as allocated.
const RUNS_MAX: usize = 1 << 16;

/// A disk in a regular file or on a block device.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    opened: Opened,
    read_only: bool,
    flushes: FlushTurns,
    rings: Rings,
    /// Shared by aligned requests, exclusive while blocks are read, changed and written.
    blocks: RwLock<()>,
}

impl FileDevice {
    /// Opens a file or block device. `InvalidInput` if its size is zero or no multiple of 512
    /// bytes. `Fenced` if another process uses it. `AlreadyExists` if the file to create exists
    /// with another size.
    pub fn open(path: &Path, options: &FileDeviceOptions) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            opened: open::open(path, options)?,
            read_only: options.access == Access::ReadOnly,
            flushes: FlushTurns::default(),
            rings: Rings::default(),
            blocks: RwLock::new(()),
        })
    }

    /// Returns the path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, operation: &'static str, offset: u64, error: std::io::Error) -> Error {
        Error::io(operation, self.path.display(), error).at(offset)
    }

    fn check(&self, extent: Extent, operation: &'static str) -> Result<()> {
        extent.check_within(self.opened.size_bytes, operation, &self.path.display().to_string())
    }

    fn check_writable(&self, extent: Extent, operation: &'static str) -> Result<()> {
        self.check(extent, operation)?;
        if self.read_only {
            return Err(read_only_error(operation, self.path.display()));
        }
        if self.flushes.is_poisoned() {
            return Err(self.poisoned(operation));
        }
        Ok(())
    }

    fn poisoned(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Poisoned, operation, self.path.display())
            .message("an earlier flush failed; reopen the device")
    }

    fn covers_whole_blocks(&self, extent: Extent) -> bool {
        let alignment = u64::from(self.opened.alignment_bytes);
        extent.offset.is_multiple_of(alignment) && extent.length.is_multiple_of(alignment)
    }

    fn is_aligned(&self, memory: &[u8]) -> bool {
        memory.as_ptr().addr().is_multiple_of(self.opened.alignment_bytes as usize)
    }

    /// Writes whole blocks from aligned memory to the descriptor.
    fn write_raw(&self, offset: u64, data: &[u8], durability: Durability) -> std::io::Result<()> {
        let flags = match durability {
            Durability::Cached => ReadWriteFlags::empty(),
            Durability::Durable => ReadWriteFlags::DSYNC,
        };
        let mut done = 0;
        while done < data.len() {
            let rest = [IoSlice::new(&data[done..])];
            match rustix::io::pwritev2(&self.opened.file, &rest, offset + done as u64, flags) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes any range, by whole blocks; reads first what they contain around it.
    fn write_copied(
        &self,
        offset: u64,
        data: &[u8],
        durability: Durability,
    ) -> std::io::Result<()> {
        let alignment = u64::from(self.opened.alignment_bytes);
        for (data, at) in data.chunks(CHUNK_BYTES).zip((offset..).step_by(CHUNK_BYTES)) {
            let chunk = Extent { offset: at, length: data.len() as u64 };
            let around = chunk.aligned_outwards(alignment);
            let mut buffer = Buffer::zeroed(around.length as usize);
            let first = around.offset..around.offset + alignment;
            let last = around.end() - alignment..around.end();
            if first.start < chunk.offset || (last == first && chunk.end() < last.end) {
                self.opened.file.read_exact_at(&mut buffer[..alignment as usize], around.offset)?;
            }
            if last != first && chunk.end() < last.end {
                let tail = buffer.len() - alignment as usize;
                self.opened.file.read_exact_at(&mut buffer[tail..], last.start)?;
            }
            let start = (at - around.offset) as usize;
            buffer[start..start + data.len()].copy_from_slice(data);
            self.write_raw(around.offset, &buffer, durability)?;
        }
        Ok(())
    }

    fn write_any(&self, offset: u64, data: &[u8], durability: Durability) -> std::io::Result<()> {
        if self.covers_whole_blocks(Extent { offset, length: data.len() as u64 }) {
            let _shared = self.blocks.read();
            if self.is_aligned(data) {
                return self.write_raw(offset, data, durability);
            }
            return self.write_copied(offset, data, durability);
        }
        let _alone = self.blocks.write();
        self.write_copied(offset, data, durability)
    }

    /// Reads any range, by whole blocks.
    fn read_copied(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        for (chunk, at) in buffer.chunks_mut(CHUNK_BYTES).zip((offset..).step_by(CHUNK_BYTES)) {
            let extent = Extent { offset: at, length: chunk.len() as u64 };
            let around = extent.aligned_outwards(self.opened.alignment_bytes.into());
            let mut blocks = Buffer::zeroed(around.length as usize);
            self.opened.file.read_exact_at(&mut blocks, around.offset)?;
            let start = (at - around.offset) as usize;
            chunk.copy_from_slice(&blocks[start..start + chunk.len()]);
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent) -> Result<()> {
        let zeroes = Buffer::zeroed(extent.length.min(CHUNK_BYTES as u64) as usize);
        extent.chunks(CHUNK_BYTES as u64).try_for_each(|chunk| {
            self.write(chunk.offset, &zeroes[..chunk.length as usize], Durability::Cached)
        })
    }

    /// Asks the file system or device to zero or free a range; returns false if it cannot.
    fn fallocate(&self, flags: FallocateFlags, extent: Extent) -> std::io::Result<bool> {
        let _shared = self.blocks.read();
        let flags = flags | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.opened.file, flags, extent.offset, extent.length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV | Errno::NOSYS) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes everything written to the file durable, by this descriptor or by another one.
    fn sync(&self) -> std::io::Result<()> {
        let result = self.opened.file.sync_data();
        // A read-only file system has nothing to flush, and some refuse it.
        let refused = |error: &std::io::Error| {
            [Errno::INVAL, Errno::ROFS].map(Some).contains(&Errno::from_io_error(error))
        };
        if self.read_only && result.as_ref().is_err_and(refused) { Ok(()) } else { result }
    }

    /// Frees blocks of a block device, which may not read as zeroes then; returns false if it
    /// cannot.
    fn discard_blocks(&self, extent: Extent) -> std::io::Result<bool> {
        /// `BLKDISCARD` of `linux/fs.h`: its argument is offset and length in bytes.
        const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
        let _shared = self.blocks.read();
        let range = [extent.offset, extent.length];
        // SAFETY: BLKDISCARD takes a pointer to two 64-bit numbers, which the kernel only reads.
        let result = unsafe {
            let request = rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new(range);
            rustix::ioctl::ioctl(&self.opened.file, request)
        };
        match result {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether the ring can run this request and is not slower at it.
    fn suits_ring(&self, operation: &Operation<'_>) -> bool {
        let (memory, allowed) = match operation {
            Operation::Read(_, buffer) => (&**buffer, true),
            Operation::Write(_, data) => {
                let allowed = !self.read_only && !self.flushes.is_poisoned();
                // Most file systems pass buffered writes of a ring to a kernel thread, which costs
                // more than copying.
                (*data, allowed && self.opened.alignment_bytes > 1)
            }
        };
        let extent = operation.extent();
        allowed
            && (1..=ring::REQUEST_BYTES_MAX).contains(&memory.len())
            && extent.check_within(self.opened.size_bytes, "", "").is_ok()
            && self.covers_whole_blocks(extent)
            && self.is_aligned(memory)
    }
}

impl BlockDevice for FileDevice {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn size_bytes(&self) -> u64 {
        self.opened.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        self.opened.block_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let extent = Extent { offset, length: buffer.len() as u64 };
        self.check(extent, "read from")?;
        if self.covers_whole_blocks(extent) && self.is_aligned(buffer) {
            self.opened.file.read_exact_at(buffer, offset)
        } else {
            self.read_copied(offset, buffer)
        }
        .map_err(|error| self.failed("read from", offset, error))
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.check_writable(Extent { offset, length: data.len() as u64 }, "write to")?;
        self.write_any(offset, data, durability).map_err(|error| {
            let error = self.failed("write to", offset, error);
            if durability == Durability::Durable && error.kind() != ErrorKind::Full {
                self.poison();
            }
            error
        })
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.check_writable(extent, "zero")?;
        let flags = match unmap {
            Unmap::Allowed => FallocateFlags::PUNCH_HOLE,
            Unmap::Forbidden => FallocateFlags::ZERO_RANGE,
        };
        // A file system can zero any bytes, a block device only whole blocks.
        let unit = if self.opened.is_block_device { self.opened.block_bytes } else { 1 };
        let middle = aligned_inwards(extent, unit.into());
        let done = !middle.is_empty()
            && self
                .fallocate(flags, middle)
                .map_err(|error| self.failed("zero", extent.offset, error))?;
        if done {
            self.write_zeroes(Extent::from_bounds(extent.offset, middle.offset))?;
            self.write_zeroes(Extent::from_bounds(middle.end(), extent.end()))?;
        } else {
            self.write_zeroes(extent)?;
        }
        if durability == Durability::Durable { self.flush() } else { Ok(()) }
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.check_writable(extent, "discard")?;
        if extent.is_empty() {
            return Ok(Discarded::Ignored);
        }
        let failed = |error| self.failed("discard", extent.offset, error);
        // Of a block device, the kernel frees with this only blocks that then read as zeroes.
        if self.fallocate(FallocateFlags::PUNCH_HOLE, extent).map_err(failed)? {
            return Ok(Discarded::Zeroes);
        }
        if self.opened.is_block_device && self.discard_blocks(extent).map_err(failed)? {
            return Ok(Discarded::Undefined);
        }
        Ok(Discarded::Ignored)
    }

    fn flush(&self) -> Result<()> {
        match self.flushes.run(|| self.sync()) {
            Some(result) => result.map_err(|error| Error::io("flush", self.path.display(), error)),
            None => Err(self.poisoned("flush")),
        }
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        self.check(extent, "map")?;
        if self.opened.is_block_device || extent.is_empty() {
            return Ok(vec![Allocation { extent, allocated: true }]);
        }
        let file = &self.opened.file;
        let mut runs = Vec::new();
        let mut at = extent.offset;
        while at < extent.end() {
            let full = runs.len() >= RUNS_MAX;
            let (end, allocated) = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) if data > at && !full => (data, false),
                Ok(_) if full => (extent.end(), true),
                Ok(_) => match rustix::fs::seek(file, SeekFrom::Hole(at)) {
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

    fn batch(&self, operations: &mut [Operation<'_>]) -> Vec<Result<()>> {
        let suited: Vec<bool> = operations.iter().map(|o| self.suits_ring(o)).collect();
        let mut outcomes = Vec::new();
        // A ring takes two system calls, so it pays from the second request on.
        if suited.iter().filter(|suited| **suited).count() > 1 {
            let _shared = self.blocks.read();
            outcomes = self.rings.run(&self.opened.file, operations, &suited);
        }
        outcomes.resize_with(operations.len(), || Outcome::Left);
        let one = |(operation, outcome): (&mut Operation<'_>, Outcome)| match (outcome, operation) {
            (Outcome::Done, _) => Ok(()),
            (Outcome::Failed(error), Operation::Read(offset, _)) => {
                Err(self.failed("read from", *offset, error))
            }
            (Outcome::Failed(error), Operation::Write(offset, _)) => {
                Err(self.failed("write to", *offset, error))
            }
            (Outcome::Left, operation) => operation.run(self),
        };
        operations.iter_mut().zip(outcomes).map(one).collect()
    }

    fn ring_target(&self) -> Option<RingTarget<'_>> {
        // If poisoned, the methods refuse writes; a caller's ring would not.
        (!self.flushes.is_poisoned()).then(|| RingTarget {
            fd: self.opened.file.as_fd(),
            alignment_bytes: self.opened.alignment_bytes,
        })
    }

    fn modified(&self) -> Option<Timestamp> {
        let metadata = self.opened.file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let seconds = metadata.mtime().saturating_mul(1_000_000_000);
        Some(Timestamp(seconds.saturating_add(metadata.mtime_nsec())))
    }

    fn witness(&self) -> Witness {
        witness::of_file(&self.opened.file)
    }

    fn poison(&self) {
        self.flushes.poison();
    }
}

/// Returns the whole blocks of an extent; empty, at its start, if it has none.
fn aligned_inwards(extent: Extent, alignment: u64) -> Extent {
    let start = extent.offset.next_multiple_of(alignment);
    let end = extent.end() & !(alignment - 1);
    if start < end { Extent::from_bounds(start, end) } else { Extent { length: 0, ..extent } }
}

#[cfg(test)]
mod tests;
