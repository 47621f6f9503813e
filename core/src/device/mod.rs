//! Block devices: the rest of the crate reads and writes disks through them.
//!
//! A device is a flat array of bytes with a fixed size. [`BlockDevice`] is small, blocking and
//! object-safe, so that embedders can bring their own. `device::conformance` (feature `testing`)
//! checks it.

mod buffer;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
mod fault;
mod file;
mod files;
mod mapped;
mod memory;
mod rights;
mod witness;

use std::os::fd::BorrowedFd;

pub use buffer::{BUFFER_ALIGNMENT_BYTES, Buffer};
#[cfg(any(test, feature = "testing"))]
pub use fault::{FaultDevice, FaultPlan};
pub(crate) use file::FlushTurns;
pub use file::{Access, DirectIo, FileDevice, FileDeviceOptions};
pub use files::{FileInfo, FileKind, Files, MappedBytes, NewFile, SystemFiles};
pub(crate) use files::{remove_if_there, replace_file};
pub(crate) use mapped::MappedFile;
pub use memory::MemoryDevice;
pub(crate) use rights::directory_of;
pub use rights::{directory_mode, file_mode};
pub use witness::{Witness, Writes};

use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::units::Timestamp;

/// What a write promises when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The device has the data; a flush makes it durable.
    Cached,
    /// The data is on stable storage (force unit access).
    Durable,
}

/// Whether a device may free zeroed blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmap {
    /// Blocks may become holes, which is cheaper.
    Allowed,
    /// Blocks must stay allocated.
    Forbidden,
}

/// What a discard left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// The range now reads as zeroes.
    Zeroes,
    /// The range reads as anything until it is written again.
    Undefined,
    /// Nothing happened: the range reads as before.
    Ignored,
}

/// One run of a device's allocation map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The bytes of the run.
    pub extent: Extent,
    /// False for a hole, which reads as zeroes and takes no space.
    pub allocated: bool,
}

impl Allocation {
    /// Adds a run to others, joined with the last one if that is of the same kind.
    pub(crate) fn add_to(self, runs: &mut Vec<Self>) {
        match runs.last_mut() {
            _ if self.extent.is_empty() => {}
            Some(last) if last.allocated == self.allocated => {
                last.extent.length += self.extent.length;
            }
            _ => runs.push(self),
        }
    }
}

/// A file descriptor that a caller's own io_uring may read and write directly.
///
/// Flush only by [`BlockDevice::flush`]: if two flushes of one file run at once, the kernel reports
/// a loss to one of them. If a durable write fails here, call [`BlockDevice::poison`].
#[derive(Clone, Copy, Debug)]
pub struct RingTarget<'a> {
    /// Open for reading, and for writing unless the device is read-only.
    pub fd: BorrowedFd<'a>,
    /// Alignment of direct I/O: offset, length and memory address must be multiples of it. 1 if
    /// buffered.
    pub alignment_bytes: u32,
}

/// One request of a batch.
#[derive(Debug)]
pub enum Operation<'a> {
    /// Fill the slice from the offset.
    Read(u64, &'a mut [u8]),
    /// Write the slice at the offset.
    Write(u64, &'a [u8]),
}

impl Operation<'_> {
    /// Returns the bytes of the device that it is about.
    pub(crate) fn extent(&self) -> Extent {
        let (offset, length) = match self {
            Self::Read(offset, buffer) => (*offset, buffer.len()),
            Self::Write(offset, data) => (*offset, data.len()),
        };
        Extent { offset, length: length as u64 }
    }

    /// Runs it alone.
    pub(crate) fn run<D: BlockDevice + ?Sized>(&mut self, device: &D) -> Result<()> {
        match self {
            Self::Read(offset, buffer) => device.read(*offset, buffer),
            Self::Write(offset, data) => device.write(*offset, data, Durability::Cached),
        }
    }
}

/// A disk.
///
/// Contract, checked by `device::conformance::check`:
/// - The size never changes while the device is open. It is a multiple of `block_bytes`.
/// - Reads and writes of any offset and length within the size work, even if unaligned ones are
///   slower. Those outside fail with `InvalidInput` and touch nothing. Empty ones succeed.
/// - A read that starts after a write returned sees it. Of two overlapping concurrent writes each
///   block has one's bytes.
/// - When `flush` returns Ok, every write that returned before the call survives a power failure.
/// - After a failed `flush` the device is poisoned: writes and flushes fail with `Poisoned` until
///   it is reopened, even those that ran at the same time. A failed durable write may poison it
///   too.
/// - A failed write leaves the range with old, new or mixed content, and the rest unchanged.
/// - After `zero` the extent reads as zeroes. `discard` returns what it left.
///
/// All methods may be called from any thread at once.
pub trait BlockDevice: Send + Sync {
    /// Returns a name for errors and listings, for example a path.
    fn name(&self) -> String;
    /// Returns the size in bytes.
    fn size_bytes(&self) -> u64;
    /// Returns the logical block size in bytes, a power of two: the unit that is written without
    /// tearing.
    fn block_bytes(&self) -> u32;
    /// Returns whether the device refuses writes. Default: no.
    fn is_read_only(&self) -> bool {
        false
    }
    /// Fills `buffer` from `offset`.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()>;
    /// Makes `extent` read as zeroes.
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()>;
    /// Discards `extent`, whose content is not needed any more; returns what the device did.
    fn discard(&self, extent: Extent) -> Result<Discarded>;
    /// Makes every finished write durable, whoever wrote it. A read-only device may have others
    /// that write to its disk, so it flushes too.
    fn flush(&self) -> Result<()>;
    /// Returns the allocation runs of `extent`: in order, covering all of it. Default: all
    /// allocated.
    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        extent.check_within(self.size_bytes(), "map", &self.name())?;
        Ok(vec![Allocation { extent, allocated: true }])
    }
    /// Runs requests, in any order or at once; returns one result for each. Default: one by one.
    fn batch(&self, operations: &mut [Operation<'_>]) -> Vec<Result<()>> {
        operations.iter_mut().map(|operation| operation.run(self)).collect()
    }
    /// Returns a descriptor for the caller's own ring, if the device is a file or block device that
    /// is not poisoned. Call it again for each request. Default: `None`.
    fn ring_target(&self) -> Option<RingTarget<'_>> {
        None
    }
    /// Returns the time of the last change according to the file system. It reveals changes made
    /// while the volume was unprotected. Default: `None`.
    fn modified(&self) -> Option<Timestamp> {
        None
    }
    /// Returns which disk this is, and what shows that it was written while nobody watched. Default:
    /// nothing is known, and [`BlockDevice::modified`] and samples of the content decide.
    fn witness(&self) -> Witness {
        Witness::default()
    }
    /// Poisons the device after a durable write failed on its [`RingTarget`]. Default: does
    /// nothing.
    fn poison(&self) {}
}

/// Makes the `ReadOnly` error of a device that takes no writes.
pub(crate) fn read_only_error(operation: &'static str, name: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ReadOnly, operation, name).message("the device is read-only")
}
